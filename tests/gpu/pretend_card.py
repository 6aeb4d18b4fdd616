"""A GPU that is not there: tensors that say they are on ``cuda:0`` and are computed on the CPU.

Operations that mix them with tensors of the CPU fail as on a card, and so does asking them for a NumPy array.
That shows without a card that a method's work on tiles stays on the device that it was given.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda:0")
_BETWEEN = ("aten::_to_copy", "aten::copy_")
"""Operations that may take tensors of both devices."""


class OnCard(torch.Tensor):
    """A tensor of the pretended card."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> OnCard:
        made: OnCard = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device="cpu",
        )  # fmt: skip
        made.inner = inner
        return made

    # A build of PyTorch without CUDA refuses tensors that really say so; what Python code asks is answered here.
    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self.numpy()

    def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
        return self.inner.clone()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OnCard({self.inner!r})"


class _Factories(TorchDispatchMode):
    """Lets ``torch.zeros(..., device="cuda:0")`` and ``tensor.to("cuda:0")`` give tensors of the card."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute an operation on the CPU, and put its result where it belongs."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    cards = [tensor for tensor in tensors if isinstance(tensor, OnCard)]
    name = func._schema.name
    if cards and name not in _BETWEEN:
        strangers = [t for t in tensors if not isinstance(t, OnCard) and t.dim()]
        if strangers:
            raise RuntimeError(f"Expected all tensors to be on the same device in {name}, but found cpu and cuda:0.")
    device = kwargs.get("device")
    on_card = bool(cards) if device is None else torch.device(device).type == "cuda"
    if name == "aten::copy_":
        on_card = isinstance(args[0], OnCard)
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
        if name == "aten::_to_copy":
            kwargs["non_blocking"] = False
    wrappers = {id(tensor.inner): tensor for tensor in cards}
    inner_args, inner_kwargs = tree_map(lambda x: x.inner if isinstance(x, OnCard) else x, (args, kwargs))
    out = func(*inner_args, **inner_kwargs)
    if not on_card:
        return out

    def put(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        return wrappers[id(x)] if id(x) in wrappers else OnCard(x)

    return tree_map(put, out)


@contextmanager
def pretended() -> Iterator[torch.device]:
    """Let there be a card for the length of a ``with`` block."""
    from hsfuse.fusion.nets.gpu import choice
    from hsfuse.parallel import allowed_threads

    def made(function: Any) -> Any:
        def make(data: Any, *, device: Any = None, **options: Any) -> torch.Tensor:
            if isinstance(data, torch.Tensor) and data.is_cuda:
                return data if device is None else data.to(device)
            found: torch.Tensor = function(data, **options)
            return found if device is None else found.to(device)

        return make

    with (
        patch.object(torch.cuda, "_lazy_init", lambda: None),
        patch.object(torch, "tensor", made(torch.tensor)),
        patch.object(torch, "as_tensor", made(torch.as_tensor)),
        patch.object(choice, "kernels_for", lambda block, u: None),
        # Modules get new parameters on the card: the memory of theirs cannot be exchanged for that of a wrapper.
        patch.object(torch.__future__, "_overwrite_module_params_on_conversion", True),
        # What stands for the card is told of operations of this thread alone.
        allowed_threads(1),
        _Factories(),
    ):
        yield DEVICE
