"""Places where little ground of a scene has turned: corrected there, and nowhere else."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from pair_support import RATIO, coarse_of, make_pair, patchy_season, rms
from scipy.ndimage import binary_dilation

from hsfuse.degrade import Psf
from hsfuse.fusion.change import blocks, evidence, places
from hsfuse.fusion.change.evidence import gather_evidence
from hsfuse.fusion.change.places import _concentrated, correct_places
from hsfuse.fusion.change.response import Response

COARSE = (48, 52)
GARDEN = (slice(60, 81), slice(66, 87))
RESPONSE = Response(RATIO, Psf(1.0))


def _turned(clean: NDArray[np.float32]) -> NDArray[np.float32]:
    """Plants of a small part of the scene, 2 % of it, are redder and darker in the near infrared."""
    out = clean.copy()
    part = clean[:, *GARDEN]
    plants = np.clip(6.0 * ((part[3] - part[2]) / (part[3] + part[2]) + 0.1), 0.0, 1.0)
    out[2, *GARDEN] *= 1.0 + 0.3 * plants
    out[3, *GARDEN] *= 1.0 - 0.25 * plants
    return out


def _trees(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Single pixels, one in ten of a part of the scene."""
    mask = np.zeros(shape, bool)
    mask[GARDEN] = np.random.default_rng(5).random((21, 21)) < 0.1
    return mask


def _town(clean: NDArray[np.float32], dark: float) -> NDArray[np.float32]:
    """A town with trees, whose near infrared is ``dark`` times what it was."""
    out, trees = clean.copy(), _trees(clean.shape[1:])
    out[3, trees] *= dark
    return out


def _garden(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = np.zeros(shape, bool)
    mask[GARDEN] = True
    return mask


def test_little_ground_that_turned_is_corrected_where_it_lies() -> None:
    """A correction of the whole scene is not worth while; before, the garden stayed as it was."""
    pair = make_pair(COARSE, noise=0.002, change=_turned)
    inside = _garden(pair.msi.shape[1:])
    found, guide = gather_evidence(coarse_of(pair), pair.msi, RESPONSE)
    assert found.corrections == 0
    assert rms((guide - pair.clean_msi)[2:, inside]) < 0.6 * rms((pair.msi - pair.clean_msi)[2:, inside])
    # Everything else is left as it came, to the last digit.
    far = ~binary_dilation(inside, iterations=RATIO * 12)
    np.testing.assert_array_equal(guide[:, far], pair.msi[:, far])


def test_single_trees_of_a_town_are_corrected() -> None:
    """Ground between them got a part of what they need: they kept 0.39 of their error, and it had 3.2 times its own."""
    pair = make_pair(COARSE, noise=0.002, change=partial(_town, dark=0.6))
    trees = _trees(pair.msi.shape[1:])
    _, guide = gather_evidence(coarse_of(pair), pair.msi, RESPONSE)
    error, raw = (guide - pair.clean_msi)[3], (pair.msi - pair.clean_msi)[3]
    beside = _garden(trees.shape) & ~trees
    assert rms(error[trees]) < 0.2 * rms(raw[trees])
    assert rms(error[beside]) < 2.0 * rms(raw[beside])


def test_places_are_corrected_in_a_guide_s_own_place_as_in_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_PX", 24)
    pair = make_pair(COARSE, noise=0.002, change=_turned)
    before = pair.msi.copy()
    _, copied = gather_evidence(coarse_of(pair), pair.msi, RESPONSE)
    np.testing.assert_array_equal(pair.msi, before)
    _, written = gather_evidence(coarse_of(pair), pair.msi, RESPONSE, threads=2, overwrite=True)
    assert written is pair.msi
    np.testing.assert_array_equal(written, copied)


@pytest.mark.parametrize(("bands", "ratio"), [(1, 2), (4, 3), (10, 4), (4, 6)])
def test_a_correction_is_concentrated_on_what_turned(bands: int, ratio: int) -> None:
    """A regression at low resolution gives some of it to all pixels around, and too little in all."""
    rng, response = np.random.default_rng(2), Response(ratio, Psf(1.0))
    shape = (24 * ratio, 26 * ratio)
    turned = (rng.random(shape) < 0.05).astype(np.float32)
    way = rng.normal(size=(bands, 1, 1)).astype(np.float32)
    true = 40.0 * way / np.linalg.norm(way) * turned
    told = 0.4 * true + 0.05 * response.up_single(response.down(true))
    wanted = response.down(true) + rng.normal(size=(bands, 24, 26))
    found = _concentrated(told, wanted, response)
    on = turned > 0
    assert rms((found - true)[:, on]) < 0.75 * rms((told - true)[:, on])
    assert rms((found - true)[:, ~on]) < rms((told - true)[:, ~on])
    # Where nothing is to be corrected, nothing is.
    np.testing.assert_array_equal(_concentrated(np.zeros_like(told), wanted, response), 0.0)


def test_places_are_corrected_the_same_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(COARSE, noise=0.002, change=_turned)
    rng, whole, parts = np.random.default_rng(4), pair.msi.copy(), pair.msi.copy()
    matrix = np.zeros((4, 5, *COARSE), np.float32)
    matrix[2:, :, 17:33, 14:39] = 0.1 * rng.normal(size=(2, 5, 16, 25))
    facts = RESPONSE.down(pair.clean_msi), RESPONSE.down(pair.msi), np.full(4, 1e-5), RESPONSE
    correct_places(whole, matrix, *facts, concentrate=True)
    for module in (blocks, places):
        monkeypatch.setattr(module, "BLOCK_PX", 20)
    assert len(list(blocks.blocks(COARSE))) == 9
    correct_places(parts, matrix, *facts, concentrate=True, threads=2)
    assert np.abs(whole - pair.msi).max() > 0.05
    np.testing.assert_allclose(parts, whole, atol=1e-5)


@pytest.mark.parametrize("noise", [0.004, 0.01])
def test_other_ground_is_not_explained_away(noise: float) -> None:
    """What is foreign is found and replaced: a correction of its place, told by its rim under more noise, hid it."""

    def other(clean: NDArray[np.float32]) -> NDArray[np.float32]:
        out = clean.copy()
        out[:, *GARDEN] = (
            np.roll(clean, (45, 50), axis=(1, 2))[:, *GARDEN] * np.array([1.5, 1.3, 0.6, 0.7])[:, None, None]
        )
        return out

    pair = make_pair(COARSE, noise=noise, change=other)
    found, guide = gather_evidence(coarse_of(pair), pair.msi, RESPONSE)
    middle = np.zeros(COARSE, bool)
    middle[21:26, 23:28] = True
    assert found.contradiction.candidates[middle].mean() > 0.9
    np.testing.assert_array_equal(guide, pair.msi)


def test_a_season_of_a_small_scene_is_corrected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 90 HSI pixels: with less than 120 nothing was corrected."""

    pair = make_pair((9, 10), noise=0.002, change=partial(patchy_season, red=0.3, nir=-0.25))

    def left() -> float:
        _, guide = gather_evidence(coarse_of(pair), pair.msi, RESPONSE)
        lines = [np.polyfit(true.ravel(), one.ravel(), 1) for true, one in zip(pair.clean_msi, guide, strict=True)]
        straight = np.stack([np.polyval(line, true) for line, true in zip(lines, pair.clean_msi, strict=True)])
        return rms((guide - straight)[2:])

    corrected = left()
    monkeypatch.setattr(evidence, "_LEAST_PIXELS", 120)
    assert corrected < 0.8 * left()
