"""Images in a nameless file are read back as they were, and stay in memory where the disk is full."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hsfuse import spilled
from hsfuse.grid import Slice2D
from hsfuse.spilled import SpilledImages

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


@pytest.mark.parametrize("worth", [0, 1 << 30])
def test_a_copy_stays_as_it_was(monkeypatch: pytest.MonkeyPatch, worth: int) -> None:
    monkeypatch.setattr(spilled, "_WORTH_BYTES", worth)
    pixels = IMAGES.copy()
    images = SpilledImages.copy_of(pixels)
    pixels[:] = 0.0
    np.testing.assert_array_equal(images.read(images.whole), IMAGES)


@pytest.mark.parametrize("full_after", [None, 0, 4])
@pytest.mark.parametrize("worth", [0, 1 << 30])
def test_rows_come_one_after_another(monkeypatch: pytest.MonkeyPatch, worth: int, full_after: int | None) -> None:
    """Where the disk is full before all are there, those that are there are kept too."""
    monkeypatch.setattr(spilled, "_WORTH_BYTES", worth)
    written: list[int] = []
    write = spilled.write_at

    def until_full(handle: int, array: NDArray[np.float32], offset: int) -> None:
        if full_after is not None and len(written) >= full_after:
            raise OSError("no space left on device")
        written.append(offset)
        write(handle, array, offset)

    monkeypatch.setattr(spilled, "write_at", until_full)
    images = SpilledImages.to_be_written((3, 40, 50))
    for rows in (slice(0, 15), slice(15, 30), slice(30, 40)):
        images.write(Slice2D.of(rows, slice(0, 50)), IMAGES[:, rows])
    np.testing.assert_array_equal(images.read(images.whole), IMAGES)
    np.testing.assert_array_equal(images.read(Slice2D(13, 31, 4, 50), [2]), IMAGES[[2], 13:31, 4:])


@pytest.mark.parametrize("worth", [0, 1 << 30])
def test_blocks_that_nobody_wrote_are_zeros(monkeypatch: pytest.MonkeyPatch, worth: int) -> None:
    monkeypatch.setattr(spilled, "_WORTH_BYTES", worth)
    images, wanted = SpilledImages.to_be_written((3, 40, 50)), np.zeros_like(IMAGES)
    for block in (Slice2D(5, 20, 7, 31), Slice2D(20, 24, 0, 50), Slice2D(30, 39, 44, 50)):
        images.write(block, IMAGES[:, *block.slices])
        wanted[:, *block.slices] = IMAGES[:, *block.slices]
    np.testing.assert_array_equal(images.read(images.whole), wanted)


def test_nothing_is_left_of_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(spilled, "_WORTH_BYTES", 0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    images = SpilledImages(IMAGES)
    assert not list(tmp_path.iterdir())
    np.testing.assert_array_equal(images.image(0), IMAGES[0])
