"""`hsfuse train-reduced` with every network: it improves on its start, and an interrupted training ends the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from hsfuse.cli.app import app
from hsfuse.fusion.methods.ssrfn.config import ARCHITECTURE
from hsfuse.fusion.nets.header import NetworkHeader, read_header
from hsfuse.fusion.registry import METHODS, network_entries
from hsfuse.training.checkpoint import save_checkpoint

pytestmark = pytest.mark.usefixtures("torch_threads_as_they_were")
runner = CliRunner()
QUICK = ["--patch", "18", "--window", "36", "--batch", "2", "--gap", "6", "--steps", "8", "--validate-every", "4",
         "--validation-windows", "1", "--bands", "12", "--lr", "1e-2", "--ema", "0.5", "--threads", "1",
         "--device", "cpu", "--no-progress"]  # fmt: skip
# Of this scene the classical estimate leaves nothing to learn; interpolation does, and reflectance anew.
SMALL = {
    "csakd-lite": "base=none,width=8,growth=4,teacher_high=1,teacher_low=1",
    "fusion-mamba-lite": "base=none,width=4,window_px=4",
    "hyfusion-lite": "base=none,width=8,growth=4",
    "mimo-sst-lite": "base=none,width=4",
    "mpsrnet-diff-lite": "base=none,width=8,training_steps=1",
    "msst-net-lite": "base=none,features=8,spectral_width=4,embed=8",
    "qis-gan-lite": "base=bicubic",
    "s3rnet-lite": "base=none,width=8,growth=4",
    "ssrfn-paper": "width=8,dfe_blocks=1,cfe_cycles=1,scm_steps=1,refine_stages=1,headdim=8,d_state=8",
    "ssrnet-lite": "base=none",
}
"""Every network of the field in a shape that a test has time for."""


def trained(small_cube: Path, folder: Path, name: str, *more: str) -> tuple[int, Path, str]:
    folder.mkdir(exist_ok=True)
    output = folder / "model.safetensors"
    words = ["train-reduced", str(small_cube), "-o", str(output), "--method", name, "--network-settings", SMALL[name]]
    result = runner.invoke(app, [*words, *QUICK, *more])
    return result.exit_code, output, result.output


def tensors(path: Path) -> dict[str, bytes]:
    return {name: tensor.contiguous().view(torch.uint8).numpy().tobytes() for name, tensor in load_file(path).items()}


def header(path: Path) -> NetworkHeader:
    found = read_header(path)
    assert found is not None
    return found


def test_no_network_is_forgotten() -> None:
    known = {METHODS.get(name).network.architecture for name in SMALL}  # type: ignore[union-attr]
    # The gate is no network of the field: its training has tests of its own.
    assert known == {entry.architecture for _, entry in network_entries()} - {ARCHITECTURE}


@pytest.mark.parametrize("name", SMALL)
def test_it_improves_and_resumes_exactly(
    name: str, small_cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, whole, said = trained(small_cube, tmp_path / "whole", name)
    assert code == 0, said
    record = header(whole).training
    assert record["best_step"] > 0
    assert record["validation"]["psnr_db"] > record["validation_before"]["psnr_db"] + 0.02

    def stop(path: Path, checkpoint: Any) -> None:
        save_checkpoint(path, checkpoint)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hsfuse.training.loop.save_checkpoint", stop)
        code, broken, said = trained(small_cube, tmp_path / "broken", name)
    assert code == 130, said
    assert not broken.exists()
    code, _, said = trained(small_cube, tmp_path / "broken", name, "--resume")
    assert code == 0, said
    assert "Going on at step 4" in said
    assert header(broken).training["history"] == record["history"]
    assert tensors(broken) == tensors(whole)


@pytest.mark.parametrize("name", ["uhntc", "nlstf", "glp"])
def test_what_learns_on_the_scene_is_not_trained(name: str, small_cube: Path, tmp_path: Path) -> None:
    result = runner.invoke(
        app, ["train-reduced", str(small_cube), "-o", str(tmp_path / "w.safetensors"), "--method", name]
    )
    assert result.exit_code == 2
    assert f"The method '{name}' is not trained." in result.output
    assert not list(tmp_path.iterdir())
