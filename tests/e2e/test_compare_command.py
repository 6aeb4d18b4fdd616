"""`hsfuse compare` on a cube and on a pair, through the command line."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from hsfuse.cli.app import app
from hsfuse.fusion.nets import zoo
from hsfuse.simulate.products import SimulatedPair
from hsfuse.simulate.training_scene import training_scene
from hsfuse.workflows.steps import method_specification
from hsfuse.workflows.training.training_data import nominal_bands

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflows"))
from network_weights import BANDS, METHOD, choose_automatically, write_tiny

runner = CliRunner()


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cube") / "scene.npz"
    truth = training_scene(4, (108, 90))
    bands = nominal_bands(60)
    reflectance = truth.reflectance(bands, truth.grid.full)
    # A corner without data: the largest solid part is compared.
    reflectance[:, :12] = np.nan
    np.savez(path, cube=reflectance, wavelength_nm=bands.centre_nm, fwhm_nm=bands.fwhm_nm)
    return path


@pytest.fixture(autouse=True)
def no_shipped_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo, "zoo_folders", lambda: [tmp_path])


def _compare(*arguments: object) -> Result:
    return runner.invoke(app, ["compare", "-q", "--quality", "plain", "--threads", "1", *map(str, arguments)])


def _scores(result: Result) -> dict[str, dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return {m["name"]: m["scores"] for m in json.loads(result.stdout)["methods"]}


def test_a_cube_is_compared_at_reduced_resolution(cube: Path, tmp_path: Path) -> None:
    report = tmp_path / "r.html"
    result = _compare(cube, "-o", report, "--json", "--condition", "35dB")
    scores = _scores(result)
    assert list(scores) == ["bicubic", "gsa", "glp:adaptive=false", "glp", "cnmf"]
    for values in scores.values():
        assert list(values)[:5] == ["PSNR", "SAM", "ERGAS", "CC", "RMSE"], "the paper's scores, as it spells them"
        assert values["seconds"] > 0
        assert values["memory_mb"] >= 0
    assert scores["glp"]["PSNR"] > scores["bicubic"]["PSNR"] + 5
    assert scores["glp"]["RMSE"] < scores["bicubic"]["RMSE"]
    summary = json.loads(result.stdout)
    assert list(summary["expected_seconds"]) == list(scores), "the time of all is told first"
    assert "96 x 90" in summary["facts"]["Size"]
    assert all(len(m["band_psnr"]) == 60 for m in summary["methods"])
    page = report.read_text(encoding="utf-8")
    for text in ("PSNR", "ERGAS", "Error maps", "Spectra", "PSNR of each band", "data:image/png;base64"):
        assert text in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page), "the page needs nothing beside it"
    assert {"error_maps.png", "band_psnr.png"} <= {p.name for p in (tmp_path / "r.qa").iterdir()}
    assert json.loads((tmp_path / "r.json").read_text())["methods"][0]["scores"]["PSNR"] == scores["bicubic"]["PSNR"]
    assert not [p for p in tmp_path.iterdir() if p.name not in ("r.html", "r.json", "r.qa")], "something was left"


def test_scores_are_those_of_the_benchmark(cube: Path, tmp_path: Path) -> None:
    """The truth is what Wald's protocol says it is: an independent degradation gives the same numbers."""
    from hsfuse.degrade import Psf, lowpass_decimate_array, upsample_array
    from hsfuse.metrics.reference import psnr, sam_deg

    scores = _scores(_compare(cube, "-o", tmp_path / "r.html", "--json", "--methods", "bicubic", "--bands", "all"))
    with np.load(cube) as content:
        truth = content["cube"][:, 12:]
    cubic = upsample_array(lowpass_decimate_array(truth, 3, Psf(1.0)), 3)
    assert scores["bicubic"]["PSNR"] == pytest.approx(psnr(truth, cubic), abs=0.01)
    assert scores["bicubic"]["SAM"] == pytest.approx(sam_deg(truth, cubic), abs=0.01)


def test_a_table_is_printed_for_people(cube: Path, tmp_path: Path) -> None:
    arguments = [str(cube), "-o", str(tmp_path / "r.html"), "--methods", "bicubic glp:adaptive=false,gsa"]
    result = runner.invoke(app, ["compare", "--no-progress", "--quality", "plain", "--threads", "1", *arguments])
    assert result.exit_code == 0, result.output
    for text in ("PSNR", "glp:adaptive=false", "gsa", "time/s", "report:"):
        assert text in result.stdout
    assert "*" in result.stdout


def test_networks_take_part_with_and_without_adaptation(cube: Path, tmp_path: Path) -> None:
    weights = write_tiny(tmp_path / "tiny.safetensors", noise=0.02)
    spec = f"{METHOD}@{weights}"
    result = _compare(cube, "-o", tmp_path / "r.html", "--json", "--methods", f"glp,{spec}", "--adapt", 0.02)
    scores = _scores(result)
    assert list(scores) == ["glp", f"{METHOD}@tiny.safetensors", f"{METHOD}@tiny.safetensors (adapted)"]
    summary = json.loads(result.stdout)
    assert f"{BANDS} of the network" in summary["facts"]["Bands"]
    assert "adapted to the scene" in summary["methods"][2]["summary"]
    assert abs(scores["glp"]["PSNR"] - scores[f"{METHOD}@tiny.safetensors"]["PSNR"]) < 1.0


