"""A repaired scene: changed ground is left out of what methods learn, gaps stay, confidence is told."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import hsfuse
from hsfuse.degrade import Psf, lowpass_decimate_array
from hsfuse.degrade.whole_offset import PlaceMisfit
from hsfuse.errors import InputError, UsageError
from hsfuse.fusion.change import blocks, repair
from hsfuse.fusion.change.confidence import ErrorFeatures, ErrorModel, apply_change, apply_error, change_features
from hsfuse.fusion.classical.statistics import gather, signal_subspace
from hsfuse.fusion.create import create_method
from hsfuse.fusion.guide_noise import GuideSample, guide_noise
from hsfuse.fusion.map.method import RefinedMethod, refined
from hsfuse.fusion.scene_model import reweighting
from hsfuse.grid import Slice2D
from hsfuse.inference import pipeline
from hsfuse.inference.confidence import confidence_features
from hsfuse.inference.guide_notes import exchanged_bands
from hsfuse.inference.guide_repair import SceneRepair, repair_scene, repair_surveyed
from hsfuse.inference.scene import FusionScene
from hsfuse.inference.scene_survey import show_another_place, survey_scene
from hsfuse.resources import Resources
from hsfuse.spectral import BandTable
from hsfuse.workflows.steps.array_scene import array_scene

sys.path.insert(0, str(Path(__file__).parents[1] / "fusion"))
from pair_support import RATIO, Pair, make_pair, psnr

PARCEL = (slice(30, 57), slice(42, 69))
ONE_THREAD = Resources(threads=1)


def _cloud(clean: NDArray[np.float32]) -> NDArray[np.float32]:
    out = clean.copy()
    out[:, *PARCEL] = 0.8
    return out


def _scene(pair: Pair, msi: NDArray[np.float32] | None = None) -> FusionScene:
    bands = BandTable.make(pair.centre_nm)
    return array_scene(pair.hsi, pair.msi if msi is None else msi, bands, None, RATIO, Psf(1.0), pair.srf)


def _repair(scene: FusionScene) -> SceneRepair:
    return repair_scene(scene, pipeline.scene_context(scene, "cpu", 0))


@pytest.fixture(scope="module")
def cloudy() -> Pair:
    return make_pair((36, 40), change=_cloud)


@pytest.fixture(scope="module")
def repaired(cloudy: Pair) -> SceneRepair:
    return _repair(_scene(cloudy))


def test_change_is_told_and_left_out(cloudy: Pair, repaired: SceneRepair) -> None:
    inside = np.zeros(cloudy.msi.shape[1:], bool)
    inside[PARCEL] = True
    assert repaired.trusted
    assert float(np.median(repaired.change[inside])) > 0.9
    assert float(np.median(repaired.change[~inside])) < 0.05
    assert repaired.hsi_only[inside].mean() > 0.8
    assert repaired.expected_error[inside].mean() > 2.0 * repaired.expected_error[~inside].mean()
    valid = np.concatenate([strip.valid for strip in repaired.scene.low_resolution_strips()])
    assert not valid[11:18, 15:22].any()
    assert valid.mean() > 0.8
    facts = repaired.to_json()
    assert abs(facts["changed_share"] - inside.mean()) < 0.02


def test_change_that_leaves_too_little_to_tell_the_noise_does_not_hide_it() -> None:
    def fields(clean: NDArray[np.float32]) -> NDArray[np.float32]:
        out = clean.copy()
        for place in ((slice(2, 16), slice(4, 18)), (slice(30, 44), slice(28, 42)), (slice(6, 18), slice(34, 46))):
            out[:, *place] = 0.8
        return out

    scene = _repair(_scene(make_pair((16, 16), bands=12, change=fields, seed=2))).scene
    made = RefinedMethod(create_method("glp"), "fast", ratio=RATIO)
    pipeline.fuse_to_array(made, scene, ONE_THREAD)
    assert scene.changed is not None
    assert guide_noise([GuideSample.take(scene.msi.read(Slice2D(0, 48, 0, 48)), ~scene.changed)]) is None
    assert made.scene_model is not None
    # What a local correction left counts as noise too, and is no part of what is to be known.
    left = np.zeros(4) if scene.guide_error is None else scene.guide_error
    np.testing.assert_allclose(np.sqrt(made.scene_model.guide_noise**2 - left), 0.004, rtol=0.5)
    assert made.scene_model.noise_known


def test_small_scene_with_little_unchanged_ground_is_refined_all_the_same() -> None:
    def fields(clean: NDArray[np.float32]) -> NDArray[np.float32]:
        out = clean.copy()
        for place in ((slice(3, 13), slice(3, 13)), (slice(22, 32), slice(8, 18)), (slice(14, 22), slice(26, 36))):
            out[:, *place] = 0.8
        return out

    # 169 HSI pixels, of which the blur of what changed leaves fewer than the noise of 110 bands is told by.
    pair = make_pair((13, 13), bands=110, change=fields, seed=2)
    found = _repair(_scene(pair))
    assert 0.1 < found.share < 0.4
    method = RefinedMethod(create_method("glp"), "standard", ratio=RATIO)
    fused = pipeline.fuse_to_array(method, found.scene, ONE_THREAD)
    assert method.refinement is not None
    assert method.refinement.used != "none"
    plain = pipeline.fuse_to_array(create_method("glp"), found.scene, ONE_THREAD)
    same = np.all(fields(np.zeros_like(pair.msi)) == 0.0, axis=0)
    better, before = (float(((made - pair.truth)[:, same] ** 2).mean()) for made in (fused, plain))
    assert better < before


def test_what_follows_is_better_than_what_it_was(cloudy: Pair, repaired: SceneRepair) -> None:
    plain = pipeline.fuse_to_array(create_method("glp"), _scene(cloudy), ONE_THREAD)
    better = pipeline.fuse_to_array(refined(create_method("glp"), "fast", ratio=RATIO), repaired.scene, ONE_THREAD)
    assert psnr(cloudy.truth, better) > psnr(cloudy.truth, plain) + 3.0


def test_tiles_do_not_matter(repaired: SceneRepair) -> None:
    results = [
        pipeline.fuse_to_array(refined(create_method("glp"), "fast"), repaired.scene, ONE_THREAD, tile=tile)
        for tile in (None, 30)
    ]
    assert float(np.nanmax(np.abs(results[0] - results[1]))) < 1e-4


def test_unchanged_pairs_keep_their_guide() -> None:
    pair = make_pair((36, 40), seed=4)
    found = _repair(_scene(pair))
    block = Slice2D(0, 108, 0, 120)
    assert np.array_equal(found.scene.msi.read(block), pair.msi)
    assert found.scene.changed is None
    assert found.scene.offset_px is None
    assert float(found.hsi_only.mean()) == 0.0


def test_gaps_stay_gaps(cloudy: Pair) -> None:
    msi = cloudy.msi.copy()
    msi[:, :12, :15] = np.nan
    found = _repair(_scene(cloudy, msi))
    read = found.scene.msi.read(Slice2D(0, 108, 0, 120))
    assert np.isnan(read[:, :12, :15]).all()
    assert np.isfinite(read[:, 12:]).all()
    assert not found.seen[:12, :15].any()
    cube = pipeline.fuse_to_array(refined(create_method("glp"), "fast"), found.scene, ONE_THREAD)
    assert np.isnan(cube[:, :12, :15]).all()


def test_another_place_is_not_believed(cloudy: Pair) -> None:
    other = make_pair((36, 40), seed=11)
    found = _repair(_scene(cloudy, other.msi))
    assert not found.trusted
    cube = pipeline.fuse_to_array(refined(create_method("glp"), "fast"), found.scene, ONE_THREAD)
    bicubic = pipeline.fuse_to_array(create_method("bicubic"), _scene(cloudy), ONE_THREAD)
    assert psnr(cloudy.truth, cube) > psnr(cloudy.truth, bicubic) - 0.5
    assert found.hsi_only.all()
    assert found.share == found.to_json()["changed_share"] == 1.0, "nothing of the guide is believed"


@pytest.mark.parametrize("side", [16, 22])
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_a_small_scene_of_another_place_is_the_interpolation(side: int, seed: int) -> None:
    pair, other = make_pair((side, side)), make_pair((side, side), seed=seed + 20)
    known = {"ratio": RATIO, "wavelengths_nm": pair.centre_nm, "resources": ONE_THREAD}
    found = hsfuse.fuse(pair.hsi, other.msi, full_output=True, **known)
    assert not found.record["trusted"]
    np.testing.assert_array_equal(found.cube, hsfuse.fuse(pair.hsi, other.msi, method="bicubic", **known))
    same = hsfuse.fuse(pair.hsi, pair.msi, full_output=True, **known)
    assert same.record["trusted"]
    assert psnr(pair.truth, same.cube) > psnr(pair.truth, found.cube) + 3.0


@pytest.mark.parametrize(("here", "elsewhere", "unexplained", "other"), [
    (-0.02, -0.01, 0.006, False),  # one band in the blue, of a cube of 100
    (-0.19, -0.06, 0.0004, False),  # parcels on a sixth of 160 HSI pixels
    (-0.02, -0.10, 0.71, True),
    (-0.27, -0.31, 0.09, True),
])  # fmt: skip
def test_images_that_a_relation_explains_show_one_place(
    here: float, elsewhere: float, unexplained: float, other: bool
) -> None:
    """Both were interpolated for their fine structure, and lost 1 and 14 dB."""
    assert show_another_place(PlaceMisfit(here, elsewhere), unexplained) == other


def test_haze_that_outweighs_the_scene_makes_no_other_place() -> None:
    """Most of the guide's variance is the haze's; its fine structure is the HSI's all the same."""

    def hazy(clean: NDArray[np.float32]) -> NDArray[np.float32]:
        ramp = np.linspace(0.0, 1.0, clean.shape[2], dtype=np.float32)
        return np.asarray(clean * (1.0 - 0.2 * ramp) + 0.8 * ramp * clean.mean())

    pair = make_pair((30, 36), change=hazy)
    known = {"ratio": RATIO, "wavelengths_nm": pair.centre_nm, "srf": pair.srf, "resources": ONE_THREAD}
    found = hsfuse.fuse(pair.hsi, pair.msi, full_output=True, **known)
    assert found.record["guide_unexplained"] > 0.25
    assert found.record["trusted"]
    clear = make_pair((30, 36))
    assert psnr(pair.truth, found.cube) > psnr(pair.truth, hsfuse.fuse(clear.hsi, clear.msi, **known)) - 2.0


