"""From two open products to the images that are matched: equal bands, equal blur, trustworthy pixels only."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hsfuse.coregister.images import EVALUATION_VARIANCE_PX2, MatchImages, reference_grid
from hsfuse.coregister.warp import Resampler
from hsfuse.degrade import Psf
from hsfuse.errors import OverlapError
from hsfuse.grid import Grid, Slice2D
from hsfuse.masks import SCL_UNMATCHABLE, dilate, in_classes
from hsfuse.progress import Stage
from hsfuse.readers.base import ERROR_INVALID_L1, ERROR_SATURATED, HyperspectralProduct, MultispectralProduct
from hsfuse.spectral import FWHM_TO_SIGMA, SpectralResponse, srf_coverage, srf_weights

FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_WANTED_NM = (665.0, 833.0, 560.0)
"""Red, near infrared and green: land and vegetation contrast differ, so the matching sees all of them."""
_TOLERANCE_NM = 40.0
_BRIGHT = 0.40
"""Visible reflectance above which a pixel of the HSI is taken for cloud, snow or glint (L2 has no cloud mask)."""
_ROWS = 256
_MASK_GROWTH_PX = 2
_LEAST_SHARE = 0.01


def build_images(
    hsi: HyperspectralProduct, msi: MultispectralProduct, *, psf: Psf, search_m: float, stage: Stage
) -> tuple[MatchImages, float]:
    """Prepare both images.

    Parameters
    ----------
    hsi, msi
        Target and reference.
    psf
        Blur of the HSI relative to the MSI.
    search_m
        How far the reference must reach beyond the target.
    stage
        Advanced to a total of 1.

    Returns
    -------
    (images, cloud_share)
        Share of the MSI under the target's claimed footprint that is hidden or unmatchable.

    Raises
    ------
    OverlapError
        Hardly a pixel can be used.
    """
    channels = _channels(hsi, msi)
    target = _target(hsi, [weights for _, weights in channels])
    stage.advance(0.4)
    margin = math.ceil(search_m / hsi.grid.pixel_m) + 2
    fine = reference_grid(hsi.grid, margin)
    reference, hidden = _reference(msi, fine, [index for index, _ in channels], hsi.grid.pixel_m, psf)
    stage.advance(0.6)
    seen = np.any(np.isfinite(reference), axis=0)
    if seen.mean() < _LEAST_SHARE:
        reason = "is hidden by cloud" if hidden > 0.9 else "has no usable pixel (nodata, cloud or water)"
        raise OverlapError(
            f"The Sentinel-2 image {reason} under the hyperspectral one.",
            hint="Choose a Sentinel-2 product with fewer clouds that covers the scene.",
        )
    if np.any(np.isfinite(target), axis=0).mean() < _LEAST_SHARE:
        raise OverlapError(
            "No usable pixel is left in the hyperspectral image (nodata, errors or cloud).",
            hint="`hsfuse bands FILE` shows what the product holds.",
        )
    return MatchImages(target, reference, hsi.grid, margin), hidden


def _channels(hsi: HyperspectralProduct, msi: MultispectralProduct) -> list[tuple[int, NDArray[np.float64]]]:
    """Pair MSI bands with weights of HSI bands, the best known bands only."""
    responses = msi.responses
    if responses is None:
        if len(msi.band_names) != 4:
            centre = hsi.bands.centre_nm
            every = ((centre > 450) & (centre < 900)).astype(np.float64)
            return [(0, every / max(every.sum(), 1.0))]
        # Four bands without metadata are blue, green, red and near infrared in practice.
        model = ((492.0, 65.0), (560.0, 35.0), (665.0, 30.0), (833.0, 105.0))
        responses = tuple(SpectralResponse.flat_top(f"band {i + 1}", c, w) for i, (c, w) in enumerate(model))
    weights = srf_weights(hsi.bands, responses)
    found: list[tuple[int, NDArray[np.float64]]] = []
    for wanted in _WANTED_NM:
        index = int(np.argmin([abs(r.centre_nm - wanted) for r in responses]))
        near = abs(responses[index].centre_nm - wanted) <= _TOLERANCE_NM
        if near and srf_coverage(hsi.bands, responses[index]) > 0.7 and index not in (i for i, _ in found):
            found.append((index, weights[index]))
    if found:
        return found
    covered = [srf_coverage(hsi.bands, r) for r in responses]
    best = int(np.argmax(covered))
    if covered[best] < 0.3:
        raise OverlapError(
            "The two images share no spectral band.", hint="Co-registration needs a band that both sensors see."
        )
    return [(best, weights[best])]


def _target(hsi: HyperspectralProduct, weights: list[NDArray[np.float64]]) -> FloatCube:
    used = np.flatnonzero(np.any(np.stack(weights) > 0, axis=0))
    matrix = np.stack(weights)[:, used].astype(np.float32)
    image = np.empty((len(weights), *hsi.grid.shape), np.float32)
    bright = np.zeros(hsi.grid.shape, bool)
    for block in hsi.grid.row_blocks(_ROWS):
        cube = hsi.read(block, used)
        codes = hsi.error_codes(block, used)
        if codes is not None:
            cube[(codes & (ERROR_INVALID_L1 | ERROR_SATURATED)) > 0] = np.nan
        mixed = np.tensordot(matrix, cube, 1)
        mixed[:, ~hsi.valid(block)] = np.nan
        image[:, block.row0 : block.row1] = mixed
        visible = mixed if len(weights) == 1 else np.delete(mixed, 1, axis=0)
        bright[block.row0 : block.row1] = np.all(visible > _BRIGHT, axis=0)
    image[:, dilate(bright, _MASK_GROWTH_PX)] = np.nan
    return image


def _reference(
    msi: MultispectralProduct, fine: Grid, index: list[int], hsi_pixel_m: float, psf: Psf
) -> tuple[FloatCube, float]:
    """Blur and resample the MSI, strip by strip."""
    image = np.full((len(index), *fine.shape), np.nan, np.float32)
    scale = hsi_pixel_m / msi.grid.pixel_m
    wanted = (psf.fwhm_px * FWHM_TO_SIGMA) ** 2 - EVALUATION_VARIANCE_PX2
    sigma = math.sqrt(max(wanted, 0.05)) * scale
    reach = math.ceil(4 * sigma) + 1
    resampler = Resampler(msi.grid, fine, None)
    hidden, total = 0, 0
    for block in fine.row_blocks(_ROWS):
        source = resampler.source_block(block)
        if min(source.shape) < 1:
            continue
        padded = Slice2D(source.row0 - reach, source.row1 + reach, source.col0 - reach, source.col1 + reach).clipped(
            *msi.grid.shape
        )
        cube = msi.read(padded, index)
        mask = _unmatchable(msi, padded)
        hidden, total = hidden + int(mask.sum()), total + mask.size
        cube[:, mask] = np.nan
        image[:, block.row0 : block.row1] = resampler.apply(_blur(cube, sigma), padded, block)
    return image, hidden / max(total, 1)


def _unmatchable(msi: MultispectralProduct, block: Slice2D) -> BoolArray:
    classes = msi.classes(block)
    if classes is not None:
        return dilate(in_classes(classes, SCL_UNMATCHABLE), _MASK_GROWTH_PX)
    cloud = msi.cloud(block)
    return np.zeros(block.shape, bool) if cloud is None else dilate(cloud, _MASK_GROWTH_PX)


def _blur(cube: FloatCube, sigma: float) -> FloatCube:
    """Gaussian blur over valid pixels; NaN where less than half of the weight is valid."""
    valid = np.isfinite(cube)
    if valid.all():
        return np.stack([ndimage.gaussian_filter(plane, sigma, truncate=4.0, mode="nearest") for plane in cube])
    blurred = np.empty_like(cube)
    for band, (plane, known) in enumerate(zip(cube, valid, strict=True)):
        weight = ndimage.gaussian_filter(known.astype(np.float32), sigma, truncate=4.0, mode="nearest")
        value = ndimage.gaussian_filter(np.where(known, plane, 0.0), sigma, truncate=4.0, mode="nearest")
        blurred[band] = np.where((weight > 0.95) & known, value / np.maximum(weight, 1e-6), np.nan)
    return blurred
