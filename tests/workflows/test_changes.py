"""What the search for changes makes of a run's settings."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from hsfuse.config import RunConfig
from hsfuse.degrade import Psf
from hsfuse.errors import OverlapError
from hsfuse.resources import Resources
from hsfuse.spectral import BandTable
from hsfuse.workflows.steps.array_scene import array_scene
from hsfuse.workflows.steps.changes import repaired_scene

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