@pytest.mark.parametrize("brightness", [3.0, 15.0])
def test_two_pixels_that_glint_make_no_other_place(brightness: float) -> None:
    pair = make_pair((48, 54))
    glinting, beside = pair.hsi.copy(), np.ones(pair.truth.shape[1:], bool)
    for row, col in ((10, 10), (30, 30)):
        glinting[:, row, col] = brightness
        beside[3 * row - 9 : 3 * row + 12, 3 * col - 9 : 3 * col + 12] = False
    known = {"ratio": RATIO, "wavelengths_nm": pair.centre_nm, "srf": pair.srf, "resources": ONE_THREAD}
    found = hsfuse.fuse(glinting, pair.msi, full_output=True, **known)
    assert found.record["trusted"]
    interpolated = hsfuse.fuse(pair.hsi, pair.msi, method="bicubic", **known)
    truth = pair.truth[:, beside, None]
    assert psnr(truth, found.cube[:, beside, None]) > psnr(truth, interpolated[:, beside, None]) + 10.0


@pytest.mark.parametrize("side", [24, 31])
def test_a_cloud_that_the_hsi_alone_shows_makes_no_other_place(side: int) -> None:
    pair = make_pair((side, side), seed=2)
    clouded, beside = pair.hsi.copy(), np.ones(pair.truth.shape[1:], bool)
    clouded[:, 11:20, 11:20] = 0.8
    beside[24:69, 24:69] = False
    known = {"ratio": RATIO, "wavelengths_nm": pair.centre_nm, "srf": pair.srf, "resources": ONE_THREAD}
    found = hsfuse.fuse(clouded, pair.msi, full_output=True, **known)
    assert found.record["trusted"]
    interpolated = hsfuse.fuse(clouded, pair.msi, method="bicubic", **known)
    truth = pair.truth[:, beside, None]
    assert psnr(truth, found.cube[:, beside, None]) > psnr(truth, interpolated[:, beside, None]) + 10.0


