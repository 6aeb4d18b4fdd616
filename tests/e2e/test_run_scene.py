"""The main job on products in the true formats."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

import hsfuse
from hsfuse.cli.app import app
from hsfuse.errors import OutputError
from hsfuse.inference import budget, pipeline
from hsfuse.readers import open_hsi
from hsfuse.simulate.products import SimulatedPair
from hsfuse.simulate.scene import Truth
from hsfuse.workflows import opened_run
from hsfuse.workflows.demo import read_cube
from hsfuse.workflows.run import RunResult
from hsfuse.workflows.steps import prepare
from hsfuse.writers import journal_folder
from hsfuse.writers.journal import Journal

runner = CliRunner()
BANDS = "24"


@pytest.fixture(scope="module")
def fused(pair: SimulatedPair, tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    output = tmp_path_factory.mktemp("fused") / "out.tif"
    return hsfuse.fuse_scene(pair.prisma, pair.sentinel2, output, method="glp", bands="100", quality="plain")


def test_the_cube_has_grid_wavelengths_and_truth(pair: SimulatedPair, fused: RunResult) -> None:
    assert fused.output is not None
    truth = Truth.load(pair.truth)
    with rasterio.open(fused.output) as cube:
        assert cube.count == 100
        assert cube.res == (10.0, 10.0)
        assert cube.crs == truth.grid.crs
        centre_um = [float(cube.tags(b, ns="IMAGERY")["CENTRAL_WAVELENGTH_UM"]) for b in cube.indexes]
        assert centre_um == sorted(centre_um)
    with open_hsi(fused.output) as product:
        np.testing.assert_allclose(product.bands.centre_nm, np.array(centre_um) * 1000, atol=0.2)
        block = product.grid.block_in(truth.grid)
        reference = truth.reflectance(product.bands, block)
    estimate = read_cube(fused.output)
    valid = np.all(np.isfinite(estimate), axis=0)
    assert 0.4 < valid.mean() < 1.0
    error = np.sqrt(np.mean((estimate - reference)[:, valid] ** 2))
    spread = reference[:, valid].std(axis=1).mean()
    assert error < 0.25 * spread, "the cube is not what lies on the ground"


def test_positions_are_right_to_half_a_pixel(pair: SimulatedPair, fused: RunResult) -> None:
    coregistration = fused.summary["coregistration"]
    assert coregistration["verdict"] in ("accepted", "global only")
    assert coregistration["global_shift_m"] == pytest.approx(pair.config.shift_m, abs=15.0)
    # Moving the truth under the cube by half a pixel either way must make the agreement worse.
    assert fused.output is not None
    truth = Truth.load(pair.truth)
    with open_hsi(fused.output) as product:
        index = [int(product.bands.nearest(nm)[0]) for nm in (665.0, 860.0)]
        bands, block = product.bands.take(index), product.grid.block_in(truth.grid)
    estimate = read_cube(fused.output)[index]
    reference = truth.reflectance(bands, block)

    def misfit(dy: int, dx: int) -> float:
        moved = np.roll(reference, (dy, dx), axis=(1, 2))[:, 4:-4, 4:-4]
        return float(np.nanmean((estimate[:, 4:-4, 4:-4] - moved) ** 2))

    middle = misfit(0, 0)
    for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0)):
        assert middle < misfit(dy, dx)


def test_report_and_numbers_lie_beside_the_cube(fused: RunResult) -> None:
    assert fused.output is not None
    assert fused.report is not None
    page = fused.report.read_text(encoding="utf-8")
    assert "data:image/png;base64" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    numbers = json.loads(fused.output.with_name("out.qa.json").read_text(encoding="utf-8"))
    assert numbers["verdict"]["level"] in ("good", "usable with care", "failed")
    assert 0.0 <= numbers["scores"]["qnr"] <= 1.0
    assert sum(row["kept"] for row in numbers["bands"]) == 100
    assert all(row["reason"] for row in numbers["bands"] if not row["kept"])


def test_tiles_leave_no_seams(pair: SimulatedPair, fused: RunResult, tmp_path: Path) -> None:
    """Many tiles and one tile differ by rounding only: less than half a step of the stored integers."""
    settings = {
        "method": "glp",
        "quality": "plain",
        "bands": BANDS,
        "report": False,
        "dtype": "float32",
        "compress": "none",
    }
    results = [
        hsfuse.fuse_scene(pair.prisma, pair.sentinel2, tmp_path / f"{name}.tif", tile=tile, **settings)
        for name, tile in (("one", 3000), ("many", 60))
    ]
    tiles = [result.summary["plan"]["tiles"] for result in results]
    assert tiles[0] == 1
    assert tiles[1] > 9
    one, many = read_cube(tmp_path / "one.tif"), read_cube(tmp_path / "many.tif")
    np.testing.assert_array_equal(np.isnan(one), np.isnan(many))
    assert np.isfinite(one).mean() > 0.4
    assert np.nanmax(np.abs(one - many)) < 0.5e-4


def test_dry_run_writes_nothing_and_tells_what_the_run_does(
    pair: SimulatedPair, fused: RunResult, tmp_path: Path
) -> None:
    command = ["run", str(pair.prisma), str(pair.sentinel2), "-o", str(tmp_path / "o.tif"), "-q", "--json"]
    command += ["--method", "glp", "--quality", "plain"]
    plans = []
    for flag in ("--dry-run", "--dry-run=full"):
        result = runner.invoke(app, [*command, flag])
        assert result.exit_code == 0, result.output
        plans.append(json.loads(result.stdout))
        assert not list(tmp_path.iterdir())
    quick, full = plans
    assert set(quick["seconds"]) == {"open"}
    assert quick["coregistration"]["verdict"] == "off"
    assert full["coregistration"]["verdict"] == fused.summary["coregistration"]["verdict"]
    # The claimed positions are 140 m off; the plan is the same but for some pixels at the edge.
    for key in ("tiles", "tile_px", "device", "batch"):
        assert quick["plan"][key] == full["plan"][key] == fused.summary["plan"][key]
    assert full["grid"] == fused.summary["grid"]
    assert quick["bands"]["count"] == full["bands"]["count"] == 100
    assert quick["plan"]["disk_bytes"] == pytest.approx(full["plan"]["disk_bytes"], rel=0.1)


@pytest.mark.parametrize(
    ("area", "code", "text"),
    [
        ("1,2,3", 3, "does not exist"),
        ("0,0,0,0", 2, "is empty"),
        ("0,0,100,100", 4, "outside both"),
    ],
)
def test_an_area_that_cannot_be_meant_is_told_before_anything_is_matched(
    pair: SimulatedPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, area: str, code: int, text: str
) -> None:
    def matched(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(prepare, "align", matched)
    given = ["run", str(pair.prisma), str(pair.sentinel2), "-o", str(tmp_path / "o.tif"), "-q", "--aoi", area]
    result = runner.invoke(app, given)
    assert (result.exit_code, text in " ".join(result.output.split())) == (code, True), result.output


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["-o", "no/where/o.tif"], 7, "does not exist"),
        (["-o", "o.png"], 2, "suffix"),
        (["-o", "o.tif", "--bands", "2000"], 3, "fewer than"),
        (["-o", "o.tif", "--max-memory", "2MB"], 6, "needs at least"),
        (["-o", "o.tif", "--aoi", "0,0,100,100"], 4, "area"),
        (["-o", "o.tif", "--model", "none.safetensors", "--method", "ssrfn"], 2, "none.safetensors"),
    ],
)
def test_dry_run_refuses_what_a_run_refuses(
    pair: SimulatedPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], code: int, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = []
    for extra in (["--dry-run"], []):
        result = runner.invoke(app, ["run", str(pair.prisma), str(pair.sentinel2), "-q", *flags, *extra])
        assert result.exit_code == code, result.output
        assert text in result.output
        said.append(result.output)
    if code != 6:  # what a process holds grows
        assert said[0] == said[1]


def test_area_of_interest_as_box_and_file(pair: SimulatedPair, fused: RunResult, tmp_path: Path) -> None:
    left, bottom, right, top = fused.summary["grid"]["bounds"]
    x, y = (left + right) / 2, (bottom + top) / 2
    box = (x - 400, y - 300, x + 400, y + 300)
    settings = {"method": "glp", "quality": "plain", "bands": BANDS, "report": False}
    hsfuse.fuse_scene(
        pair.prisma, pair.sentinel2, tmp_path / "box.tif", aoi=",".join(f"{v:.1f}" for v in box), **settings
    )
    with rasterio.open(tmp_path / "box.tif") as cube:
        assert cube.bounds.left <= box[0]
        assert cube.bounds.right >= box[2]
        assert cube.width <= 800 / 10 + 6
    corners = [[x - 400, y - 300], [x + 400, y - 300], [x, y + 300], [x - 400, y - 300]]
    triangle = {
        "type": "FeatureCollection",
        "crs": {"type": "name", "properties": {"name": fused.summary["grid"]["crs"]}},
        "features": [{"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [corners]}}],
    }
    (tmp_path / "area.geojson").write_text(json.dumps(triangle))
    hsfuse.fuse_scene(
        pair.prisma, pair.sentinel2, tmp_path / "area.tif", aoi=str(tmp_path / "area.geojson"), **settings
    )
    share = np.isfinite(read_cube(tmp_path / "area.tif")[0]).mean()
    assert 0.35 < share < 0.6, "a triangle covers half of its box"


def _command(pair: SimulatedPair, output: Path, *flags: str) -> list[str]:
    return [
        sys.executable, "-m", "hsfuse", "run", str(pair.prisma), str(pair.sentinel2), "-o", str(output),
        "--method", "cnmf", "--quality", "plain", "--bands", BANDS, "--tile", "24", "--no-report",
        "--coregister", "global", "--no-progress", *flags,
    ]  # fmt: skip


def test_killed_and_resumed_gives_the_same_bytes(pair: SimulatedPair, tmp_path: Path) -> None:
    whole = tmp_path / "whole" / "out.tif"
    whole.parent.mkdir()
    subprocess.run(_command(pair, whole), check=True, timeout=300)
    # Where this process stands still for a moment, a run may be over before it can be killed.
    for attempt in range(5):
        broken = tmp_path / f"broken {attempt}" / "out.tif"
        broken.parent.mkdir()
        run = subprocess.Popen(_command(pair, broken), stderr=subprocess.DEVNULL)
        manifest = journal_folder(broken) / "manifest.json"
        while run.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                if json.loads(manifest.read_text())["rows_done"] > 0:
                    run.kill()
                    break
            time.sleep(0.005)
        complete = run.wait() == 0 or (broken.exists() and broken.read_bytes() == whole.read_bytes())
        if not complete:
            break
    assert not complete, "each run was over before it could be killed"
    assert run.returncode == -signal.SIGKILL
    assert not broken.exists(), "a half-written file looks finished"
    done = subprocess.run(_command(pair, broken, "--resume"), check=True, timeout=300, capture_output=True, text=True)
    assert "Going on at row" in done.stderr
    assert broken.read_bytes() == whole.read_bytes()
    assert not journal_folder(broken).exists()


def test_resuming_keeps_to_the_tiles_of_the_first_run(
    pair: SimulatedPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles follow from free memory, which may be another when an interrupted run is gone on with."""
    settings = {"method": "glp", "quality": "plain", "bands": "24", "report": False, "coregister": "global"}
    whole, broken = tmp_path / "whole.tif", tmp_path / "broken.tif"
    monkeypatch.setattr(budget, "_SIZES_PX", (24, 16))
    hsfuse.fuse_scene(pair.prisma, pair.sentinel2, whole, **settings)

    def interrupt(journal: Journal, row0: int, data: np.ndarray) -> None:
        append(journal, row0, data)
        raise KeyboardInterrupt

    append = Journal.append
    monkeypatch.setattr(Journal, "append", interrupt)
    with pytest.raises(KeyboardInterrupt):
        hsfuse.fuse_scene(pair.prisma, pair.sentinel2, broken, **settings)
    monkeypatch.setattr(Journal, "append", append)
    manifest = json.loads((journal_folder(broken) / "manifest.json").read_text())
    assert manifest["rows_done"] > 0
    monkeypatch.setattr(budget, "_SIZES_PX", (16,))
    seen = []
    fuse = pipeline.fuse_scene_tiles
    monkeypatch.setattr(pipeline, "fuse_scene_tiles", lambda *a, **k: seen.append(a[2]) or fuse(*a, **k))
    hsfuse.fuse_scene(pair.prisma, pair.sentinel2, broken, resume=True, **settings)
    assert [plan.tile for plan in seen] == [manifest["plan"]["tile"]] == [24]
    assert broken.read_bytes() == whole.read_bytes()


