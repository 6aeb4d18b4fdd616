"""A corrected guide is refined by a network: less error, no seam, any units; without a season nothing changes."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray
from pair_support import RATIO, Pair, coarse_of, make_pair, patchy_season, repaired_guide, rms

from hsfuse import spilled
from hsfuse.degrade import Psf
from hsfuse.fusion.change import choice, pattern, season
from hsfuse.fusion.change.candidates import Candidates
from hsfuse.fusion.change.evidence import gather_evidence
from hsfuse.fusion.change.pattern import ColourFunctions, ScenePattern
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.change.season import SeasonData, SeasonFrame, refined_season
from hsfuse.fusion.scene_model import contradiction, relation
from hsfuse.spilled import SpilledImages

COARSE = (44, 50)
RESPONSE = Response(RATIO, Psf(1.0))
SEASON = partial(patchy_season, red=0.3, nir=-0.25)


def _turned(seed: int = 0) -> Pair:
    return make_pair(COARSE, noise=0.002, change=SEASON, seed=seed)


def _asked(pair: Pair) -> SeasonData:
    """What the refinement of a pair is asked for, and its guide may be overwritten."""
    asked: list[SeasonData] = []

    def keep(data: SeasonData, _: int) -> NDArray[np.float32]:
        asked.append(data)
        return data.guide

    gather_evidence(coarse_of(pair), pair.msi, RESPONSE, refine=keep)
    return replace(asked[0], guide=asked[0].guide.copy())


def _left(pair: Pair, guide: NDArray[np.float32]) -> float:
    """Error in red and near infrared beside gain and offset of a whole band, which are the sensors' calibration."""
    lines = [np.polyfit(true.ravel(), one.ravel(), 1) for true, one in zip(pair.clean_msi, guide, strict=True)]
    straight = np.stack([np.polyval(line, true) for line, true in zip(lines, pair.clean_msi, strict=True)])
    return rms((guide - straight)[2:])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_season_is_refined(seed: int) -> None:
    pair = _turned(seed)
    data = _asked(pair)
    before = _left(pair, data.guide)
    found, guide = gather_evidence(coarse_of(pair), pair.msi, RESPONSE)
    assert found.corrections > 0
    assert _left(pair, guide) < 0.97 * before


def test_pairs_without_a_season_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("nothing was corrected")

    monkeypatch.setattr(season, "_answer", never)
    plain = make_pair(COARSE)
    other = make_pair(COARSE, change=lambda clean: np.where(np.arange(clean.shape[2]) < 30, clean[:, ::-1], clean))
    for pair in (plain, other):
        assert repaired_guide(pair).evidence.corrections == 0
    # Displaced images are not corrected for a season either.
    monkeypatch.setattr(contradiction, "displacement_px", lambda *_: 0.1)
    gather_evidence(coarse_of(_turned()), _turned().msi, RESPONSE)


def test_what_is_left_of_haze_is_no_season() -> None:
    """A correction about as large as the noise stays as it is."""
    data = _asked(_turned())
    small = replace(data, guide=data.guide.copy(), noise=2500.0 * data.noise)
    np.testing.assert_array_equal(refined_season(small), data.guide)


def test_blocks_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _asked(_turned())
    whole = refined_season(replace(data, guide=data.guide.copy()))
    monkeypatch.setattr(season, "_BLOCK_PX", 15 * RATIO)
    for threads in (1, 2):
        parts = refined_season(replace(data, guide=data.guide.copy()), threads)
        np.testing.assert_allclose(parts, whole, atol=1e-6)
    assert rms(whole - data.guide) > 1e-4


def test_what_was_not_measured_tells_nothing() -> None:
    """Gaps hold whatever they were filled with."""
    data = _asked(_turned())
    results = []
    for filled in (0.01, 3.0):
        other = replace(
            data, guide=data.guide.copy(), seen=data.seen.copy(), low=data.low.copy(), distance=data.distance.copy()
        )
        other.seen[:, :10] = other.low[:, :10] = filled
        other.distance[:10] = season.UNKNOWN
        results.append(refined_season(other)[:, 16 * RATIO :])
    np.testing.assert_allclose(*results, atol=1e-5)


