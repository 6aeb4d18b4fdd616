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
from hsfuse.fusion.change.typical_spectra import TypicalSpectra
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
    bright, contrast, *_ = _features(_estimate(pair), pair.clean_msi, np.tensordot(pair.srf, pair.hsi, axes=1))
    square = (pair.truth.astype(np.float64) ** 2).mean(axis=0)
    np.testing.assert_allclose(np.exp(bright), square, rtol=0.35)
    rough = np.log((np.diff(pair.truth, axis=2)[:, 1:] ** 2).mean(axis=0) + 1e-6)
    assert np.corrcoef(contrast[1:, 1:].ravel(), rough.ravel())[0, 1] > 0.6


def test_logs_follow_the_unit(pair: Pair) -> None:
    seen = np.tensordot(pair.srf, pair.hsi, axes=1)
    one = _features(_estimate(pair), pair.msi, seen)
    ten = _features(_estimate(pair, 10.0), 10.0 * pair.msi, 10.0 * seen)
    for small, large in zip(one[:-1], ten[:-1], strict=True):
        np.testing.assert_allclose(large, small + np.log(100.0), atol=0.02)
    # How rare a spectrum is has no unit.
    np.testing.assert_allclose(ten[-1], one[-1], atol=0.02)


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


def test_a_spectrum_that_the_scene_has_nowhere_else_is_the_rarest(pair: Pair) -> None:
    found = _estimate(pair)
    images = found.images.copy()
    images[:, 7, 9] = images.mean(axis=(1, 2)) + [4.0, -4.0, *(0.0 for _ in images[2:])] * images.std(axis=(1, 2))
    rareness = found.spectra.rareness(images)
    assert np.unravel_index(rareness.argmax(), rareness.shape) == (7, 9)
    # Pixel by pixel, however the image is cut.
    np.testing.assert_allclose(found.spectra.rareness(images[:, 3:8, 5:]), rareness[3:8, 5:], rtol=1e-5)


def test_typical_spectra_of_fewer_pixels_than_clusters() -> None:
    images = np.random.default_rng(2).normal(size=(3, 2, 4)).astype(np.float32)
    found = TypicalSpectra.of(images.reshape(3, -1))
    assert found.spectra.shape == (2, 3)
    assert np.isfinite(found.rareness(images)).all()
    flat = TypicalSpectra.of(np.zeros((3, 400), np.float32))
    assert np.isfinite(flat.rareness(np.zeros((3, 5, 5), np.float32))).all()


def test_a_guide_that_shows_other_than_the_hsi_is_inconsistent_there(pair: Pair) -> None:
    found, seen = _estimate(pair), np.tensordot(pair.srf, pair.hsi, axes=1).astype(np.float64)
    shown = seen.copy()
    shown[:, 5:8, 10:14] += 0.05
    risen = found.inconsistency(seen, shown) - found.inconsistency(seen, seen)
    inside = np.zeros(risen.shape, bool)
    inside[5:8, 10:14] = True
    assert not risen[~inside].any()
    assert float(risen[inside].mean()) > float(found.inconsistency(seen, seen).mean())
