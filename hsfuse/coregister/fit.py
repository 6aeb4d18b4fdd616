"""A smooth field through tie points: robust, no more flexible than the points prove, tame where there are none.

Candidates are a shift, an affine field, polynomials of degree two and three, an affine field plus a cubic spline
under a penalty on roughness, and the same with functions along and across a track (see trend.py). Cross-validation
over blocks of neighbouring points decides, because neighbours share pixels: leaving out single points would reward a
field for following their common noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.coregister.models import Fitted, FloatArray, Model, Points
from hsfuse.coregister.polynomials import FittedPolynomial, OneShift, Polynomial
from hsfuse.coregister.spline_lattice import Spline
from hsfuse.coregister.splines import PolynomialSpline
from hsfuse.coregister.threads import spread
from hsfuse.coregister.trend import Track

_PERIOD = 5
_ORIGINS = ((0, 0), (1, 2), (2, 4), (3, 1), (4, 3))
_TUKEY = 5.0
_RAYLEIGH_MEDIAN = 1.1774
_SMOOTHINGS = tuple(float(s) for s in 10.0 ** np.arange(-4.0, 3.1))
_LOSS_CAP = 50.0
_TRIALS_AT_ONCE, _FITS_AT_ONCE = 50, 4
_USED_WEIGHT = 0.2
_TRACK_SMOOTHING, _STIFFER = 3.0, (1.0, 30.0, 1000.0)
"""Smoothing of functions of the track and of the bends beside them, relative to that of a spline alone."""
_ANGLE_STEP_DEG, _ANGLE_FINEST_DEG, _ANGLE_POINTS = 7.5, 1.5, 600


_Wanted = tuple[Model, Sequence[float]]
"""A model and the smoothings it is judged with."""


@dataclass(frozen=True)
class Choice:
    """The field that was chosen and how its rivals fared.

    Attributes
    ----------
    fitted
        The field.
    weight
        Robust weight of each point, 0 to 1; 0 means rejected.
    cv_ratio
        Root mean square of the cross-validated residuals per coordinate over the points' standard error.
    scores
        Cross-validated loss per point of every candidate, by name.
    """

    fitted: Fitted
    weight: FloatArray
    cv_ratio: float
    scores: dict[str, float]


def choose_field(points: Points, spline: Spline, *, start: FloatArray | None = None) -> Choice:
    """Fit the field that cross-validation prefers.

    Parameters
    ----------
    points
        Measurements; up to about 40 % of them may be wrong.
    spline
        The most flexible candidate; its lattice also says how large the image is.
    start
        Robust weights to start from, shape (point,); found by sampling when None.
    """
    flexible = fit_fixed_smoothing(points, spline, start=start)
    weight = flexible.weight
    candidates: list[tuple[str, Model, float]] = []
    trusted = int((weight > _USED_WEIGHT).sum())
    for degree in range(4):
        polynomial = Polynomial(degree, spline.height, spline.width)
        if trusted >= 3 * polynomial.size:
            candidates.append((polynomial.name, polynomial, 0.0))
    wanted: list[_Wanted] = [(model, [smoothing]) for _, model, smoothing in candidates]
    unit, flexible_model = spline.unit_smoothing(points), PolynomialSpline(spline)
    if trusted >= 12:
        wanted.append((flexible_model, [unit * s for s in _SMOOTHINGS]))
    found = _cross_validate(points, wanted, weight)
    losses = [loss for (loss,) in found[: len(candidates)]]
    if trusted >= 12:
        splines = _splines(points, flexible_model, unit, dict(zip(_SMOOTHINGS, found[-1], strict=True)), weight)
        candidates += [candidate for candidate, _ in splines]
        losses += [loss for _, loss in splines]
    judged = np.isfinite(losses[0])
    losses = [loss[judged] for loss in losses]
    totals = [float(loss.sum()) for loss in losses]
    best = int(np.argmin(totals))
    # A simpler model is taken when the better one's lead is no larger than its standard error.
    for index in range(best):
        lead = losses[index] - losses[best]
        if lead.sum() <= lead.std() * np.sqrt(lead.size):
            best = index
            break
    if isinstance(candidates[best][1], PolynomialSpline):
        # Bends along and across the camera's track need fewer numbers, and are known where nothing is seen.
        for candidate, loss in _tracks(points, spline, weight, candidates[best][2]):
            candidates.append(candidate)
            totals.append(float(loss[judged].sum()))
            best = len(totals) - 1 if totals[-1] < totals[best] else best
    _, model, smoothing = candidates[best]
    fitted, weight = _reweight(points, model, smoothing, weight)
    count = max(float(weight[judged].sum()), 1.0)
    scores = {name: total / count / 2 for (name, _, _), total in zip(candidates, totals, strict=True)}
    return Choice(fitted, weight, float(np.sqrt(max(totals[best], 0.0) / count / 2)), scores)


def _splines(
    points: Points, model: PolynomialSpline, unit: float, judged: dict[float, FloatArray], weight: FloatArray
) -> list[tuple[tuple[str, Model, float], FloatArray]]:
    """Splines and their cross-validated losses, stiff ones first: every decade, and halfway around the best.

    ``judged`` holds the losses by smoothing in units of ``unit``.
    """
    best = min(judged, key=lambda s: float(np.nansum(judged[s])))
    near = (best * 10.0**0.5, best * 10.0**-0.5)
    (losses,) = _cross_validate(points, [(model, [unit * s for s in near])], weight)
    judged = judged | dict(zip(near, losses, strict=True))
    return [((f"spline {s:.3g}", model, unit * s), judged[s]) for s in sorted(judged, reverse=True)]


def _tracks(
    points: Points, spline: Spline, weight: FloatArray, smoothing: float
) -> list[tuple[tuple[str, Model, float], FloatArray]]:
    """Fields along and across a track plus a spline of several strengths, and their cross-validated losses."""
    angle = _track_angle(points, spline, weight, _TRACK_SMOOTHING * smoothing)
    track = Track(spline.height, spline.width, spline.spacing[0], angle, _TRACK_SMOOTHING * smoothing)
    model = PolynomialSpline(spline, track)
    strengths = [smoothing * factor for factor in _STIFFER]
    (losses,) = _cross_validate(points, [(model, strengths)], weight)
    name = f"track {np.degrees(angle):.1f} deg"
    return [
        ((f"{name} + {factor:g}", model, strength), loss)
        for factor, strength, loss in zip(_STIFFER, strengths, losses, strict=True)
    ]


def _track_angle(points: Points, spline: Spline, weight: FloatArray, smoothing: float) -> float:
    """Direction whose functions alone fit the points best; 0 and 90 degrees are the same pair of directions."""
    some = np.flatnonzero(weight > _USED_WEIGHT)
    some = some[:: max(1, some.size // _ANGLE_POINTS)]
    position, value = points.position[some], points.value[some]
    full = points.information(weight)[some][:, None]

    def misfit(angle: float) -> float:
        track = Track(spline.height, spline.width, spline.spacing[0], angle, smoothing)
        design = track.design(position)
        right = design.T @ (value * full)
        solved = np.linalg.solve(design.T @ (design * full) + track.precision(), right)
        return -float((right * solved).sum())

    coarse = [float(angle) for angle in np.radians(np.arange(0.0, 90.0, _ANGLE_STEP_DEG))]
    tried = dict(zip(coarse, spread(misfit, coarse), strict=True))
    step = np.radians(_ANGLE_STEP_DEG) / 2.0
    while step > np.radians(_ANGLE_FINEST_DEG):
        best = min(tried, key=lambda angle: tried[angle])
        near = (best - step, best + step)
        tried |= dict(zip(near, spread(misfit, near), strict=True))
        step /= 2.0
    return min(tried, key=lambda angle: tried[angle])


def fit_fixed_smoothing(
    points: Points, spline: Spline, *, start: FloatArray | None = None, smoothing: float = 0.01, slack_px: float = 0.0
) -> Choice:
    """Fit a spline of fixed smoothness: for passes between which only the prediction matters."""
    weight = initial_weights(points, spline.height, spline.width) if start is None else start
    model: Model = PolynomialSpline(spline)
    if (weight > _USED_WEIGHT).sum() < 12:
        model = Polynomial(0, spline.height, spline.width)
    fitted, weight = _reweight(points, model, smoothing * spline.unit_smoothing(points), weight, slack_px)
    return Choice(fitted, weight, float("nan"), {})


def fit_shift(points: Points, model: Polynomial) -> Choice:
    """Fit one displacement to all points (for few points, or when no more is wanted)."""
    if points.size >= 5:
        weight = initial_weights(points, model.height, model.width)
    else:
        weight = np.ones(points.size)
    fitted, weight = _reweight(points, model, 0.0, weight)
    residual = points.value - fitted.at(points.position)
    square = ((residual**2).sum(axis=1) / points.sigma**2 * weight).sum() / max(2.0 * weight.sum() - 2.0, 1.0)
    if isinstance(fitted, FittedPolynomial):
        fitted = OneShift.of(fitted, points, weight)
    return Choice(fitted, weight, float(np.sqrt(square)), {})


def _reweight(
    points: Points, model: Model, smoothing: float, weight: FloatArray, slack_px: float = 0.0
) -> tuple[Fitted, FloatArray]:
    """Iterate robust weights for one model until they settle."""
    fitted = model.fit(points, weight, smoothing)
    for _ in range(6):
        residual = points.value - fitted.at(points.position)
        new = robust_weights(residual, np.hypot(points.sigma, slack_px), weight)
        if new.sum() < 0.2 * weight.sum() or new.sum() < 3:
            break
        settled = float(np.abs(new - weight).max()) < 0.02
        weight = new
        fitted = model.fit(points, weight, smoothing)
        if settled:
            break
    return fitted, weight


def robust_weights(residual: FloatArray, sigma: FloatArray, previous: FloatArray) -> FloatArray:
    """Tukey's biweight of the residuals relative to their standard error and to what is usual in the scene."""
    ratio = np.hypot(residual[:, 0], residual[:, 1]) / sigma
    good = previous > _USED_WEIGHT
    usual = float(np.median(ratio[good])) / _RAYLEIGH_MEDIAN if good.any() else 1.0
    t = ratio / (_TUKEY * max(1.0, usual))
    return np.asarray(np.where(t < 1, (1 - t**2) ** 2, 0.0))


