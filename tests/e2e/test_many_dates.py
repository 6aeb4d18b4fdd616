"""An archive of eight half-cloudy dates in place of one clear Sentinel-2 image."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

import hsfuse
from hsfuse.cli.app import app
from hsfuse.errors import OutputError
from hsfuse.grid import Grid
from hsfuse.simulate.products import SimulatedPair
from hsfuse.simulate.scene import Truth
from hsfuse.writers import DATE_MAP, CubeWriter

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "readers"))
from date_samples import bands_of, clear_pair, read_ground, write_date

DAYS = (1, 4, 6, 9, 11, 14, 16, 19)
runner = CliRunner()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPair:
    return clear_pair(tmp_path_factory.mktemp("clear"))


@pytest.fixture(scope="module")
def archive(scene: SimulatedPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight dates of the ground that the clear product shows, in a folder for each."""
    folder = tmp_path_factory.mktemp("archive")
    grid, ground = read_ground(scene.sentinel2)
    clouds = bands_of(range(8), -(-grid.height // 2), -(-grid.width // 2))
    for number, days in enumerate(DAYS):
        write_date(
            folder / "2024" / f"{number}", grid, ground, clouds[number], days, gain=1.0 + 0.02 * number,
            offset=0.004 * number, noise=0.001,
        )  # fmt: skip
    return folder


def _run(scene: SimulatedPair, msi: Path, output: Path, *flags: str) -> dict[str, Any]:
    given = ["--method", "glp", "--quality", "plain", "--bands", "20", "--no-progress", "--json", *flags]
    done = runner.invoke(app, ["run", str(scene.prisma), str(msi), "-o", str(output), *given])
    assert done.exit_code == 0, done.output
    summary: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return summary


def _psnr(path: Path, truth: Truth, where: np.ndarray) -> float:
    """Mean over bands against the truth, over pixels of the cube's grid."""
    with rasterio.open(path) as cube:
        values, grid = cube.read(), Grid(cube.crs, cube.transform, *cube.shape)
        centre, fwhm = (np.array([float(cube.tags(i)[key]) for i in cube.indexes]) for key in ("wavelength", "fwhm"))
    true = truth.reflectance((centre, fwhm), grid.block_in(truth.grid))[:, where]
    error = np.mean((values[:, where] / 1e4 - true) ** 2, axis=1)
    return float(np.mean(10.0 * np.log10(true.max(axis=1) ** 2 / error)))


def test_eight_half_cloudy_dates_are_as_good_as_one_clear_date(
    scene: SimulatedPair, archive: Path, tmp_path: Path
) -> None:
    one, many = tmp_path / "one.tif", tmp_path / "many.tif"
    _run(scene, scene.sentinel2, one, "--no-report")
    summary = _run(scene, archive, many)
    assert summary["coregistration"]["verdict"] == "accepted"
    with rasterio.open(one) as clear, rasterio.open(many) as cube:
        expected, found = clear.read(1) != clear.nodata, cube.read(1) != cube.nodata
    assert (found & expected).sum() >= 0.98 * expected.sum(), "of the pixels that are clear in any date"
    truth = Truth.load(scene.truth)
    assert _psnr(many, truth, found & expected) > _psnr(one, truth, found & expected) - 0.5

    dates = [date for date in summary["dates"] if date["used"] > 0]
    assert [round(date["days_apart"]) for date in dates] == [1, 4, 6, 9, 11, 14]
    assert all(0.4 < date["cloudy"] < 0.6 for date in dates)
    for number, date in enumerate(dates):
        np.testing.assert_allclose(date["gain"], 1 / (1 + 0.02 * number), rtol=0.005)
    path = tmp_path / "many.dates.tif"
    assert str(path) in summary["sidecars"]
    with rasterio.open(path) as layer, rasterio.open(many) as cube:
        numbers, days = layer.read()
        assert layer.transform == cube.transform
        assert layer.shape == cube.shape
        assert "1: 2024-06-22 S2A_MSIL2A_20240622" in layer.tags(1)["values"]
    assert set(np.unique(numbers[found])) == {1, 2, 3, 4, 5, 6}
    assert set(np.unique(days[numbers == 3])) == {6}
    item = json.loads((tmp_path / "many.tif.stac.json").read_text())
    assert item["assets"]["dates"]["href"] == "./many.dates.tif"
    assert sum("_MSIL2A_" in link["href"] for link in item["links"]) == 6, "the products that were used"
    page = (tmp_path / "many.report.html").read_text()
    assert "Dates of the multispectral image" in page
    assert "2024-06-25" in page
    assert len(json.loads((tmp_path / "many.qa.json").read_text())["dates"]) >= 6

    # A cube of one date takes the map of the older cube away.
    with pytest.raises(OutputError, match=r"many\.tif exists"):
        hsfuse.fuse_scene(scene.prisma, scene.sentinel2, many, method="glp", quality="plain", bands="20", report=False)
    _run(scene, scene.sentinel2, many, "--no-report", "--overwrite")
    assert not path.exists()


def test_resumed_runs_of_many_dates_give_the_same_bytes(
    scene: SimulatedPair, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"method": "bicubic", "bands": "8", "report": False, "coregister": "off", "tile": 96}
    settings["s2_date"] = "2024-06-22,2024-06-25,2024-07-05"
    whole, broken = tmp_path / "whole.tif", tmp_path / "broken.tif"
    hsfuse.fuse_scene(scene.prisma, archive, whole, **settings)
    written = CubeWriter.write_rows

    def cut_off(self: CubeWriter, row0: int, data: Any) -> None:
        if row0 > 0:
            raise KeyboardInterrupt
        written(self, row0, data)

    with monkeypatch.context() as patch:
        patch.setattr(CubeWriter, "write_rows", cut_off)
        with pytest.raises(KeyboardInterrupt):
            hsfuse.fuse_scene(scene.prisma, archive, broken, **settings)
    hsfuse.fuse_scene(scene.prisma, archive, broken, resume=True, **settings)
    assert broken.read_bytes() == whole.read_bytes()
    assert DATE_MAP.path(broken).read_bytes() == DATE_MAP.path(whole).read_bytes()


def test_somebody_elses_file_is_not_taken_for_a_date_map(scene: SimulatedPair, archive: Path, tmp_path: Path) -> None:
    (tmp_path / "out.dates.tif").write_bytes(b"II*\0 precious")
    with pytest.raises(OutputError, match=r"out\.dates\.tif is in the way"):
        hsfuse.fuse_scene(scene.prisma, archive, tmp_path / "out.tif", overwrite=True, coregister="off")
    assert (tmp_path / "out.dates.tif").read_bytes() == b"II*\0 precious"
