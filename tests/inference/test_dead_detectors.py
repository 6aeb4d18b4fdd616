"""Detectors that are dead in one band each: hardly a column is complete, and nearly all of it was measured."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import hsfuse
from hsfuse.inference.scene import measured_pixels

sys.path.insert(0, str(Path(__file__).parents[1] / "fusion"))
from pair_support import RATIO, make_pair


@pytest.mark.parametrize("method", ["glp", "ssrfn-lite"])
def test_dead_detectors_cost_their_own_samples_only(method: str) -> None:
    pair = make_pair((36, 48), bands=60)
    dead = np.random.default_rng(0).random((60, 48)) < 0.03
    assert dead.any(axis=0).mean() > 0.7
    broken = pair.hsi.copy()
    broken[np.broadcast_to(dead[:, None], broken.shape)] = np.nan
    whole, found = (
        hsfuse.fuse(hsi, pair.msi, ratio=RATIO, method=method, srf=pair.srf, wavelengths_nm=pair.centre_nm)
        for hsi in (pair.hsi, broken)
    )
    told = np.isfinite(found)
    assert told.mean() > 0.95

    def error(cube: np.ndarray) -> float:
        return float(np.sqrt(((cube - pair.truth)[told] ** 2).mean()))

    assert error(found) < 1.05 * error(whole)


def test_a_band_that_is_mostly_missing_and_pixels_that_are_count_as_before() -> None:
    missing = np.zeros((40, 4, 6), bool)
    assert measured_pixels(missing).all()
    missing[3] = True
    missing[:, 1, 2] = True
    missing[5, 0, 0] = True
    expected = np.ones((4, 6), bool)
    expected[1, 2] = expected[0, 0] = False
    assert np.array_equal(measured_pixels(missing), expected)
    # One band or another is missing nearly everywhere: nearly complete pixels count, others do not.
    for col in range(6):
        missing[6 + col, :, col] = True
    missing[6:30, 3, 3] = True
    expected[:] = True
    expected[1, 2] = expected[3, 3] = False
    assert np.array_equal(measured_pixels(missing), expected)
