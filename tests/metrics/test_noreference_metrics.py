"""Scores without reference: right for what can be computed otherwise, and ordered as they should be."""

from __future__ import annotations

import numpy as np
import pytest

from hsfuse.degrade import Psf, lowpass_decimate_array, upsample_array
from hsfuse.errors import UsageError
from hsfuse.metrics import Evidence, Metric, MetricText, Scoring, metrics_for
from hsfuse.metrics.noreference import BLOCK_PX, universal_quality


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


def score(
    fused: np.ndarray, scene: tuple[np.ndarray, ...], psf: Psf | None = None, *windows: slice
) -> dict[str, float | None]:
    """Scores of a cube, as one window or as several (rows of the HSI)."""
    _, hsi, msi, srf = scene
    scoring = Scoring(metrics_for(frozenset({"hsi", "msi", "srf"})))
    for rows in windows or (slice(0, hsi.shape[1]),):
        fine = slice(rows.start * 3, rows.stop * 3)
        scoring.add(
            Evidence(
                fused[:, fine], np.ones(msi[:, fine].shape[1:], bool), 3, psf or Psf(1.0),
                hsi=hsi[:, rows], msi=msi[:, fine], srf=srf,
            )
        )  # fmt: skip
    return scoring.scores()


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
    holed = scene[0].copy()
    holed[:, :60, :60] = np.nan
    assert score(holed, scene)["hsi_rmse"] == pytest.approx(0.0, abs=1e-6)
    empty = score(np.full_like(scene[0], np.nan), scene)
    assert set(empty.values()) == {None}
    assert "qnr" in empty, "what could not be computed is said, not left out"


def test_d_lambda_equals_the_double_loop_over_bands(scene: tuple[np.ndarray, ...]) -> None:
    """The definition: mean over pairs of bands of |mean Q fine - mean Q coarse|, on blocks of the same ground."""
    truth, hsi, _, _ = scene
    fused, low = truth[:4, :144, :144], hsi[:4, :48, :48]
    srf = np.zeros((1, 4))
    found = score(fused, (fused, low, fused[:1], srf), Psf())["d_lambda"]

    def quality(a: np.ndarray, b: np.ndarray) -> float:
        cov = np.cov(a.ravel(), b.ravel(), bias=True)
        ma, mb = a.mean(), b.mean()
        return 4 * cov[0, 1] * ma * mb / ((cov[0, 0] + cov[1, 1]) * (ma**2 + mb**2))

    reach = Psf().reach_px(3)
    corners = range(0, 48 - BLOCK_PX + 1, BLOCK_PX)
    blocks = [
        (r, c)
        for r in corners
        for c in corners
        if min(r, c) >= reach and max(r, c) + BLOCK_PX <= 48 - reach  # the PSF needs pixels all round
    ]
    total = []
    for i in range(4):
        for j in range(4):
            if i != j:
                fine = [
                    quality(*(fused[k, r * 3 : (r + BLOCK_PX) * 3, c * 3 : (c + BLOCK_PX) * 3] for k in (i, j)))
                    for r, c in blocks
                ]
                coarse = [
                    quality(*(low[k, r : r + BLOCK_PX, c : c + BLOCK_PX].astype(float) for k in (i, j)))
                    for r, c in blocks
                ]
                total.append(abs(np.mean(fine) - np.mean(coarse)))
    assert found == pytest.approx(np.mean(total), rel=1e-4)


def test_indices_order_methods_as_the_truth_does(scene: tuple[np.ndarray, ...]) -> None:
    truth, hsi, _, _ = scene
    best, plain = score(truth, scene, Psf()), score(upsample_array(hsi, 3), scene, Psf())
    assert best["hqnr"] > plain["hqnr"]  # type: ignore[operator]
    assert best["d_s"] < plain["d_s"]  # type: ignore[operator]


def test_consistency_passes_over_bands_that_the_hsi_does_not_cover(scene: tuple[np.ndarray, ...]) -> None:
    truth, hsi, msi, srf = scene
    assert score(upsample_array(hsi, 3), scene)["msi_rmse"] > 1e-3  # type: ignore[operator]
    uncovered = np.vstack([srf[:2], np.zeros((1, srf.shape[1]))])
    assert score(truth, (truth, hsi, msi, uncovered))["msi_rmse"] == pytest.approx(0, abs=1e-6)
    assert score(truth, (truth, hsi, msi, np.zeros_like(srf)))["msi_rmse"] is None


def test_windows_are_judged_together(scene: tuple[np.ndarray, ...]) -> None:
    """Squares are summed over the windows first: the RMSE of two is not the mean of theirs."""
    plain = upsample_array(scene[1], 3)
    halves = [score(plain, scene, None, rows) for rows in (slice(0, 24), slice(24, 48))]
    both = score(plain, scene, None, slice(0, 24), slice(24, 48))
    squares = np.mean([h["hsi_rmse"] ** 2 for h in halves])  # type: ignore[operator]
    assert both["hsi_rmse"] == pytest.approx(np.sqrt(squares))
    assert both["hsi_rmse"] > np.mean([h["hsi_rmse"] for h in halves])  # type: ignore[operator, type-var]


def test_arrays_that_do_not_nest_are_refused(scene: tuple[np.ndarray, ...]) -> None:
    truth, hsi, msi, _ = scene
    valid = np.ones(msi.shape[1:], bool)
    for wrong in ({"hsi": hsi[:, 1:]}, {"msi": msi[:, 1:]}, {"reference": truth[:, 1:]}):
        with pytest.raises(UsageError):
            Evidence(truth, valid, 3, **wrong)


def test_a_metric_that_fails_costs_its_own_score_only(
    scene: tuple[np.ndarray, ...], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(evidence: Evidence) -> float:
        raise ZeroDivisionError("no pixels")

    bad = Metric("bad", broken, frozenset({"hsi"}), MetricText("Bad", ""), direction=0)
    good = Metric("mean", lambda e: float(np.nanmean(e.fused)), frozenset({"hsi"}), MetricText("Mean", ""), direction=0)
    scoring = Scoring([bad, good])
    scoring.add(Evidence(scene[0], np.ones(scene[2].shape[1:], bool), 3, hsi=scene[1]))
    assert scoring.scores() == {"bad": None, "mean": pytest.approx(float(scene[0].mean()), rel=1e-5)}
    assert "bad" in caplog.text
