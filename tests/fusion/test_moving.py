"""What was learned on the processor, on another device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hsfuse.fusion.moving import moved


class _Pair(NamedTuple):
    first: torch.Tensor
    second: int


@dataclass(frozen=True)
class _Learned:
    weight: torch.Tensor
    parts: Sequence[Any]
    named: dict[str, torch.Tensor]
    moments: NDArray[np.float64]


def test_tensors_move_wherever_they_are_and_all_else_stays() -> None:
    shared, moments = torch.ones(2), np.zeros(3)
    learned = _Learned(shared, [_Pair(torch.zeros(1), 3), (shared, "text"), nn.Linear(2, 2)], {"a": shared}, moments)
    there = moved(learned, "meta")
    pair, (same, text), layer = there.parts
    found = [there.weight, pair.first, same, layer.weight, there.named["a"]]
    assert all(tensor.device.type == "meta" for tensor in found)
    assert there.weight is same is there.named["a"], "what is shared stays shared"
    assert isinstance(pair, _Pair)
    assert (pair.second, text) == (3, "text")
    assert there.moments is moments
    assert learned.weight.device.type == learned.parts[0].first.device.type == "cpu"
