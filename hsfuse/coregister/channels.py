"""Which bands of two products show the same, and how to read them for matching.

Hyperspectral bands are weighted with the spectral responses of the multispectral ones, so that both images hold the
same light. What cannot be matched is NaN: fill, invalid and saturated samples, cloud, shadow, snow, open water.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Grid, Slice2D
from hsfuse.masks import SCL_UNMATCHABLE, dilate, in_classes
from hsfuse.readers.base import ERROR_INVALID_L1, ERROR_SATURATED, HyperspectralProduct, MultispectralProduct
from hsfuse.spectral import SpectralResponse, srf_coverage, srf_weights

FloatCube = NDArray[np.float32]

MATCHING_BANDS = ("B04", "B08", "B03")
"""Red, near infrared and green: they see land, vegetation and water apart and have little haze."""
_NAN = np.float32(np.nan)
_LEAST_COVERAGE = 0.6
_LEAST_WEIGHT = 0.7
_NEAR_NM = 40.0
"""How far a single band may lie from a multispectral one to be compared with it."""
_MOST_CHANNELS = 3
_WATER = 6
_SHORE_PX = 3
_CLOUD_DILATE_PX = 6


class Channels(Protocol):
    """A few channels of an image, read window by window, NaN where they must not be matched."""

    @property
    def grid(self) -> Grid:
        """Grid of the image."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the channels."""
        ...

    def read(self, block: Slice2D) -> FloatCube:
        """Read a block, float32 (channel, row, col)."""
        ...


@dataclass(frozen=True)
class WeightedBands:
    """Weighted sums of hyperspectral bands.

    Attributes
    ----------
    product
        Where the bands come from.
    names
        Names of the channels.
    bands
        Indices of the bands that are read.
    weights
        Shape (channel, band): rows sum to 1.
    """

    product: HyperspectralProduct
    names: tuple[str, ...]
    bands: NDArray[np.int64]
    weights: NDArray[np.float64]

    @property
    def grid(self) -> Grid:
        """Grid of the product."""
        return self.product.grid

    def read(self, block: Slice2D) -> FloatCube:
        """Read a block; samples that are missing in a few bands are made up by the other bands' weights."""
        cube = self.product.read(block, self.bands)
        codes = self.product.error_codes(block, self.bands)
        if codes is not None:
            np.copyto(cube, _NAN, where=(codes & (ERROR_INVALID_L1 | ERROR_SATURATED)) != 0)
        np.copyto(cube, _NAN, where=~self.product.valid(block))
        hidden = self.product.cloud(block)
        if hidden is not None:
            np.copyto(cube, _NAN, where=hidden)
        finite = np.isfinite(cube)
        weights = self.weights.astype(np.float32)
        whole = bool(finite.all())
        if not whole:
            np.copyto(cube, np.float32(0.0), where=~finite)
        total = (weights @ cube.reshape(len(self.bands), -1)).reshape(-1, *block.shape)
        if whole:
            return np.asarray(total, dtype=np.float32)
        present = (weights @ finite.reshape(len(self.bands), -1).astype(np.float32)).reshape(total.shape)
        out = np.full(total.shape, np.nan, dtype=np.float32)
        np.divide(total, present, out=out, where=present >= _LEAST_WEIGHT)
        return out


@dataclass(frozen=True)
class MultispectralBands:
    """Some bands of a multispectral product without cloud, shadow, snow and open water.

    Attributes
    ----------
    product
        Where the bands come from.
    names
        Names of the channels.
    bands
        Indices of the bands that are read.
    """

    product: MultispectralProduct
    names: tuple[str, ...]
    bands: tuple[int, ...]

    @property
    def grid(self) -> Grid:
        """Grid of the product."""
        return self.product.grid

    def read(self, block: Slice2D) -> FloatCube:
        """Read a block; the shores of open water stay, because they are sharp and do not move."""
        cube = self.product.read(block, self.bands)
        classes = self.product.classes(block)
        cloud = self.product.cloud(block)
        if classes is not None:
            from scipy import ndimage

            hidden = in_classes(classes, tuple(c for c in SCL_UNMATCHABLE if c != _WATER))
            water = ndimage.binary_erosion(classes == _WATER, iterations=_SHORE_PX, border_value=1)
            np.copyto(cube, _NAN, where=dilate(hidden, _CLOUD_DILATE_PX) | water)
        if cloud is not None:
            np.copyto(cube, _NAN, where=dilate(cloud, _CLOUD_DILATE_PX))
        return cube


@dataclass(frozen=True)
class ChannelPair:
    """Channels to compare: the reference's first ones correspond to the target's, further ones help to model them."""

    target: Channels
    reference: Channels

    @property
    def count(self) -> int:
        """Number of the target's channels."""
        return len(self.target.names)


def pair_channels(
    hsi: HyperspectralProduct, msi: MultispectralProduct, wanted: Sequence[str] = MATCHING_BANDS
) -> ChannelPair | None:
    """Pair weighted hyperspectral bands with multispectral ones by their spectral responses.

    Parameters
    ----------
    hsi, msi
        The products.
    wanted
        Names of multispectral bands, best first; when the product has none of them, the bands that the
        hyperspectral ones cover best are taken.

    Returns
    -------
    ChannelPair or None
        None when no band of the one is near a band of the other, or the responses are unknown.
    """
    if msi.responses is None:
        return None
    covered = [i for i, r in enumerate(msi.responses) if srf_coverage(hsi.bands, r) >= _LEAST_COVERAGE]
    named = {name: i for i, name in enumerate(msi.band_names)}
    chosen = [named[name] for name in wanted if name in named and named[name] in covered]
    if not chosen and tuple(wanted) == MATCHING_BANDS:
        chosen = _spread(msi.responses, covered)
    return _pair(hsi, msi, chosen) or _pair_nearest(hsi, msi, wanted)


