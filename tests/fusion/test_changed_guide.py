"""Pairs of different days: what differs is found, the guide repaired, and unchanged ground left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from pair_support import RATIO, coarse_of, make_pair, repaired_guide, rms
from scipy.ndimage import binary_dilation, gaussian_filter, map_coordinates

from hsfuse.degrade import Psf
from hsfuse.fusion.change import blocks, choice, evidence, repair
from hsfuse.fusion.change.illumination import common_light
from hsfuse.fusion.change.repair import repair_guide
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.scene_model import contradiction
from hsfuse.fusion.scene_model.alignment import robust_alignment
from hsfuse.fusion.scene_model.contradiction import Contradiction, displacement_px
from hsfuse.fusion.scene_model.model import estimate_scene_model
from hsfuse.fusion.scene_model.pair import CoarsePair, GuideRelation
from hsfuse.fusion.scene_model.relation import relate

COARSE = (34, 40)
PARCEL = (slice(30, 54), slice(42, 69))


def _other_ground(clean: NDArray[np.float32]) -> NDArray[np.float32]:
    out = clean.copy()
    out[:, *PARCEL] = np.roll(clean, (45, 50), axis=(1, 2))[:, *PARCEL] * np.array([1.5, 1.3, 0.6, 0.7])[:, None, None]
    return out


def _cloud(clean: NDArray[np.float32]) -> NDArray[np.float32]:
    out = clean.copy()
    out[:, *PARCEL] = 0.9
    return out


def _haze(clean: NDArray[np.float32]) -> NDArray[np.float32]:
    ramp = np.linspace(0.0, 1.0, clean.shape[2], dtype=np.float32)
    return np.asarray(clean * (1.0 - 0.2 * ramp) + 0.05 * ramp)


def _unexplained(image: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    left = [a - np.polyval(np.polyfit(b.ravel(), a.ravel(), 1), b) for a, b in zip(image, truth, strict=True)]
    return rms(np.stack(left))


def test_unchanged_ground_is_left_alone() -> None:
    pair = make_pair(COARSE)
    found = repaired_guide(pair)
    assert found.share < 0.005
    assert found.evidence.unexplained < 0.05
    assert rms(found.msi - pair.msi) < 0.001
    assert found.trusted


def _clouds(clean: NDArray[np.float32]) -> NDArray[np.float32]:
    out = clean.copy()
    for top in range(6, clean.shape[1] - 20, 36):
        out[:, top : top + 24, 6:30] = 0.9
    return out


def test_a_guide_is_repaired_in_its_place_as_in_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks that look at their neighbours as they were, whichever have been written."""
    pair = make_pair((40, 16), change=_clouds)
    for module in (blocks, repair):
        monkeypatch.setattr(module, "BLOCK_PX", 17)
    assert len(list(blocks.blocks((40, 16)))) == 3
    pieces, response, place = coarse_of(pair), Response(RATIO, Psf(1.0)), pair.msi.copy()
    found = repair_guide(pieces, place, response, threads=2, overwrite=True)
    monkeypatch.setattr(
        repair, "write_blocks", lambda image, found, side_px: blocks.write_blocks(image, list(found), side_px)
    )
    before = pair.msi.copy()
    at_the_end = repair_guide(pieces, pair.msi, response)
    np.testing.assert_array_equal(pair.msi, before)
    assert not np.array_equal(at_the_end.msi, before)
    np.testing.assert_array_equal(found.msi, at_the_end.msi)


def test_groups_of_candidates_are_repaired_one_by_one_as_in_their_block(monkeypatch: pytest.MonkeyPatch) -> None:
    def two(clean: NDArray[np.float32]) -> NDArray[np.float32]:
        out = clean.copy()
        out[:, 9:21, 12:21] = out[:, 9:21, 231:246] = 0.9
        return out

    pair = make_pair((12, 96), change=two)
    pieces, response = coarse_of(pair), Response(RATIO, Psf(1.0))
    monkeypatch.setattr(blocks, "CONTEXT_PX", 4)
    apart = repair_guide(pieces, pair.msi, response)
    monkeypatch.setattr(repair, "places_around", lambda candidates: blocks.blocks(candidates.shape))
    whole = repair_guide(pieces, pair.msi, response)
    assert whole.share > 0.01
    assert apart.share == pytest.approx(whole.share, abs=0.002)
    assert rms(apart.change - whole.change) < 0.02
    assert rms(apart.msi - whole.msi) < 0.02 * rms(whole.msi - pair.msi)


