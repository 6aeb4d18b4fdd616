"""Whether an HSI lies whole pixels off its MSI, or shows another place.

The MSI at the HSI's resolution explains the HSI's fine structure where both show the same ground. That share is
compared over all offsets of whole pixels; nothing is interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from hsfuse.degrade.decimation import lowpass_decimate_array
from hsfuse.degrade.psf import Psf
from hsfuse.degrade.psf_estimation import Pair, highpass, places_of

REACH_PX = 4
"""Largest offset that is looked for, HSI pixels."""
_SIDE_PX, _MOST_WINDOWS, _MOST_BANDS = 128, 4, 24
_EDGE_PX = 2
"""As far as the high pass reaches."""
_LEAST_PIXELS = 60
_CALM = 0.75
"""Share of the pixels, those with the least fine structure, that are asked apart from all."""
_CLEAR = 0.5
"""How much the log of the unexplained share has to fall; rivals among other landscapes stay below 0.15."""

_Offset = tuple[int, int]


@dataclass(frozen=True)
class _Window:
    """High-passed images and their usable pixels: shapes (band, row, col), (msi band, row, col), (row, col)."""

    hsi: NDArray[np.float64]
    guide: NDArray[np.float64]
    usable: NDArray[np.bool_]

    def overlapping(self, offset: _Offset) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Pixels that both show when the HSI lies ``offset`` further, shapes (band, pixel) and (msi band, pixel)."""
        before, after = _in_common(offset, self.usable.shape)
        both = self.usable[before] & self.usable[after]
        return self.hsi[:, *before][:, both], self.guide[:, *after][:, both]


def whole_pixel_offset(pair: Pair, ratio: int) -> _Offset:
    """Return how many whole pixels (row, col) the HSI's pixels really lie towards larger index.

    (0, 0) where they lie within a pixel of their place, or where the pair does not tell otherwise beyond doubt.

    Parameters
    ----------
    pair
        HSI (band, row, col), MSI (msi band, row * ratio, col * ratio; NaN where there is none), valid HSI pixels.
    ratio
        HSI pixel size over MSI pixel size.
    """
    misfit = _misfits(_windows(pair, ratio))
    best = min(misfit, key=misfit.__getitem__)
    if not misfit[best] < misfit[0, 0] - _CLEAR:
        return 0, 0
    # What lies nearer to its place than to the next pixel but one is left to the search for blur and shift.
    return best if any(_beyond_a_pixel(misfit, best, axis) for axis in (0, 1)) else (0, 0)


class PlaceMisfit(NamedTuple):
    """How little the MSI explains of the HSI's fine structure: log of the unexplained share, mean over the bands.

    Infinite where too few pixels are usable to tell.

    Attributes
    ----------
    here
        Within a pixel of the HSI's place.
    elsewhere
        The least of all offsets farther off.
    """

    here: float
    elsewhere: float


def place_misfit(pair: Pair, ratio: int) -> PlaceMisfit:
    """Compare how well the MSI explains the HSI at its place with how well it does so elsewhere.

    Parameters are those of :func:`whole_pixel_offset`; bands whose fine structure is noise tell nothing and should be
    left out.
    """
    found = []
    all_pixels = _windows(pair, ratio)
    for windows in (all_pixels, [_calmer(window) for window in all_pixels]):
        misfit = _misfits(windows)
        here = min(value for offset, value in misfit.items() if max(map(abs, offset)) <= 1)
        found.append(PlaceMisfit(here, min(value for offset, value in misfit.items() if max(map(abs, offset)) > 1)))
    # The border of a cloud outweighs all other structure, and where only one image shows it, nothing explains it.
    return min(found)


def _windows(pair: Pair, ratio: int) -> list[_Window]:
    """Cut the windows with the most valid pixels; none where no band has any."""
    hsi, _, valid = pair
    places = places_of(valid, _MOST_WINDOWS)
    alive = np.flatnonzero(np.any([np.isfinite(hsi[:, *_around(place)]).any(axis=(1, 2)) for place in places], axis=0))
    if not alive.size:
        return []
    bands = alive[np.unique(np.linspace(0, alive.size - 1, min(alive.size, _MOST_BANDS)).round().astype(int))]
    return [_window(pair, bands, place, ratio) for place in places]


def _misfits(windows: Sequence[_Window]) -> dict[_Offset, float]:
    steps = range(-REACH_PX, REACH_PX + 1)
    return {(down, across): _misfit(windows, (down, across)) for down in steps for across in steps}


