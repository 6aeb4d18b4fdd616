"""Hand a mixer's tensors to the C kernels."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from hsfuse.fusion.nets.interfaces import Mamba2Block, Mixer
from hsfuse.fusion.nets.native.abi import FLOAT_FIELDS, HALF_FIELDS, Block, Layout, fits, run_parallel
from hsfuse.fusion.nets.native.build import native_library
from hsfuse.fusion.nets.native.packing import PreparedLayers, packed
from hsfuse.native import NativeLibrary

MIN_LENGTH = 16
"""Shorter sequences are left to PyTorch: the kernels work in blocks of 48 tokens."""


@dataclass(frozen=True)
class _Prepared:
    """A mixer's parameters as the kernels want them; ``keep`` holds the memory that ``block`` points to."""

    block: Block
    keep: dict[str, Tensor]


def usable(mixer: Mixer, x: Tensor) -> bool:
    """Whether the kernels can run ``mixer`` on ``x``: inference on a CPU, sizes that fill whole vectors."""
    if mixer.kind != "mamba2":
        return False
    mamba = cast(Mamba2Block, mixer.mamba)
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_grad_enabled()
        and fits(mamba.d_model, mamba.headdim, mamba.d_state, mamba.d_conv)
        and not torch.is_autocast_enabled("cpu")
        and native_library() is not None
    )


def run_lines(mixer: Mixer, tokens: Tensor, out: Tensor, *, columns: bool, backwards: bool) -> None:
    """Run a mixer along the lines of images.

    Parameters
    ----------
    mixer
        Norm, block and residual.
    tokens, out
        Shape (n, row, col, channel), the same type, unit stride along channels.
    columns
        Lines are columns, not rows.
    backwards
        From the last token to the first.
    """
    for image, target in zip(tokens, out, strict=True):
        if columns:
            run_sequences(mixer, image.transpose(0, 1), target.transpose(0, 1), backwards=backwards)
        else:
            run_sequences(mixer, image, target, backwards=backwards)


def run_sequences(mixer: Mixer, tokens: Tensor, out: Tensor, *, backwards: bool = False) -> None:
    """Run a mixer over sequences (sequence, token, channel), writing into ``out`` of the same shape.

    Raises
    ------
    MemoryBudgetError
        There is no memory for the kernels' workspace (well under 1 MB a thread).
    """
    native = native_library()
    if native is None:
        raise RuntimeError("the compiled kernels vanished between two calls")
    prepared = _prepared.of(mixer, native)
    count, length, _ = tokens.shape
    strides = [*tokens.stride()[:2], *out.stride()[:2]]
    starts = [tokens.data_ptr(), out.data_ptr()]
    if backwards:
        starts = [
            start + (length - 1) * stride * tokens.element_size()
            for start, stride in zip(starts, strides[1::2], strict=True)
        ]
        strides[1], strides[3] = -strides[1], -strides[3]

    def part(_: int, first: int, last: int) -> int:
        layout = Layout(last - first, length, *strides, int(tokens.dtype == torch.bfloat16))
        source, target = (
            ctypes.c_void_p(start + first * stride * tokens.element_size())
            for start, stride in zip(starts, strides[0::2], strict=True)
        )
        result = native.library.hsf_mamba2(ctypes.byref(prepared.block), ctypes.byref(layout), source, target)
        return int(result)

    run_parallel(part, count)


def _pack(mixer: Mixer, native: NativeLibrary) -> _Prepared:
    mamba, norm = cast(Mamba2Block, mixer.mamba), mixer.norm
    values = {
        "conv_weight": mamba.conv1d.weight.squeeze(1).t(),
        "conv_bias": torch.zeros(mamba.conv1d.out_channels) if mamba.conv1d.bias is None else mamba.conv1d.bias,
        "dt_bias": mamba.dt_bias,
        "decay": -mamba.A_log.float().exp(),
        "skip": mamba.D,
        "rms_weight": mamba.norm.weight,
    }
    has_norm = isinstance(norm, nn.LayerNorm)
    if isinstance(norm, nn.LayerNorm):
        values |= {"ln_weight": norm.weight, "ln_bias": norm.bias}
    keep = {name: t.detach().float().contiguous() for name, t in values.items()}
    for name, weight in (("w_in", mamba.in_proj.weight), ("w_out", mamba.out_proj.weight)):
        keep[name] = packed(weight.float(), native)
        if native.library.hsf_has_half_product():
            keep[f"{name}_half"] = packed(weight.bfloat16(), native)
    block = Block(
        mamba.d_model, mamba.d_inner, mamba.d_state, mamba.headdim, int(mixer.wrap == "residual"), int(has_norm),
        norm.eps if isinstance(norm, nn.LayerNorm) else 0.0, mamba.norm.eps,
        *(keep[name].data_ptr() if name in keep else None for name in (*FLOAT_FIELDS, *HALF_FIELDS)),
    )  # fmt: skip
    return _Prepared(block, keep)


_prepared: PreparedLayers[Any, _Prepared] = PreparedLayers(_pack)
