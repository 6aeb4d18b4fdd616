"""How fast this machine is at the moment, measured in a fraction of a second: what predictions of time rest on."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from hsfuse.fusion.base import ModelSpec
from hsfuse.inference.budget import Estimate
from hsfuse.native.image import image_library
from hsfuse.processor import usable_cores
from hsfuse.threads import one_blas_thread, torch_threads

_SIDE = 512
_STREAM_VALUES = 4 << 20
_SECONDS = 0.1
_FULL_SHARE = 0.9
"""Of all cores but the one that measures, how many keep others busy where none is left idle."""

# Calibrated on tiles and whole scenes by processor time, as multiples of what the two tests below measure.
_CLASSICAL_SHARE, _CLASSICAL_PLAIN_LOSS = 0.35, 2.5
"""Of the matrix product's rate, over all that a classical method does; how much slower it is without kernels."""
_SIDE_BY_SIDE = 0.93
"""What a thread of several keeps of its speed: they share the memory."""


@dataclass(frozen=True)
class _NetworkCost:
    """How networks spend time.

    They multiply at ``rate`` times the matrix product's rate, and take the time of ``touch`` operations for each byte
    of their working memory, which stands for all they do besides.
    """

    rate: float
    half_gain: float
    touch: float


_NETWORK = {True: _NetworkCost(1.9, 1.68, 150.0), False: _NetworkCost(0.95, 1.9, 820.0)}
"""With and without compiled kernels."""
_FUSE_BYTES = 200.0
"""Reading, resampling, masking, encoding and storing, per sample of the product."""
_CHANGE_BYTES, _CHANGE_BESIDE = 7.0e4, 0.7
"""Finding what changed, per fine pixel, and how much of that is done side by side."""
_PARTNER_BYTES = 0.9e4
"""The same for each further date that is read and combined with the guide."""
_LEARN_GAIN = 1.6
"""How much faster two threads train a denoiser."""
_WRITE_BYTES, _JUDGE_BYTES = 220.0, 95.0
"""Compressing and writing the product, and looking through it, per sample."""
_LEARN_FLOP, _JUDGE_FLOP = 2.0e11, 4.0e11
"""Learning from the scene and drawing the report: they look at samples, whatever the size."""


@dataclass(frozen=True)
class MachineSpeed:
    """What this machine does.

    Attributes
    ----------
    flops
        Matrix products of one core in float32, operations per second.
    stream
        Copying of large arrays by one core, bytes read and written per second.
    workers
        Threads that are used.
    free
        Share of these threads' time that other programs leave, 0 to 1.
    compiled
        Whether the compiled kernels are there.
    """

    flops: float
    stream: float
    workers: int
    free: float = 1.0
    compiled: bool = True


_LOAD, _TASKS = Path("/proc/loadavg"), Path("/proc/self/task")


