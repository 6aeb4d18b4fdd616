"""Reference scores against independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from hsfuse.errors import UsageError
from hsfuse.metrics.reference import cc, ergas, psnr, q2n, rmse, sam_deg, score_all, ssim


@pytest.fixture
def cubes() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    reference = np.cumsum(rng.random((6, 48, 40)), axis=2).astype(np.float32) / 40 + 0.1
    return reference, (reference + rng.normal(0, 0.02, reference.shape)).astype(np.float32)


def test_sam_and_ergas_agree_with_torchmetrics(cubes: tuple[np.ndarray, np.ndarray]) -> None:
    from torchmetrics.functional.image import error_relative_global_dimensionless_synthesis as tm_ergas
    from torchmetrics.functional.image import spectral_angle_mapper as tm_sam

    reference, estimate = cubes
    x, y = torch.from_numpy(reference)[None], torch.from_numpy(estimate)[None]
    assert sam_deg(reference, estimate) == pytest.approx(np.degrees(float(tm_sam(y, x))), rel=1e-4)
    assert ergas(reference, estimate, 3) == pytest.approx(float(tm_ergas(y, x, ratio=3)), rel=1e-4)


def test_psnr_rmse_cc_agree_with_numpy(cubes: tuple[np.ndarray, np.ndarray]) -> None:
    reference, estimate = cubes
    error = ((reference - estimate).astype(np.float64) ** 2).mean(axis=(1, 2))
    expected = np.mean(10 * np.log10(reference.max(axis=(1, 2)).astype(np.float64) ** 2 / error))
    assert psnr(reference, estimate) == pytest.approx(expected, rel=1e-6)
    assert psnr(reference, estimate, peak="global") == pytest.approx(
        20 * np.log10(reference.max()) - 10 * np.log10(error.mean()), rel=1e-6
    )
    assert rmse(reference, estimate) == pytest.approx(np.sqrt(error.mean()), rel=1e-6)
    each = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(reference, estimate, strict=True)]
    assert cc(reference, estimate) == pytest.approx(np.mean(each), rel=1e-6)


def test_ssim_agrees_with_scikit_image(cubes: tuple[np.ndarray, np.ndarray]) -> None:
    reference, estimate = cubes
    values = []
    for x, y in zip(reference.astype(np.float64), estimate.astype(np.float64), strict=True):
        _, full = structural_similarity(x, y, win_size=7, data_range=x.max() - x.min(), full=True)
        values.append(full[3:-3, 3:-3].mean())
    assert ssim(reference, estimate) == pytest.approx(np.mean(values), rel=1e-5)


def test_q2n_of_one_band_is_the_universal_index(cubes: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = (c[:1, :32, :32].astype(np.float64) for c in cubes)
    a, b = x.ravel(), y.ravel()
    covariance = np.cov(a, b)
    expected = (
        4
        * covariance[0, 1]
        * a.mean()
        * b.mean()
        / ((covariance[0, 0] + covariance[1, 1]) * (a.mean() ** 2 + b.mean() ** 2))
    )
    assert q2n(x, y) == pytest.approx(expected, rel=1e-9)


def test_q2n_of_four_bands_follows_quaternion_algebra(cubes: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = (c[:4, :32, :32].astype(np.float64).reshape(4, -1) for c in cubes)

    def multiply(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        a, b, c, d = p
        e, f, g, h = q
        return np.array([
            a * e - b * f - c * g - d * h, a * f + b * e + c * h - d * g,
            a * g - b * h + c * e + d * f, a * h + b * g - c * f + d * e,
        ])  # fmt: skip

    sign = np.array([1, -1, -1, -1.0])[:, None]
    mx, my = x.mean(axis=1, keepdims=True), y.mean(axis=1, keepdims=True)
    n = x.shape[1] / (x.shape[1] - 1)
    covariance = n * (multiply(x, sign * y).mean(axis=1) - multiply(mx, sign * my)[:, 0])
    spread = n * sum((v**2).sum(axis=0).mean() - (m**2).sum() for v, m in ((x, mx), (y, my)))
    expected = (
        4
        * np.linalg.norm(covariance)
        * np.linalg.norm(mx)
        * np.linalg.norm(my)
        / (spread * ((mx**2).sum() + (my**2).sum()))
    )
    assert q2n(cubes[0][:4, :32, :32], cubes[1][:4, :32, :32]) == pytest.approx(expected, rel=1e-6)


def test_perfect_and_masked(cubes: tuple[np.ndarray, np.ndarray]) -> None:
    reference, estimate = cubes
    broken = estimate.copy()
    broken[2, :20] = np.nan
    broken[:, :, 30:] = 99.0
    valid = np.ones(reference.shape[1:], bool)
    valid[:, 30:] = False
    masked = score_all(reference, broken, 3, valid)
    direct = score_all(reference[:, 20:, :30], estimate[:, 20:, :30], 3)
    for name in ("psnr_db", "sam_deg", "ergas", "cc", "rmse"):
        assert getattr(masked, name) == pytest.approx(getattr(direct, name), rel=1e-6)
    perfect = score_all(reference, reference, 3)
    assert perfect.to_json()["PSNR"] is None
    assert (perfect.rmse, round(perfect.q2n, 9), round(perfect.ssim, 9)) == (0.0, 1.0, 1.0)


def test_misuse_is_explained(cubes: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(UsageError, match="differ in shape"):
        rmse(cubes[0], cubes[1][:3])
    with pytest.raises(UsageError, match="No pixel"):
        rmse(cubes[0], cubes[1], np.zeros(cubes[0].shape[1:], bool))


def _hypercomplex(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Plain twin of the product: the Cayley-Dickson recursion, component axis first."""
    if len(a) == 1:
        return a * b

    def conjugate(v: np.ndarray) -> np.ndarray:
        return np.concatenate([v[:1], -v[1:]])

    half = len(a) // 2
    a0, a1, b0, b1 = a[:half], a[half:], b[:half], b[half:]
    first = _hypercomplex(a0, b0) - _hypercomplex(conjugate(b1), a1)
    return np.concatenate([first, _hypercomplex(b1, a0) + _hypercomplex(a1, conjugate(b0))])


