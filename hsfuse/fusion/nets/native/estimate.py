"""Hand a base estimate to the C kernel that makes a network's features of it."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from hsfuse.degrade import Window
from hsfuse.fusion.nets.native.abi import ROWS, run_parallel
from hsfuse.fusion.nets.native.build import native_library

_SIZES = ("bands", "rows", "cols", "plane", "ratio", "row0", "row1", "col0", "col1")


class _Estimate(ctypes.Structure):
    """Mirror of ``hsf_estimate``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in _SIZES),
        ("features", ctypes.c_int64 * 2),
        ("skipped", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("mean", "scale", "sharp")),
        ("weight", ctypes.c_void_p * 3),
        ("bias", ctypes.c_void_p * 2),
        *((name, ctypes.c_void_p) for name in ("out", "low", "skip")),
        ("half", ctypes.c_int32),
    )


def read_estimate(
    base: Tensor,
    facts: tuple[Tensor, Tensor, Tensor],
    maps: tuple[Tensor, Tensor, Tensor],
    biases: tuple[Tensor | None, Tensor | None],
    ratio: int,
    shown: Window,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Make features of a base estimate, its mean at low resolution and what skips the network.

    Parameters
    ----------
    base
        Base estimate, float32, shape (n, band, row, col); rows and columns are multiples of ``ratio``.
    facts
        Mean and deviation of every band, and the level of its detail in that unit; shape (n or 1, band, 1, 1).
    maps
        Matrices (output, band) of the base estimate, of its detail and again of its detail, in the network's type.
    biases
        Of the first two.
    ratio
        MSI pixels per HSI pixel.
    shown
        Rows and columns for which the third map is wanted.

    Returns
    -------
    tuple of torch.Tensor or None
        Features (n, outputs of the first two, row, col), channels last, in the network's type; the mean (n, band, row /
        ratio, col / ratio) in units of the deviation; the third map of the window. None where there is no kernel for
        these tensors.
    """
    kind = maps[0].dtype
    native = native_library()
    if native is None or torch.is_grad_enabled() or base.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return None
    half = kind == torch.bfloat16
    if base.dtype != torch.float32 or not (kind == torch.float32 or (half and native.library.hsf_has_half_product())):
        return None
    if base.shape[2] % ratio or base.shape[3] % ratio:
        return None
    base = base.contiguous()
    count, bands, rows, cols = base.shape
    outputs = [matrix.shape[0] for matrix in maps]
    window = tuple(part.stop - part.start for part in shown)
    features = torch.empty((count, rows, cols, outputs[0] + outputs[1]), dtype=kind)
    low = base.new_empty((count, bands, rows // ratio, cols // ratio))
    skip = base.new_empty((count, outputs[2], *window))
    weights = [_padded(matrix) for matrix in maps]
    offsets = [
        torch.zeros(size) if bias is None else bias.float().contiguous()
        for size, bias in zip(outputs[:2], biases, strict=True)
    ]
    mean, std, level = (fact.float().flatten(1).expand(count, -1).contiguous() for fact in facts)
    scale, sharp = 1.0 / std, 1.0 / level
    for i in range(count):
        estimate = _Estimate(
            bands, rows, cols, rows * cols, ratio, shown[0].start, shown[0].stop, shown[1].start, shown[1].stop,
            (ctypes.c_int64 * 2)(*outputs[:2]), outputs[2],
            mean[i].data_ptr(), scale[i].data_ptr(), sharp[i].data_ptr(),
            (ctypes.c_void_p * 3)(*(w.data_ptr() for w in weights)),
            (ctypes.c_void_p * 2)(*(b.data_ptr() for b in offsets)),
            features[i].data_ptr(), low[i].data_ptr(), skip[i].data_ptr(), int(half),
        )  # fmt: skip
        source = ctypes.c_void_p(base[i].data_ptr())

        def part(
            _: int, first: int, last: int, estimate: _Estimate = estimate, source: ctypes.c_void_p = source
        ) -> int:
            bounds = (ctypes.c_int64(first * ratio), ctypes.c_int64(last * ratio))
            return int(native.library.hsf_read_estimate(ctypes.byref(estimate), source, *bounds))

        run_parallel(part, rows // ratio)
    return features.permute(0, 3, 1, 2), low, skip


def _padded(matrix: Tensor) -> Tensor:
    """Return a matrix with as many rows as the kernels work off at a time, and an even number of columns."""
    rows, cols = matrix.shape
    made = matrix.new_zeros((-(-rows // ROWS) * ROWS, cols + cols % 2))
    made[:rows, :cols] = matrix.detach()
    return made
