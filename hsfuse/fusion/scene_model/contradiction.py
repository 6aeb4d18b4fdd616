"""Where the guide contradicts the HSI: candidates for ground that differs between the two images.

Where the HSI stands off by a varying part of a pixel, or its blur is not quite what is assumed, edges and small bright
things look like change. How large such displacements are is measured on the steepest pixels of the scene; what they
explain of a residual is no evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from hsfuse.degrade.windows import row_parts, rows_around, rows_inside
from hsfuse.fusion.neighbours import over_neighbours
from hsfuse.fusion.scene_model.pair import FloatArray, GuideRelation
from hsfuse.fusion.scene_model.relation import OUTLIER_DISTANCE
from hsfuse.parallel import side_by_side, threads_for

Part = TypeVar("Part")

_LEAST_CONTRAST = 4e-4
_SOFT_PX, _NEIGHBOURS_PX = 0.7, 4
"""Width of the windows that errors are compared in (standard deviation), and how far that and the neighbours reach."""
_ROWS, _MOST_THREADS = 64, 8
"""Rows that are looked at at a time, side by side."""
_STEEP = 0.9
"""Quantile of the slope from which on pixels tell the displacement."""
_MOST_DISPLACEMENT_PX = 0.4
_ROUNDS, _LESS = 3, 0.95
"""How often it is measured again without what contradicts, and the share of it that must not be left to go on: changed
ground of small scenes told displacements of 0.2 to 0.4 pixels where there were 0 to 0.1, which explained all of it."""
_FARTHEST = 4.5
"""Displacement that explains a pixel at most, in units of the deviation of all: unlike errors of a relation they have
no long tail. With 3 an unchanged pair of two sensors lost 0.6 dB."""
DISPLACED_PX = 0.06
"""Local displacement from which ground beside contrast and small windows are no evidence, and a local correction must
gain more: they take a displacement for a change or a season. Pairs of eight tuning cubes between two real sensors stand
at 0.07 to 0.18 and lost up to 2.7 dB; those with seasons, haze, parcels on one grid at 0.05 at most, a mix at 0.10."""
_RIM_DISTANCE = 3.0 * OUTLIER_DISTANCE
"""Squared distance from which a pixel beside gaps is a candidate."""
_BLIND_DISTANCE = 3.0 * OUTLIER_DISTANCE
"""The same without responses: rare materials are then predicted less well."""
_REMOTE = 3.0
"""Remoteness from which a relation extrapolates: what it is wrong by grows with it. Changed ground of tuning sites
stands at 0.1 to 1, a crop of its own that was flagged without noise at 12 to 80."""


@dataclass(frozen=True)
class Contradiction:
    """Where the guide contradicts the HSI.

    Attributes
    ----------
    candidates
        Pixels that may hold foreign ground: far from the relation, and worse predicted by the guide than by their
        neighbours (rare materials are not) or the farther the better the guide predicts them, shape (row, col).
    rivalry
        Error of the guide over that of the four neighbours when they predict the HSI, shape (row, col).
    misfit
        Squared error of the guide, mean over the bands in units of their variance, shape (row, col).
    power
        Variance of every MSI band as the HSI shows it, shape (msi band,).
    displacement_px
        Local displacement, standard deviation in HSI pixels, that the residuals of steep pixels tell; without those of
        changed ground.
    """

    candidates: NDArray[np.bool_]
    rivalry: FloatArray
    misfit: FloatArray
    power: FloatArray
    displacement_px: float

    @classmethod
    def find(
        cls, relation: GuideRelation, msi: FloatArray, valid: NDArray[np.bool_], rim: NDArray[np.bool_] | None = None,
        *, blind: bool = False, displaced_px: float | None = None,
    ) -> Contradiction:  # fmt: skip
        """Compare a relation with the MSI at low resolution, shape (msi band, row, col).

        ``rim`` are pixels beside gaps, as in :class:`~hsfuse.fusion.scene_model.pair.CoarsePair`; ``blind`` tells that
        the relation was fitted without the MSI's responses; ``displaced_px`` is the displacement that was found before,
        where that is known. Without responses nothing is left out of the displacement and nothing bounds what it
        explains: a relation that was learned from the pair errs by as much at the edges of rare materials.
        """
        apart = displacement_px(relation, msi, valid) if displaced_px is None else displaced_px
        found = cls._beyond(apart, relation, msi, valid, rim, blind=blind)
        for _ in range(_ROUNDS):
            if blind or found.displacement_px <= DISPLACED_PX or not found.candidates.any():
                break
            # Ground that no displacement explains tells none.
            unchanged = valid & ~binary_dilation(found.candidates, np.ones((3, 3), bool))
            if not unchanged.any():
                break
            apart = displacement_px(relation, msi, unchanged)
            if apart >= _LESS * found.displacement_px:
                break
            found = cls._beyond(apart, relation, msi, valid, rim, blind=blind)
        return found

    @classmethod
    def _beyond(
        cls, found: float, relation: GuideRelation, msi: FloatArray, valid: NDArray[np.bool_],
        rim: NDArray[np.bool_] | None, *, blind: bool,
    ) -> Contradiction:  # fmt: skip
        """Compare them, where displacements of so many pixels contradict nothing."""
        seen, remoteness = relation.seen, relation.remoteness
        power = _power(seen, valid)
        square, rivalry, left = np.empty((3, *valid.shape))

        def look(rows: slice) -> None:
            part = rows_around(rows, _NEIGHBOURS_PX, len(valid))
            inside = rows_inside(rows, part)
            residual = msi[:, part] - seen[:, part]
            misfit = _relative_square(residual, power)
            contrast = _relative_square(over_neighbours(seen[:, part]), power)
            soft_misfit, soft_contrast = (gaussian_filter(x, _SOFT_PX, mode="constant") for x in (misfit, contrast))
            square[rows], rivalry[rows] = misfit[inside], (soft_misfit / (soft_contrast + _LEAST_CONTRAST))[inside]
            unexplained = _unexplained_share(
                residual, _slopes(seen[:, part]), relation.variance[:, part], found, np.inf if blind else _FARTHEST
            )
            left[rows] = (relation.distance[part] * unexplained / np.maximum(remoteness[part] / _REMOTE, 1.0))[inside]

        _by_rows(look, valid.shape[0])
        # Neighbours that differ much predict badly: beside them a strong contradiction must do.
        beside_contrast = left * np.minimum(rivalry, 1.0)
        if blind or found > DISPLACED_PX:
            candidates = (left > (_BLIND_DISTANCE if blind else OUTLIER_DISTANCE)) & (rivalry > 1.0) & valid
        else:
            candidates = (beside_contrast > OUTLIER_DISTANCE) & valid
        if rim is not None and not blind:
            # What lies in a gap is in the blurred MSI of its rim.
            candidates |= (beside_contrast > _RIM_DISTANCE) & rim
        return cls(np.asarray(candidates, dtype=np.bool_), rivalry, square, power, found)


def misfit(msi: FloatArray, seen: FloatArray, valid: NDArray[np.bool_]) -> FloatArray:
    """Squared error of the guide, as in :class:`Contradiction`."""
    return _relative_square(msi - seen, _power(seen, valid))


def _power(seen: FloatArray, valid: NDArray[np.bool_]) -> FloatArray:
    return np.asarray(np.maximum(seen[:, valid].var(axis=1), 1e-12))


def _relative_square(image: FloatArray, power: FloatArray) -> FloatArray:
    """Square, mean over the bands in units of ``power``, shape (row, col)."""
    return np.asarray((image**2 / power[:, None, None]).mean(axis=0))


def displacement_px(relation: GuideRelation, msi: FloatArray, valid: NDArray[np.bool_]) -> float:
    """Local displacement of both images, see :class:`Contradiction`.

    That along the slope of the steepest pixels: a robust spread, without what noise makes of it.
    """
    seen, variance = relation.seen, relation.variance
    steepness = np.empty(valid.shape)

    def look(rows: slice) -> None:
        part = rows_around(rows, 1, len(valid))
        inside = rows_inside(rows, part)
        steepness[rows] = (_slopes(seen[:, part])[:, :, inside] ** 2 / variance[:, rows]).sum(axis=(0, 1))

    _by_rows(look, valid.shape[0])
    steep = valid & (steepness >= np.quantile(steepness[valid], _STEEP)) & (steepness > 0)
    if not steep.any():
        return 0.0

    def along(rows: slice) -> tuple[FloatArray, FloatArray]:
        """What each steep pixel tells in the direction that it tells most about: displacement and noise."""
        part = rows_around(rows, 1, len(valid))
        inside = rows_inside(rows, part)
        chosen = steep[rows]
        slopes, precision = _slopes(seen[:, part])[:, :, inside][:, :, chosen], 1.0 / variance[:, rows][:, chosen]
        values, vectors = np.linalg.eigh(np.einsum("ibp,jbp,bp->pij", slopes, slopes, precision))
        slope = np.einsum("ibp,pi->bp", slopes, vectors[:, :, 1])
        residual = msi[:, rows][:, chosen] - seen[:, rows][:, chosen]
        return (slope * residual * precision).sum(axis=0) / values[:, 1], 1.0 / values[:, 1]

    found, noise = (np.concatenate(parts) for parts in zip(*_by_rows(along, valid.shape[0]), strict=True))
    spread = (1.4826 * float(np.median(np.abs(found)))) ** 2
    return float(np.clip(np.sqrt(max(spread - float(np.median(noise)), 0.0)), 0.0, _MOST_DISPLACEMENT_PX))


def _by_rows(work: Callable[[slice], Part], height: int) -> list[Part]:
    """Do work with some rows after the others, side by side: what it makes of them stays in the cache."""
    rows = row_parts(height, _ROWS)
    return list(side_by_side(work, rows, threads_for(min(len(rows), _MOST_THREADS))))


def _slopes(seen: FloatArray) -> FloatArray:
    """Gradient along the rows and columns, none along an axis of one pixel, shape (axis, msi band, row, col)."""
    return np.stack([
        np.gradient(seen, axis=axis) if seen.shape[axis] > 1 else np.zeros_like(seen) for axis in (1, 2)
    ])  # fmt: skip


def _unexplained_share(
    residual: FloatArray, slopes: FloatArray, variance: FloatArray, displacement_px: float, farthest: float
) -> FloatArray:
    """Share of the squared distance of every residual that such displacements leave, shape (row, col).

    None goes farther than ``farthest`` deviations.

    ``r' (V + d^2 G G')^-1 r`` over ``r' V^-1 r``, by the matrix inversion lemma with the two slopes G.
    """
    if displacement_px == 0.0:
        return np.ones(residual.shape[1:])
    weighted = residual / variance
    total = np.maximum((residual * weighted).sum(axis=0), 1e-30)
    down, across = ((slope * weighted).sum(axis=0) for slope in slopes)
    loading = displacement_px**-2
    a = (slopes[0] ** 2 / variance).sum(axis=0) + loading
    b = (slopes[0] * slopes[1] / variance).sum(axis=0)
    c = (slopes[1] ** 2 / variance).sum(axis=0) + loading
    along_rows, along_cols = (c * down - b * across) / (a * c - b**2), (a * across - b * down) / (a * c - b**2)
    explained = down * along_rows + across * along_cols
    # A pixel that would have to lie farther off than pixels do lies as far as they do at most.
    farther = np.maximum(np.hypot(along_rows, along_cols) / (farthest * displacement_px), 1.0)
    return np.asarray(np.clip(1.0 - explained * (2.0 / farther - farther**-2) / total, 0.0, 1.0))
