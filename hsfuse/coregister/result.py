"""What a co-registration found: a verdict, a field, tie points, and an error measured on points it did not use."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hsfuse.coregister.field import DisplacementField, FloatArray
from hsfuse.coregister.support import Support

Verdict = Literal["accepted", "global only", "rejected", "off"]


@dataclass(frozen=True)
class TiePoints:
    """Measured displacements, one entry per matching window.

    Attributes
    ----------
    x, y
        Claimed map positions of the window centres, shape (point,), in the target's reference system.
    dx_m, dy_m
        Measured displacement (to be added to the claimed position).
    sigma_m
        Standard error of one coordinate, from the window's own residuals.
    correlation
        Multiple correlation of the window after alignment, 0 to 1.
    confidence
        0 to 1: agreement with the final field times texture; 0 for rejected points.
    used
        True when the point took part in the fit (False: rejected as an outlier, or a check point).
    residual_m
        Distance to the final field.
    """

    x: FloatArray
    y: FloatArray
    dx_m: FloatArray
    dy_m: FloatArray
    sigma_m: FloatArray
    correlation: FloatArray
    confidence: FloatArray
    used: NDArray[np.bool_]
    residual_m: FloatArray

    @property
    def size(self) -> int:
        """Number of points."""
        return int(self.x.size)

    @classmethod
    def empty(cls) -> TiePoints:
        """No points."""
        nothing = np.zeros(0)
        return cls(*(nothing,) * 7, np.zeros(0, dtype=np.bool_), nothing)


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class SwirShift:
    """Misalignment of the SWIR bands with the VNIR bands.

    Attributes
    ----------
    dx_m, dy_m
        To be added to a SWIR band's claimed position on top of the field (target's reference system, metres).
    sigma_m
        Standard error of each of the two.
    spread_m
        How much the misalignment varies inside the scene beyond the noise of its measurement (one coordinate).
    windows
        Independent windows behind the figures.
    correlation
        Their median correlation.
    reference
        What the SWIR bands were compared with.
    corrected
        Whether the SWIR bands were given this displacement.
    """

    dx_m: float
    dy_m: float
    sigma_m: float
    spread_m: float
    windows: int
    correlation: float
    reference: str
    corrected: bool = False

    @property
    def length_m(self) -> float:
        """Length of the misalignment."""
        return math.hypot(self.dx_m, self.dy_m)

    @property
    def significant(self) -> bool:
        """Whether it is larger than what chance makes of none (99 %)."""
        return self.length_m > 3.0 * self.sigma_m

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "dx_m": round(self.dx_m, 2),
            "dy_m": round(self.dy_m, 2),
            "sigma_m": round(self.sigma_m, 2),
            "spread_m": round(self.spread_m, 2),
            "windows": self.windows,
            "correlation": round(self.correlation, 3),
            "reference": self.reference,
            "significant": self.significant,
            "corrected": self.corrected,
        }


@dataclass(frozen=True)
class CoregistrationResult:
    """Outcome of a co-registration.

    Attributes
    ----------
    verdict
        ``accepted`` (a field that follows the scene), ``global only`` (one shift; too few points for more),
        ``rejected`` (nothing trustworthy was found; ``field`` is zero) or ``off`` (not asked for).
    reason
        One sentence a user understands.
    field
        Displacement of the target, to be added to its claimed positions.
    tie_points, check_points
        Measurements that made the field, and measurements on pixels that no tie point saw.
    rmse_m, p95_m, ce90_m, bias_m
        Error of the field's position over the image, estimated from the check points (planimetric: root mean
        square, 95th and 90th percentile of the distance; bias: length of the mean vector). NaN when there are none.
    count
        Number of check points behind those figures.
    global_shift_m
        (dx, dy) of the single shift that matches the whole images best.
    peak_ratio
        Height of the correlation peak over that of the next best peak elsewhere.
    correlation
        Median correlation of the windows after alignment.
    swir
        Misalignment of the SWIR bands with the others; None when it was not measured.
    support
        Where the field rests on measurements (``support.extrapolated_on(grid)`` marks ground beyond); None without.
    extrapolated_share
        Share of the ground that both images cover where the field is carried on beyond its measurements.
    details
        Other figures for the report, JSON-serialisable.
    """

    verdict: Verdict
    reason: str
    field: DisplacementField
    tie_points: TiePoints = dataclasses.field(default_factory=TiePoints.empty)
    check_points: TiePoints = dataclasses.field(default_factory=TiePoints.empty)
    rmse_m: float = float("nan")
    p95_m: float = float("nan")
    ce90_m: float = float("nan")
    bias_m: float = float("nan")
    count: int = 0
    global_shift_m: tuple[float, float] = (0.0, 0.0)
    peak_ratio: float = float("nan")
    correlation: float = float("nan")
    swir: SwirShift | None = None
    support: Support | None = None
    extrapolated_share: float = float("nan")
    details: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def off(cls) -> CoregistrationResult:
        """The result of not co-registering."""
        return cls("off", "Co-registration was switched off.", DisplacementField.zero())

    @property
    def trusted(self) -> bool:
        """False when the verdict is ``rejected``."""
        return self.verdict != "rejected"

    def remedy(self, other: str) -> str:
        """Say what to try after a rejection: more ground where there was little, else what the caller would say."""
        little = self.details.get("little_ground", False)
        return "So little ground is hard to match: take a larger part of both products" if little else other

    @property
    def swir_shift_m(self) -> tuple[float, float] | None:
        """(dx, dy) to be added for SWIR bands on top of :attr:`field`; None when it was not measured."""
        return None if self.swir is None else (self.swir.dx_m, self.swir.dy_m)

    @property
    def swir_field(self) -> DisplacementField:
        """Field for SWIR bands: :attr:`field` with the measured VNIR-SWIR misalignment added."""
        return self.field if self.swir is None else self.field.shifted(self.swir.dx_m, self.swir.dy_m)

    def to_json(self) -> dict[str, Any]:
        """The result without the points, as plain JSON values (None for what is not known)."""

        def number(value: float) -> float | None:
            return round(float(value), 4) if np.isfinite(value) else None

        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "model": self.field.model,
            "rmse_m": number(self.rmse_m),
            "p95_m": number(self.p95_m),
            "ce90_m": number(self.ce90_m),
            "bias_m": number(self.bias_m),
            "check_points": self.count,
            "tie_points": self.tie_points.size,
            "tie_points_used": int(self.tie_points.used.sum()),
            "global_shift_m": [number(v) for v in self.global_shift_m],
            "peak_ratio": number(self.peak_ratio),
            "correlation": number(self.correlation),
            "swir_shift_m": None if self.swir_shift_m is None else [number(v) for v in self.swir_shift_m],
            "swir": None if self.swir is None else self.swir.to_json(),
            "extrapolated_share": number(self.extrapolated_share),
            "details": _finite(self.details),
            "field": self.field.to_json(),
        }
