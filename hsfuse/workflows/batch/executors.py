"""Where scenes run: on this machine, as many at a time as its cores, memory and GPUs allow."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hsfuse.errors import MemoryBudgetError
from hsfuse.inference.budget import available_memory
from hsfuse.processor import usable_cores
from hsfuse.resources import parse_size
from hsfuse.workflows.batch.jobs import Attempt, SceneJob, Share
from hsfuse.workflows.batch.scene_client import SceneHost, SceneProcess

_HOST_SHARE = 0.7
_BATCH_BYTES = 450 * 2**20
"""The batch itself and the process that scenes are born from."""
_SMALLEST_BYTES = 640 * 2**20
"""Less than this is of no use to any scene."""
_SCENE_BYTES = 1_500_000_000
"""What a scene of :data:`_SCENE_PIXELS` takes when it is not told to take less."""
_SCENE_PIXELS = 1_200_000
_EASY_BYTES = 1_700_000_000
"""With so much for each, scenes are not told a limit: a run keeps below it by its own rule, and then has the same tiles
as a single run."""
_MANY_CORES = ((32, 4), (8, 2))
"""From so many cores on, each scene gets so many: its parts that run on one core then cost less of the machine."""


class Executor(Protocol):
    """Runs scenes and tells how they fare."""

    def ready(self, attempt: Attempt) -> bool:
        """Whether another scene can be taken now."""
        ...

    def start(self, job: SceneJob, attempt: Attempt) -> None:
        """Take a scene."""
        ...

    def wait(self, seconds: float) -> list[tuple[str, dict[str, Any]]]:
        """Wait for events at most so long; return (scene, event) pairs. ``started`` is a scene's first event."""
        ...

    def withdraw(self) -> list[str]:
        """Take back the scenes that have not started; return their names."""
        ...

    def close(self) -> None:
        """End what still runs."""
        ...


@dataclass(frozen=True)
class Shares:
    """How a machine is divided.

    Attributes
    ----------
    each
        What each of the scenes that run at the same time may use.
    whole
        What a scene may use that runs alone.
    """

    each: tuple[Share, ...]
    whole: Share

    def text(self) -> str:
        """One line for people."""
        first = self.each[0]
        memory = "" if first.memory is None else f" and {first.memory / 1e9:.1f} GB"
        gpu = ", one GPU each" if first.gpu is not None else ""
        plural = "s" if len(self.each) > 1 else ""
        return f"{len(self.each)} scene{plural} at a time, {first.threads} thread(s){memory} each{gpu}"


def scene_bytes(job: SceneJob) -> int:
    """Memory with which a scene works without being pressed; it can do with less."""
    return int(_SMALLEST_BYTES + (_SCENE_BYTES - _SMALLEST_BYTES) * min(1.0, job.pixels / _SCENE_PIXELS))


def share_machine(
    jobs: Sequence[SceneJob],
    *,
    max_memory: str | None,
    workers: int | None,
    threads: int | None,
    gpus: Sequence[str | None],
) -> Shares:
    """Divide this machine among scenes.

    Raises
    ------
    MemoryBudgetError
        The memory does not suffice for one scene.
    """
    cores = usable_cores()
    total = parse_size(max_memory) if max_memory else int(_HOST_SHARE * available_memory())
    usable = total - _BATCH_BYTES
    if usable < _SMALLEST_BYTES:
        raise MemoryBudgetError(
            f"A batch needs at least {(_BATCH_BYTES + _SMALLEST_BYTES) / 1e9:.1f} GB and may use {total / 1e9:.1f} GB.",
            hint="Raise --max-memory, or end other programs.",
        )
    wanted = max((scene_bytes(job) for job in jobs), default=_SCENE_BYTES)
    if workers is not None:
        count = workers
        if usable // count < _SMALLEST_BYTES:
            raise MemoryBudgetError(
                f"{count} scenes at a time would have {usable // count / 1e9:.1f} GB each.",
                hint=f"Use at most --workers {usable // _SMALLEST_BYTES}, or raise --max-memory.",
            )
    else:
        per_scene = threads or next((each for many, each in _MANY_CORES if cores >= many), 1)
        count = len(gpus) or max(1, cores // per_scene)
        count = max(1, min(count, usable // wanted, max(len(jobs), 1)))
    memory = usable // count if max_memory or usable // count < _EASY_BYTES else None
    each = threads or max(1, cores // count)
    shares = tuple(Share(each, memory, gpus[i % len(gpus)] if gpus else None) for i in range(count))
    return Shares(shares, Share(threads or cores, usable, gpus[0] if gpus else None))


def find_gpus(device: str) -> list[str | None]:
    """Numbers of the GPUs that scenes may use, one scene each; none when they run on the CPU.

    A GPU that the settings name stands as None: the run finds it by itself, and must see all GPUs for that.

    Torch is asked in a process of its own: once it has touched a GPU, a process cannot be copied any more.
    """
    if device == "cpu" or not Path("/proc/driver/nvidia").exists():
        return []
    code = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    count = int(asked.stdout.strip() or 0) if asked.returncode == 0 else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device.startswith("cuda:"):
        return [None]
    return list(visible.split(",")[:count]) if visible else [str(i) for i in range(count)]


class LocalExecutor:
    """Runs scenes on this machine.

    Parameters
    ----------
    folder
        The batch's folder.
    shares
        How the machine is divided.
    """

    def __init__(self, folder: Path, shares: Shares) -> None:
        self._shares = shares
        self._free = list(reversed(shares.each))
        self._running: dict[str, tuple[SceneProcess, Share, bool]] = {}
        self._selector = selectors.DefaultSelector()
        self._host = SceneHost(folder)

    def ready(self, attempt: Attempt) -> bool:
        """Whether another scene can be taken now; a scene that needs the machine for itself waits for the others."""
        if any(alone for _, _, alone in self._running.values()):
            return False
        return not self._running if attempt.alone else bool(self._free)

    def start(self, job: SceneJob, attempt: Attempt) -> None:
        """Start a scene's process."""
        share = self._shares.whole if attempt.alone else self._free.pop()
        process = self._host.run(job, attempt, share)
        self._running[job.name] = (process, share, attempt.alone)
        self._selector.register(process, selectors.EVENT_READ, job.name)

    def wait(self, seconds: float) -> list[tuple[str, dict[str, Any]]]:
        """Wait for events at most so long."""
        found: list[tuple[str, dict[str, Any]]] = []
        for key, _ in self._selector.select(seconds):
            name = str(key.data)
            process, share, alone = self._running[name]
            events, ended = process.read()
            found += [(name, event) for event in events]
            if ended:
                self._selector.unregister(key.fd)
                del self._running[name]
                if not alone:
                    self._free.append(share)
        return found

    def withdraw(self) -> list[str]:
        """Nothing waits here."""
        return []

    def close(self) -> None:
        """End what still runs."""
        for process, _, _ in self._running.values():
            with contextlib.suppress(OSError):
                process.end()
        self._running.clear()
        self._selector.close()
        self._host.close()
