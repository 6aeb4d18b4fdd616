"""Whether kernels of a module serve on a card: Triton is there, and it can compile them for this card."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from hsfuse.log import get_logger

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")

_log = get_logger(__name__)
_tried: dict[tuple[object, ...], bool] = {}
"""Kernels, their kind of input and card -> whether they ran when they were first needed."""


@cache
def kernels_of(module: str) -> ModuleType | None:
    """Import a module of kernels; None where Triton is not installed or cannot be used (the log says why, once)."""
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        return importlib.import_module(module)
    except Exception as error:  # two versions of Triton, or one without a driver, raise anything
        _log.warning("Triton is installed but cannot be used (%s); plain PyTorch serves.", error)
        return None


def kernels_on_card(
    module: str, x: torch.Tensor, kind: tuple[object, ...], work: Callable[[Any], Result]
) -> Result | None:  # fmt: skip
    """Let a module's kernels work on a card; None where they do not serve, and plain PyTorch has to.

    Kernels are compiled when they are first needed. Those that cannot be (no C compiler, a card that Triton does not
    know) are left out from then on, and the log says so.

    Parameters
    ----------
    module
        That holds the kernels.
    x
        What they work on.
    kind
        What they are compiled for anew.
    work
        Given the module.
    """
    if x.device.type != "cuda":
        return None
    kernels = kernels_of(module)
    key = (module, x.dtype, str(x.device), *kind)
    if kernels is None or not _tried.get(key, True):
        return None
    try:
        result = work(kernels)
    except Exception as error:  # compilers and their wrappers raise anything
        import torch

        if key in _tried or isinstance(error, torch.OutOfMemoryError) or "CUDA error" in str(error):
            raise  # of the card, not of the kernels
        text = str(error).strip().splitlines()
        _log.warning(
            "Kernels of %s cannot be used (%s: %s); plain PyTorch serves.",
            module.rpartition(".")[2], type(error).__name__, text[0] if text else "no reason given",
        )  # fmt: skip
        _tried[key] = False
        return None
    _tried[key] = True
    return result
