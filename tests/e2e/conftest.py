"""One small simulated pair for all end-to-end tests."""

from __future__ import annotations

import pytest

from hsfuse.simulate.products import SimulatedPair, simulate_pair


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPair:
    """A PRISMA and a Sentinel-2 product of one landscape of about 3.6 km, with a position error of 140 m."""
    folder = tmp_path_factory.mktemp("pair")
    return simulate_pair(
        folder, size_px=(124, 120), seed=5, shift_m=(118.0, -76.0), cloud_fraction=0.02, s2_bands="10m", pan=False
    )
