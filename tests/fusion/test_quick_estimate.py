"""The quick estimate of what a fusion makes of a scene: what the expected error follows from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from pair_support import RATIO, Pair, make_pair

from hsfuse.degrade import Psf
from hsfuse.fusion.change.quick_estimate import QuickEstimate, _squares
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.classical.statistics import gather, signal_subspace
from hsfuse.fusion.scene_model.pair import CoarsePair

RESPONSE = Response(RATIO, Psf(1.0))


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair((24, 28), seed=3)


def _estimate(pair: Pair, scale: float = 1.0) -> QuickEstimate:
    strips = [replace(strip, hsi=scale * strip.hsi) for strip in pair.strips()]
    space = signal_subspace(gather(strips))
    hsi = strips[0].hsi
    components = np.tensordot(space.forward, hsi - space.mean[:, None, None], axes=1).astype(np.float32)
    predicted = np.tensordot(pair.srf, hsi, axes=1)
    coarse = CoarsePair(components, predicted, np.eye(space.rank), np.ones(hsi.shape[1:], bool))
    return QuickEstimate.of(coarse, predicted, space)


def _features(found: QuickEstimate, guide: NDArray[np.float32], seen: NDArray[np.floating]) -> list[np.ndarray]:
    everything = (slice(None), slice(None))
    return found.features(found.block(everything, RESPONSE), guide, RESPONSE.up_single(seen))


def test_brightness_and_contrast_are_those_of_the_truth(pair: Pair) -> None:
    bright, contrast, _, _ = _features(_estimate(pair), pair.clean_msi, np.tensordot(pair.srf, pair.hsi, axes=1))
    square = (pair.truth.astype(np.float64) ** 2).mean(axis=0)
    np.testing.assert_allclose(np.exp(bright), square, rtol=0.35)
    rough = np.log((np.diff(pair.truth, axis=2)[:, 1:] ** 2).mean(axis=0) + 1e-6)
    assert np.corrcoef(contrast[1:, 1:].ravel(), rough.ravel())[0, 1] > 0.6


def test_logs_follow_the_unit(pair: Pair) -> None:
    seen = np.tensordot(pair.srf, pair.hsi, axes=1)
    one = _features(_estimate(pair), pair.msi, seen)
    ten = _features(_estimate(pair, 10.0), 10.0 * pair.msi, 10.0 * seen)
    for small, large in zip(one, ten, strict=True):
        np.testing.assert_allclose(large, small + np.log(100.0), atol=0.02)


def test_a_material_has_the_error_that_was_seen_at_low_resolution(pair: Pair) -> None:
    found = _estimate(pair)
    told = found._of_material(found.images)
    squares = _squares(found.images[:4], found.spread)
    np.testing.assert_allclose(told, np.tensordot(found.material, squares, axes=1), atol=1e-4)
    assert float(told.mean()) == pytest.approx(found.typical, abs=1e-3)


def test_what_the_guide_cannot_see_is_expected_where_its_material_is(pair: Pair) -> None:
    # Bands that no response looks at vary together, on one material alone.
    strong = _estimate(pair).images[0]
    where = strong > np.quantile(strong, 0.7)
    hidden = pair.hsi.copy()
    hidden[-4:] += np.where(where, np.random.default_rng(0).normal(0.0, 0.03, where.shape), 0.0).astype(np.float32)
    plain, found = _estimate(pair), _estimate(replace(pair, hsi=hidden))
    risen = found._of_material(found.images) - plain._of_material(plain.images)
    assert float(risen[where].mean()) > float(risen[~where].mean()) + 1.0
