"""What a registration found: matched windows as points, the field, and what else was seen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from hsfuse.coregister.boxes import Boxes
from hsfuse.coregister.correlate import GlobalPeak
from hsfuse.coregister.fine import FineFit
from hsfuse.coregister.fit import Choice
from hsfuse.coregister.layers import SecondLayer
from hsfuse.coregister.models import FloatArray, Points
from hsfuse.coregister.shadows import ShadowBias
from hsfuse.coregister.uncertainty import FieldUncertainty

if TYPE_CHECKING:
    from torch import Tensor

_CONVERGED_PX = 0.12
"""Least squares converge quadratically: after a step of this size, the next one is far below the noise."""


@dataclass(frozen=True)
class Match:
    """A lattice of measurements as points.

    Attributes
    ----------
    points
        Position, total displacement and standard error of the usable windows.
    correlation, share
        Multiple correlation and share of usable pixels of those windows.
    step
        Distance from the predicted to the measured displacement, in pixels.
    """

    points: Points
    correlation: FloatArray
    share: FloatArray
    step: FloatArray

    @property
    def converged(self) -> bool:
        """Whether the prediction was so near that measuring again would change nothing."""
        if not self.step.size:
            return False
        near = self.step < np.maximum(_CONVERGED_PX, 3.0 * self.points.sigma)
        return bool(near.mean() > 0.9)


@dataclass(frozen=True)
class Seen:
    """What is seen where the reference lies at a field.

    Attributes
    ----------
    check
        Points on pixels that were held back.
    lit, without_dark
        Pixels that are not dark, and the points that they measure; None where hardly any is dark.
    boxes
        What small boxes measure; None when they were not asked.
    layer
        Something that moved by itself.
    """

    check: Match | None
    lit: Tensor | None
    without_dark: Match | None
    boxes: Boxes | None
    layer: SecondLayer | None


@dataclass(frozen=True)
class Registration:
    """What was found, in target pixels (row, col).

    Attributes
    ----------
    peak
        Global correlation peak.
    shift
        Displacement at the peak.
    choice
        The field and the points' weights; None when there were too few points.
    match
        The points it was fitted to.
    check
        Points on pixels that the fit did not see (measured against the field); None when there are none.
    uncertainty
        How wrong the field is where.
    over_image
        Its variance (square pixels, of one coordinate) at positions spread evenly over what both images cover, clouds
        included, shape (position,).
    fine
        What small boxes say about displacement finer than the windows; None when they were not asked.
    second_layer
        Something that both images hold at another displacement; None when there is none.
    shadow
        How far shadows pulled the field; None when they did not.
    light_variance
        Variance of the error (square pixels, one coordinate) by light and shade that moved with the sun.
    """

    peak: GlobalPeak
    shift: tuple[float, float]
    choice: Choice | None = None
    match: Match | None = None
    check: Match | None = None
    uncertainty: FieldUncertainty | None = None
    over_image: FloatArray = field(default_factory=lambda: np.zeros(0))
    fine: FineFit | None = None
    second_layer: SecondLayer | None = None
    shadow: ShadowBias | None = None
    light_variance: float = 0.0