def _cells(points: Points) -> NDArray[np.int64]:
    """Cell of each point in a lattice of the points' own spacing, shape (point, 2)."""
    return np.floor(points.position / points.spacing).astype(np.int64)


def _cross_validate(points: Points, wanted: Sequence[_Wanted], weight: FloatArray) -> list[list[FloatArray]]:
    """Weighted squared residual of left-out points, in units of their variance (NaN where a point was not judged).

    In each fold, every fifth cell along both axes is judged by a fit that saw neither it nor its eight neighbours:
    windows that overlap share their noise, and a fit that follows it must not be rewarded.

    Returns
    -------
    list of list of numpy.ndarray
        Of each wanted model by smoothing, shape (point,).
    """
    cells = _cells(points)
    losses = [[np.full(points.size, np.nan) for _ in smoothings] for _, smoothings in wanted]
    folds: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]] = []
    for origin in _ORIGINS:
        distance = (cells - origin) % _PERIOD
        judged = np.asarray((distance == 0).all(axis=1) & (weight > 0), dtype=np.bool_)
        hidden = np.asarray(np.isin(distance, (0, 1, _PERIOD - 1)).all(axis=1), dtype=np.bool_)
        if judged.any() and not hidden.all():
            folds.append((judged, hidden))
    for model, _ in wanted:
        if isinstance(model, PolynomialSpline):
            # What all folds share is not worked out by several threads at once.
            model.terms(points)
            model.spline.penalty()

    def judge(piece: tuple[int, int, slice]) -> None:
        number, fold, part = piece
        (model, smoothings), (judged, hidden) = wanted[number], folds[fold]
        fits = model.fits(points, np.where(hidden, 0.0, weight), smoothings[part])
        for loss, fitted in zip(losses[number][part], fits, strict=True):
            residual = points.value[judged] - fitted.at(points.position[judged])
            square = (residual**2).sum(axis=1) / points.sigma[judged] ** 2
            loss[judged] = np.minimum(square, _LOSS_CAP) * weight[judged]

    spread(judge, [
        (number, fold, slice(first, first + _FITS_AT_ONCE))
        for number, (_, smoothings) in enumerate(wanted)
        for fold in range(len(folds))
        for first in range(0, len(smoothings), _FITS_AT_ONCE)
    ])  # fmt: skip
    return losses


