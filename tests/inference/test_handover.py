"""Finished rows on their way out: what is given arrives, and memory is used again as soon as the sink lets it go."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from hsfuse.inference.handover import Handover
from hsfuse.writers.encoding import SampleEncoding

_SHAPE = (3, 5)
"""Bands and columns."""


def _filled(handover: Handover, rows: int, value: float) -> NDArray[np.float32]:
    buffer = handover.buffer(rows)
    buffer[:rows] = value
    return buffer


def test_memory_is_used_again_where_the_sink_is_done_with_it() -> None:
    given: list[float] = []

    def sink(row0: int, rows: NDArray[np.float32]) -> None:
        given.append(float(rows.mean()))

    with Handover(sink, _SHAPE, SampleEncoding.of("float32"), single=False) as handover:
        first = _filled(handover, 4, 1.0)
        handover.give(0, 4, first)
        waiting = handover._waiting
        assert waiting is not None
        waiting.result(60.0)
        second = _filled(handover, 4, 2.0)
        assert second is first
        handover.give(4, 4, second)
    assert given == [1.0, 2.0]


def test_rows_that_the_sink_still_reads_are_left_alone() -> None:
    going_on = threading.Event()
    given: list[float] = []

    def sink(row0: int, rows: NDArray[np.float32]) -> None:
        assert going_on.wait(60.0)
        given.append(float(rows.mean()))

    with Handover(sink, _SHAPE, SampleEncoding.of("float32"), single=False) as handover:
        first = _filled(handover, 4, 1.0)
        handover.give(0, 4, first)
        second = _filled(handover, 4, 2.0)
        assert second is not first
        going_on.set()
        handover.give(4, 4, second)
    assert given == [1.0, 2.0]