def test_reads_beyond_the_scene_come_from_the_product(cloudy: Pair, repaired: SceneRepair) -> None:
    part = replace(_scene(cloudy), grid=_scene(cloudy).grid.crop(Slice2D(2, 34, 3, 38)))
    found = _repair(part)
    read = found.scene.msi.read(Slice2D(0, 108, 0, 120), bands=[1])
    assert read.shape == (1, 108, 120)
    assert np.array_equal(read[0, :6], cloudy.msi[1, :6])


def test_arrays_get_the_same(cloudy: Pair) -> None:
    told = {"ratio": RATIO, "wavelengths_nm": cloudy.centre_nm, "srf": cloudy.srf, "resources": ONE_THREAD}
    full = hsfuse.fuse(cloudy.hsi, cloudy.msi, **told, quality="fast", full_output=True)
    assert full.cube.shape == cloudy.truth.shape
    assert full.change_probability.shape == full.expected_error.shape == cloudy.truth.shape[1:]
    assert full.record["method"]["refinement"]["used"] in ("none", "map", "filter")
    alone = hsfuse.fuse(cloudy.hsi, cloudy.msi, **told, quality="fast")
    assert np.array_equal(alone, full.cube)
    with pytest.raises(UsageError, match="quality"):
        hsfuse.fuse(cloudy.hsi, cloudy.msi, **told, quality="plain", full_output=True)
    with pytest.raises(UsageError, match="finest"):
        hsfuse.fuse(cloudy.hsi, cloudy.msi, **told, quality="finest")


