"""Tiles of a layer as PNG: windows where the picture is near, the kept overview where it is far."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Slice2D
from hsfuse.qa.quicklook import Limits, Rgba, stretch_limits, to_rgba
from hsfuse.workflows.view.layers import OVERVIEW_PX, FloatCube, Layer

TILE_PX = 256
_CHANGE_RGB = (213, 94, 0)
_LOW, _HIGH = 2.0, 98.0


def tile_block(level: int, row: int, col: int, shape: tuple[int, int]) -> Slice2D:
    """Pixels of the cube under a tile: ``TILE_PX`` times 2 to the power of ``level`` along each side."""
    side = TILE_PX << level
    return Slice2D(row * side, (row + 1) * side, col * side, (col + 1) * side).clipped(*shape)


def levels_of(shape: tuple[int, int]) -> int:
    """Number of levels until one tile holds everything."""
    level = 0
    while TILE_PX << level < max(shape):
        level += 1
    return level + 1


def limits_of(layer: Layer, bands: Sequence[int]) -> Limits:
    """Reflectance that is shown as black and as full colour, per band."""
    return stretch_limits(layer.overview(bands), _LOW, _HIGH)


def colour_tile(layer: Layer, bands: Sequence[int], block: Slice2D, level: int, limits: Limits) -> bytes:
    """Three bands of a block of the cube's pixels, in the layer's own resolution."""
    return _png(to_rgba(_samples(layer, bands, block, level), limits))


def change_tile(layer: Layer, block: Slice2D, level: int) -> bytes:
    """The probability of change as an orange veil."""
    change = np.nan_to_num(_samples(layer, [0], block, level)[0])
    rgba: Rgba = np.zeros((*change.shape, 4), np.uint8)
    rgba[..., :3] = _CHANGE_RGB
    rgba[..., 3] = np.round(210.0 * np.clip(change, 0.0, 1.0))
    return _png(rgba)


def _png(rgba: Rgba) -> bytes:
    """Encode quickly: the bytes travel inside the computer."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(rgba)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def empty_tile() -> bytes:
    """A transparent pixel."""
    return _png(np.zeros((1, 1, 4), np.uint8))


def _samples(layer: Layer, bands: Sequence[int], block: Slice2D, level: int) -> FloatCube:
    """Samples for the picture of a block; no more of them than are seen."""
    rows, cols = block.shape
    step = 1 << level
    seen = (max(1, -(-rows // step)), max(1, -(-cols // step)))
    factor = max(layer.source.shape) * layer.ratio / OVERVIEW_PX
    if step >= factor:
        return _crop(layer.overview(bands), layer, block, seen)
    if layer.ratio == 1:
        return layer.read(bands, block, seen if level else None)
    ratio = layer.ratio
    coarse = Slice2D(block.row0 // ratio, -(-block.row1 // ratio), block.col0 // ratio, -(-block.col1 // ratio))
    coarse = coarse.clipped(*layer.source.shape)
    if min(coarse.shape) < 1:
        return np.full((len(bands), *seen), np.nan, np.float32)
    own = layer.read(bands, coarse)
    return own[:, _picked(block.row0, block.row1, seen[0], ratio, coarse.row0, own.shape[1])][
        :, :, _picked(block.col0, block.col1, seen[1], ratio, coarse.col0, own.shape[2])
    ]


def _crop(overview: FloatCube, layer: Layer, block: Slice2D, seen: tuple[int, int]) -> FloatCube:
    height, width = (size * layer.ratio for size in layer.source.shape)
    rows = _picked(block.row0, block.row1, seen[0], height / overview.shape[1], 0, overview.shape[1])
    cols = _picked(block.col0, block.col1, seen[1], width / overview.shape[2], 0, overview.shape[2])
    return overview[:, rows][:, :, cols]


def _picked(first: int, last: int, count: int, step: float, offset: int, size: int) -> NDArray[np.int64]:
    """For each seen pixel the sample that lies under its centre; samples are ``step`` pixels of the cube wide."""
    centres = first + (np.arange(count) + 0.5) * (last - first) / count
    return np.clip(np.floor(centres / step).astype(np.int64) - offset, 0, size - 1)
