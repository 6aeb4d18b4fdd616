"""Tiles of a strip of equal shape as one call of a method: cut out, padded, fused and trimmed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.place import Place, at_places
from hsfuse.grid import Slice2D
from hsfuse.inference.scene_strips import SceneStrip
from hsfuse.inference.statistics import FusionStatistics
from hsfuse.inference.tiling import Tile, TilePlan

if TYPE_CHECKING:
    import torch

FloatCube = NDArray[np.float32]


def tiles_with_data(
    plan: TilePlan, tile_row: int, strip: SceneStrip, ratio: int, statistics: FusionStatistics
) -> list[Tile]:
    """Tiles of a row of the plan that hold a valid pixel; the others are counted as skipped."""
    todo: list[Tile] = []
    for tile in plan.row_of_tiles(tile_row):
        if strip.valid[local_block(tile.blend, strip).scaled(ratio).slices].any():
            todo.append(tile)
        else:
            statistics.skipped += 1
    return todo


def local_block(block: Slice2D, strip: SceneStrip) -> Slice2D:
    """Return where a block of the scene lies in a strip, in HSI pixels."""
    top = strip.rows.row0
    return Slice2D(block.row0 - top, block.row1 - top, block.col0, block.col1)


@dataclass(frozen=True)
class TileBatch:
    """Some tiles of a strip that a method is given together.

    Attributes
    ----------
    tiles
        What is read of them has one shape.
    strip
        Where they lie.
    ratio
        Fine pixels per HSI pixel.
    multiple
        Sides are grown to whole multiples of this many HSI pixels (images smaller than one multiple).
    """

    tiles: tuple[Tile, ...]
    strip: SceneStrip
    ratio: int
    multiple: int

    @property
    def hsi_shape(self) -> tuple[int, int, int, int]:
        """Shape of the HSI's tiles: (tile, band, row, col)."""
        height, width = (side + -side % self.multiple for side in self.tiles[0].read.shape)
        return len(self.tiles), self.strip.hsi.shape[0], height, width

    @property
    def msi_shape(self) -> tuple[int, int, int, int]:
        """Shape of the MSI's tiles: (tile, MSI band, fine row, fine col)."""
        count, _, height, width = self.hsi_shape
        return count, self.strip.msi.shape[0], height * self.ratio, width * self.ratio

    @property
    def window(self) -> Slice2D:
        """Rows and columns that are wanted of every tile: those of its blended block, if they lie alike in all."""
        inner = self.tiles[0].inner
        if any(tile.inner != inner for tile in self.tiles):
            return Slice2D(0, self.tiles[0].read.shape[0], 0, self.tiles[0].read.shape[1])
        return inner

    def fill(self, hsi: NDArray[Any], msi: NDArray[Any]) -> None:
        """Cut the tiles out into arrays of :attr:`hsi_shape` and :attr:`msi_shape`; edges are replicated."""
        for target, image, ratio in ((hsi, self.strip.hsi, 1), (msi, self.strip.msi, self.ratio)):
            for place, tile in zip(target, self.tiles, strict=True):
                part = image[(slice(None), *local_block(tile.read, self.strip).scaled(ratio).slices)]
                height, width = part.shape[1:]
                place[:, :height, :width] = part
                place[:, :height, width:] = part[:, :, -1:]
                place[:, height:] = place[:, height - 1 : height]

    @property
    def places(self) -> tuple[Place, ...]:
        """Where the tiles lie in the scene."""
        return tuple((tile.read.row0, tile.read.col0) for tile in self.tiles)

    def arrays(self) -> tuple[FloatCube, FloatCube]:
        """The tiles in memory of their own."""
        hsi, msi = np.empty(self.hsi_shape, np.float32), np.empty(self.msi_shape, np.float32)
        self.fill(hsi, msi)
        return hsi, msi

    def results(self, fused: NDArray[np.float32]) -> list[FloatCube]:
        """The blended block of each tile, as views of what the method made of :attr:`window`."""
        window = self.window
        found: list[FloatCube] = []
        for tile, one in zip(self.tiles, fused, strict=True):
            wanted = tile.inner
            part = Slice2D(
                wanted.row0 - window.row0, wanted.row1 - window.row0,
                wanted.col0 - window.col0, wanted.col1 - window.col0,
            ).scaled(self.ratio)  # fmt: skip
            found.append(one[(slice(None), *part.slices)])
        return found

    def halves(self) -> tuple[TileBatch, TileBatch]:
        """Two batches of half as many tiles."""
        middle = (len(self.tiles) + 1) // 2
        first, second = self.tiles[:middle], self.tiles[middle:]
        return (
            TileBatch(first, self.strip, self.ratio, self.multiple),
            TileBatch(second, self.strip, self.ratio, self.multiple),
        )


def batches_of(
    tiles: Sequence[Tile], strip: SceneStrip, ratio: int, multiple: int, size: int, *, same_part: bool = False
) -> list[TileBatch]:
    """Gather tiles of equal shape in batches of at most ``size``.

    ``same_part``: only those of which the same part is wanted. Of others everything that is read is fused and copied
    back, which is much where tiles are read to multiples of a side.
    """
    groups: dict[tuple[tuple[int, int], Slice2D | None], list[Tile]] = {}
    for tile in tiles:
        groups.setdefault((tile.read.shape, tile.inner if same_part else None), []).append(tile)
    return [
        TileBatch(tuple(group[first : first + size]), strip, ratio, multiple)
        for group in groups.values()
        for first in range(0, len(group), size)
    ]


def fuse_batch(method: FusionMethod, batch: TileBatch) -> list[FloatCube]:
    """Fuse a batch on the CPU, in the thread that calls."""
    import torch

    with torch.inference_mode():
        hsi, msi = (torch.from_numpy(array) for array in batch.arrays())
        with at_places(batch.places):
            fused: torch.Tensor = method.fuse_window(hsi, msi, batch.window.slices)
        return batch.results(fused.float().numpy())
