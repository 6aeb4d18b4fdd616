"""Data-parallel training: every process works on its share of one global batch, gradients are summed.

Start it with ``torchrun --nproc-per-node N -m hsfuse train-reduced ...``. Without torchrun there is a team of one, and
nothing is initialised.

The loop adds gradients itself instead of wrapping modules (``DistributedDataParallel``): a task may hold several
networks, step them in turn and leave some without gradients, and all of that works with sums. A batch is always the
global one, so the number of processes changes how fast a training is, not what it learns.

A process that fails says so in the store that the processes met in. The others, whose next message cannot be delivered,
read it there and end with its exit code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

from hsfuse.errors import HsfuseError, InputError, UsageError, explained

_FAILURE = "failure"
_PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others: the first one may write a checkpoint or validate meanwhile."""
_LAST_WORDS = timedelta(seconds=2)


class PartnerError(HsfuseError):
    """Another process of the team failed; carries its exit code."""

    def __init__(self, message: str, *, exit_code: int = 1, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Team:
    """The processes that train together.

    Attributes
    ----------
    rank, size
        Number of this process, and of all.
    store
        Where they met (``torch.distributed.Store``); None for a team of one.
    """

    rank: int = 0
    size: int = 1
    store: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sum over all processes, in one message.

        Raises
        ------
        PartnerError
            Another process failed.
        """
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        with self._together():
            distributed.all_reduce(flat)
        start = 0
        for tensor in tensors:
            tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
            start += tensor.numel()

    def maximum(self, values: Sequence[float], device: str) -> list[float]:
        """Largest of each value over all processes: how they agree on stopping and on the time.

        Raises
        ------
        PartnerError
            Another process failed.
        """
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(list(values), dtype=torch.float64, device=device)
        with self._together():
            distributed.all_reduce(tensor, op=distributed.ReduceOp.MAX)
            return [float(v) for v in tensor.cpu()]

    def wait(self) -> None:
        """Wait for the others.

        Raises
        ------
        PartnerError
            Another process failed.
        """
        if self.size > 1:
            with self._together():
                distributed.barrier()

    def tell(self, error: BaseException) -> None:
        """Leave word of this process's failure for the others."""
        if self.store is None or isinstance(error, PartnerError):
            return
        code = getattr(error, "exit_code", None)
        if code is None:
            code = explained(error).exit_code if isinstance(error, Exception) else 130
        text = error.message if isinstance(error, HsfuseError) else f"{type(error).__name__}: {error}"
        with suppress(RuntimeError):
            self.store.set(_FAILURE, json.dumps({"rank": self.rank, "code": code, "text": text}))

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Turn what a missing process makes of a message into that process's own failure."""
        try:
            yield
        except RuntimeError as error:
            raise self._partners_failure(error) from error

    def _partners_failure(self, error: RuntimeError) -> PartnerError:
        hint = "Its own messages stand above; --resume goes on from the last checkpoint."
        try:
            self.store.wait([_FAILURE], _LAST_WORDS)
            word = json.loads(self.store.get(_FAILURE))
        except (RuntimeError, ValueError):
            # It was killed, or the store went with it.
            return PartnerError(f"Another training process is gone ({str(error).splitlines()[0]}).", hint=hint)
        text = f"Training process {word['rank']} failed: {word['text']}"
        return PartnerError(text, exit_code=word["code"], hint=hint)


def check_team() -> None:
    """Raise InputError where torchrun's variables contradict each other."""
    try:
        size, rank = world_size(), int(os.environ.get("RANK", "0"))
    except ValueError as error:
        raise InputError("RANK and WORLD_SIZE must be whole numbers.", hint="Start with torchrun.") from error
    if not 0 <= rank < size:
        raise InputError(f"RANK {rank} does not fit WORLD_SIZE {size}.", hint="Start with torchrun.")


def world_size() -> int:
    """Number of processes that torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_size() -> int:
    """Number of processes on this machine, which share its cores and memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


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
    PartnerError
        Another process failed inside its block.
    """
    if world_size() == 1:
        yield Team()
        return
    on_gpu = device.startswith("cuda")
    try:
        from torch.distributed.distributed_c10d import PrefixStore  # not in every build of PyTorch
        from torch.distributed.rendezvous import rendezvous

        if on_gpu:
            torch.cuda.set_device(device)
        store, rank, size = next(iter(rendezvous("env://", timeout=_PATIENCE)))
        # A team that torchrun starts again must not read the last one's words.
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        team = Team(rank, size, PrefixStore(f"hsfuse-{again}", store))
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo", store=PrefixStore(f"group-{again}", store), rank=rank, world_size=size,
            timeout=_PATIENCE,
        )  # fmt: skip
    except (RuntimeError, ValueError, ImportError) as error:
        raise UsageError(
            f"The {world_size()} training processes cannot reach each other ({error}).",
            hint="Start them with torchrun, or unset WORLD_SIZE.",
        ) from error
    try:
        yield team
    except BaseException as error:
        team.tell(error)
        # NCCL would wait here for the processes that are still inside a message; this one is about to end.
        if not on_gpu:
            distributed.destroy_process_group()
        raise
    distributed.destroy_process_group()
