"""`hsfuse coregister` on pairs without a PRISMA product: other cubes, few bands, other map zones; its refusals."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import Resampling, reproject
from typer.testing import CliRunner

from hsfuse.cli.app import app
from hsfuse.grid import Grid, reproject_xy
from hsfuse.readers import open_hsi, open_msi
from hsfuse.simulate.products import SimulatedPair
from hsfuse.spectral import SpectralResponse, srf_weights

runner = CliRunner()
LANDSAT = (("green", 561.0, 57.0), ("red", 655.0, 37.0), ("nir", 865.0, 28.0))
HALF_PX_M = 5.0
"""Half a Sentinel-2 pixel."""


def call(*arguments: object, code: int = 0) -> dict[str, Any]:
    done = runner.invoke(app, ["coregister", *map(str, arguments), "--no-progress", "--json"])
    assert done.exit_code == code, done.output
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def write(path: Path, cube: NDArray[Any], grid: Grid, tags: list[dict[str, str]] | None = None, **profile: Any) -> Path:
    scales = profile.pop("scale", None)
    with rasterio.open(
        path, "w", driver="GTiff", count=len(cube), height=grid.height, width=grid.width, crs=grid.crs,
        transform=grid.transform, dtype=cube.dtype, **profile,
    ) as sink:  # fmt: skip
        sink.write(cube)
        for band, items in enumerate(tags or [], start=1):
            sink.update_tags(band, **items)
        if scales is not None:
            sink.scales, sink.offsets = [(value,) * len(cube) for value in scales]
    return path


def target_cube(pair: SimulatedPair) -> tuple[Grid, Any, NDArray[np.float32]]:
    with open_hsi(pair.prisma) as product:
        good = [i for i in range(0, len(product.bands), 2) if np.isfinite(product.read(product.grid.full, [i])).any()]
        return product.grid, product.bands.take(good), product.read(product.grid.full, good)


def landsat(pair: SimulatedPair) -> tuple[Grid, NDArray[np.uint16]]:
    """Three bands of 30 m as Landsat's Collection 2 stores them: DN = (reflectance + 0.2) / 2.75e-5, fill 0."""
    with open_hsi(pair.prisma) as product:
        weights = srf_weights(product.bands, [SpectralResponse.gaussian(*band) for band in LANDSAT])
        used = np.flatnonzero(weights.any(axis=0))
        cube = np.tensordot(weights[:, used], product.read(product.grid.full, used), axes=1)
        dn = np.clip(np.rint((np.nan_to_num(cube) + 0.2) / 2.75e-5), 1, 65535)
        return product.grid, np.where(np.isfinite(cube), dn, 0).astype(np.uint16)


def reference_raster(pair: SimulatedPair, path: Path, names: tuple[str, ...]) -> Path:
    msi = open_msi(pair.sentinel2)
    cube = msi.read(msi.grid.full, [msi.band_names.index(name) for name in names])
    cloud = msi.cloud(msi.grid.full)
    dn = np.where(np.isfinite(cube) & ~cloud, np.clip(np.rint(cube * 1e4), 1, 65535), 0).astype(np.uint16)
    written = write(path, dn, msi.grid, nodata=0)
    msi.close()
    return written


def field_error(pair: SimulatedPair, field: Path) -> float:
    """RMSE of a written field against the truth inside the image, in metres."""
    with rasterio.open(field) as source:
        assert source.dtypes == ("float32", "float32")
        assert source.descriptions == ("dx_m", "dy_m")
        grid, found = Grid(source.crs, source.transform, *source.shape), source.read().astype(float)
    rows, cols = np.meshgrid(np.arange(20.0, grid.height - 20), np.arange(20.0, grid.width - 20), indexing="ij")
    x, y = grid.xy(rows, cols)
    claimed = CRS.from_epsg(pair.config.hsi_epsg or 32632)
    x0, y0 = reproject_xy(grid.crs, claimed, x, y)
    dx, dy = pair.field.at(x0, y0)
    true_x, true_y = reproject_xy(claimed, grid.crs, x0 + dx, y0 + dy)
    found = found[:, 20:-20, 20:-20]
    return float(np.sqrt(np.mean((found[0] - (true_x - x)) ** 2 + (found[1] - (true_y - y)) ** 2)))


def test_another_cube_with_wavelengths_against_a_product(pair: SimulatedPair, tmp_path: Path) -> None:
    """As EnMAP's cubes come: int16 reflectance, wavelength items, nodata -32768."""
    grid, bands, cube = target_cube(pair)
    stored = np.where(np.isfinite(cube), np.rint(np.nan_to_num(cube) * 1e4), -32768).astype(np.int16)
    tags = [
        {"wavelength": f"{centre:.2f}", "wavelength_units": "nanometers", "fwhm": f"{fwhm:.2f}"}
        for centre, fwhm in zip(bands.centre_nm, bands.fwhm_nm, strict=True)
    ]
    target = write(tmp_path / "enmap.tif", stored, grid, tags, nodata=-32768)
    field, points = tmp_path / "f.tif", tmp_path / "p.gpkg"
    facts = call(target, pair.sentinel2, "-o", tmp_path / "a.tif", "--field", field, "--tie-points", points, "--report")
    assert facts["verdict"] == "accepted"
    assert field_error(pair, field) < HALF_PX_M
    assert facts["swir"] is not None
    with open_hsi(tmp_path / "a.tif") as aligned:
        np.testing.assert_allclose(aligned.bands.centre_nm, bands.centre_nm, atol=0.1)
        assert aligned.grid == grid
    found = pyogrio.read_info(points)
    assert found["features"] >= 12
    assert found["geometry_type"] == "Point"
    assert CRS.from_user_input(found["crs"]) == grid.crs
    wanted = {"dx_m", "dy_m", "sigma_m", "correlation", "confidence", "residual_m", "role"}
    assert wanted <= set(found["fields"])
    page = Path(facts["report"]).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64") >= 4
    assert "data-swipe" in page
    for title in ("Reference", "Target as delivered", "Target co-registered", "Displacement", "Blink"):
        assert title in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page), "the page needs nothing but itself"


