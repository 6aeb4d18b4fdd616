"""Stand-ins for missing samples."""

from __future__ import annotations

import numpy as np

from hsfuse.inference.fill import fill_missing


def test_gaps_in_a_spectrum_are_interpolated() -> None:
    cube = np.arange(5, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    cube[2, 0, 0] = cube[0, 1, 1] = cube[3, 1, 1] = cube[4, 1, 1] = np.nan
    filled, missing = fill_missing(cube.copy())
    assert missing.sum() == 4
    assert filled[2, 0, 0] == 2.0
    assert filled[0, 1, 1] == 1.0
    assert filled[4, 1, 1] == 2.0


def test_empty_pixels_take_the_nearest_spectrum() -> None:
    cube = np.random.default_rng(0).random((3, 6, 6), dtype=np.float32)
    cube[:, :, 4:] = np.nan
    filled, missing = fill_missing(cube.copy())
    assert missing[:, :, 4:].all()
    np.testing.assert_array_equal(filled[:, :, 5], cube[:, :, 3])


def test_complete_and_empty_cubes() -> None:
    cube = np.ones((2, 3, 3), np.float32)
    assert not fill_missing(cube)[1].any()
    assert (fill_missing(np.full((2, 3, 3), np.nan, np.float32))[0] == 0).all()
