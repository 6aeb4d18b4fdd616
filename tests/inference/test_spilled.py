"""Images in a nameless file are read back as they were, and stay in memory where the disk is full."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest

from hsfuse.grid import Slice2D
from hsfuse.inference import spilled
from hsfuse.inference.spilled import SpilledImages

IMAGES = np.random.default_rng(0).random((3, 40, 50), np.float32)
IMAGES[1, 3:5, 7] = np.nan


@pytest.mark.parametrize("place", ["disk", "memory", "full disk"])
def test_blocks_are_read_as_they_were(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    def full(**_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(spilled, "_WORTH_BYTES", 1 << 30 if place == "memory" else 0)
    if place == "full disk":
        monkeypatch.setattr(tempfile, "TemporaryFile", full)
    images = SpilledImages(IMAGES.copy())
    assert images.shape == IMAGES.shape
    for block in (Slice2D(0, 40, 0, 50), Slice2D(3, 17, 5, 9), Slice2D(39, 40, 0, 50)):
        np.testing.assert_array_equal(images.read(block, [2, 1]), IMAGES[[2, 1], *block.slices])
    whole = images.image(1)
    np.testing.assert_array_equal(whole, IMAGES[1])
    whole[:] = 0.0
    np.testing.assert_array_equal(images.image(1), IMAGES[1])