@settings(max_examples=12, deadline=None)
@given(bands=st.integers(1, 20), seed=st.integers(0, 50))
def test_q2n_equals_the_recursive_definition(bands: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = rng.random((bands, 9, 9))
    estimate = reference + rng.normal(0, 0.2, reference.shape)
    size = 1 << (bands - 1).bit_length()
    x, y = np.zeros((size, 81)), np.zeros((size, 81))
    x[:bands], y[:bands] = reference.reshape(bands, -1), estimate.reshape(bands, -1)
    y[1:] *= -1
    mx, my = x.mean(axis=1, keepdims=True), y.mean(axis=1, keepdims=True)
    n = 81 / 80
    covariance = n * (_hypercomplex(x, y).mean(axis=1) - _hypercomplex(mx, my)[:, 0])
    spread = n * sum((v**2).sum(axis=0).mean() - (m**2).sum() for v, m in ((x, mx), (y, my)))
    means = np.linalg.norm(mx), np.linalg.norm(my)
    expected = 4 * np.linalg.norm(covariance) * means[0] * means[1] / (spread * (means[0] ** 2 + means[1] ** 2))
    assert q2n(reference, estimate) == pytest.approx(expected, rel=1e-9)


def test_zero_bands_do_not_spoil_the_scores(cubes: tuple[np.ndarray, np.ndarray]) -> None:
    reference, estimate = (c.copy() for c in cubes)
    reference[2], estimate[2] = 0.0, 0.0
    scores = score_all(reference, estimate, 3).to_json()
    assert all(value is not None and np.isfinite(value) for value in scores.values())