def test_pairs_without_responses_and_small_ones() -> None:
    pair = make_pair((9, 10))
    blind = array_scene(pair.hsi, pair.msi, BandTable.make(pair.centre_nm), None, RATIO, Psf(1.0))
    cube = pipeline.fuse_to_array(refined(create_method("glp"), "standard"), _repair(blind).scene, ONE_THREAD)
    assert np.isfinite(cube).all()


@pytest.mark.parametrize("replaced", [0.0, 0.4, 1.0])
def test_the_expected_error_of_a_cube_in_other_units_is_the_same_in_these_units(replaced: float) -> None:
    # Logs of squared reflectances: noise, level of the scene, roughness, what is unexplained or inconsistent, what the
    # estimate shows.
    squares = np.zeros((18, 1, 1), np.float32)
    squares[[1, 3, 4, 6, 7, 8, 9, 12, 13, 14, 15]] = 1.0
    share, kept = np.full((1, 1), replaced, np.float32), np.zeros((1, 1), np.float32)
    model = ErrorModel.load()
    one, ten = (apply_error(model, ErrorFeatures(np.log(unit**2) * squares, share, kept)) for unit in (0.01, 0.1))
    np.testing.assert_allclose(ten, 10.0 * one, rtol=1e-3)


def test_errors_behind_a_local_correction_are_bounded_more_widely(repaired: SceneRepair) -> None:
    model = ErrorModel.load()
    assert 1.0 < model.bound(0) < model.bound(1) == model.bound(3)
    assert repaired.error_bound == model.bound(repaired.facts["local_corrections"])


def test_the_order_of_the_network_stays_where_it_was_asked() -> None:
    rng = np.random.default_rng(0)
    probability = rng.permutation(np.linspace(0.001, 0.999, 400)).reshape(20, 20).astype(np.float32)
    probability[:5] = 0.0
    images = rng.normal(0.0, 1.5, (7, 20, 20)).astype(np.float32)
    found = apply_change(ErrorModel.load(), change_features(images, probability, images[0]))
    order = np.argsort(probability[5:].ravel())
    assert (np.diff(found[5:].ravel()[order]) > 0).all()
    # Elsewhere what contradicts more is the first to be doubted, though none of it is flagged.
    rising = np.broadcast_to(np.linspace(-2.3, 0.5, 20, dtype=np.float32), (7, 1, 20))
    unasked = np.zeros((1, 20), np.float32)
    doubted = apply_change(ErrorModel.load(), change_features(rising, unasked, unasked))[0]
    assert (np.diff(doubted) > 0).all()
    assert doubted[10] < 0.1


def test_ground_on_which_nothing_was_repaired_is_not_called_changed() -> None:
    images = np.full((7, 1, 9), 20.0, np.float32) * np.linspace(-1.0, 1.0, 9, dtype=np.float32)
    unasked = np.zeros((1, 9), np.float32)
    found = apply_change(ErrorModel.load(), change_features(images, unasked, unasked))[0]
    assert (np.diff(found) >= 0.0).all()
    assert 0.4 < found[-1] <= 0.5


