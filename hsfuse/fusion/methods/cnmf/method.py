"""Coupled non-negative matrix factorisation: HSI and MSI share materials, each shows them in its own way.

Endmember spectra are learned from the low-resolution HSI of the whole scene; their MSI colours follow from the
response between the sensors. Each tile is then unmixed twice: the HSI pixels give the starting abundances, the MSI
pixels sharpen them. All updates are pixel by pixel, so tiles are exact.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from hsfuse.degrade import UPSAMPLE_HALO_PX, upsample
from hsfuse.errors import HsfuseError
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip, ModelSpec
from hsfuse.fusion.classical.statistics import MIN_PIXELS, FloatMatrix
from hsfuse.fusion.classical.unmixing import (
    EPSILON,
    endmembers_vca,
    factorise,
    response_between,
    sample_pixels,
    too_few_pixels,
)

if TYPE_CHECKING:
    import torch

_SAMPLES = 6000
_COARSE_FACTOR = 4
"""Updates on coarse pixels per update on fine ones: they are few, and their abundances start from nothing."""
_SMALLEST_START = 1e-4
"""Multiplicative updates never leave zero; clipped interpolation starts a little above it."""


class Cnmf(FusionMethod):
    """CNMF with one outer cycle.

    Parameters
    ----------
    endmembers
        Number of materials; fewer where the HSI has fewer bands.
    iterations
        Multiplicative updates of each unmixing of a tile.
    learning_iterations
        Updates while the spectra are learned.

    References
    ----------
    N. Yokoya, T. Yairi, A. Iwasaki, Coupled nonnegative matrix factorization unmixing for hyperspectral and
    multispectral data fusion, IEEE TGRS 50, 2012.
    """

    def __init__(self, *, endmembers: int = 30, iterations: int = 200, learning_iterations: int = 200) -> None:
        self._endmembers, self._iterations, self._learning = endmembers, iterations, learning_iterations
        self._ratio = 1
        self._spectra: torch.Tensor | None = None
        self._colours: torch.Tensor | None = None
        self._offset: torch.Tensor | None = None
        self._weights = (0.0, 0.0)

    @property
    def spec(self) -> ModelSpec:
        """Self-description."""
        return ModelSpec(
            name="cnmf",
            kind="classical",
            halo_px=UPSAMPLE_HALO_PX,
            preferred_tile_px=96,
            bytes_per_pixel=1400,
            flop_per_pixel=1e5,
            reference="Yokoya 2012",
        )

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        """Learn endmember spectra and the response between the sensors.

        Raises
        ------
        OverlapError
            Too few pixels are valid in both images.
        """
        import torch

        self._ratio = context.ratio
        hsi, msi = sample_pixels(strips, _SAMPLES, context.seed)
        if hsi.shape[1] < MIN_PIXELS:
            raise too_few_pixels(hsi.shape[1])
        hsi = np.maximum(hsi, 0.0)
        weights, offset = response_between(hsi, msi)
        self._weights = _sum_to_one_weight(hsi), _sum_to_one_weight(msi)
        start = endmembers_vca(hsi, self._endmembers, context.seed)
        spectra = factorise(hsi, start, self._weights[0], self._learning)
        self._spectra, self._colours, self._offset = (
            torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32, device=context.device)
            for array in (spectra, weights @ spectra, offset)
        )

    def fuse(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        """Fuse (tile, band, row, col) with (tile, msi band, row * ratio, col * ratio)."""
        import torch

        if self._spectra is None or self._colours is None or self._offset is None:
            raise HsfuseError("The fusion method was not fitted to the scene.", hint="Call fit() before fuse().")
        count = self._spectra.shape[1]
        uniform = hsi.new_full((hsi.shape[0], count, hsi[0, 0].numel()), 1.0 / count)
        coarse = _unmix(
            hsi.float().flatten(2), self._spectra, uniform, self._weights[0], _COARSE_FACTOR * self._iterations
        )
        start = upsample(coarse.reshape(hsi.shape[0], count, *hsi.shape[2:]), self._ratio)
        corrected = msi.float().flatten(2) - self._offset[:, None]
        fine = _unmix(
            corrected, self._colours, start.clamp_(min=_SMALLEST_START).flatten(2), self._weights[1], self._iterations
        )
        return torch.matmul(self._spectra, fine).reshape(hsi.shape[0], -1, *msi.shape[2:])


def _sum_to_one_weight(pixels: FloatMatrix) -> float:
    """Weight of the sum-to-one row: as strong as one average band."""
    return float(np.sqrt(np.mean(np.square(pixels)))) + EPSILON


def _unmix(
    pixels: torch.Tensor, spectra: torch.Tensor, abundance: torch.Tensor, weight: float, iterations: int
) -> torch.Tensor:
    """Update abundances (n, endmember, pixel) for fixed spectra (band, endmember), with sum-to-one as one more band."""
    import torch

    gram = spectra.T @ spectra + weight**2
    target = torch.matmul(spectra.T, pixels.clamp_min(0.0)) + weight**2
    abundance = abundance.clone()
    for _ in range(iterations):
        modelled = torch.matmul(gram, abundance).add_(EPSILON)
        abundance.mul_(target).div_(modelled)
    return abundance
