"""Data-parallel training: every process works on its share of one global batch, gradients are summed.

Start it with ``torchrun --nproc-per-node N --no-python hsfuse train-reduced ...``. Without torchrun there is a
team of one, and nothing is initialised.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from hsfuse.errors import UsageError


@dataclass(frozen=True)
class Team:
    """The processes that train together."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sum over all processes, in one message."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        distributed.all_reduce(flat)
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def maximum(self, values: Sequence[float], device: str) -> list[float]:
        """Largest of each value over all processes: how they agree on stopping and on the time."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(list(values), dtype=torch.float64, device=device)
        distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX)
        return [float(v) for v in tensor.cpu()]

    def wait(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            distributed.barrier()


def world_size() -> int:
    """Number of processes that torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_leader() -> bool:
    """Whether this process is the first one (known before joining)."""
    return int(os.environ.get("RANK", "0")) == 0


def own_device(device: str) -> str:
    """GPU of this process: its number on the machine when torchrun started several."""
    if world_size() > 1 and device.startswith("cuda"):
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return device


@contextmanager
def joined(device: str) -> Iterator[Team]:
    """Join the other processes for the length of a ``with`` block.

    Raises
    ------
    UsageError
        The environment says that there are other processes, but they cannot be reached.
    """
    if world_size() == 1:
        yield Team()
        return
    backend = "nccl" if device.startswith("cuda") else "gloo"
    try:
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        distributed.init_process_group(backend)
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"The {world_size()} training processes cannot reach each other ({error}).",
            hint="Start them with torchrun, or unset WORLD_SIZE.",
        ) from error
    try:
        yield Team(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
