"""Fidelity guards: they do what they promise, stay exact in tiles, and cost nothing when off."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hsfuse.degrade import Psf, lowpass_decimate, lowpass_decimate_array
from hsfuse.errors import HsfuseError, UsageError
from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.fusion.create import create_method
from hsfuse.fusion.fidelity import FidelityOptions, back_project, guarded, srf_correction

torch.set_num_threads(1)

BANDS, SIZE, RATIO = 12, 24, 3


def _texture(bands: int, size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None, :])
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(bands, size, size))) / (0.02 + frequency) ** 1.4).real
    return (0.3 + 0.08 * field / field.std(axis=(1, 2), keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Truth, HSI, MSI and responses."""
    rng = np.random.default_rng(0)
    fields = _texture(3, SIZE * RATIO, 1)
    truth = np.tensordot(rng.random((BANDS, 3)) / 2, fields, 1).astype(np.float32)
    srf = np.zeros((3, BANDS))
    srf[0, :3], srf[1, 3:7], srf[2, 7:10] = 1 / 3, 1 / 4, 1 / 3
    return truth, lowpass_decimate_array(truth, RATIO, Psf()), np.tensordot(srf, truth, 1).astype(np.float32), srf


def _fit(method, pair, srf=True):
    _, hsi, msi, weights = pair
    context = FusionContext(RATIO, np.arange(BANDS) + 400.0, np.full(BANDS, 10.0), weights if srf else None, Psf())
    low = lowpass_decimate_array(msi, RATIO, Psf())
    method.fit(context, [LowResolutionStrip(hsi, low, np.ones(hsi.shape[1:], bool))])
    return method


def _run(method, pair) -> torch.Tensor:
    return method.fuse(torch.from_numpy(pair[1])[None], torch.from_numpy(pair[2])[None])


def test_back_projection_brings_the_result_to_the_hsi():
    fused, hsi = torch.rand(1, 4, 36, 36), torch.rand(1, 4, 12, 12)
    before = float((lowpass_decimate(fused, 3, Psf()) - hsi).std())
    errors = [
        float((lowpass_decimate(back_project(fused, hsi, 3, Psf(), steps=n), 3, Psf()) - hsi).std()) for n in (1, 3, 8)
    ]
    assert before > errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1 * before


def test_back_projection_leaves_a_consistent_result_alone():
    fused = torch.rand(1, 2, 24, 24)
    hsi = lowpass_decimate(fused, 3, Psf(1.3))
    torch.testing.assert_close(back_project(fused, hsi, 3, Psf(1.3), steps=2), fused, atol=1e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99))
def test_srf_correction_closes_the_gap_exactly(seed):
    rng = np.random.default_rng(seed)
    srf = rng.random((3, 10))
    srf /= srf.sum(axis=1, keepdims=True)
    correction = srf_correction(srf, rng.random(10) + 0.1)
    np.testing.assert_allclose(srf @ correction, np.eye(3), atol=1e-3)


def test_uncovered_msi_bands_correct_nothing():
    srf = np.vstack([np.full((1, 6), 1 / 6), np.zeros((1, 6))])
    correction = srf_correction(srf, np.ones(6))
    assert np.abs(correction[:, 1]).max() == 0.0
    assert (srf_correction(np.zeros((2, 6)), np.ones(6)) == 0.0).all()


def test_srf_guard_makes_the_result_agree_with_the_msi(pair):
    plain = _run(_fit(create_method("bicubic"), pair), pair)[0].numpy()
    method = guarded(create_method("bicubic"), FidelityOptions(srf_weight=1.0))
    tied = _run(_fit(method, pair), pair)[0].numpy()

    def gap(cube: np.ndarray) -> float:
        return float(np.abs(np.tensordot(pair[3], cube, 1) - pair[2]).mean())

    assert gap(tied) < 0.2 * gap(plain)
    assert np.abs(tied - pair[0]).mean() < np.abs(plain - pair[0]).mean()


def test_srf_guard_does_not_follow_a_wrong_calibration(pair):
    options = FidelityOptions(srf_weight=1.0)
    right = _run(_fit(guarded(create_method("gsa"), options), pair), pair)
    truth, hsi, msi, srf = pair
    brighter = (truth, hsi, (1.2 * msi + 0.05).astype(np.float32), srf)
    shifted = _run(_fit(guarded(create_method("gsa"), options), brighter), brighter)
    torch.testing.assert_close(shifted, right, atol=2e-3, rtol=0)


def test_srf_guard_without_responses_says_what_to_do(pair):
    with pytest.raises(UsageError, match="spectral responses"):
        _fit(guarded(create_method("bicubic"), FidelityOptions(srf_weight=0.5)), pair, srf=False)


def test_clipping_keeps_reflectance_in_range(pair):
    method = _fit(guarded(create_method("bicubic"), FidelityOptions(clip=(0.2, 0.25))), pair)
    fused = _run(method, pair)
    assert float(fused.min()) >= 0.2
    assert float(fused.max()) <= 0.25


def test_guards_that_are_off_are_not_there():
    method = create_method("bicubic")
    assert guarded(method, FidelityOptions()) is method


@pytest.mark.parametrize("name", ["bicubic", "glp"])
def test_guarded_tiles_with_halo_equal_the_whole(name, pair):
    options = FidelityOptions(back_projection=2, srf_weight=0.5, clip=(-0.05, 1.5))
    method = _fit(guarded(create_method(name), options), pair)
    halo = method.spec.halo_px
    whole = _run(method, pair)[0]
    top = 12
    rows = slice(max(top - halo, 0), SIZE)
    hsi, msi = torch.from_numpy(pair[1][:, rows])[None], torch.from_numpy(pair[2][:, rows.start * RATIO :])[None]
    part = method.fuse(hsi, msi)[0][:, (top - rows.start) * RATIO :]
    torch.testing.assert_close(part, whole[:, top * RATIO :], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "bad", [{"back_projection": -1}, {"back_projection_weight": 0.0}, {"srf_weight": 1.5}, {"clip": (1.0, 0.0)}]
)
def test_absurd_options_are_refused(bad):
    with pytest.raises(UsageError):
        FidelityOptions(**bad)


def test_fusing_before_fitting_says_so():
    method = guarded(create_method("bicubic"), FidelityOptions(back_projection=1))
    with pytest.raises(HsfuseError, match="not fitted"):
        method.fuse(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 12, 12))
