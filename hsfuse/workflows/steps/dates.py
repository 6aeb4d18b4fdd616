"""Which date of the multispectral archive each pixel of a cube shows: the map beside it, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Slice2D
from hsfuse.qa.dates import DatesView
from hsfuse.readers.base import MultispectralProduct
from hsfuse.writers import DATE_MAP, LayerBand, WriteOptions, write_layer

if TYPE_CHECKING:
    from hsfuse.inference.scene import FusionScene

NODATA = -32768
_MOST_DAYS = 32_000
_VIEW_PX = 900


def with_date_map(options: WriteOptions, msi: MultispectralProduct) -> WriteOptions:
    """Add the date map to an output whose multispectral image is composed of several dates."""
    return replace(options, layers=(*options.layers, DATE_MAP)) if _composed(msi) else options


def date_map_writer(scene: FusionScene) -> Mapping[str, Callable[[Path], None]]:
    """Return what writes the date map of a scene, by the layer's key; nothing for one date."""
    return {DATE_MAP.key: partial(_write, scene=scene)} if _composed(scene.msi) else {}


def dates_summary(msi: MultispectralProduct) -> dict[str, Any]:
    """Entry of the run's summary; nothing for one date."""
    return {"dates": [source.to_json() for source in msi.dates]} if _composed(msi) else {}


def dates_view(scene: FusionScene, partners: Sequence[Mapping[str, Any]] = ()) -> DatesView | None:
    """Thin the date map out to the size of a picture; None for one date. ``partners`` tell what became of them."""
    if not _composed(scene.msi):
        return None
    fine = scene.fine_grid
    step = max(-(-max(fine.shape) // _VIEW_PX), 1)
    rows = [_numbers(scene, Slice2D(row, row + 1, 0, fine.width))[0, ::step] for row in range(0, fine.height, step)]
    refused = tuple(p["days_apart"] for p in partners if not p["used"] and p["days_apart"] is not None)
    return DatesView(np.stack(rows), scene.msi.dates, refused)


def _composed(msi: MultispectralProduct) -> bool:
    return bool(msi.dates)


def _numbers(scene: FusionScene, block: Slice2D) -> NDArray[np.uint8]:
    """Number of the date of fine pixels, shape (row, col)."""
    at = scene.msi_block
    wanted = Slice2D(block.row0 + at.row0, block.row1 + at.row0, block.col0 + at.col0, block.col1 + at.col0)
    out = np.zeros(block.shape, np.uint8)
    inside = wanted.clipped(*scene.msi.grid.shape)
    if min(inside.shape) > 0:
        target = Slice2D(
            inside.row0 - wanted.row0, inside.row1 - wanted.row0, inside.col0 - wanted.col0, inside.col1 - wanted.col0
        )
        out[target.slices] = scene.msi.date_numbers(inside)
    return out


def _write(path: Path, *, scene: FusionScene) -> None:
    dates = scene.msi.dates
    apart = [0 if source.days_apart is None else round(source.days_apart) for source in dates]
    days = np.array([NODATA, *np.clip(apart, -_MOST_DAYS, _MOST_DAYS)], np.int16)
    words = "; ".join(
        f"{number}: {source.label} {', '.join(source.products)}"
        for number, source in enumerate(dates, start=1)
        if source.used > 0
    )

    def samples(block: Slice2D) -> NDArray[np.int16]:
        numbers = _numbers(scene, block)
        out = np.stack([numbers.astype(np.int16), days[numbers]])
        out[:, numbers == 0] = NODATA
        return out

    bands = [LayerBand("date", words)]
    if all(source.days_apart is not None for source in dates):
        bands.append(LayerBand("days after the hyperspectral image"))
    write_layer(path, DATE_MAP, scene.fine_grid, lambda block: samples(block)[: len(bands)], bands, NODATA)
