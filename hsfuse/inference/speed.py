"""How fast this machine is at the moment, measured in a fraction of a second: what predictions of time rest on."""

from __future__ import annotations

import math
import mmap
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from hsfuse.fusion.base import ModelSpec
from hsfuse.inference.budget import Estimate
from hsfuse.native import regression
from hsfuse.processor import usable_cores
from hsfuse.threads import one_blas_thread

_SIDE = 512
_FILLED_BYTES = 8 << 20
_BANDS, _COMPONENTS, _WINDOW = 4, 8, (48, 96)
_LOOPS, _SMALL = 100, 64
_SECONDS = 0.1
_FULL_SHARE = 0.9
"""Of all cores but the one that measures, how many keep others busy where none is left idle."""
_SIDE_BY_SIDE = 0.93
"""What a thread of several keeps of its speed: they share the memory."""


@dataclass(frozen=True)
class MachineSpeed:
    """What one core of this machine does of the kinds of work that runs are made of, each per second.

    Processors differ in these by factors of one half to four, so a prediction from one of them alone would fit one
    processor.

    Attributes
    ----------
    flops
        Operations of large matrix products in float32.
    filled
        Bytes of memory that is taken anew and filled: new arrays, files that are read and written.
    kernels
        Pixels and components of a compiled moving-window regression; of what stands for it where nothing is compiled.
    calls
        Operations on small arrays, and what Python does around them.
    workers
        Threads that are used.
    free
        Share of these threads' time that other programs leave, 0 to 1.
    compiled
        Whether the compiled kernels are there.
    """

    flops: float
    filled: float
    kernels: float
    calls: float
    workers: int
    free: float = 1.0
    compiled: bool = True


@dataclass(frozen=True)
class _Work:
    """What some work takes, in units of what is measured."""

    filled: float = 0.0
    kernels: float = 0.0
    calls: float = 0.0

    def seconds(self, speed: MachineSpeed) -> float:
        """Seconds of one core."""
        return self.filled / speed.filled + self.kernels / speed.kernels + self.calls / speed.calls


# Processor time of whole scenes (2026-11-29, two cores, four methods), divided by what a profile says it goes into.
_CHANGE, _CHANGE_BESIDE = _Work(filled=690.0, kernels=29.0, calls=0.2), 0.62
"""Finding what changed, per fine pixel, and how much of that is done side by side."""
_PARTNER_SHARE = 1.0
"""Of that, each further date that is read and combined with the guide: most of it is decoded then."""
_LEARN, _LEARN_GAIN = _Work(calls=7e5), 1.6
"""Learning from the scene: it looks at samples, whatever the size; how much faster two threads train a denoiser."""
_FUSE = _Work(filled=8.0, calls=6e-4)
"""Reading, resampling, masking, encoding and storing, per sample of the product."""
_WRITE, _JUDGE = _Work(filled=5.0, calls=2e-3), _Work(filled=1.8, calls=9e-4)
"""Compressing and writing the product, and looking through it, per sample."""
_REPORT = _Work(calls=1.2e6)
"""Drawing the report."""
_CLASSICAL, _CLASSICAL_PLAIN = _Work(kernels=1.37e-3, calls=1e-6), 0.14
"""All that a classical method does, per operation; without kernels the share of the matrix product's rate."""


@dataclass(frozen=True)
class _NetworkCost:
    """How networks spend time.

    Their products count as operations over ``rate``, and each byte of their working memory as ``touch`` operations,
    which stands for all they do besides.
    """

    rate: float
    half_gain: float
    touch: float


_NETWORK = {True: _NetworkCost(2.5, 1.68, 380.0), False: _NetworkCost(0.95, 1.9, 820.0)}
"""With and without compiled kernels."""
_GATE = _Work(filled=1.25e-3, kernels=7e-4, calls=3.6e-7)
"""Such an operation with compiled kernels; without them it goes at the matrix product's rate."""
_PLAIN_KERNELS = 1.1e-3
"""Pixels of the regression that stand for an operation of a matrix product where there are no kernels."""

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
    wanting, found = [rivals.wanting()], []
    with one_blas_thread():
        for work, amount in _tests():
            found.append(_rate(work) * amount)
            wanting.append(rivals.wanting())
    flops, filled, calls, *kernels = found
    free = free_share(workers, rivals.busy_cores(), max(wanting))
    return MachineSpeed(
        flops, filled, kernels[0] if kernels else _PLAIN_KERNELS * flops, calls, workers, free, bool(kernels)
    )  # fmt: skip


