"""3x3 convolutions by the C kernel (``winograd.c``), with a sum and SiLU in the same pass.

They are 1.4 to 2.7 times as fast as PyTorch's. What is transformed is rounded: a layer's relative error grows from
2e-3 to 1e-2 in bfloat16 and from 4e-7 to 8e-7 in float32, of which a fused image shows nothing (docs/benchmarks.md).
"""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.fusion.nets.native.abi import MULTIPLE, Conv, Images, run_parallel
from hsfuse.fusion.nets.native.build import native_library
from hsfuse.fusion.nets.native.packing import PreparedLayers, packed
from hsfuse.native import NativeLibrary
from hsfuse.native.build import multiplies_tiles

_GROUP = 32
"""Channels whose order the kernel changes in bfloat16."""
_MOST_PADDING = 2.0
"""Channels are padded to whole vectors; beyond this share PyTorch's convolution is faster."""


def convolve3x3(conv: nn.Conv2d, x: Tensor, other: Tensor | None = None, *, silu: bool = False) -> Tensor | None:
    """Return conv(x), or conv(x) + other, or SiLU of either, in channels-last memory.

    None where the kernel does not serve or would not be faster.

    Parameters
    ----------
    conv
        A 3x3 convolution with a padding of one zero.
    x
        Shape (n, channel, row, col).
    other
        What to add, of the result's shape.
    silu
        Apply SiLU at the end.
    """
    native = _kernels(conv, x, other)
    if native is None:
        return None
    x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = _prepared.of(conv, native)
    count, _, rows, cols = x.shape
    out = torch.empty((count, conv.out_channels, rows, cols), dtype=x.dtype, memory_format=torch.channels_last)
    layer = Conv(
        conv.in_channels, conv.out_channels, int(x.dtype == torch.bfloat16), int(silu),
        weight.data_ptr(), None if bias is None else bias.data_ptr(),
    )  # fmt: skip
    images = Images(rows, cols, x.data_ptr(), None if other is None else other.data_ptr(), out.data_ptr())
    step, run = native.library.hsf_conv_step(), native.library.hsf_conv_run()
    tiles = count * -(-rows // step) * -(-cols // step)

    def part(_: int, first: int, last: int) -> int:
        at = (ctypes.c_int64(min(share * run, tiles)) for share in (first, last))
        return int(native.library.hsf_convolve(ctypes.byref(layer), ctypes.byref(images), *at))

    run_parallel(part, -(-tiles // run))
    return out


def _kernels(conv: nn.Conv2d, x: Tensor, other: Tensor | None) -> NativeLibrary | None:
    """The kernels, where they serve for this layer and are faster."""
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.dim() != 4 or torch.is_autocast_enabled("cpu"):
        return None
    if x.dtype not in (torch.float32, torch.bfloat16) or conv.weight.dtype != x.dtype or not x.numel():
        return None
    if conv.out_channels % MULTIPLE or conv.in_channels != x.shape[1] or conv.groups != 1:
        return None
    if other is not None:
        shape = (x.shape[0], conv.out_channels, *x.shape[2:])
        if other.dtype != x.dtype or other.shape != shape:
            return None
        if not other.is_contiguous(memory_format=torch.channels_last):
            return None
    native = native_library()
    if native is None or native.isa == "baseline":
        return None
    half = x.dtype == torch.bfloat16
    if half and (multiplies_tiles() or not native.library.hsf_has_half_product()):
        return None  # processors that multiply tiles of bfloat16 gain nothing from fewer products
    return native if _depth(conv.in_channels, native, half=half) <= _MOST_PADDING * conv.in_channels else None


def _depth(channels: int, native: NativeLibrary, *, half: bool) -> int:
    return int(native.library.hsf_conv_depth(channels, int(half)))


def _transform(conv: nn.Conv2d, native: NativeLibrary) -> tuple[Tensor, Tensor | None]:
    """Transform and pack the weights; return them and the bias."""
    weight = conv.weight.detach()
    half = weight.dtype == torch.bfloat16
    outputs, inputs = weight.shape[:2]
    depth = _depth(inputs, native, half=half)
    points = torch.empty((6, 3))
    native.library.hsf_conv_points(ctypes.c_void_p(points.data_ptr()))
    matrices = torch.einsum("ar,oirs,bs->aboi", points, weight.float(), points).flatten(0, 1)
    matrices = F.pad(matrices, (0, depth - inputs)).to(weight.dtype)
    if half:  # the even channels of each group first, as the kernel leaves them
        matrices = matrices.unflatten(2, (-1, _GROUP // 2, 2)).transpose(3, 4).reshape(-1, outputs, depth)
    bias = None if conv.bias is None else conv.bias.detach().float().contiguous()
    return torch.stack([packed(matrix, native) for matrix in matrices]), bias


_prepared: PreparedLayers[nn.Conv2d, tuple[Tensor, Tensor | None]] = PreparedLayers(_transform)
