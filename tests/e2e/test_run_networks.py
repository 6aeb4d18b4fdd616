"""`hsfuse run` with networks: automatic choice, adaptation, fidelity guards."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import hsfuse
from hsfuse.cli.app import app
from hsfuse.errors import HsfuseError, InputError, UsageError
from hsfuse.fusion.nets import zoo
from hsfuse.fusion.nets.header import file_sha256, read_header
from hsfuse.simulate.products import SimulatedPair
from hsfuse.workflows.demo import read_cube
from hsfuse.workflows.steps import methods
from hsfuse.workflows.steps.adapted import AdaptedMethod, adapted_path, unpublished_path
from hsfuse.writers import journal_folder
from hsfuse.writers.journal import Journal

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflows"))
from network_weights import BANDS, METHOD, choose_automatically, write_tiny

runner = CliRunner()
QUICK: dict[str, Any] = {"coregister": "global", "report": False, "quality": "plain"}
ADAPT = {"method": METHOD, "adapt": 0.03, **QUICK}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors", noise=0.05)


@pytest.fixture(scope="module")
def area(pair: SimulatedPair, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The middle 2 km of the pair."""
    plan = hsfuse.fuse_scene(
        pair.prisma, pair.sentinel2, tmp_path_factory.mktemp("area") / "o.tif", dry_run=True, method="bicubic", **QUICK
    )
    left, bottom, right, top = plan.summary["grid"]["bounds"]
    x, y = (left + right) / 2, (bottom + top) / 2
    return f"{x - 1000},{y - 1000},{x + 1000},{y + 1000}"


@pytest.fixture
def as_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Make a weights file the zoo's only network, and let ``auto`` try it."""

    def ship(path: Path) -> None:
        choose_automatically(monkeypatch, METHOD)
        folder = tmp_path / "zoo" / METHOD
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(path.read_bytes())
        monkeypatch.setattr(zoo, "zoo_folders", lambda: [tmp_path / "zoo"])

    return ship


def _run(pair: SimulatedPair, output: Path, **settings: Any) -> Any:
    return hsfuse.fuse_scene(pair.prisma, pair.sentinel2, output, **settings)


def test_a_network_without_gain_gives_way_to_glp(
    pair: SimulatedPair, area: str, weights: Path, as_shipped: Any, tmp_path: Path
) -> None:
    as_shipped(weights)
    result = _run(pair, tmp_path / "auto.tif", coregister="global", aoi=area, quality="plain")
    assert result.method == "glp"
    assert "gains only" in result.method_reason
    assert result.summary["bands"]["count"] == BANDS
    centre = result.summary["bands"]["centre_nm"]
    (tmp_path / "bands.txt").write_text("\n".join(map(str, centre)))
    _run(pair, tmp_path / "glp.tif", method="glp", bands=str(tmp_path / "bands.txt"), aoi=area, **QUICK)
    # Other tiles: one step of the stored integers may tip over.
    np.testing.assert_allclose(read_cube(tmp_path / "auto.tif"), read_cube(tmp_path / "glp.tif"), atol=1.01e-4)
    assert "gains only" in result.report.read_text(encoding="utf-8")


