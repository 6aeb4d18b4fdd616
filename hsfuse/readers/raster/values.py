"""What the numbers of a raster mean: fill that nobody declared, and the scale to reflectance.

Declared nodata values, masks, scales and offsets come first. What they leave open is decided by a sample of the image
(windows inside it, its corners, lines across it), and every guess is said: numbers that repeat far
outside the rest and cannot be reflectance are fill, and the bright end of the rest tells fractions, per cent and
multiples of ten thousand apart, which lie a factor of a hundred from each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import InputError
from hsfuse.grid import Slice2D

LOWEST_REFLECTANCE = -0.5
"""Below this, a sample is fill: corrections of the atmosphere leave slightly negative values, never such."""
HIGHEST_REFLECTANCE = 2.0
"""Above this, repeated numbers far from all others are fill: glint and snow stay below, or do not repeat."""
BEYOND_REFLECTANCE = 5.0
"""Above this, a sample is fill wherever it lies and however rare it is: even glint stays below."""
HUGE = 1e30
"""Numbers that only fill is made of."""

_WINDOW_PX = 128
_LINES, _MANY_PX = 17, 4_000_000
"""Lines across an image of up to so many pixels; of a larger one, whose tiles take long to decode, three."""
_CORNER_PX = 64
_REPEATED = 8
_GAP = 3.0
"""How far fill lies from the rest, in widths of the rest."""
_SIDES = 4
"""How many fill numbers a band may have at each end."""
_BRIGHT = 0.98
_PERCENT_TOP, _TEN_THOUSAND_TOP, _MILLION_TOP = 200.0, 3e4, 3e6
_DECLARED_TOP = 3.0
_DARKEST = 1e-4
_SCALE_HINT = "Give --scale, --offset and --nodata, or write them into the file, for example with gdal_edit."


@dataclass(frozen=True)
class Meaning:
    """What stored numbers mean.

    Attributes
    ----------
    scale, offset
        From stored numbers to reflectance, float32, for each band of the file.
    fill
        Stored numbers that are fill though nobody declared them.
    zero_is_fill
        Whether pixels that are 0 in all bands are fill.
    warnings
        What was guessed.
    """

    scale: NDArray[np.float32]
    offset: NDArray[np.float32]
    fill: tuple[float, ...]
    zero_is_fill: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Declared:
    """What a file says of its numbers.

    Attributes
    ----------
    scale, offset
        Of each band of the file; ones and zeros where it says nothing.
    has_scale
        Whether it says anything.
    dtypes
        Data types of the bands.
    has_fill
        Whether nodata values, a mask or an alpha band say what is fill.
    by_user
        Whether the user named scale or offset, which leaves nothing to guess.
    """

    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    has_scale: bool
    dtypes: tuple[str, ...]
    has_fill: bool
    by_user: bool = False


@dataclass(frozen=True)
class Sample:
    """Stored numbers of some bands in a part of the image.

    Attributes
    ----------
    bands
        Places of the bands in the file, from 0.
    values
        Stored numbers, float64, shape (band, sample); NaN where the file declares that there are no data.
    empty_corners
        Corners of the image whose pixels are 0 in all bands.
    """

    bands: tuple[int, ...]
    values: NDArray[np.float64]
    empty_corners: int


def windows(height: int, width: int) -> Iterator[Slice2D]:
    """Parts of an image that are looked at: windows inside it, its corners, lines across it from first to last."""
    for row, col in ((0.5, 0.5), (0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)):
        row0 = max(0, min(int(row * height) - _WINDOW_PX // 2, height - _WINDOW_PX))
        col0 = max(0, min(int(col * width) - _WINDOW_PX // 2, width - _WINDOW_PX))
        yield Slice2D(row0, row0 + _WINDOW_PX, col0, col0 + _WINDOW_PX).clipped(height, width)
    yield from corners(height, width)
    count = _LINES if height * width <= _MANY_PX else 3
    for line in np.unique(np.linspace(0, height - 1, count).round().astype(int)).tolist():
        yield Slice2D(line, line + 1, 0, width)


def corners(height: int, width: int) -> Iterator[Slice2D]:
    """Windows in the corners of an image."""
    rows, cols = min(_CORNER_PX, height), min(_CORNER_PX, width)
    for row0 in sorted({0, height - rows}):
        for col0 in sorted({0, width - cols}):
            yield Slice2D(row0, row0 + rows, col0, col0 + cols)


def take_sample(read: Callable[[Slice2D], NDArray[np.float64]], shape: tuple[int, int], bands: Sequence[int]) -> Sample:
    """Gather a sample; ``read`` gives stored numbers of ``bands``, NaN where the file declares no data."""
    parts = [(block, read(block)) for block in windows(*shape)]
    at_corner = {(row, col) for row in (0, shape[0] - 1) for col in (0, shape[1] - 1)}
    empty = set()
    for block, values in parts:
        for row, col in at_corner:
            inside = block.row0 <= row < block.row1 and block.col0 <= col < block.col1
            if inside and np.all(values[:, row - block.row0, col - block.col0] == 0):
                empty.add((row, col))
    return Sample(tuple(bands), np.concatenate([v.reshape(len(v), -1) for _, v in parts], axis=1), len(empty))


def read_meaning(declared: Declared, sample: Sample, name: str, *, strict: bool) -> Meaning:
    """Decide what stored numbers mean.

    Parameters
    ----------
    declared
        What the file says.
    sample
        Part of its numbers.
    name
        What messages call the file.
    strict
        Refuse numbers without a scale that no convention explains (a guide may have any scale, a cube may not).

    Raises
    ------
    InputError
        The scale or the offset cannot be meant, or nothing explains the numbers.
    """
    _check_scale(declared, name)
    places = list(sample.bands)
    values = sample.values.copy()
    values[np.abs(values) >= HUGE] = np.nan
    values, candidates = _without_extremes(values)
    scaled = values * declared.scale[places, None] + declared.offset[places, None]
    bright = _bright(scaled)
    factor, warnings = _factor(declared, bright, name, strict=strict)
    if bright is not None and bright * factor < _DARKEST:
        raise InputError(
            f"{name}: with the scale of {declared.scale[places[0]] * factor:g}, even the brightest pixels have a "
            f"reflectance of {bright * factor:.2g}, so the scale is not the right one.",
            hint=_SCALE_HINT,
        )
    scale = (declared.scale * factor).astype(np.float32)
    offset = (declared.offset * factor).astype(np.float32)
    fill = sorted(
        {
            number
            for place, numbers in zip(places, candidates, strict=True)
            for number in numbers
            if not LOWEST_REFLECTANCE <= number * scale[place] + offset[place] <= HIGHEST_REFLECTANCE
        }
    )
    warnings += _fill_warnings(sample, fill, scale[places], offset[places])
    zero_is_fill = not declared.has_fill
    if declared.has_fill and sample.empty_corners:
        zero_is_fill = True
        warnings.append("Pixels that are 0 in all bands reach the corners of the image: they were taken as fill too.")
    fill += [top for top in _largest_integers(declared.dtypes) if top * scale.max() > HIGHEST_REFLECTANCE]
    return Meaning(scale, offset, tuple(dict.fromkeys(fill)), zero_is_fill, tuple(warnings))


def _check_scale(declared: Declared, name: str) -> None:
    for what, numbers, lowest in (("scale", declared.scale, 0.0), ("offset", declared.offset, -np.inf)):
        wrong = numbers[~np.isfinite(numbers) | (np.abs(numbers) > 1e9) | (numbers <= lowest)]
        if wrong.size:
            raise InputError(
                f"{name}: the file names a {what} of {wrong[0]:g}, which cannot be meant.", hint=_SCALE_HINT
            )


def _without_extremes(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[list[float]]]:
    """Take numbers away that repeat far outside the rest; returns what is left, and the numbers of each band."""
    found: list[list[float]] = []
    for row in values:
        numbers: list[float] = []
        for side in (0, -1):
            for _ in range(_SIDES):
                number = _extreme(row, side)
                if number is None:
                    break
                numbers.append(number)
                row[row == number] = np.nan
        found.append(numbers)
    return values, found


def _extreme(row: NDArray[np.float64], side: int) -> float | None:
    """Return the smallest (side 0) or largest (-1) number when it repeats and lies far from the rest."""
    data = row[np.isfinite(row)]
    if data.size == 0:
        return None
    number = float(data.min() if side == 0 else data.max())
    rest = data[data != number]
    if data.size - rest.size < _REPEATED or rest.size == 0:
        return None
    low, high = np.quantile(rest, (0.01, 0.99))
    gap = low - number if side == 0 else number - high
    return number if gap > _GAP * max(high - low, abs(high) * 1e-3) else None


def _bright(scaled: NDArray[np.float64]) -> float | None:
    """Reflectance of bright pixels in the brightest band; None when nothing is above 0."""
    tops = [float(np.quantile(positive, _BRIGHT)) for row in scaled if (positive := row[row > 0]).size]
    return max(tops) if tops else None


def _factor(declared: Declared, bright: float | None, name: str, *, strict: bool) -> tuple[float, list[str]]:
    """Return the factor that is missing to reflectance, and what is to be said about it."""
    if bright is None or bright <= (_DECLARED_TOP if declared.has_scale else HIGHEST_REFLECTANCE):
        return 1.0, []
    if declared.by_user:
        raise InputError(
            f"{name}: with --scale {declared.scale[0]:g} and --offset {declared.offset[0]:g}, reflectance reaches "
            f"{bright:g}.",
            hint="Reflectance is the stored number times --scale plus --offset, and hardly above 1: integers are often "
            "reflectance x 10000, whose scale is 0.0001.",
        )
    if declared.has_scale:
        if bright <= _PERCENT_TOP:
            return 0.01, [f"With the file's scale, values reach {bright:g}: they were taken as per cent."]
        raise InputError(
            f"{name}: with the scale that the file names ({declared.scale[0]:g}), reflectance reaches {bright:g}, so "
            "the scale is not the right one.",
            hint=_SCALE_HINT,
        )
    whole = all(np.issubdtype(np.dtype(kind), np.integer) for kind in declared.dtypes)
    if set(declared.dtypes) == {"uint8"}:
        factor = 1.0 / 255.0
    elif bright <= _PERCENT_TOP and not whole:
        factor = 0.01
    elif bright <= _TEN_THOUSAND_TOP:
        factor = 1e-4
    elif bright <= _MILLION_TOP and all(np.dtype(kind).itemsize >= 4 for kind in declared.dtypes):
        factor = 1e-6
    elif strict:
        raise InputError(
            f"{name}: values reach {bright:g}, which is no reflectance in any usual scale, and the file names none.",
            hint=_SCALE_HINT,
        )
    else:
        factor = 10.0 ** -np.ceil(np.log10(bright / HIGHEST_REFLECTANCE))
    kind = "integers" if whole else "values"
    times = "in per cent" if factor == 0.01 else f"x {round(1 / factor):d}"
    return factor, [f"The file names no scale; its {kind} (up to {bright:g}) were taken as reflectance {times}."]


def _fill_warnings(
    sample: Sample, fill: Sequence[float], scale: NDArray[np.float32], offset: NDArray[np.float32]
) -> list[str]:
    scaled = sample.values * scale[:, None] + offset[:, None]
    with np.errstate(invalid="ignore"):
        low = (scaled < LOWEST_REFLECTANCE) | (np.abs(sample.values) >= HUGE)
        high = np.isin(sample.values, fill) & (scaled > HIGHEST_REFLECTANCE)
    share = float((low | high).mean())
    if share == 0:
        return []
    numbers = np.unique(sample.values[low | high])
    shown = ", ".join(f"{number:g}" for number in numbers[:3])
    many = f"{shown} and others" if numbers.size > 3 else shown
    return [
        f"Numbers that cannot be reflectance ({many}; {share:.2%} of the samples looked at) were taken as fill, though "
        "the file does not declare them as nodata."
    ]


def _largest_integers(dtypes: Sequence[str]) -> list[float]:
    """Largest numbers of 16 and 32 bits: saturation or fill, the true value is unknown in both cases."""
    kinds = [np.dtype(kind) for kind in dict.fromkeys(dtypes)]
    return [float(np.iinfo(kind).max) for kind in kinds if kind.kind in "iu" and kind.itemsize > 1]
