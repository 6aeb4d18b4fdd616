"""Scores without reference: right for what can be computed otherwise, and ordered as they should be."""

from __future__ import annotations

import numpy as np
import pytest

from hsfuse.degrade import Psf, lowpass_decimate_array, upsample_array
from hsfuse.metrics.noreference import NoReferenceQuality, universal_quality


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Truth (band, row, col), HSI, MSI and SRF of a blocky scene of three spectra."""
    rng = np.random.default_rng(4)
    labels = np.kron(rng.integers(0, 3, (36, 36)), np.ones((4, 4), int))
    spectra = np.array([np.linspace(0.1, 0.5, 10), np.linspace(0.5, 0.2, 10), np.full(10, 0.3)]).T
    truth = (spectra[:, labels] * (0.9 + 0.2 * rng.random(labels.shape))).astype(np.float32)
    srf = np.zeros((3, 10))
    srf[0, :3], srf[1, 3:6], srf[2, 6:9] = 1 / 3, 1 / 3, 1 / 3
    hsi = lowpass_decimate_array(truth, 3, Psf(1.0))
    msi = np.tensordot(srf, truth, 1).astype(np.float32)
    return truth, hsi, msi, srf


def score(fused: np.ndarray, scene: tuple[np.ndarray, ...]) -> dict[str, float | None]:
    _, hsi, msi, srf = scene
    quality = NoReferenceQuality(3, Psf(1.0), srf)
    quality.add(fused, hsi, msi, np.ones(msi.shape[1:], bool))
    return quality.scores()


def test_the_truth_is_consistent_and_interpolation_is_worse(scene: tuple[np.ndarray, ...]) -> None:
    best, plain = score(scene[0], scene), score(upsample_array(scene[1], 3), scene)
    assert best["hsi_rmse"] == pytest.approx(0.0, abs=1e-6)
    assert best["msi_rmse"] == pytest.approx(0.0, abs=1e-6)
    assert best["hsi_sam_deg"] == pytest.approx(0.0, abs=0.05)
    for name in ("d_s", "msi_rmse", "hsi_rmse"):
        assert plain[name] > best[name]  # type: ignore[operator]
    assert best["qnr"] == pytest.approx((1 - best["d_lambda"]) * (1 - best["d_s"]))  # type: ignore[operator]


def test_quality_index_against_its_definition() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((3, 200)), rng.random((2, 200))
    table = universal_quality(x, y)
    for i in range(3):
        for j in range(2):
            a, b = x[i], y[j]
            sab = ((a - a.mean()) * (b - b.mean())).mean()
            expected = 4 * sab * a.mean() * b.mean() / ((a.var() + b.var()) * (a.mean() ** 2 + b.mean() ** 2))
            assert table[i, j] == pytest.approx(expected)
    np.testing.assert_allclose(np.diag(universal_quality(x, x)), 1.0)


def test_wrong_spectra_raise_d_lambda(scene: tuple[np.ndarray, ...]) -> None:
    wrong = scene[0].copy()
    wrong[::2] = wrong[::2, ::-1].copy()
    assert score(wrong, scene)["d_lambda"] > 0.1 + score(scene[0], scene)["d_lambda"]  # type: ignore[operator]


def test_nodata_is_left_out_and_nothing_left_gives_none(scene: tuple[np.ndarray, ...]) -> None:
    truth, hsi, msi, srf = scene
    holed = truth.copy()
    holed[:, :60, :60] = np.nan
    quality = NoReferenceQuality(3, Psf(1.0), srf)
    quality.add(holed, hsi, msi, np.ones(msi.shape[1:], bool))
    assert quality.scores()["hsi_rmse"] == pytest.approx(0.0, abs=1e-6)
    empty = NoReferenceQuality(3, Psf(1.0), srf)
    empty.add(np.full_like(truth, np.nan), hsi, msi, np.ones(msi.shape[1:], bool))
    assert set(empty.scores().values()) == {None}
    assert empty.band_rmse is None
