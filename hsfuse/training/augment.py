"""Disturbances that training pairs get, so that a network meets in training what real pairs bring.

A :class:`Disturbance` is drawn once per training window and is a plain value: the same value gives the same pair.
Everything happens on the reference side of Wald's protocol, before or after the degradation, and the target stays
what it is: the reference on the grid of the multispectral image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.degrade.two_sensors import TwoSensors

_SMOOTH_TERMS = 4
_BESIDE_SENSORS = ("brightness", "curve", "missing", "srf_draw", "turns", "flip", "seed")
"""What is drawn for pairs of two sensors' models too."""


@dataclass(frozen=True)
class AugmentationRanges:
    """How far each disturbance may go; pairs are uniform ranges.

    Attributes
    ----------
    hsi_snr_db, msi_snr_db
        Noise, as the ratio of a band's root mean square to the noise's deviation.
    psf_nominal
        Factor on the PSF width that the methods are given: sensors differ.
    psf_spread
        Relative deviation of the true PSF width from the one that the methods are given.
    shift_px
        Largest residual misregistration in each direction, HSI pixels.
    stretch
        Largest relative change of the misregistration across the window (linear).
    msi_gain, msi_offset
        Relative gain error and offset (reflectance) of every MSI band.
    brightness
        Relative range of one factor on both images.
    spectral_curve
        Deviation of a smooth random factor along the wavelength (simulated MSI only).
    stripes
        Largest deviation of column stripes, as a share of the noise's.
    missing_share
        Probability that up to three HSI bands are missing (and filled from their neighbours).
    clean_share
        Probability that a window gets no noise and no stripes at all: there, the base estimate is hardest to improve.
    two_sensors_share
        Probability that blur, place, noise and gain are those of two sensors' models instead of all that.
    """

    hsi_snr_db: tuple[float, float] = (25.0, 45.0)
    msi_snr_db: tuple[float, float] = (30.0, 50.0)
    psf_nominal: tuple[float, float] = (0.85, 1.3)
    psf_spread: float = 0.15
    shift_px: float = 0.4
    stretch: float = 0.5
    msi_gain: float = 0.05
    msi_offset: float = 0.01
    brightness: float = 0.2
    spectral_curve: float = 0.05
    stripes: float = 0.6
    missing_share: float = 0.1
    clean_share: float = 0.15
    two_sensors_share: float = 0.0


FULL = AugmentationRanges()
"""For references that are clean and perfectly aligned: generated scenes and airborne cubes."""
MEASURED = AugmentationRanges(
    (34.0, 50.0), (40.0, 55.0), (1.0, 1.0), 0.08, 0.12, 0.2, 0.015, 0.002, 0.2, 0.0, 0.2, 0.05, 0.0,
)  # fmt: skip
"""For measured pairs: they carry their own noise, misregistration and gain differences already."""
MODERATE = AugmentationRanges(
    (28.0, 41.0), (34.0, 46.0), (0.95, 1.1), 0.1, 0.2, 0.2, 0.04, 0.005, 0.2, 0.0, 0.3, 0.05, 0.07,
)  # fmt: skip
"""For clean references, where a method's own estimate of blur, shift and noise comes first. Noise, blur and shift are
those of usual pairs: weights trained on wider ranges trusted non-local Bayes half as much as gained most on them."""
MIXED = replace(MODERATE, two_sensors_share=0.4)
"""The same, and pairs of two sensors' models: displaced locally, with a blur that is no Gaussian."""
RANGES = {"full": FULL, "moderate": MODERATE, "measured": MEASURED, "mixed": MIXED}


