"""Pure pixels: spots of one surface type, large and even enough to compare spectra before and after fusion.

A pixel of the hyperspectral image may be held against the fused pixels inside it only where its neighbourhood is
even, because its point spread function reaches into the neighbours. The search therefore scores how typical a
pixel is of a surface type (indices of vegetation, water, bare soil and built-up land) times how even the window
around it is, and keeps the best pixels that lie well apart. It reads the scene strip by strip and holds one
candidate per cell of a coarse raster, so memory does not grow with the number of bands or the length of a strip
list.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hsfuse.errors import UsageError
from hsfuse.log import get_logger
from hsfuse.parallel import side_by_side, threads_for

log = get_logger(__name__)

SurfaceKind = Literal["vegetation", "soil", "water", "built-up"]
KINDS: tuple[SurfaceKind, ...] = ("vegetation", "soil", "water", "built-up")

KEY_BANDS_NM: Mapping[str, tuple[float, float]] = {
    "blue": (490.0, 25.0),
    "green": (560.0, 25.0),
    "red": (665.0, 20.0),
    "nir": (850.0, 45.0),
    "swir1": (1610.0, 60.0),
    "swir2": (2200.0, 60.0),
}
"""Wavelength of each plane that the indices use, and how far a band's centre may be from it (nm)."""

FLOOR = 0.004
"""Reflectance below which a ratio says nothing; atmospheric correction leaves values around zero over water."""

DARK_OFFSET = 0.03
"""Added to a mean before dividing by it: the noise of dark planes (water in the infrared) is no unevenness."""
TOLERATED_SPREAD: Mapping[SurfaceKind, float] = {"vegetation": 0.10, "soil": 0.10, "water": 0.10, "built-up": 0.18}
"""Local relative deviation at which evenness falls to 1/e; a town is never as even as a field."""
LOW_PURITY = 0.3
"""Pixels below this purity are shown for want of better ones, but not judged."""
ALIKE = 0.5
"""A pixel looks like a type that it is a member of by more than this."""
NARROW = 0.6
"""Weight of a window of 3 x 3 pixels that is even where the larger one is not."""

FloatPlane = NDArray[np.float64]
_MOST_THREADS = 8


class PixelStrip(NamedTuple):
    """A full-width strip of the hyperspectral image.

    Attributes
    ----------
    row0
        Row of the strip's first line in the image.
    hsi
        Reflectance, shape (band, row, col), NaN where there is no data.
    valid
        Pixels that may be chosen, shape (row, col): inside the footprint and not under cloud.
    detail
        Relative deviation inside each pixel as the multispectral image sees it (:func:`inner_spread`), shape
        (row, col); None when unknown. Without it a town, blurred to an even grey, passes for one surface.
    """

    row0: int
    hsi: NDArray[np.floating[Any]]
    valid: NDArray[np.bool_]
    detail: NDArray[np.floating[Any]] | None = None


@dataclass(frozen=True)
class PurePixel:
    """One pure pixel.

    Attributes
    ----------
    kind
        Surface type.
    row, col
        Position in the hyperspectral (low-resolution) grid.
    purity
        How typical the pixel is of its surface type times how even its neighbourhood is, 0 to 1.
    """

    kind: SurfaceKind
    row: int
    col: int
    purity: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class PurePixelSearch:
    """Outcome of :func:`find_pure_pixels`.

    Attributes
    ----------
    pixels
        Ordered by type (:data:`KINDS`) and falling purity.
    shares
        Share of the valid pixels that look like each type, even or not, 0 to 1; None for types that the bands cannot
        tell apart.
    """

    pixels: tuple[PurePixel, ...]
    shares: Mapping[SurfaceKind, float | None]


def key_bands(centre_nm: NDArray[np.floating[Any]]) -> dict[str, int]:
    """Index of the band for each plane of :data:`KEY_BANDS_NM`; planes without a band near enough are left out."""
    centre = np.asarray(centre_nm, dtype=np.float64)
    found: dict[str, int] = {}
    for name, (wanted, tolerance) in KEY_BANDS_NM.items():
        index = int(np.abs(centre - wanted).argmin())
        if abs(centre[index] - wanted) <= tolerance:
            found[name] = index
    return found


