"""A SWIR detector that looks beside the VNIR one: measured, reported, corrected when asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import hsfuse
from hsfuse.cli.app import app
from hsfuse.config import CoregisterConfig
from hsfuse.coregister import CoregistrationResult, DisplacementField, coregister_products, measure_swir
from hsfuse.errors import UsageError
from hsfuse.readers import open_hsi, open_msi
from hsfuse.simulate.products import SimulatedPair, simulate_pair
from hsfuse.simulate.scene import Truth
from hsfuse.workflows.demo import read_cube
from hsfuse.workflows.run import RunResult

runner = CliRunner()
SHIFT_M = (14.0, -11.0)
TENTH_PX_M = 3.0
SWIR_NM = (1240.0, 1650.0, 2200.0)


@pytest.fixture(scope="module")
def askew(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPair:
    """A pair whose SWIR bands see the ground 18 m beside what the VNIR bands see."""
    folder = tmp_path_factory.mktemp("askew")
    return simulate_pair(
        folder, size_px=(124, 120), seed=5, shift_m=(118.0, -76.0), cloud_fraction=0.02, s2_bands="all", pan=False,
        vnir_swir_shift_m=SHIFT_M,
    )  # fmt: skip


def run(pair: SimulatedPair, output: Path, **settings: Any) -> RunResult:
    return hsfuse.fuse_scene(pair.prisma, pair.sentinel2, output, method="glp", quality="plain", bands="24", **settings)


@pytest.mark.parametrize("mode", ["auto", "global"])
def test_measured_against_the_20_m_bands(askew: SimulatedPair, mode: str) -> None:
    """Also when the field is one shift, and the scene is distorted by more than the misalignment's error."""
    config = CoregisterConfig.resolve(coregister=mode)
    with open_hsi(askew.prisma) as hsi:
        msi = open_msi(askew.sentinel2, bands="all", target=hsi.grid)
        found = measure_swir(hsi, msi, coregister_products(hsi, msi, config))
        msi.close()
    assert found is not None
    assert found.reference == "B11, B12"
    assert (found.dx_m, found.dy_m) == pytest.approx(SHIFT_M, abs=TENTH_PX_M / 2)
    assert (found.dx_m, found.dy_m) == pytest.approx(SHIFT_M, abs=4.0 * found.sigma_m)
    assert found.sigma_m < TENTH_PX_M / 2
    assert found.significant


def test_measured_without_a_reference(askew: SimulatedPair) -> None:
    with open_hsi(askew.prisma) as hsi:
        found = measure_swir(hsi, None)
    assert found is not None
    assert found.reference == "VNIR bands of the same product"
    assert (found.dx_m, found.dy_m) == pytest.approx(SHIFT_M, abs=TENTH_PX_M)
    assert (found.dx_m, found.dy_m) == pytest.approx(SHIFT_M, abs=4.0 * found.sigma_m)


def test_aligned_detectors_are_left_alone(pair: SimulatedPair, tmp_path: Path) -> None:
    """What is measured there is nothing, and correcting nothing changes nothing."""
    results = [run(pair, tmp_path / f"{on}.tif", correct_swir=on, report=False) for on in (False, True)]
    for result in results:
        swir = result.summary["coregistration"]["swir"]
        assert np.hypot(swir["dx_m"], swir["dy_m"]) < TENTH_PX_M
        assert not swir["significant"]
        assert not swir["corrected"]
        assert not any("SWIR" in text for text in result.summary["warnings"])
    np.testing.assert_array_equal(*(read_cube(tmp_path / f"{on}.tif") for on in (False, True)))


