"""A scene whose guide was filtered before it is cut into tiles: none filters the context of its neighbours again.

What a method does to the guide before anything else (see :class:`hsfuse.fusion.base.GuideFilter`) takes longer than the
rest of a tile, and its context makes small tiles compute their guide several times over. Here it is done in blocks of
fixed size around the pixels that are wanted, when a strip first asks for them, so the result depends on no tile and a
run that is gone on with finds the same bytes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from hsfuse.errors import MemoryBudgetError
from hsfuse.fusion.base import FusionMethod, GuideFilter
from hsfuse.grid import Slice2D
from hsfuse.inference.fill import fill_missing
from hsfuse.inference.scene import FusionScene
from hsfuse.log import get_logger
from hsfuse.masks import expand
from hsfuse.readers.decorator import MultispectralDecorator

_log = get_logger(__name__)

FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_BLOCK_PX, _CARD_BLOCK_PX = (128, 208), (256, 1024)
"""Rows and columns of a block, HSI pixels: wide ones share more of their context, several let threads end together. A
card is given much at a time: without kernels of our own a filter is thousands of small operations."""
_LEAST_ROWS = 16
"""HSI pixels that a card must be able to filter at a time."""
_KEPT_ROWS = 2
"""Rows of blocks that are kept: strips are read from top to bottom."""


def filter_guide(
    scene: FusionScene, method: FusionMethod, workers: int, device: str = "cpu"
) -> tuple[FusionScene, FusionMethod]:
    """Return a scene with a filtered guide and the method for it; both as they are where nothing is to be done first.

    Parameters
    ----------
    scene
        What is fused.
    method
        Fitted.
    workers
        Threads that filter side by side on a processor.
    device
        Torch device that filters.
    """
    first = method.guide_filter()
    if first is None:
        return scene, method
    msi = FilteredMsi(scene, first, around_px=first.method.spec.halo_px, workers=workers, device=device)
    return replace(scene, msi=msi), first.method


class FilteredMsi(MultispectralDecorator):
    """A multispectral product that is filtered under the scene, block by block. Threads may share it.

    Parameters
    ----------
    scene
        Its place, and what is wanted of it.
    first
        What is done to the guide.
    around_px
        HSI pixels around the wanted ones that methods look at.
    workers
        Threads that filter side by side on a processor.
    device
        Torch device that filters; its queue of work is its own, beside that of the fusion.
    """

    def __init__(
        self, scene: FusionScene, first: GuideFilter, *, around_px: int, workers: int, device: str = "cpu"
    ) -> None:
        super().__init__(scene.msi)
        on_card = device != "cpu"
        self._filter, self._workers, self._device = first, 1 if on_card else workers, device
        size = _CARD_BLOCK_PX if on_card else _BLOCK_PX
        self._ratio, self._place, self._shape = scene.ratio, scene.msi_block, scene.grid.shape
        # Pixels that are found to be valid although their centre is not lie next to others.
        wanted = maximum_filter(scene.expected_pixels(), 2 * around_px + 1, mode="constant")
        self._wanted = np.asarray(wanted, dtype=np.bool_)
        self._boxes = dict(_boxes(self._wanted, size))
        self._kept: OrderedDict[tuple[int, int], FloatCube] = OrderedDict()
        # Strips are read by several threads; a block is filtered once.
        self._lock = threading.Lock()
        self._most = _KEPT_ROWS * -(-self._shape[1] // size[1])

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names in reading order: of the filtered bands, and of those as they came where these are wanted too."""
        return self._product.band_names * (2 if self._filter.keeps_raw else 1)

    def read(self, block: Slice2D, bands: Sequence[int] | None = None) -> FloatCube:
        """Cut out a window; what no wanted pixel looks at is as the product has it."""
        if self._filter.keeps_raw:
            raw = self._product.read(block)
            both = np.concatenate([self._filtered_into(raw.copy(), block, list(range(len(raw)))), raw])
            return both if bands is None else both[list(bands)]
        index = list(range(len(self.band_names))) if bands is None else list(bands)
        return self._filtered_into(self._product.read(block, bands), block, index)

    def _filtered_into(self, found: FloatCube, block: Slice2D, index: list[int]) -> FloatCube:
        """Put what was filtered of some bands into a window as the product has it."""
        places = {key: self._on_product(box) for key, box in self._boxes.items()}
        shared = {key: common for key, place in places.items() if (common := place.intersect(block)) is not None}
        with self._lock:
            for key, pixels in self._filtered(list(shared)):
                common = shared[key]
                found[:, *_local(common, block)] = pixels[index][:, *_local(common, places[key])]
        return found

    def _on_product(self, box: Slice2D) -> Slice2D:
        fine, place = box.scaled(self._ratio), self._place
        return Slice2D(
            fine.row0 + place.row0, fine.row1 + place.row0, fine.col0 + place.col0, fine.col1 + place.col0
        )  # fmt: skip

    def _filtered(self, keys: list[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], FloatCube]]:
        """Blocks as they were kept or as they are made now."""
        missing = [key for key in keys if key not in self._kept]
        # The dearest first, so that the threads are done at about the same time.
        missing.sort(key=lambda key: -int(self._wanted[self._boxes[key].slices].sum()))
        made: dict[tuple[int, int], FloatCube] = {}
        if self._workers > 1 and len(missing) > 1:
            # Products are read by one thread at a time.
            inputs = [self._input(self._boxes[key]) for key in missing]
            with ThreadPoolExecutor(self._workers, thread_name_prefix="hsfuse-guide") as pool:
                made = dict(zip(missing, pool.map(self._one, inputs), strict=True))
        else:
            made = {key: self._made(self._boxes[key]) for key in missing}
        for key in keys:
            pixels = made[key] if key in made else self._kept[key]
            self._kept[key] = pixels
            self._kept.move_to_end(key)
            yield key, pixels
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def _made(self, box: Slice2D) -> FloatCube:
        """Filter a block; in halves where the card has too little memory for it.

        Raises
        ------
        MemoryBudgetError
            It has too little for the smallest part.
        """
        import torch

        try:
            return self._one(self._input(box))
        except torch.OutOfMemoryError as error:
            if box.shape[0] < 2 * _LEAST_ROWS:
                raise MemoryBudgetError(
                    f"The GPU ran out of memory on {box.shape[0]} x {box.shape[1]} HSI pixels of the guide.",
                    hint="Choose --device cpu, or let other programs leave the GPU.",
                ) from error
        # Outside the handler: what the failed call had made lives in its frames until then.
        torch.cuda.empty_cache()
        _log.warning("The GPU ran out of memory; it cleans %d rows of the guide in two parts.", box.shape[0])
        middle = box.row0 + box.shape[0] // 2
        halves = replace(box, row1=middle), replace(box, row0=middle)
        return np.concatenate([self._made(half) for half in halves], axis=1)

    def _input(self, box: Slice2D) -> tuple[FloatCube, Slice2D, BoolArray]:
        """What is read for a block, NaN outside the image, where the block lies in it, and what is wanted of that."""
        halo, (height, width) = self._filter.halo_px, self._shape
        wide = Slice2D(box.row0 - halo, box.row1 + halo, box.col0 - halo, box.col1 + halo).clipped(height, width)
        place = self._on_product(wide)
        cube = np.full((len(self._product.band_names), *place.shape), np.nan, np.float32)
        inside = place.clipped(*self.grid.shape)
        if min(inside.shape) > 0:
            cube[:, *_local(inside, place)] = self._product.read(inside)
        inner = Slice2D(
            box.row0 - wide.row0, box.row1 - wide.row0, box.col0 - wide.col0, box.col1 - wide.col0
        )  # fmt: skip
        wanted = np.zeros(wide.shape, bool)
        wanted[inner.slices] = self._wanted[box.slices]
        return cube, inner.scaled(self._ratio), expand(wanted, self._ratio)

    def _one(self, given: tuple[FloatCube, Slice2D, BoolArray]) -> FloatCube:
        import torch

        cube, inner, wanted = given
        core = (slice(None), *inner.slices)
        filled, gaps = fill_missing(cube)
        with torch.inference_mode():
            image = torch.from_numpy(filled)[None].to(self._device)
            pixels = self._filter.apply(image, wanted)[0].cpu().numpy()
        result: FloatCube = np.where(wanted[inner.slices], pixels[core], filled[core])
        result[gaps[core]] = np.nan
        return result


def _boxes(wanted: BoolArray, size: tuple[int, int]) -> Iterator[tuple[tuple[int, int], Slice2D]]:
    """The wanted part of every block of a size that has any, on the HSI's grid."""
    high, wide = size
    for top in range(0, wanted.shape[0], high):
        for left in range(0, wanted.shape[1], wide):
            part = wanted[top : top + high, left : left + wide]
            rows, cols = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
            if rows.size:
                yield (
                    (top, left),
                    Slice2D(top + int(rows[0]), top + int(rows[-1]) + 1, left + int(cols[0]), left + int(cols[-1]) + 1),
                )


def _local(part: Slice2D, whole: Slice2D) -> tuple[slice, slice]:
    top, left = whole.row0, whole.col0
    return slice(part.row0 - top, part.row1 - top), slice(part.col0 - left, part.col1 - left)