def _runs(task: Path) -> bool:
    """Whether a thread of this process runs or waits for its turn."""
    try:
        return task.joinpath("stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] == "R"
    except (OSError, IndexError):
        return False


class _Rivals:
    """Watches from its making on how many cores other programs keep busy."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = self._now()

    def _now(self) -> tuple[float, float, float]:
        """Processor time of all programs and of this one, and the time."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # A guest's time is part of the user's already.
        counted = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        return counted - idle, sum(self._process.cpu_times()[:2]), time.monotonic()

    def wanting(self) -> float:
        """Tasks of others that run or wait for their turn at this moment; infinite where the system does not tell."""
        try:
            running = int(_LOAD.read_text(encoding="ascii").split()[3].partition("/")[0])
        except (OSError, ValueError, IndexError):
            return math.inf
        return float(max(running - sum(_runs(task) for task in _TASKS.glob("[0-9]*")), 0))

    def busy_cores(self) -> float:
        """Cores that others kept busy on average."""
        (everyone, own, until), (everyone0, own0, since) = self._now(), self._before
        return max((everyone - everyone0) - (own - own0), 0.0) / max(until - since, 0.01)


def measure_speed(workers: int) -> MachineSpeed:
    """Measure with the processor time of one thread, and look at how much of it other programs leave."""
    rivals = _Rivals()
    # A plan does not load torch, whose import takes longer than the whole plan; numpy's products are as fast.
    multiply, copy = _torch_tests() if "torch" in sys.modules else _numpy_tests()
    wanting = [rivals.wanting()]
    with one_blas_thread():
        product = _rate(multiply) * 2.0 * _SIDE**3
        wanting.append(rivals.wanting())
        copied = _rate(copy) * 8.0 * _STREAM_VALUES
    wanting.append(rivals.wanting())
    free = free_share(workers, rivals.busy_cores(), max(wanting))
    return MachineSpeed(product, copied, workers, free, image_library() is not None)


def _torch_tests() -> tuple[Callable[[], object], Callable[[], object]]:
    import torch

    a, b, c = (torch.ones(_SIDE, _SIDE) for _ in range(3))
    x, y = torch.ones(_STREAM_VALUES), torch.empty(_STREAM_VALUES)

    def multiply() -> None:
        with torch_threads(1):
            torch.mm(a, b, out=c)

    def copy() -> None:
        with torch_threads(1):
            y.copy_(x)

    return multiply, copy


def _numpy_tests() -> tuple[Callable[[], object], Callable[[], object]]:
    a, b, c = (np.ones((_SIDE, _SIDE), np.float32) for _ in range(3))
    x, y = np.ones(_STREAM_VALUES, np.float32), np.empty(_STREAM_VALUES, np.float32)
    return lambda: np.matmul(a, b, out=c), lambda: np.copyto(y, x)


def free_share(workers: int, busy: float = math.inf, wanting: float = math.inf) -> float:
    """Share of so many threads' time that other programs leave.

    By the load of the last minute, for a moment may be a pause. Where a core is idle beside this process, by no more
    than the cores that are ``busy`` with others: the load remembers programs that have ended. Where none is, by no more
    than twice what was found ``wanting`` a core: tasks of others that ran or waited for their turn.
    """
    process = psutil.Process()
    own = sum(process.cpu_times()[:2]) / max(time.time() - process.create_time(), 1.0)
    others = max(os.getloadavg()[0] - own, 0.0)
    if busy < _FULL_SHARE * max(usable_cores() - 1, 1):
        others = min(others, busy)
    else:
        others = min(others, max(2.0 * wanting, 1.0))
    # A load well below one is this machine's background, not a rival.
    return min(1.0, usable_cores() / (others + workers)) if others > 0.5 else 1.0


def _rate(work: Callable[[], object]) -> float:
    """Calls per second of processor time; the best of a few tries, for a rival spoils the cache too."""
    work()
    best = 0.0
    for _ in range(3):
        count, start = 0, time.thread_time()
        while (spent := time.thread_time() - start) < _SECONDS / 3:
            work()
            count += 1
        best = max(best, count / spent)
    return best


class StageSeconds(NamedTuple):
    """Seconds from the plan to the finished product, stage by stage."""

    learn: float
    fuse: float
    finish: float
    """Writing and judging, which are done side by side."""


def predict_seconds(estimate: Estimate, spec: ModelSpec, samples: int, speed: MachineSpeed, *, judged: bool) -> float:
    """Seconds from the plan to the finished product on the CPU; see :func:`predict_stages`."""
    return sum(predict_stages(estimate, spec, samples, speed, judged=judged))


def predict_stages(
    estimate: Estimate, spec: ModelSpec, samples: int, speed: MachineSpeed, *, judged: bool
) -> StageSeconds:
    """Seconds of each stage from the plan to the finished product on the CPU.

    Parameters
    ----------
    estimate
        Tiles and arithmetic.
    spec
        The method.
    samples
        Samples of the product.
    speed
        Of this machine.
    judged
        Whether the product is judged as well.
    """
    learning = (_LEARN_FLOP + spec.learn_flop / (_LEARN_GAIN if speed.workers > 1 else 1.0)) / speed.flops
    fusing = _method_seconds(estimate, spec, speed) + samples * _FUSE_BYTES / speed.stream
    if speed.workers > 1:
        fusing /= _SIDE_BY_SIDE
    writing = samples * _WRITE_BYTES / speed.stream
    judging = _JUDGE_FLOP / speed.flops + samples * _JUDGE_BYTES / speed.stream if judged else 0.0
    # The product is judged by one thread while others compress it.
    finishing = max(judging, (writing + judging) / speed.workers)
    return StageSeconds(learning / speed.free, fusing / speed.workers / speed.free, finishing / speed.free)


def seconds_to_find_changes(pixels: int, speed: MachineSpeed, *, partners: int = 0) -> float:
    """Seconds of finding what changed between both images of so many fine pixels, and of combining further dates."""
    alone = pixels * (_CHANGE_BYTES + partners * _PARTNER_BYTES) / speed.stream
    return alone * (1.0 - _CHANGE_BESIDE + _CHANGE_BESIDE / min(speed.workers, 8)) / speed.free


def seconds_of_host(samples: int, speed: MachineSpeed) -> float:
    """Seconds of cutting out, masking, encoding and storing while a GPU computes: in threads that overlap."""
    return samples * _FUSE_BYTES / speed.stream / min(speed.workers, 2) / speed.free


def _method_seconds(estimate: Estimate, spec: ModelSpec, speed: MachineSpeed) -> float:
    """Seconds of one core that the method itself takes."""
    if spec.kind != "network":
        loss = 1.0 if speed.compiled else _CLASSICAL_PLAIN_LOSS
        return loss * estimate.flop / (_CLASSICAL_SHARE * speed.flops)
    cost = _NETWORK[speed.compiled]
    gain = cost.half_gain if spec.precision == "bf16" else 1.0
    passed = spec.bytes_per_pixel if spec.touched_bytes_per_pixel is None else spec.touched_bytes_per_pixel
    touched = cost.touch * estimate.pixels * passed
    return (estimate.flop / (cost.rate * gain) + touched) / speed.flops