def _pair_nearest(hsi: HyperspectralProduct, msi: MultispectralProduct, wanted: Sequence[str]) -> ChannelPair | None:
    """Pair single bands: those of widely spaced cubes cover little of a multispectral band, but show the same land."""
    good = np.flatnonzero(hsi.bands.good)
    if msi.responses is None or not good.size:
        return None
    named = {name: i for i, name in enumerate(msi.band_names)}
    pairs = []
    for index in [named[name] for name in wanted if name in named] or _spread(msi.responses, range(len(named))):
        distance = np.abs(hsi.bands.centre_nm[good] - msi.responses[index].centre_nm)
        if distance.min() <= _NEAR_NM:
            pairs.append((int(good[distance.argmin()]), index))
    if not pairs:
        return None
    mine, theirs = [band for band, _ in pairs], tuple(index for _, index in pairs)
    names = tuple(msi.band_names[index] for index in theirs)
    weights = np.eye(len(pairs))
    return ChannelPair(WeightedBands(hsi, names, np.array(mine), weights), MultispectralBands(msi, names, theirs))


def _spread(responses: Sequence[SpectralResponse], covered: Sequence[int]) -> list[int]:
    """A few bands that differ most in wavelength, starting with those in the red and near infrared."""
    order = sorted(covered, key=lambda i: min(abs(responses[i].centre_nm - nm) for nm in (665.0, 842.0)))
    chosen: list[int] = []
    for index in order:
        if len(chosen) < _MOST_CHANNELS and all(
            abs(responses[index].centre_nm - responses[k].centre_nm) > 40.0 for k in chosen
        ):
            chosen.append(index)
    return chosen


def _pair(hsi: HyperspectralProduct, msi: MultispectralProduct, chosen: Sequence[int]) -> ChannelPair | None:
    if not chosen or msi.responses is None:
        return None
    weights = srf_weights(hsi.bands, [msi.responses[i] for i in chosen])
    weights *= hsi.bands.good
    weights[weights < 0.01 * weights.max(axis=1, keepdims=True)] = 0.0
    total = weights.sum(axis=1)
    kept = total > 0
    if not kept.any():
        return None
    weights = weights[kept] / total[kept, None]
    used = np.flatnonzero(weights.any(axis=0))
    names = tuple(msi.band_names[i] for i, keep in zip(chosen, kept, strict=True) if keep)
    index = tuple(i for i, keep in zip(chosen, kept, strict=True) if keep)
    return ChannelPair(WeightedBands(hsi, names, used, weights[:, used]), MultispectralBands(msi, names, index))


def pair_plain(target: MultispectralProduct, reference: MultispectralProduct) -> ChannelPair:
    """Pair two images by wavelength when both name it, else by band name, else by position in the file.

    Images of different band numbers without names in common are compared by their first bands; the reference's other
    bands then help to model the target's.
    """
    pairs = _by_wavelength(target, reference) or _by_name(target, reference)
    if not pairs:
        count = min(len(target.band_names), len(reference.band_names), _MOST_CHANNELS)
        same = len(target.band_names) == len(reference.band_names)
        middle = [(i, i) for i in np.unique(np.linspace(0, len(target.band_names) - 1, count).round().astype(int))]
        pairs = [(int(a), int(b)) for a, b in middle] if same else [(0, 0)]
    mine, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    theirs += [b for b in range(len(reference.band_names)) if b not in theirs][: max(0, 4 - len(theirs))]
    return ChannelPair(
        MultispectralBands(target, tuple(target.band_names[i] for i in mine), tuple(mine)),
        MultispectralBands(reference, tuple(reference.band_names[i] for i in theirs), tuple(theirs)),
    )


def _by_wavelength(target: MultispectralProduct, reference: MultispectralProduct) -> list[tuple[int, int]]:
    if target.responses is None or reference.responses is None:
        return []
    theirs = np.array([r.centre_nm for r in reference.responses])
    pairs = []
    for index, response in enumerate(target.responses):
        nearest = int(np.abs(theirs - response.centre_nm).argmin())
        if abs(theirs[nearest] - response.centre_nm) <= 0.05 * response.centre_nm:
            pairs.append((index, nearest))
    pairs.sort(key=lambda p: min(abs(theirs[p[1]] - nm) for nm in (560.0, 665.0, 842.0)))
    distinct: list[tuple[int, int]] = []
    for a, b in pairs:
        if all(abs(theirs[b] - theirs[k]) > 40.0 for _, k in distinct):
            distinct.append((a, b))
    return distinct[:_MOST_CHANNELS]


def _by_name(target: MultispectralProduct, reference: MultispectralProduct) -> list[tuple[int, int]]:
    theirs = {name: i for i, name in enumerate(reference.band_names)}
    generic = all(name == f"B{i + 1}" for i, name in enumerate(target.band_names))
    if generic:
        return []
    common = [(i, theirs[name]) for i, name in enumerate(target.band_names) if name in theirs]
    preferred = [p for p in common if target.band_names[p[0]] in MATCHING_BANDS]
    return (preferred or common)[:_MOST_CHANNELS]
