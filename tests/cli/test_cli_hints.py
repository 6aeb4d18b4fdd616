"""Hints name the command that was called, and what the user probably meant."""

from __future__ import annotations

from typing import Any

import pytest
from rasterio.crs import CRS
from typer.testing import CliRunner

from hsfuse.cli.app import app
from hsfuse.config import CoregisterConfig
from hsfuse.errors import UsageError
from hsfuse.workflows.steps.aoi import parse_aoi

runner = CliRunner()
UTM = CRS.from_epsg(32632)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("run", ["a.he5", "b.SAFE", "-o", "c.tif"]),
        ("coregister", ["a.tif", "b.tif", "-o", "c.tif"]),
        ("train-reduced", ["a.tif", "-o", "c.safetensors"]),
        ("compare", ["a.he5", "b.SAFE"]),
    ],
)
def test_a_wrong_setting_points_to_the_help_of_its_command(command: str, arguments: list[str]) -> None:
    result = runner.invoke(app, [command, *arguments, "--window-px", "7", "--quiet"])
    text = " ".join(result.output.split())
    assert result.exit_code == 2, text
    assert "Option 'window-px'" in text
    assert f"`hsfuse {command} --help`" in text


@pytest.mark.parametrize(
    ("command", "workflow", "resumable"),
    [
        (["run", "a", "b", "-o", "c.tif"], "hsfuse.workflows.run.run_scene", True),
        (["train-reduced", "a", "-o", "c"], "hsfuse.workflows.train_reduced.train_reduced", True),
        (["coregister", "a", "b", "-o", "c.tif"], "hsfuse.workflows.coregister.coregister_files", False),
    ],
)
def test_after_ctrl_c_only_what_can_go_on_says_so(
    command: list[str], workflow: str, resumable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(workflow, interrupted)
    result = runner.invoke(app, command)
    assert result.exit_code == 130
    assert "interrupted" in result.output
    assert ("the same command with --resume" in result.output) is resumable


def test_a_box_in_degrees_is_recognised() -> None:
    with pytest.raises(UsageError, match="looks like degrees") as caught:
        parse_aoi("11.8,44.8,11.9,44.9", UTM)
    assert "--aoi-crs EPSG:4326" in caught.value.hint
    area = parse_aoi("11.8,44.8,11.9,44.9", UTM, "EPSG:4326")
    assert 700_000 < area.bounds.left < area.bounds.right < 740_000


def test_a_box_in_metres_that_is_called_degrees_is_recognised() -> None:
    with pytest.raises(UsageError, match="not in degrees") as caught:
        parse_aoi("724000,4965000,725000,4966000", UTM, "EPSG:4326")
    assert "EPSG:32632" in caught.value.hint


def test_settings_of_the_verdict_are_described() -> None:
    """What decides between accepted, global only and rejected is a setting with a description and a flag."""
    shown = runner.invoke(app, ["coregister", "--help"], env={"COLUMNS": "200"}).output
    thresholds = ("min_points", "max_rmse_m", "min_correlation", "holdout", "min_peak_score", "min_peak_ratio")
    for name in (*thresholds, "search_m", "correct_swir"):
        assert len(CoregisterConfig.model_fields[name].description or "") > 20
        assert f"--{name.replace('_', '-')}" in shown


def test_a_product_of_few_bands_is_taken_whole_where_nobody_asked_for_more(tmp_path):
    import numpy as np
    import rasterio

    from hsfuse.errors import InputError
    from hsfuse.progress import SilentProgress
    from hsfuse.workflows.bands import inspect_bands

    cube = np.random.default_rng(0).integers(500, 4000, (62, 24, 24)).astype(np.int16)
    path = tmp_path / "chris.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=24, width=24, count=62, dtype="int16", crs="EPSG:32633",
        transform=rasterio.Affine(30, 0, 0, 0, -30, 0),
    ) as out:  # fmt: skip
        out.write(cube)
        for band in range(62):
            out.update_tags(band + 1, wavelength=410 + 9 * band, wavelength_units="nm")
    found = inspect_bands(path, None, cut_nm=950.0, progress=SilentProgress())
    assert len(found.table) == 62
    with pytest.raises(InputError, match="62 bands, fewer than the 100"):
        inspect_bands(path, "100", cut_nm=950.0, progress=SilentProgress())


@pytest.mark.parametrize(
    ("arguments", "wrong", "meant"),
    [
        (["run", "a", "b", "-o", "c.tif", "--metod", "glp"], "There is no option '--metod'", "'--method'"),
        (["rnu", "a"], "There is no command 'rnu'", "'run'"),
        (["run", "a", "b", "-o", "c.tif", "--method", "gpl"], "no fusion method 'gpl'", "'glp'"),
    ],
)
def test_what_is_misspelt_is_answered_with_the_nearest_name(arguments: list[str], wrong: str, meant: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert wrong in result.output
    assert f"Did you mean {meant}?" in result.output


@pytest.mark.parametrize(
    ("line", "wrong", "meant"),
    [
        ("overwrit = true", "Option 'overwrit' (in", "'overwrite'"),
        ('quality = "standart"', "Option 'quality' (in", "'standard'"),
    ],
)
def test_a_misspelt_file_of_settings_is_answered_with_the_nearest_name(tmp_path, line, wrong, meant) -> None:
    file = tmp_path / "run.toml"
    file.write_text(line, encoding="utf-8")
    result = runner.invoke(app, ["run", "a", "b", "-o", str(tmp_path / "c.tif"), "--config", str(file)])
    text = " ".join(result.output.split())
    assert result.exit_code == 2
    assert wrong in text
    assert f"Did you mean {meant}?" in text


@pytest.mark.parametrize("command", ["run", "batch"])
def test_help_shows_what_matters_first_and_all_on_demand(command: str) -> None:
    brief = runner.invoke(app, [command, "--help"], env={"COLUMNS": "80"})
    full = runner.invoke(app, [command, "--help-all"], env={"COLUMNS": "80"})
    assert brief.exit_code == full.exit_code == 0
    assert "Options that matter" in brief.output
    assert "--search-m" not in brief.output
    assert f"more options: hsfuse {command} --help-all" in brief.output.replace("root", "hsfuse")
    assert full.output.index("--method") < full.output.index("--search-m")
    for shown in (brief, full):
        assert max(map(len, shown.output.splitlines())) <= 80


def test_help_says_what_is_wanted_and_what_holds_without_it() -> None:
    shown = {command: " ".join(runner.invoke(app, [command, "--help"], env={"COLUMNS": "110"}).output.split())
             for command in ("simulate", "demo", "view", "batch")}  # fmt: skip
    for text in shown.values():
        assert "RANGE" not in text
        assert "LIST[" not in text
    # Two numbers, not one word with a comma between them.
    assert "--swir-shift NUMBER NUMBER " in shown["simulate"]
    assert "--rows N height in HSI pixels (30 m) [default: 200]" in shown["simulate"]
    assert "[default: 0.03]" in shown["simulate"]
    assert "--msi PATH " in shown["view"]
    assert "--s2 TEXT " in shown["batch"]
