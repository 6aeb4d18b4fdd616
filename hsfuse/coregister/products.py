"""Co-registration of two open products: prepare, match, judge."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.config import CoregisterConfig
from hsfuse.coregister.accuracy import Accuracy, field_accuracy
from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.pairs import build_images
from hsfuse.coregister.result import CoregistrationResult, TiePoints, Verdict
from hsfuse.degrade import Psf
from hsfuse.errors import CoregistrationError
from hsfuse.grid import Grid
from hsfuse.process import has_one_blas_thread
from hsfuse.progress import Progress, SilentProgress
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct
from hsfuse.threads import single_threaded

if TYPE_CHECKING:
    from hsfuse.coregister.register import Match, Registrar, Registration

FloatArray = NDArray[np.float64]

_MIN_CHECKS = 6
_USED_WEIGHT = 0.2


def coregister_products(
    hsi: HyperspectralProduct | MultispectralProduct,
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
        Target: its claimed positions are corrected. A multispectral or plain image may stand here too.
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
        The products do not overlap or share no band.
    """
    config = config or CoregisterConfig()
    if config.coregister == "off":
        return CoregistrationResult.off()
    with (progress or SilentProgress()).stage("co-register", total=2.4) as stage:
        try:
            images = build_images(hsi, msi, psf=psf or Psf(1.25), search_m=config.search_m, stage=stage)
        except CoregistrationError as error:
            return CoregistrationResult("rejected", error.message, DisplacementField.zero())
        # Reading and low-passing need no torch: it may still be loaded meanwhile (see hsfuse._early).
        import torch

        from hsfuse.coregister.register import Registrar

        with _one_thread():
            registrar = Registrar(images, config, torch.device(device))
            del images
            found = registrar.run()
            stage.advance()
            return assess_registration(found, registrar, hsi.grid, config)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Work with one thread per operation.

    The operations are many and small. Two threads wait for each other more than they work, and on a machine that
    does other things besides, a factorisation of a millisecond takes a hundred.
    """
    if not has_one_blas_thread():
        # Only libraries that are loaded by now are limited.
        importlib.import_module("scipy.linalg")
    with single_threaded():
        yield


def assess_registration(
    found: Registration, registrar: Registrar, grid: Grid, config: CoregisterConfig
) -> CoregistrationResult:
    """Turn what was found into a field, figures and a verdict."""
    pixel_m = grid.pixel_m
    shift = (found.shift[1] * pixel_m, -found.shift[0] * pixel_m)
    details: dict[str, Any] = {"peak_score": round(float(found.peak.score), 4)}
    common: dict[str, Any] = {"global_shift_m": shift, "peak_ratio": float(found.peak.ratio)}
    if not registrar.is_significant(found.peak):
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
    checks, accuracy = _check_points(found, grid, field)
    figures = {"rmse_m": accuracy.rmse, "p95_m": accuracy.p95, "ce90_m": accuracy.ce90, "bias_m": accuracy.bias}
    independent = accuracy.count >= _MIN_CHECKS
    details |= {
        "check_raw_rmse_m": round(accuracy.raw_rmse, 3), "noise_scale": round(accuracy.scale, 3),
        "misfit_m": round(accuracy.misfit, 3),
    }  # fmt: skip
    count = accuracy.count if independent else 0
    correlation = float(np.median(found.match.correlation)) if found.match.points.size else float("nan")
    verdict, reason = _verdict(field, used, figures, correlation, count, config)
    details |= {"cv_ratio": round(float(found.choice.cv_ratio), 3), "independent_checks": independent}
    kept = field if verdict != "rejected" else DisplacementField.zero()
    return CoregistrationResult(
        verdict, reason, kept, ties, checks, count=count, correlation=correlation, details=details,
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
        return "rejected", f"the error of {error:.1f} m exceeds the limit of {config.max_rmse_m:g} m."
    if count < 0.3 * used.size:
        return "rejected", f"only {count} of {used.size} windows agree with each other."
    basis = f"tested on {checks} check points" if checks >= _MIN_CHECKS else "as the fit states it"
    if config.coregister == "global" or count < config.min_points:
        return "global only", f"one shift for the whole scene, {error:.1f} m error {basis}."
    return "accepted", f"{field.model} field from {count} tie points, {error:.1f} m error {basis}."


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


def _check_points(found: Registration, grid: Grid, field: DisplacementField) -> tuple[TiePoints, Accuracy]:
    """Check points as a table, and the field's error in metres as they and the tie points tell it."""
    if found.uncertainty is None:
        raise ValueError("nothing was fitted")
    pixel_m, check = grid.pixel_m, found.check
    over_image = found.over_image * pixel_m**2
    if check is None or check.points.size < _MIN_CHECKS:
        nothing = np.zeros(0)
        return TiePoints.empty(), field_accuracy(np.zeros((0, 2)), nothing, nothing, over_image)
    x, y, dx, dy, ex, ey = _residuals(check, grid, field)
    own = (check.points.sigma * pixel_m) ** 2
    at_checks = found.uncertainty.variance_at(check.points.position) * pixel_m**2
    accuracy = field_accuracy(np.column_stack([ex, ey]), own, at_checks, over_image)
    trust = np.clip(check.correlation, 0.0, 1.0)
    return TiePoints(x, y, dx, dy, np.sqrt(own), check.correlation, trust, accuracy.kept, np.hypot(ex, ey)), accuracy
