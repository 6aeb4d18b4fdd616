"""Losses. Each returns one value per patch, so that any split of a batch adds up to the same total."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

LossKind = Literal["relative", "l1-sam", "l1", "mse"]
_FLOOR = 0.1
"""Bands count by their scene deviation, but none by less than this share of the median band's."""
_LEAST_ERROR = 5e-3
"""The base estimate's error counts as at least this share of the band's deviation."""
_LEAST_ANGLE = 2e-3
"""The base estimate's angle counts as at least this, radians."""
_EPS = 1e-6


class BaseError(NamedTuple):
    """How far off the base estimate is, over the whole window that a patch comes from.

    Attributes
    ----------
    rms
        Root mean square error by band, shape (n, band).
    angle
        Mean spectral angle, radians, shape (n,).
    """

    rms: Tensor
    angle: Tensor

    @classmethod
    def of(cls, estimate: Tensor, target: Tensor, valid: Tensor) -> BaseError:
        """Measure base estimates (n, band, row, col) where ``valid`` (n, row, col) is above 0."""
        weight = valid / valid.sum(dim=(1, 2), keepdim=True).clamp(min=1.0)
        rms = ((estimate - target).square() * weight[:, None]).sum(dim=(2, 3)).sqrt()
        return cls(rms, (spectral_angle(estimate, target) * weight).sum(dim=(1, 2)))

    def as_values(self) -> dict[str, Tensor]:
        """Return it as values of a pair."""
        return {"base_rms": self.rms, "base_angle": self.angle}

    @classmethod
    def from_values(cls, values: Mapping[str, Tensor]) -> BaseError:
        """Take it from the values of a batch."""
        return cls(values["base_rms"], values["base_angle"])


@dataclass(frozen=True)
class FusionLoss:
    """Loss of a fused patch.

    Attributes
    ----------
    kind
        ``relative``: root mean square error of every band and the spectral angle, both as shares of the base estimate's
        in the window: a step towards the truth counts as much in a dark or quiet band, or in a clean scene, as
        elsewhere, which is what decibels averaged over bands and scenes reward. ``mse``: squared error in reflectance
        (the paper's). ``l1``: absolute error in units of each band's deviation in the scene: dark bands count as much
        as bright ones, and outliers (shadows, roofs that moved) less than with squares. ``l1-sam``: that plus the
        spectral angle.
    sam_weight
        Weight of the angle against the scaled error; in radians for ``l1-sam``.
    """

    kind: LossKind = "relative"
    sam_weight: float = 1.0

    def __call__(self, estimate: Tensor, target: Tensor, std: Tensor, valid: Tensor, base: BaseError) -> Tensor:
        """Return the loss of every patch.

        Parameters
        ----------
        estimate, target
            Shape (n, band, row, col).
        std
            Deviation of each band in its scene, shape (n, band).
        valid
            Weights of the pixels, shape (n, row, col).
        base
            Errors of the base estimate (of cubic interpolation where there is none).

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
        if self.kind == "relative":
            power = torch.maximum(base.rms, _LEAST_ERROR * std).clamp(min=1e-5).square()
            # A patch without valid pixels counts nothing at all.
            some = (valid.sum(dim=(1, 2)) > 0).to(error.dtype)
            shares = (error.square() * weight[:, None]).sum(dim=(2, 3)) / power
            angle = (spectral_angle(estimate, target) * weight).sum(dim=(1, 2))
            return some * (shares + _EPS).sqrt().mean(dim=1) + self.sam_weight * angle / base.angle.clamp(
                min=_LEAST_ANGLE
            )
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


def edge_loss(error: Tensor) -> Tensor:
    """Squared differences of an error along rows and columns (half each) and bands, one value per patch, shape (n,)."""
    rows, cols, bands = error.diff(dim=2), error.diff(dim=3), error.diff(dim=1)
    spatial = 0.5 * (rows.square().mean(dim=(1, 2, 3)) + cols.square().mean(dim=(1, 2, 3)))
    return spatial + bands.square().mean(dim=(1, 2, 3))


def smooth_l1_angle_loss(estimate: Tensor, target: Tensor, std: Tensor, valid: Tensor, *, share: float = 0.1) -> Tensor:
    """Smooth absolute error, spectral angle and squared error by band, in units of the bands' deviations.

    Parameters
    ----------
    estimate, target
        Shape (n, band, row, col).
    std
        Deviation of each band in its scene, shape (n, band).
    valid
        Weights of the pixels, shape (n, row, col).
    share
        Weight of the last two.

    Returns
    -------
    torch.Tensor
        Shape (n,); 0 for a patch without valid pixels.
    """
    weight = valid / valid.sum(dim=(1, 2), keepdim=True).clamp(min=1.0)
    error = (estimate - target) / std.clamp(min=1e-4)[:, :, None, None]
    size = error.abs()
    smooth = torch.where(size < 1.0, 0.5 * size.square(), size - 0.5)
    cosine = torch.nn.functional.cosine_similarity(estimate, target, dim=1, eps=_EPS)
    total = smooth.mean(dim=1) + share * (1.0 - cosine) + share * error.square().mean(dim=1)
    return (total * weight).sum(dim=(1, 2))
