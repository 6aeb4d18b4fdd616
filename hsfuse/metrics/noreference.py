"""Quality without a reference: QNR for an MSI instead of a PAN band, and Wald's consistency both ways.

Everything is gathered window by window, so a whole scene can be judged from a few sampled windows. Inside a window
the universal quality index Q is computed on blocks that cover the same ground at both resolutions; because a block's
covariance matrix holds all pairs of bands at once, 100 bands cost no more than a matrix product.

References
----------
L. Alparone et al., Multispectral and panchromatic data fusion assessment without reference, PE&RS 74, 2008;
M. M. Khan, L. Alparone, J. Chanussot, Pansharpening quality assessment using the modulation transfer functions of
instruments, IEEE TGRS 47, 2009;
L. Wald et al., Fusion of satellite images of different spatial resolutions, PE&RS 63, 1997.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hsfuse.metrics.evidence import Cube, Evidence, FloatArray
from hsfuse.metrics.reference import q2n_of_pixels

BLOCK_PX = 12
"""Side of a Q block in HSI pixels."""


def universal_quality(x: FloatArray, y: FloatArray) -> FloatArray:
    """Universal image quality index (Wang and Bovik 2002) of every band of ``x`` with every band of ``y``.

    Parameters
    ----------
    x, y
        Samples of one block, shapes (band, pixel) and (other band, pixel).

    Returns
    -------
    numpy.ndarray
        Shape (band, other band), -1 to 1.
    """
    mx, my = x.mean(axis=1), y.mean(axis=1)
    dx, dy = x - mx[:, None], y - my[:, None]
    covariance = dx @ dy.T / x.shape[1]
    vx, vy = (dx * dx).mean(axis=1), (dy * dy).mean(axis=1)
    bottom = (vx[:, None] + vy[None, :]) * (mx[:, None] ** 2 + my[None, :] ** 2)
    top = 4.0 * covariance * mx[:, None] * my[None, :]
    quality: FloatArray = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 1e-20)
    return quality


@dataclass(frozen=True)
class BlockQuality:
    """Sums of Q over the blocks of one window.

    Attributes
    ----------
    spectral
        Q between the fused bands minus Q between the HSI's, shape (band, band).
    spatial
        Q between fused and MSI bands minus the same at the HSI's resolution, shape (band, msi band).
    consistency
        Q2n of the degraded cube against the HSI.
    blocks
        Number of blocks.
    """

    spectral: FloatArray
    spatial: FloatArray
    consistency: float
    blocks: int


@dataclass(frozen=True)
class Difference:
    """Sums over the usable pixels of one window, by band.

    Attributes
    ----------
    squares, sums
        Squared differences; what they are held against, shape (band,).
    angle
        Spectral angles in degrees.
    pixels
        Number of pixels.
    """

    squares: FloatArray
    sums: FloatArray
    angle: float
    pixels: int


def block_quality(evidence: Evidence) -> BlockQuality | None:
    """Sum Q over all blocks of a window that are free of nodata; None without one. Needs HSI and MSI."""
    return evidence.once("blocks", lambda: _block_quality(evidence))


def _block_quality(evidence: Evidence) -> BlockQuality | None:
    hsi, msi, clear, r = evidence.need_hsi(), evidence.need_msi(), evidence.clear, evidence.ratio
    side = min(BLOCK_PX, *clear.shape)
    found: BlockQuality | None = None
    for row in range(0, clear.shape[0] - side + 1, side):
        for col in range(0, clear.shape[1] - side + 1, side):
            block = slice(row, row + side), slice(col, col + side)
            if not clear[block].all():
                continue
            fine = slice(row * r, (row + side) * r), slice(col * r, (col + side) * r)
            x, m = _pixels(evidence.fused, fine), _pixels(msi, fine)
            h, down, n = _pixels(hsi, block), _pixels(evidence.degraded, block), _pixels(evidence.degraded_msi, block)
            spectral = universal_quality(x, x) - universal_quality(h, h)
            spatial = universal_quality(x, m) - universal_quality(h, n)
            one = BlockQuality(spectral, spatial, q2n_of_pixels(h, down), 1)
            found = one if found is None else _together(found, one)
    return found


def _together(a: BlockQuality, b: BlockQuality) -> BlockQuality:
    return BlockQuality(
        a.spectral + b.spectral, a.spatial + b.spatial, a.consistency + b.consistency, a.blocks + b.blocks
    )


def all_blocks(windows: Sequence[BlockQuality]) -> BlockQuality:
    """Sum over all windows."""
    total = windows[0]
    for window in windows[1:]:
        total = _together(total, window)
    return total


def spectral_distortion(windows: Sequence[BlockQuality]) -> float:
    """D_lambda of all windows: Q is a mean over the blocks first; the distortion is how far that mean moved."""
    total = all_blocks(windows)
    count = len(total.spectral)
    return float(np.abs(total.spectral / total.blocks).sum()) / max(count * (count - 1), 1)


def spatial_distortion(windows: Sequence[BlockQuality]) -> float:
    """D_s of all windows, over all pairs of a fused band and an MSI band."""
    total = all_blocks(windows)
    return float(np.abs(total.spatial / total.blocks).mean())


def quality_no_reference(windows: Sequence[BlockQuality]) -> float:
    """QNR of all windows: (1 - D_lambda)(1 - D_s)."""
    return (1 - spectral_distortion(windows)) * (1 - spatial_distortion(windows))


def hybrid_quality(windows: Sequence[BlockQuality]) -> float:
    """HQNR of all windows: Q2n of the degraded cube against the HSI, times (1 - D_s)."""
    total = all_blocks(windows)
    return total.consistency / total.blocks * (1 - spatial_distortion(windows))


def hsi_difference(evidence: Evidence) -> Difference | None:
    """Sum the differences between the degraded cube and the HSI; None without a usable pixel."""
    return evidence.once("hsi difference", lambda: _hsi_difference(evidence))


def _hsi_difference(evidence: Evidence) -> Difference | None:
    clear = evidence.clear
    x, y = evidence.need_hsi().astype(np.float64)[:, clear], evidence.degraded[:, clear]
    if x.shape[1] == 0:
        return None
    norm = np.maximum(np.linalg.norm(x, axis=0) * np.linalg.norm(y, axis=0), 1e-12)
    angle = float(np.degrees(np.arccos(np.clip((x * y).sum(axis=0) / norm, -1, 1))).sum())
    return Difference(((x - y) ** 2).sum(axis=1), x.sum(axis=1), angle, x.shape[1])


def msi_difference(evidence: Evidence) -> Difference | None:
    """Sum the differences between the cube, seen through the MSI's responses, and the MSI.

    Bands that the HSI does not cover are NaN; None without a usable pixel.
    """
    fine = evidence.fine
    if not fine.any():
        return None
    srf, msi = evidence.need_srf(), evidence.need_msi()
    covered = srf.sum(axis=1) > 0
    seen = srf[covered] @ evidence.fused[:, fine].astype(np.float64)
    squares, sums = np.full(len(covered), np.nan), np.full(len(covered), np.nan)
    squares[covered] = ((seen - msi[covered][:, fine]) ** 2).sum(axis=1)
    sums[covered] = msi[covered][:, fine].sum(axis=1)
    return Difference(squares, sums, math.nan, int(fine.sum()))


def all_differences(windows: Sequence[Difference]) -> Difference:
    """Sum over all windows."""
    squares, sums = np.zeros_like(windows[0].squares), np.zeros_like(windows[0].sums)
    for window in windows:
        squares, sums = squares + window.squares, sums + window.sums
    return Difference(squares, sums, sum(w.angle for w in windows), sum(w.pixels for w in windows))


def root_mean_square(windows: Sequence[Difference]) -> float | None:
    """RMSE over all bands and windows; None where no band is known."""
    total = all_differences(windows)
    if not np.isfinite(total.squares).any():
        return None
    return float(np.sqrt(np.nanmean(total.squares) / total.pixels))


def band_rmse(windows: Sequence[Difference]) -> FloatArray:
    """RMSE of each band over all windows, shape (band,)."""
    total = all_differences(windows)
    return np.sqrt(total.squares / total.pixels)


def mean_angle(windows: Sequence[Difference]) -> float:
    """Mean spectral angle over all windows, degrees."""
    total = all_differences(windows)
    return total.angle / total.pixels


@dataclass(frozen=True)
class RelativeError:
    """Differences of a window and the pixel size ratio that ERGAS is normalised with."""

    difference: Difference
    ratio: int


def relative_error(evidence: Evidence) -> RelativeError | None:
    """Return what ERGAS is computed from in one window."""
    found = hsi_difference(evidence)
    return None if found is None else RelativeError(found, evidence.ratio)


def relative_global_error(windows: Sequence[RelativeError]) -> float:
    """ERGAS of the degraded cube against the HSI over all windows."""
    total = all_differences([window.difference for window in windows])
    mean, error = total.sums / total.pixels, total.squares / total.pixels
    some = np.abs(mean) > 1e-9
    return float(100.0 / windows[0].ratio * math.sqrt(float((error[some] / mean[some] ** 2).mean())))


def _pixels(cube: Cube, block: tuple[slice, slice]) -> FloatArray:
    return np.asarray(cube[(slice(None), *block)].reshape(len(cube), -1), dtype=np.float64)
