"""Losses. Each returns one value per patch, so that any split of a batch adds up to the same total."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LossKind = Literal["l1-sam", "l1", "mse"]
_FLOOR = 0.1
"""Bands count by their scene deviation, but none by less than this share of the median band's."""
_EPS = 1e-6


@dataclass(frozen=True)
class FusionLoss:
    """Loss of a fused patch.

    Attributes
    ----------
    kind
        ``mse``: squared error in reflectance (the paper's). ``l1``: absolute error in units of each band's deviation
        in the scene: dark bands count as much as bright ones, and outliers (shadows, roofs that moved) less than
        with squares. ``l1-sam``: that plus the spectral angle.
    sam_weight
        Weight of the angle in radians against the scaled error.
    """

    kind: LossKind = "l1-sam"
    sam_weight: float = 1.0

    def __call__(self, estimate: Tensor, target: Tensor, std: Tensor, valid: Tensor) -> Tensor:
        """Return the loss of every patch.

        Parameters
        ----------
        estimate, target
            Shape (n, band, row, col).
        std
            Deviation of each band in its scene, shape (n, band).
        valid
            Weights of the pixels, shape (n, row, col).

        Returns
        -------
        torch.Tensor
            Shape (n,); 0 for a patch without valid pixels.
        """
        estimate, target = estimate.float(), target.float()
        weight = valid / valid.sum(dim=(1, 2), keepdim=True).clamp(min=1.0)
        error = estimate - target
        if self.kind == "mse":
            return (error.square().mean(dim=1) * weight).sum(dim=(1, 2))
        floor = _FLOOR * std.median(dim=1, keepdim=True).values
        scale = torch.maximum(std, floor).clamp(min=1e-4)[:, :, None, None]
        loss = ((error.abs() / scale).mean(dim=1) * weight).sum(dim=(1, 2))
        if self.kind == "l1-sam":
            loss = loss + self.sam_weight * (spectral_angle(estimate, target) * weight).sum(dim=(1, 2))
        return loss


def spectral_angle(a: Tensor, b: Tensor) -> Tensor:
    """Angle between spectra, about radians, shape (n, row, col).

    The distance of the normalised spectra: equal to the angle up to its third power, and unlike an arc cosine with
    a finite gradient where the spectra agree.
    """
    u = a / a.square().sum(dim=1, keepdim=True).clamp(min=_EPS).sqrt()
    v = b / b.square().sum(dim=1, keepdim=True).clamp(min=_EPS).sqrt()
    return ((u - v).square().sum(dim=1) + _EPS).sqrt()