def test_a_pair_that_lies_pixels_off_and_is_not_aligned_is_told(pair: SimulatedPair, tmp_path: Path) -> None:
    settings = {"method": "bicubic", "bands": "12", "report": False}
    result = hsfuse.fuse_scene(pair.prisma, pair.sentinel2, tmp_path / "o.tif", coregister="off", **settings)
    assert any("off the MSI, and was taken as it lies" in said for said in result.summary["warnings"])
    result = hsfuse.fuse_scene(pair.prisma, pair.sentinel2, tmp_path / "a.tif", coregister="global", **settings)
    assert not any("off the MSI" in said for said in result.summary["warnings"])


def test_another_run_is_refused_before_anything_is_computed(
    pair: SimulatedPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"method": "bicubic", "bands": "12", "report": False, "coregister": "global"}
    finished, broken = tmp_path / "finished.tif", tmp_path / "broken.tif"
    hsfuse.fuse_scene(pair.prisma, pair.sentinel2, finished, **settings)
    with monkeypatch.context() as patched:
        append = Journal.append

        def interrupt(journal: Journal, row0: int, data: np.ndarray) -> None:
            append(journal, row0, data)
            raise KeyboardInterrupt

        patched.setattr(Journal, "append", interrupt)
        with pytest.raises(KeyboardInterrupt):
            hsfuse.fuse_scene(pair.prisma, pair.sentinel2, broken, **settings)
    with monkeypatch.context() as patched:
        patched.setattr(opened_run, "prepare_scene", lambda *_, **__: pytest.fail("computed in vain"))
        for path, said in ((finished, "comes from another run"), (broken, "was another one")):
            with pytest.raises(OutputError, match=said):
                hsfuse.fuse_scene(pair.prisma, pair.sentinel2, path, resume=True, **settings | {"bands": "20"})
    for path in (finished, broken):
        hsfuse.fuse_scene(pair.prisma, pair.sentinel2, path, resume=True, **settings)
    np.testing.assert_array_equal(read_cube(broken), read_cube(finished))


