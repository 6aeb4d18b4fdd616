"""What is looked at some rows after the others is the same as looked at in one: no seam, no thread shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pair_support import make_pair, repaired_guide
from scipy.ndimage import gaussian_filter

from hsfuse import spilled
from hsfuse.fusion.change import decision, quick_estimate
from hsfuse.fusion.change.quick_estimate import QuickEstimate
from hsfuse.fusion.change.typical_spectra import TypicalSpectra
from hsfuse.fusion.classical.statistics import Subspace
from hsfuse.fusion.scene_model import contradiction, relation
from hsfuse.fusion.scene_model.contradiction import Contradiction, displacement_px
from hsfuse.fusion.scene_model.pair import CoarsePair, GuideRelation
from hsfuse.fusion.scene_model.relation import first_weights, relate
from hsfuse.native import spectra
from hsfuse.native.build import OVERRIDE
from hsfuse.spilled import SpilledImages

_SHAPE = (67, 45)


def _pair(shape: tuple[int, int] = _SHAPE, bands: int = 4) -> tuple[CoarsePair, np.ndarray]:
    """A pair whose guide lies a tenth of a pixel off, and shows something else in one place."""
    rng = np.random.default_rng(3)
    components = gaussian_filter(rng.normal(size=(6, *shape)), (0, 1, 1)).astype(np.float32) * 40.0
    guide = 0.2 + 0.01 * np.tensordot(rng.uniform(size=(bands, 6)), components, axes=1)
    predicted = guide.astype(np.float32)
    guide = guide + 0.1 * np.gradient(guide, axis=2) + 1e-3 * rng.normal(size=guide.shape)
    guide[:, 20:26, 10:18] += 0.4
    valid = np.ones(shape, bool)
    valid[:3] = valid[40:44, 30:] = False
    return CoarsePair(components, predicted, np.eye(6), valid, rim=~valid), guide


def _found(pair: CoarsePair, guide: np.ndarray, told: GuideRelation) -> Contradiction:
    return Contradiction.find(told, guide, pair.valid, pair.rim)


@pytest.mark.parametrize("rows", [5, 64])
def test_contradictions_do_not_depend_on_how_many_rows_are_looked_at(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, guide = _pair()
    told = relate(pair, guide)
    monkeypatch.setattr(contradiction, "_ROWS", _SHAPE[0])
    whole, apart = _found(pair, guide, told), displacement_px(told, guide, pair.valid)
    monkeypatch.setattr(contradiction, "_ROWS", rows)
    parts = _found(pair, guide, told)
    assert whole.candidates[22, 14]
    assert 0.0 < apart == displacement_px(told, guide, pair.valid) == parts.displacement_px
    np.testing.assert_array_equal(parts.candidates, whole.candidates)
    np.testing.assert_array_equal(parts.rivalry, whole.rivalry)
    np.testing.assert_array_equal(parts.misfit, whole.misfit)


def test_first_weights_do_not_depend_on_how_many_pixels_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, guide = _pair((400, 320))
    whole = first_weights(pair, guide)
    monkeypatch.setattr(relation, "_PART_PX", 1 << 13)
    parts = first_weights(pair, guide, threads=2)
    assert whole is not None
    assert parts is not None
    np.testing.assert_array_equal(parts, whole)
    assert whole[22, 14] < 0.1 < np.median(whole)


def test_inconsistency_does_not_depend_on_how_many_rows_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, guide = _pair()
    back = np.random.default_rng(4).normal(size=(20, 6))
    space = Subspace(np.ones(20), np.linalg.pinv(back), back, np.full(20, 0.01))
    estimate = QuickEstimate.of(pair, guide, space)
    shown = guide + 1e-2 * np.random.default_rng(5).normal(size=guide.shape)
    monkeypatch.setattr(quick_estimate, "_PART_ROWS", _SHAPE[0])
    whole = estimate.inconsistency(guide, shown)
    monkeypatch.setattr(quick_estimate, "_PART_ROWS", 6)
    np.testing.assert_array_equal(estimate.inconsistency(guide, shown), whole)


@pytest.mark.parametrize("shape", [(3, 5), (40, 33)])
@pytest.mark.parametrize("directions", [1, 6, 17])
def test_compiled_and_plain_rareness_agree(
    shape: tuple[int, int], directions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if spectra.KERNELS.library() is None:
        pytest.skip("there is no compiled path here")
    rng = np.random.default_rng(directions)
    scale = np.geomspace(1.0, 0.02, directions)[:, None]
    typical = TypicalSpectra.of(scale * rng.normal(size=(directions, 900)))
    images = (1.5 * scale * rng.normal(size=(directions, shape[0] * shape[1]))).astype(np.float32)
    fast = typical.rareness(images.reshape(directions, *shape))
    monkeypatch.setenv(OVERRIDE, "off")
    np.testing.assert_allclose(fast, typical.rareness(images.reshape(directions, *shape)), rtol=0.0, atol=1e-4)


def test_images_that_are_spilled_side_by_side_come_back_in_their_places(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(spilled, "_WORTH_BYTES", 1)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    pixels = np.random.default_rng(6).random((7, 13, 11), np.float32)
    images = SpilledImages(pixels)
    for index, wanted in enumerate(pixels):
        np.testing.assert_array_equal(images.image(index), wanted)


def test_the_network_looks_at_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a block's images were 170 MB in every thread."""
    pair = make_pair((30, 36), change=lambda clean: np.where(np.arange(108) < 40, clean[:, ::-1], clean))
    whole = repaired_guide(pair)
    assert whole.share > 0.05
    monkeypatch.setattr(decision, "_ROWS", 7)
    parts = repaired_guide(pair)
    np.testing.assert_allclose(parts.msi, whole.msi, atol=1e-5)
    np.testing.assert_allclose(parts.change, whole.change, atol=1e-4)
