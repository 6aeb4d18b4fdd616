"""Arrays from somebody's program: what they must be, and what is made of masks and values that are no numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hsfuse.errors import UsageError
from hsfuse.log import get_logger
from hsfuse.spectral import BandTable, SpectralResponse, srf_weights

FloatCube = NDArray[np.float32]
_HIGHEST = 1e9
"""No reflectance, radiance or digital number is larger."""
_FILL = (-99999.0, -32768.0, -9999.0, -999.0)
"""Numbers that files mark nodata with, and nothing measured is: they come along where a mask was not looked at."""
_FAR_BEYOND, _USUAL = 100.0, 0.99
"""Nothing on the ground is so many times brighter than what this share of an image stays below: clouds, glint and fires
are not. A few such values, of dead detectors or of a division by nearly nothing, outweigh all others in every
covariance."""
_SAMPLES = 1_000_000
_log = get_logger(__name__)


def reflectance(name: str, values: ArrayLike) -> FloatCube:
    """Return an image as float32, shape (band, row, col); NaN where it is masked, infinite, NaN or marked as nodata.

    Raises
    ------
    TypeError
        The values are no real numbers.
    UsageError
        The array has another number of axes, or an empty one, or values that cannot be meant.
    """
    array = np.ma.asarray(values) if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"the {name} must hold real numbers, not {array.dtype}")
    if array.ndim != 3:
        raise UsageError(f"The {name} must have the shape (band, row, col), not {array.shape}.")
    if 0 in array.shape:
        raise UsageError(f"The {name} of shape {array.shape} is empty.")
    with np.errstate(over="ignore"):
        cube = np.array(np.ma.getdata(array), dtype=np.float32)
    if isinstance(array, np.ma.MaskedArray):
        cube[np.ma.getmaskarray(array)] = np.nan
    infinite = np.isinf(cube)
    count = int(np.count_nonzero(infinite))
    if count:
        cube[infinite] = np.nan
        _log.warning("%d of the %s's samples are infinite; they count as missing.", count, name)
    for number in _FILL:
        fill = cube == number
        count = int(np.count_nonzero(fill))
        if count:
            cube[fill] = np.nan
            _log.warning(
                "%d of the %s's samples are %g, which marks nodata; they count as missing.", count, name, number
            )
    highest = float(np.nanmax(np.abs(cube))) if np.isfinite(cube).any() else 0.0
    if highest > _HIGHEST:
        raise UsageError(
            f"The {name} holds values up to {highest:.3g}; reflectance is expected.",
            hint="Mask what marks nodata, for instance with NaN.",
        )
    limit = _FAR_BEYOND * _usual_size(cube)
    if 0.0 < limit < highest:
        wild = np.abs(cube) > limit
        _log.warning(
            "%d of the %s's samples are beyond %.3g, %g times what is usual in it; they count as missing.",
            int(np.count_nonzero(wild)), name, limit, _FAR_BEYOND,
        )  # fmt: skip
        cube[wild] = np.nan
    return cube


def _usual_size(cube: FloatCube) -> float:
    """Return what nearly all absolute values that are neither missing nor zero stay below; 0 where there is none."""
    some = cube.ravel()[:: max(cube.size // _SAMPLES, 1)]
    if not np.any(some):
        some = cube.ravel()
    size = np.abs(some[np.isfinite(some) & (some != 0)])
    return float(np.quantile(size, _USUAL)) if size.size else 0.0


def whole(name: str, value: SupportsIndex | float, *, least: int) -> int:
    """Return a whole number.

    Raises
    ------
    UsageError
        It is not whole, or too small.
    """
    try:
        number = int(value) if isinstance(value, float) and value.is_integer() else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = least - 1
    if number < least:
        raise UsageError(f"The {name} must be an integer of at least {least}, not {value!r}.")
    return number


def check_shapes(low: FloatCube, high: FloatCube, ratio: int) -> None:
    """Raise UsageError where two images do not lie on nested grids."""
    expected = (low.shape[1] * ratio, low.shape[2] * ratio)
    if high.shape[1:] != expected:
        raise UsageError(
            f"The MSI has {high.shape[1]} x {high.shape[2]} pixels; the HSI and ratio {ratio} need"
            f" {expected[0]} x {expected[1]}."
        )


def band_table(wavelengths_nm: ArrayLike, fwhm_nm: ArrayLike | None, count: int) -> BandTable:
    """Return the table of the HSI's bands.

    Raises
    ------
    UsageError, InputError
        Another number of wavelengths or widths than bands, or values that cannot be meant.
    """
    if not np.all(np.isfinite(np.asarray(wavelengths_nm, dtype=np.float64))):
        raise UsageError("The wavelengths (wavelengths_nm) must be numbers.")
    bands = BandTable.make(wavelengths_nm, fwhm_nm)
    if len(bands) != count:
        raise UsageError(f"{len(bands)} wavelengths were given for {count} bands.")
    if not np.all(np.isfinite(bands.fwhm_nm)) or np.any(bands.fwhm_nm <= 0):
        raise UsageError("The widths of the bands (fwhm_nm) must be positive.")
    return bands


def psf_width(width: float | None) -> float | None:
    """Return the width of the PSF that was given.

    Raises
    ------
    UsageError
        It is not positive.
    """
    if width is not None and not (math.isfinite(width) and width > 0):
        raise UsageError(f"The PSF width must be positive, not {width!r}.")
    return width


def spectral_weights(
    srf: ArrayLike | Sequence[SpectralResponse] | None, bands: BandTable, n_msi: int
) -> tuple[NDArray[np.float64] | None, tuple[SpectralResponse, ...] | None]:
    """Return weights of shape (msi band, band), and the responses that they come from; None for what is not known.

    Raises
    ------
    UsageError
        Another number of bands, or weights that are no numbers, negative, or all zero for a band.
    """
    if srf is None:
        return None, None
    if isinstance(srf, Sequence) and srf and isinstance(srf[0], SpectralResponse):
        responses = tuple(r for r in srf if isinstance(r, SpectralResponse))
        if len(responses) != n_msi:
            raise UsageError(f"{len(responses)} spectral responses were given for {n_msi} MSI bands.")
        return srf_weights(bands, responses), responses
    weights = np.asarray(srf, dtype=np.float64)
    if weights.shape != (n_msi, len(bands)):
        raise UsageError(f"The SRF must have the shape ({n_msi}, {len(bands)}), not {weights.shape}.")
    if not np.all(np.isfinite(weights)) or np.any(weights < 0) or not np.all(weights.any(axis=1)):
        raise UsageError("The SRF must hold numbers that are not negative, and some weight for each MSI band.")
    return weights, None