@pytest.mark.parametrize("factor", [100.0, 1e4])
def test_units_do_not_matter(factor: float) -> None:
    pair = _turned()
    scaled = replace(
        pair, hsi=pair.hsi * np.float32(factor), msi=pair.msi * np.float32(factor)
    )  # fmt: skip
    guide, other = (refined_season(_asked(one)) for one in (pair, scaled))
    np.testing.assert_allclose(other / factor, guide, atol=2e-5)


@pytest.mark.parametrize("bands", [1, 2, 10])
@pytest.mark.parametrize("ratio", [2, 6])
def test_any_number_of_bands_and_ratio(bands: int, ratio: int) -> None:
    """The direction and the index are the scene's own."""
    rng = np.random.default_rng(bands)
    shape = (20, 22)
    response = Response(ratio, Psf(1.0))
    before = rng.uniform(0.05, 0.4, (bands, *(side * ratio for side in shape))).astype(np.float32)
    guide = before * np.float32(0.8)
    functions = ColourFunctions.of(before)
    zeros = np.zeros((functions.count, 1))
    candidates = Candidates(
        np.full(bands, bands**-0.5), SpilledImages(np.zeros((4 * (bands + 1), *shape), np.float32)),
        (ScenePattern(functions, zeros, zeros), np.zeros(shape, np.float32)),
    )  # fmt: skip
    low, blurred = response.down(before), response.down(guide)
    data = SeasonData(
        SpilledImages(before), guide, low, blurred, blurred, np.ones(shape), np.full(bands, 1e-5), candidates, response
    )
    features = SeasonFrame.of(data).features(data, (slice(0, 20), slice(0, 22)))
    assert features.shape[1:] == before.shape[1:]
    assert np.isfinite(features).all()
    assert np.isfinite(refined_season(data)).all()


def _some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work on a small scene as on a large one."""
    monkeypatch.setattr(relation, "_LARGE_PX", 10_000)
    monkeypatch.setattr(relation, "_BLOCK_PX", 32)
    monkeypatch.setattr(relation, "_BLOCK_PIXELS", 8192)
    monkeypatch.setattr(choice, "_SOME_PIXELS", 100)
    monkeypatch.setattr(choice, "_ROWS", 24)
    monkeypatch.setattr(season, "_SAMPLE", 5000)
    monkeypatch.setattr(season, "_BLOCK_PX", 60)
    monkeypatch.setattr(pattern, "_SAMPLE", 5000)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_spilled_is_the_same(overwrite: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = _turned()
    kept = gather_evidence(coarse_of(pair), pair.msi.copy(), RESPONSE, overwrite=overwrite)
    monkeypatch.setattr(choice, "_SOME_PIXELS", 100)
    rows = gather_evidence(coarse_of(pair), pair.msi.copy(), RESPONSE, overwrite=overwrite)
    monkeypatch.setattr(spilled, "_WORTH_BYTES", 0)
    found = gather_evidence(coarse_of(pair), pair.msi.copy(), RESPONSE, overwrite=overwrite)
    assert found[0].corrections > 0
    np.testing.assert_array_equal(found[1], rows[1])
    np.testing.assert_array_equal(found[0].blurred, rows[0].blurred)
    np.testing.assert_allclose(found[1], kept[1], atol=2e-6)


def test_a_guide_that_must_not_be_written_to_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spilled, "_WORTH_BYTES", 0)
    pair = _turned()
    given, taken = pair.msi.copy(), pair.msi.copy()
    _, guide = gather_evidence(coarse_of(pair), given, RESPONSE)
    np.testing.assert_array_equal(given, pair.msi)
    _, other = gather_evidence(coarse_of(pair), taken, RESPONSE, overwrite=True)
    assert other is taken
    np.testing.assert_array_equal(other, guide)


def test_a_large_scene_with_a_season_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guide as it was, candidates and relations that nobody needed any more took half as much once more."""
    _some_rows_at_a_time(monkeypatch)
    monkeypatch.setattr(spilled, "_WORTH_BYTES", 0)
    pair = make_pair((240, 180), noise=0.002, change=SEASON)
    coarse, guide = coarse_of(pair), pair.msi.copy()
    tracemalloc.start()
    try:
        found, _ = gather_evidence(coarse, guide, RESPONSE, overwrite=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.corrections > 0
    assert peak < 90 * guide[0].size
