"""Cast shadows of the guide: one light for a scene, which pixels lack it, and what is no shadow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from pair_support import RATIO, coarse_of, make_pair, repaired_guide, rms, shaken
from scipy.ndimage import gaussian_filter

from hsfuse.degrade import Psf
from hsfuse.fusion.change.repair import repair_guide
from hsfuse.fusion.change.response import Response

COARSE = (34, 40)
LEVEL = np.array([0.62, 0.58, 0.55, 0.5], np.float32)
Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def _blobs(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    field = gaussian_filter(np.random.default_rng(5).standard_normal(shape), 6.0)
    return np.asarray(field > np.quantile(field, 0.93))


def _shaded(softness_px: float = 0.0) -> Change:
    def change(clean: NDArray[np.float32]) -> NDArray[np.float32]:
        cover = _blobs(clean.shape[1:]).astype(np.float32)
        cover = gaussian_filter(cover, softness_px) if softness_px else cover
        return np.asarray(clean * (1.0 - cover * (1.0 - LEVEL[:, None, None])), np.float32)

    return change


def test_ground_in_shadow_keeps_its_detail_to_the_pixel() -> None:
    pair = make_pair(COARSE, change=_shaded())
    inside = _blobs(pair.msi.shape[1:])
    found = repaired_guide(pair)
    assert found.evidence.shadows is not None
    assert found.evidence.shadows.light.softness_px == 0.0
    assert found.to_json()["shadow_light"] == pytest.approx(1.0 / LEVEL, rel=0.02)
    assert ((found.change > 0.5) != inside).mean() < 0.002
    assert found.own_detail[inside].mean() > 0.95
    known = pair.msi[:, inside] / LEVEL[:, None]
    left, best = (rms(image - pair.clean_msi[:, inside]) for image in (found.msi[:, inside], known))
    assert left < 1.5 * best


def test_soft_edges_of_shadows_are_followed() -> None:
    pair = make_pair(COARSE, change=_shaded(0.7))
    found = repaired_guide(pair)
    assert found.evidence.shadows is not None
    assert found.evidence.shadows.light.softness_px > 0.4
    response = Response(RATIO, Psf(1.0))
    near = gaussian_filter(_blobs(pair.msi.shape[1:]).astype(float), 1.0) > 0.05
    plain = response.up(response.down(pair.clean_msi))
    repaired, interpolated = (rms((image - pair.clean_msi)[:, near]) for image in (found.msi, plain))
    assert repaired < 0.75 * interpolated


@pytest.mark.parametrize(("softness_px", "followed"), [(0.0, False), (0.5, True), (0.6, True)])
def test_the_guide_itself_tells_a_soft_edge_where_the_hsi_cannot(softness_px: float, followed: bool) -> None:
    """A noisy HSI that stands off by parts of a pixel hardly sees a blur of half a fine pixel; the guide's steps do."""
    pair = shaken(make_pair(COARSE, change=_shaded(softness_px), noise=0.008), 0.1)
    shadows = repaired_guide(pair).evidence.shadows
    assert shadows is not None
    assert (shadows.light.softness_px > 0.0) == followed


def _other_ground(clean: NDArray[np.float32]) -> NDArray[np.float32]:
    dark = np.roll(clean, (45, 50), axis=(1, 2)) * np.array([0.6, 0.5, 0.45, 0.6], np.float32)[:, None, None]
    return np.where(_blobs(clean.shape[1:]), dark, clean)


def _cloud(clean: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(_blobs(clean.shape[1:]), np.float32(0.9), clean)


@pytest.mark.parametrize("change", [None, _other_ground, _cloud])
def test_what_is_no_shadow_is_not_taken_for_one(change: Change | None) -> None:
    assert repaired_guide(make_pair(COARSE, change=change)).evidence.shadows is None


def test_shadows_beside_other_ground_are_told_from_it() -> None:
    where = np.zeros((COARSE[0] * RATIO, COARSE[1] * RATIO), bool)
    where[60:84, 12:36] = True
    where &= gaussian_filter(_blobs(where.shape).astype(float), 4.0) < 0.02

    def both(clean: NDArray[np.float32]) -> NDArray[np.float32]:
        other = np.roll(clean, (45, 50), axis=(1, 2)) * np.array([1.5, 1.3, 0.6, 0.7], np.float32)[:, None, None]
        return np.where(where, other, _shaded()(clean))

    pair = make_pair(COARSE, change=both)
    found = repaired_guide(pair)
    assert found.evidence.shadows is not None
    assert (found.evidence.shadows.share[_blobs(where.shape)] > 0.5).mean() > 0.9
    assert not found.evidence.shadows.share[where].any()
    assert found.own_detail[where].mean() < 0.3
    assert (found.change[where] > 0.5).mean() > 0.8


def test_shadows_are_lifted_in_the_guides_place_as_in_a_copy() -> None:
    pair = make_pair(COARSE, change=_shaded())
    before, place, pieces = pair.msi.copy(), pair.msi.copy(), coarse_of(pair)
    apart = repair_guide(pieces, pair.msi, Response(RATIO, Psf(1.0)))
    np.testing.assert_array_equal(pair.msi, before)
    within = repair_guide(pieces, place, Response(RATIO, Psf(1.0)), overwrite=True, threads=2)
    np.testing.assert_array_equal(within.msi, apart.msi)
    assert not np.array_equal(apart.msi, before)


def test_without_responses_shadows_are_lifted_too() -> None:
    pair = make_pair(COARSE, change=_shaded())
    found = repair_guide(replace(coarse_of(pair), predicted=None), pair.msi, Response(RATIO, Psf(1.0)))
    inside = _blobs(pair.msi.shape[1:])
    before, after = (rms((image - pair.clean_msi)[:, inside]) for image in (pair.msi, found.msi))
    assert after < 0.2 * before


def _half_shaded(clean: NDArray[np.float32]) -> NDArray[np.float32]:
    shaded = clean.copy()
    shaded[:, :, clean.shape[2] // 2 + 1 :] *= LEVEL[:, None, None]
    return shaded


def test_a_guide_brought_out_of_shadow_is_trusted_however_much_of_it_lay_there() -> None:
    pair = make_pair(COARSE, change=_half_shaded)
    found = repaired_guide(pair)
    assert found.share > 0.45
    assert found.trusted
    assert rms(found.msi - pair.clean_msi) < 2.5 * rms(make_pair(COARSE).msi - pair.clean_msi)
