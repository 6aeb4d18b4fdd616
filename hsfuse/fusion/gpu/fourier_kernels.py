"""Triton kernel of a ridge regression on random Fourier features.

In plain PyTorch hundreds of features of every pixel go through the memory four times; here they stay in registers.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def predict_kernel(
    x, frequency, phase, weight, linear, constant, out, pixels, x_plane, out_plane, regressors, features, targets,
    wide: tl.constexpr, some: tl.constexpr, made: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """``out = weight cos(frequency x + phase) - linear x - constant`` of a block of pixels.

    ``x`` and ``out`` are planes of pixels, the matrices contiguous: ``frequency`` (feature, regressor), ``weight``
    (target, feature), ``linear`` (target, regressor). ``wide``, ``some`` and ``made`` are the regressors, the features
    at a time and the targets, filled up.
    """
    pixel = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    live = (pixel < pixels)[None, :]
    regressor, target = tl.arange(0, wide), tl.arange(0, made)
    known, wanted = regressor < regressors, target < targets
    given = tl.load(x + regressor[:, None] * x_plane + pixel[None, :], mask=known[:, None] & live, other=0.0)
    share = tl.load(
        linear + target[:, None] * regressors + regressor[None, :], mask=wanted[:, None] & known[None, :], other=0.0
    )  # fmt: skip
    total = -tl.dot(share, given, input_precision="ieee")
    total -= tl.load(constant + target, mask=wanted, other=0.0)[:, None]
    for first in range(0, features, some):
        feature = first + tl.arange(0, some)
        there = feature < features
        turns = tl.load(
            frequency + feature[:, None] * regressors + regressor[None, :], mask=there[:, None] & known[None, :],
            other=0.0,
        )  # fmt: skip
        angle = tl.dot(turns, given, input_precision="ieee")
        angle += tl.load(phase + feature, mask=there, other=0.0)[:, None]
        # Features beyond the last count nothing: their weight is 0.
        share = tl.load(
            weight + target[:, None] * features + feature[None, :], mask=wanted[:, None] & there[None, :], other=0.0
        )  # fmt: skip
        total += tl.dot(share, tl.cos(angle), input_precision="ieee")
    tl.store(out + target[:, None] * out_plane + pixel[None, :], total, mask=wanted[:, None] & live)
