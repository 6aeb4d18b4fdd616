"""`hsfuse train-reduced` and `hsfuse models` as a user meets them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from typer.testing import CliRunner

from hsfuse.cli.app import app
from hsfuse.cli.train_reduced import result_text
from hsfuse.config import TrainConfig
from hsfuse.fusion.nets.weights import load_weights
from hsfuse.simulate.training_scene import training_scene
from hsfuse.spectral import BandTable
from hsfuse.training import run_log
from hsfuse.training.checkpoint import save_checkpoint

pytestmark = pytest.mark.usefixtures("torch_threads_as_they_were")
runner = CliRunner()
TINY = ["--method", "s3rnet-lite", "--network-settings", "width=8,growth=4"]
QUICK = [*TINY, "--patch", "18", "--window", "36", "--batch", "4", "--gap", "6", "--steps", "4",
         "--validate-every", "2", "--validation-windows", "2", "--threads", "1", "--no-progress", "--bands", "12",
         "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cube") / "small.npz"
    _write_cube(path, np.linspace(440.0, 900.0, 20), (66, 42))
    return path


def _write_cube(path: Path, wavelength: np.ndarray, shape: tuple[int, int]) -> None:
    truth = training_scene(5, (72, 48))
    values = truth.reflectance(BandTable.make(wavelength), truth.grid.full)[:, : shape[0], : shape[1]]
    np.savez(path, cube=(values * 1e4).astype(np.int16), wavelength_nm=wavelength)


@pytest.fixture(scope="module")
def trained(cube: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "model.safetensors"
    result = runner.invoke(app, ["train-reduced", str(cube), "-o", str(output), *QUICK])
    assert result.exit_code == 0, result.output
    return output


def test_every_setting_is_a_flag() -> None:
    text = runner.invoke(app, ["train-reduced", "--help"], env={"COLUMNS": "200"}).output
    for name in TrainConfig.model_fields:
        assert f"--{name.replace('_', '-')}" in text


def test_weights_describe_themselves(trained: Path, cube: Path) -> None:
    loaded = load_weights(trained)
    header = loaded.header
    assert len(header.centre_nm) == 12
    assert header.ratios == (3,)
    assert header.msi_bands == ("B02", "B03", "B04", "B08")
    assert header.base == "glp"
    assert header.training["scenes"] == [cube.stem]
    assert header.training["validation"]["psnr_db"] > 10.0
    assert header.training["config"]["steps"] == 4
    assert sorted(p.name for p in trained.parent.iterdir()) == ["model.log.csv", "model.safetensors"]
    rows = list(csv.DictReader(trained.with_suffix(".log.csv").read_text().splitlines()))
    assert [row["step"] for row in rows if row["loss"]] == ["1", "2", "3", "4"]
    assert [row["step"] for row in rows if row["psnr_db"]] == ["0", "2", "4"]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_torchrun_gives_the_same_weights_and_one_answer(trained: Path, cube: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.safetensors"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "hsfuse",
         "train-reduced", str(cube), "-o", str(output), *QUICK, "--json"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout)
    assert answer["processes"] == 2
    assert answer["megapixels_per_second"] > 0.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.log.csv", "model.safetensors"]
    alone, together = (load_weights(path).network.state_dict() for path in (trained, output))
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, atol=1e-3, rtol=1e-2, msg=name)


def test_models_lists_and_describes(trained: Path) -> None:
    listed = runner.invoke(app, ["models", "--json"])
    names = {entry["name"] for entry in json.loads(listed.stdout)["models"]}
    assert {"ssrfn", "ssrfn-lite", "ssrfn-paper"} <= names
    for arguments in (["models"], ["models", "ssrfn-lite"]):
        assert "ssrfn-lite" in runner.invoke(app, arguments).stdout
    text = runner.invoke(app, ["models", str(trained)]).stdout
    assert "12 bands from 440 to 876 nm, ratio 3" in text
    assert "width=8" in text
    assert "megapixel" not in text
    measured = runner.invoke(app, ["models", str(trained), "--speed", "--json"])
    assert json.loads(measured.stdout)["seconds_per_megapixel"] > 0.0
    assert "s for a megapixel of the product here" in runner.invoke(app, ["models", str(trained), "--speed"]).stdout


def test_further_training_starts_from_the_weights(trained: Path, cube: Path, tmp_path: Path) -> None:
    output = tmp_path / "more.safetensors"
    quick = [part for part in QUICK if part not in TINY]
    result = runner.invoke(
        app, ["train-reduced", str(cube), "-o", str(output), *quick, "--init", str(trained), "--json"]
    )
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout.strip().splitlines()[-1])
    assert answer["init_sha256"] == load_weights(trained).sha256
    before = load_weights(trained).header
    after = load_weights(output).header
    assert after.centre_nm == before.centre_nm
    assert after.config == before.config


def test_scenes_beyond_the_memory_are_mapped_from_disk(
    trained: Path, cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    output = tmp_path / "model.safetensors"
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 100})())
    result = runner.invoke(app, ["train-reduced", str(cube), "-o", str(output), *QUICK])
    assert result.exit_code == 0, result.output
    assert "kept on disk" in result.output
    first, second = (load_weights(path).network.state_dict() for path in (trained, output))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.log.csv", "model.safetensors"]


def test_generated_scenes_and_the_paper_recipe(tmp_path: Path) -> None:
    output = tmp_path / "generated.safetensors"
    arguments = ["--generated", "2", "--generated-px", "60", "--recipe", "paper", "--ratio", "2,3", "--weights", "bf16"]
    small = "width=8,dfe_blocks=1,cfe_cycles=1,scm_steps=1,refine_stages=1,headdim=8,d_state=8"
    network = ["--method", "ssrfn-paper", "--network-settings", small]
    result = runner.invoke(app, ["train-reduced", "-o", str(output), *QUICK, *network, *arguments])
    assert result.exit_code == 0, result.output
    header = load_weights(output).header
    assert header.ratios == (2, 3)
    assert header.training["loop"]["loss"] == "mse"
    assert header.training["loop"]["learning_rate"] == 1e-4


def test_variants_of_cubes_and_images(cube: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.tif"
    with rasterio.open(image, "w", driver="GTiff", width=60, height=60, count=3, dtype="uint16", crs="EPSG:32632",
                       transform=rasterio.transform.from_origin(5e5, 5e6, 10, 10)) as file:  # fmt: skip
        file.write(np.random.default_rng(0).integers(1, 4000, (3, 60, 60), np.uint16))
    output = tmp_path / "remixed.safetensors"
    arguments = ["--remixed", "2", "--structure", str(image), "--generated-share", "1"]
    result = runner.invoke(app, ["train-reduced", str(cube), "-o", str(output), *QUICK, *arguments])
    assert result.exit_code == 0, result.output
    names = load_weights(output).header.training["scenes"]
    assert sum(name.startswith("remixed") for name in names) == 4
    missing = runner.invoke(
        app,
        ["train-reduced", str(cube), "-o", str(output), "--overwrite", *QUICK, *arguments[:2], "--structure", "no.tif"],
    )
    assert missing.exit_code == 3
    assert "no.tif cannot be read" in missing.output


def test_a_pair_is_aligned_and_learnt(tmp_path: Path) -> None:
    from hsfuse.simulate.products import simulate_pair

    pair = simulate_pair(tmp_path, size_px=(80, 90), seed=2, shift_m=(0.0, 0.0), rotation_deg=0.0, wave_m=0.0)
    listed = tmp_path / "scenes.csv"
    listed.write_text(f"hsi,msi\n{pair.prisma.name},{pair.sentinel2.name}\n")
    output = tmp_path / "pair.safetensors"
    extra = ["--coregister", "off", "--psf-fwhm", "1.25", "--patch", "12", "--window", "24"]
    result = runner.invoke(app, ["train-reduced", str(listed), "-o", str(output), *QUICK, *extra])
    assert result.exit_code == 0, result.output
    header = load_weights(output).header
    assert len(header.centre_nm) == 12
    assert "PRS_L2D" in header.training["scenes"][0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "nothing to train on"),
        (["none.npz"], 3, "none.npz does not exist"),
        (["{cube}", "--method", "magic"], 2, "There is no fusion method 'magic'"),
        (["{cube}", "--network-settings", "width"], 2, "not a network setting"),
        (["{cube}", "--network-settings", "colour=red"], 2, "colour"),
        (["{cube}", "--init", "ssrfn-none", "--network-settings", ""], 2, "There is no network 'ssrfn-none'"),
        (["{cube}", "--init", "{pickle}", "--network-settings", ""], 3, "is a pickle"),
        (["{cube}", "--init", "{foreign}", "--network-settings", ""], 3, "foreign.safetensors"),
        (["{cube}", "--init", "{trained}", "--network-settings", ""], 0, ""),
        (["{cube}", "--init", "{trained}", "--network-settings", "", "--ratio", "4"], 2, "trained for a ratio of 3"),
        (["{other}", "--init", "{trained}", "--network-settings", ""], 3, "no band near"),
        (["{cube}", "--init", "{trained}", "--network-settings", "", "--s2-bands", "all"], 2, "MSI bands"),
        (["{cube}", "--ratio", "three"], 2, "whole numbers of 2 to 12"),
        (["{cube}", "--bands", "4"], 3, "4 bands are too few"),
        (["{cube}", "--bands", "21"], 3, "fewer than the 21"),
        (["{small}"], 3, "too small to train on"),
        (["{broken}"], 3, "no usable cube"),
        (["{cube}", "--lr", "0"], 2, "lr"),
        (["{cube}", "--patch", "60", "--window", "30"], 2, "must not be smaller"),
        (["{cube}", "-o", "model.pt"], 2, ".safetensors"),
        (["{csv}"], 3, "gone.he5 (line 2"),
        (["{msi}", "{cube}"], 2, "the hyperspectral one comes first"),
        (["{cube}", "--device", "cuda:99"], 11, "There is no GPU 99"),
    ],
)
def test_bad_input(
    arguments: list[str], code: int, message: str, cube: Path, trained: Path, tmp_path: Path
) -> None:  # fmt: skip
    named = {name: tmp_path / f"{name}.safetensors" for name in ("pickle", "foreign")} | {
        name: tmp_path / f"{name}.npz" for name in ("other", "small", "broken")
    }
    torch.save({}, named["pickle"])
    named["foreign"].write_bytes(b"not a safetensors file at all")
    _write_cube(named["other"], np.linspace(1500.0, 1700.0, 14), (66, 42))
    _write_cube(named["small"], np.linspace(440.0, 900.0, 14), (20, 20))
    np.savez(named["broken"], picture=np.ones(3))
    named |= {"cube": cube, "trained": trained, "csv": tmp_path / "list.csv", "msi": tmp_path / "S2.SAFE"}
    named["csv"].write_text("hsi,msi\ngone.he5,gone.SAFE\n")
    named["msi"].mkdir()
    given = [part.format(**named) for part in arguments]
    output = [] if "-o" in given else ["-o", str(tmp_path / "model.safetensors")]
    result = runner.invoke(app, ["train-reduced", *QUICK, *output, *given])
    assert result.exit_code == code, result.output
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output
    if code:
        assert not (tmp_path / "model.safetensors").exists()


def test_a_training_that_was_stopped_before_its_first_checkpoint_is_resumed(cube: Path, tmp_path: Path) -> None:
    """As the message of the one that was stopped says: it starts anew."""
    output = tmp_path / "model.safetensors"
    result = runner.invoke(app, ["train-reduced", str(cube), "-o", str(output), *QUICK, "--resume"])
    assert result.exit_code == 0, result.output
    assert "starts anew" in result.output
    assert output.is_file()


def test_an_interrupted_replacement_goes_on(cube: Path, trained: Path, tmp_path: Path) -> None:
    """With --overwrite --resume; the checkpoint of an older training is no reason to refuse."""
    output, checkpoint = tmp_path / "model.safetensors", tmp_path / "model.checkpoint.safetensors"
    shutil.copyfile(trained, output)
    command = ["train-reduced", str(cube), "-o", str(output), *QUICK, "--overwrite"]
    # A checkpoint of the same training is gone on with, one of another training gives way to it.
    for steps, words in ((None, "Going on at step"), ("7", "starts anew")):
        _stop_after_the_first_checkpoint(cube, output, [] if steps is None else ["--steps", steps])
        assert checkpoint.exists()
        again = runner.invoke(app, [*command, "--resume"])
        assert again.exit_code == 0, again.output
        assert words in again.output
        assert not checkpoint.exists()
        assert torch.equal(*(next(iter(load_weights(p).network.state_dict().values())) for p in (output, trained)))
    checkpoint.write_bytes(b"mine")
    refused = runner.invoke(app, [*command, "--resume"])
    assert refused.exit_code == 7, refused.output
    assert checkpoint.read_bytes() == b"mine"


def _stop_after_the_first_checkpoint(cube: Path, output: Path, more: list[str]) -> None:
    def stop(path: Path, checkpoint: Any) -> None:
        save_checkpoint(path, checkpoint)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hsfuse.training.loop.save_checkpoint", stop)
        stopped = runner.invoke(app, ["train-reduced", str(cube), "-o", str(output), *QUICK, "--overwrite", *more])
    assert stopped.exit_code == 130, stopped.output


def test_nothing_is_overwritten(trained: Path, cube: Path) -> None:
    before = trained.read_bytes()
    result = runner.invoke(app, ["train-reduced", str(cube), "-o", str(trained), *QUICK])
    assert result.exit_code == 7
    assert "exists already" in result.output
    resumed = runner.invoke(app, ["train-reduced", str(cube), "-o", str(trained), *QUICK, "--resume"])
    assert resumed.exit_code == 2
    assert "is complete" in resumed.output
    assert trained.read_bytes() == before


def test_diverging_training_says_so(cube: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.safetensors"
    options = ["--lr", "1", "--clip", "0", "--schedule", "constant", "--steps", "500", "--validate-every", "500"]
    result = runner.invoke(app, ["train-reduced", str(cube), "-o", str(output), *QUICK, *options, "--batch", "1"])
    assert result.exit_code == 10, result.output
    assert "--lr" in result.output
    assert not output.exists()


def test_two_processes_give_the_curve_of_one(trained: Path, cube: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    output = tmp_path / "model.safetensors"
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hsfuse", "train-reduced", str(cube), "-o", str(output), *QUICK]
    team = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(2)
    ]  # fmt: skip
    told = [process.communicate(timeout=120)[0] for process in team]
    assert [process.returncode for process in team] == [0, 0], told
    assert "validation" in told[0]
    assert "PSNR" not in told[1]
    assert load_weights(output).header.training["processes"] == 2
    curves = []
    for path in (trained, output):
        rows = csv.DictReader(path.with_suffix(".log.csv").read_text().splitlines())
        curves.append([(float(r["loss"] or "nan"), float(r["psnr_db"] or "nan")) for r in rows])
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)


def test_a_training_scored_in_what_it_gains_is_described() -> None:
    """Networks that weigh experts have no PSNR of their own."""
    summary = {
        "output": "m.safetensors", "network": "ssrfn-lite", "parameters": 26_000, "steps": 4, "training_seconds": 2.0,
        "device": "cpu", "best_step": 4, "stopped": "budget", "megapixels_per_second": 0.1, "log": "m.log.csv",
        "validation": {"gain_db": 0.25, "worst_gain_db": -0.1, "gain_without_db": 0.2},
    }  # fmt: skip
    assert "gain +0.25 dB, at worst -0.10 dB, over the estimate without network" in result_text(summary)


def test_a_missing_tensorboard_is_found_before_any_scene_is_read(
    cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_log, "find_spec", lambda name: None)
    call = ["train-reduced", str(cube), "-o", str(tmp_path / "x.safetensors"), *QUICK, "--tensorboard"]
    done = runner.invoke(app, call)
    assert done.exit_code == 2
    assert "TensorBoard is not installed" in done.output
    assert "start weights: done" not in done.output