@dataclass(frozen=True)
class Disturbance:
    """What happens to one training window; see :class:`AugmentationRanges`. The default does nothing."""

    hsi_snr_db: float = math.inf
    msi_snr_db: float = math.inf
    psf_nominal: float = 1.0
    psf_factor: float = 1.0
    shift_px: tuple[float, float] = (0.0, 0.0)
    stretch: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    msi_gain: float = 0.0
    msi_offset: float = 0.0
    brightness: float = 1.0
    curve: tuple[float, ...] = ()
    stripes: float = 0.0
    missing: int = 0
    srf_draw: float = 0.0
    turns: int = 0
    flip: bool = False
    seed: int = 0
    sensors: TwoSensors | None = None

    @classmethod
    def draw(cls, ranges: AugmentationRanges, rng: np.random.Generator) -> Disturbance:
        """Draw one; the number of random values used before two sensors are drawn never depends on the ranges."""
        shift = rng.uniform(-1.0, 1.0, 2) * ranges.shift_px
        stretch = rng.uniform(-1.0, 1.0, 4) * ranges.shift_px * ranges.stretch
        curve = rng.normal(0.0, 1.0, _SMOOTH_TERMS) * ranges.spectral_curve
        found = cls(
            hsi_snr_db=float(rng.uniform(*ranges.hsi_snr_db)),
            msi_snr_db=float(rng.uniform(*ranges.msi_snr_db)),
            psf_nominal=float(rng.uniform(*ranges.psf_nominal)),
            psf_factor=float(1.0 + rng.uniform(-1.0, 1.0) * ranges.psf_spread),
            shift_px=(float(shift[0]), float(shift[1])),
            stretch=(float(stretch[0]), float(stretch[1]), float(stretch[2]), float(stretch[3])),
            msi_gain=ranges.msi_gain,
            msi_offset=ranges.msi_offset,
            brightness=float(1.0 + rng.uniform(-1.0, 1.0) * ranges.brightness),
            curve=tuple(float(c) for c in curve) if ranges.spectral_curve else (),
            stripes=float(max(rng.uniform(-1.0, 1.0), 0.0) * ranges.stripes),
            missing=int(rng.integers(1, 4)) * int(rng.random() < ranges.missing_share),
            srf_draw=float(rng.random()),
            turns=int(rng.integers(4)),
            flip=bool(rng.random() < 0.5),
            seed=int(rng.integers(1 << 31)),
        )
        if rng.random() < ranges.clean_share:
            found = replace(found, hsi_snr_db=math.inf, msi_snr_db=math.inf, stripes=0.0)
        if rng.random() < ranges.two_sensors_share:
            kept = {name: getattr(found, name) for name in _BESIDE_SENSORS}
            return cls(sensors=TwoSensors.draw(rng), **kept)
        return found

    def upright(self) -> Disturbance:
        """Return the same disturbance without rotation and mirroring."""
        return replace(self, turns=0, flip=False)

    def orient(self, x: Tensor) -> Tensor:
        """Rotate and mirror (..., row, col)."""
        turned = torch.rot90(x, self.turns, (-2, -1))
        return (turned.flip(-1) if self.flip else turned).contiguous()

    def brighten(self, centre_nm: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the factor on every HSI band, shape (band,)."""
        factor = np.full(centre_nm.shape, self.brightness)
        if self.curve:
            span = max(float(np.ptp(centre_nm)), 1.0)
            position = 2.0 * (centre_nm - centre_nm.min()) / span - 1.0
            factor *= np.exp(np.polynomial.chebyshev.chebval(position, self.curve))
        return factor.astype(np.float32)

    def displace(self, x: Tensor, ratio: int) -> Tensor:
        """Move (band, row, col) of the fine grid by the misregistration (edges repeat)."""
        if not any(self.shift_px) and not any(self.stretch):
            return x
        rows, cols = x.shape[-2:]
        v, u = torch.meshgrid(_axis(rows, x), _axis(cols, x), indexing="ij")
        a, b, c, d = self.stretch
        # A whole grid spans 2 in the sampler's coordinates.
        row = v + (self.shift_px[0] + a * v + b * u) * ratio * 2.0 / rows
        col = u + (self.shift_px[1] + c * v + d * u) * ratio * 2.0 / cols
        grid = torch.stack([col, row], dim=-1)[None]
        return torch.nn.functional.grid_sample(
            x[None], grid, mode="bicubic", padding_mode="border", align_corners=False
        )[0]

    def disturb_hsi(self, hsi: Tensor) -> Tensor:
        """Add noise and stripes to (band, row, col), then lose some bands."""
        rng = np.random.default_rng([self.seed, 1])
        bands, rows, cols = hsi.shape
        if math.isfinite(self.hsi_snr_db):
            level = hsi.square().mean(dim=(1, 2)).sqrt() * 10.0 ** (-self.hsi_snr_db / 20.0)
            # Detectors are not equally good in all bands.
            level = level * _tensor(np.exp(rng.normal(0.0, 0.35, bands)), hsi)
            hsi = hsi + level[:, None, None] * _tensor(rng.standard_normal((bands, rows, cols), np.float32), hsi)
            if self.stripes:
                columns = _tensor(rng.standard_normal((bands, 1, cols), np.float32), hsi)
                hsi = hsi + self.stripes * level[:, None, None] * columns
        if self.missing and bands > 8:
            lost = np.sort(rng.choice(np.arange(1, bands - 1), size=self.missing, replace=False))
            hsi = hsi.clone()
            for band in lost:
                hsi[band] = 0.5 * (hsi[band - 1] + hsi[band + 1])
        return hsi

    def disturb_msi(self, msi: Tensor) -> Tensor:
        """Apply gain, offset and noise to (msi band, row, col)."""
        rng = np.random.default_rng([self.seed, 2])
        count = msi.shape[0]
        gain = _tensor(1.0 + self.msi_gain * rng.uniform(-1.0, 1.0, count), msi)
        offset = _tensor(self.msi_offset * rng.uniform(-1.0, 1.0, count), msi)
        if self.msi_gain or self.msi_offset:
            msi = msi * gain[:, None, None] + offset[:, None, None]
        if math.isfinite(self.msi_snr_db):
            level = msi.square().mean(dim=(1, 2), keepdim=True).sqrt() * 10.0 ** (-self.msi_snr_db / 20.0)
            msi = msi + level * _tensor(rng.standard_normal(tuple(msi.shape), np.float32), msi)
        return msi


def _axis(size: int, like: Tensor) -> Tensor:
    """Pixel centres in the sampler's coordinates (-1 to 1 from edge to edge)."""
    return (torch.arange(size, device=like.device, dtype=torch.float32) + 0.5) * (2.0 / size) - 1.0


def _tensor(values: NDArray[np.floating], like: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32, device=like.device)
