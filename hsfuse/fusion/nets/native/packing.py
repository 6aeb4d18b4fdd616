"""Parameters of layers as the kernels want them, kept as long as nothing about them changes."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from hsfuse.native import NativeLibrary

Layer = TypeVar("Layer", bound=nn.Module)
Made = TypeVar("Made")


class PreparedLayers(Generic[Layer, Made]):
    """What was made of each layer's parameters for the kernels.

    Parameters
    ----------
    make
        Makes it from a layer and the kernels.
    """

    def __init__(self, make: Callable[[Layer, NativeLibrary], Made]) -> None:
        self._make = make
        self._known: weakref.WeakKeyDictionary[Layer, tuple[tuple[Any, ...], Made]] = weakref.WeakKeyDictionary()

    def of(self, layer: Layer, native: NativeLibrary) -> Made:
        """Prepare a layer's parameters, or return what was made of them before while none has changed."""
        state = ((p.data_ptr(), 0 if p.is_inference() else p._version, p.dtype) for p in layer.parameters())
        signature = (native.path, *state)
        known = self._known.get(layer)
        if known is None or known[0] != signature:
            known = signature, self._make(layer, native)
            self._known[layer] = known
        return known[1]


def packed(weight: Tensor, native: NativeLibrary) -> Tensor:
    """Pack a matrix (output, input) into the panels of the kernels' products, in its own type."""
    source = weight.detach().contiguous()
    columns, depth = source.shape
    native.library.hsf_packed_size.restype = ctypes.c_int64
    target = torch.empty(native.library.hsf_packed_size(depth, columns), dtype=source.dtype)
    pack = native.library.hsf_pack_half if source.dtype == torch.bfloat16 else native.library.hsf_pack
    pack(ctypes.c_void_p(source.data_ptr()), depth, columns, ctypes.c_void_p(target.data_ptr()))
    return target
