"""What a method learned on the processor, on a card.

Learning from a scene is thousands of small steps on small windows, most of them in NumPy. A card would spend its time
on being started for each, while the processor has compiled kernels for them and cores that wait.
"""

from __future__ import annotations

import copy
from dataclasses import is_dataclass
from typing import Any, TypeVar

Learned = TypeVar("Learned")


def moved(learned: Learned, device: str) -> Learned:
    """Return what was learned with its tensors on a device.

    Parameters
    ----------
    learned
        A fitted method, dataclasses, tensors, lists, tuples and dictionaries of them, inside each other. All else is
        the same in both.
    device
        Torch device.
    """
    found: Learned = _moved(learned, device, {})
    return found


def _moved(thing: Any, device: str, known: dict[int, Any]) -> Any:
    import torch

    from hsfuse.fusion.base import FusionMethod

    if id(thing) in known:
        return known[id(thing)]
    if isinstance(thing, torch.Tensor | torch.nn.Module):
        known[id(thing)] = thing.to(device)
    elif isinstance(thing, dict):
        known[id(thing)] = {key: _moved(value, device, known) for key, value in thing.items()}
    elif isinstance(thing, list | tuple):
        parts = [_moved(part, device, known) for part in thing]
        make = getattr(type(thing), "_make", type(thing))  # named tuples
        known[id(thing)] = make(parts)
    elif (is_dataclass(thing) and not isinstance(thing, type)) or isinstance(thing, FusionMethod):
        made = known[id(thing)] = copy.copy(thing)
        for name, value in vars(thing).items():
            # Past the guard of frozen ones; results that a property keeps move along.
            object.__setattr__(made, name, _moved(value, device, known))
    else:
        return thing
    return known[id(thing)]
