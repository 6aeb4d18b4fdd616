"""How fast one core and the memory are at this moment: on shared machines figures differ by half between two minutes.

    python benchmarks/machine_speed.py

Best of five each: a loop in Python (milliseconds for a million additions), a real transform of 1500 x 1500 samples
(milliseconds), a copy of 0.2 GB (GB/s, read and write counted). ``full_scene.py`` and ``stage_scaling.py`` print it
before and after what they measure.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

_REPEATS = 5


def _best(work: Callable[[], object]) -> float:
    """Least processor time of this thread, seconds."""
    least = float("inf")
    for _ in range(_REPEATS):
        begun = time.thread_time()
        work()
        least = min(least, time.thread_time() - begun)
    return least


def machine_speed() -> str:
    """Return what one core and the memory do now, as a sentence."""
    image = np.random.default_rng(0).random((1500, 1500), dtype=np.float32)
    source, target = np.zeros(50_000_000, np.float32), np.empty(50_000_000, np.float32)
    loop = 1e3 * _best(lambda: sum(i * i for i in range(1_000_000)))
    transform = 1e3 * _best(lambda: np.fft.rfft2(image))
    copied = 2e-9 * source.nbytes / _best(lambda: np.copyto(target, source))
    return f"speed of one core: loop {loop:.0f} ms, transform {transform:.0f} ms, copy {copied:.0f} GB/s"


if __name__ == "__main__":
    print(machine_speed())
