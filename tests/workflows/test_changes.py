"""What the search for changes makes of a run's settings."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hsfuse.config import RunConfig
from hsfuse.degrade import Psf
from hsfuse.errors import OverlapError
from hsfuse.resources import Resources
from hsfuse.spectral import BandTable
from hsfuse.workflows.steps import confidence
from hsfuse.workflows.steps.array_scene import array_scene
from hsfuse.workflows.steps.changes import change_view, method_sentences, repaired_scene

sys.path.insert(0, str(Path(__file__).parents[1] / "fusion"))
from pair_support import RATIO, make_pair


def test_a_confidence_that_no_pixel_reaches_is_named() -> None:
    pair = make_pair((16, 18))
    scene = array_scene(pair.hsi, pair.msi, BandTable.make(pair.centre_nm), None, RATIO, Psf(1.0), pair.srf)
    config, one = RunConfig(), Resources(threads=1)
    some = repaired_scene(scene, config, one, min_confidence=0.5)
    assert some.scene.area is not None
    assert np.array_equal(some.scene.area, 1.0 - some.change >= 0.5)
    with pytest.raises(OverlapError, match=r"reaches --min-confidence 1: the highest is 0\.9"):
        repaired_scene(scene, config, one, min_confidence=1.0)


def test_confidence_layer_does_not_depend_on_how_many_rows_are_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair((16, 18))
    scene = array_scene(pair.hsi, pair.msi, BandTable.make(pair.centre_nm), None, RATIO, Psf(1.0), pair.srf)
    repair = repaired_scene(scene, RunConfig(), Resources(threads=1))
    seen = repair.seen.copy()
    seen[5:9, 7:20] = False
    repair = replace(repair, seen=seen)
    extrapolated = np.zeros(seen.shape, bool)
    extrapolated[:, :4] = True
    monkeypatch.setattr(confidence, "_extrapolated", lambda prepared: extrapolated)
    prepared: Any = None
    whole = confidence.confidence_layers(prepared, repair)
    monkeypatch.setattr(confidence, "_ROWS", 7)
    np.testing.assert_array_equal(confidence.confidence_layers(prepared, repair), whole)
    assert (whole[:2, ~seen] == confidence.NODATA).all()
    np.testing.assert_array_equal(whole[0, seen], np.rint(repair.change[seen] / confidence.CHANGE_STEP))
    relative = repair.expected_error / np.maximum(repair.brightness, 1e-3)
    np.testing.assert_allclose(whole[1, seen], relative[seen] / confidence.ERROR_STEP, atol=0.51)
    np.testing.assert_array_equal(whole[2] == 3, seen & extrapolated & ~repair.hsi_only)
    np.testing.assert_array_equal(whole[2] == 0, ~seen)


def test_the_report_shows_changes_wherever_the_cube_has_data() -> None:
    pair = make_pair((16, 18))
    msi = pair.msi.copy()
    # Single clouded pixels leave little ground that is clear for all that the HSI's blur looks at.
    msi[:, 4::18, 4::18] = np.nan
    scene = array_scene(pair.hsi, msi, BandTable.make(pair.centre_nm), None, RATIO, Psf(1.0), pair.srf)
    repair = repaired_scene(scene, RunConfig(), Resources(threads=1))
    view = change_view(repair, [f"B{i}" for i in range(len(msi))])
    np.testing.assert_array_equal(view.seen, ~np.isnan(msi).any(axis=0))
    assert view.pictures is not None
    measured = view.seen.reshape(16, RATIO, 18, RATIO).all(axis=(1, 3))
    np.testing.assert_array_equal(np.isfinite(view.pictures).all(axis=(0, 1)), measured)
    assert view.bounds == repair.scene.fine_grid.bounds


def test_a_paper_hears_of_all_that_was_done() -> None:
    changes: dict[str, Any] = {"trusted": True, "changed_share": 0.0803, "local_corrections": 1, "partners": [
        {"name": "S2A", "used": True}, {"name": "S2B", "used": False}]}  # fmt: skip
    method: dict[str, Any] = {"refinement": {"used": "clean"}}
    told = " ".join(method_sentences({"changes": changes, "method": method}))
    assert "combined with S2A where the ground did not change" in told
    assert "S2B" not in told
    assert "ground that differs between the images (8.0 %) was found and repaired" in told
    assert "its colours were corrected for season and sun" in told
    assert "refined: multispectral image denoised by non-local Bayes, maximum a posteriori estimate." in told
    another = method_sentences({"changes": changes | {"trusted": False, "partners": []}, "method": {}})
    assert another == ["The images differ on most of the ground, so the multispectral image had no part in it."]
    assert method_sentences({"method": {"refinement": {"used": "none"}}}) == []
