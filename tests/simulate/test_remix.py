"""New materials on a measured structure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hsfuse.simulate.remix import remix
from hsfuse.workflows.training.training_data import nominal_bands

BANDS = nominal_bands(40)


def _image(bands: int = 4) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    patches = np.kron(rng.uniform(0.05, 0.6, (bands, 6, 6)), np.ones((8, 8)))
    return (patches * rng.uniform(0.9, 1.1, (1, 48, 48))).astype(np.float32)


def test_same_seed_same_scene_and_other_seed_other_materials() -> None:
    image = _image()
    first, again, other = remix(image, BANDS, 1), remix(image, BANDS, 1), remix(image, BANDS, 2)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.02


def test_result_has_the_bands_and_is_reflectance() -> None:
    scene = remix(_image(), BANDS, 3)
    assert scene.shape == (40, 48, 48)
    assert scene.dtype == np.float32
    assert scene.min() > 0.0
    assert scene.max() < 2.5


def test_edges_stay_where_they_are() -> None:
    image = _image()
    step = np.abs(np.diff(image, axis=2)).sum(axis=(0, 1))
    edges = np.zeros(47, bool)
    edges[7::8] = True
    assert step[edges].min() > step[~edges].max()
    for seed in range(4):
        change = np.abs(np.diff(remix(image, BANDS, seed), axis=2)).sum(axis=(0, 1))
        assert np.median(change[edges]) > 1.5 * np.median(change[~edges])
