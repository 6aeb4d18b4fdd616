"""Quality against a known reference.

All functions take cubes of shape (band, row, col). Pixels where ``valid`` is False, or where either cube has NaN in
any band, are left out; scores that need neighbourhoods (SSIM, Q2n) leave out the windows that contain them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import UsageError

Cube = NDArray[np.floating]
Mask = NDArray[np.bool_]

_SSIM_SIDE = 7
_Q2N_SIDE = 32


@dataclass(frozen=True)
class ReferenceScores:
    """Scores of one cube; the names in :meth:`to_json` are the field's.

    Attributes
    ----------
    psnr_db
        Mean over bands, the peak of each band being its own maximum in the reference.
    psnr_global_db
        From the mean squared error over all bands; the peak is the reference's maximum.
    sam_deg
        Mean spectral angle, degrees.
    ergas
        Relative dimensionless global error, factor 100 / ratio.
    cc
        Mean correlation over bands.
    rmse
        Over all samples, reflectance.
    ssim
        Mean over bands, uniform windows of 7 pixels.
    q2n
        Hypercomplex quality index over blocks of 32 pixels.
    """

    psnr_db: float
    psnr_global_db: float
    sam_deg: float
    ergas: float
    cc: float
    rmse: float
    ssim: float
    q2n: float

    def to_json(self) -> dict[str, float | None]:
        """Return the scores under their usual names; None where one is not a number."""
        named = {
            "PSNR": self.psnr_db, "SAM": self.sam_deg, "ERGAS": self.ergas, "CC": self.cc, "RMSE": self.rmse,
            "PSNR_global": self.psnr_global_db, "SSIM": self.ssim, "Q2n": self.q2n,
        }  # fmt: skip
        return {name: float(value) if math.isfinite(value) else None for name, value in named.items()}


def _usable(reference: Cube, estimate: Cube, valid: Mask | None) -> Mask:
    if reference.shape != estimate.shape or reference.ndim != 3:
        raise UsageError(f"The cubes differ in shape: {reference.shape} and {estimate.shape}.")
    mask: Mask = np.all(np.isfinite(reference), axis=0) & np.all(np.isfinite(estimate), axis=0)
    if valid is not None:
        mask = mask & valid
    if not mask.any():
        raise UsageError("No pixel is valid in both cubes.")
    return mask


def _samples(reference: Cube, estimate: Cube, valid: Mask | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    mask = _usable(reference, estimate, valid)
    return reference[:, mask].astype(np.float64), estimate[:, mask].astype(np.float64)


def psnr(reference: Cube, estimate: Cube, valid: Mask | None = None, *, peak: str = "band") -> float:
    """Peak signal-to-noise ratio in dB.

    Parameters
    ----------
    reference, estimate
        Cubes.
    valid
        Usable pixels.
    peak
        ``band``: mean over bands of each band's PSNR, its own maximum as peak; ``global``: one PSNR with the
        reference's maximum.
    """
    x, y = _samples(reference, estimate, valid)
    with np.errstate(divide="ignore", invalid="ignore"):
        if peak == "global":
            return float(20 * np.log10(x.max()) - 10 * np.log10(np.mean((x - y) ** 2)))
        error = np.mean((x - y) ** 2, axis=1)
        top = x.max(axis=1)
        per_band = 10 * np.log10(top**2 / error)
    return float(per_band[top > 0].mean())


def sam_deg(reference: Cube, estimate: Cube, valid: Mask | None = None) -> float:
    """Mean spectral angle in degrees; pixels without any signal are left out."""
    x, y = _samples(reference, estimate, valid)
    norm = np.linalg.norm(x, axis=0) * np.linalg.norm(y, axis=0)
    some = norm > 1e-12
    cosine = np.clip((x * y).sum(axis=0)[some] / norm[some], -1.0, 1.0)
    return float(np.degrees(np.arccos(cosine)).mean())


def ergas(reference: Cube, estimate: Cube, ratio: int, valid: Mask | None = None) -> float:
    """Relative dimensionless global error in synthesis (Wald 2000), factor 100 / ratio."""
    x, y = _samples(reference, estimate, valid)
    mean = x.mean(axis=1)
    some = np.abs(mean) > 1e-9
    relative = np.mean((x - y) ** 2, axis=1)[some] / mean[some] ** 2
    return float(100.0 / ratio * np.sqrt(relative.mean()))


def cc(reference: Cube, estimate: Cube, valid: Mask | None = None) -> float:
    """Pearson correlation, mean over bands that vary in both cubes."""
    x, y = _samples(reference, estimate, valid)
    x = x - x.mean(axis=1, keepdims=True)
    y = y - y.mean(axis=1, keepdims=True)
    norm = np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1))
    some = norm > 1e-15
    return float(((x * y).sum(axis=1)[some] / norm[some]).mean()) if some.any() else float("nan")


def rmse(reference: Cube, estimate: Cube, valid: Mask | None = None) -> float:
    """Root mean square error over all samples."""
    x, y = _samples(reference, estimate, valid)
    return float(np.sqrt(np.mean((x - y) ** 2)))


def ssim(reference: Cube, estimate: Cube, valid: Mask | None = None) -> float:
    """Structural similarity (Wang 2004), mean over bands; uniform windows, data range = the band's own.

    Only windows without invalid pixels count.
    """
    from scipy.ndimage import uniform_filter

    mask = _usable(reference, estimate, valid)
    inside = uniform_filter(mask.astype(np.float32), _SSIM_SIDE, mode="constant") > 1.0 - 1e-4
    if not inside.any():
        return float("nan")
    values = []
    for x32, y32 in zip(reference, estimate, strict=True):
        x, y = np.where(mask, x32, 0.0).astype(np.float64), np.where(mask, y32, 0.0).astype(np.float64)
        span = float(x[mask].max() - x[mask].min())
        if span <= 0:
            continue
        c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
        mx, my = uniform_filter(x, _SSIM_SIDE), uniform_filter(y, _SSIM_SIDE)
        unbias = _SSIM_SIDE**2 / (_SSIM_SIDE**2 - 1)
        vx = unbias * (uniform_filter(x * x, _SSIM_SIDE) - mx * mx)
        vy = unbias * (uniform_filter(y * y, _SSIM_SIDE) - my * my)
        vxy = unbias * (uniform_filter(x * y, _SSIM_SIDE) - mx * my)
        index = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
        values.append(float(index[inside].mean()))
    return float(np.mean(values)) if values else float("nan")


def q2n(reference: Cube, estimate: Cube, valid: Mask | None = None, *, side: int = _Q2N_SIDE) -> float:
    """Hypercomplex quality index Q2n (Garzelli and Nencini 2009) over non-overlapping blocks, mean of the blocks.

    Bands are the components of a hypercomplex number (padded with zeros to a power of two); products follow the
    Cayley-Dickson construction. 1 is perfect.
    """
    mask = _usable(reference, estimate, valid)
    bands, height, width = reference.shape
    side = min(side, height, width)
    values = []
    for row in range(0, height - side + 1, side):
        for col in range(0, width - side + 1, side):
            block = slice(row, row + side), slice(col, col + side)
            if mask[block].all():
                x = reference[(slice(None), *block)].reshape(bands, -1).astype(np.float64)
                y = estimate[(slice(None), *block)].reshape(bands, -1).astype(np.float64)
                values.append(q2n_of_pixels(x, y))
    return float(np.mean(values)) if values else float("nan")


def q2n_of_pixels(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Q2n of one block of pixels, both of shape (band, pixel)."""
    bands, count = x.shape
    mx, my = x.mean(axis=1), y.mean(axis=1)
    unbias = count / (count - 1)
    # A product of hypercomplex numbers is bilinear, so the mean product follows from the bands' covariances:
    # one matrix product instead of one hypercomplex product for every pixel.
    covariance = unbias * ((x - mx[:, None]) @ (y - my[:, None]).T) / count
    sign, component = _conjugate_products(1 << max(bands - 1, 0).bit_length())
    signed = (sign[:bands, :bands] * covariance).ravel()
    hypercomplex = np.bincount(component[:bands, :bands].ravel(), weights=signed)
    vx = unbias * ((x * x).sum(axis=0).mean() - mx @ mx)
    vy = unbias * ((y * y).sum(axis=0).mean() - my @ my)
    bottom = (vx + vy) * (mx @ mx + my @ my)
    if bottom <= 1e-20:
        return 1.0
    return float(4.0 * np.linalg.norm(hypercomplex) * np.linalg.norm(mx) * np.linalg.norm(my) / bottom)


