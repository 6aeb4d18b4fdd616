"""Degradation: geometry of the pixel centres, filters against plain twins, masks, the estimated PSF."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hsfuse.degrade import (
    Psf,
    apply_srf,
    decimate_separable,
    lowpass_decimate,
    lowpass_decimate_array,
    masked_lowpass_decimate_array,
    psf_kernel,
    smooth,
    upsample,
    upsample_array,
)
from hsfuse.degrade.psf_estimation import estimate_psf
from hsfuse.errors import InputError, UsageError

torch.set_num_threads(1)  # threads that wait for each other on a busy machine are slower than one

RATIOS = st.integers(2, 6)
WIDTHS = st.floats(0.3, 2.5)


def _texture(bands: int, rows: int, cols: int, seed: int = 0) -> np.ndarray:
    """Smooth random field with detail down to a few pixels, between 0 and about 1."""
    rng = np.random.default_rng(seed)
    spectrum = 1.0 / (1.0 + 40.0 * np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(cols)[None, :])) ** 1.5
    field = np.fft.ifft2(np.fft.fft2(rng.normal(size=(bands, rows, cols))) * spectrum).real
    field -= field.min(axis=(1, 2), keepdims=True)
    return (field / field.max(axis=(1, 2), keepdims=True)).astype(np.float32)


def _decimate_slowly(x: np.ndarray, ratio: int, psf: Psf) -> np.ndarray:
    """Plain twin: the two-dimensional kernel at every coarse centre, on edge-replicated data."""
    kernel = psf_kernel(psf, ratio)
    side = (kernel.size - ratio) // 2
    padded = np.pad(x.astype(np.float64), ((0, 0), (side, side), (side, side)), mode="edge")
    out = np.empty((x.shape[0], x.shape[1] // ratio, x.shape[2] // ratio))
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            window = padded[:, i * ratio : i * ratio + kernel.size, j * ratio : j * ratio + kernel.size]
            out[:, i, j] = np.einsum("brc,r,c->b", window, kernel, kernel)
    return out


def _cubic(distance: np.ndarray) -> np.ndarray:
    d = np.abs(distance)
    return np.where(d <= 1, 1.5 * d**3 - 2.5 * d**2 + 1, np.where(d < 2, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2, 0.0))


def _upsample_slowly(x: np.ndarray, ratio: int) -> np.ndarray:
    """Plain twin: cubic convolution evaluated at every fine centre."""

    def matrix(n: int) -> np.ndarray:
        fine = (np.arange(n * ratio) - (ratio - 1) / 2) / ratio
        weights = np.zeros((n * ratio, n))
        for k in range(-3, n + 3):
            weights[:, min(max(k, 0), n - 1)] += _cubic(fine - k)
        return weights

    return np.einsum("fr,brc,gc->bfg", matrix(x.shape[1]), x.astype(np.float64), matrix(x.shape[2]))


@given(ratio=RATIOS, fwhm=WIDTHS)
def test_kernel_is_symmetric_positive_and_sums_to_one(ratio, fwhm):
    kernel = psf_kernel(Psf(fwhm), ratio)
    assert kernel.size % 2 == ratio % 2
    assert kernel.min() >= 0
    np.testing.assert_allclose(kernel, kernel[::-1])
    assert kernel.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("ratio", [2, 3, 4, 5])
def test_kernel_has_the_width_it_is_asked_for(ratio):
    kernel = psf_kernel(Psf(1.5), ratio)
    position = np.arange(kernel.size) - (kernel.size - 1) / 2
    sigma = np.sqrt((kernel * position**2).sum())
    assert sigma * 2.3548 / ratio == pytest.approx(1.5, rel=0.01)


def test_offset_moves_the_kernel_by_coarse_pixels():
    kernel = psf_kernel(Psf(1.0), 4, offset_px=0.25)
    position = np.arange(kernel.size) - (kernel.size - 1) / 2
    assert (kernel * position).sum() == pytest.approx(1.0, abs=0.01)


@settings(max_examples=25, deadline=None)
@given(ratio=RATIOS, fwhm=WIDTHS, rows=st.integers(1, 23), cols=st.integers(1, 40))
def test_decimation_equals_the_plain_double_sum(ratio, fwhm, rows, cols):
    x = np.random.default_rng(rows).random((2, rows * ratio, cols * ratio)).astype(np.float32)
    fast = lowpass_decimate(torch.from_numpy(x)[None], ratio, Psf(fwhm))[0].numpy()
    assert fast.shape == (2, rows, cols)
    np.testing.assert_allclose(fast, _decimate_slowly(x, ratio, Psf(fwhm)), atol=2e-6)


@settings(max_examples=25, deadline=None)
@given(ratio=RATIOS, rows=st.integers(1, 23), cols=st.integers(1, 40))
def test_upsampling_equals_cubic_convolution_at_the_centres(ratio, rows, cols):
    x = np.random.default_rng(cols).random((2, rows, cols)).astype(np.float32)
    fast = upsample(torch.from_numpy(x)[None], ratio)[0].numpy()
    assert fast.shape == (2, rows * ratio, cols * ratio)
    np.testing.assert_allclose(fast, _upsample_slowly(x, ratio), atol=2e-6)


@pytest.mark.parametrize("ratio", [2, 3, 4, 6])
def test_upsampling_agrees_with_torch_where_no_edge_is_near(ratio):
    x = torch.rand(1, 3, 20, 24)
    theirs = torch.nn.functional.interpolate(x, scale_factor=ratio, mode="bicubic", antialias=True)
    inner = (..., slice(4 * ratio, -4 * ratio), slice(4 * ratio, -4 * ratio))
    torch.testing.assert_close(upsample(x, ratio)[inner], theirs[inner], atol=5e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(ratio=RATIOS, fwhm=WIDTHS)
def test_a_ramp_keeps_its_place_both_ways(ratio, fwhm):
    """The half-pixel test: coarse centres lie at i * ratio + (ratio - 1) / 2, up and down."""
    n = 16
    fine = torch.arange(n * ratio, dtype=torch.float64)
    plane = (fine[:, None] + 2 * fine[None, :])[None, None]
    centre = torch.arange(n, dtype=torch.float64) * ratio + (ratio - 1) / 2
    coarse = (centre[:, None] + 2 * centre[None, :])[None, None]
    edge = Psf(fwhm).reach_px(ratio)
    down = lowpass_decimate(plane, ratio, Psf(fwhm))
    torch.testing.assert_close(down[..., edge:-edge, edge:-edge], coarse[..., edge:-edge, edge:-edge])
    inner = (..., slice(2 * ratio, -2 * ratio), slice(2 * ratio, -2 * ratio))
    torch.testing.assert_close(upsample(coarse, ratio)[inner], plane[inner])


@pytest.mark.parametrize("operation", ["down", "up"])
@pytest.mark.parametrize("ratio", [3, 4])
def test_gradient_is_the_adjoint(operation, ratio):
    """<A x, y> = <x, A' y>, so networks may train through both operators."""
    generator = torch.Generator().manual_seed(3)
    fine = (1, 2, 7 * ratio, 18 * ratio)
    coarse = (1, 2, 7, 18)
    shapes = (fine, coarse) if operation == "down" else (coarse, fine)
    x = torch.randn(shapes[0], generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randn(shapes[1], generator=generator, dtype=torch.float64)
    image = lowpass_decimate(x, ratio, Psf(1.2)) if operation == "down" else upsample(x, ratio)
    (image * y).sum().backward()
    other = torch.randn(shapes[0], generator=generator, dtype=torch.float64)
    again = lowpass_decimate(other, ratio, Psf(1.2)) if operation == "down" else upsample(other, ratio)
    assert float((again * y).sum()) == pytest.approx(float((other * x.grad).sum()))


@settings(max_examples=15, deadline=None)
@given(ratio=RATIOS, fwhm=st.floats(0.6, 2.4), row=st.integers(0, 20), col=st.integers(0, 20))
def test_a_window_with_halo_equals_the_whole(ratio, fwhm, row, col):
    x = torch.rand(1, 1, 40 * ratio, 40 * ratio)
    psf = Psf(fwhm)
    halo = psf.reach_px(ratio) + 2
    whole = upsample(lowpass_decimate(x, ratio, psf), ratio)
    top, left = max(row - halo, 0), max(col - halo, 0)
    window = x[..., top * ratio : (row + 9 + halo) * ratio, left * ratio : (col + 7 + halo) * ratio]
    part = upsample(lowpass_decimate(window, ratio, psf), ratio)
    part = part[..., (row - top) * ratio :, (col - left) * ratio :][..., : 9 * ratio, : 7 * ratio]
    expected = whole[..., row * ratio : (row + 9) * ratio, col * ratio : (col + 7) * ratio]
    torch.testing.assert_close(part, expected, atol=2e-6, rtol=0)


def test_an_odd_size_is_refused_with_a_hint():
    with pytest.raises(InputError, match="10 x 9 pixels cannot be decimated by 3") as caught:
        lowpass_decimate(torch.zeros(1, 1, 10, 9), 3, Psf())
    assert "Crop" in caught.value.hint


@pytest.mark.parametrize("fwhm", [0.0, -1.0, float("nan"), 99.0])
def test_absurd_psf_is_refused(fwhm):
    with pytest.raises(UsageError, match="not plausible"):
        Psf(fwhm)


def test_nan_spreads_no_further_than_the_filters_reach():
    x = np.ones((1, 12, 12), np.float32)
    x[0, 4, 4] = np.nan
    fine = upsample_array(x, 3)
    missing = np.argwhere(np.isnan(fine[0]))
    assert missing.min() == 3 * 2 + 2  # the cubic kernel ends before the second neighbour's far phase
    assert missing.max() == 3 * 6
    assert np.nanmax(np.abs(fine - 1)) < 1e-6
    fine = np.ones((1, 36, 36), np.float32)
    fine[0, 13, 13] = np.nan
    coarse = lowpass_decimate_array(fine, 3, Psf(0.3))
    assert np.isnan(coarse[0]).sum() == 1
    assert np.isnan(coarse[0, 4, 4])


def test_masked_decimation_averages_valid_pixels_only():
    x = _texture(2, 30, 30)
    valid = np.ones((30, 30), bool)
    valid[:, :9] = False
    spoiled = x.copy()
    spoiled[:, :, :9] = np.nan
    coarse, ok = masked_lowpass_decimate_array(spoiled, np.ones((30, 30), bool), 3, Psf(1.0))
    assert not ok[:, :3].any()
    assert ok[:, 5:].all()
    assert np.isnan(coarse[:, ~ok]).all()
    np.testing.assert_allclose(coarse[:, :, 6:], lowpass_decimate_array(x, 3, Psf(1.0))[:, :, 6:], atol=1e-6)
    constant, seen = masked_lowpass_decimate_array(np.where(valid, 0.25, 9.0)[None], valid, 3, Psf(1.0), min_weight=0.3)
    np.testing.assert_allclose(constant[0][seen], 0.25, atol=1e-6)


def test_array_twins_agree_with_the_tensor_functions():
    x = _texture(3, 24, 36)
    down = lowpass_decimate_array(x, 4, Psf(1.1))
    np.testing.assert_array_equal(down, lowpass_decimate(torch.from_numpy(x)[None], 4, Psf(1.1))[0].numpy())
    np.testing.assert_array_equal(upsample_array(down, 4), upsample(torch.from_numpy(down)[None], 4)[0].numpy())
    assert down.dtype == np.float32


def test_read_only_arrays_are_accepted():
    x = _texture(1, 12, 12)
    x.flags.writeable = False
    assert lowpass_decimate_array(x, 3, Psf()).shape == (1, 4, 4)


def test_srf_integration_is_a_weighted_sum_of_bands():
    hsi = torch.rand(2, 5, 3, 4)
    weights = np.random.default_rng(0).random((2, 5))
    msi = apply_srf(hsi, weights)
    expected = np.einsum("mb,nbrc->nmrc", weights, hsi.numpy())
    np.testing.assert_allclose(msi.numpy(), expected, rtol=1e-5)


def test_smoothing_is_binomial_and_keeps_the_mean_of_a_ramp():
    impulse = torch.zeros(1, 1, 9, 9)
    impulse[..., 4, 4] = 1.0
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    torch.testing.assert_close(smooth(impulse, 5)[0, 0, 2:7, 2:7], row[:, None] * row[None, :])
    assert float(smooth(impulse, 1)[0, 0, 4, 4]) == 1.0
    with pytest.raises(UsageError, match="odd number"):
        smooth(impulse, 4)


def test_a_pair_reduced_by_walds_protocol_keeps_the_relation_of_the_original_pair():
    """The reduced HSI must be the reduced MSI's scene seen through the same PSF."""
    scene = torch.from_numpy(_texture(1, 324, 324))[None]
    psf = Psf(1.2)
    hsi, msi = lowpass_decimate(scene, 3, psf), scene
    low_hsi, low_msi = lowpass_decimate(hsi, 3, psf), lowpass_decimate(msi, 3, psf)
    assert low_hsi.shape[-1] == 36
    assert low_msi.shape[-1] == 108
    again = lowpass_decimate(low_msi, 3, psf)
    inner = (..., slice(4, -4), slice(4, -4))
    # Equal up to aliasing of the coarse grid, which is small for this width.
    assert float((again - low_hsi)[inner].std()) < 0.02 * float(low_hsi[inner].std())


@pytest.mark.parametrize("ratio", [3, 4])
@pytest.mark.parametrize("fwhm", [0.8, 1.1, 1.6])
def test_psf_is_found_under_noise_and_a_shift(ratio, fwhm):
    msi = _texture(4, 64 * ratio, 64 * ratio)
    mixing = np.random.default_rng(1).random((10, 4))
    scene = torch.from_numpy(np.einsum("bm,mrc->brc", mixing, msi).astype(np.float32))[None]
    shifted = [tuple(psf_kernel(Psf(fwhm), ratio, offset_px=shift)) for shift in (0.15, -0.15)]
    hsi = decimate_separable(scene, ratio, *shifted)[0].numpy()
    hsi += np.random.default_rng(2).normal(scale=0.01, size=hsi.shape).astype(np.float32)
    valid = np.ones((64, 64), bool)
    valid[:, :10] = False
    hsi[:, :, :10] = np.nan
    found = estimate_psf([(hsi, msi, valid)], ratio)
    assert found is not None
    assert found.fwhm_px == pytest.approx(fwhm, rel=0.06)


@settings(deadline=None, max_examples=25)
@given(RATIOS, st.floats(-1.0, 1.0), st.floats(-1.0, 1.0))
def test_interpolation_takes_a_displacement_along(ratio, down, across):
    """A plane is reproduced exactly by cubic interpolation, wherever the coarse pixels lie."""

    def plane(row, col):
        return 0.3 + 0.02 * row[:, None] - 0.05 * col[None, :]

    index = np.arange(12.0)
    coarse = plane(index + down, index + across)
    fine = (np.arange(12 * ratio) + 0.5) / ratio - 0.5
    found = upsample(torch.from_numpy(coarse)[None, None], ratio, (down, across))[0, 0].numpy()
    inner = slice(3 * ratio, -3 * ratio)
    np.testing.assert_allclose(found[inner, inner], plane(fine, fine)[inner, inner], atol=1e-9)


def test_interpolation_refuses_a_displacement_beyond_its_reach():
    with pytest.raises(UsageError, match=r"1\.1 pixels off"):
        upsample(torch.zeros(1, 1, 5, 5), 3, (1.1, 0.0))


def test_displaced_blur_with_gaps_equals_that_without():
    x = _texture(2, 60, 60)
    whole, _ = masked_lowpass_decimate_array(x, np.ones((60, 60), bool), 3, Psf(1.1), offset_px=(0.2, -0.3))
    holed = x.copy()
    holed[:, 30:33, 30:33] = np.nan
    found, seen = masked_lowpass_decimate_array(holed, np.ones((60, 60), bool), 3, Psf(1.1), offset_px=(0.2, -0.3))
    assert not seen[10, 10]
    far = np.ones((20, 20), bool)
    far[7:14, 7:14] = False
    np.testing.assert_allclose(found[:, far], whole[:, far], rtol=1e-5)
    plain, _ = masked_lowpass_decimate_array(x, np.ones((60, 60), bool), 3, Psf(1.1))
    np.testing.assert_allclose(plain, lowpass_decimate_array(x, 3, Psf(1.1)), rtol=1e-6)


def test_no_psf_is_estimated_when_the_pair_cannot_tell():
    rng = np.random.default_rng(0)
    unrelated = rng.random((5, 40, 40)).astype(np.float32)
    msi = rng.random((4, 120, 120)).astype(np.float32)
    assert estimate_psf([(unrelated, msi, np.ones((40, 40), bool))], 3) is None
    assert estimate_psf([(unrelated, msi, np.zeros((40, 40), bool))], 3) is None
