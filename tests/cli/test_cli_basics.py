"""The command line without products: help, versions, mistakes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rasterio.crs import CRS
from typer.testing import CliRunner

from hsfuse.cli.app import app
from hsfuse.config import RunConfig, TrainConfig
from hsfuse.workflows.steps.aoi import parse_aoi

runner = CliRunner()


def test_help_lists_commands_and_exit_codes() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for word in ("run", "info", "bands", "coregister", "simulate", "demo", "doctor", "5 co-registration rejected"):
        assert word in " ".join(result.output.split())


def test_every_setting_is_a_flag() -> None:
    result = runner.invoke(app, ["run", "--help-all"], env={"COLUMNS": "200"})
    for name in RunConfig.model_fields:
        assert f"--{name.replace('_', '-')}" in result.output


def test_version() -> None:
    assert runner.invoke(app, ["--version"]).output.startswith("hsfuse ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "no.he5", "no.SAFE", "-o", "x.tif"], 3, "no.he5"),
        (["run", "no.he5", "no.SAFE", "-o", "x.tif", "--method", "magic"], 2, "There is no fusion method 'magic'"),
        (["run", "no.he5", "no.SAFE", "-o", "x.tif", "--device", "tpu"], 2, "choose auto, cpu, cuda"),
        (["run", "no.he5", "no.SAFE", "-o", "x.tif", "--device", "cuda:99"], 11, "There is no GPU 99"),
        (["run", "no.he5", "no.SAFE", "-o", "x.tif", "--max-memory", "much"], 2, "not a size"),
        (["run", "no.he5", "no.SAFE", "-o", "x.tif", "--config", "no.toml"], 2, "no.toml cannot be read"),
        (["run", "a", "b", "-o", "x.tif", "--min-quality", "0.9", "--no-report"], 2, "excludes --no-report"),
        (["run", "a", "b", "-o", "x.tif", "--method", "gsa", "--precision", "bf16"], 2, "takes no --precision"),
        (["run", "a", "b", "-o", "x.tif", "--psf-fwhm", "wide"], 2, "'psf-fwhm': Input should be a valid number"),
        (["info", "nothing.he5"], 3, "nothing.he5"),
        (["bands", "nothing.he5"], 3, "nothing.he5"),
        (["run"], 2, "Missing argument"),
    ],
)
def test_mistakes_get_a_sentence_and_a_code(
    arguments: list[str], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, arguments)
    assert result.exit_code == code, result.output
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_errors_are_machine_readable(tmp_path: Path) -> None:
    result = runner.invoke(app, ["info", str(tmp_path / "none.he5"), "--json", "--quiet"])
    answer = json.loads(result.stdout.strip().splitlines()[-1])
    assert answer["exit_code"] == result.exit_code == 3
    assert "none.he5" in answer["error"]


def test_doctor_reports_and_foreign_proj_is_ignored(tmp_path: Path) -> None:
    environment = {**os.environ, "PROJ_DATA": str(tmp_path), "PROJ_LIB": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "hsfuse", "doctor", "--json"],
        env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    facts = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert facts["problems"] == []
    assert set(facts["dropped_variables"]) == {"PROJ_DATA", "PROJ_LIB"}
    assert "belongs to another GDAL or PROJ" in done.stderr


def test_what_grows_in_the_background_is_bounded_unless_the_user_says_how() -> None:
    """GDAL's block cache takes 5 % of the memory; oneDNN's shapes took half a gigabyte over a whole scene."""
    names = ("GDAL_CACHEMAX", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    code = "import os; from hsfuse.process import own_process; own_process(); "
    code += f"print(*(os.environ[name] for name in {names}))"

    def bounds(**given: str) -> list[int]:
        free = {k: v for k, v in os.environ.items() if k not in names}
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, timeout=60, env=free | given, capture_output=True, text=True
        )
        return [int(v) for v in done.stdout.split()]

    megabytes, *shapes = bounds()
    assert megabytes <= 256
    assert max(shapes) <= 200
    assert bounds(**dict(zip(names, ("300", "7", "8"), strict=True))) == [300, 7, 8]


def test_numpy_multiplies_with_one_thread_unless_the_user_says_how() -> None:
    """Threads of OpenBLAS spin while they wait for each other: a fifth of a run's processor time on a busy machine."""
    code = "from hsfuse.process import own_process; own_process(); import numpy;"
    code += "from threadpoolctl import threadpool_info;"
    code += "print(*(found['num_threads'] for found in threadpool_info() if found['internal_api'] == 'openblas'))"

    def threads(**given: str) -> set[str]:
        free = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, timeout=60, env=free | given, capture_output=True, text=True
        )
        return set(done.stdout.split())

    if (os.cpu_count() or 1) < 2 or not threads(OPENBLAS_NUM_THREADS="2"):
        pytest.skip("one core, or another matrix library")
    assert threads() == {"1"}
    assert threads(OPENBLAS_NUM_THREADS="2") == {"2"}


def test_help_loads_no_heavy_library() -> None:
    heavy = ("torch", "matplotlib", "numpy", "scipy", "rasterio", "h5py")
    code = f"import sys; import hsfuse.cli.app; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_config_command_writes_once(tmp_path: Path) -> None:
    target = tmp_path / "c.toml"
    assert runner.invoke(app, ["config", "-o", str(target)]).exit_code == 0
    again = runner.invoke(app, ["config", "-o", str(target)])
    assert again.exit_code == 7
    assert "exists already" in again.output


def test_a_file_may_give_the_number_of_bands_as_a_number(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("bands = 50\nratio = 3\n")
    assert RunConfig.resolve(file).bands == "50"
    assert TrainConfig.resolve(file).ratios == (3,)


def test_a_box_may_be_written_with_spaces() -> None:
    crs = CRS.from_epsg(32632)
    for text in ("100,200,300,400", "100, 200, 300, 400", "100 200 300 400"):
        assert parse_aoi(text, crs).bounds == (100.0, 200.0, 300.0, 400.0)
