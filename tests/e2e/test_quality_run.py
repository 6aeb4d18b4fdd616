"""`hsfuse run` as it is, and `--quality`: confidence layer, report and summary of a pair with a missed cloud."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

import hsfuse
from hsfuse.cli.app import app
from hsfuse.simulate.products import SimulatedPair
from hsfuse.workflows.run import RunResult

runner = CliRunner()


@pytest.fixture(scope="module")
def guide(pair: SimulatedPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Sentinel-2 image as a GeoTIFF with a cloud that no mask knows."""
    from hsfuse.readers import open_msi

    path = tmp_path_factory.mktemp("guide") / "s2.tif"
    with open_msi(pair.sentinel2) as product:
        grid = product.grid
        image = product.read(grid.full)
    rows, cols = grid.shape
    image[:, rows // 2 : rows // 2 + 30, cols // 2 : cols // 2 + 36] = 0.7
    with rasterio.open(
        path, "w", driver="GTiff", width=cols, height=rows, count=4, dtype="float32", crs=grid.crs,
        transform=grid.transform, nodata=np.nan,
    ) as dataset:  # fmt: skip
        dataset.write(image)
        for band, name in enumerate(("B02", "B03", "B04", "B08"), start=1):
            dataset.set_band_description(band, name)
    return path


@pytest.fixture(scope="module")
def made(pair: SimulatedPair, guide: Path, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    output = tmp_path_factory.mktemp("quality") / "out.tif"
    return hsfuse.fuse_scene(pair.prisma, guide, output, method="glp", bands="24")


def test_the_cloud_is_in_the_summary_the_report_and_the_layer(made: RunResult) -> None:
    changes = made.summary["changes"]
    assert 0.001 < changes["changed_share"] < 0.1
    assert changes["trusted"]
    assert made.summary["config"]["quality"] == "standard"
    assert made.summary["method"]["refinement"]["used"] in ("map", "clean")
    assert made.report is not None
    assert "Changes between both images" in made.report.read_text(encoding="utf-8")
    with rasterio.open(made.summary["confidence"]) as layer:
        assert made.output is not None
        with rasterio.open(made.output) as cube:
            assert (layer.shape, layer.transform, layer.crs) == (cube.shape, cube.transform, cube.crs)
            data = cube.read(1) != cube.nodata
        assert layer.descriptions == ("change probability", "expected relative error", "source")
        change, error, source = layer.read()
        assert layer.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert layer.scales[:2] == (1e-4, 1e-4)
        assert np.array_equal(source != 0, data)
        assert (change[source == 2] > 5000).mean() > 0.6
        assert 0.0005 < (source == 2).mean() < 0.1
        assert (error[data] < 20_000).mean() > 0.9


def test_a_guide_of_another_place_is_not_used_and_that_is_said(
    pair: SimulatedPair, guide: Path, tmp_path: Path
) -> None:
    turned = tmp_path / "turned.tif"
    with rasterio.open(guide) as image, rasterio.open(turned, "w", **image.profile) as other:
        other.write(image.read()[:, ::-1, ::-1])
        other.descriptions = image.descriptions
    given = {"bands": "12", "coregister": "off", "psf_fwhm": 1.0, "quality": "fast"}
    made = hsfuse.fuse_scene(pair.prisma, turned, tmp_path / "a.tif", method="glp", **given)
    assert made.method == "bicubic"
    assert not made.summary["changes"]["trusted"]
    assert any("differ on most of the ground" in said for said in made.summary["warnings"])
    assert made.report is not None
    assert "the guide was not used" in made.report.read_text(encoding="utf-8")
    hsfuse.fuse_scene(pair.prisma, turned, tmp_path / "b.tif", method="bicubic", **given)
    with rasterio.open(tmp_path / "a.tif") as one, rasterio.open(tmp_path / "b.tif") as two:
        np.testing.assert_array_equal(one.read(), two.read())


def test_minimum_confidence_leaves_it_out(pair: SimulatedPair, guide: Path, made: RunResult, tmp_path: Path) -> None:
    found = runner.invoke(
        app,
        ["run", str(pair.prisma), str(guide), "-o", str(tmp_path / "sure.tif"), "--method", "glp", "--bands", "24",
         "--quality", "fast", "--min-confidence", "0.5", "--no-report", "--json", "--no-progress"],
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    summary = json.loads(found.stdout.strip().splitlines()[-1])
    with rasterio.open(summary["output"]) as sure, rasterio.open(str(made.output)) as cube:
        missing = (sure.read(1) == sure.nodata) & (cube.read(1) != cube.nodata)
    assert 0.0005 < missing.mean() < 0.1


def test_the_layer_never_replaces_other_files(pair: SimulatedPair, guide: Path, tmp_path: Path) -> None:
    layer = tmp_path / "x.confidence.tif"
    layer.write_bytes(b"mine")
    for more in ([], ["--overwrite"]):
        found = runner.invoke(
            app, ["run", str(pair.prisma), str(guide), "-o", str(tmp_path / "x.tif"), "--quality", "fast", *more]
        )
        assert found.exit_code == 7, found.output
        assert layer.read_bytes() == b"mine"


def test_a_plain_cube_takes_the_layer_of_the_old_one_away(made: RunResult, tmp_path: Path) -> None:
    from hsfuse.workflows.steps.confidence_path import old_confidence

    layer, foreign = tmp_path / "a.confidence.tif", tmp_path / "b.confidence.tif"
    layer.write_bytes(Path(made.summary["confidence"]).read_bytes())
    foreign.write_bytes(b"mine")
    # It goes when the cube is put in place.
    assert old_confidence(tmp_path / "a.tif") == (layer,)
    assert old_confidence(tmp_path / "b.tif") == ()


def test_without_quality_there_is_no_layer(pair: SimulatedPair, tmp_path: Path) -> None:
    result = runner.invoke(
        app,
        [
            "run",
            str(pair.prisma),
            str(pair.sentinel2),
            "-o",
            str(tmp_path / "x.tif"),
            "--quality",
            "plain",
            "--min-confidence",
            "0.5",
        ],
    )
    assert result.exit_code == 2
    assert "--quality" in result.output


def test_methods_can_be_compared_with_it(pair: SimulatedPair, guide: Path, tmp_path: Path) -> None:
    report = tmp_path / "compare.html"
    found = runner.invoke(
        app,
        ["compare", str(pair.prisma), str(guide), "-o", str(report), "--methods", "glp", "--bands", "24",
         "--quality", "fast", "--window", "60", "--reduced", "--no-progress"],
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    assert report.is_file()