def test_a_network_with_gain_is_used_and_says_so(
    pair: SimulatedPair, area: str, weights: Path, as_shipped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_shipped(weights)
    monkeypatch.setattr(methods, "MIN_GAIN_DB", 0.0)
    result = _run(pair, tmp_path / "auto.tif", coregister="global", aoi=area, quality="plain")
    assert result.method == "tiny"
    assert "gains" in result.method_reason
    validation = result.summary["method"]["validation"]
    assert validation["windows"] > 0
    assert "Share of the network" in result.report.read_text(encoding="utf-8")


def test_strips_that_an_adapted_network_did_not_see_decide(
    pair: SimulatedPair, area: str, weights: Path, as_shipped: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_shipped(weights)
    monkeypatch.setattr(methods, "MIN_GAIN_DB", 0.0)
    gains = [-0.5, 0.5]

    def adapted(chosen: methods.ChosenMethod, *_: Any) -> AdaptedMethod:
        scores = {"psnr_db": 1.0, "sam_deg": 1.0, "base_psnr_db": 1.0, "base_sam_deg": 1.0}
        record = {"steps": 1, "seconds": 1.0, "before": scores, "after": scores}
        return AdaptedMethod(replace(chosen, adapted_gain_db=gains.pop(0)), record)

    monkeypatch.setattr("hsfuse.workflows.opened_run.adapt_to_scene", adapted)
    worse = _run(pair, tmp_path / "a.tif", adapt=1.0, aoi=area, **QUICK)
    assert (worse.method, "-0.50 dB" in worse.method_reason) == ("glp", True)
    better = _run(pair, tmp_path / "b.tif", adapt=1.0, aoi=area, **QUICK)
    assert (better.method, "adapted to the scene" in better.method_reason) == ("tiny", True)


@pytest.mark.parametrize(
    ("settings", "why"),
    [({"bands": "30"}, "--bands 30"), ({"s2_bands": "all"}, "MSI bands"), ({"bands": str(BANDS)}, "decides")],
)
def test_scenes_outside_the_network_are_seen_before_any_work(
    pair: SimulatedPair, weights: Path, as_shipped: Any, tmp_path: Path, settings: dict[str, str], why: str
) -> None:
    as_shipped(weights)
    try:
        result = hsfuse.fuse_scene(
            pair.prisma, pair.sentinel2, tmp_path / "o.tif", dry_run=True, coregister="off", quality="plain", **settings
        )
    except InputError as error:
        assert settings == {"s2_bands": "all"}, error  # noqa: PT017 - this pair has no 20 m bands
        return
    assert why in result.method_reason
    assert result.method == ("tiny" if why == "decides" else "glp")


def test_a_named_network_is_refused_early(pair: SimulatedPair, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other.safetensors", ratios=(4,))
    with pytest.raises(UsageError, match="ratio of 4"):
        _run(pair, tmp_path / "o.tif", method=METHOD, model=other, **QUICK)
    other = write_tiny(tmp_path / "other.safetensors", msi_bands=("B02", "B03", "B04", "B8A"))
    with pytest.raises(UsageError, match="takes the MSI bands"):
        _run(pair, tmp_path / "o.tif", method=METHOD, model=other, **QUICK)


def test_adapted_runs_keep_their_weights_and_can_be_resumed(
    pair: SimulatedPair, area: str, weights: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a.tif"
    result = _run(pair, output, model=weights, aoi=area, **{**ADAPT, "report": True})
    record = result.summary["adaptation"]
    assert record["steps"] >= 1
    assert record["after"]["psnr_db"] >= record["before"]["psnr_db"]
    kept = adapted_path(output)
    header = read_header(kept)
    assert header.training["adaptation"]["from_sha256"] == file_sha256(weights)
    assert result.summary["method"]["weights_sha256"] == file_sha256(kept)
    assert "Adaptation to the scene" in result.report.read_text(encoding="utf-8")
    # The weights serve as weights.
    again = _run(pair, tmp_path / "b.tif", method=METHOD, model=kept, aoi=area, **QUICK)
    np.testing.assert_array_equal(read_cube(output), read_cube(tmp_path / "b.tif"))
    assert again.summary["method"]["weights_sha256"] == file_sha256(kept)
    # A finished run is recognised, with the same weights and without another training.
    before = kept.read_bytes(), output.read_bytes()
    resumed = _run(pair, output, model=weights, resume=True, aoi=area, **{**ADAPT, "report": True})
    assert (kept.read_bytes(), output.read_bytes()) == before
    assert "train" not in resumed.summary["seconds"]


def test_a_scene_too_small_to_adapt_to_is_fused_all_the_same_where_the_network_was_picked(
    pair: SimulatedPair, area: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "a.tif"
    with caplog.at_level("WARNING"):
        result = _run(pair, output, adapt=0.03, aoi=area, **QUICK)
    assert "cannot be adapted" in caplog.text
    assert "adaptation" not in result.summary
    assert output.is_file()
    assert not adapted_path(output).exists()
    # Nothing is missing from it.
    before = output.read_bytes()
    assert "adaptation" not in _run(pair, output, adapt=0.03, aoi=area, resume=True, **QUICK).summary
    assert output.read_bytes() == before
    with pytest.raises(InputError, match="cannot be adapted") as caught:
        _run(pair, tmp_path / "b.tif", method="ssrfn-lite", adapt=0.03, aoi=area, **QUICK)
    assert "100 x 100" in caught.value.hint


def test_a_network_that_the_quality_leaves_out_is_not_adapted(
    pair: SimulatedPair, area: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = {**QUICK, "quality": "fast"}
    with caplog.at_level("WARNING"):
        result = _run(pair, tmp_path / "a.tif", method="ssrfn-lite", adapt=60.0, aoi=area, **settings)
    assert "--adapt had no effect: with --quality fast no network is used" in caplog.text
    assert "adaptation" not in result.summary


def test_an_interrupted_adapted_run_goes_on_with_its_weights_only(
    pair: SimulatedPair, area: str, weights: Path, tmp_path: Path, disk_that_fails: Callable[[int], Any]
) -> None:
    output = tmp_path / "a.tif"
    settings = {**ADAPT, "model": weights, "tile": 60, "aoi": area}
    with disk_that_fails(60), pytest.raises(OSError, match="gone"):
        _run(pair, output, **settings)
    # They get their name together with the cube.
    kept = unpublished_path(output)
    assert not adapted_path(output).exists()
    stored = kept.read_bytes()
    kept.unlink()
    with pytest.raises(HsfuseError, match="are missing"):
        _run(pair, output, resume=True, **settings)
    write_tiny(kept)
    with pytest.raises(HsfuseError, match="other inputs or settings"):
        _run(pair, output, resume=True, **settings)
    kept.write_bytes(stored)
    _run(pair, output, resume=True, **settings)
    assert not kept.exists()
    kept = adapted_path(output)
    assert kept.read_bytes() == stored
    assert not journal_folder(output).exists()
    _run(pair, tmp_path / "whole.tif", method=METHOD, model=kept, tile=60, aoi=area, **QUICK)
    np.testing.assert_array_equal(read_cube(output), read_cube(tmp_path / "whole.tif"))


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--method", "glp", "--adapt", "1"], 2, "cannot be adapted"),
        (["--adapt", "0"], 2, "adapt"),
        (["--back-projection", "11"], 2, "back-projection"),
        (["--back-projection-weight", "0.5"], 2, "needs --back-projection"),
        (["--srf-weight", "2"], 2, "srf-weight"),
        (["--method", METHOD, "--adapt", "1", "--model", "nowhere.safetensors"], 2, "no weights file"),
    ],
)
def test_bad_wishes(pair: SimulatedPair, tmp_path: Path, flags: list[str], code: int, text: str) -> None:
    output = tmp_path / "o.tif"
    result = runner.invoke(app, ["run", str(pair.prisma), str(pair.sentinel2), "-o", str(output), "-q", *flags])
    assert result.exit_code == code, result.output
    assert text in result.output
    assert not output.exists()


def test_a_scene_too_small_to_adapt_to(pair: SimulatedPair, weights: Path, tmp_path: Path) -> None:
    whole = hsfuse.fuse_scene(pair.prisma, pair.sentinel2, tmp_path / "o.tif", dry_run=True, method="glp", **QUICK)
    left, bottom, right, top = whole.summary["grid"]["bounds"]
    x, y = (left + right) / 2, (bottom + top) / 2
    tiny = f"{x - 300},{y - 300},{x + 300},{y + 300}"
    with pytest.raises(InputError, match="cannot be adapted") as caught:
        _run(pair, tmp_path / "o.tif", model=weights, aoi=tiny, **ADAPT)
    assert "adapt" in caught.value.hint


def test_guards_are_options_of_every_method_and_leave_no_seams(
    pair: SimulatedPair, area: str, weights: Path, tmp_path: Path
) -> None:
    guards = {"back_projection": 2, "back_projection_weight": 0.5, "srf_weight": 0.3, "dtype": "float32"}
    base = {"bands": str(BANDS), "compress": "none", "clip": False, "aoi": area, **QUICK}
    for name, more in (("glp", {}), (METHOD, {"model": weights})):
        one = _run(pair, tmp_path / f"{name}1.tif", method=name, tile=3000, **guards, **base, **more)
        many = _run(pair, tmp_path / f"{name}2.tif", method=name, tile=90, **guards, **base, **more)
        off = _run(pair, tmp_path / f"{name}0.tif", method=name, tile=90, dtype="float32", **base, **more)
        assert many.summary["plan"]["halo_px"] > off.summary["plan"]["halo_px"]
        whole, tiles, plain = (read_cube(r.output) for r in (one, many, off))
        assert np.nanmax(np.abs(whole - plain)) > 1e-3, "the guards did nothing"
        if name == "glp":
            assert np.nanmax(np.abs(whole - tiles)) < 0.5e-4


def test_guards_in_report_and_provenance(pair: SimulatedPair, area: str, tmp_path: Path) -> None:
    output = tmp_path / "o.tif"
    flags = ["--back-projection", "1", "--srf-weight", "0.3", "--bands", "24", "--coregister", "global", "--aoi", area]
    result = runner.invoke(
        app,
        ["run", str(pair.prisma), str(pair.sentinel2), "-o", str(output), "-q", "--json", *flags, "--method", "gsa"],
    )
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["config"]["srf_weight"] == 0.3
    assert "back-projection onto the HSI, 1 steps of 100 %" in (tmp_path / "o.report.html").read_text()


def test_clipping_can_be_switched_off(
    pair: SimulatedPair, area: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hsfuse.inference import engine

    monkeypatch.setattr(engine, "PHYSICAL_RANGE", (0.05, 0.3))
    base = {"method": "glp", "bands": "12", "dtype": "float32", "aoi": area, **QUICK}
    clipped = _run(pair, tmp_path / "c.tif", **base)
    free = _run(pair, tmp_path / "f.tif", clip=False, **base)
    assert clipped.summary["statistics"]["clipped"] > 0
    assert free.summary["statistics"]["clipped"] == 0
    inside = read_cube(tmp_path / "c.tif")
    assert np.nanmin(inside) >= np.float32(0.05)
    np.testing.assert_array_equal(inside, np.clip(read_cube(tmp_path / "f.tif"), np.float32(0.05), np.float32(0.3)))


def test_ssrfn_takes_any_bands_and_goes_on_where_it_was_stopped(
    pair: SimulatedPair, area: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, bottom, right, top = (float(v) for v in area.split(","))
    middle = f"{left + 400},{bottom + 400},{right - 400},{top - 400}"
    settings = {"method": "ssrfn", "bands": "30", "aoi": middle, "tile": 72, **QUICK}
    whole, broken = tmp_path / "whole.tif", tmp_path / "broken.tif"
    result = _run(pair, whole, **settings)
    assert result.method == "ssrfn"
    assert result.summary["bands"]["count"] == 30

    def interrupt(journal: Journal, row0: int, data: np.ndarray) -> None:
        append(journal, row0, data)
        raise KeyboardInterrupt

    append = Journal.append
    monkeypatch.setattr(Journal, "append", interrupt)
    with pytest.raises(KeyboardInterrupt):
        _run(pair, broken, **settings)
    monkeypatch.setattr(Journal, "append", append)
    _run(pair, broken, resume=True, **settings)
    assert broken.read_bytes() == whole.read_bytes()
