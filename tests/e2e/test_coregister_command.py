"""`hsfuse coregister`: products and plain rasters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from scipy.ndimage import gaussian_filter, map_coordinates
from typer.testing import CliRunner

from hsfuse.cli.app import app
from hsfuse.readers import open_hsi
from hsfuse.simulate.products import SimulatedPair

runner = CliRunner()


def call(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(app, ["coregister", *map(str, arguments), "--no-progress"])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_product_field_points_and_report(pair: SimulatedPair, tmp_path: Path) -> None:
    out, field, points, report = (tmp_path / n for n in ("a.tif", "f.tif", "p.geojson", "a.report.html"))
    text = call(pair.prisma, pair.sentinel2, "-o", out, "--field", field, "--tie-points", points, "--report")
    assert "accepted" in text
    with open_hsi(pair.prisma) as product, rasterio.open(field) as saved:
        inside = product.valid(product.grid.full)
        rows, cols = np.nonzero(inside)
        x, y = product.grid.xy(rows.astype(float), cols.astype(float))
        found = saved.read()[:, rows, cols]
        assert saved.descriptions == ("dx_m", "dy_m")
    error = np.hypot(*(found - np.stack(pair.field.at(x, y))))
    assert np.sqrt(np.mean(error**2)) < 5.0, "the saved field is not the true one to half a Sentinel-2 pixel"
    with rasterio.open(out) as aligned, open_hsi(pair.prisma) as product:
        assert aligned.transform.almost_equals(product.grid.transform)
        assert aligned.count == len(product.bands)
    assert len(json.loads(points.read_text())["features"]) >= 12
    page = report.read_text()
    assert "data:image/png" in page
    assert " was aligned to Sentinel-2" in page
    assert "fused with" not in page
    assert "Fusion was done" not in page
    assert "exists already" in call(pair.prisma, pair.sentinel2, "-o", out, code=7)


@pytest.mark.parametrize("bands", [1, 3])
def test_plain_rasters(tmp_path: Path, bands: int) -> None:
    rng = np.random.default_rng(2)
    truth = sum(gaussian_filter(rng.normal(size=(420, 420)), s) * s for s in (2.5, 6.0, 15.0))
    truth = (truth - truth.min()) / np.ptp(truth) * 4000
    row, col = np.mgrid[60:360, 60:360].astype(float)
    # The target claims (row, col) but shows what lies 4.3 pixels south and 7.6 pixels west of there.
    shown = map_coordinates(truth, [row + 4.3, col - 7.6], order=3)
    for name, image, left, top in (("ref.tif", truth, 0.0, 0.0), ("tgt.tif", shown, 600.0, -600.0)):
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", dtype="uint16", count=bands, height=image.shape[0],
            width=image.shape[1], crs="EPSG:32633", transform=from_origin(500_000 + left, 5_000_000 + top, 10, 10),
        ) as sink:  # fmt: skip
            for band in range(bands):
                noisy = image + rng.normal(0, 15, image.shape)
                sink.write(np.clip(noisy, 1, 60000).astype(np.uint16), band + 1)
    field = tmp_path / "f.tif"
    call(tmp_path / "tgt.tif", tmp_path / "ref.tif", "-o", tmp_path / "a.tif", "--field", field)
    with rasterio.open(field) as saved:
        dx, dy = saved.read()[:, 30:-30, 30:-30]
    assert np.median(dx) == pytest.approx(-76.0, abs=2.0)
    assert np.median(dy) == pytest.approx(-43.0, abs=2.0)
    with rasterio.open(tmp_path / "a.tif") as aligned:
        moved = aligned.read(1)[60:-60, 60:-60]
    expected = truth[120:300, 120:300]
    known = np.isfinite(moved)
    assert known.mean() > 0.95
    assert np.corrcoef(moved[known], expected[known])[0, 1] > 0.99


def test_unrelated_rasters_are_rejected(tmp_path: Path) -> None:
    for seed, name in enumerate(("a.tif", "b.tif")):
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", dtype="uint16", count=1, height=200, width=200, crs="EPSG:32633",
            transform=from_origin(500_000, 5_000_000, 10, 10),
        ) as sink:  # fmt: skip
            sink.write(np.random.default_rng(seed).integers(500, 4000, (200, 200)).astype(np.uint16), 1)
    assert "rejected" in call(tmp_path / "a.tif", tmp_path / "b.tif", "-o", tmp_path / "o.tif", code=5)
    assert not (tmp_path / "o.tif").exists()
