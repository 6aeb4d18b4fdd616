"""A network of another package, found through its entry point, is trained, described and compared like our own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hsfuse.cli.app import app
from hsfuse.errors import UsageError
from hsfuse.fusion.create import create_method
from hsfuse.fusion.nets.header import read_header
from hsfuse.fusion.registry import METHODS
from hsfuse.simulate.training_scene import training_scene
from hsfuse.spectral import BandTable

MODULE = """
from hsfuse.fusion.registry import MethodEntry, NetworkEntry


def build(settings):
    import torch
    from torch import nn

    from hsfuse.degrade import upsample

    class Sharpener(nn.Module):
        def __init__(self, n_bands, n_msi, gain):
            super().__init__()
            self.gain = gain
            self.conv = nn.Conv2d(n_msi, n_bands, 3, padding=1)
            nn.init.zeros_(self.conv.weight)
            nn.init.zeros_(self.conv.bias)

        def forward(self, hsi, msi):
            detail = msi - nn.functional.avg_pool2d(msi, 3, stride=1, padding=1)
            return upsample(hsi, msi.shape[-1] // hsi.shape[-1]) + self.gain * self.conv(detail)

    return Sharpener(**settings)


def task(network, setup):
    from hsfuse.training.fusion_task import SupervisedTask

    return SupervisedTask(network, setup, loss=lambda fused, batch: (fused - batch.target).abs().mean(dim=(1, 2, 3)))


def wrap(loaded, **options):
    from hsfuse.fusion.nets.plain_network import PlainNetworkMethod

    return PlainNetworkMethod(loaded, halo_px=3, reference="nobody", **options)


METHOD = MethodEntry(
    "sharpener", family="network", summary="adds filtered detail",
    network=NetworkEntry("sharpener", {"gain": 0.5}, build, wrap, task, recipes={"default": {"lr": 0.02}}),
)
"""
runner = CliRunner()
QUICK = ["--patch", "18", "--window", "36", "--batch", "4", "--gap", "6", "--steps", "40",
         "--validate-every", "20",
         "--validation-windows", "2",
         "--threads", "1", "--no-progress", "--bands", "12", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put a package with one method on the path, as an installation would."""
    root = tmp_path_factory.mktemp("site")
    (root / "foreign_sharpener.py").write_text(MODULE)
    info = root / "foreign_sharpener-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-sharpener\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hsfuse.methods]\nsharpener = foreign_sharpener:METHOD\n")
    sys.path.insert(0, str(root))
    kept = METHODS._points
    METHODS._points = None
    yield
    METHODS._points = kept
    METHODS._loaded.pop("sharpener", None)
    sys.path.remove(str(root))
    sys.modules.pop("foreign_sharpener", None)


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cube") / "small.npz"
    wavelength = np.linspace(440.0, 900.0, 20)
    truth = training_scene(5, (96, 72))
    values = truth.reflectance(BandTable.make(wavelength), truth.grid.full)
    np.savez(path, cube=(values * 1e4).astype(np.int16), wavelength_nm=wavelength)
    return path


@pytest.fixture(scope="module")
def weights(cube: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "sharp.safetensors"
    result = runner.invoke(app, ["train-reduced", str(cube), "-o", str(output), "--method", "sharpener", *QUICK])
    assert result.exit_code == 0, result.output
    return output


def test_it_is_trained_with_its_own_loss_and_recipe(weights: Path) -> None:
    header = read_header(weights)
    assert (header.architecture, header.base, header.n_msi) == ("sharpener", "", 4)
    assert header.config == {"gain": 0.5, "n_bands": 12, "n_msi": 4}
    assert header.training["loop"]["learning_rate"] == 0.02
    assert header.training["validation"]["psnr_db"] > header.training["validation_before"]["psnr_db"]


def test_settings_are_its_own(cube: Path, tmp_path: Path) -> None:
    arguments = ["train-reduced", str(cube), "-o", str(tmp_path / "a.safetensors"), "--method", "sharpener", *QUICK]
    result = runner.invoke(app, [*arguments, "--network-settings", "gain=0.25", "--steps", "1"])
    assert result.exit_code == 0, result.output
    assert read_header(tmp_path / "a.safetensors").config["gain"] == 0.25
    refused = runner.invoke(app, [*arguments, "--recipe", "paper", "--overwrite"])
    assert refused.exit_code == 2
    assert "no training recipe 'paper'" in refused.output


def test_it_is_listed_and_described(weights: Path) -> None:
    assert "adds filtered detail" in runner.invoke(app, ["models"]).output
    assert "sharpener" in runner.invoke(app, ["models", str(weights)]).output


def test_it_is_compared(weights: Path, cube: Path, tmp_path: Path) -> None:
    arguments = ["compare", str(cube), "-o", str(tmp_path / "r.html"), "--methods", f"bicubic,sharpener@{weights}",
                 "--json", "-q", "--threads", "1", "--window", "72", "--quality", "plain"]  # fmt: skip
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    scores = {m["name"]: m["scores"]["PSNR"] for m in json.loads(result.output)["methods"]}
    assert scores["sharpener@sharp.safetensors"] > scores["bicubic"]


def test_weights_of_another_network_are_refused(weights: Path) -> None:
    with pytest.raises(UsageError, match=r"belong to a network 'sharpener'; the method 'ssrfn-lite'"):
        create_method("ssrfn-lite", model=weights)
    with pytest.raises(UsageError, match="precision 'bf16'"):
        create_method("sharpener", model=weights, precision="bf16")
