# Images of hsfuse: `docker build --target cpu -t hsfuse .`, or `--target cuda` for NVIDIA cards.
# Both run as a user without rights; products are mounted (see docs/install.md).
# syntax=docker/dockerfile:1

FROM python:3.11.14-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY hsfuse hsfuse
COPY models models
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11.14-slim-bookworm AS base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# A compiler for the kernels, which are built for the processor that runs them.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 hsfuse
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt /tmp/constraints.txt

FROM base AS cpu
RUN grep '^torch==' /tmp/constraints.txt > /tmp/torch.txt \
 && pip install --requirement /tmp/torch.txt --index-url https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --constraint /tmp/constraints.txt /wheels/*.whl "xarray" "rioxarray"
USER hsfuse
WORKDIR /data
ENTRYPOINT ["hsfuse"]
CMD ["--help"]

FROM base AS cuda
# PyPI's wheel of PyTorch brings CUDA and Triton; the driver comes from the host (--gpus all).
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --constraint /tmp/constraints.txt /wheels/*.whl "xarray" "rioxarray"
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER hsfuse
WORKDIR /data
ENTRYPOINT ["hsfuse"]
CMD ["--help"]