def test_other_water_that_a_local_correction_hides_is_the_first_to_be_doubted() -> None:
    pair, rng = make_pair((36, 40), noise=0.0), np.random.default_rng(101)
    light = np.where(np.arange(120) >= 60, 0.06, 1.0)
    tint = np.array([1.1, 1.05, 0.97, 0.95])[:, None, None]
    inside = np.zeros((108, 120), bool)
    inside[20:56, 78:108] = True
    hsi = lowpass_decimate_array((pair.truth * light).astype(np.float32), RATIO, Psf(1.0))
    msi = np.where(inside, tint * pair.clean_msi * light, pair.clean_msi * light)
    hsi, msi = ((image + 6e-4 * rng.standard_normal(image.shape)).astype(np.float32) for image in (hsi, msi))
    found = _repair(_scene(replace(pair, hsi=hsi, msi=msi)))
    assert found.facts["local_corrections"] > 0
    above = np.searchsorted(np.sort(found.change[~inside]), found.change[inside]) / (~inside).sum()
    assert above.mean() > 0.98
    assert found.change[~inside].max() < 0.5


def test_what_is_told_is_what_the_regression_says_of_its_features(cloudy: Pair) -> None:
    scene, model = _scene(cloudy), ErrorModel.load()
    context = pipeline.scene_context(scene, "cpu", 0)
    survey = survey_scene(scene, context)
    told, guide = repair_surveyed(scene, context, survey, model)
    for where, (of_change, of_error) in confidence_features(survey, guide, guide.msi, told.response):
        np.testing.assert_allclose(told.change[where], apply_change(model, of_change), atol=1e-4)
        np.testing.assert_allclose(told.expected_error[where], apply_error(model, of_error), rtol=1e-4)


def test_threads_do_not_matter(cloudy: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reweighting, "_PART_PX", 200)
    for module in (blocks, repair):
        monkeypatch.setattr(module, "BLOCK_PX", 16)
    scene = _scene(cloudy)
    one, three = (
        repair_scene(scene, pipeline.scene_context(scene, "cpu", 0, threads=threads)) for threads in (1, 3)
    )  # fmt: skip
    for image in ("change", "expected_error", "hsi_only"):
        assert np.array_equal(getattr(one, image), getattr(three, image))
    assert np.array_equal(*(found.scene.msi.read(scene.msi_block) for found in (one, three)))


@pytest.mark.parametrize("flat", [[2], [0, 1, 2, 3]])
def test_a_guide_with_a_band_of_one_number_is_refused_by_its_name(cloudy: Pair, flat: list[int]) -> None:
    """All ground would be taken for changed, and matrices of nothing have no eigenvalues."""
    msi = cloudy.msi.copy()
    msi[flat] = 0.1
    with pytest.raises(InputError, match=r"shows nothing in the bands? (B\d\d \(0.1\)(, )?)+: one number"):
        _repair(_scene(cloudy, msi))


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_an_hsi_of_one_spectrum_is_refused(cloudy: Pair, level: float) -> None:
    with pytest.raises(InputError, match="hyperspectral image shows nothing"):
        _repair(_scene(replace(cloudy, hsi=np.full_like(cloudy.hsi, level))))


@pytest.mark.parametrize(
    ("shape", "gaps"), [((1, 80), 0), ((80, 1), 0), ((26, 28), 2)], ids=["one row", "one column", "gaps in every row"]
)
def test_narrow_scenes_and_gaps_everywhere_are_fused(shape: tuple[int, int], gaps: int) -> None:
    pair = make_pair(shape)
    hsi = pair.hsi.copy()
    if gaps:
        hsi[:, ::gaps] = np.nan
    facts = {"ratio": RATIO, "wavelengths_nm": pair.centre_nm, "srf": pair.srf, "resources": ONE_THREAD}
    fused, interpolated = (hsfuse.fuse(hsi, pair.msi, **facts, method=name) for name in ("glp", "bicubic"))
    seen = np.isfinite(interpolated).all(axis=0)
    assert np.array_equal(seen, np.isfinite(fused).all(axis=0))
    assert psnr(pair.truth[:, None, seen], fused[:, None, seen]) > 38.0


