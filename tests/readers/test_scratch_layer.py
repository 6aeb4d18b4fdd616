"""Decoded blocks are kept: what comes out is the image, and no block is decoded twice."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from hsfuse.grid import Slice2D
from hsfuse.readers.sentinel2 import scratch
from hsfuse.readers.sentinel2.scratch import ScratchLayer


class Image:
    """Stands in for a slow dataset and counts what is read from it."""

    driver = "JP2OpenJPEG"

    def __init__(self, height: int, width: int, block: tuple[int, int]) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 60000, (height, width)).astype(np.uint16)
        self.shape, self.block_shapes, self.dtypes = (height, width), [block], ["uint16"]
        self.read_samples = 0

    def read(self, _: int, *, window: Any) -> np.ndarray:
        rows, cols = window.toslices()
        self.read_samples += (rows.stop - rows.start) * (cols.stop - cols.start)
        return self.pixels[rows, cols]


BLOCKS = [Slice2D(0, 5, 0, 100), Slice2D(30, 70, 10, 90), Slice2D(63, 64, 99, 100), Slice2D(0, 97, 0, 100)]


@pytest.fixture
def image() -> Image:
    return Image(97, 100, (32, 64))


@pytest.fixture
def layer(image: Image) -> Iterator[ScratchLayer]:
    made = ScratchLayer(image)  # type: ignore[arg-type]
    yield made
    made.close()


def check(layer: ScratchLayer, image: Image) -> None:
    for block in BLOCKS:
        np.testing.assert_array_equal(layer.read(image, block), image.pixels[block.slices])  # type: ignore[arg-type]


def test_every_block_is_decoded_once(image: Image, layer: ScratchLayer) -> None:
    check(layer, image)
    check(layer, image)
    assert image.read_samples == 97 * 100
    layer.close()
    check(layer, image)


def test_what_was_prepared_is_not_decoded_again(image: Image, layer: ScratchLayer) -> None:
    for i, j in layer.blocks(Slice2D(0, 97, 0, 100)):
        layer.prepare(image, i, j)  # type: ignore[arg-type]
        layer.prepare(image, i, j)  # type: ignore[arg-type]
    check(layer, image)
    assert image.read_samples == 97 * 100


def test_threads_share_the_work(layer: ScratchLayer) -> None:
    images = [Image(97, 100, (32, 64)) for _ in range(6)]

    def work(number: int) -> None:
        image = images[number]
        if number % 2:
            check(layer, image)
        else:
            for i, j in layer.blocks(Slice2D(0, 97, 0, 100)):
                layer.prepare(image, i, j)  # type: ignore[arg-type]

    with ThreadPoolExecutor(len(images)) as pool:
        for done in [pool.submit(work, number) for number in range(len(images))]:
            done.result()
    assert sum(image.read_samples for image in images) == 97 * 100


def test_who_waited_for_a_thread_that_failed_decodes_himself(image: Image, layer: ScratchLayer) -> None:
    begun, failing = threading.Event(), threading.Event()

    class Broken(Image):
        def read(self, _: int, *, window: Any) -> np.ndarray:
            begun.set()
            failing.wait(10)
            raise OSError("broken")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(layer.prepare, Broken(97, 100, (32, 64)), 0, 0)  # type: ignore[arg-type]
        begun.wait(10)
        second = pool.submit(layer.read, image, BLOCKS[0])  # type: ignore[arg-type]
        failing.set()
        np.testing.assert_array_equal(second.result(), image.pixels[BLOCKS[0].slices])
        with pytest.raises(OSError, match="broken"):
            first.result()
    check(layer, image)


def test_only_touched_blocks_are_decoded(image: Image, layer: ScratchLayer) -> None:
    layer.read(image, Slice2D(33, 35, 3, 60))  # type: ignore[arg-type]
    assert image.read_samples == 32 * 64


def test_a_full_disk_costs_time_only(image: Image, layer: ScratchLayer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(scratch.os, "pwrite", full)
    check(layer, image)


def test_images_without_tiles_are_left_to_gdal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_MAX_BLOCK_BYTES", 1000)
    image = Image(97, 100, (97, 100))
    layer = ScratchLayer(image)  # type: ignore[arg-type]
    check(layer, image)
    assert image.read_samples == sum(b.shape[0] * b.shape[1] for b in BLOCKS)
