"""The diffusion prior: its noise, its schedule, its file, its training, and what it is sampled for."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from typer.testing import CliRunner

from hsfuse.cli.app import app
from hsfuse.config import RunConfig
from hsfuse.degrade import Psf, lowpass_decimate, upsample
from hsfuse.errors import InputError, UsageError
from hsfuse.fusion.base import LowResolutionStrip
from hsfuse.fusion.classical.statistics import gather
from hsfuse.fusion.create import create_method
from hsfuse.fusion.methods.mpsrnet_diff.low_rank import LowRankModel, select_bands
from hsfuse.fusion.methods.mpsrnet_diff.network import factors
from hsfuse.fusion.methods.mpsrnet_diff.sampling import PriorSampler
from hsfuse.fusion.nets.diffusion.files import load_prior, save_prior
from hsfuse.fusion.nets.diffusion.noise import pixel_noise
from hsfuse.fusion.nets.diffusion.schedule import signal_power, strided
from hsfuse.fusion.nets.diffusion.settings import PriorSettings
from hsfuse.fusion.nets.diffusion.unet import SPREAD, PatchPrior, balance
from hsfuse.fusion.nets.zoo import find_model
from hsfuse.grid import Slice2D
from hsfuse.simulate.training_scene import training_scene
from hsfuse.spectral import BandTable
from hsfuse.training.loop import train
from hsfuse.training.prior_task import PriorImage, PriorTask
from hsfuse.training.settings import LoopSettings, TrainingFiles
from hsfuse.workflows.steps.methods import choose_method

BANDS = BandTable.make(np.linspace(450.0, 900.0, 10), np.full(10, 15.0))


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_prior(n_bands: int = 3) -> PatchPrior:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PatchPrior(PriorSettings(n_bands=n_bands, width=8, levels=2))


def test_noise_belongs_to_places() -> None:
    whole = pixel_noise(7, 0, -4, 10, (3, 40, 50))
    assert_array_equal(pixel_noise(7, 0, 6, 22, (3, 9, 11)), whole[:, 10:19, 12:23])
    assert not np.array_equal(pixel_noise(8, 0, -4, 10, (3, 40, 50)), whole)
    assert not np.array_equal(pixel_noise(7, 1, -4, 10, (3, 40, 50)), whole)


def test_noise_is_white_and_normal() -> None:
    noise = pixel_noise(3, 2, 0, 0, (2, 200, 200)).astype(np.float64)
    assert abs(noise.mean()) < 0.02
    assert noise.std() == pytest.approx(1.0, abs=0.01)
    assert (noise**4).mean() == pytest.approx(3.0, abs=0.15)
    for moved in (noise[:, 1:] * noise[:, :-1], noise[:, :, 1:] * noise[:, :, :-1], noise[0] * noise[1]):
        assert abs(moved.mean()) < 0.015


def test_levels_fall_and_strides_visit_both_ends() -> None:
    power = signal_power(500)
    assert np.all(np.diff(power) < 0)
    assert power[0] > 0.999
    assert power[-1] == pytest.approx(1e-3)
    levels = strided(500, 50)
    assert (levels[0], levels[-1], len(levels)) == (499, 0, 50)
    with pytest.raises(UsageError, match="1 to 500"):
        strided(500, 501)


def test_untrained_it_is_the_best_linear_estimate() -> None:
    prior = tiny_prior()
    power = torch.tensor([0.9, 0.1])
    noisy = torch.randn(2, 3, 16, 12)
    keep, left = balance(power)
    assert_allclose(prior(noisy, power).detach(), (keep * noisy), rtol=1e-5, atol=1e-6)
    total = power * SPREAD**2 + 1.0 - power
    assert_allclose(left[:, 0, 0, 0] ** 2, SPREAD**2 * (1.0 - power) / total, rtol=1e-5)
    with pytest.raises(UsageError, match="multiples of 4"):
        prior(noisy[..., :15, :], power)


def test_files_come_back_and_others_are_refused(tmp_path: Path) -> None:
    path = save_prior(tmp_path / "p.safetensors", tiny_prior(), "mine", {"scenes": ["here"]})
    loaded = load_prior(path, n_bands=3)
    assert (loaded.name, loaded.training) == ("mine", {"scenes": ["here"]})
    assert all(torch.equal(a, b) for a, b in zip(loaded.network.state_dict().values(),
                                                 tiny_prior().state_dict().values(), strict=True))  # fmt: skip
    with pytest.raises(UsageError, match="one of 3 bands, the network needs one of 4"):
        load_prior(path, n_bands=4)
    (tmp_path / "x.safetensors").write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match="damaged"):
        load_prior(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="cannot be read"):
        load_prior(tmp_path / "none.safetensors")


def test_the_shipped_prior_knows_what_it_was_trained_on() -> None:
    shipped = load_prior(n_bands=3)
    assert shipped.training["validation"]["denoised_db"] > shipped.training["validation_before"]["denoised_db"]
    assert shipped.training["scenes"]


def test_the_shipped_network_loads_with_its_prior_and_has_seen_no_test_site() -> None:
    method = create_method("mpsrnet-diff-lite")
    assert (method.spec.ratios, method.spec.n_msi, method.spec.name) == ((6,), 1, "mpsrnet-diff-lite")
    header = find_model("mpsrnet-diff-lite").header()
    assert header is not None
    sites = tomllib.loads((Path(__file__).parents[2] / "benchmarks" / "sites.toml").read_text(encoding="utf-8"))
    held = {name for split in ("validation", "test") for names in sites[split].values() for name in names}
    assert not held & set(header.training["scenes"])
    assert not held & set(load_prior().training["scenes"])


def test_methods_without_a_prior_refuse_one(tmp_path: Path) -> None:
    path = save_prior(tmp_path / "p.safetensors", tiny_prior(), "mine", {})
    with pytest.raises(UsageError, match="'glp' takes no --prior"):
        choose_method(RunConfig(method="glp", prior=path))


def images() -> list[PriorImage]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:64, 0:64] / 9.0
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(0.5, 2.0, (5, 3))]
    return [PriorImage("waves", np.stack(waves).astype(np.float32))]


def test_training_frees_patches_of_noise_and_resumes_exactly(tmp_path: Path) -> None:
    settings = LoopSettings(steps=16, validate_every=8, learning_rate=1e-2, micro_batch=8, warmup_steps=2, ema=0.5)

    def task() -> PriorTask:
        return PriorTask(tiny_prior(), images(), images(), patch_px=16, batch=8)

    whole = task()
    result = train(whole, settings)
    assert result.best.quality > result.first.quality + 0.05
    files = TrainingFiles(tmp_path / "state.safetensors", tmp_path / "log.csv")

    class Stop:
        left = 12

        def __enter__(self) -> Stop:
            return self

        def __exit__(self, *_: object) -> None: ...

        def stage(self, name: str, total: float = 1.0) -> Stop:
            return self

        def advance(self, amount: float = 1.0) -> None:
            Stop.left -= 1
            if Stop.left == 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(task(), settings, files=files, progress=Stop())  # type: ignore[arg-type]
    resumed = train(task(), settings, files=TrainingFiles(files.checkpoint, files.log, resume=True))
    assert resumed.history == result.history


def test_the_command_writes_a_prior_and_says_what_is_wrong(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cube = rng.random((12, 40, 36)).astype(np.float32)
    np.savez(tmp_path / "cube.npz", cube=cube, wavelength_nm=np.linspace(450.0, 900.0, 12))
    arguments = ["--width", "4", "--levels", "2", "--steps", "2", "--patch", "16", "--batch", "2", "--threads", "1"]
    out = tmp_path / "prior.safetensors"
    run = CliRunner().invoke(app, ["train-prior", str(tmp_path / "cube.npz"), "-o", str(out), "--json", *arguments])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["steps"] == 2
    assert load_prior(out).network.settings.width == 4
    again = CliRunner().invoke(app, ["train-prior", str(tmp_path / "cube.npz"), "-o", str(out), *arguments])
    assert again.exit_code == 7
    small = CliRunner().invoke(
        app, ["train-prior", str(tmp_path / "cube.npz"), "-o", str(tmp_path / "q.safetensors"), "--patch", "48"]
    )
    assert small.exit_code == 3


def test_bands_are_chosen_by_components_and_unlike_each_other() -> None:
    rng = np.random.default_rng(2)
    first, second, third = rng.standard_normal((3, 4000))
    bands = np.stack([first, first + 0.01 * second, second, second + 0.01 * first, third, 0.7 * first])
    chosen = select_bands(np.cov(bands), 3)
    assert {0, 1, 5} & set(chosen.tolist())
    assert {2, 3} & set(chosen.tolist())
    assert 4 in chosen


def test_ratios_are_reached_in_prime_steps() -> None:
    assert [factors(r) for r in (2, 3, 4, 6, 12)] == [[2], [3], [2, 2], [2, 3], [2, 2, 3]]


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, LowRankModel]:
    truth = torch.from_numpy(training_scene(5, 96, 6).reflectance(BANDS, Slice2D(0, 96, 0, 96)))
    hsi = lowpass_decimate(truth[None], 6, Psf(1.0))[0]
    guide = truth[:5].mean(dim=0, keepdim=True)
    low = lowpass_decimate(guide[None], 6, Psf(1.0))[0]
    strip = LowResolutionStrip(hsi.numpy(), low.numpy(), np.ones(hsi.shape[1:], bool))
    return truth, hsi, guide, LowRankModel.of(gather([strip]), 3)


def test_samples_follow_the_measurements_and_do_not_depend_on_tiles(pair) -> None:
    truth, hsi, guide, model = pair
    sampler = PriorSampler(load_prior(n_bands=3).network, model, Psf(1.0), 6, 8, 4, seed=1)
    whole = sampler.cube(hsi, guide, (0, 0), slice(0, 16), slice(0, 16))
    assert torch.equal(whole, sampler.cube(hsi, guide, (0, 0), slice(0, 16), slice(0, 16)))
    smooth = upsample(hsi[None], 6)[0]
    assert float((whole - truth)[:5].square().mean()) < 0.7 * float((smooth - truth)[:5].square().mean())
    assert float((lowpass_decimate(whole[None], 6, Psf(1.0))[0] - hsi).abs().mean()) < 0.01
    # A tile that begins elsewhere gives the same pixels, with the margin of a window around it.
    part = sampler.cube(hsi[:, 8:], guide[:, 48:], (8, 0), slice(4, 8), slice(0, 16))
    inner = sampler.cube(hsi, guide, (0, 0), slice(12, 16), slice(0, 16))
    assert torch.allclose(part[:, 24:], inner[:, 72:], atol=2e-2)
    other = PriorSampler(sampler.prior, model, Psf(1.0), 6, 8, 4, seed=2).cube(
        hsi, guide, (0, 0), slice(0, 16), slice(0, 16)
    )
    assert not torch.equal(other, whole)