def inner_spread(msi: NDArray[np.floating[Any]], ratio: int) -> NDArray[np.float64]:
    """Relative deviation of the multispectral pixels inside each hyperspectral one.

    Parameters
    ----------
    msi
        Reflectance, shape (msi band, row * ratio, col * ratio), NaN where there is no data.
    ratio
        Pixel size ratio.

    Returns
    -------
    numpy.ndarray
        Standard deviation over mean, averaged over the bands, shape (row, col); NaN where a pixel has no data.
    """
    rows, cols = msi.shape[1] // ratio, msi.shape[2] // ratio
    total = np.zeros((rows, cols))
    # Sums over rows first and then over strided columns: reductions over short axes are many times slower.
    for band in msi:
        cells = np.asarray(band[: rows * ratio, : cols * ratio], dtype=np.float64).reshape(rows, ratio, cols * ratio)
        lines, squares = cells.sum(axis=1), np.square(cells).sum(axis=1)
        mean = sum(lines[:, first::ratio] for first in range(ratio)) / ratio**2
        square = sum(squares[:, first::ratio] for first in range(ratio)) / ratio**2
        deviation = np.sqrt(np.maximum(square - np.square(mean), 0.0))
        total += deviation / (np.abs(mean) + DARK_OFFSET)
    return total / len(msi)