def test_correction_restores_the_truth(askew: SimulatedPair, tmp_path: Path) -> None:
    truth = Truth.load(askew.truth)
    errors: dict[str, dict[bool, float]] = {}
    for on in (False, True):
        result = run(askew, tmp_path / f"{on}.tif", correct_swir=on, s2_bands="10m")
        assert result.output is not None
        swir = result.summary["coregistration"]["swir"]
        assert swir["reference"] == "B11, B12", "the 20 m bands serve although they are not fused"
        assert swir["corrected"] is on
        assert any("--correct-swir" in text for text in result.summary["warnings"]) is not on
        page = (tmp_path / f"{on}.report.html").read_text(encoding="utf-8")
        assert "SWIR onto VNIR" in page
        numbers = json.loads((tmp_path / f"{on}.qa.json").read_text(encoding="utf-8"))
        assert numbers["coregistration"]["swir"] == swir
        with open_hsi(result.output) as product:
            block = product.grid.block_in(truth.grid)
            for name, wanted in (("SWIR", SWIR_NM), ("VNIR", (560.0, 665.0, 850.0))):
                index = np.unique(product.bands.nearest(wanted))
                estimate = product.read(product.grid.full, index)
                reference = truth.reflectance(product.bands.take(index), block)
                errors.setdefault(name, {})[on] = float(np.sqrt(np.nanmean((estimate - reference) ** 2)))
    assert errors["SWIR"][True] < 0.85 * errors["SWIR"][False]
    assert errors["VNIR"][True] == pytest.approx(errors["VNIR"][False], rel=0.02), "only the SWIR bands move"


def test_command_corrects_the_aligned_cube(askew: SimulatedPair, tmp_path: Path) -> None:
    out = tmp_path / "a.tif"
    done = runner.invoke(
        app,
        ["coregister", str(askew.prisma), str(askew.sentinel2), "-o", str(out), "--correct-swir", "--json",
         "--no-progress", "-q"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    swir = json.loads(done.stdout)["swir"]
    assert swir["corrected"]
    assert swir["sigma_m"] < TENTH_PX_M / 2
    with open_hsi(out) as aligned:
        left = measure_swir(aligned, None)
    assert left is not None
    assert left.length_m < TENTH_PX_M, "the detectors of the aligned cube look at the same place"


def test_off_measures_only_when_asked_and_within_the_product(askew: SimulatedPair, tmp_path: Path) -> None:
    """Nothing says then that the images lie on each other; here they are 140 m apart."""
    off = run(askew, tmp_path / "o.tif", coregister="off", report=False)
    assert off.summary["coregistration"]["swir"] is None
    on = run(askew, tmp_path / "c.tif", coregister="off", correct_swir=True, report=False)
    swir = on.summary["coregistration"]["swir"]
    assert swir["reference"] == "VNIR bands of the same product"
    assert (swir["dx_m"], swir["dy_m"]) == pytest.approx(SHIFT_M, abs=TENTH_PX_M)


def test_swir_field_is_the_field_moved(askew: SimulatedPair) -> None:
    with open_hsi(askew.prisma) as hsi:
        found = measure_swir(hsi, None)
    field = DisplacementField.shift(100.0, -50.0)
    result = replace(CoregistrationResult.off(), field=field, swir=found)
    assert found is not None
    assert np.allclose(result.swir_field.at(0.0, 0.0), (100.0 + found.dx_m, -50.0 + found.dy_m))
    assert result.swir_shift_m == (found.dx_m, found.dy_m)


def test_simulate_command_writes_it(tmp_path: Path) -> None:
    done = runner.invoke(
        app, ["simulate", str(tmp_path / "s"), "--rows", "60", "--cols", "60", "--swir-shift", "12", "-9", "-q"]
    )
    assert done.exit_code == 0, done.output
    facts = Truth.load(tmp_path / "s" / "truth.npz").facts
    assert tuple(facts["config"]["vnir_swir_shift_m"]) == (12.0, -9.0)


def test_the_setting_has_a_name_in_files_too(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("correct_swir = true\n")
    assert CoregisterConfig.resolve(file).correct_swir
    file.write_text("correct_swirl = true\n")
    with pytest.raises(UsageError, match="correct"):
        CoregisterConfig.resolve(file)