@lru_cache(maxsize=8)
def _conjugate_products(size: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return for units e_i and e_j the sign and the index of the product e_i * conjugate(e_j) (Cayley-Dickson)."""
    sign = np.ones((1, 1))
    while len(sign) < size:
        half = len(sign)
        flip = np.where(np.arange(half) == 0, 1.0, -1.0)
        # (a, b)(c, d) = (a c - conj(d) b, d a + b conj(c))
        sign = np.block([[sign, sign.T], [sign * flip[None, :], -(sign * flip[:, None]).T]])
    unit = np.arange(size)
    conjugate = np.where(unit == 0, 1.0, -1.0)
    return sign * conjugate[None, :], unit[:, None] ^ unit[None, :]


def score_all(reference: Cube, estimate: Cube, ratio: int, valid: Mask | None = None) -> ReferenceScores:
    """Compute every score of :class:`ReferenceScores`."""
    return ReferenceScores(
        psnr(reference, estimate, valid),
        psnr(reference, estimate, valid, peak="global"),
        sam_deg(reference, estimate, valid),
        ergas(reference, estimate, ratio, valid),
        cc(reference, estimate, valid),
        rmse(reference, estimate, valid),
        ssim(reference, estimate, valid),
        q2n(reference, estimate, valid),
    )
