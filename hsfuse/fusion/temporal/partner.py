"""A partner brought to where and how the guide sees the ground, and combined with it, in strips of bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import NO_OFFSET, Offset
from hsfuse.fusion.guide_noise import GuideSample, guide_noise
from hsfuse.fusion.temporal.combination import REACH_PX as COMBINED_PX
from hsfuse.fusion.temporal.combination import ChangeDirections, Combined, combine
from hsfuse.fusion.temporal.displacement import REACH_PX as MOVED_PX
from hsfuse.fusion.temporal.displacement import displaced, find_displacement, noise_left
from hsfuse.fusion.temporal.joining import CELL_PX, OVERVIEW_PX, Join
from hsfuse.parallel import side_by_side

FloatCube = NDArray[np.float32]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
ReadRows = Callable[[slice], FloatCube]
"""Reads full-width rows of a partner, shape (band, row, col), NaN where it does not show the ground clearly."""

_STRIP_PX = 16 * CELL_PX
_COMBINED_STRIP_PX = 4 * CELL_PX
"""Rows that are combined at a time: a dozen images of them are held by every thread."""
_LEAST_CLEAR_PX = 200
"""Means over 2 x 2 pixels that both images must show for a join."""
_UNRELATED = 0.5
"""Typical squared difference of a joined partner from the guide, over that of the guide from its median, above which
both show different places or seasons: on 11 tuning cubes the same ground months later stands at 0.03 to 0.28, another
place at 0.76 and more, at 0.27 in one with little but sand and water."""
_SAMPLES = 400_000
_WINDOW_PX, _WINDOWS = 192, 3
"""Side of the windows that a displacement is found in, and how many of them lie along each side of the scene."""


@dataclass(frozen=True)
class JoinedPartner:
    """A partner as the guide would show it.

    Attributes
    ----------
    read
        Reads it as it is.
    join
        Radiometry.
    offset_px
        How far (row, col) what the guide shows lies from there in the partner, towards larger index, pixels.
    noise
        Of the joined partner, variance, shape (band,).
    shown
        Share of the guide's usable pixels that it shows clearly.
    height
        Rows of the image.
    """

    read: ReadRows
    join: Join
    offset_px: Offset
    noise: FloatArray
    shown: float
    height: int

    def rows(self, part: slice) -> FloatCube:
        """Return joined rows, shape (band, row, col), NaN where they are not clear."""
        above = part.start % CELL_PX
        reach = 0 if self.offset_px == NO_OFFSET else MOVED_PX
        first, last = max(part.start - reach, 0), min(part.stop + reach, self.height)
        cube = self.read(slice(first, last))
        if reach:
            # NaN spreads over all that a gap would have a part in.
            cube = displaced(cube, self.offset_px)[:, part.start - first : part.stop - first]
        padded = cube if above == 0 else np.pad(cube, ((0, 0), (above, 0), (0, 0)))
        return self.join.apply(padded, part.start - above)[:, above:]


def join_partner(
    guide: FloatCube, usable: BoolArray, noise: FloatArray, read: ReadRows
) -> JoinedPartner | None:  # fmt: skip
    """Find how a partner is joined to a guide, and its noise.

    Parameters
    ----------
    guide
        Shape (band, row, col), finite.
    usable
        Where it shows the ground, shape (row, col).
    noise
        Variance of its noise, shape (band,): the partner's too where that cannot be measured, by the same sensor.
    read
        Reads the partner, on the same pixels.

    Returns
    -------
    JoinedPartner or None
        None where both show too little of the same ground.
    """
    overview = [_overviews(guide[:, rows], usable[rows], read(rows)) for rows in _strips(guide.shape[1])]
    ours, theirs = (np.concatenate([part[i] for part in overview], axis=1) for i in (0, 1))
    clear = np.concatenate([part[2] for part in overview])
    del overview
    if clear.sum() < _LEAST_CLEAR_PX:
        return None
    join = Join.find(ours, theirs, clear)
    if _unexplained(join, ours, theirs, clear) > _UNRELATED:
        return None
    del ours, theirs
    shown = float(np.count_nonzero(clear)) * OVERVIEW_PX**2 / max(int(usable.sum()), 1)
    samples = [_noise_sample(read(rows)) for rows in _chosen_strips(guide.shape[1])]
    measured = guide_noise([sample for sample in samples if sample is not None])
    variance = noise if measured is None else measured**2
    placed = JoinedPartner(read, join, NO_OFFSET, np.zeros(len(guide)), min(shown, 1.0), guide.shape[1])
    offset = find_displacement([
        (np.where(usable[rows, cols], guide[:, rows, cols], np.float32(np.nan)), placed.rows(rows)[:, :, cols])
        for rows, cols in displacement_windows(guide.shape[1:])
    ])  # fmt: skip
    joined_noise = (join.scene[:-1] ** 2).T @ variance * (1.0 if offset == NO_OFFSET else noise_left(offset))
    return JoinedPartner(read, join, offset, joined_noise, placed.shown, guide.shape[1])


def combine_partner(
    guide: FloatCube, usable: BoolArray, level: FloatCube, noise: FloatArray, partner: JoinedPartner, threads: int
) -> None:
    """Combine a guide with a joined partner, both in place.

    Parameters
    ----------
    guide
        Shape (band, row, col), finite; becomes the combined guide.
    usable
        Where it shows the ground, shape (row, col); the rest stays as it is.
    level
        Variance of the guide's noise over what it was as it came, shape (row, col); becomes that of the combined one.
    noise
        Variance of the guide's noise as it came, shape (band,).
    partner
        To be combined.
    threads
        How many work side by side; nothing depends on it.
    """
    height = guide.shape[1]
    directions = _directions(guide, usable, noise, partner)

    def one(rows: slice) -> tuple[slice, Combined]:
        wide = slice(max(rows.start - COMBINED_PX, 0), min(rows.stop + COMBINED_PX, height))
        joined = partner.rows(wide)
        joined[:, ~usable[wide]] = np.nan
        found = combine(guide[:, wide], joined, level[wide], directions)
        inside = slice(rows.start - wide.start, rows.stop - wide.start)
        return rows, Combined(found.guide[:, inside], found.level[inside])

    waiting: list[tuple[slice, Combined]] = []
    for made in side_by_side(one, _strips(height, _COMBINED_STRIP_PX), threads):
        waiting.append(made)
        # A strip looks at its neighbours as they were: what lies above the last two is not looked at any more.
        while len(waiting) > 2:
            _write(guide, level, *waiting.pop(0))
    for made in waiting:
        _write(guide, level, *made)


def _write(guide: FloatCube, level: FloatCube, rows: slice, found: Combined) -> None:
    guide[:, rows], level[rows] = found.guide, found.level


def _directions(guide: FloatCube, usable: BoolArray, noise: FloatArray, partner: JoinedPartner) -> ChangeDirections:
    step = max(int(usable.sum()) // _SAMPLES, 1)
    parts = []
    for rows in _strips(guide.shape[1]):
        joined = partner.rows(rows)
        clear = usable[rows] & np.isfinite(joined).all(axis=0)
        parts.append((joined - guide[:, rows])[:, clear][:, ::step].astype(np.float64))
    return ChangeDirections.find(np.concatenate(parts, axis=1), noise, partner.noise)


def _strips(height: int, rows: int = _STRIP_PX) -> Iterator[slice]:
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _chosen_strips(height: int) -> list[slice]:
    strips = list(_strips(height))
    return [strips[i] for i in np.unique(np.linspace(0, len(strips) - 1, 3).round().astype(int))]


def displacement_windows(shape: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Places of the windows of a displacement."""
    rows, cols = (
        sorted({int(first) for first in np.linspace(0, max(size - _WINDOW_PX, 0), _WINDOWS).round()}) for size in shape
    )
    for top in rows:
        for left in cols:
            yield slice(top, min(top + _WINDOW_PX, shape[0])), slice(left, min(left + _WINDOW_PX, shape[1]))


