"""Scores without a reference: QNR for an MSI instead of a PAN band, and Wald's consistency both ways.

Everything is gathered window by window, so a whole scene can be judged from a few sampled windows. Inside a window
the universal quality index Q is computed on blocks that cover the same ground at both resolutions; because a block's
covariance matrix holds all pairs of bands at once, 100 bands cost no more than a matrix product.

References
----------
L. Alparone et al., Multispectral and panchromatic data fusion assessment without reference, PE&RS 74, 2008;
L. Wald et al., Fusion of satellite images of different spatial resolutions, PE&RS 63, 1997.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import Psf, lowpass_decimate_array
from hsfuse.errors import UsageError
from hsfuse.metrics.reference import ReferenceScores, q2n_of_pixels, score_all

Cube = NDArray[np.floating]
Mask = NDArray[np.bool_]
FloatArray = NDArray[np.float64]

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


@dataclass
class NoReferenceQuality:
    """Gathers windows of a fused scene and scores them together.

    Parameters
    ----------
    ratio
        HSI pixel size over MSI pixel size.
    psf
        PSF of the HSI.
    srf
        Weights that turn HSI bands into MSI bands, shape (msi band, band); None when unknown. A row of zeros (a band
        that the HSI does not cover) is passed over.
    """

    ratio: int
    psf: Psf
    srf: FloatArray | None = None
    blocks: int = 0
    _spectral: FloatArray | None = field(default=None, repr=False)
    _spatial: FloatArray | None = field(default=None, repr=False)
    _consistent: float = field(default=0.0, repr=False)
    _squares: FloatArray | None = field(default=None, repr=False)
    _sums: FloatArray | None = field(default=None, repr=False)
    _pixels: int = field(default=0, repr=False)
    _angle: float = field(default=0.0, repr=False)
    _msi_squares: FloatArray | None = field(default=None, repr=False)
    _msi_pixels: int = field(default=0, repr=False)

    def add(self, fused: Cube, hsi: Cube, msi: Cube, valid: Mask) -> None:
        """Add one window.

        Parameters
        ----------
        fused
            Shape (band, row * ratio, col * ratio), NaN where nodata.
        hsi
            Shape (band, row, col).
        msi
            Shape (msi band, row * ratio, col * ratio).
        valid
            Usable fine pixels.
        """
        r = self.ratio
        if fused.shape[1:] != (hsi.shape[1] * r, hsi.shape[2] * r) or msi.shape[1:] != fused.shape[1:]:
            raise UsageError("The fused cube, the HSI and the MSI of a window do not nest.")
        fine = valid & np.all(np.isfinite(fused), axis=0) & np.all(np.isfinite(msi), axis=0)
        blocks = fine.reshape(hsi.shape[1], r, hsi.shape[2], r)
        coarse = np.all(blocks, axis=(1, 3)) & np.all(np.isfinite(hsi), axis=0)
        reach = self.psf.reach_px(r)
        # A degraded pixel needs valid pixels under its whole PSF.
        clear = _eroded(coarse, reach)
        low_fused = lowpass_decimate_array(np.nan_to_num(fused), r, self.psf).astype(np.float64)
        low_msi = lowpass_decimate_array(np.nan_to_num(msi), r, self.psf).astype(np.float64)
        self._add_consistency(low_fused, hsi.astype(np.float64), clear)
        self._add_msi(fused, msi, fine)
        self._add_blocks(fused, hsi, msi, (low_fused, low_msi), clear)

    def _add_consistency(self, low: FloatArray, hsi: FloatArray, clear: Mask) -> None:
        x, y = hsi[:, clear], low[:, clear]
        if x.shape[1] == 0:
            return
        if self._squares is None or self._sums is None:
            self._squares, self._sums = np.zeros(len(x)), np.zeros(len(x))
        self._squares += ((x - y) ** 2).sum(axis=1)
        self._sums += x.sum(axis=1)
        norm = np.maximum(np.linalg.norm(x, axis=0) * np.linalg.norm(y, axis=0), 1e-12)
        self._angle += float(np.degrees(np.arccos(np.clip((x * y).sum(axis=0) / norm, -1, 1))).sum())
        self._pixels += x.shape[1]

    def _add_msi(self, fused: Cube, msi: Cube, fine: Mask) -> None:
        if self.srf is None or not fine.any():
            return
        covered = self.srf.sum(axis=1) > 0
        seen = self.srf[covered] @ fused[:, fine].astype(np.float64)
        squares = np.full(len(covered), np.nan)
        squares[covered] = ((seen - msi[covered][:, fine]) ** 2).sum(axis=1)
        self._msi_squares = squares if self._msi_squares is None else self._msi_squares + squares
        self._msi_pixels += int(fine.sum())

    def _add_blocks(self, fused: Cube, hsi: Cube, msi: Cube, low: tuple[FloatArray, FloatArray], clear: Mask) -> None:
        r, side = self.ratio, min(BLOCK_PX, *clear.shape)
        for row in range(0, clear.shape[0] - side + 1, side):
            for col in range(0, clear.shape[1] - side + 1, side):
                block = slice(row, row + side), slice(col, col + side)
                if not clear[block].all():
                    continue
                fine = slice(row * r, (row + side) * r), slice(col * r, (col + side) * r)
                x, m = _pixels(fused, fine), _pixels(msi, fine)
                h, down, n = _pixels(hsi, block), _pixels(low[0], block), _pixels(low[1], block)
                spectral = universal_quality(x, x) - universal_quality(h, h)
                spatial = universal_quality(x, m) - universal_quality(h, n)
                self._spectral = spectral if self._spectral is None else self._spectral + spectral
                self._spatial = spatial if self._spatial is None else self._spatial + spatial
                self._consistent += q2n_of_pixels(h, down)
                self.blocks += 1

    @property
    def band_rmse(self) -> FloatArray | None:
        """RMSE of the degraded cube against the HSI, shape (band,); None without a usable pixel."""
        return None if self._squares is None else np.sqrt(self._squares / self._pixels)

    def scores(self) -> dict[str, float | None]:
        """Return the scores of all windows together.

        ``d_lambda``, ``d_s`` and ``qnr`` (1 - d_lambda)(1 - d_s); ``hqnr``: the Q2n of the degraded cube against the
        HSI times (1 - d_s); ``hsi_rmse``, ``hsi_sam_deg``, ``hsi_ergas``: the cube degraded to the HSI against the
        HSI; ``msi_rmse``: the cube seen through the MSI's responses against the MSI. None where no window allowed a
        score.
        """
        found: dict[str, float | None] = dict.fromkeys(
            ("qnr", "hqnr", "d_lambda", "d_s", "hsi_rmse", "hsi_sam_deg", "hsi_ergas", "msi_rmse")
        )
        if self._spectral is not None and self._spatial is not None:
            # Q is a mean over the blocks first; the distortion is how far that mean moved.
            count = len(self._spectral)
            spectral = float(np.abs(self._spectral / self.blocks).sum()) / max(count * (count - 1), 1)
            spatial = float(np.abs(self._spatial / self.blocks).mean())
            found |= {"d_lambda": spectral, "d_s": spatial, "qnr": (1 - spectral) * (1 - spatial)}
            found["hqnr"] = self._consistent / self.blocks * (1 - spatial)
        if self._squares is not None and self._sums is not None:
            mean = self._sums / self._pixels
            error = self._squares / self._pixels
            some = np.abs(mean) > 1e-9
            found["hsi_rmse"] = float(np.sqrt(error.mean()))
            found["hsi_sam_deg"] = self._angle / self._pixels
            found["hsi_ergas"] = float(100.0 / self.ratio * math.sqrt(float((error[some] / mean[some] ** 2).mean())))
        if self._msi_squares is not None and np.isfinite(self._msi_squares).any():
            found["msi_rmse"] = float(np.sqrt(np.nanmean(self._msi_squares) / self._msi_pixels))
        return found


def d_lambda(fused: Cube, hsi: Cube, ratio: int) -> float:
    """Spectral distortion of a whole cube: how far the Q between its bands is from that between the HSI's.

    Parameters
    ----------
    fused
        Shape (band, row * ratio, col * ratio), free of NaN.
    hsi
        Shape (band, row, col), free of NaN.
    ratio
        HSI pixel size over MSI pixel size.
    """
    return _whole(fused, hsi, fused[:1], ratio, Psf())["d_lambda"]


def d_s(fused: Cube, hsi: Cube, msi: Cube, ratio: int, psf: Psf) -> float:
    """Spatial distortion of a whole cube: how far the Q of its bands with the MSI's moves between the resolutions.

    The mean runs over all pairs of an HSI band and an MSI band, the extension of Alparone's index from one
    panchromatic band to several. Arguments as for :meth:`NoReferenceQuality.add`, free of NaN.
    """
    return _whole(fused, hsi, msi, ratio, psf)["d_s"]


def qnr(fused: Cube, hsi: Cube, msi: Cube, ratio: int, psf: Psf) -> float:
    """Quality without reference of a whole cube: (1 - d_lambda)(1 - d_s)."""
    return _whole(fused, hsi, msi, ratio, psf)["qnr"]


def hqnr(fused: Cube, hsi: Cube, msi: Cube, ratio: int, psf: Psf) -> float:
    """Hybrid QNR of a whole cube: Q2n of the degraded cube against the HSI, times (1 - d_s).

    References
    ----------
    M. M. Khan, L. Alparone, J. Chanussot, Pansharpening quality assessment using the modulation transfer functions
    of instruments, IEEE TGRS 47, 2009.
    """
    return _whole(fused, hsi, msi, ratio, psf)["hqnr"]


def spectral_consistency(fused: Cube, hsi: Cube, ratio: int, psf: Psf, valid: Mask | None = None) -> ReferenceScores:
    """Wald's first property: the cube, degraded with the PSF, against the HSI.

    Parameters
    ----------
    fused
        Shape (band, row * ratio, col * ratio); NaN spreads over the PSF.
    hsi
        Shape (band, row, col), the reference.
    ratio, psf
        Pixel size ratio and PSF of the HSI.
    valid
        Usable HSI pixels.
    """
    return score_all(hsi, lowpass_decimate_array(fused, ratio, psf), ratio, valid)


def spatial_consistency(
    fused: Cube, msi: Cube, srf: FloatArray, ratio: int, valid: Mask | None = None
) -> ReferenceScores:
    """Consistency with the guide: the cube, seen through the MSI's responses, against the MSI.

    Parameters
    ----------
    fused
        Shape (band, row, col).
    msi
        Shape (msi band, row, col), the reference.
    srf
        Shape (msi band, band); bands whose row is zero (not covered by the HSI) are left out.
    ratio
        Pixel size ratio (for ERGAS).
    valid
        Usable MSI pixels.
    """
    covered = srf.sum(axis=1) > 0
    if not covered.any():
        raise UsageError("No MSI band is covered by the HSI's bands.")
    seen = np.tensordot(srf[covered], fused, 1)
    return score_all(msi[covered], seen, ratio, valid)


def _whole(fused: Cube, hsi: Cube, msi: Cube, ratio: int, psf: Psf) -> dict[str, float]:
    quality = NoReferenceQuality(ratio, psf)
    quality.add(fused, hsi, msi, np.ones(fused.shape[1:], bool))
    found = {name: value for name, value in quality.scores().items() if value is not None}
    if not quality.blocks:
        raise UsageError(f"The image is too small or too broken for a block of {BLOCK_PX} HSI pixels.")
    return found


def _pixels(cube: Cube, block: tuple[slice, slice]) -> FloatArray:
    return np.asarray(cube[(slice(None), *block)].reshape(len(cube), -1), dtype=np.float64)


def _eroded(mask: Mask, pixels: int) -> Mask:
    from scipy.ndimage import binary_erosion

    # The window's own edge counts as invalid too: beyond it, the PSF would see replicated pixels.
    shrunk: Mask = binary_erosion(mask, np.ones((2 * pixels + 1, 2 * pixels + 1), bool), border_value=0)
    return shrunk