def test_existing_output_is_kept(pair: SimulatedPair, tmp_path: Path) -> None:
    target = tmp_path / "o.tif"
    target.write_bytes(b"precious")
    result = runner.invoke(app, ["run", str(pair.prisma), str(pair.sentinel2), "-o", str(target), "-q"])
    assert result.exit_code == 7
    assert "overwrite" in result.output
    assert target.read_bytes() == b"precious"


def test_all_bands_with_empty_ones_among_them(pair: SimulatedPair, tmp_path: Path) -> None:
    settings = {"method": "gsa", "quality": "plain", "bands": "all", "coregister": "global"}
    result = hsfuse.fuse_scene(pair.prisma, pair.sentinel2, tmp_path / "o.tif", **settings)
    cube = read_cube(tmp_path / "o.tif")
    assert cube.shape[0] == result.summary["bands"]["of"]
    empty = np.isnan(cube).all(axis=(1, 2))
    assert 0 < empty.sum() < 40
    assert result.summary["scores"]["qnr"] is not None
    again = hsfuse.fuse_scene(pair.prisma, pair.sentinel2, tmp_path / "o.tif", resume=True, **settings)
    assert again.summary["scores"] == result.summary["scores"]
    assert again.verdict == result.verdict
    same = ("valid_pixels", "cloud_pixels", "total_pixels")
    assert [again.summary["statistics"][k] for k in same] == [result.summary["statistics"][k] for k in same]


def test_envi_and_cog(pair: SimulatedPair, tmp_path: Path) -> None:
    settings = {"method": "bicubic", "bands": "12", "report": False, "coregister": "global"}
    for name, kind in (("o.img", "envi"), ("c.tif", "cog")):
        hsfuse.fuse_scene(pair.prisma, pair.sentinel2, tmp_path / name, format=kind, **settings)
    np.testing.assert_array_equal(read_cube(tmp_path / "c.tif").shape, read_cube_envi(tmp_path / "o.img").shape)
    np.testing.assert_allclose(read_cube(tmp_path / "c.tif"), read_cube_envi(tmp_path / "o.img"), atol=1e-6)


def read_cube_envi(path: Path) -> np.ndarray:
    """Read with the field's own reader, not with GDAL."""
    import spectral.io.envi as envi

    image = envi.open(str(path.with_suffix(".hdr")), str(path))
    raw = np.asarray(image.open_memmap()).astype(np.float32).transpose(2, 0, 1)
    nodata = float(image.metadata["data ignore value"])
    return np.where(raw == nodata, np.nan, raw / float(image.metadata["reflectance scale factor"]))
