"""A pattern of change that a whole scene shares: learned, told in small windows, honest about what it left."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from pair_support import RATIO, make_pair, patchy_season

from hsfuse.degrade import Psf
from hsfuse.fusion.change import choice, corrections
from hsfuse.fusion.change.evidence import gather_evidence
from hsfuse.fusion.change.pattern import ColourFunctions, ScenePattern
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.classical.statistics import gather, signal_subspace
from hsfuse.fusion.scene_model import contradiction
from hsfuse.fusion.scene_model.model import coarse_pair, estimate_scene_model

COARSE = (34, 40)


SEASON = partial(patchy_season, red=0.2, nir=-0.18)


def test_aSEASON_is_corrected_better_by_its_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(COARSE, noise=0.002, change=SEASON)
    coarse = coarse_pair(
        pair.hsi, np.ones(COARSE, bool), signal_subspace(gather(pair.strips())), pair.srf
    )  # fmt: skip

    def left() -> float:
        _, guide = gather_evidence(coarse, pair.msi, Response(RATIO, Psf(1.0)))
        # A gain and an offset of a whole band are the sensors' calibration.
        lines = [np.polyfit(true.ravel(), one.ravel(), 1) for true, one in zip(pair.clean_msi, guide, strict=True)]
        straight = np.stack([np.polyval(line, true) for line, true in zip(lines, pair.clean_msi, strict=True)])
        return float(np.sqrt(((guide - straight)[2:] ** 2).mean()))

    with_pattern = left()
    tried = corrections.best_correction
    monkeypatch.setattr(
        corrections,
        "best_correction",
        lambda data, *args, **kwargs: tried(replace(data, pattern=None), *args, **kwargs),
    )
    assert with_pattern < 0.96 * left()


def test_what_a_correction_leaves_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts as noise of the guide: the estimate believed a corrected guide as if nothing had been the matter."""
    pair = make_pair(COARSE, noise=0.002, change=SEASON)
    space = signal_subspace(gather(pair.strips()))
    coarse = coarse_pair(pair.hsi, np.ones(COARSE, bool), space, pair.srf)
    found, guide = gather_evidence(coarse, pair.msi, Response(RATIO, Psf(1.0)))
    assert found.corrections > 0
    # Red and near infrared were corrected, blue and green were right.
    assert found.correction_error[2:].min() > found.correction_error[:2].max()
    strips = pair.strips(guide)
    plain, _ = estimate_scene_model(strips, pair.context())
    told, _ = estimate_scene_model(strips, pair.context(guide_error=found.correction_error))
    np.testing.assert_allclose(told.guide_noise**2, plain.guide_noise**2 + found.correction_error)
    # What a displaced pair leaves is the displacement: counted too, the demonstration lost 0.14 dB.
    monkeypatch.setattr(contradiction, "displacement_px", lambda *_: 0.1)
    displaced, _ = gather_evidence(coarse, pair.msi, Response(RATIO, Psf(1.0)))
    assert not displaced.correction_error.any()


@pytest.mark.parametrize("rows", [10, 13])
def test_large_scenes_are_corrected_some_rows_at_a_time(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, the candidates of a whole scene with a season took 3.1 GB."""
    pair = make_pair((60, 30), noise=0.002, change=SEASON)
    space = signal_subspace(gather(pair.strips()))
    coarse = coarse_pair(pair.hsi, np.ones((60, 30), bool), space, pair.srf)
    whole, guide = gather_evidence(coarse, pair.msi, Response(RATIO, Psf(1.0)))
    assert whole.corrections > 0
    monkeypatch.setattr(choice, "_SOME_PIXELS", 100)
    monkeypatch.setattr(choice, "_ROWS", rows)
    parts, same = gather_evidence(coarse, pair.msi, Response(RATIO, Psf(1.0)))
    assert parts.corrections == whole.corrections
    np.testing.assert_allclose(same, guide, atol=2e-6)
    np.testing.assert_allclose(parts.correction_error, whole.correction_error, rtol=1e-6)


@pytest.mark.parametrize("bands", [1, 4, 6])
def test_functions_are_blurred_as_the_hsi_blurs(bands: int, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = np.random.default_rng(0).uniform(0.05, 0.4, (bands, 90, 24)).astype(np.float32)
    functions, response = ColourFunctions.of(guide), Response(RATIO, Psf(1.2), (0.2, -0.1))
    whole = response.down(functions.images(guide))
    assert whole.shape == (functions.count, 30, 8)
    monkeypatch.setattr("hsfuse.fusion.change.pattern._BLOCK_PX", 7)
    np.testing.assert_allclose(functions.blurred(guide, response.down(guide), response), whole, atol=1e-5)


def test_an_amplitude_is_found_where_it_differs() -> None:
    rng = np.random.default_rng(1)
    guide = rng.uniform(0.05, 0.4, (3, 90, 90)).astype(np.float32)
    functions, response = ColourFunctions.of(guide), Response(RATIO, Psf(1.0))
    images = functions.blurred(guide, response.down(guide), response)
    true = np.linspace(-1.0, 1.0, 30)[:, None] * np.ones((1, 30))
    change = rng.standard_normal((functions.count, 3))
    wanted = true * np.tensordot(change.T, images, axes=1)
    noise, weight = np.full(3, 1e-4), np.ones((30, 30))
    pattern = ScenePattern.learn(functions, images, wanted, noise, weight)
    amplitude, error = pattern.amplitude(images, wanted, noise, weight)
    assert abs(np.corrcoef(amplitude.ravel(), true.ravel())[0, 1]) > 0.98
    assert (error**2).mean() < 0.02 * (wanted**2).mean()
