"""A small pair with known truth for the scene model, the change and the estimate: mixtures of five materials."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from hsfuse.degrade import Psf, decimate_separable, displaced_kernels, lowpass_decimate_array
from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.fusion.change.repair import RepairedGuide, repair_guide
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.classical.statistics import gather, signal_subspace
from hsfuse.fusion.scene_model.model import coarse_pair
from hsfuse.fusion.scene_model.pair import CoarsePair

RATIO = 3


@dataclass(frozen=True)
class Pair:
    hsi: NDArray[np.float32]
    msi: NDArray[np.float32]
    clean_msi: NDArray[np.float32]
    truth: NDArray[np.float32]
    srf: NDArray[np.float64]
    centre_nm: NDArray[np.float64]

    def context(self, **changes: object) -> FusionContext:
        facts = {"srf": self.srf, "psf": Psf(1.0)} | changes
        return FusionContext(RATIO, self.centre_nm, np.full(self.centre_nm.size, 10.0), **facts)

    def strips(self, msi: NDArray[np.float32] | None = None) -> list[LowResolutionStrip]:
        fine = self.msi if msi is None else msi
        low = lowpass_decimate_array(fine, RATIO, Psf(1.0))
        return [LowResolutionStrip(self.hsi, low, np.ones(low.shape[1:], bool), fine)]


def make_pair(
    coarse: tuple[int, int] = (30, 36), *, bands: int = 24, noise: float = 0.004, fwhm: float = 1.0,
    offset: tuple[float, float] = (0.0, 0.0), seed: int = 0, change: object = None,
) -> Pair:  # fmt: skip
    """``change`` takes the clean MSI and returns what the other day shows."""
    import torch

    rng = np.random.default_rng(seed)
    rows, cols = (size * RATIO for size in coarse)
    fields = np.stack([gaussian_filter(rng.standard_normal((rows, cols)), 1.5 + k) for k in range(5)])
    share = np.exp(4.0 * fields / fields.std(axis=(1, 2), keepdims=True) / 2.0)
    share /= share.sum(axis=0)
    centre = np.linspace(450.0, 1000.0, bands)
    spectra = 0.1 + 0.35 * np.stack([
        0.5 + 0.5 * np.sin(centre / (60.0 + 25.0 * k) + k) for k in range(5)
    ])  # fmt: skip
    truth = np.tensordot(spectra.T, share, axes=1).astype(np.float32)
    srf = np.exp(-0.5 * ((centre - np.array([[490.0], [560.0], [665.0], [840.0]])) / 30.0) ** 2)
    srf /= srf.sum(axis=1, keepdims=True)
    down, across = displaced_kernels(Psf(fwhm), RATIO, offset)
    hsi = decimate_separable(torch.from_numpy(truth)[None], RATIO, down, across)[0].numpy()
    clean = np.tensordot(srf, truth, axes=1).astype(np.float32)
    shown = clean if change is None else change(clean)  # type: ignore[operator]
    return Pair(
        (hsi + noise * rng.standard_normal(hsi.shape)).astype(np.float32),
        (shown + noise * rng.standard_normal(clean.shape)).astype(np.float32),
        clean, truth, srf, centre,
    )  # fmt: skip


def patchy_season(clean: NDArray[np.float32], red: float, nir: float) -> NDArray[np.float32]:
    """Return a guide of another season: what turns is told by the colours, how far it has turned by the place."""
    index, out = (clean[3] - clean[2]) / (clean[3] + clean[2]), clean.copy()
    field = gaussian_filter(np.random.default_rng(3).standard_normal(index.shape), 8.0)
    turned = np.clip(0.6 + 0.5 * field / field.std(), 0.0, 1.0) * np.clip(4.0 * (index + 0.1), 0.0, 1.0)
    out[2] *= 1.0 + red * turned
    out[3] *= 1.0 + nir * turned
    return np.asarray(out)


def shaken(pair: Pair, px: float = 0.15) -> Pair:
    """The pair with a HSI that stands off by a varying part of a pixel."""
    size = pair.hsi.shape[1:]
    field = gaussian_filter(np.random.default_rng(1).standard_normal((2, *size)), (0, 3, 3))
    field *= px / field.std(axis=(1, 2), keepdims=True)
    at = np.stack(np.meshgrid(*(np.arange(length) for length in size), indexing="ij")) + field
    moved = np.stack([map_coordinates(band, at, order=3, mode="nearest") for band in pair.hsi])
    return replace(pair, hsi=moved.astype(np.float32))


def psnr(truth: NDArray[np.floating], result: NDArray[np.floating]) -> float:
    error = ((truth - result) ** 2).mean(axis=(1, 2))
    return float(10.0 * np.log10(truth.max(axis=(1, 2)) ** 2 / error).mean())


def coarse_of(pair: Pair) -> CoarsePair:
    """The pair at low resolution."""
    space = signal_subspace(gather(pair.strips()))
    return coarse_pair(pair.hsi, np.ones(pair.hsi.shape[1:], bool), space, pair.srf)


def repaired_guide(pair: Pair) -> RepairedGuide:
    """Its guide as it is repaired."""
    return repair_guide(coarse_of(pair), pair.msi, Response(RATIO, Psf(1.0)))


def rms(x: NDArray[np.floating]) -> float:
    """Root mean square."""
    return float(np.sqrt((x**2).mean()))
