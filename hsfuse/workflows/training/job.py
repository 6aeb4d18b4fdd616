"""The length of a training: its processes, its device, its threads and its clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hsfuse.progress import Progress
from hsfuse.resources import Resources
from hsfuse.threads import torch_threads
from hsfuse.training.distributed import Team, is_leader, joined, local_size, own_device
from hsfuse.workflows.steps.clock import StageClock


@contextmanager
def training_job(resources: Resources, progress: Progress | None) -> Iterator[tuple[str, Team, StageClock]]:
    """Give this process's device, the team that trains, and a clock, which only the leader shows.

    Parameters
    ----------
    resources
        Of the machine, all processes together.
    progress
        Where to show progress.

    Raises
    ------
    HsfuseError
        The other processes cannot be reached, or one of them failed.
    """
    given = resources.share(local_size())
    device = own_device(given.device)
    with (
        StageClock(progress if is_leader() else None) as clock, torch_threads(given.threads), joined(device) as team
    ):  # fmt: skip
        yield device, team, clock
