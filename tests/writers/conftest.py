"""A small cube and a shortcut to write it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.crs import CRS
from writers_support import CENTRES_NM, FWHM_NM, PROVENANCE, Cube, WriteCube

from hsfuse.grid import Grid
from hsfuse.spectral import BandTable
from hsfuse.writers import CubeWriter, WriteOptions, WrittenProduct


@pytest.fixture
def bands() -> BandTable:
    return BandTable.make(CENTRES_NM, FWHM_NM)


@pytest.fixture
def grid() -> Grid:
    # Neither side is a multiple of a tile, and the origin lies off the 10 m raster as PRISMA grids do.
    return Grid.from_origin(CRS.from_epsg(32632), 547452.5, 5953067.5, 10.0, 300, 290)


@pytest.fixture
def cube(grid: Grid) -> Cube:
    rng = np.random.default_rng(7)
    data = rng.uniform(0.0, 0.6, (8, *grid.shape)).astype(np.float32)
    data[:, :40, :30] = np.nan
    data[5, 100:130, 50:60] = np.nan
    data[2, 200, 10:20] = -0.013
    return data


@pytest.fixture
def write_cube(grid: Grid, bands: BandTable, cube: Cube) -> WriteCube:
    def write(path: Path, *, rows: int = 64, threads: int | None = None, **options: Any) -> WrittenProduct:
        writer = CubeWriter(
            path, grid, bands, WriteOptions(**options), identity="1234abcd", provenance=PROVENANCE,
            description="Fused cube", sensor="PRISMA", acquired=datetime(2024, 4, 2, 10, 28, 37, tzinfo=UTC),
            bad_bands=[7], threads=threads,
        )  # fmt: skip
        with writer:
            for row0 in range(writer.rows_done, grid.height, rows):
                writer.write_rows(row0, cube[:, row0 : row0 + rows])
            return writer.finish()

    return write
