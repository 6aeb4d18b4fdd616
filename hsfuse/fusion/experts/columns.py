"""Least squares of many samples on few regressors, whose decomposition serves all that is fitted to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.linalg import qr, solve_triangular

from hsfuse.fusion.classical.statistics import FloatMatrix
from hsfuse.parallel import side_by_side, threads_for

Sums = TypeVar("Sums")

_SAMPLES = 4096
"""Samples whose targets are made and used at a time."""
_MOST_THREADS, _FITS_BESIDE = 16, 4
"""Regressions that are fitted side by side share the threads."""
_LEAST_PIVOT = 1e-10
"""Of the largest one: columns whose pivots are smaller depend on the others."""


@dataclass(frozen=True)
class Columns:
    """Regressors and a constant, decomposed once for all that is fitted to them.

    By a QR decomposition: :func:`numpy.linalg.lstsq` turns all targets along, most of its time where there are hundreds
    of them, and has to be asked only where columns depend on each other.

    Attributes
    ----------
    values
        Shape (sample, regressor + 1).
    q, r
        The decomposition; None where columns depend on each other.
    """

    values: FloatMatrix
    q: FloatMatrix | None
    r: FloatMatrix

    @classmethod
    def of(cls, x: FloatMatrix) -> Columns:
        """Decompose regressors, shape (sample, regressor)."""
        values = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        q, r = qr(values, mode="economic", check_finite=False)
        pivots = np.abs(np.diag(r))
        depends = len(values) < values.shape[1] or pivots.min() <= _LEAST_PIVOT * pivots.max()
        return cls(values, None if depends else q, r)

    def fit(self, y: FloatMatrix) -> tuple[FloatMatrix, FloatMatrix]:
        """Fit targets (sample, target): coefficients (regressor + 1, target) and what is left, the shape of ``y``."""
        if self.q is None:
            return self._asked(y)
        turned = self.q.T @ y
        return self._solved(turned), y - self.q @ turned

    def fit_made(
        self, make: Callable[[slice], FloatMatrix], use: Callable[[slice, FloatMatrix], Sums]
    ) -> tuple[FloatMatrix, list[Sums]]:
        """Fit targets that are made some samples at a time, side by side.

        ``make`` returns the targets of some samples, to be changed in place; ``use`` is given what is left of them.
        Returns the coefficients, and what ``use`` returned, in order.
        """
        parts = [slice(first, first + _SAMPLES) for first in range(0, len(self.values), _SAMPLES)]
        threads = threads_for(_MOST_THREADS) // _FITS_BESIDE
        q = self.q
        if q is None:
            found, left = self._asked(np.concatenate([make(part) for part in parts]))
            return found, [use(part, left[part]) for part in parts]

        def turn(part: slice) -> tuple[FloatMatrix, FloatMatrix]:
            made = make(part)
            return made, q[part].T @ made

        made, turned = zip(*side_by_side(turn, parts, threads), strict=True)
        total: FloatMatrix = np.sum(turned, axis=0)

        def rest(piece: tuple[slice, FloatMatrix]) -> Sums:
            part, values = piece
            values -= q[part] @ total
            return use(part, values)

        return self._solved(total), list(side_by_side(rest, zip(parts, made, strict=True), threads))

    def _solved(self, turned: FloatMatrix) -> FloatMatrix:
        return np.asarray(solve_triangular(self.r, turned, check_finite=False), np.float64)

    def _asked(self, y: FloatMatrix) -> tuple[FloatMatrix, FloatMatrix]:
        found = np.asarray(np.linalg.lstsq(self.values, y, rcond=None)[0], np.float64)
        return found, y - self.values @ found
