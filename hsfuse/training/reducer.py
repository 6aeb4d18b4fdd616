"""Degrades windows of scenes by the ratio (Wald's protocol), with the disturbances that real pairs bring."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.degrade import Psf, apply_srf, lowpass_decimate
from hsfuse.fusion.classical.statistics import noise_std
from hsfuse.fusion.nets.reduced_validation import lost_noise
from hsfuse.grid import Slice2D
from hsfuse.training.augment import Disturbance
from hsfuse.training.pairs import PairFacts, ReducedPair
from hsfuse.training.scenes import TrainingScene


@dataclass(frozen=True)
class Reducer:
    """Makes reduced pairs.

    Attributes
    ----------
    centre_nm, fwhm_nm
        Bands of the references that have none of their own.
    device
        Torch device name.
    """

    centre_nm: NDArray[np.float64]
    fwhm_nm: NDArray[np.float64]
    device: str = "cpu"

    @torch.no_grad()
    def make(self, scene: TrainingScene, block: Slice2D, ratio: int, disturbance: Disturbance) -> ReducedPair:
        """Degrade a window; its sides are multiples of ``ratio``."""
        d = disturbance
        cut = (slice(None), *block.slices)
        target = d.orient(self._tensor(scene.reference[cut]))
        valid = d.orient(self._tensor(scene.valid[block.slices].astype(np.float32)))
        centre_nm, fwhm_nm = (
            (self.centre_nm, self.fwhm_nm) if scene.bands is None else (scene.bands.centre_nm, scene.bands.fwhm_nm)
        )
        target = target * self._tensor(d.brighten(centre_nm))[:, None, None]
        seen, target, own_noise = self._split_noise(target, valid, scene, d.seed)
        if scene.msi is not None:
            msi = d.orient(self._tensor(scene.msi[cut])) * d.brightness
        else:
            srf = scene.srf[min(int(d.srf_draw * len(scene.srf)), len(scene.srf) - 1)]
            msi = apply_srf(seen[None], srf)[0]
        if d.sensors is None:
            msi = d.disturb_msi(msi)
        else:
            msi = self._tensor(d.sensors.multispectral(msi.cpu().numpy(), np.random.default_rng([d.seed, 7])))
        nominal = Psf(scene.psf.fwhm_px * d.psf_nominal)
        blur = Psf(nominal.fwhm_px * d.psf_factor)
        if d.sensors is None:
            hsi = lowpass_decimate(d.displace(seen, ratio)[None], ratio, blur)[0]
        else:
            rng = np.random.default_rng([d.seed, 6])
            hsi = self._tensor(d.sensors.hyperspectral(seen.cpu().numpy(), centre_nm, ratio, rng))
        # Averaging made a measured HSI cleaner than it was; its noise is brought back.
        lost = lost_noise(own_noise, blur, ratio)
        noise = np.random.default_rng([d.seed, 3]).standard_normal(tuple(hsi.shape), np.float32)
        hsi = hsi + self._tensor(lost)[:, None, None] * self._tensor(noise)
        hsi = d.disturb_hsi(hsi)
        facts = PairFacts(
            centre_nm,
            fwhm_nm,
            nominal,
            scene.srf[0] if scene.srf else None,
            own_noise * np.sqrt(2.0),
            d.seed,
            d.sensors,
        )
        return ReducedPair(hsi, msi, target, valid, ratio, scene.name, facts)

    def _split_noise(
        self, target: Tensor, valid: Tensor, scene: TrainingScene, seed: int
    ) -> tuple[Tensor, Tensor, NDArray[np.float64]]:
        """Make a measured reference two: one that the pair is made from, one as truth, whose noise is independent.

        See :mod:`hsfuse.fusion.nets.reduced_validation`; otherwise a network would learn to keep the noise.
        """
        if scene.ranges != "measured":
            return target, target, np.zeros(len(target))
        level = self._noise_of(target, valid)
        noise = np.random.default_rng([seed, 5]).standard_normal(tuple(target.shape), np.float32)
        split = self._tensor(level)[:, None, None] * self._tensor(noise)
        return target + split, target - split, level

    def _noise_of(self, target: Tensor, valid: Tensor) -> NDArray[np.float64]:
        """Noise of a measured reference, shape (band,); zeros where there are too few pixels to tell."""
        samples = target.cpu().numpy()[:, valid.bool().cpu().numpy()].astype(np.float64)
        if samples.shape[1] <= samples.shape[0] + 10:
            return np.zeros(len(samples))
        return noise_std(np.atleast_2d(np.cov(samples)), samples.shape[1])

    def _tensor(self, values: NDArray[np.floating]) -> Tensor:
        # A copy: scenes may be read-only maps of a file, and must never change.
        return torch.as_tensor(np.array(values, dtype=np.float32), device=self.device)
