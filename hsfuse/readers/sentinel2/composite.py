"""Sentinel-2 images of several dates as one: clear where any date is clear, without seams.

The date that fits the hyperspectral image best covers the others where it is clear; the next ones fill its clouds, its
shadows and what its granules leave open. Each further date is joined radiometrically to those before it (a robust gain
and offset for each band), and the dates fade into each other over 200 m.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import HsfuseError
from hsfuse.grid import Grid, Slice2D
from hsfuse.log import get_logger
from hsfuse.masks import BoolArray
from hsfuse.readers.base import FloatCube, MultispectralProduct, ProductInfo
from hsfuse.readers.sentinel2.joining import Join, join
from hsfuse.readers.sentinel2.mosaic import Sentinel2Mosaic
from hsfuse.readers.sentinel2.partner_date import PartnerDate
from hsfuse.readers.sentinel2.points import HIDDEN
from hsfuse.readers.sentinel2.weights import FULL, LEAST, DateWeights, shares
from hsfuse.readers.source_dates import SourceDate
from hsfuse.spectral import SpectralResponse

_log = get_logger(__name__)

_STRIP_ROWS = 64
_JOIN_FACTOR = 16
"""Gain and offset are found on means over cells of so many pixels; fewer in small images."""
_JOIN_CELLS = 48
_WELL_INSIDE = 100
"""Least weight of every pixel of such a cell, a third of the fading away from clouds, where there are enough."""
_NEVER_CLEAR = 0.005


@dataclass(frozen=True)
class DateImage:
    """The tiles of one date on the grid that all dates share, and what is known about the date."""

    image: Sentinel2Mosaic
    facts: SourceDate


class Sentinel2Composite(MultispectralProduct):
    """Images of several dates that behave like one product.

    Parameters
    ----------
    dates
        Used dates on one grid, with the same level and bands, the one that covers the others first; closed with this.
    others
        Dates that are not used, for reports.
    weights
        Weights of the dates where they are known already.
    partners
        Images on the same grid that may be combined with this one, each with its place among ``dates``; those without
        a place are closed with this image.

    Notes
    -----
    Reading is safe from several threads. A date is read only where it shows.
    """

    def __init__(
        self, dates: Sequence[DateImage], others: Sequence[SourceDate] = (), *, weights: DateWeights | None = None,
        partners: Sequence[tuple[Sentinel2Mosaic, int | None]] = (),
    ) -> None:  # fmt: skip
        self._dates = tuple(dates)
        self._others = tuple(others)
        self._base = self._dates[0].image
        self._weights = weights or DateWeights([date.image for date in self._dates], self._base.grid)
        self._partners = tuple(PartnerDate(image, self._weights, number) for image, number in partners)
        self._found: tuple[Join, ...] | None = None
        self._lock = threading.Lock()
        self._info = self._describe()

    @property
    def info(self) -> ProductInfo:
        """Facts about the image: time, sun and level of the date that fits best; all dates are in ``attributes``."""
        return self._info

    @property
    def grid(self) -> Grid:
        """Grid of all dates."""
        return self._base.grid

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands in reading order."""
        return self._base.band_names

    @property
    def responses(self) -> tuple[SpectralResponse, ...]:
        """Spectral responses of the date that fits best."""
        return self._base.responses

    @property
    def offers_band_choice(self) -> bool:
        """True: 10 m bands, or the 20 m bands too."""
        return True

    @property
    def sources(self) -> tuple[Path, ...]:
        """Paths of the products that are used."""
        images = (*(date.image for date in self._dates), *self._partners)
        return tuple(dict.fromkeys(path for image in images for path in image.sources))

    @property
    def partners(self) -> tuple[PartnerDate, ...]:
        """Further dates on the grid, hidden where they are what this image shows."""
        return self._partners

    @property
    def dates(self) -> tuple[SourceDate, ...]:
        """All dates, the used ones first and in the order in which they cover each other.

        Gains and offsets are known as soon as the image was read.
        """
        found = self._found or (None,) * len(self._dates)
        used = [
            date.facts if line is None else replace(
                date.facts, gain=tuple(map(float, line.gain)), offset=tuple(map(float, line.offset)),
                joined_cells=line.cells,
            )
            for date, line in zip(self._dates, found, strict=True)
        ]  # fmt: skip
        return (*used, *self._others)

    def _describe(self) -> ProductInfo:
        info = self._base.info
        used = [date.facts for date in self._dates]
        names = [name for facts in used for name in facts.products]
        warnings = list(dict.fromkeys(text for date in self._dates for text in date.image.info.warnings))
        never = 1.0 - sum(facts.used for facts in used)
        if never > _NEVER_CLEAR:
            many = f"any of the {len(used) + len(self._others)} dates"
            warnings.append(f"{100 * never:.1f} % of the footprint is not clear in {many} that were looked at.")
        more = f" and {len(names) - 1} more of {len(used)} dates" if len(used) > 1 else ""
        return replace(
            info,
            name=f"{names[0]}{more}" if more else info.name,
            sensor=" + ".join(sorted({facts.sensor for facts in used})),
            attributes=dict(info.attributes) | {"dates": [facts.to_json() for facts in (*used, *self._others)]},
            warnings=tuple(warnings),
        )

    def swir_reference(self) -> Sentinel2Composite:
        """Open the same dates with their SWIR bands; the caller closes it, before this image."""
        opened: list[DateImage] = []
        try:
            for date in self._dates:
                opened.append(replace(date, image=date.image.swir_reference()))  # noqa: PERF401 - kept for closing
            return Sentinel2Composite(opened, self._others, weights=self._weights)
        except HsfuseError:
            for date in opened:
                date.image.close()
            raise

    # ------------------------------------------------------------------ reading

    def read(self, block: Slice2D, bands: Sequence[int] | None = None) -> FloatCube:
        """Read reflectance joined to that of the date that fits best, shape (band, row, col), NaN without data.

        Where no date is clear, the first one with data is shown, which :meth:`cloud` tells.
        """
        wanted = range(len(self.band_names)) if bands is None else list(bands)
        cube = np.empty((len(wanted), *block.shape), np.float32)
        for row0 in range(block.row0, block.row1, _STRIP_ROWS):
            rows = Slice2D(row0, min(row0 + _STRIP_ROWS, block.row1), block.col0, block.col1)
            cube[:, rows.row0 - block.row0 : rows.row1 - block.row0] = self._read_rows(rows, wanted)
        return cube

    def _read_rows(self, rows: Slice2D, bands: Sequence[int]) -> FloatCube:
        weights = self._weights.read(rows)
        if (weights[0] == FULL).all():
            return self._base.read(rows, bands)
        joins = self._joins()
        total = np.zeros((len(bands), *rows.shape), np.float32)
        known = np.zeros_like(total)
        for number, share in enumerate(shares(weights)):
            part = _extent(share > 0, rows)
            if part is None:
                continue
            values = self._joined(number, part, bands, joins)
            target = (slice(None), slice(part.row0 - rows.row0, part.row1 - rows.row0),
                      slice(part.col0 - rows.col0, part.col1 - rows.col0))  # fmt: skip
            measured = np.isfinite(values)
            found = share[target[1:]] * measured
            values[~measured] = 0.0
            total[target] += found * values
            known[target] += found
        empty = known <= 0
        np.divide(total, known, out=total, where=~empty)
        total[empty] = np.nan
        return total

    def _joined(self, number: int, part: Slice2D, bands: Sequence[int], joins: Sequence[Join]) -> FloatCube:
        values = self._dates[number].image.read(part, bands)
        if number == 0:
            return values
        chosen = list(bands)
        gain, offset = joins[number].gain[chosen].astype(np.float32), joins[number].offset[chosen].astype(np.float32)
        return np.asarray(values * gain[:, None, None] + offset[:, None, None], dtype=np.float32)

    def cloud(self, block: Slice2D) -> BoolArray:
        """Pixels that no date with data shows clear, shape (row, col)."""
        return np.asarray(self._weights.read(block).max(axis=0) == HIDDEN, dtype=np.bool_)

    def classes(self, block: Slice2D) -> NDArray[np.uint8] | None:
        """Scene classes of the date that shows most of a pixel, shape (row, col), 0 without data; None for L1C."""
        if any(date.image.info.attributes.get("cloud_mask") != "SCL" for date in self._dates):
            return None
        out = np.zeros(block.shape, np.uint8)
        shown = self._shown(block)
        for number, date in enumerate(self._dates):
            part = _extent(shown == number + 1, block)
            if part is None:
                continue
            found = date.image.classes(part)
            if found is None:
                continue
            target = (slice(part.row0 - block.row0, part.row1 - block.row0),
                      slice(part.col0 - block.col0, part.col1 - block.col0))  # fmt: skip
            np.copyto(out[target], found, where=shown[target] == number + 1)
        return out

    def date_numbers(self, block: Slice2D) -> NDArray[np.uint8]:
        """Which of :attr:`dates` shows most of a pixel, counted from 1, shape (row, col); 0: none is clear there."""
        shown = self._shown(block)
        shown[self._weights.read(block).max(axis=0) <= HIDDEN] = 0
        return shown

    def _shown(self, block: Slice2D) -> NDArray[np.uint8]:
        """Date with the largest share, counted from 1; 0 without data."""
        weights = self._weights.read(block)
        out = np.zeros(block.shape, np.uint8)
        for top in range(0, block.shape[0], _STRIP_ROWS):
            largest = np.zeros(weights[0, top : top + _STRIP_ROWS].shape, np.float32)
            for number, share in enumerate(shares(weights[:, top : top + _STRIP_ROWS]), start=1):
                more = share > largest
                out[top : top + _STRIP_ROWS][more] = number
                np.maximum(largest, share, out=largest)
        return out

    def read_ahead(self, block: Slice2D, bands: Sequence[int] | None = None) -> None:
        """Begin to decode what will be read soon of the date that covers the others."""
        self._base.read_ahead(block, bands)

    # ------------------------------------------------------------------ radiometry

    def _joins(self) -> tuple[Join, ...]:
        """Gain and offset of every date, found once, when they are first needed."""
        with self._lock:
            if self._found is None:
                self._found = self._find_joins()
            return self._found

    def _find_joins(self) -> tuple[Join, ...]:
        factor = _JOIN_FACTOR
        while factor > 2 and factor * _JOIN_CELLS > min(self.grid.shape):
            factor //= 2
        rows, cols = (side // factor * factor for side in self.grid.shape)
        block = Slice2D(0, rows, 0, cols)
        least = self._least_weights(block, factor)
        joined, found = self._overview(0, block, factor, least), [Join.none(len(self.band_names))]
        inside = least[0].ravel()
        for number, date in enumerate(self._dates[1:], start=1):
            values, own = self._overview(number, block, factor, least), least[number].ravel()
            line = join(np.where(np.minimum(own, inside) >= _WELL_INSIDE, values, np.nan), joined)
            if line.cells == 0:
                line = join(values, joined)
            if line.cells == 0:
                _log.warning(
                    "%s shows too little clear ground in common with the dates before it: its brightness is kept.",
                    ", ".join(date.facts.products),
                )  # fmt: skip
            found.append(line)
            better = own > inside
            np.copyto(joined, values * line.gain[:, None] + line.offset[:, None], where=better)
            inside = np.maximum(own, inside)
        return tuple(found)

    def _overview(self, number: int, block: Slice2D, factor: int, least: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Means over cells that a date shows clear, shape (band, cell); NaN elsewhere."""
        view = self._dates[number].image.read_overview(block, factor).astype(np.float64)
        view[:, least[number] < LEAST] = np.nan
        return view.reshape(len(view), -1)

    def _least_weights(self, block: Slice2D, factor: int) -> NDArray[np.uint8]:
        """Least weight of the pixels of each cell, shape (date, row, col)."""
        rows, cols = block.shape[0] // factor, block.shape[1] // factor
        out = np.zeros((len(self._dates), rows, cols), np.uint8)
        for row0 in range(0, rows, lines := max(1, _STRIP_ROWS // factor)):
            row1 = min(row0 + lines, rows)
            weights = self._weights.read(Slice2D(row0 * factor, row1 * factor, 0, cols * factor))
            cells = weights.reshape(len(out), row1 - row0, factor, cols, factor)
            out[:, row0:row1] = cells.min(axis=(2, 4))
        return out

    # ------------------------------------------------------------------ end

    def close(self) -> None:
        """Close all dates."""
        for image in (*(date.image for date in self._dates), *self._partners):
            image.close()


def _extent(mask: BoolArray, block: Slice2D) -> Slice2D | None:
    """Smallest block around the marked pixels of a block; None without any."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return Slice2D(
        block.row0 + int(rows[0]), block.row0 + int(rows[-1]) + 1,
        block.col0 + int(cols[0]), block.col0 + int(cols[-1]) + 1,
    )  # fmt: skip