@pytest.mark.parametrize("change", [_other_ground, _cloud])
def test_foreign_ground_is_found_and_replaced(change: object) -> None:
    pair = make_pair(COARSE, change=change)
    found = repaired_guide(pair)
    truth = np.zeros(pair.msi.shape[1:], bool)
    truth[PARCEL] = True
    flagged = found.change > 0.5
    assert (flagged & truth).sum() / truth.sum() > 0.9
    assert (flagged & ~truth).sum() / truth.sum() < 0.1
    before, after = (rms((image - pair.clean_msi)[:, truth]) for image in (pair.msi, found.msi))
    assert after < 0.4 * before
    assert rms((found.msi - pair.msi)[:, ~truth & ~flagged]) < 0.3 * before
    assert abs(found.to_json()["changed_share"] - truth.mean()) < 0.02


@pytest.mark.parametrize("seed", [1, 4])
def test_soft_edges_of_a_cloud_are_no_worse_than_the_hsi(seed: int) -> None:
    field = gaussian_filter(np.random.default_rng(seed).standard_normal(tuple(RATIO * n for n in COARSE)), 6.0)
    opacity = np.clip(1.1 * gaussian_filter((field > np.quantile(field, 0.95)).astype(np.float32), 0.75), 0.0, 1.0)

    def cloud(clean: NDArray[np.float32]) -> NDArray[np.float32]:
        bright = 1.1 * np.quantile(clean, 0.99, axis=(1, 2))[:, None, None]
        return np.asarray(clean + opacity * (bright - clean), np.float32)

    pair = make_pair(COARSE, change=cloud, seed=seed)
    found, response = repaired_guide(pair), Response(RATIO, Psf(1.0))
    seen = found.evidence.relation.seen
    interpolated = response.up(seen)
    interpolated += response.up(seen - response.down(interpolated))
    repaired, expected = (rms((image - pair.clean_msi)[:, opacity > 0.1]) for image in (found.msi, interpolated))
    assert repaired < expected


def test_haze_is_taken_out_and_is_no_change() -> None:
    pair = make_pair(COARSE, change=_haze)
    found = repaired_guide(pair)
    assert found.share < 0.01
    # A gain and an offset of the whole band are the sensors' calibration. What is left is the noise of 0.004.
    assert _unexplained(found.msi, pair.clean_msi) < 0.6 * _unexplained(pair.msi, pair.clean_msi)