@pytest.mark.parametrize("names", [("B03", "B04", "B08"), ("B04",)])
def test_landsat_like_numbers_are_kept(pair: SimulatedPair, tmp_path: Path, names: tuple[str, ...]) -> None:
    """Three bands of 30 m, or the red one, against rasters of 10 m without any metadata."""
    grid, dn = landsat(pair)
    chosen = dn if len(names) == 3 else dn[1:2]
    tags = [{"BAND": name} for name in names]
    target = write(tmp_path / "landsat.tif", chosen, grid, tags, nodata=0, scale=(2.75e-5, -0.2))
    reference = reference_raster(pair, tmp_path / "s2.tif", names)
    field, out = tmp_path / "f.tif", tmp_path / "a.tif"
    facts = call(target, reference, "-o", out, "--field", field)
    assert facts["verdict"] in ("accepted", "global only")
    assert field_error(pair, field) < HALF_PX_M
    with rasterio.open(out) as aligned:
        assert aligned.dtypes == ("uint16",) * len(names)
        assert aligned.nodata == 0
        assert aligned.scales == (2.75e-5,) * len(names)
        assert aligned.offsets == (-0.2,) * len(names)
        assert [aligned.tags(b)["BAND"] for b in aligned.indexes] == list(names)
        moved = aligned.read()
    both = (moved > 0) & (chosen > 0)
    assert both.mean() > 0.3
    assert np.percentile(moved[both], 50) == pytest.approx(np.percentile(chosen[both], 50), rel=0.02)


def test_target_in_another_map_zone(pair: SimulatedPair, tmp_path: Path) -> None:
    grid, dn = landsat(pair)
    zone = CRS.from_epsg(32633)
    bounds = grid.bounds_in(zone)
    other = Grid.from_origin(zone, bounds.left, bounds.top, 30.0, grid.height + 8, grid.width + 8)
    moved = np.zeros((3, *other.shape), np.float32)
    reproject(
        np.where(dn > 0, dn, np.nan).astype(np.float32), moved, src_crs=grid.crs, src_transform=grid.transform,
        dst_crs=zone, dst_transform=other.transform, src_nodata=np.nan, dst_nodata=0, resampling=Resampling.cubic,
    )  # fmt: skip
    target = write(tmp_path / "t.tif", np.nan_to_num(moved).clip(0, 65535).astype(np.uint16), other, nodata=0)
    field = tmp_path / "f.tif"
    facts = call(target, pair.sentinel2, "-o", tmp_path / "a.tif", "--field", field, "--report")
    assert facts["verdict"] in ("accepted", "global only")
    assert field_error(pair, field) < 2.0 * HALF_PX_M, "the cubic warp before costs some"
    with rasterio.open(tmp_path / "a.tif") as aligned:
        assert aligned.crs == zone
    assert "Target co-registered" in (tmp_path / "a.report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "limit", [("--max-rmse-m", "0.0001"), ("--min-peak-score", "100000"), ("--min-correlation", "1")]
)
def test_thresholds_decide_and_the_code_is_five(pair: SimulatedPair, tmp_path: Path, limit: tuple[str, str]) -> None:
    """What is refused leaves no image, field or points, but its report when asked for."""
    grid, dn = landsat(pair)
    target = write(tmp_path / "t.tif", dn, grid, nodata=0)
    facts = call(
        target, pair.sentinel2, "-o", tmp_path / "a.tif", "--field", tmp_path / "f.tif", "--tie-points",
        tmp_path / "p.geojson", "--report", *limit, code=5,
    )  # fmt: skip
    assert facts["exit_code"] == 5
    assert "rejected" in facts["error"]
    assert {p.name for p in tmp_path.iterdir()} - {"t.tif"} <= {"a.report.html", "a.qa"}
    assert "rejected" in (tmp_path / "a.report.html").read_text(encoding="utf-8")


def test_limits_come_from_a_file_too(pair: SimulatedPair, tmp_path: Path) -> None:
    grid, dn = landsat(pair)
    target = write(tmp_path / "t.tif", dn, grid, nodata=0)
    (tmp_path / "c.toml").write_text("max_rmse_m = 0.0001\n")
    call(target, pair.sentinel2, "-o", tmp_path / "a.tif", "--config", tmp_path / "c.toml", code=5)
    facts = call(
        target, pair.sentinel2, "-o", tmp_path / "a.tif", "--config", tmp_path / "c.toml", "--max-rmse-m", "15"
    )
    assert facts["verdict"] in ("accepted", "global only")


def test_points_in_an_unknown_format_are_refused_at_once(pair: SimulatedPair, tmp_path: Path) -> None:
    answer = call(pair.prisma, pair.sentinel2, "-o", tmp_path / "a.tif", "--tie-points", tmp_path / "p.shp", code=2)
    assert ".shp" in answer["error"]
    assert ".gpkg" in answer["hint"]
    assert not list(tmp_path.iterdir())
