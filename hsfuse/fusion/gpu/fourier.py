"""Regressions on random Fourier features on a card, as an operation of PyTorch that a Triton kernel does.

On a processor the operation has a plain twin, which serves where a card is only pretended.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from hsfuse.fusion.experts import regressions
from hsfuse.fusion.gpu import fourier_kernels

_PIXELS, _FEATURES = 64, 32
"""Pixels of a program, and features that it holds at a time."""
_LEAST = 16
"""Sides of a matrix product."""


def predict(
    x: Tensor, frequency: Tensor, phase: Tensor, weight: Tensor, linear: Tensor, constant: Tensor, out: Tensor
) -> None:
    """Write ``weight cos(frequency x + phase) - linear x - constant``.

    Parameters
    ----------
    x
        Shape (regressor, pixel), float32 like all others, pixels side by side.
    frequency, phase
        Shapes (feature, regressor) and (feature,).
    weight, linear, constant
        Shapes (target, feature), (target, regressor) and (target,).
    out
        Shape (target, pixel), pixels side by side.
    """
    (features, regressors), targets = frequency.shape, len(weight)

    def filled(size: int) -> int:
        return max(_LEAST, triton.next_power_of_2(size))

    fourier_kernels.predict_kernel[(-(-x.shape[1] // _PIXELS),)](
        x, *(matrix.contiguous() for matrix in (frequency, phase, weight, linear, constant)), out, x.shape[1],
        x.stride(0), out.stride(0), regressors, features, targets,
        wide=filled(regressors), some=_FEATURES, made=filled(targets), block=_PIXELS,
    )  # fmt: skip


_library = torch.library.Library("hsfuse", "FRAGMENT")
_library.define(
    "fourier(Tensor x, Tensor frequency, Tensor phase, Tensor weight, Tensor linear, Tensor constant, "
    "Tensor(a!) out) -> ()"
)
_library.impl("fourier", predict, "CUDA")
_library.impl("fourier", regressions.predict, "CPU")
operation = torch.ops.hsfuse.fourier.default