def initial_weights(points: Points, height: int, width: int, *, trials: int = 400) -> FloatArray:
    """Weights of the largest set of points that agree with a plane and with their surroundings.

    Affine fields through random triples (and shifts of single points) are compared by the number of points within a
    tolerance that is loose enough for smooth departures from affinity; then points must agree with the median of
    their neighbours among those. The random numbers have a fixed seed.
    """
    rng = np.random.default_rng(0)
    affine = Polynomial(1, height, width).design(points.position)
    tolerance = 4.0 * np.maximum(3.0 * points.sigma, 1.0)
    three = min(3, points.size)
    chosen = np.stack([rng.choice(points.size, size=three, replace=False) for _ in range(trials)])
    planes: FloatArray = np.zeros((trials, 3, 2))
    planes[:, 0] = points.value[chosen[:, 0]]
    if three == 3:
        # Every other triple tells a plane, unless its points lie in a line.
        corners, values = affine[chosen[1::2]], points.value[chosen[1::2]]
        told = np.abs(np.linalg.det(corners)) > 0.0
        planes[1::2][told] = np.linalg.solve(corners[told], values[told])
    best, best_count = np.ones(points.size, dtype=bool), -1.0
    scaled, value = affine / tolerance[:, None], points.value / tolerance[:, None]
    for first in range(0, len(planes), _TRIALS_AT_ONCE):
        # Columns: row and column of the first plane, of the second, ...; then shape (point, trial, coordinate).
        some = scaled @ planes[first : first + _TRIALS_AT_ONCE].transpose(1, 0, 2).reshape(3, -1)
        residual = some.reshape(points.size, -1, 2)
        square = (residual[:, :, 0] - value[:, :1]) ** 2
        square += (residual[:, :, 1] - value[:, 1:]) ** 2
        counts = np.maximum(0.0, 1.0 - square).sum(axis=0)
        top = int(np.argmax(counts))
        if counts[top] > best_count:
            best, best_count = square[:, top] < 1.0, float(counts[top])
    return _agreeing(points, best).astype(np.float64)


def _agreeing(points: Points, kept: NDArray[np.bool_], *, neighbours: int = 12) -> NDArray[np.bool_]:
    """Of the kept points, those close to the median of their nearest kept neighbours."""
    index = np.flatnonzero(kept)
    if index.size < 5:
        return kept
    from scipy.spatial import cKDTree

    _, near = cKDTree(points.position[index]).query(points.position[index], k=min(neighbours + 1, index.size))
    around = points.value[index][near[:, 1:]]
    middle = np.median(around, axis=1)
    distance = np.linalg.norm(points.value[index] - middle, axis=1)
    spread = np.median(np.linalg.norm(around - middle[:, None], axis=2), axis=1)
    out = np.zeros_like(kept)
    out[index] = distance <= np.maximum(3.0 * points.sigma[index], 3.0 * spread) + 0.05
    return out if out.sum() >= 5 else kept
