"""One call of a method: some tiles of a strip of equal shape, cut out, padded, fused and trimmed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import MemoryBudgetError
from hsfuse.fusion.base import FusionMethod
from hsfuse.grid import Slice2D
from hsfuse.inference.scene import SceneStrip
from hsfuse.inference.statistics import FusionStatistics
from hsfuse.inference.tiling import Tile, TilePlan
from hsfuse.log import get_logger

if TYPE_CHECKING:
    import torch

_log = get_logger(__name__)

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


def fuse_batch(
    method: FusionMethod,
    tiles: Sequence[Tile],
    strip: SceneStrip,
    ratio: int,
    device: str,
    multiple: int,
    statistics: FusionStatistics,
) -> list[FloatCube] | None:
    """Fuse some tiles of equal shape; None when the batch was too large and has been halved."""
    import torch

    try:
        with torch.inference_mode():
            hsi = torch.stack(
                [torch.from_numpy(strip.hsi[(slice(None), *local_block(t.read, strip).slices)]) for t in tiles]
            )
            msi = torch.stack(
                [
                    torch.from_numpy(strip.msi[(slice(None), *local_block(t.read, strip).scaled(ratio).slices)])
                    for t in tiles
                ]
            )
            hsi, msi = _pad(hsi, multiple, 1), _pad(msi, multiple, ratio)
            inner = tiles[0].inner
            if any(tile.inner != inner for tile in tiles):
                inner = Slice2D(0, tiles[0].read.shape[0], 0, tiles[0].read.shape[1])
            fused = method.fuse_window(hsi.to(device), msi.to(device), inner.slices)
            results: list[FloatCube] = []
            for tile, one in zip(tiles, fused, strict=True):
                wanted = tile.inner
                part = Slice2D(
                    wanted.row0 - inner.row0, wanted.row1 - inner.row0,
                    wanted.col0 - inner.col0, wanted.col1 - inner.col0,
                ).scaled(ratio)  # fmt: skip
                results.append(one[(slice(None), *part.slices)].float().cpu().numpy())
            return results
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        if statistics.batch == 1:
            raise MemoryBudgetError(
                f"The GPU ran out of memory on a single tile of {tiles[0].read.shape} HSI pixels.",
                hint="Choose a smaller --tile, a lower --precision, or --device cpu.",
            ) from None
        statistics.batch = max(statistics.batch // 2, 1)
        _log.warning("The GPU ran out of memory; going on with %d tiles at a time.", statistics.batch)
        return None


def _pad(x: torch.Tensor, multiple: int, ratio: int) -> torch.Tensor:
    """Grow the right and lower edge by replication to whole multiples (images smaller than one multiple)."""
    import torch

    step = multiple * ratio
    down, right = -x.shape[-2] % step, -x.shape[-1] % step
    return torch.nn.functional.pad(x, (0, right, 0, down), mode="replicate") if down or right else x
