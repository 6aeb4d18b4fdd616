"""Gram-Schmidt adaptive component substitution for hyperspectral bands, group by group.

Each HSI band belongs to the MSI band that it resembles most at low resolution. Within a group, the MSI band at low
resolution is a linear combination of the HSI bands (the synthetic intensity); the sharp MSI band then replaces that
intensity, and every band takes up the difference in proportion to its covariance with the intensity.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import UPSAMPLE_HALO_PX, upsample
from hsfuse.errors import HsfuseError
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip, ModelSpec
from hsfuse.fusion.classical.statistics import FloatMatrix, PairStatistics, gather

if TYPE_CHECKING:
    import torch


class Gsa(FusionMethod):
    """Gram-Schmidt adaptive by band groups.

    Parameters
    ----------
    ridge
        Ridge of the intensity regression, relative to the mean variance of the group's bands; with dozens of
        bands per group the regression is ill-posed without one.

    References
    ----------
    B. Aiazzi, S. Baronti, M. Selva, Improving component substitution pansharpening through multivariate regression
    of MS+Pan data, IEEE TGRS 45, 2007; grouping after N. Yokoya, C. Grohnfeldt, J. Chanussot, IEEE GRSM 5, 2017.
    """

    def __init__(self, *, ridge: float = 1e-3) -> None:
        self._ridge = ridge
        self._ratio = 1
        self._intensity: torch.Tensor | None = None
        self._gain: torch.Tensor | None = None
        self._offset: torch.Tensor | None = None

    @property
    def spec(self) -> ModelSpec:
        """Self-description."""
        return ModelSpec(
            name="gsa",
            kind="classical",
            halo_px=UPSAMPLE_HALO_PX,
            preferred_tile_px=192,
            bytes_per_pixel=1300,
            flop_per_pixel=6e3,
            reference="Aiazzi 2007; Yokoya 2017",
        )

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        """Learn groups, intensity weights and gains from the low-resolution pair."""
        import torch

        self._ratio = context.ratio
        statistics = gather(strips)
        intensity, gain = _group_wise(statistics, self._ridge, context.srf)
        # out = H + gain (M - mean M - intensity (H - mean H)): all constants in one offset.
        offset = gain @ (intensity @ statistics.hsi_mean - statistics.msi_mean)
        self._intensity, self._gain, self._offset = (
            torch.as_tensor(array, dtype=torch.float32, device=context.device) for array in (intensity, gain, offset)
        )

    def fuse(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        """Fuse (tile, band, row, col) with (tile, msi band, row * ratio, col * ratio)."""
        import torch

        if self._intensity is None or self._gain is None or self._offset is None:
            raise HsfuseError("The fusion method was not fitted to the scene.", hint="Call fit() before fuse().")
        hsi = hsi.float()
        # The intensity is linear, so it is formed on the coarse grid: c bands to interpolate instead of C.
        intensity = torch.matmul(self._intensity, hsi.flatten(2)).reshape(hsi.shape[0], -1, *hsi.shape[2:])
        detail = msi.float() - upsample(intensity, self._ratio)
        injected = torch.matmul(self._gain, detail.flatten(2)) + self._offset[:, None]
        return upsample(hsi, self._ratio).add_(injected.reshape(hsi.shape[0], -1, *msi.shape[2:]))


def _group_wise(
    statistics: PairStatistics, ridge: float, srf: NDArray[np.float64] | None
) -> tuple[FloatMatrix, FloatMatrix]:
    """Return intensity weights (msi band, band) and gains (band, msi band)."""
    bands = statistics.bands
    covariance = statistics.covariance
    hsi, cross, msi = covariance[:bands, :bands], covariance[:bands, bands:], covariance[bands:, bands:]
    variance = np.maximum(np.diag(hsi), 1e-12)
    correlation = cross / np.sqrt(variance[:, None] * np.maximum(np.diag(msi), 1e-12)[None, :])
    group = correlation.argmax(axis=1)
    intensity = np.zeros((len(msi), bands))
    gain = np.zeros((bands, len(msi)))
    for j in range(len(msi)):
        members = np.flatnonzero(group == j)
        if members.size == 0:
            continue
        inner = hsi[np.ix_(members, members)]
        target = cross[members, j]
        if srf is not None and srf[j].any():
            # The bands under the response make the MSI band; a group without them (far infrared) cannot.
            members_and_response = np.union1d(members, np.flatnonzero(srf[j]))
            inner = hsi[np.ix_(members_and_response, members_and_response)]
            target = cross[members_and_response, j]
        else:
            members_and_response = members
        loading = ridge * np.trace(inner) / len(inner) * np.eye(len(inner)) + 1e-12 * np.eye(len(inner))
        weights = np.linalg.solve(inner + loading, target)
        intensity[j, members_and_response] = weights
        power = float(weights @ inner @ weights)
        if power > 1e-12:
            gain[members, j] = hsi[np.ix_(members, members_and_response)] @ weights / power
    return intensity, gain
