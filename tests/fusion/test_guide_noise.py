"""The MSI's noise, measured on the MSI itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hsfuse.fusion.guide_noise import GuideSample, guide_noise
from hsfuse.sensors.sentinel2 import BANDS_10M, table_responses
from hsfuse.simulate.training_scene import training_scene


def _scene(side: int = 192) -> NDArray[np.float32]:
    truth = training_scene(3, side)
    return np.asarray(truth.response(table_responses("Sentinel-2A", BANDS_10M), truth.grid.full), np.float32)


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_pure_noise_is_measured(bands: int) -> None:
    rng = np.random.default_rng(bands)
    sigma = rng.uniform(0.01, 0.012, bands)
    smooth = np.stack([gaussian_filter(rng.standard_normal((300, 300)), 12) for _ in range(bands)])
    image = (0.3 + smooth + sigma[:, None, None] * rng.standard_normal((bands, 300, 300))).astype(np.float32)
    found = guide_noise([GuideSample.take(image, np.ones((300, 300), bool))])
    assert found is not None
    assert found == pytest.approx(sigma, rel=0.12)


def test_texture_that_bands_share_does_not_pass_for_noise() -> None:
    rng = np.random.default_rng(0)
    clean = _scene()
    level = np.sqrt((clean**2).mean(axis=(1, 2)))
    whole = np.ones(clean.shape[1:], bool)
    quiet = guide_noise([GuideSample.take(clean, whole)])
    assert quiet is not None
    assert (quiet < 0.2 * level * 10.0 ** (-38.0 / 20.0)).all()
    for snr_db in (30.0, 38.0):
        sigma = level * 10.0 ** (-snr_db / 20.0)
        noisy = (clean + sigma[:, None, None] * rng.standard_normal(clean.shape)).astype(np.float32)
        found = guide_noise([GuideSample.take(noisy, whole)])
        assert found is not None
        assert (found > 0.8 * sigma).all()
        assert (found < 1.3 * sigma).all()


@pytest.mark.parametrize("more", ["copy", "mean"])
def test_bands_made_of_others_have_their_noise(more: str) -> None:
    rng = np.random.default_rng(1)
    clean = _scene()
    noisy = (clean + 0.004 * rng.standard_normal(clean.shape)).astype(np.float32)
    made = noisy[1:2] if more == "copy" else noisy.mean(axis=0, keepdims=True)
    found = guide_noise([GuideSample.take(np.concatenate([noisy, made]), np.ones(clean.shape[1:], bool))])
    assert found is not None
    assert found[:4] == pytest.approx(0.004, rel=0.35)
    assert found[4] == pytest.approx(0.004 if more == "copy" else 0.002, rel=0.5)


def test_gaps_and_constant_areas_do_not_count() -> None:
    rng = np.random.default_rng(1)
    image = (0.2 + 0.01 * rng.standard_normal((3, 200, 200))).astype(np.float32)
    usable = np.ones((200, 200), bool)
    usable[:, 120:] = False
    image[:, :, 120:] = np.nan
    image[:, :60] = 1.0  # saturated
    found = guide_noise([GuideSample.take(image, usable)])
    assert found is not None
    assert found == pytest.approx(np.full(3, 0.01), rel=0.15)


def test_too_few_pixels_say_nothing() -> None:
    image = np.random.default_rng(2).random((3, 20, 20)).astype(np.float32)
    assert guide_noise([GuideSample.take(image, np.ones((20, 20), bool))]) is None
    assert guide_noise([GuideSample.take(image, np.zeros((20, 20), bool))]) is None


def test_whole_blocks_are_kept_and_blocks_with_gaps_are_not() -> None:
    rng = np.random.default_rng(3)
    image = rng.random((4, 96, 96 * 6)).astype(np.float32)
    usable = np.ones(image.shape[1:], bool)
    usable[5, 96 + 7] = False
    sample = GuideSample.take(image, usable)
    starts = [c for b in sample.blocks for c in range(0, 96 * 6, 96) if np.array_equal(b, image[:, :, c : c + 96])]
    assert len(starts) == len(sample.blocks) == 3
    assert 96 not in starts
    image[:] = 0.0
    assert all(block.any() for block in sample.blocks)  # copies: the strip that they come from is given back


@pytest.mark.shared_data
@pytest.mark.parametrize("snr_db", [32.0, 40.0])
@pytest.mark.parametrize("name", ["aviris_sandiego", "aviris_urban-2", "aviris_beach-2"])
def test_noise_of_measured_images_that_were_not_trained_on(shared_data: Path, name: str, snr_db: float) -> None:
    with np.load(shared_data / "cubes" / f"{name}.npz") as stored:
        cube, centre = stored["cube"].astype(np.float32), stored["wavelength_nm"]
    bands = [np.argsort(np.abs(centre - nm))[:n] for nm, n in ((490, 6), (560, 4), (665, 3), (842, 10))]
    first = 0 if cube.shape[0] == len(centre) else 2
    clean = np.stack([np.take(cube, band, axis=first).mean(axis=first) for band in bands])
    sigma = np.sqrt((clean**2).mean(axis=(1, 2))) * 10.0 ** (-snr_db / 20.0)
    noisy = clean + sigma[:, None, None] * np.random.default_rng(4).standard_normal(clean.shape)
    found = guide_noise([GuideSample.take(noisy, np.ones(noisy.shape[1:], bool))])
    assert found is not None
    assert np.abs(np.log(found / sigma)).max() < np.log(1.5)
    assert np.median(found / sigma) == pytest.approx(1.0, abs=0.2)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["aviris_moffett176_half50", "spectir_beltsville_half50"])
def test_texture_of_small_images_does_not_hide_their_noise(shared_data: Path, name: str) -> None:
    with np.load(shared_data / "cubes" / f"{name}.npz") as stored:
        cube, centre = stored["cube"].astype(np.float32), stored["wavelength_nm"]
    bands = [np.argsort(np.abs(centre - nm))[:n] for nm, n in ((490, 6), (560, 4), (665, 3), (842, 10))]
    clean = np.stack([cube[band].mean(axis=0) for band in bands])
    sigma = np.sqrt((clean**2).mean(axis=(1, 2))) * 10.0 ** (-40.0 / 20.0)
    noisy = clean + sigma[:, None, None] * np.random.default_rng(4).standard_normal(clean.shape)
    found = guide_noise([GuideSample.take(noisy, np.ones(noisy.shape[1:], bool))])
    assert found is not None
    assert (found > 0.6 * sigma).all()
    assert (found < 1.5 * sigma).all()
