"""One small simulated pair, and one small cube, for all end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hsfuse.simulate.products import SimulatedPair, simulate_pair
from hsfuse.simulate.training_scene import training_scene
from hsfuse.spectral import BandTable
from hsfuse.writers import CubeWriter


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


@pytest.fixture
def disk_that_fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """Within ``disk_that_fails(row)``, rows beyond that one cannot be written."""

    @contextmanager
    def after(row: int) -> Iterator[None]:
        write = CubeWriter.write_rows

        def fail_late(self: CubeWriter, row0: int, data: Any) -> None:
            if row0 > row:
                raise OSError(5, "gone")
            write(self, row0, data)

        with monkeypatch.context() as patch:
            patch.setattr(CubeWriter, "write_rows", fail_late)
            yield

    return after
