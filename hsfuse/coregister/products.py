"""Co-registration of two open products: prepare, match, judge."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.config import CoregisterConfig
from hsfuse.coregister.accuracy import Accuracy, field_accuracy
from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.pairs import build_images
from hsfuse.coregister.relief import Relief
from hsfuse.coregister.result import CoregistrationResult, TiePoints, Verdict
from hsfuse.coregister.support import Support
from hsfuse.coregister.threads import run_both
from hsfuse.degrade import Psf
from hsfuse.errors import CoregistrationError
from hsfuse.grid import Grid
from hsfuse.process import has_one_blas_thread
from hsfuse.progress import Progress, SilentProgress
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct
from hsfuse.readers.dem import read_heights
from hsfuse.threads import single_threaded

if TYPE_CHECKING:
    from hsfuse.coregister.layers import SecondLayer
    from hsfuse.coregister.register import Registrar
    from hsfuse.coregister.registration import Match, Registration

FloatArray = NDArray[np.float64]

_MIN_CHECKS = 6
_SMALL_PX = 64
"""Side of an image in which there may be too few windows, whatever it shows."""
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
        The products do not overlap or share no band, or the DEM does not cover them.
    InputError
        The DEM cannot be read.
    """
    config = config or CoregisterConfig()
    if config.coregister == "off":
        return CoregistrationResult.off()
    relief = None
    if config.dem is not None:
        relief = Relief.of(read_heights(config.dem, hsi.grid), hsi.grid.pixel_m)
    with (progress or SilentProgress()).stage("co-register", total=2.4) as stage:
        try:
            images, _ = run_both(
                partial(build_images, hsi, msi, psf=psf or Psf(1.25), search_m=config.search_m, stage=stage),
                _import_what_follows,
            )
        except CoregistrationError as error:
            return CoregistrationResult("rejected", error.message, DisplacementField.zero())
        # Reading and low-passing need no torch: it may still be loaded meanwhile (see hsfuse._early).
        import torch

        from hsfuse.coregister.register import Registrar

        with _one_thread():
            registrar = Registrar(images, config, torch.device(device), relief)
            del images
            found = registrar.run()
            stage.advance()
            return assess_registration(found, registrar, hsi.grid, config)


def _import_what_follows() -> None:
    """Import what the first fit needs, while images are read; what fails is raised where it is used."""
    with suppress(ImportError):
        importlib.import_module("scipy.spatial")


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
    if min(registrar.height, registrar.width) < _SMALL_PX:
        details["little_ground"] = True
    if not registrar.is_significant(found.peak):
        reason = (
            f"the images show no common pattern: the best position stands {found.peak.score:.1f} standard deviations "
            f"above the rest and {found.peak.ratio:.2f} times as high as the next best, where "
            f"{config.min_peak_score:g} and {config.min_peak_ratio:g} are asked for."
        )
        return CoregistrationResult("rejected", reason, DisplacementField.zero(), details=details, **common)
    if found.choice is None or found.match is None:
        common_px = f"{registrar.height} x {registrar.width}"
        reason = f"too few windows could be matched in the {common_px} pixels that both images share."
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
    details |= _examination(found, pixel_m)
    verdict, reason = _verdict(field, used, figures, correlation, count, config)
    if found.fine is not None and found.fine.seam is not None:
        jump = found.fine.seam.jump_px * pixel_m
        reason += (
            f" One image has a seam: its sides lie {jump:.0f} m apart, and near it the field is wrong by half of that."
        )
    if found.second_layer is not None:
        verdict, reason = "rejected", _second_layer_reason(found.second_layer, pixel_m)
    details |= {"cv_ratio": round(float(found.choice.cv_ratio), 3), "independent_checks": independent}
    kept = field if verdict != "rejected" else DisplacementField.zero()
    support = Support(ties.x[used], ties.y[used], registrar.reach_px * pixel_m)
    beyond = support.extrapolated(*grid.xy(*registrar.seen_area(found.choice.fitted).T))
    return CoregistrationResult(
        verdict, reason, kept, ties, checks, count=count, correlation=correlation, details=details,
        support=support, extrapolated_share=float(beyond.mean()), **(common | figures),
    )  # fmt: skip


def _examination(found: Registration, pixel_m: float) -> dict[str, Any]:
    """What was found beyond the smooth field, for the report."""
    out: dict[str, Any] = {}
    fine, layer = found.fine, found.second_layer
    if fine is not None:
        out["fine_displacement_m"] = round(math.sqrt(2.0 * fine.before) * pixel_m, 3)
        out["fine_error_m"] = round(math.sqrt(2.0 * fine.variance) * pixel_m, 3)
        if fine.seam is not None:
            across = fine.seam.line.normal * math.copysign(1.0, fine.seam.line.normal[1])
            out["seam"] = {
                "jump_m": round(fine.seam.jump_px * pixel_m, 1),
                "across_azimuth_deg": round(math.degrees(math.atan2(across[1], -across[0])) % 180.0, 1),
            }
        if fine.slope is not None:
            down, right = fine.slope
            out["parallax"] = {
                "view_angle_deg": round(math.degrees(math.atan(math.hypot(down, right))), 2),
                "azimuth_deg": round(math.degrees(math.atan2(right, -down)) % 360.0, 1),
            }
    if found.shadow is not None:
        out["shadow_m"] = round(found.shadow.difference * pixel_m, 2)
        out["shadow_corrected"] = found.shadow.corrected
    if found.light_variance > 0.0:
        out["light_m"] = round(math.sqrt(2.0 * found.light_variance) * pixel_m, 2)
    if layer is not None:
        out["second_layer"] = {
            "dx_m": round(layer.col * pixel_m, 1), "dy_m": round(-layer.row * pixel_m, 1),
            "correlation": round(layer.correlation, 3), "score": round(layer.score, 1),
        }  # fmt: skip
    return out


def _second_layer_reason(layer: SecondLayer, pixel_m: float) -> str:
    distance = math.hypot(layer.row, layer.col) * pixel_m
    return (
        f"a part of the scene fits {distance:.0f} m away from the rest: clouds, ice or shadows that moved between the"
        " images, and nothing says which part is the ground."
    )


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
    light = found.light_variance * pixel_m**2
    over_image = found.over_image * pixel_m**2 + light
    finer = found.fine.variance * pixel_m**2 if found.fine is not None else 0.0
    # What the boxes prove holds the error that the points state.
    beyond = max(0.0, finer - float(found.over_image.mean()) * pixel_m**2)
    if found.fine is not None and found.fine.fitted is not None:
        # The boxes saw the pixels that were kept for checking: what they say of each other counts instead.
        shadow = found.shadow.variance * pixel_m**2 if found.shadow is not None else 0.0
        over_image, check, beyond = np.full_like(over_image, finer + shadow + light), None, 0.0
    if check is None or check.points.size < _MIN_CHECKS:
        nothing = np.zeros(0)
        return TiePoints.empty(), field_accuracy(np.zeros((0, 2)), nothing, nothing, over_image, least_misfit=beyond)
    x, y, dx, dy, ex, ey = _residuals(check, grid, field)
    own = (check.points.sigma * pixel_m) ** 2
    at_checks = found.uncertainty.variance_at(check.points.position) * pixel_m**2
    accuracy = field_accuracy(np.column_stack([ex, ey]), own, at_checks, over_image, least_misfit=beyond)
    trust = np.clip(check.correlation, 0.0, 1.0)
    return TiePoints(x, y, dx, dy, np.sqrt(own), check.correlation, trust, accuracy.kept, np.hypot(ex, ey)), accuracy