def _tests() -> Iterator[tuple[Callable[[], object], float]]:
    """What is measured, and how much each call does: without torch, whose import takes longer than a whole plan."""
    a, b, c = (np.ones((_SIDE, _SIDE), np.float32) for _ in range(3))
    yield lambda: np.matmul(a, b, out=c), 2.0 * _SIDE**3
    source = np.ones(_FILLED_BYTES, np.uint8)

    def fill() -> None:
        with mmap.mmap(-1, _FILLED_BYTES) as memory:
            np.frombuffer(memory, np.uint8)[:] = source

    yield fill, float(_FILLED_BYTES)
    small = np.linspace(-1.0, 1.0, _SMALL**2).reshape(_SMALL, _SMALL)
    result = np.empty_like(small)

    def call() -> None:
        for row in range(_LOOPS):
            np.multiply(small, small, out=result)
            np.add(result, small, out=result)
            float(result[row % _SMALL].sum())

    yield call, float(_LOOPS)
    images = np.random.default_rng(0).random((_BANDS + _COMPONENTS, *_WINDOW), np.float32)
    guide, detail, prior = images[:_BANDS], images[_BANDS:], np.eye(_BANDS, dtype=np.float32)
    pull = np.zeros((_BANDS, _COMPONENTS), np.float32)
    if regression.KERNELS.library() is not None:
        yield lambda: regression.regress(guide, detail, detail, prior, pull, 1.0), float(detail.size)


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
    learning = _LEARN.seconds(speed) + spec.learn_flop / (_LEARN_GAIN if speed.workers > 1 else 1.0) / speed.flops
    fusing = _method_seconds(estimate, spec, speed) + samples * _FUSE.seconds(speed)
    if speed.workers > 1:
        fusing /= _SIDE_BY_SIDE
    writing = samples * _WRITE.seconds(speed)
    judging = _REPORT.seconds(speed) + samples * _JUDGE.seconds(speed) if judged else 0.0
    # The product is judged by one thread while others compress it.
    finishing = max(judging, (writing + judging) / speed.workers)
    return StageSeconds(learning / speed.free, fusing / speed.workers / speed.free, finishing / speed.free)


def seconds_to_find_changes(pixels: int, speed: MachineSpeed, *, partners: int = 0) -> float:
    """Seconds of finding what changed between both images of so many fine pixels, and of combining further dates."""
    alone = pixels * (1.0 + _PARTNER_SHARE * partners) * _CHANGE.seconds(speed)
    return alone * (1.0 - _CHANGE_BESIDE + _CHANGE_BESIDE / min(speed.workers, 8)) / speed.free


def seconds_of_host(samples: int, speed: MachineSpeed) -> float:
    """Seconds of cutting out, masking, encoding and storing while a GPU computes: in threads that overlap."""
    return samples * _FUSE.seconds(speed) / min(speed.workers, 2) / speed.free


def _method_seconds(estimate: Estimate, spec: ModelSpec, speed: MachineSpeed) -> float:
    """Seconds of one core that the method itself takes."""
    if spec.kind != "network":
        if speed.compiled:
            return estimate.flop * _CLASSICAL.seconds(speed)
        return estimate.flop / (_CLASSICAL_PLAIN * speed.flops)
    cost = _NETWORK[speed.compiled]
    gain = cost.half_gain if spec.precision == "bf16" else 1.0
    passed = spec.bytes_per_pixel if spec.touched_bytes_per_pixel is None else spec.touched_bytes_per_pixel
    operations = estimate.flop / (cost.rate * gain) + cost.touch * estimate.pixels * passed
    return operations * _GATE.seconds(speed) if speed.compiled else operations / speed.flops
