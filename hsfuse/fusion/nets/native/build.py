"""The compiled kernels of the networks, see :mod:`hsfuse.native.build`."""

from __future__ import annotations

from pathlib import Path

from hsfuse.native.build import Kernels, KernelSource, NativeLibrary

_FILES = (
    "mamba2_train.c", "mamba2.c", "vectors.h", "product.h", "scan_half.h", "elementwise.c", "estimate.c",
)  # fmt: skip
KERNELS = Kernels(KernelSource("mamba2", tuple(Path(__file__).with_name(name) for name in _FILES)), "plain PyTorch")


def native_library() -> NativeLibrary | None:
    """Return the kernels, building them on first use; None where that is not possible."""
    return KERNELS.loaded()


def native_status() -> str:
    """One line for ``hsfuse doctor``: which path the Mamba blocks take on the CPU, and why."""
    return KERNELS.status()