def moved(hsi: NDArray[np.float32], offset: _Offset) -> NDArray[np.float32]:
    """Return an HSI (band, row, col) whose pixels lie at their place, NaN where none lies there."""
    placed = np.full_like(hsi, np.nan)
    before, after = _in_common(offset, hsi.shape[1:])
    placed[:, *after] = hsi[:, *before]
    return placed


def _beyond_a_pixel(misfit: dict[_Offset, float], best: _Offset, axis: int) -> bool:
    along = best[axis]
    if abs(along) != 1:
        return along != 0

    def beside(step: int) -> float:
        place = list(best)
        place[axis] += step
        return misfit.get((place[0], place[1]), np.inf)

    return beside(along) < beside(-along)


def _around(place: _Offset) -> tuple[slice, slice]:
    return slice(place[0], place[0] + _SIDE_PX), slice(place[1], place[1] + _SIDE_PX)


def _in_common(offset: _Offset, shape: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Pixels whose place lies in the image too, and these places."""
    lost = [min(abs(step), size) for step, size in zip(offset, shape, strict=True)]
    before = tuple(
        slice(n if o < 0 else 0, size - n if o > 0 else size) for o, n, size in zip(offset, lost, shape, strict=True)
    )
    after = tuple(
        slice(n if o > 0 else 0, size - n if o < 0 else size) for o, n, size in zip(offset, lost, shape, strict=True)
    )
    return before, after


def _window(pair: Pair, bands: NDArray[np.int64], place: _Offset, ratio: int) -> _Window:
    hsi, msi, valid = pair
    rows, cols = _around(place)
    mask = valid[rows, cols]
    low = np.asarray(hsi[bands, rows, cols], np.float64)
    down, across = (slice(s * ratio, (s + size) * ratio) for s, size in zip(place, mask.shape, strict=True))
    fine = np.asarray(msi[:, down, across], np.float32)
    seen = np.isfinite(fine).all(axis=0).reshape(mask.shape[0], ratio, mask.shape[1], ratio).all(axis=(1, 3))
    usable = binary_erosion(mask & seen & np.isfinite(low).all(axis=0), np.ones((3, 3), bool), iterations=_EDGE_PX)
    guide = lowpass_decimate_array(np.nan_to_num(fine), ratio, Psf(1.0)).astype(np.float64)
    return _Window(highpass(_levelled(np.nan_to_num(low), usable)), highpass(_levelled(guide, usable)), usable)


def _calmer(window: _Window) -> _Window:
    """Leave out the pixels where either image has most fine structure."""
    usable = window.usable.copy()
    for image in (window.hsi, window.guide):
        if window.usable.any():
            energy = (image**2 / np.maximum((image[:, window.usable] ** 2).mean(axis=1), 1e-30)[:, None, None]).sum(
                axis=0
            )
            usable &= energy <= np.quantile(energy[window.usable], _CALM)
    return _Window(window.hsi, window.guide, usable)


def _levelled(image: NDArray[np.float64], usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Cut off what lies beyond an image's usual range by more than its width: a few glints would outweigh the rest."""
    if not usable.any():
        return image
    least, most = (limit[:, None, None] for limit in np.percentile(image[:, usable], (1.0, 99.0), axis=1))
    return np.asarray(np.clip(image, 2.0 * least - most, 2.0 * most - least))


def _misfit(windows: Sequence[_Window], offset: _Offset) -> float:
    """Mean over the bands of log(1 - R2), adjusted for the number of regressors; infinite with too few pixels."""
    if not windows:
        return np.inf
    hsi, guide = (
        np.concatenate(parts, axis=1) for parts in zip(*(w.overlapping(offset) for w in windows), strict=True)
    )
    if hsi.shape[1] < _LEAST_PIXELS:
        return np.inf
    gram, cross = guide @ guide.T, guide @ hsi.T
    gram += 1e-9 * (np.trace(gram) + 1e-30) * np.eye(len(gram))
    explained = (cross * np.linalg.solve(gram, cross)).sum(axis=0) / np.maximum((hsi**2).sum(axis=1), 1e-30)
    adjusted = (1.0 - explained) * hsi.shape[1] / max(hsi.shape[1] - len(guide), 1)
    return float(np.log(np.clip(adjusted, 1e-9, None)).mean())
