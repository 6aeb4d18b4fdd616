"""Whether the host may look at numbers while a method works."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def may_ask(x: torch.Tensor) -> bool:
    """Tell whether a decision may depend on the values of a tensor in between.

    On a CPU they are at hand and can save work. On a GPU the host would wait for everything before them, and nothing
    could be recorded (see :mod:`hsfuse.inference.graphs`): there the work is done in any case.
    """
    return x.device.type == "cpu"
