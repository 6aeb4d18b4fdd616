"""From two open products to the images that are matched: equal light, equal blur, trustworthy pixels only."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hsfuse.coregister.channels import ChannelPair, MultispectralBands, WeightedBands, pair_channels, pair_plain
from hsfuse.coregister.images import MatchImages
from hsfuse.coregister.lowpass import blur_sigma_m, prepare_reference
from hsfuse.coregister.threads import parallel_map, run_both
from hsfuse.degrade import Psf
from hsfuse.errors import CoregistrationError, OverlapError
from hsfuse.grid import Slice2D
from hsfuse.masks import dilate
from hsfuse.progress import Stage
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct
from hsfuse.spectral import SpectralResponse, srf_weights

FloatCube = NDArray[np.float32]

_BRIGHT = 0.40
"""Visible reflectance above which a pixel of the HSI is taken for cloud, snow or glint (L2 has no cloud mask)."""
_ROWS = 64
_GROWTH_PX = 2
_LEAST_SHARE = 0.01
_USUAL_BANDS = ((492.0, 65.0), (560.0, 35.0), (665.0, 30.0), (833.0, 105.0))
"""Centre and width (nm) of blue, green, red and near infrared: what four bands without metadata are in practice."""


def build_images(
    target: HyperspectralProduct | MultispectralProduct,
    reference: MultispectralProduct,
    *,
    psf: Psf,
    search_m: float,
    stage: Stage,
) -> MatchImages:
    """Prepare both images.

    Parameters
    ----------
    target, reference
        The products.
    psf
        Blur of the target relative to the reference, in target pixels.
    search_m
        How far the reference must reach beyond the target.
    stage
        Advanced by 1.4 in total.

    Raises
    ------
    CoregistrationError
        Hardly a pixel can be used.
    OverlapError
        The images do not overlap or share no band.
    """
    pair = _channels(target, reference)
    grid = pair.target.grid
    margin = math.ceil(search_m / grid.pixel_m) + 2
    sigma_m = blur_sigma_m(psf, grid.pixel_m, 1)
    seen, image = run_both(
        lambda: prepare_reference(
            pair.reference.read, pair.reference.grid, len(pair.reference.names), grid, margin, sigma_m=sigma_m,
            stage=stage,
        ),
        lambda: _target(pair),
    )  # fmt: skip
    stage.advance(0.4)
    if np.any(np.isfinite(seen), axis=0).mean() < _LEAST_SHARE:
        raise CoregistrationError(
            "the reference image has no usable pixel there: all cloud, nodata or water.",
            hint="Choose a Sentinel-2 product with fewer clouds that covers the scene.",
        )
    if np.any(np.isfinite(image), axis=0).mean() < _LEAST_SHARE:
        raise CoregistrationError(
            "no usable pixel is left in the image that is moved (nodata, errors or cloud).",
            hint="`hsfuse bands FILE` shows what the product holds.",
        )
    return MatchImages(image, seen, grid, margin)


def _channels(target: HyperspectralProduct | MultispectralProduct, reference: MultispectralProduct) -> ChannelPair:
    if not isinstance(target, HyperspectralProduct):
        return pair_plain(target, reference)
    pair = pair_channels(target, reference)
    if pair is not None:
        return pair
    if reference.responses is not None:
        raise OverlapError(
            "The two images share no spectral band.", hint="Co-registration needs a band that both sensors see."
        )
    names = reference.band_names
    if len(names) == len(_USUAL_BANDS):
        usual = [SpectralResponse.flat_top(name, *band) for name, band in zip(names, _USUAL_BANDS, strict=True)]
        weights = srf_weights(target.bands, usual)
        if np.all(weights.sum(axis=1) > 0):
            every = np.arange(len(target.bands))
            return ChannelPair(
                WeightedBands(target, names, every, weights), MultispectralBands(reference, names, tuple(range(4)))
            )
    # Nothing is known about the bands: their mean against the mean of the visible and near infrared.
    centre = target.bands.centre_nm
    grey = ((centre > 450.0) & (centre < 900.0)).astype(np.float64)
    grey = grey if grey.any() else np.ones_like(grey)
    one = WeightedBands(target, ("grey",), np.arange(centre.size), grey[None, :] / grey.sum())
    return ChannelPair(one, MultispectralBands(reference, names, tuple(range(len(names)))))


def _target(pair: ChannelPair) -> FloatCube:
    grid = pair.target.grid
    image = np.empty((pair.count, *grid.shape), np.float32)

    def read(block: Slice2D) -> None:
        image[:, block.row0 : block.row1] = pair.target.read(block)

    list(parallel_map(read, grid.row_blocks(_ROWS)))
    if isinstance(pair.target, WeightedBands):
        visible = [i for i, name in enumerate(pair.target.names) if name != "B08"]
        with np.errstate(invalid="ignore"):
            bright = np.all(image[visible] > _BRIGHT, axis=0)
        image[:, dilate(bright, _GROWTH_PX)] = np.nan
    return image
