"""Mosaics of cubes: what one cube holds alone is copied, overlaps blend, wavelengths and tracks are told apart."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rio_cogeo import cog_validate
from typer.testing import CliRunner

from hsfuse.cli.app import app
from hsfuse.errors import InputError, UsageError
from hsfuse.grid import Grid
from hsfuse.readers import open_hsi
from hsfuse.spectral import BandTable
from hsfuse.workflows.batch.settings import MosaicConfig
from hsfuse.workflows.mosaic import mosaic
from hsfuse.writers import CubeWriter, WriteOptions

UTM32 = CRS.from_epsg(32632)
START = datetime(2024, 6, 21, 10, 30, tzinfo=UTC)
CENTRES = (490.0, 560.0, 665.0, 842.0)


def write_cube(
    path: Path, values: np.ndarray, *, left: float = 700_000.0, top: float = 5_000_000.0, crs: CRS = UTM32,
    centres: tuple[float, ...] = CENTRES, start: datetime = START, dtype: str = "int16",
) -> Path:  # fmt: skip
    grid = Grid.from_origin(crs, left, top, 10.0, *values.shape[1:])
    bands = BandTable.make(np.array(centres), np.full(len(centres), 10.0))
    options = WriteOptions(dtype=dtype)  # type: ignore[arg-type]
    with CubeWriter(
        path, grid, bands, options, identity=path.stem, provenance={}, sensor="PRISMA", acquired=start
    ) as w:
        w.write_rows(0, values.astype(np.float32))
        w.finish()
    return path


def cube(rng: np.random.Generator, height: int, width: int, level: float | None = None, bands: int = 4) -> np.ndarray:
    if level is not None:
        return np.full((bands, height, width), level, np.float32)
    return rng.integers(100, 5000, (bands, height, width)).astype(np.float32) / 10_000


def read(path: Path) -> tuple[Grid, np.ndarray, np.ndarray]:
    with open_hsi(path) as product:
        return product.grid, product.read(product.grid.full), product.bands.centre_nm


def test_two_cubes_of_one_track(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    north, south = cube(rng, 60, 50), cube(rng, 60, 50)
    north[:, :5, :5] = np.nan
    write_cube(tmp_path / "a.tif", north)
    # 40 rows further south and 10 columns further east: 20 rows overlap.
    write_cube(tmp_path / "b.tif", south, left=700_100.0, top=4_999_600.0, start=START + timedelta(seconds=4))
    out = tmp_path / "mosaic.tif"
    facts = mosaic([tmp_path / "a.tif", tmp_path / "b.tif"], out, MosaicConfig(feather_m=80.0))
    grid, values, centres = read(out)
    north, south = read(tmp_path / "a.tif")[1], read(tmp_path / "b.tif")[1]
    assert grid.shape == (100, 60)
    assert facts["resampled"] == []
    np.testing.assert_array_equal(centres, CENTRES)
    np.testing.assert_array_equal(values[:, :40, :50], north[:, :40])
    np.testing.assert_array_equal(values[:, 60:, 10:], south[:, 20:])
    assert np.isnan(values[:, :40, 50:]).all()
    assert np.isnan(values[:, 60:, :10]).all()
    # In the overlap every value lies between those of both cubes, near an edge close to the other cube's.
    both = np.stack([north[:, 40:, 10:], south[:, :20, :40]])
    blended = values[:, 40:60, 10:50]
    assert (blended >= both.min(axis=0) - 1e-4).all()
    assert (blended <= both.max(axis=0) + 1e-4).all()
    weight = (blended - both[1]) / np.where(np.abs(both[0] - both[1]) > 0.05, both[0] - both[1], np.nan)
    assert np.nanmedian(weight[:, 0, 15:25]) > 0.8
    assert np.nanmedian(weight[:, -1, 15:25]) < 0.2
    valid, errors, _ = cog_validate(out, quiet=True)
    assert valid, errors


def test_equal_levels_leave_no_seam_and_bytes_do_not_depend_on_strips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    paths = []
    for number, top in enumerate((5_000_000.0, 4_999_500.0, 4_999_000.0)):
        paths.append(write_cube(tmp_path / f"{number}.tif", cube(rng, 80, 40), top=top, dtype="float32"))
    config = MosaicConfig(feather_m=100.0, dtype="float32")
    mosaic(paths, tmp_path / "one.tif", config)
    monkeypatch.setattr("hsfuse.workflows.mosaic._STRIP_BYTES", 1)
    mosaic(paths, tmp_path / "strips.tif", config)
    assert (tmp_path / "one.tif").read_bytes() == (tmp_path / "strips.tif").read_bytes()
    level = [write_cube(tmp_path / f"l{i}.tif", cube(rng, 80, 40, 0.25), top=5e6 - 500 * i) for i in range(2)]
    mosaic(level, tmp_path / "level.tif", config)
    np.testing.assert_allclose(read(tmp_path / "level.tif")[1], 0.25, atol=1e-6)


def test_other_zone_is_resampled_to_the_first_cubes_pixels(tmp_path: Path) -> None:
    first = write_cube(tmp_path / "a.tif", np.full((4, 60, 60), 0.2), left=728_000.0)
    with rasterio.open(first) as dataset:
        x, y = dataset.bounds.right, dataset.bounds.top
    from hsfuse.grid import reproject_xy

    left, top = reproject_xy(UTM32, CRS.from_epsg(32633), np.array([x - 100.0]), np.array([y]))
    write_cube(
        tmp_path / "b.tif", np.full((4, 60, 60), 0.2), left=10 * round(left[0] / 10), top=10 * round(top[0] / 10),
        crs=CRS.from_epsg(32633),
    )  # fmt: skip
    facts = mosaic([first, tmp_path / "b.tif"], tmp_path / "m.tif")
    grid, values, _ = read(tmp_path / "m.tif")
    assert facts["resampled"] == ["b.tif"]
    assert grid.crs == UTM32
    valid = np.isfinite(values[0])
    assert valid.sum() > 60 * 100
    np.testing.assert_allclose(values[:, valid], 0.2, atol=1e-4)


def test_only_common_wavelengths_are_joined(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    north = cube(rng, 30, 30)
    a = write_cube(tmp_path / "a.tif", north)
    b = write_cube(tmp_path / "b.tif", cube(rng, 30, 30), top=4_999_700.0, centres=(490.4, 600.0, 665.0, 842.3))
    facts = mosaic([a, b], tmp_path / "m.tif")
    _, values, centres = read(tmp_path / "m.tif")
    np.testing.assert_array_equal(centres, (490.0, 665.0, 842.0))
    assert (facts["bands"], facts["dropped_bands"]) == (3, 1)
    np.testing.assert_array_equal(values[:, :30], read(a)[1][[0, 2, 3]])
    c = write_cube(tmp_path / "c.tif", cube(rng, 30, 30), top=4_999_700.0, centres=(1000.0, 1100.0, 1200.0, 1300.0))
    with pytest.raises(InputError, match="no wavelength in common"):
        mosaic([a, c], tmp_path / "n.tif")


def test_tracks_are_told_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    days = (START, START + timedelta(seconds=5), START + timedelta(days=29), START + timedelta(days=29, seconds=5))
    paths = [
        write_cube(tmp_path / f"{i}.tif", cube(rng, 20, 20), top=5_000_000.0 - 150.0 * i, start=day)
        for i, day in enumerate(days)
    ]
    with pytest.raises(UsageError, match=r"2 tracks: 2024-06-21T10:30 \(2 cubes\), 2024-07-20T10:30 \(2 cubes\)"):
        mosaic(paths, tmp_path / "m.tif")
    with pytest.raises(UsageError, match="No track begins at 2023"):
        mosaic(paths, tmp_path / "m.tif", MosaicConfig(track="2023"))
    with pytest.raises(InputError, match="two cubes at least, and there is one"):
        mosaic(paths[:1], tmp_path / "m.tif")
    with pytest.raises(InputError, match=r"no folder of a batch"):
        mosaic([tmp_path], tmp_path / "m.tif")
    call = ["mosaic", *map(str, paths), "-o", str(tmp_path / "m.tif"), "--track", "2024-07", "--json", "--no-progress"]
    done = CliRunner().invoke(app, call)
    assert done.exit_code == 0, done.output
    assert [Path(p).name for p in json.loads(done.stdout.splitlines()[-1])["cubes"]] == ["2.tif", "3.tif"]
