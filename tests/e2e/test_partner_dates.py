"""Two clear Sentinel-2 dates: the second one is combined with the first."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

from hsfuse.cli.app import app
from hsfuse.cli.run import plan_text, result_text
from hsfuse.simulate.products import SimulatedPair

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "readers"))
from date_samples import clear_pair, read_ground, write_date

runner = CliRunner()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPair:
    return clear_pair(tmp_path_factory.mktemp("clear"))


@pytest.fixture(scope="module")
def dates(scene: SimulatedPair, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three clear dates, 1, 4 and 6 days after the hyperspectral image."""
    folder = tmp_path_factory.mktemp("dates")
    grid, ground = read_ground(scene.sentinel2)
    clear = np.zeros((-(-grid.height // 2), -(-grid.width // 2)), bool)
    return [
        write_date(folder, grid, ground, clear, days, gain=gain, offset=0.002, noise=0.006)
        for days, gain in ((1, 1.0), (4, 1.03), (6, 0.97))
    ]


def _run(scene: SimulatedPair, msi: list[Path], output: Path, *flags: str) -> dict[str, Any]:
    given = ["--method", "glp", "--bands", "20", "--no-progress", "--json", *flags]
    done = runner.invoke(app, ["run", str(scene.prisma), *map(str, msi), "-o", str(output), *given])
    assert done.exit_code == 0, done.output
    summary: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return summary


def _pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as cube:
        values: np.ndarray = cube.read()
    return values


def test_a_second_clear_date_is_combined_with_the_first(
    scene: SimulatedPair, dates: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "two.tif"
    summary = _run(scene, dates[:2], out)
    (partner,) = summary["changes"]["partners"]
    assert partner["used"]
    assert partner["days_apart"] == pytest.approx(4, abs=0.1)
    assert partner["shown_share"] > 0.9
    assert partner["noise_left"] < 0.75
    # Which date each pixel shows is told as before: the first one everywhere.
    assert [(date["used"] > 0.99, date["partner"]) for date in summary["dates"]] == [(True, False), (False, True)]
    with rasterio.open(tmp_path / "two.dates.tif") as layer:
        assert set(np.unique(layer.read(1))) <= {1, -32768}
    item = json.loads((tmp_path / "two.tif.stac.json").read_text())
    assert sum("_MSIL2A_" in link["href"] for link in item["links"]) == 2, "both products were used"
    page = (tmp_path / "two.report.html").read_text()
    assert "Further dates of Sentinel-2" in page
    assert "built-in method" not in page, "a name of a column is one of a dictionary's methods"
    assert page.count('<td class="n">100.0 %</td>') >= 2, "both dates are clear on all of the footprint"
    assert "% of the variance of the guide's noise out" in page.replace("&#39;", "'")


def test_how_many_partners_is_a_setting(scene: SimulatedPair, dates: list[Path], tmp_path: Path) -> None:
    first, none, two = (tmp_path / f"{name}.tif" for name in ("first", "none", "two"))
    alone = _run(scene, dates[:1], first, "--no-report")
    assert "partners" not in alone["changes"]
    off = _run(scene, dates, none, "--no-report", "--partners", "0")
    assert "partners" not in off["changes"]
    np.testing.assert_array_equal(_pixels(none), _pixels(first))
    one = _run(scene, dates, tmp_path / "one.tif", "--no-report", "--partners", "1")
    assert [round(partner["days_apart"]) for partner in one["changes"]["partners"]] == [4]
    both = _run(scene, dates, two, "--no-report")
    assert [round(partner["days_apart"]) for partner in both["changes"]["partners"]] == [4, 6]
    assert (_pixels(two) != _pixels(first)).any()


def test_a_dry_run_names_the_partner(scene: SimulatedPair, dates: list[Path], tmp_path: Path) -> None:
    plan = _run(scene, dates, tmp_path / "out.tif", "--dry-run")
    assert [date["partner"] for date in plan["dates"]] == [False, True, True]
    others = [str(date["start"])[:10] for date in plan["dates"][1:]]
    told = next(line for line in plan_text(plan).splitlines() if line.startswith("dates"))
    assert told.endswith(f"; combined with {' and '.join(others)}")
    without = _run(scene, dates, tmp_path / "out.tif", "--dry-run", "--partners", "0")
    assert not any(date["partner"] for date in without["dates"])


def test_what_fills_a_cloud_is_no_partner_of_itself(
    scene: SimulatedPair, dates: list[Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    grid, ground = read_ground(scene.sentinel2)
    cloud = np.zeros((-(-grid.height // 2), -(-grid.width // 2)), bool)
    cloud[:, : cloud.shape[1] // 2] = True
    cloudy = write_date(tmp_path_factory.mktemp("cloudy"), grid, ground, cloud, 0.5, noise=0.006)
    summary = _run(scene, [cloudy, dates[1]], tmp_path / "out.tif", "--no-report")
    used = {round(date["days_apart"], 1): date for date in summary["dates"]}
    assert used[4.0]["partner"] or used[0.5]["partner"]
    (partner,) = summary["changes"]["partners"]
    assert partner["shown_share"] < 0.65


@pytest.mark.parametrize("damage", ["cut short", "missing"])
def test_a_damaged_partner_costs_what_it_would_bring_and_not_the_run(
    scene: SimulatedPair, dates: list[Path], tmp_path: Path, damage: str
) -> None:
    broken = tmp_path / dates[1].name
    shutil.copytree(dates[1], broken)
    (band,) = broken.rglob("*_B03_10m.jp2")
    if damage == "missing":
        band.unlink()
    else:
        band.write_bytes(band.read_bytes()[: band.stat().st_size * 6 // 10])
    summary = _run(scene, [dates[0], broken, dates[2]], tmp_path / "out.tif", "--no-report")
    used = {round(partner["days_apart"]): partner["used"] for partner in summary["changes"]["partners"]}
    assert used == ({6: True} if damage == "missing" else {4: False, 6: True})
    assert [date["partner"] for date in summary["dates"]] == [False, damage != "missing", True]
    if damage != "missing":
        assert "B03" in summary["changes"]["partners"][0]["refused"]
        told = result_text(summary)
        assert "combined with" not in told, "what became of a partner is said in its own line"
        assert "takes" in next(line for line in told.splitlines() if line.startswith("  partners"))
    whole = _run(scene, [dates[0], dates[2]], tmp_path / "whole.tif", "--no-report")
    assert whole["changes"]["partners"][0]["used"]
    np.testing.assert_array_equal(_pixels(tmp_path / "out.tif"), _pixels(tmp_path / "whole.tif"))


def test_a_copy_of_the_first_date_is_no_partner(scene: SimulatedPair, dates: list[Path], tmp_path: Path) -> None:
    """The same acquisition of a later baseline, delivered under another name."""
    copy = tmp_path / dates[0].name.replace("N0509", "N0510")
    shutil.copytree(dates[0], copy)
    summary = _run(scene, [dates[0], copy], tmp_path / "out.tif", "--no-report")
    assert not any(partner["used"] for partner in summary["changes"].get("partners", []))


def test_another_overflight_of_a_simulated_scene_is_a_partner(tmp_path: Path) -> None:
    """Noise of its own is what a partner brings; equal draws would repeat the first date's."""
    rasters = ["--rows", "90", "--cols", "90", "--clouds", "0", "--seed", "3", "--no-progress", "--json"]
    pairs = []
    for name, flags in (("first", ["--days-apart", "2"]), ("second", ["--days-apart", "7", "--overflight", "1"])):
        done = runner.invoke(app, ["simulate", str(tmp_path / name), *rasters, *flags])
        assert done.exit_code == 0, done.output
        pairs.append(json.loads(done.stdout.strip().splitlines()[-1]))
    images = [pair["sentinel2"] for pair in pairs]
    given = ["--method", "glp", "--bands", "20", "--no-progress", "--json"]
    done = runner.invoke(app, ["run", pairs[0]["hsi"], *images, "-o", str(tmp_path / "out.tif"), *given])
    assert done.exit_code == 0, done.output
    (partner,) = json.loads(done.stdout.strip().splitlines()[-1])["changes"]["partners"]
    assert partner["used"], partner
    assert partner["noise_left"] < 0.75
