"""The package of docs/extending.md, installed from that page, works in every command without a change to hsfuse."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from hsfuse.cli.app import app
from hsfuse.degrade import upsample_array
from hsfuse.fusion.create import create_method
from hsfuse.metrics import METRICS
from hsfuse.readers.entry import READERS
from hsfuse.testing import (
    SmallScene,
    check_method,
    check_metric,
    check_reader,
    check_writer,
    install,
    installed,
    small_scene,
)
from hsfuse.writers import FORMATS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
MODULES = dict(re.findall(r"^`(mylab/\w+\.py)`[^\n]*\n\n```python\n(.*?)^```", PAGE, re.M | re.S))
PROJECT = tomllib.loads(re.search(r"^```toml\n(.*?)^```", PAGE, re.M | re.S)[1])["project"]  # type: ignore[index]
QUICK = ["--patch", "18", "--window", "36", "--batch", "4", "--gap", "6", "--steps", "40", "--validate-every", "20",
         "--validation-windows", "2", "--bands", "all", "--device", "cpu"]  # fmt: skip
runner = CliRunner()


def test_each_of_the_four_is_short() -> None:
    assert sorted(MODULES) == ["mylab/method.py", "mylab/metric.py", "mylab/reader.py", "mylab/writer.py"]
    assert {name: len(source.splitlines()) for name, source in MODULES.items() if len(source.splitlines()) >= 60} == {}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("site")
    install(folder, PROJECT["name"], {"mylab/__init__.py": "", **MODULES}, PROJECT["entry-points"])
    with installed(folder):
        yield folder


@pytest.fixture(scope="module")
def scene() -> SmallScene:
    return small_scene(5)


@pytest.fixture(scope="module")
def files(scene: SmallScene, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An HSI and its truth as folders of the foreign reader, and an MSI."""
    folder = tmp_path_factory.mktemp("files")
    found = {"msi": scene.write_msi(folder / "s2.tif")}
    for name, cube, grid in (("hsi", scene.hsi, scene.grid), ("truth", scene.truth, scene.fine_grid)):
        found[name] = folder / name
        found[name].mkdir()
        np.save(found[name] / "cube.npy", cube)
        facts = {"epsg": grid.crs.to_epsg(), "left": grid.transform.c, "top": grid.transform.f,
                 "pixel_m": grid.pixel_m, "wavelength_nm": scene.bands.centre_nm.tolist(),
                 "fwhm_nm": scene.bands.fwhm_nm.tolist()}  # fmt: skip
        (found[name] / "scene.json").write_text(json.dumps(facts))
    return found


def _call(*arguments: object) -> Any:
    result = runner.invoke(app, [*map(str, arguments), "--no-progress", "--json", "-q"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def weights(site: Path, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "sharpener.safetensors"
    record = _call("train-reduced", files["truth"], "--method", "sharpener", "-o", output, "--threads", 1, *QUICK)
    assert record["validation"]["psnr_db"] > record["validation_before"]["psnr_db"]
    return output


def test_info_in_a_process_of_its_own(site: Path, files: dict[str, Path]) -> None:
    """As users have it: the package lies on the module search path, nothing else is done."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}
    call = [sys.executable, "-m", "hsfuse", "info", str(files["hsi"]), "--json"]
    result = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    facts = json.loads(result.stdout)
    assert (facts["sensor"], facts["bands"], facts["pixel_m"]) == ("Folder camera", 12, 30.0)


def test_run(files: dict[str, Path], weights: Path, scene: SmallScene, tmp_path: Path) -> None:
    """A foreign network, on an HSI of a foreign reader, into a folder of a foreign format, with a report."""
    output = tmp_path / "out.npyfolder"
    call = ("run", files["hsi"], files["msi"], "--method", "sharpener", "--model", weights, "-o", output,
            "--coregister", "off", "--bands", "all", "--psf-fwhm", 1, "--threads", 1)  # fmt: skip
    summary = _call(*call)
    assert summary["method"]["name"] == "sharpener"
    assert sorted(p.name for p in output.iterdir()) == ["cube.json", "cube.npy"]
    assert json.loads((tmp_path / "out.npyfolder.stac.json").read_text())["assets"]["cube"]["href"] == "./out.npyfolder"
    assert "npyfolder" in (tmp_path / "out.report.html").read_text()
    with FORMATS.get("npyfolder").open(output) as reader:
        fused = reader.read(None, scene.fine_grid.full)
    known = np.isfinite(fused).all(axis=0)
    assert known.mean() > 0.5
    interpolated = upsample_array(scene.hsi, scene.ratio)
    error, plain = (np.abs(cube - scene.truth)[:, known].mean() for cube in (fused, interpolated))
    assert error < plain
    before = (output / "cube.npy").read_bytes()
    assert runner.invoke(app, [*map(str, call)]).exit_code == 7, "an output that is a folder is not replaced silently"
    _call(*call, "--overwrite")
    assert (output / "cube.npy").read_bytes() == before


def test_compare(files: dict[str, Path], weights: Path, tmp_path: Path) -> None:
    """A foreign metric and a foreign network stand in the tables like our own."""
    report = tmp_path / "r.html"
    call = ("compare", files["truth"], "-o", report, "--methods", f"bicubic,sharpener@{weights}", "--bands", "all",
            "--quality", "plain", "--threads", 1)  # fmt: skip
    methods = {method["name"]: method["scores"] for method in _call(*call)["methods"]}
    assert methods["sharpener@sharpener.safetensors"]["MAE"] < methods["bicubic"]["MAE"]
    assert list(methods["bicubic"])[:5] == ["PSNR", "SAM", "ERGAS", "CC", "RMSE"], "our own keep their places"
    page = report.read_text()
    assert "MAE" in page
    shown = runner.invoke(app, [*map(str, call), "--overwrite", "--no-progress"])
    assert "MAE" in shown.output


def test_they_are_listed(site: Path) -> None:
    assert "filtered detail" in runner.invoke(app, ["models"]).output
    unknown = runner.invoke(app, ["run", "a", "b", "-o", "c.tif", "--format", "zarr"])
    assert unknown.exit_code == 2
    assert "npyfolder" in unknown.output


def test_they_pass_the_checks_of_the_kit(
    files: dict[str, Path], weights: Path, scene: SmallScene, tmp_path: Path
) -> None:
    check_metric(METRICS.get("MAE"))
    check_writer(FORMATS.get("npyfolder"), tmp_path)
    check_reader(READERS.get("folder-camera"), files["hsi"], foreign=files["msi"])
    check_method(lambda: create_method("sharpener", model=weights), scene)
