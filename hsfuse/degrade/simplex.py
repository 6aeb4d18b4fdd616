"""The simplex search of Nelder and Mead, which can look at all points of a step at once.

J. A. Nelder, R. Mead, A simplex method for function minimization, Comput. J. 7, 1965; the rules and their order are
those of :func:`scipy.optimize.minimize`, whose import takes longer than a search here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Values = Callable[[Sequence[FloatArray]], Sequence[float]]
"""The function's values at several points."""

_SHRUNK = 0.5


def minimise(
    values: Values, simplex: FloatArray, *, size: float, spread: float, most: int, ahead: bool = False
) -> tuple[FloatArray, float]:
    """Find a minimum.

    Parameters
    ----------
    values
        Returns the function's values at points.
    simplex
        Where to start, shape (dimension + 1, dimension).
    size, spread
        The search ends when no corner is farther from the best one, and no value differs more from its value.
    most
        Steps end the search when so many values were used.
    ahead
        Ask for all points that a step may need at once; what is found does not depend on it.

    Returns
    -------
    (point, value)
        Of the best corner.
    """
    corners = np.array(simplex, np.float64)
    found = np.array(values(list(corners)))
    used = len(found)
    corners, found = _sorted(corners, found)
    while used < most and (
        np.abs(corners[1:] - corners[0]).max() > size or np.abs(found[1:] - found[0]).max() > spread
    ):
        step = _Step(values, corners, ahead)
        used += step.replace_worst(corners, found)
        corners, found = _sorted(corners, found)
    return corners[0], float(found[0])


def _within(values: FloatArray, limit: float) -> bool:
    """Whether none is farther from the first than a limit."""
    return bool(np.abs(values[1:] - values[0]).max() <= limit)


def _sorted(corners: FloatArray, found: FloatArray) -> tuple[FloatArray, FloatArray]:
    order = np.argsort(found)
    return corners[order], found[order]


class _Step:
    """Points on the line from the worst corner through the middle of the others, and their values."""

    def __init__(self, values: Values, corners: FloatArray, ahead: bool) -> None:
        middle, worst = corners[:-1].sum(axis=0) / (len(corners) - 1), corners[-1]
        self._values = values
        self._points = {far: (1.0 + far) * middle - far * worst for far in (1.0, 2.0, 0.5, -0.5)}
        self._found: dict[float, float] = {}
        self.used = 0
        if ahead:
            self._found = dict(zip(self._points, values(list(self._points.values())), strict=True))

    def _value(self, far: float) -> float:
        """Value at a point, as far beyond the middle as the worst corner is before it times ``far``."""
        self.used += 1
        if far not in self._found:
            (self._found[far],) = self._values([self._points[far]])
        return self._found[far]

    def replace_worst(self, corners: FloatArray, found: FloatArray) -> int:
        """Put a better corner in the place of the worst one, or shrink the simplex; return how many values it took."""
        mirrored, chosen = self._value(1.0), 1.0
        if mirrored < found[0]:
            chosen = 2.0 if self._value(2.0) < mirrored else 1.0
        elif mirrored >= found[-2]:
            beyond = mirrored < found[-1]
            chosen = 0.5 if beyond else -0.5
            value = self._value(chosen)
            if value > mirrored if beyond else value >= found[-1]:
                corners[1:] = corners[0] + _SHRUNK * (corners[1:] - corners[0])
                found[1:] = self._values(list(corners[1:]))
                return self.used + len(found) - 1
        corners[-1], found[-1] = self._points[chosen], self._found[chosen]
        return self.used
