"""The product's own panchromatic image as the guide, alone and after Sentinel-2."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner
from zoo_weights import weights_of

from hsfuse.cli.app import app
from hsfuse.errors import InputError, UsageError
from hsfuse.readers import open_hsi
from hsfuse.simulate.products import SimulatedPair, simulate_pair
from hsfuse.simulate.scene import Truth
from hsfuse.workflows.batch.plan import make_plan
from hsfuse.workflows.batch.settings import BatchConfig
from hsfuse.workflows.batch.state import BatchState
from hsfuse.workflows.demo import read_cube
from hsfuse.workflows.run import RunResult, fuse_scene

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from pan import PAN_SHIFT_M, scores

sys.path.pop(0)
FEW = {"bands": "24", "report": False, "threads": 1, "quality": "plain"}


@pytest.fixture(scope="module")
def fine_pair(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPair:
    """A pair of a 5 m landscape, whose panchromatic image looks 4 m beside the cube."""
    return simulate_pair(
        tmp_path_factory.mktemp("fine"), size_px=(84, 84), seed=1, scene_pixel_m=5, s2_bands="10m", footprint_deg=0.0,
        shift_m=(143.0, -87.0), pan_shift_m=PAN_SHIFT_M,
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(
    fine_pair: SimulatedPair, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[RunResult, dict[str, float]]]:
    """Runs with three guides, and how near they come to the truth."""
    folder, truth = tmp_path_factory.mktemp("made"), Truth.load(fine_pair.truth)
    runs: dict[str, dict[str, Any]] = {
        "bicubic": {"guide": "pan", "method": "bicubic"},
        "pan": {"guide": "pan", "report": True},
        "pan+s2": {"guide": "pan+s2"},
    }
    found = {}
    for name, settings in runs.items():
        alone = settings["guide"] == "pan"
        cube = folder / f"{name.replace('+', '_')}.tif"
        result = fuse_scene(fine_pair.prisma, None if alone else fine_pair.sentinel2, cube, **(FEW | settings))
        found[name] = result, scores(cube, truth, claimed=alone, shift_m=PAN_SHIFT_M)
    return found


def test_the_cube_is_sharp_lies_right_and_says_what_was_assumed(made) -> None:
    result, found = made["pan"]
    assert result.summary["grid"]["pixel_m"] == 5.0
    assert result.summary["guide"]["response"]["measured"]
    assert found["psnr_db"] > made["bicubic"][1]["psnr_db"] + 3.0
    assert found["position_m"] < 1.0
    page = result.report.read_text(encoding="utf-8")
    assert "Response of PAN" in page
    assert "measured by regression" in page


def test_both_guides_bring_more_than_one(made) -> None:
    result, found = made["pan+s2"]
    assert result.summary["guide"]["pan_on_s2"]["rmse_m"] < 2.0
    assert found["position_m"] < 1.0
    # On larger scenes, with more bands, it is 20 % and more (benchmarks/pan.py).
    assert found["sam_deg"] < 0.87 * made["pan"][1]["sam_deg"]


def test_runs_are_planned_and_gone_on_with_through_the_command_line(fine_pair: SimulatedPair, tmp_path: Path) -> None:
    out = tmp_path / "cube.tif"
    arguments = ["run", str(fine_pair.prisma), "-o", str(out), "--guide", "pan", "--bands", "12", "--no-report", "-q"]
    planned = CliRunner().invoke(app, [*arguments, "--dry-run", "--json"])
    assert planned.exit_code == 0, planned.output
    plan = json.loads(planned.stdout)
    assert plan["grid"]["ratio"] == 6
    assert plan["guide"]["bands"] == ["PAN"]
    assert not list(tmp_path.iterdir())


def test_a_network_for_the_panchromatic_guide_is_tested_on_the_scene_and_leaves_no_seams(
    fine_pair: SimulatedPair, tmp_path: Path, disk_that_fails: Callable[[int], Any]
) -> None:
    """At ratio 6 a strip that methods learn from is high enough to test a correction on it."""
    plan = fuse_scene(fine_pair.prisma, None, tmp_path / "o.tif", dry_run=True, method="bicubic", guide="pan", **FEW)
    left, bottom, right, top = plan.summary["grid"]["bounds"]
    x, y = (left + right) / 2, (bottom + top) / 2
    area = f"{x - 630},{y - 630},{x + 630},{y + 630}"

    def run(name: str, weights: Path, **changes: Any) -> RunResult:
        settings = {
            "method": "mpsrnet-diff-lite", "model": weights, "guide": "pan", "bands": "16", "dtype": "float32",
            "aoi": area, "coregister": "off", "tile": 132,
        }  # fmt: skip
        return fuse_scene(fine_pair.prisma, None, tmp_path / name / "o.tif", **(FEW | settings | changes))

    for name in ("tested", "whole", "broken", "one"):
        (tmp_path / name).mkdir()
    correcting = weights_of("mpsrnet-diff-lite", tmp_path / "a.safetensors", base="glp", ratio=6, guide=("PAN",))
    assert run("tested", correcting).summary["method"]["validation"]["windows"] > 0
    alone = weights_of("mpsrnet-diff-lite", tmp_path / "b.safetensors", ratio=6, guide=("PAN",))
    whole = run("whole", alone).output
    with disk_that_fails(0), pytest.raises(OSError, match="gone"):
        run("broken", alone)
    again = run("broken", alone, resume=True).output
    assert again is not None
    assert whole is not None
    assert again.read_bytes() == whole.read_bytes()
    one = run("one", alone, tile=3000).output
    assert one is not None
    assert np.nanmax(np.abs(read_cube(one) - read_cube(whole))) < 5e-4


def test_rasters_of_other_sensors_take_one_band_as_guide(fine_pair: SimulatedPair, tmp_path: Path) -> None:
    """As a cube of Hyperion with the panchromatic image of ALI: nothing is known of the guide but its pixels."""
    with open_hsi(fine_pair.prisma) as product:
        index = np.flatnonzero((product.bands.centre_nm > 430.0) & (product.bands.centre_nm < 900.0))[::2]
        cube, grid = np.nan_to_num(product.read(product.grid.full, index)), product.grid
        pan = product.panchromatic()
        assert pan is not None
        image = pan.read(pan.grid.full).reshape(1, pan.grid.height // 2, 2, -1, 2).mean(axis=(2, 4))
        bands = product.bands.take(index)
    for name, values, where in (("hsi", cube, grid), ("pan", image, grid.nested(3))):
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", driver="GTiff", count=len(values), height=where.height, width=where.width,
            dtype="float32", crs=where.crs, transform=where.transform,
        ) as file:  # fmt: skip
            file.write(values.astype(np.float32))
            for number, (centre, fwhm) in enumerate(zip(bands.centre_nm, bands.fwhm_nm, strict=True), start=1):
                if name == "hsi":
                    file.update_tags(number, wavelength=f"{centre:.2f}", fwhm=f"{fwhm:.2f}", wavelength_units="nm")
    result = fuse_scene(tmp_path / "hsi.tif", tmp_path / "pan.tif", tmp_path / "o.tif", method="glp", **FEW)
    assert result.summary["grid"]["ratio"] == 3
    found = result.summary["guide"]["response"]
    assert found["measured"]
    assert found["explained"] > 0.98
    assert found["centre_nm"] == pytest.approx(570.0, abs=25.0)


def test_a_batch_needs_no_archive(fine_pair: SimulatedPair, tmp_path: Path) -> None:
    config = BatchConfig.resolve(None, guide="pan")
    entries = make_plan([str(fine_pair.prisma)], [], tmp_path, config, BatchState(tmp_path))
    assert [entry.action for entry in entries] == ["run"]
    assert entries[0].job is not None
    assert entries[0].job.msi == ()


def test_what_cannot_guide_is_refused_before_anything_is_written(fine_pair: SimulatedPair, tmp_path: Path) -> None:
    out = tmp_path / "cube.tif"
    with pytest.raises(UsageError, match="No Sentinel-2 product was given"):
        fuse_scene(fine_pair.prisma, None, out, **FEW)
    with pytest.raises(UsageError, match="no other image"):
        fuse_scene(fine_pair.prisma, fine_pair.sentinel2, out, guide="pan", **FEW)
    with pytest.raises(UsageError, match="two steps"):
        fuse_scene(fine_pair.prisma, fine_pair.sentinel2, out, guide="pan+s2", **(FEW | {"quality": "fast"}))
    bare = tmp_path / "bare.he5"
    bare.write_bytes(fine_pair.prisma.read_bytes())
    with h5py.File(bare, "r+") as file:
        del file["HDFEOS/SWATHS/PRS_L2D_PCO"]
    with pytest.raises(InputError, match="no panchromatic image"):
        fuse_scene(bare, None, out, guide="pan", **FEW)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare.he5"]


def test_the_guide_of_a_finer_landscape_shows_what_ten_metres_do_not(fine_pair: SimulatedPair) -> None:
    with h5py.File(fine_pair.prisma) as file:
        pan = file["HDFEOS/SWATHS/PRS_L2D_PCO/Data Fields/Cube"][60:-60, 60:-60].astype(float)
    half = pan[: pan.shape[0] // 2 * 2, : pan.shape[1] // 2 * 2].reshape(pan.shape[0] // 2, 2, -1, 2)
    within = half.std(axis=(1, 3)).mean() / np.std(pan)
    assert within > 0.05
