"""``torch.compile`` behind a switch: fuses chains of element-wise operations on a card. Nothing needs it.

``HSFUSE_COMPILE=on`` switches it on. It needs Triton and a C compiler, and takes minutes for each shape of tiles when
it first meets them, so it pays for many scenes of one size in one process. What it cannot compile runs plainly.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from hsfuse.errors import short_of_gpu_memory
from hsfuse.log import get_logger

_log = get_logger(__name__)

SWITCH = "HSFUSE_COMPILE"
Result = TypeVar("Result")


def wanted(device: str) -> bool:
    """Whether functions are compiled for a device."""
    return device.startswith("cuda") and os.environ.get(SWITCH, "").lower() in ("on", "1", "yes", "true")


def compiled(function: Callable[..., Result], device: str) -> Callable[..., Result]:
    """Return the function compiled where that is wanted; it falls back to itself, for good, where that fails.

    Parameters
    ----------
    function
        Takes and returns tensors.
    device
        Where they lie.
    """
    if not wanted(device):
        return function
    fast: Callable[..., Result] | None = torch.compile(function)

    def run(*args: Any, **kwargs: Any) -> Result:
        nonlocal fast
        if fast is not None:
            try:
                return fast(*args, **kwargs)
            except Exception as error:  # compilers raise anything
                if short_of_gpu_memory(error) or isinstance(error, torch.cuda.OutOfMemoryError):
                    raise
                text = (str(error).strip() or type(error).__name__).splitlines()[0]
                _log.warning("torch.compile is not used (%s); the network runs plainly.", text)
                fast = None
        return function(*args, **kwargs)

    return run