def test_a_network_that_does_not_suit_is_left_out_or_refused(
    cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "zoo" / METHOD
    folder.mkdir(parents=True)
    write_tiny(folder / "weights.safetensors", ratios=(4,), name=METHOD)
    monkeypatch.setattr(zoo, "zoo_folders", lambda: [tmp_path / "zoo"])
    monkeypatch.setattr(method_specification, "classics", lambda: ["bicubic"])
    choose_automatically(monkeypatch, METHOD)
    result = _compare(cube, "-o", tmp_path / "r.html", "--json")
    assert METHOD not in _scores(result)
    assert any(f"{METHOD} was left out" in note and "ratio of 4" in note for note in json.loads(result.stdout)["notes"])
    named = _compare(cube, "-o", tmp_path / "s.html", "--methods", f"glp,{METHOD}")
    assert named.exit_code == 2
    assert "ratio of 4" in named.output
    fits = _scores(_compare(cube, "-o", tmp_path / "t.html", "--json", "--method", f"glp,{METHOD}", "--ratio", 4))
    assert METHOD in fits


def test_a_pair_is_compared_without_reference(pair: SimulatedPair, tmp_path: Path) -> None:
    inputs = (pair.prisma, pair.sentinel2, "--coregister", "global", "--bands", 24, "--window", 60, "--json")
    result = _compare(*inputs, "-o", tmp_path / "p.html", "--methods", "bicubic,glp,gsa+back_projection=1")
    scores = _scores(result)
    assert "PSNR" not in scores["glp"]
    assert scores["glp"]["d_s"] < scores["bicubic"]["d_s"]
    assert scores["gsa+back_projection=1"]["hsi_rmse"] < scores["bicubic"]["hsi_rmse"]
    summary = json.loads(result.stdout)
    assert summary["with_reference"] is False
    assert "180 x 180" in summary["facts"]["Size"]
    assert "degraded cube against HSI" in (tmp_path / "p.html").read_text(encoding="utf-8")
    reduced = _compare(*inputs, "-o", tmp_path / "q.html", "--methods", "bicubic,glp", "--reduced")
    scores = _scores(reduced)
    assert scores["glp"]["PSNR"] > scores["bicubic"]["PSNR"] + 3
    assert "Wald" in json.loads(reduced.stdout)["facts"]["Protocol"]


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--methods", "magic"], 2, "no fusion method 'magic'"),
        (["--methods", "glp:nonsense=1"], 2, "cannot be made"),
        (["--methods", "glp:adaptive"], 2, "not option=value"),
        (["--methods", "glp+nonsense=1"], 2, "unknown fidelity guard"),
        (["--methods", "glp+srf_weight=7"], 2, "between 0 and 1"),
        (["--methods", "glp@x.safetensors"], 2, "takes no weights"),
        (["--methods", "ssrfn@nowhere.safetensors"], 2, "no weights file"),
        (["--methods", "ssrfn-paper"], 2, "no trained weights"),
        (["--methods", "glp,glp"], 2, "twice"),
        (["--methods", ","], 2, "names no method"),
        (["--methods", "glp", "--adapt", "1"], 2, "needs a network"),
        (["--aoi", "0,0,1,1"], 2, "needs a pair"),
        (["--ratio", "12"], 4, "without gaps"),
        (["--bands", "200"], 3, "fewer than"),
        (["--window", "5"], 2, "window"),
        (["--condition", "rain"], 2, "condition"),
        (["-o", "report.pdf"], 2, "HTML"),
        (["-o", "nowhere/report.html"], 7, "does not exist"),
        (["--device", "cuda:99"], 11, "GPU"),
    ],
)  # fmt: skip
def test_bad_settings(cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], code: int,
                    text: str) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    result = _compare(cube, *flags)
    assert result.exit_code == code, result.output
    assert text in result.output
    assert not list(tmp_path.glob("*.html"))


def test_bad_inputs(cube: Path, tmp_path: Path) -> None:
    assert _compare(tmp_path / "nothing.tif").exit_code == 3
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, other=np.zeros(3))
    result = _compare(wrong)
    assert result.exit_code == 3
    assert "wavelength_nm" in result.output
    with np.load(cube) as content:
        infrared = content["wavelength_nm"] > 1000
        np.savez(wrong, cube=content["cube"][infrared], wavelength_nm=content["wavelength_nm"][infrared])
    result = _compare(wrong)
    assert result.exit_code == 3
    assert "cannot be simulated" in result.output
    (tmp_path / "r.json").write_text("{}")
    foreign = _compare(cube, "-o", tmp_path / "r.html", "--methods", "bicubic", "--overwrite")
    assert foreign.exit_code == 7
    assert "not made by hsfuse" in " ".join(foreign.output.split())
    (tmp_path / "r.json").write_text('{"schema": "hsfuse-compare/1"}')
    assert _compare(cube, "-o", tmp_path / "r.html", "--methods", "bicubic").exit_code == 7
    assert _compare(cube, "-o", tmp_path / "r.html", "--methods", "bicubic", "--overwrite").exit_code == 0


def test_a_condition_belongs_to_reduced_resolution(pair: SimulatedPair, tmp_path: Path) -> None:
    result = _compare(pair.prisma, pair.sentinel2, "-o", tmp_path / "r.html", "--condition", "field")
    assert result.exit_code == 2
    assert "--reduced" in result.output