def _overviews(guide: FloatCube, usable: BoolArray, partner: FloatCube) -> tuple[FloatCube, FloatCube, BoolArray]:
    """Means over 2 x 2 pixels of both images, and where all of these are clear."""
    clear = usable & np.isfinite(partner).all(axis=0)
    more = tuple((0, -size % OVERVIEW_PX) for size in clear.shape)
    rows, cols = (-(-size // OVERVIEW_PX) for size in clear.shape)

    def cells(image: NDArray[np.generic]) -> NDArray[np.generic]:
        whole = np.pad(image, ((0, 0),) * (image.ndim - 2) + more)
        return whole.reshape(*image.shape[:-2], rows, OVERVIEW_PX, cols, OVERVIEW_PX)

    filled = np.where(clear, partner, np.float32(0.0))
    ours, theirs = (np.asarray(cells(image).mean(axis=(-3, -1)), np.float32) for image in (guide, filled))
    return ours, theirs, np.asarray(cells(clear).all(axis=(-3, -1)), np.bool_)


def _unexplained(join: Join, guide: FloatCube, partner: FloatCube, clear: BoolArray) -> float:
    """Typical squared difference after the scene's regression, over that from the median, mean over the bands."""
    step = max(int(np.count_nonzero(clear)) // _SAMPLES, 1)
    known, design = (image[:, clear][:, ::step].astype(np.float64) for image in (guide, partner))
    left = known - join.scene[:-1].T @ design - join.scene[-1][:, None]
    around = known - np.median(known, axis=1, keepdims=True)
    share = np.median(left**2, axis=1) / np.maximum(np.median(around**2, axis=1), 1e-16)
    return float(share.mean())


def _noise_sample(partner: FloatCube) -> GuideSample | None:
    clear = np.asarray(np.isfinite(partner).all(axis=0), np.bool_)
    return GuideSample.take(np.nan_to_num(partner), clear) if clear.any() else None
