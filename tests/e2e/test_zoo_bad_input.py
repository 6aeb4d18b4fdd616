"""What networks and guides cannot be used for: one sentence, a hint, the right exit code, nothing half written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from typer.testing import CliRunner

from hsfuse.cli.app import app
from hsfuse.fusion.methods.qis_gan.task import AdversarialTask
from hsfuse.fusion.nets.diffusion.files import save_prior
from hsfuse.fusion.nets.diffusion.settings import PriorSettings
from hsfuse.fusion.nets.diffusion.unet import PatchPrior
from hsfuse.readers import open_hsi
from hsfuse.simulate.products import SimulatedPair, simulate_pair
from hsfuse.training.pairs import Batch

pytestmark = pytest.mark.usefixtures("torch_threads_as_they_were")
runner = CliRunner()
PAN = "HDFEOS/SWATHS/PRS_L2D_PCO"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SimulatedPair:
    """The least that is simulated, with a panchromatic image."""
    return simulate_pair(tmp_path_factory.mktemp("small"), size_px=(44, 44), seed=3, s2_bands="10m", shift_m=(0.0, 0.0))


def refused(arguments: list[str], code: int, message: str, folder: Path, hint: str = "") -> None:
    """Run a command that has to end so, and leave the folder of its output as it was."""
    before = sorted(folder.iterdir())
    result = runner.invoke(app, arguments)
    text = " ".join(result.output.split())
    assert result.exit_code == code, text
    assert message in text
    assert f"hint: {hint}" in text
    assert "Traceback" not in text
    assert sorted(folder.iterdir()) == before


def without_pan(file: h5py.File) -> None:
    del file[PAN]


def empty_pan(file: h5py.File) -> None:
    file[f"{PAN}/Data Fields/Cube"][:] = 0


def torn_pan(file: h5py.File) -> None:
    fields = file[f"{PAN}/Data Fields"]
    image = fields["Cube"][:-5, :-5]
    del fields["Cube"]
    fields["Cube"] = image


@pytest.mark.parametrize(
    ("change", "code", "message", "hint"),
    [
        (without_pan, 3, "brings no panchromatic image", "Use Sentinel-2 as the guide (--guide s2)"),
        (empty_pan, 4, "the panchromatic image is empty", "Use Sentinel-2 as the guide (--guide s2)"),
        (torn_pan, 3, "which is no multiple of the cube's", ""),
    ],
)
def test_panchromatic_images_that_cannot_guide(
    small: SimulatedPair, tmp_path: Path, change: Callable[[h5py.File], None], code: int, message: str, hint: str
) -> None:
    product = Path(shutil.copy(small.prisma, tmp_path / "scene.he5"))
    with h5py.File(product, "r+") as file:
        change(file)
    out = tmp_path / "out"
    out.mkdir()
    command = ["run", str(product), "-o", str(out / "o.tif"), "--guide", "pan", "--method", "glp", "--quality", "plain"]
    refused(command, code, message, out, hint)


@pytest.mark.parametrize(
    ("pixel_m", "method", "message", "hint"),
    [
        (60.0, "glp", "are larger than the HSI's (30 m)", "Give the hyperspectral image first"),
        (15.0, "ssrnet-lite", "was trained for a ratio of 3 and 4, the scene needs 2", "Use --method glp"),
    ],
)
def test_guides_of_another_pixel_size(
    small: SimulatedPair, tmp_path: Path, pixel_m: float, method: str, message: str, hint: str
) -> None:
    with open_hsi(small.prisma) as product:
        bounds, crs = product.grid.bounds, product.grid.crs
    side = int(1320.0 / pixel_m)
    with rasterio.open(
        tmp_path / "guide.tif", "w", driver="GTiff", width=side, height=side, count=4, dtype="uint16", crs=crs,
        transform=from_origin(bounds.left, bounds.top, pixel_m, pixel_m),
    ) as file:  # fmt: skip
        file.write(np.random.default_rng(0).integers(500, 4000, (4, side, side), np.uint16))
    images = [str(small.prisma), str(tmp_path / "guide.tif")]
    usual = ["--coregister", "off", "--quality", "plain", "--no-report", "--allow-radiometry-mismatch"]
    refused(["run", *images, "-o", str(tmp_path / "o.tif"), "--method", method, *usual], 2, message, tmp_path, hint)


@pytest.mark.parametrize(
    ("flags", "code", "message", "hint"),
    [
        (["--method", "csakd-lite", "--model", "ssrnet-lite"], 2, "belong to a network 'ssrnet'", "Give weights that"),
        (["--method", "mpsrnet-diff-lite"], 2, "takes the MSI bands", "Use the --s2-bands that"),
        (["--guide", "pan", "--method", "ssrnet-lite"], 2, "takes the MSI bands", "Use the --s2-bands that"),
        (["--method", "glp", "--prior", "{prior}"], 2, "'glp' takes no --prior", "Name one that samples a prior"),
        (["--guide", "pan", "--method", "mpsrnet-diff-lite", "--prior", "{prior}"], 2,
         "is one of 4 bands, the network needs one of 3", "Train one with 'hsfuse train-prior --bands 3'"),
        # Of 44 pixels a corner is taken that is valid and too small to learn on.
        (["--method", "uhntc", "--aoi", "{corner}"], 4, "too little to learn on", "Use a larger area"),
    ],
)  # fmt: skip
def test_weights_priors_and_scenes_that_do_not_fit(
    small: SimulatedPair, tmp_path: Path, flags: list[str], code: int, message: str, hint: str
) -> None:
    prior = save_prior(
        tmp_path / "prior.safetensors", PatchPrior(PriorSettings(n_bands=4, width=8, levels=2)), "mine", {}
    )
    with rasterio.open(next(small.sentinel2.rglob("*B02_10m.jp2"))) as image:
        x, y = image.xy(image.height // 2, image.width // 2)
    given = [flag.format(prior=prior, corner=f"{x - 150},{y - 150},{x + 150},{y + 150}") for flag in flags]
    images = [str(small.prisma)] if "pan" in given else [str(small.prisma), str(small.sentinel2)]
    out = tmp_path / "out"
    out.mkdir()
    usual = ["--coregister", "off", "--quality", "plain", "--no-report", "--no-progress"]
    refused(["run", *images, "-o", str(out / "o.tif"), *usual, *given], code, message, out, hint)


def test_a_student_needs_a_teacher(small_cube: Path, tmp_path: Path) -> None:
    shape = "grouped=false,teacher_high=1,teacher_low=1,teacher_hsi=1,teacher_msi=1"
    command = ["train-reduced", str(small_cube), "-o", str(tmp_path / "w.safetensors"), "--method", "csakd-lite",
               "--network-settings", shape, "--bands", "12", "--steps", "1", "--threads", "1",
               "--device", "cpu"]  # fmt: skip
    refused(command, 2, "Distillation needs a teacher", tmp_path, "Raise teacher_high")


def test_an_adversary_that_diverges_says_so(small_cube: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = AdversarialTask.loss

    def broken(self: AdversarialTask, sample: Batch, group: str, step: int) -> torch.Tensor:
        return own(self, sample, group, step) * (float("nan") if group == "discriminator" else 1.0)

    monkeypatch.setattr(AdversarialTask, "loss", broken)
    output = tmp_path / "w.safetensors"
    command = ["train-reduced", str(small_cube), "-o", str(output), "--method", "qis-gan-lite", "--network-settings",
               "base=none,width=8,hidden=16", "--patch", "18", "--window", "36", "--batch", "2", "--gap", "6",
               "--bands", "12", "--steps", "40", "--validate-every", "40", "--validation-windows", "1",
               "--threads", "1", "--device", "cpu"]  # fmt: skip
    result = runner.invoke(app, command)
    assert result.exit_code == 10, result.output
    assert "error: The loss is not a number since step 1" in " ".join(result.output.split())
    assert "hint: Use a smaller --lr" in result.output
    assert not output.exists()