def test_who_asks_for_more_than_a_small_scene_allows_is_told(caplog: pytest.LogCaptureFixture) -> None:
    pair = make_pair((12, 14))
    with caplog.at_level("WARNING"):
        hsfuse.fuse(
            pair.hsi, pair.msi, ratio=RATIO, method="ssrfn-lite", quality="best", wavelengths_nm=pair.centre_nm,
            srf=pair.srf, resources=ONE_THREAD,
        )  # fmt: skip
    assert "the result is not refined" in caplog.text
    assert "ssrfn-lite: the scene is too small" in caplog.text


@pytest.mark.parametrize(("order", "exchanged"), [([0, 1, 2, 3], ""), ([3, 1, 2, 0], "bands 1 and 4 look exchanged")])
def test_bands_in_another_order_than_their_responses_are_told(
    order: list[int], exchanged: str, caplog: pytest.LogCaptureFixture
) -> None:
    pair = make_pair((26, 28))
    with caplog.at_level("WARNING"):
        _repair(_scene(pair, pair.msi[order]))
    assert exchanged in caplog.text
    assert ("look exchanged" in caplog.text) is bool(exchanged)


@pytest.mark.parametrize(("haze", "exchanged"), [(0.0, True), (1.0, True), (3.0, False)])
def test_exchanged_bands_are_told_under_haze_too(haze: float, exchanged: bool) -> None:
    rng = np.random.default_rng(0)
    told = rng.standard_normal((4, 900))
    seen = told[[3, 1, 2, 0]]
    seen[3] += haze * rng.standard_normal(900)
    assert exchanged_bands(seen, told) == ([(0, 3)] if exchanged else [])
    assert exchanged_bands(seen[[3, 1, 2, 0]], told) == []


@pytest.mark.parametrize(("factor", "told"), [(0.1, "0.1 times"), (10.0, "10 times"), (0.5, ""), (2.0, "")])
def test_a_guide_of_another_scale_is_told_and_fused_alike(
    factor: float, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    pair = make_pair((26, 28))
    found = _repair(_scene(pair, pair.msi * np.float32(factor)))
    assert told in " ".join(found.notes)
    assert ("check the scale" in caplog.text) is bool(found.notes) is bool(told)
    assert found.trusted
    assert found.share < 0.01


def test_the_error_of_a_result_without_its_guide_is_that_of_the_hsi_alone(cloudy: Pair) -> None:
    other = make_pair((36, 40), seed=7)
    mixed = cloudy.msi.copy()
    mixed[:, :, ::2] = other.msi[:, :, ::2]
    mixed[:, :, : mixed.shape[2] // 2] = other.msi[:, :, : mixed.shape[2] // 2]
    found = hsfuse.fuse(
        cloudy.hsi, mixed, ratio=RATIO, wavelengths_nm=cloudy.centre_nm, srf=cloudy.srf, psf_fwhm=1.0,
        full_output=True, resources=ONE_THREAD,
    )  # fmt: skip
    assert not found.record["trusted"]
    error = np.sqrt(((found.cube - cloudy.truth) ** 2).mean())
    told = np.sqrt((found.expected_error**2).mean())
    assert 0.4 < told / error < 2.5


def test_the_hsi_is_learned_from_changed_ground_too() -> None:
    """Its noise and what it varies in do not depend on what the MSI shows."""

    def fields(clean: NDArray[np.float32]) -> NDArray[np.float32]:
        out = clean.copy()
        for place in ((slice(3, 13), slice(3, 13)), (slice(31, 41), slice(8, 18)), (slice(14, 24), slice(30, 40))):
            out[:, *place] = 0.8
        return out

    pair = make_pair((15, 15), bands=110, change=fields, seed=2)
    found = _repair(_scene(pair))
    strips = list(found.scene.low_resolution_strips())
    clear, all_of_it = (sum(int(getattr(s, kind).sum()) for s in strips) for kind in ("valid", "of_hsi"))
    assert 110 < clear < 0.75 * all_of_it
    noise = signal_subspace(gather(strips)).noise
    assert float(np.abs(noise / 0.004 - 1.0).mean()) < 0.065
