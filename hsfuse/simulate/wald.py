"""Pairs at reduced resolution from a sharp scene (Wald's protocol), under ideal and under real-life conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import Psf, decimate_separable, psf_kernel
from hsfuse.errors import InputError

FloatCube = NDArray[np.float32]
ConditionName = Literal["noise-free", "35dB", "field"]


@dataclass(frozen=True)
class Condition:
    """What goes wrong between the truth and the pair; methods do not get it.

    Attributes
    ----------
    hsi_snr_db, msi_snr_db
        Root mean square over noise in each band; None for no noise.
    psf_fwhm_px
        True width of the HSI's PSF over the nominal one.
    shift_px
        Length of the HSI's displacement in HSI pixels, in a direction that differs by scene.
    msi_gain, msi_offset
        Largest relative gain error and offset (of the band's mean) of the MSI bands.
    """

    hsi_snr_db: float | None = None
    msi_snr_db: float | None = None
    psf_fwhm_px: float = 1.0
    shift_px: float = 0.0
    msi_gain: float = 0.0
    msi_offset: float = 0.0


CONDITIONS: dict[ConditionName, Condition] = {
    "noise-free": Condition(),
    "35dB": Condition(35.0, 40.0),
    "field": Condition(30.0, 35.0, psf_fwhm_px=1.1, shift_px=0.2, msi_gain=0.03, msi_offset=0.01),
}


@dataclass(frozen=True)
class WaldPair:
    """A degraded scene: HSI and MSI (band, row, col), and the truth on the MSI's grid."""

    hsi: FloatCube
    msi: FloatCube
    truth: FloatCube


def reduce_scene(
    cube: FloatCube,
    msi: FloatCube,
    ratio: int,
    condition: Condition,
    *,
    psf: Psf | None = None,
    name: str = "",
    seed: int = 0,
) -> WaldPair:
    """Degrade a scene; equal names and seeds give equal pairs.

    Parameters
    ----------
    cube
        Sharp scene, shape (band, row, col), free of NaN; cropped to whole HSI pixels.
    msi
        The same scene as the MSI sees it, shape (msi band, row, col).
    ratio
        HSI pixel size over MSI pixel size.
    condition
        What goes wrong.
    psf
        Nominal PSF of the HSI; one HSI pixel wide when None.
    name, seed
        Decide noise, gains and the direction of the shift.

    Raises
    ------
    InputError
        The scene is smaller than one HSI pixel.
    """
    rng = np.random.default_rng([seed, *name.encode()])
    rows, cols = (size // ratio * ratio for size in cube.shape[1:])
    if min(rows, cols) < ratio:
        raise InputError(f"A scene of {cube.shape[1]} x {cube.shape[2]} pixels is too small for a ratio of {ratio}.")
    import torch

    truth = np.ascontiguousarray(cube[:, :rows, :cols])
    angle = rng.uniform(0.0, 2.0 * np.pi)
    shift = condition.shift_px * np.sin(angle), condition.shift_px * np.cos(angle)
    width = Psf(condition.psf_fwhm_px * (psf or Psf(1.0)).fwhm_px)
    kernels = [tuple(psf_kernel(width, ratio, offset_px=float(s))) for s in shift]
    hsi = decimate_separable(torch.from_numpy(truth)[None], ratio, *kernels)[0].numpy()
    guide = msi[:, :rows, :cols].astype(np.float64)
    gain = 1.0 + condition.msi_gain * rng.uniform(-1.0, 1.0, (len(guide), 1, 1))
    offset = condition.msi_offset * rng.uniform(-1.0, 1.0, (len(guide), 1, 1)) * guide.mean(axis=(1, 2), keepdims=True)
    return WaldPair(
        _noisy(hsi, condition.hsi_snr_db, rng), _noisy(gain * guide + offset, condition.msi_snr_db, rng), truth
    )


def _noisy(image: NDArray[np.floating], snr_db: float | None, rng: np.random.Generator) -> FloatCube:
    if snr_db is None:
        return image.astype(np.float32)
    sigma = np.sqrt((image.astype(np.float64) ** 2).mean(axis=(1, 2), keepdims=True)) * 10.0 ** (-snr_db / 20.0)
    noisy: FloatCube = (image + sigma * rng.normal(size=image.shape)).astype(np.float32)
    return noisy
