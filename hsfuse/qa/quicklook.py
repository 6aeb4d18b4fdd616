"""Quicklooks: small pictures of big cubes, and close-ups of one detail before and after.

Bands are picked by wavelength, images are read decimated (block by block, so memory follows the picture and not
the scene), contrast is stretched between percentiles of valid pixels, and nodata is transparent.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hsfuse.errors import UsageError
from hsfuse.grid import Slice2D
from hsfuse.qa.sources import ImageSource
from hsfuse.qa.style import PNG_LEVEL

Rgba = NDArray[np.uint8]
Limits = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class ColourComposite:
    """A colour composite: wavelengths for red, green and blue.

    Attributes
    ----------
    key, title
        File name part and heading.
    wanted_nm
        Wavelength for red, green, blue.
    tolerance_nm
        How far each band may be from its wavelength.
    caption
        What the picture shows, for people who do not read false colours daily.
    """

    key: str
    title: str
    wanted_nm: tuple[float, float, float]
    tolerance_nm: float
    caption: str


COMPOSITES: tuple[ColourComposite, ...] = (
    ColourComposite("true_colour", "True colour", (665.0, 560.0, 490.0), 30.0, "As the eye sees it."),
    ColourComposite("false_colour", "Near infrared", (850.0, 665.0, 560.0), 45.0, "Vegetation is red, water dark."),
    ColourComposite(
        "swir",
        "Shortwave infrared",
        (2200.0, 1610.0, 850.0),
        70.0,
        "Bare soil is yellow to brown, buildings grey, vegetation blue, water black.",
    ),
)


@dataclass(frozen=True)
class Picture:
    """A picture ready to be written.

    Attributes
    ----------
    key, title, caption
        File name part, heading and explanation.
    rgba
        Shape (row, col, 4), transparent where there is no data.
    bands_nm
        Band centres shown as red, green, blue.
    limits
        Reflectance shown as black and as full colour, per channel.
    """

    key: str
    title: str
    caption: str
    rgba: Rgba
    bands_nm: tuple[float, ...]
    limits: Limits


def pick_bands(
    centre_nm: NDArray[np.floating[Any]], wanted_nm: Sequence[float], tolerance_nm: float
) -> tuple[int, ...] | None:
    """Index of the band nearest to each wavelength, or None where one of them has no band near enough."""
    centre = np.asarray(centre_nm, dtype=np.float64)
    index = [int(np.abs(centre - wanted).argmin()) for wanted in wanted_nm]
    near = all(abs(centre[i] - wanted) <= tolerance_nm for i, wanted in zip(index, wanted_nm, strict=True))
    return tuple(index) if near else None


def fit_shape(shape: tuple[int, int], max_side_px: int) -> tuple[int, int]:
    """Shrink a shape so that its longer side is at most ``max_side_px``; never enlarge it."""
    factor = max(1.0, max(shape) / max_side_px)
    return max(1, round(shape[0] / factor)), max(1, round(shape[1] / factor))


def stretch_limits(cube: NDArray[np.floating[Any]], low: float = 1.0, high: float = 99.0) -> Limits:
    """Percentiles of the valid samples of each band; (0, 1) where a band has none."""
    limits = []
    for band in cube:
        values = band[np.isfinite(band)]
        bottom, top = (float(v) for v in np.percentile(values, [low, high])) if values.size else (0.0, 1.0)
        limits.append((bottom, top if top > bottom else bottom + 1e-6))
    return tuple(limits)


def to_rgba(cube: NDArray[np.floating[Any]], limits: Limits | None = None, gamma: float = 0.85) -> Rgba:
    """Turn three bands (or one, for grey) into colours.

    Parameters
    ----------
    cube
        Shape (3 or 1, row, col), NaN where there is no data.
    limits
        Values shown as 0 and 255 per band; default: :func:`stretch_limits`.
    gamma
        Exponent after stretching; below 1 lifts dark tones.

    Returns
    -------
    numpy.ndarray
        uint8, shape (row, col, 4); alpha is 0 where any band has no data.
    """
    if cube.shape[0] not in (1, 3):
        raise UsageError(f"A picture needs one or three bands, not {cube.shape[0]}.")
    limits = limits or stretch_limits(cube)
    present = np.isfinite(cube).all(axis=0)
    rgba = np.zeros((*cube.shape[1:], 4), dtype=np.uint8)
    for channel in range(3):
        source = min(channel, cube.shape[0] - 1)
        low, high = limits[source]
        unit = np.clip((np.where(present, cube[source], low) - low) / (high - low), 0.0, 1.0)
        rgba[..., channel] = np.where(present, np.round(255.0 * unit**gamma), 0)
    rgba[..., 3] = np.where(present, 255, 0)
    return rgba


def encode_png(rgba: Rgba, *, enlarge: int = 1) -> bytes:
    """Encode a picture as PNG, each pixel drawn as a square of ``enlarge`` x ``enlarge``."""
    from matplotlib.image import imsave

    image = np.repeat(np.repeat(rgba, enlarge, axis=0), enlarge, axis=1) if enlarge > 1 else rgba
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(image), format="png", pil_kwargs={"compress_level": PNG_LEVEL})
    return buffer.getvalue()


def composites(source: ImageSource, *, max_side_px: int = 640) -> tuple[Picture, ...]:
    """Make true-colour, near-infrared and shortwave-infrared pictures of the whole cube.

    Composites whose wavelengths the cube does not hold are left out, and so is everything when no pixel is valid.
    """
    picked = [(each, pick_bands(source.centre_nm, each.wanted_nm, each.tolerance_nm)) for each in COMPOSITES]
    # Read once, what several pictures show.
    bands = sorted({band for _, some in picked for band in some or ()})
    if not bands:
        return ()
    whole = Slice2D(0, source.shape[0], 0, source.shape[1])
    shown = source.read(bands, whole, fit_shape(source.shape, max_side_px))
    pictures = []
    for composite, some in picked:
        cube = None if some is None else shown[[bands.index(band) for band in some]]
        if some is None or cube is None or not np.isfinite(cube).all(axis=0).any():
            continue
        limits = stretch_limits(cube)
        shown_nm = tuple(float(source.centre_nm[band]) for band in some)
        rgba = to_rgba(cube, limits)
        pictures.append(Picture(composite.key, composite.title, composite.caption, rgba, shown_nm, limits))
    return tuple(pictures)


def detail_window(image: NDArray[np.floating[Any]], side_px: int) -> Slice2D | None:
    """Find the window of highest local contrast that is valid nearly throughout.

    Parameters
    ----------
    image
        One band, shape (row, col), NaN where there is no data.
    side_px
        Side of the window (smaller where the image is smaller).

    Returns
    -------
    Slice2D or None
        None when no window is at least nine tenths valid.
    """
    rows, cols = min(side_px, image.shape[0]), min(side_px, image.shape[1])
    present = np.isfinite(image)
    filled = np.where(present, image, np.float64(0.0))
    # Gradients next to a masked pixel are edges of the mask, not of the ground.
    solid = ndimage.minimum_filter(present.astype(np.uint8), 3, mode="nearest").astype(bool)
    gradient = np.hypot(ndimage.sobel(filled, axis=0, mode="nearest"), ndimage.sobel(filled, axis=1, mode="nearest"))
    known = gradient[solid]
    if known.size == 0:
        return None
    # Capped, so that one glittering roof does not outweigh a whole pattern of fields and streets.
    gradient = np.where(solid, np.minimum(gradient, np.percentile(known, 98.0)), 0.0)
    contrast, share = _window_sums(gradient, rows, cols), _window_sums(present.astype(np.float64), rows, cols)
    contrast = np.where(share >= 0.9 * rows * cols, contrast, -1.0)
    row, col = (int(i) for i in np.unravel_index(int(contrast.argmax()), contrast.shape))
    return Slice2D(row, row + rows, col, col + cols) if contrast[row, col] >= 0 else None


def _window_sums(values: NDArray[np.float64], rows: int, cols: int) -> NDArray[np.float64]:
    """Sum over every window of ``rows`` x ``cols``, indexed by its upper-left corner (integral image)."""
    table = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    table[1:, 1:] = values.cumsum(axis=0).cumsum(axis=1)
    sums: NDArray[np.float64] = (
        table[rows:, cols:] - table[:-rows, cols:] - table[rows:, :-cols] + table[:-rows, :-cols]
    )
    return sums


@dataclass(frozen=True)
class DetailPair:
    """One detail before and after fusion, in the same colours.

    Attributes
    ----------
    title
        Name of the composite.
    block
        The detail in hyperspectral pixels.
    before, after
        Shape (row, col, 4), both in fused pixels (hyperspectral pixels are repeated, not interpolated).
    bands_nm
        Band centres shown as red, green, blue.
    """

    title: str
    block: Slice2D
    before: Rgba
    after: Rgba
    bands_nm: tuple[float, ...]


def detail_pairs(
    before: ImageSource, after: ImageSource, ratio: int, *, side_px: int = 48, search_side_px: int = 1200
) -> tuple[DetailPair, ...]:
    """Cut out the detail of highest contrast before and after fusion, in each composite.

    Parameters
    ----------
    before
        The hyperspectral image on the grid that nests the fused one.
    after
        The fused cube, ``ratio`` times finer, with the same bands.
    ratio
        Pixel size ratio.
    side_px
        Side of the detail in hyperspectral pixels.
    search_side_px
        The search works on the fused image shrunk to this side.
    """
    if (before.shape[0] * ratio, before.shape[1] * ratio) != after.shape:
        raise UsageError(f"The images before {before.shape} and after {after.shape} do not nest {ratio} to 1.")
    block = _find_detail(after, ratio, side_px, search_side_px)
    if block is None:
        return ()
    pairs = []
    for composite in COMPOSITES:
        coarse_bands = pick_bands(before.centre_nm, composite.wanted_nm, composite.tolerance_nm)
        fine_bands = pick_bands(after.centre_nm, composite.wanted_nm, composite.tolerance_nm)
        if coarse_bands is None or fine_bands is None:
            continue
        coarse, fine = before.read(coarse_bands, block), after.read(fine_bands, block.scaled(ratio))
        limits = stretch_limits(fine, 0.5, 99.5)
        enlarged = np.repeat(np.repeat(to_rgba(coarse, limits), ratio, axis=0), ratio, axis=1)
        shown_nm = tuple(float(after.centre_nm[i]) for i in fine_bands)
        pairs.append(DetailPair(composite.title, block, enlarged, to_rgba(fine, limits), shown_nm))
    return tuple(pairs)


def _find_detail(after: ImageSource, ratio: int, side_px: int, search_side_px: int) -> Slice2D | None:
    rows, cols = after.shape[0] // ratio, after.shape[1] // ratio
    band = int(np.abs(after.centre_nm - 665.0).argmin())
    shape = fit_shape(after.shape, search_side_px)
    small = after.read([band], Slice2D(0, after.shape[0], 0, after.shape[1]), shape)[0]
    shrink = after.shape[0] / shape[0]
    found = detail_window(small, max(4, round(side_px * ratio / shrink)))
    if found is None:
        return None
    row0 = min(round(found.row0 * shrink / ratio), max(rows - side_px, 0))
    col0 = min(round(found.col0 * shrink / ratio), max(cols - side_px, 0))
    return Slice2D(row0, min(row0 + side_px, rows), col0, min(col0 + side_px, cols))


@dataclass(frozen=True)
class AlignmentView:
    """The same ground in the reference and in the hyperspectral image, before and after co-registration.

    Attributes
    ----------
    reference, before, after
        Shape (row, col, 4), on one grid.
    caption
        What is shown (bands, pixel size).
    """

    reference: Rgba
    before: Rgba
    after: Rgba
    caption: str


def alignment_view(
    reference: NDArray[np.floating[Any]],
    before: NDArray[np.floating[Any]],
    after: NDArray[np.floating[Any]],
    *,
    caption: str = "",
) -> AlignmentView:
    """Bring three views of one detail to comparable contrast.

    Parameters
    ----------
    reference
        Multispectral image, shape (3 or 1, row, col), NaN where there is no data.
    before
        Hyperspectral image at its claimed position, on the same grid.
    after
        Hyperspectral image at its corrected position, on the same grid.
    caption
        What is shown.

    Notes
    -----
    The two hyperspectral views share one stretch; the reference has its own, because two sensors on two days
    differ in brightness and the eye should compare shapes only. A cloud that only the reference shows may be white: it
    does not leave the ground in the dark.
    """
    if not reference.shape == before.shape == after.shape:
        raise UsageError("The three views of the alignment differ in shape.")
    shared = stretch_limits(np.concatenate([before, after], axis=1))
    own = tuple(
        (low, max(min(top, _same_reach(band, hsi, limit[1])), low + 1e-6))
        for (low, top), band, hsi, limit in zip(stretch_limits(reference), reference, after, shared, strict=True)
    )
    return AlignmentView(to_rgba(reference, own), to_rgba(before, shared), to_rgba(after, shared), caption)


def _same_reach(band: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]], top: float) -> float:
    """Value of a band that lies as far above its median as ``top`` does in another one, in units of their quartiles."""
    quartiles = [np.percentile(x[np.isfinite(x)], [25, 50, 75]) for x in (band, other) if np.isfinite(x).any()]
    if len(quartiles) < 2:
        return float("inf")
    (low, middle, high), (other_low, other_middle, other_high) = quartiles
    if other_high <= other_low:
        return float("inf")
    return float(middle + (top - other_middle) * (high - low) / (other_high - other_low))
