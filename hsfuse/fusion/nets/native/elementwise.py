"""Chains of cheap operations between a network's layers, each in one pass by the C kernels.

Every function returns None, and has done nothing, where the kernels do not serve: with gradients, on a GPU, in other
types or memory layouts, without a compiler. The caller then takes the plain way.
"""

from __future__ import annotations

import ctypes
from typing import Any, Literal

import torch
from torch import Tensor

from hsfuse.fusion.nets.native.abi import MULTIPLE, run_parallel
from hsfuse.fusion.nets.native.build import native_library

GateRule = Literal["one", "tanh", "sigmoid"]
_RULES: dict[GateRule, int] = {"one": 0, "tanh": 1, "sigmoid": 2}
_MOST_CHANNELS = 128
"""That the kernels keep of a pixel, whatever the width of a vector."""


def silu_(x: Tensor, other: Tensor | None = None) -> Tensor | None:
    """Replace ``x`` by SiLU(x), or by SiLU(x + other); (n, channel, row, col), channels last."""
    given = (x,) if other is None else (x, other)
    library = _library(*given)
    return None if library is None else _each(library.hsf_silu, (x, other), x, ())


def gated(x: Tensor, weight: Tensor, rule: GateRule) -> Tensor | None:
    """Return weight . gate(x) . x + x, with a gate of 1, tanh(x) or 2 sigmoid(x)."""
    library = _library(x, weight)
    if library is None:
        return None
    out = torch.empty_like(x)
    return _each(library.hsf_gate, (x, weight, out), out, (ctypes.c_int32(_RULES[rule]),))


def exchange_(near: Tensor, far: Tensor) -> Tensor | None:
    """Add to each of two feature maps its sigmoid times the other one; returns the first."""
    library = _library(near, far)
    return None if library is None else _each(library.hsf_exchange, (near, far), near, ())


def attend(key: Tensor, value: Tensor, query: Tensor, copies: int = 1) -> Tensor | None:
    """Return (1 - copies softmax(key . value)) . query + value, softmax over channels."""
    library = _library(key, value, query)
    width = key.shape[1]
    if library is None or width > _MOST_CHANNELS:
        return None
    out = torch.empty_like(query)
    return _each(library.hsf_attend, (key, value, query, out), out, (ctypes.c_int32(width), ctypes.c_int32(copies)))


def _library(*tensors: Tensor) -> Any | None:
    """The kernels, when they can work on these feature maps as they lie in memory."""
    first = tensors[0]
    if torch.is_grad_enabled() or first.device.type != "cpu" or first.dtype not in (torch.float32, torch.bfloat16):
        return None
    if first.dim() != 4 or first.shape[1] % MULTIPLE or torch.is_autocast_enabled("cpu"):
        return None
    for tensor in tensors:
        fits = tensor.dtype == first.dtype and tensor.shape == first.shape
        if not fits or not tensor.is_contiguous(memory_format=torch.channels_last):
            return None
    native = native_library()
    return None if native is None else native.library


def _each(function: Any, arrays: tuple[Tensor | None, ...], result: Tensor, more: tuple[Any, ...]) -> Tensor:
    """Call a kernel on the pixels of arrays of one shape, shared among torch's threads."""
    width, size = result.shape[1], result.element_size()
    half = ctypes.c_int32(result.dtype == torch.bfloat16)

    def part(_: int, first: int, last: int) -> int:
        start = first * width
        at = (ctypes.c_void_p(None if a is None else a.data_ptr() + start * size) for a in arrays)
        return int(function(*at, ctypes.c_int64((last - first) * width), *more, half))

    run_parallel(part, result.numel() // width)
    return result
