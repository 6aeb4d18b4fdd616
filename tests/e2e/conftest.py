"""One small simulated pair, and one small cube, for all end-to-end tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hsfuse.simulate.products import SimulatedPair, simulate_pair
from hsfuse.simulate.training_scene import training_scene
from hsfuse.spectral import BandTable


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPair:
    """A PRISMA and a Sentinel-2 product of one landscape of about 3.6 km, with a position error of 140 m."""
    folder = tmp_path_factory.mktemp("pair")
    return simulate_pair(
        folder, size_px=(124, 120), seed=5, shift_m=(118.0, -76.0), cloud_fraction=0.02, s2_bands="10m", pan=False
    )


@pytest.fixture(scope="session")
def small_cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve bands of a generated landscape, 72 x 60 pixels, to train on."""
    path, bands = tmp_path_factory.mktemp("cube") / "small.npz", BandTable.make(np.linspace(440.0, 900.0, 12))
    truth = training_scene(3, (72, 60))
    np.savez(path, cube=truth.reflectance(bands, truth.grid.full), wavelength_nm=bands.centre_nm)
    return path
