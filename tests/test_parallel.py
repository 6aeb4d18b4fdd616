"""Work in several threads gives what it gives in one, in the same order."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from hsfuse.coregister.warp import Resampler
from hsfuse.grid import Grid, Slice2D
from hsfuse.inference import fill, joining, scene
from hsfuse.native import image
from hsfuse.parallel import allowed_threads, side_by_side, threads_for, together
from hsfuse.writers.encoding import SampleEncoding
from hsfuse.writers.statistics import sampled_statistics


def test_a_run_gives_out_the_threads_that_it_may_use():
    with allowed_threads(6):
        assert (threads_for(4), threads_for(8)) == (4, 6)
        with allowed_threads(1):
            assert threads_for(8) == 1
        assert threads_for(8) == 6


def test_items_are_taken_in_the_callers_thread_and_few_at_a_time():
    taken, here = [], threading.get_ident()

    def items():
        for value in range(9):
            assert threading.get_ident() == here
            taken.append(value)
            yield value

    results = side_by_side(lambda value: value * value, items(), 2)
    assert next(results) == 0
    assert len(taken) <= 4
    assert list(results) == [value * value for value in range(1, 9)]


@pytest.mark.parametrize("threads", [1, 3])
def test_unlike_pieces_keep_their_order_and_leave_no_thread_when_one_fails(threads):
    ended = threading.Event()

    def last():
        ended.wait(5.0)
        return "last"

    def first():
        ended.set()
        return 1

    assert list(together(first, last, threads=threads)) == [1, "last"]

    def fails():
        raise ValueError("the second piece")

    before = set(threading.enumerate())
    results = together(first, fails, last, threads=threads)
    assert next(results) == 1
    with pytest.raises(ValueError, match="the second piece"):
        next(results)
    assert set(threading.enumerate()) == before


@pytest.mark.parametrize("bands", [1, 20])
def test_resampling_does_not_depend_on_the_threads(monkeypatch, bands):
    rng = np.random.default_rng(0)
    source, target = (Grid.from_origin("EPSG:32632", 6e5 + d, 5e6 - d, 30.0, 40, 50) for d in (0.0, 17.0))
    cube = rng.random((bands, 40, 50), dtype=np.float32)
    cube[:, 5:9, 7:20] = np.nan
    cube[-1, 20:23, 3:9] = np.nan
    monkeypatch.setattr(image, "_WORTH_THREADS", 0)
    whole = Slice2D(0, 40, 0, 50)
    found = []
    for threads in (1, 3):
        with allowed_threads(threads):
            found.append(Resampler(source, target).apply(cube, whole, whole))
    np.testing.assert_array_equal(*found)


def test_gaps_are_filled_alike_by_all_threads(monkeypatch):
    rng = np.random.default_rng(0)
    cube = rng.random((40, 30, 30), dtype=np.float32)
    cube[:, rng.random((30, 30)) < 0.3] = np.nan
    monkeypatch.setattr(fill, "_WORTH_THREADS", 0)
    found = []
    for threads in (1, 3):
        with allowed_threads(threads):
            found.append(fill.fill_missing(cube.copy())[0])
    np.testing.assert_array_equal(*found)
    assert np.isfinite(found[0]).all()


def test_statistics_do_not_depend_on_the_threads():
    rng = np.random.default_rng(0)

    class Rows:
        shape, raw_file = (5, 90, 40), None
        samples = rng.integers(-100, 9000, (5, 90, 40)).astype(np.int16)

        def read(self, row0, rows, band0=0, band1=None):
            return self.samples[band0:band1, row0 : row0 + rows]

    found = []
    for threads in (1, 4):
        with allowed_threads(threads):
            found.append(sampled_statistics(Rows(), SampleEncoding.of("int16")))
    assert found[0] == found[1]


def test_strips_are_joined_alike_by_all_threads(monkeypatch):
    rng = np.random.default_rng(0)

    def strip(top, bottom):
        rows = bottom - top
        return scene.RawStrip(
            Slice2D(top, bottom, 0, 8), rng.random((5, rows, 8), np.float32), rng.random((2, 3 * rows, 24), np.float32),
            rng.random((3 * rows, 24)) > 0.5,
        )  # fmt: skip

    first, second = strip(0, 6), strip(6, 9)
    monkeypatch.setattr(joining, "_WORTH_THREADS", 0)
    for threads in (1, 3):
        with allowed_threads(threads):
            joined = first.then(second)
            kept = joined.below(4, 3)
        np.testing.assert_array_equal(joined.hsi, np.concatenate([first.hsi, second.hsi], axis=1))
        np.testing.assert_array_equal(kept.hsi, joined.hsi[:, 4:])
        np.testing.assert_array_equal(kept.msi, joined.msi[:, 12:])
        assert kept.rows == Slice2D(4, 9, 0, 8)
        assert not np.shares_memory(kept.hsi, joined.hsi)
