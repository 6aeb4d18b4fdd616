"""Co-registration of two open products: prepare, match, judge."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.config import CoregisterConfig
from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.pairs import build_images
from hsfuse.coregister.register import Match, Registrar, Registration
from hsfuse.coregister.result import CoregistrationResult, TiePoints, Verdict
from hsfuse.degrade import Psf
from hsfuse.grid import Grid
from hsfuse.progress import Progress, SilentProgress
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct

FloatArray = NDArray[np.float64]

_MIN_CHECKS = 6
_USED_WEIGHT = 0.2


def coregister_products(
    hsi: HyperspectralProduct,
    msi: MultispectralProduct,
    config: CoregisterConfig | None = None,
    *,
    psf: Psf | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> CoregistrationResult:
    """Find the smooth field that brings a hyperspectral product onto a multispectral one.

    Parameters
    ----------
    hsi
        Target: its claimed positions are corrected.
    msi
        Reference: its positions are taken as right.
    config
        Settings.
    psf
        Blur of the HSI relative to the MSI.
    progress
        Where to show progress.
    device
        Torch device of the matching.

    Returns
    -------
    CoregistrationResult
        With verdict ``rejected`` and a zero field when nothing trustworthy was found.

    Raises
    ------
    OverlapError
        The products share no usable pixel.
    """
    import torch

    config = config or CoregisterConfig()
    if config.coregister == "off":
        return CoregistrationResult.off()
    with (progress or SilentProgress()).stage("co-register", total=2.0) as stage:
        images, hidden = build_images(hsi, msi, psf=psf or Psf(1.25), search_m=config.search_m, stage=stage)
        registrar = Registrar(images, config, torch.device(device))
        found = registrar.run()
        stage.advance()
    return judge_registration(found, registrar, hsi.grid, config, {"hidden_share": round(hidden, 4)})


def judge_registration(
    found: Registration, registrar: Registrar, grid: Grid, config: CoregisterConfig, details: dict[str, Any]
) -> CoregistrationResult:
    """Turn what was found into a field, figures and a verdict."""
    pixel_m = grid.pixel_m
    shift = (found.shift[1] * pixel_m, -found.shift[0] * pixel_m)
    details = details | {"peak_score": round(float(found.peak.score), 4)}
    common: dict[str, Any] = {"global_shift_m": shift, "peak_ratio": float(found.peak.ratio)}
    if not registrar.convincing(found.peak):
        reason = (
            f"the images show no common pattern (correlation {found.peak.score:.2f},"
            f" {found.peak.ratio:.2f} times the next best position)."
        )
        return CoregistrationResult("rejected", reason, DisplacementField.zero(), details=details, **common)
    if found.choice is None or found.match is None:
        reason = "too few windows could be matched."
        return CoregistrationResult("rejected", reason, DisplacementField.zero(), details=details, **common)
    field = found.choice.fitted.to_field(grid)
    used = found.choice.weight > _USED_WEIGHT
    ties = _tie_points(found.match, grid, field, found.choice.weight, used)
    checks = _check_points(found.check, grid, field)
    if checks.size >= _MIN_CHECKS:
        figures = _errors(checks)
    else:
        figures = _cross_validated(ties, found.choice.cv_ratio)
    correlation = float(np.median(found.match.correlation)) if found.match.points.size else float("nan")
    verdict, reason = _verdict(field, used, figures, correlation, checks.size, config)
    details |= {"cv_ratio": round(float(found.choice.cv_ratio), 3), "independent_checks": checks.size >= _MIN_CHECKS}
    kept = field if verdict != "rejected" else DisplacementField.zero()
    return CoregistrationResult(
        verdict, reason, kept, ties, checks, count=checks.size, correlation=correlation, details=details,
        **(common | figures),
    )  # fmt: skip


def _verdict(
    field: DisplacementField,
    used: NDArray[np.bool_],
    figures: dict[str, float],
    correlation: float,
    checks: int,
    config: CoregisterConfig,
) -> tuple[Verdict, str]:
    count = int(used.sum())
    error = figures["rmse_m"]
    if not math.isfinite(error) or count < 4:
        return "rejected", f"only {count} windows agree with each other."
    if correlation < config.min_correlation:
        return "rejected", f"the aligned images resemble each other too little (correlation {correlation:.2f})."
    if error > config.max_rmse_m:
        return "rejected", f"the hold-out error of {error:.1f} m exceeds the limit of {config.max_rmse_m:g} m."
    if count < 0.3 * used.size:
        return "rejected", f"only {count} of {used.size} windows agree with each other."
    basis = f"{checks} check points" if checks >= _MIN_CHECKS else f"{count} cross-validated tie points"
    if config.coregister == "global" or count < config.min_points:
        return "global only", f"one shift for the whole scene, {error:.1f} m error on {basis}."
    return "accepted", f"{field.model} field from {count} tie points, {error:.1f} m error on {basis}."


def _residuals(match: Match, grid: Grid, field: DisplacementField) -> tuple[FloatArray, ...]:
    row, col = match.points.position.T
    x, y = grid.xy(row, col)
    dx, dy = match.points.value[:, 1] * grid.pixel_m, -match.points.value[:, 0] * grid.pixel_m
    field_dx, field_dy = field.at(x, y)
    return x, y, dx, dy, dx - field_dx, dy - field_dy


def _tie_points(
    match: Match, grid: Grid, field: DisplacementField, weight: FloatArray, used: NDArray[np.bool_]
) -> TiePoints:
    x, y, dx, dy, ex, ey = _residuals(match, grid, field)
    sigma = match.points.sigma * grid.pixel_m
    confidence = np.clip(weight, 0.0, 1.0) * np.clip(match.correlation, 0.0, 1.0)
    return TiePoints(x, y, dx, dy, sigma, match.correlation, confidence, used, np.hypot(ex, ey))


def _check_points(check: Match | None, grid: Grid, field: DisplacementField) -> TiePoints:
    if check is None or check.points.size == 0:
        return TiePoints.empty()
    x, y, dx, dy, ex, ey = _residuals(check, grid, field)
    sigma = check.points.sigma * grid.pixel_m
    every = np.ones(x.size, bool)
    return TiePoints(x, y, dx, dy, sigma, check.correlation, np.clip(check.correlation, 0, 1), every, np.hypot(ex, ey))


def _cross_validated(points: TiePoints, cv_ratio: float) -> dict[str, float]:
    """Error of the field where the scene is too small for check points: from leaving out blocks of tie points."""
    used = points.used
    if used.sum() < 4 or not math.isfinite(cv_ratio):
        return dict.fromkeys(("rmse_m", "p95_m", "ce90_m", "bias_m"), float("nan"))
    rmse = cv_ratio * math.sqrt(float(np.mean(2.0 * points.sigma_m[used] ** 2)))
    # Quantiles of the length of a vector whose two components are normal.
    return {"rmse_m": rmse, "p95_m": 1.731 * rmse, "ce90_m": 1.517 * rmse, "bias_m": float("nan")}


def _errors(points: TiePoints) -> dict[str, float]:
    """Error of the field from points that measure it with an error of their own.

    The measured squared residual is the field's plus the point's; the latter is known and is taken off, but never
    more than three quarters of the whole, so that an optimistic sigma cannot make an error vanish. Check points
    beyond five times the median are wrong matches (a moved parcel), not errors of the field, and are left out.
    """
    names = ("rmse_m", "p95_m", "ce90_m", "bias_m")
    residual = points.residual_m[points.used]
    if residual.size < 3:
        return dict.fromkeys(names, float("nan"))
    sane = residual <= 5.0 * max(float(np.median(residual)), 0.3)
    residual, sigma = residual[sane], points.sigma_m[points.used][sane]
    raw = float(np.mean(residual**2))
    own = min(float(np.mean(2.0 * sigma**2)), 0.75 * raw)
    shrink = math.sqrt((raw - own) / raw) if raw > 0 else 0.0
    return {
        "rmse_m": math.sqrt(raw - own),
        "p95_m": shrink * float(np.percentile(residual, 95)),
        "ce90_m": shrink * float(np.percentile(residual, 90)),
        "bias_m": float("nan"),
    }