def find_pure_pixels(
    strips: Iterable[PixelStrip | tuple[int, NDArray[Any], NDArray[np.bool_]]],
    centre_nm: NDArray[np.floating[Any]],
    *,
    per_kind: int = 2,
    window_px: int = 5,
    separation_px: int = 20,
    min_purity: float = 0.1,
) -> PurePixelSearch:
    """Find pure pixels of each surface type.

    Parameters
    ----------
    strips
        The image as :class:`PixelStrip` or plain ``(row0, hsi, valid)``, from the top; neighbouring strips are
        joined, so windows may reach across their border. Strips may leave rows out; windows then never reach across
        the gap.
    centre_nm
        Centre wavelength of each band, shape (band,).
    per_kind
        How many pixels of each type are wanted at most.
    window_px
        Side of the neighbourhood (odd, 3 or more) that must be valid throughout and should be even; a pixel with
        an even neighbourhood of only 3 x 3 is offered at a lower purity.
    separation_px
        Least distance between two pixels of one type.
    min_purity
        Pixels below this purity are not offered.

    Returns
    -------
    PurePixelSearch
        Types that the scene does not show, or that the bands cannot tell apart (built-up and soil need the shortwave
        infrared), have no pixels. Nothing at all is found without a red and a near-infrared band.

    Raises
    ------
    UsageError
        The window is even or too small.
    """
    if window_px < 3 or window_px % 2 == 0:
        raise UsageError(f"The window of pure pixels must be odd and at least 3, not {window_px}.")
    bands = key_bands(centre_nm)
    if not {"red", "nir"} <= bands.keys():
        log.warning("No pure pixels: the cube has no band near 665 nm or near 850 nm.")
        return PurePixelSearch((), dict.fromkeys(KINDS))
    cell = max(separation_px // 2, 1)
    best: dict[tuple[SurfaceKind, int, int], PurePixel] = {}
    alike: dict[SurfaceKind, int] = {}
    total = counted_to = 0
    for window in side_by_side(
        partial(_seen, window_px=window_px), _windows(strips, bands, window_px // 2), threads_for(_MOST_THREADS)
    ):
        new = slice(max(counted_to - window.row0, 0), None)
        counted_to = window.row0 + window.valid.shape[0]
        total += int(window.valid[new].sum())
        for kind, (looks, purity) in window.kinds.items():
            alike[kind] = alike.get(kind, 0) + int(looks[new].sum())
            _keep_best(best, kind, purity, window.row0, cell, min_purity)
    chosen: list[PurePixel] = []
    for kind in KINDS:
        candidates = sorted(
            (pixel for pixel in best.values() if pixel.kind == kind), key=lambda p: (-p.purity, p.row, p.col)
        )
        chosen.extend(_spread(candidates, per_kind, separation_px))
    log.debug("pure pixels: %s", ", ".join(f"{p.kind} ({p.row}, {p.col}) {p.purity:.2f}" for p in chosen) or "none")
    shares = {kind: alike[kind] / max(total, 1) if kind in alike else None for kind in KINDS}
    return PurePixelSearch(tuple(chosen), shares)


class _Seen(NamedTuple):
    """For each type: which pixels look like it, and their purity, shapes (row, col)."""

    row0: int
    valid: NDArray[np.bool_]
    kinds: dict[SurfaceKind, tuple[NDArray[np.bool_], FloatPlane]]


def _seen(given: tuple[int, dict[str, FloatPlane], NDArray[np.bool_], FloatPlane | None], window_px: int) -> _Seen:
    row0, planes, valid, detail = given
    inside = ndimage.minimum_filter(valid.astype(np.uint8), window_px, mode="constant", cval=0).astype(bool)
    spread = {side: np.where(inside, _spread_of(planes, valid, side), np.inf) for side in {window_px, 3}}
    kinds: dict[SurfaceKind, tuple[NDArray[np.bool_], FloatPlane]] = {}
    for kind, membership in _memberships(planes).items():
        # A river or a large roof may be no wider than three pixels: good enough where nothing better is.
        evenness = np.maximum(
            _evenness(spread[window_px], kind), (1.0 if window_px == 3 else NARROW) * _evenness(spread[3], kind)
        )
        if detail is not None:
            # Single fine pixels scatter more than the averages that the coarse windows see.
            evenness = evenness * _evenness(detail / 1.5, kind)
        kinds[kind] = (membership > ALIKE) & valid, membership * evenness
    return _Seen(row0, valid, kinds)


def _windows(
    strips: Iterable[PixelStrip | tuple[int, NDArray[Any], NDArray[np.bool_]]], bands: dict[str, int], radius: int
) -> Iterator[tuple[int, dict[str, FloatPlane], NDArray[np.bool_], FloatPlane | None]]:
    """Yield row, index planes, valid mask and worst detail of each strip, with the rows before it put in front.

    Rows whose window is cut by the strip's lower edge come again, whole, at the top of the next strip.
    """
    tail: dict[str, FloatPlane] = {}
    next_row = -1
    for strip in strips:
        strip_row0, hsi, strip_valid, strip_detail = PixelStrip(*strip)
        planes = {name: np.asarray(hsi[index], dtype=np.float64) for name, index in bands.items()}
        valid = np.asarray(strip_valid, dtype=np.bool_).copy()
        for plane in planes.values():
            valid &= np.isfinite(plane)
        if strip_detail is not None:
            planes["detail"] = np.asarray(strip_detail, dtype=np.float64)
            valid &= np.isfinite(planes["detail"])
        planes["valid"] = valid.astype(np.float64)
        row0 = strip_row0
        if tail.keys() == planes.keys() and strip_row0 == next_row:
            row0 -= tail["valid"].shape[0]
            planes = {name: np.concatenate([tail[name], plane]) for name, plane in planes.items()}
        next_row = strip_row0 + hsi.shape[1]
        tail = {name: plane[-2 * radius :] for name, plane in planes.items()}
        valid = planes.pop("valid") > 0
        detail = planes.pop("detail", None)
        if detail is not None:
            # The point spread function reaches into the neighbours, so they count as well.
            detail = ndimage.maximum_filter(np.where(valid, detail, 0.0), 3, mode="nearest")
        yield row0, planes, valid, detail


def _ramp(value: FloatPlane, low: float, high: float) -> FloatPlane:
    """0 below ``low``, 1 above ``high``, linear between (falling when ``low`` > ``high``)."""
    return np.clip((value - low) / (high - low), 0.0, 1.0)


def _difference_index(a: FloatPlane, b: FloatPlane) -> FloatPlane:
    a, b = np.maximum(a, FLOOR), np.maximum(b, FLOOR)
    return (a - b) / (a + b)


def _memberships(planes: dict[str, FloatPlane]) -> dict[SurfaceKind, FloatPlane]:
    """How typical each pixel is of each surface type, 0 to 1.

    Limits follow common practice: NDVI (Rouse 1974) for vegetation, NDWI (McFeeters 1996) with a dark infrared
    for water, and for the two bright, bare types the rise from blue to red (iron makes soils red, concrete and
    asphalt are grey) with NDBI (Zha 2003) where the shortwave infrared exists. Types whose bands are missing are
    left out.
    """
    planes = {name: np.nan_to_num(plane, nan=0.0) for name, plane in planes.items()}
    red, nir = planes["red"], planes["nir"]
    ndvi = _difference_index(nir, red)
    found: dict[SurfaceKind, FloatPlane] = {"vegetation": _ramp(ndvi, 0.5, 0.85) * _ramp(nir, 0.12, 0.25)}
    if "green" not in planes:
        return found
    green = planes["green"]
    darkest = np.maximum(nir, planes["swir1"]) if "swir1" in planes else nir
    found["water"] = _ramp(_difference_index(green, nir), 0.0, 0.45) * _ramp(darkest, 0.08, 0.03)
    if not {"blue", "swir1"} <= planes.keys():
        return found
    blue, swir1 = planes["blue"], planes["swir1"]
    reddening = _difference_index(red, blue)
    ndbi = _difference_index(swir1, nir)
    # Snow and cloud are bright and flat too, but snow is dark in the SWIR and cloud is far brighter than roofs.
    bare = _ramp(ndvi, 0.30, 0.15) * _ramp(_difference_index(green, swir1), 0.2, 0.0) * _ramp(blue, 0.45, 0.30)
    soil = bare * _ramp(reddening, 0.15, 0.32) * _ramp(ndbi, -0.05, 0.08) * _ramp(swir1, 0.12, 0.22)
    built = bare * _ramp(ndvi, 0.25, 0.08) * _ramp(reddening, 0.30, 0.12)
    built = built * _ramp(np.abs(ndbi), 0.25, 0.08) * _ramp(swir1, 0.05, 0.12)
    if "swir2" in planes:
        # Clay and carbonate deepen soils at 2.2 um; roofs and roads stay nearly level.
        built = built * _ramp(planes["swir2"] / np.maximum(swir1, FLOOR), 0.6, 0.85)
    found["soil"] = soil
    found["built-up"] = built
    return found


def _spread_of(planes: dict[str, FloatPlane], valid: NDArray[np.bool_], window_px: int) -> FloatPlane:
    """Local relative deviation, mean over the planes (meaningless where the window is not valid throughout)."""
    spread = np.zeros(valid.shape)
    for plane in planes.values():
        filled = np.where(valid, plane, 0.0)
        mean = ndimage.uniform_filter(filled, window_px, mode="constant")
        square = ndimage.uniform_filter(filled * filled, window_px, mode="constant")
        spread += np.sqrt(np.maximum(square - mean * mean, 0.0)) / (np.abs(mean) + DARK_OFFSET)
    return spread / len(planes)


def _evenness(spread: FloatPlane, kind: SurfaceKind) -> FloatPlane:
    """1 on perfectly even ground, falling with the local deviation."""
    return np.exp(-((spread / TOLERATED_SPREAD[kind]) ** 2))


def _keep_best(
    best: dict[tuple[SurfaceKind, int, int], PurePixel],
    kind: SurfaceKind,
    purity: FloatPlane,
    row0: int,
    cell: int,
    min_purity: float,
) -> None:
    """Put the strip's best pixel of each raster cell into ``best`` where it beats what is there."""
    rows, cols = np.nonzero(purity >= min_purity)
    if rows.size == 0:
        return
    values = purity[rows, cols]
    cell_row, cell_col = (rows + row0) // cell, cols // cell
    order = np.lexsort((cols, rows, -values, cell_col, cell_row))
    first = np.ones(order.size, dtype=bool)
    first[1:] = (np.diff(cell_row[order]) != 0) | (np.diff(cell_col[order]) != 0)
    for i in order[first]:
        key = (kind, int(cell_row[i]), int(cell_col[i]))
        pixel = PurePixel(kind, int(rows[i]) + row0, int(cols[i]), float(values[i]))
        if key not in best or pixel.purity > best[key].purity:
            best[key] = pixel


def _spread(candidates: list[PurePixel], count: int, separation_px: int) -> list[PurePixel]:
    """Take the best candidates that keep their distance from those taken before."""
    taken: list[PurePixel] = []
    for pixel in candidates:
        if len(taken) >= count:
            break
        if all((pixel.row - p.row) ** 2 + (pixel.col - p.col) ** 2 >= separation_px**2 for p in taken):
            taken.append(pixel)
    return taken
