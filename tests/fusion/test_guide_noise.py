"""The MSI's noise, measured on the MSI itself."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hsfuse.fusion.guide_noise import noise_from_samples, noise_samples
from hsfuse.readers.s2_srf import BANDS_10M, table_responses
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
    found = noise_from_samples(noise_samples(image, np.ones((300, 300), bool)))
    assert found is not None
    assert found == pytest.approx(sigma, rel=0.12)


def test_texture_that_bands_share_does_not_pass_for_noise() -> None:
    rng = np.random.default_rng(0)
    clean = _scene()
    level = np.sqrt((clean**2).mean(axis=(1, 2)))
    whole = np.ones(clean.shape[1:], bool)
    quiet = noise_from_samples(noise_samples(clean, whole))
    assert quiet is not None
    assert (quiet < 0.2 * level * 10.0 ** (-38.0 / 20.0)).all()
    for snr_db in (30.0, 38.0):
        sigma = level * 10.0 ** (-snr_db / 20.0)
        noisy = (clean + sigma[:, None, None] * rng.standard_normal(clean.shape)).astype(np.float32)
        found = noise_from_samples(noise_samples(noisy, whole))
        assert found is not None
        # Texture that only one band has cannot be told from noise: the estimate errs upwards.
        assert (found > 0.85 * sigma).all()
        assert (found < 2.0 * sigma).all()


def test_gaps_and_constant_areas_do_not_count() -> None:
    rng = np.random.default_rng(1)
    image = (0.2 + 0.01 * rng.standard_normal((3, 200, 200))).astype(np.float32)
    usable = np.ones((200, 200), bool)
    usable[:, 120:] = False
    image[:, :, 120:] = np.nan
    image[:, :60] = 1.0  # saturated
    found = noise_from_samples(noise_samples(image, usable))
    assert found is not None
    assert found == pytest.approx(np.full(3, 0.01), rel=0.15)


def test_too_few_pixels_say_nothing() -> None:
    image = np.random.default_rng(2).random((3, 20, 20)).astype(np.float32)
    assert noise_from_samples(noise_samples(image, np.ones((20, 20), bool))) is None
    assert noise_from_samples(noise_samples(image, np.zeros((20, 20), bool))) is None