@pytest.mark.parametrize(("change", "fields"), [(None, [2]), (_haze, [2, 1])])
def test_a_large_scene_is_asked_for_haze_at_some_pixels_first(
    change: object, fields: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def spied(*args: object, **options: object) -> GuideRelation:
        if options.get("field"):
            asked.append(int(str(options.get("spacing", 1))))
        return relate(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(evidence, "first_weights", lambda pair, low, threads: np.ones(pair.valid.shape))
    monkeypatch.setattr(evidence, "relate", spied)
    pair = make_pair(COARSE, change=change)
    found = repaired_guide(pair)
    assert asked == fields
    assert (found.evidence.relation.gain != 1.0).any() == (change is not None)


def _season_of_few_plants(clean: NDArray[np.float32]) -> NDArray[np.float32]:
    index, out = (clean[3] - clean[2]) / (clean[3] + clean[2]), clean.copy()
    plants = index > np.quantile(index, 0.9)
    out[2][plants] *= 1.3
    out[3][plants] *= 0.75
    return out


def test_season_of_little_ground_is_corrected_there() -> None:
    pair = make_pair(COARSE, change=_season_of_few_plants)
    plants = (_season_of_few_plants(pair.clean_msi) != pair.clean_msi).any(axis=0)
    found = repaired_guide(pair)
    before, after = (rms((image - pair.clean_msi)[2:, plants]) for image in (pair.msi, found.msi))
    assert after < 0.44 * before
    assert found.share < 0.01


def test_little_ground_tells_no_season_where_images_are_displaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two real sensors' pairs lost up to 2.7 dB: a displacement looks like a season of the ground beside an edge."""

    def tried(*_: object) -> None:
        raise AssertionError("small windows")

    pair = make_pair(COARSE, change=_season_of_few_plants)
    monkeypatch.setattr(choice, "local_gain", tried)
    with pytest.raises(AssertionError, match="small windows"):
        repaired_guide(pair)
    monkeypatch.setattr(contradiction, "displacement_px", lambda *_: 0.1)
    repaired_guide(pair)


def test_cast_shadow_keeps_its_detail() -> None:
    def shadow(clean: NDArray[np.float32]) -> NDArray[np.float32]:
        out = clean.copy()
        out[:, *PARCEL] *= 0.5
        return out

    pair = make_pair(COARSE, change=shadow)
    found = repaired_guide(pair)
    assert float(found.own_detail[PARCEL].mean()) > 0.3
    assert rms((found.msi - pair.clean_msi)[:, *PARCEL]) < 0.25 * rms((pair.msi - pair.clean_msi)[:, *PARCEL])


def _contradiction(seen: NDArray[np.float64], blurred: NDArray[np.float64]) -> Contradiction:
    one, zero = np.ones_like(seen), np.zeros_like(seen)
    noise = np.full_like(seen, 1e-5)
    distance = ((blurred - seen) ** 2 / noise).sum(axis=0)
    relation = GuideRelation(
        seen, one, zero, distance, noise, np.eye(len(seen)), one[0], np.zeros((len(seen), 0)), one[0]
    )
    return Contradiction.find(relation, blurred, np.ones(seen.shape[1:], bool))


def test_strong_contradiction_beside_strong_contrast_is_a_candidate() -> None:
    # A missed cloud over part of a steep border: neighbours predict the HSI even worse than the cloud does.
    seen = np.repeat(np.repeat(np.indices((6, 6)).sum(axis=0) % 2, 2, axis=0), 2, axis=1) * np.ones((4, 1, 1))
    cloudy = seen.copy()
    cloudy[:, 5:7, 5:7] += 0.1
    found = _contradiction(seen, cloudy)
    assert (found.rivalry[5:7, 5:7] < 1.0).all()
    assert found.candidates[5:7, 5:7].all()
    assert found.candidates.sum() == 4


def test_all_shadows_of_a_scene_share_one_gain() -> None:
    rng = np.random.default_rng(0)
    seen = np.stack([0.2 + 0.05 * gaussian_filter(rng.standard_normal((40, 44)), 1.0) / 0.28 for _ in range(4)])
    cover = np.zeros((40, 44))
    cover[5:10, 5:11] = cover[20:24, 30:36] = 1.0
    soft = gaussian_filter(cover, 0.6)
    gain = np.array([2.0, 1.9, 1.8, 1.7])[:, None, None]
    shaded = seen * (1.0 - soft * (1.0 - 1.0 / gain))
    found = common_light(seen, shaded, _contradiction(seen, shaded))
    assert found is not None
    # Pixels that a shadow covers in part have any gain below the common one.
    assert np.allclose(found.gain, gain[:, 0, 0], rtol=0.03)
    assert found.agreeing[soft > 0.99].mean() > 0.5
    assert not found.agreeing[soft < 0.5].any()
    foreign = np.roll(seen, (17, 21), axis=(1, 2)) * np.array([1.3, 0.7, 1.2, 0.6])[:, None, None]
    other = np.where(cover > 0, foreign, seen)
    assert common_light(seen, other, _contradiction(seen, other)) is None


def test_edges_of_a_shadow_are_as_sharp_as_its_inside() -> None:
    down, across = np.mgrid[:72, :84]
    along, beside = (down - 36) * 0.8 + (across - 40) * 0.6, (across - 40) * 0.8 - (down - 36) * 0.6
    shaded = (np.abs(along) < 6) & (np.abs(beside) < 9)
    pair = make_pair((24, 28), change=lambda clean: np.where(shaded, 0.55 * clean, clean).astype(np.float32))
    found = repaired_guide(pair)
    response = Response(RATIO, Psf(1.0))
    interpolated = response.up(response.down(pair.clean_msi))
    repaired, plain = (rms((image - pair.clean_msi)[:, shaded]) for image in (found.msi, interpolated))
    assert repaired < 0.55 * plain


def test_most_of_the_ground_changed_is_said() -> None:
    def elsewhere(clean: NDArray[np.float32]) -> NDArray[np.float32]:
        out = np.roll(clean, (47, 41), axis=(1, 2)) * np.array([1.6, 1.2, 0.5, 0.6], np.float32)[:, None, None]
        out[:, :, :36] = clean[:, :, :36]
        return np.asarray(out)

    found = repaired_guide(make_pair(COARSE, change=elsewhere))
    assert not found.trusted


def test_regression_is_not_bent_by_a_third_of_other_ground() -> None:
    def third(clean: NDArray[np.float32]) -> NDArray[np.float32]:
        out = clean.copy()
        out[:, :34] = 0.5
        return out

    plain, bent = make_pair(COARSE), make_pair(COARSE, change=third)
    low = Response(RATIO, Psf(1.0)).down
    straight, found = relate(coarse_of(plain), low(plain.msi)), relate(coarse_of(bent), low(bent.msi))
    assert rms(found.seen - straight.seen) < 0.1 * straight.seen.std()
    model, _ = estimate_scene_model(bent.strips(), bent.context(calibrate=False))
    assert model.synthesis.foreign_share > 0.25


def test_blur_and_shift_are_found_on_a_changed_pair() -> None:
    pair = make_pair(COARSE, fwhm=1.15, offset=(0.12, -0.2), change=_other_ground)
    found = robust_alignment(coarse_of(pair), pair.msi, RATIO, Psf(1.0))
    assert found is not None
    assert np.allclose((found.psf.fwhm_px, *found.offset_px), (1.15, 0.12, -0.2), atol=0.04)


def test_more_than_half_a_pixel_of_shift_is_found_and_is_no_change() -> None:
    pair = make_pair(COARSE, offset=(-0.7, 0.25))
    found = robust_alignment(coarse_of(pair), pair.msi, RATIO, Psf(1.0))
    assert found is not None
    assert np.allclose(found.offset_px, (-0.7, 0.25), atol=0.06)
    assert repair_guide(coarse_of(pair), pair.msi, Response(RATIO, found.psf, found.offset_px)).share < 0.01


def test_a_scene_too_small_for_all_components_is_aligned_by_the_leading_ones() -> None:
    pair = make_pair((9, 10), offset=(-0.3, 0.25))
    coarse = coarse_of(pair)
    weak = 1e-3 * np.random.default_rng(1).standard_normal((28, *coarse.valid.shape))
    many = CoarsePair(
        np.concatenate([coarse.components, weak]), coarse.predicted, np.eye(len(coarse.components) + 28), coarse.valid
    )
    found = robust_alignment(many, pair.msi, RATIO, Psf(1.0))
    assert found is not None
    assert np.allclose(found.offset_px, (-0.3, 0.25), atol=0.06)


def test_pixels_without_data_are_no_change() -> None:
    pair = make_pair(COARSE)
    coarse = coarse_of(pair)
    valid = np.ones(COARSE, bool)
    valid[:10, :12] = False
    msi = pair.msi.copy()
    msi[:, :30, :36] = 0.0
    holed = CoarsePair(coarse.components, coarse.predicted, coarse.level, valid)
    found = repair_guide(holed, msi, Response(RATIO, Psf(1.0)))
    assert found.share < 0.01
    assert float(found.change[:24, :30].max()) == 0.0


def test_rim_of_a_masked_cloud_is_looked_at() -> None:
    pair = make_pair(COARSE, change=_cloud)
    coarse = coarse_of(pair)
    cloud, masked = np.zeros((2, *COARSE), bool)
    cloud[10:18, 14:23], masked[11:17, 15:22] = True, True
    rim = CoarsePair(coarse.components, coarse.predicted, coarse.level, ~cloud, cloud & ~masked)
    found = repair_guide(rim, pair.msi, Response(RATIO, Psf(1.0)))
    around = np.kron(cloud & ~masked, np.ones((RATIO, RATIO), bool))
    assert float((found.change[around] > 0.5).mean()) > 0.8
    before, after = (rms((image - pair.clean_msi)[:, around]) for image in (pair.msi, found.msi))
    assert after < 0.4 * before


def test_responses_need_not_be_known() -> None:
    pair = make_pair(COARSE, change=_cloud)
    coarse = coarse_of(pair)
    blind = CoarsePair(coarse.components, None, coarse.level, coarse.valid)
    found = repair_guide(blind, pair.msi, Response(RATIO, Psf(1.0)))
    assert (found.change[PARCEL] > 0.5).mean() > 0.8


def test_a_material_of_its_own_is_no_change_without_responses() -> None:
    """A relation that never saw such spectra extrapolates: what it is wrong by there tells nothing of the guide."""
    pair = make_pair(COARSE)
    truth = pair.truth.copy()
    bump = np.exp(-0.5 * ((pair.centre_nm - 750.0) / 20.0) ** 2).astype(np.float32)
    truth[:, *PARCEL] += 0.6 * bump[:, None, None]
    response = Response(RATIO, Psf(1.0))
    noise = 0.002 * np.random.default_rng(3).standard_normal(pair.hsi.shape)
    coarse = coarse_of(replace(pair, hsi=(response.down(truth) + noise).astype(np.float32)))
    # The MSI has no band there, but shows the material otherwise than a line through all others says.
    other = pair.msi.copy()
    other[:, *PARCEL] *= 1.25
    blurred = response.down(other)
    blind = relate(CoarsePair(coarse.components, None, coarse.level, coarse.valid), blurred)
    inside = (slice(11, 17), slice(15, 22))
    assert np.median(blind.remoteness) < 2.0
    assert blind.remoteness[inside].min() > 20.0
    assert not Contradiction.find(blind, blurred, coarse.valid, blind=True).candidates[inside].any()
    near = replace(blind, remoteness=np.ones_like(blind.remoteness))
    assert Contradiction.find(near, blurred, coarse.valid, blind=True).candidates[inside].mean() > 0.5


def _displaced_pair(
    foreign: list[tuple[slice, slice]], shape: tuple[int, int] = (40, 44)
) -> tuple[GuideRelation, NDArray[np.float64]]:
    """A relation, and what a guide shows whose HSI stands off by a varying part of a pixel, with foreign ground."""
    rng = np.random.default_rng(0)
    seen = np.stack([gaussian_filter((rng.uniform(size=shape) > 0.9) * level, 1.2) for level in (1.0, 2.0, 1.5)])
    seen += 0.2 * gaussian_filter(rng.standard_normal((3, *shape)), (0, 3, 3))
    field = gaussian_filter(rng.standard_normal((2, *shape)), (0, 5, 5))
    field *= 0.15 / field.std(axis=(1, 2), keepdims=True)
    at = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")) + field
    moved = np.stack([map_coordinates(band, at, order=3, mode="nearest") for band in seen])
    noise = np.full((3, *shape), 1e-6)
    moved += 1e-3 * rng.standard_normal(moved.shape)
    for where in foreign:
        moved[:, *where] = [[[0.9]], [[0.1]], [[0.5]]]
    one, zero = np.ones_like(seen), np.zeros_like(seen)
    distance = ((moved - seen) ** 2 / noise).sum(axis=0)
    return GuideRelation(seen, one, zero, distance, noise, np.eye(3), one[0], np.zeros((3, 0)), one[0]), moved


def test_displaced_edges_are_no_change() -> None:
    """A HSI that stands off by a varying part of a pixel contradicts the guide at every edge."""
    where = (slice(20, 24), slice(20, 24))
    relation, moved = _displaced_pair([where])
    found = Contradiction.find(relation, moved, np.ones(moved.shape[1:], bool))
    assert abs(found.displacement_px - 0.15) < 0.08
    inside = np.zeros(moved.shape[1:], bool)
    inside[where] = True
    assert found.candidates[inside].mean() > 0.9
    away = ~binary_dilation(inside, iterations=2)
    assert (relation.distance[away] > 60).mean() > 0.2
    assert found.candidates[away].mean() < 0.03


def test_changed_ground_tells_no_displacement() -> None:
    """A third of the ground differs: it told a displacement of 0.24 pixels, which explained some of it."""
    parts = [(slice(row, row + 9), slice(col, col + 9)) for row in (2, 16, 30) for col in (2, 17, 32)]
    relation, moved = _displaced_pair(parts)
    inside = np.zeros(moved.shape[1:], bool)
    for where in parts:
        inside[where] = True
    assert displacement_px(relation, moved, np.ones(inside.shape, bool)) > 0.22
    found = Contradiction.find(relation, moved, np.ones(inside.shape, bool))
    assert abs(found.displacement_px - 0.15) < 0.08
    assert found.candidates[inside].mean() > 0.9
    assert found.candidates[~binary_dilation(inside, iterations=2)].mean() < 0.03
    # Without responses rare materials stand out as well, and a town of two sensors lost 2 dB by it.
    blind = Contradiction.find(relation, moved, np.ones(inside.shape, bool), blind=True)
    assert blind.displacement_px == displacement_px(relation, moved, np.ones(inside.shape, bool))


def test_sparse_response_is_the_response() -> None:
    response, image = Response(RATIO, Psf(1.1), (0.1, -0.2)), np.random.default_rng(0).random((21, 27))
    looked, known = np.array([0, 10, 40, 62]), np.flatnonzero(image > 0.2)
    image[image <= 0.2] = 0.0
    found = response.sparse((7, 9), looked, known) @ image.ravel()[known]
    assert np.allclose(found, response.down(image[None])[0].ravel()[looked], atol=2e-3)


def test_separable_response_is_the_response_and_has_its_transpose() -> None:
    response, rng = Response(RATIO, Psf(1.1), (0.1, -0.2)), np.random.default_rng(0)
    separable, image = response.separable((7, 9)), rng.random((2, 21, 27), np.float32)
    coarse = rng.random((9, 7, 2), np.float32)
    found = separable.down(np.ascontiguousarray(image.transpose(1, 0, 2)))
    np.testing.assert_allclose(found.transpose(2, 1, 0), response.down(image), atol=2e-3)
    sparse = response.sparse((7, 9), np.arange(63), np.arange(21 * 27))
    np.testing.assert_allclose(found[..., 1].T.ravel(), sparse @ image[1].ravel(), atol=1e-6)
    back = separable.back(coarse)
    assert float((back * image.transpose(1, 0, 2)).sum()) == pytest.approx(float((coarse * found).sum()), rel=1e-5)
    squared = separable.squared().back(coarse)[:, 0]
    np.testing.assert_allclose(squared.ravel(), sparse.power(2).T @ coarse[..., 0].T.ravel(), atol=1e-6)


def test_parcels_are_told_to_their_borders() -> None:
    """Straight borders askew to the grid: what neighbours show tells them better than single pixels do."""
    rows, cols = np.mgrid[:120, :132].astype(np.float64)
    mask = np.zeros(rows.shape, bool)
    parcels = ((30, 40, 0.4, 26, 14), (75, 30, 1.1, 24, 12), (60, 100, 2.0, 30, 12), (20, 100, 0.2, 20, 16))
    for row, col, angle, length, width in parcels:
        along = (rows - row) * np.cos(angle) + (cols - col) * np.sin(angle)
        across = (cols - col) * np.cos(angle) - (rows - row) * np.sin(angle)
        mask |= (np.abs(along) < length / 2) & (np.abs(across) < width / 2)
    inside, outside = [], []
    for seed in range(4):
        pair = make_pair(
            (40, 44), change=lambda clean: np.where(mask, np.roll(clean, (60, 70), (1, 2)), clean), seed=seed
        )
        response = Response(RATIO, Psf(1.0))
        found = repair_guide(coarse_of(pair), pair.msi, response)
        said = response.up(found.evidence.relation.seen)
        inside.append(
            float(((found.msi - pair.clean_msi) ** 2)[:, mask].mean() / ((said - pair.clean_msi) ** 2)[:, mask].mean())
        )
        outside.append(float((found.change[~mask] > 0.5).mean()))
    assert np.mean(inside) < 0.64
    assert np.mean(outside) < 2e-4


@pytest.mark.filterwarnings("error")
def test_a_guide_band_that_no_kept_band_lies_under_is_related_to_the_others() -> None:
    pair = make_pair(COARSE)
    coarse = coarse_of(pair)
    blurred = Response(RATIO, Psf(1.0), (0.0, 0.0)).down(pair.msi)
    assert coarse.predicted is not None
    predicted = coarse.predicted.copy()
    predicted[2] = 0.0
    whole = relate(coarse, blurred)
    found = relate(replace(coarse, predicted=predicted), blurred)
    assert np.isfinite(found.seen).all()
    assert rms(found.seen[2] - whole.seen[2]) < 0.1 * float(blurred[2].std())
    assert rms(found.seen[[0, 1, 3]] - whole.seen[[0, 1, 3]]) < 0.001
    nothing = relate(replace(coarse, predicted=np.zeros_like(predicted)), blurred)
    assert rms(nothing.seen - whole.seen) < 0.1 * float(blurred.std())
