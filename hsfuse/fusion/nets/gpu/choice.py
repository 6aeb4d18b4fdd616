"""Which kernels run a Mamba-2 block on a GPU: those of ``mamba_ssm``, this package's own, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hsfuse.fusion.nets import mamba_cuda
from hsfuse.fusion.nets.gpu import block as own
from hsfuse.log import get_logger

if TYPE_CHECKING:
    from hsfuse.fusion.nets.interfaces import Mamba2Block as Mamba2

Forward = Callable[["Mamba2", Tensor], Tensor]
Shape = tuple[object, ...]

_log = get_logger(__name__)
_chosen: dict[Shape, str] = {}
"""Kind of block, type and card -> the kernels that were faster when they were first needed."""
_tried: dict[tuple[str, Shape], bool] = {}
"""Kernels and kind of block, type and card -> whether they ran when they were first needed."""


def kernels_for(block: Mamba2, u: Tensor) -> Forward | None:
    """Return what runs the block for an input on a GPU; None: plain PyTorch.

    Kernels are compiled when they are first needed. Those that cannot be (another version of Triton than PyTorch's, no
    C compiler, a card that Triton does not know) are left out from then on, and the log says so.

    Where both kinds of kernels can serve, the faster one does: each is timed once per kind of block, type and
    card. With gradients those of this package serve, whose backward pass needs no more memory than the forward pass.
    """
    found: dict[str, Forward] = {}
    if own.usable(block, u):
        found["hsfuse"] = own.mamba2_forward
    if mamba_cuda.usable(block, u):
        found["mamba_ssm"] = mamba_cuda.mamba2_forward
    shape = _shape(block, u)
    found = {name: forward for name, forward in found.items() if _runs(name, forward, shape, block, u)}
    if len(found) < 2:
        return next(iter(found.values()), None)
    if torch.is_grad_enabled():
        return found["hsfuse"]
    return found[_faster(found, shape, block, u)]


def _shape(block: Mamba2, u: Tensor) -> Shape:
    few = u.shape[0] * block.nheads < 1024
    return block.d_inner, block.d_state, block.headdim, u.dtype, few, torch.cuda.get_device_name(u.device)


def _runs(name: str, forward: Forward, shape: Shape, block: Mamba2, u: Tensor) -> bool:
    """Whether kernels run here, tried once for each kind of block."""
    key = (name, shape)
    if key not in _tried:
        try:
            with torch.no_grad():
                forward(block, u)
        except Exception as error:  # compilers and their wrappers raise anything
            if isinstance(error, torch.cuda.OutOfMemoryError) or "CUDA error" in str(error):
                raise  # of the card, not of the kernels
            text = str(error).strip().splitlines()
            _log.warning(
                "The Mamba-2 kernels of %s cannot be used for %s (%s: %s).",
                name, u.dtype, type(error).__name__, text[0] if text else "no reason given",
            )  # fmt: skip
            _tried[key] = False
        else:
            _tried[key] = True
    return _tried[key]


def _faster(found: dict[str, Forward], shape: Shape, block: Mamba2, u: Tensor) -> str:
    if shape not in _chosen:
        seconds = {name: _seconds(forward, block, u) for name, forward in found.items()}
        _chosen[shape] = min(seconds, key=lambda name: seconds[name])
        _log.debug("Mamba-2 kernels for %s: %s (%s)", shape, _chosen[shape], seconds)
    return _chosen[shape]


def _seconds(forward: Forward, block: Mamba2, u: Tensor) -> float:
    """Seconds of one call; kernels are compiled by now."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    forward(block, u)
    end.record()
    torch.cuda.synchronize(u.device)
    return float(start.elapsed_time(end)) / 1e3
