"""Banded systems by LAPACK without the interpreter's lock: SciPy's results; fits alike in any number of threads."""

from __future__ import annotations

import numpy as np
import pytest
import scipy
from numpy.typing import NDArray

from hsfuse.coregister import banded, fit
from hsfuse.coregister.fit import choose_field
from hsfuse.coregister.models import Points
from hsfuse.coregister.spline_lattice import Spline
from hsfuse.coregister.uncertainty import FieldUncertainty
from hsfuse.grid import Grid
from hsfuse.parallel import allowed_threads


def _matrix(sign: float = 1.0) -> NDArray[np.float64]:
    matrix = np.random.default_rng(0).standard_normal((8, 60))
    matrix[-1] += 30.0
    return sign * matrix


@pytest.mark.parametrize("plain", [False, True])
def test_scipys_results(monkeypatch: pytest.MonkeyPatch, plain: bool) -> None:
    if plain:
        monkeypatch.setattr(banded, "_routine", lambda name: None)
    right = np.random.default_rng(1).standard_normal((60, 4))
    factor = banded.factor_banded(_matrix())
    wanted = scipy.linalg.cholesky_banded(_matrix())
    np.testing.assert_array_equal(factor[:, 7:], wanted[:, 7:])
    np.testing.assert_array_equal(
        banded.solve_banded(factor, right), scipy.linalg.cho_solve_banded((wanted, False), right)
    )
    with pytest.raises(np.linalg.LinAlgError, match="not positive definite"):
        banded.factor_banded(_matrix(-1.0))


def test_a_solution_leaves_factor_and_right_sides_alone() -> None:
    right = np.asfortranarray(np.random.default_rng(1).standard_normal((60, 2)))
    factor = banded.factor_banded(_matrix())
    before = factor.copy(), right.copy()
    banded.solve_banded(factor, right)
    np.testing.assert_array_equal(factor, before[0])
    np.testing.assert_array_equal(right, before[1])


@pytest.fixture
def measured() -> tuple[Points, Spline]:
    rng = np.random.default_rng(0)
    height, width = 300, 320
    rows, cols = np.meshgrid(np.arange(20.0, height, 20.0), np.arange(20.0, width, 20.0), indexing="ij")
    position = np.stack([rows.ravel(), cols.ravel()], axis=1)
    value = np.stack([np.sin(position[:, 0] / 50.0), 0.01 * position[:, 1]], axis=1)
    value += 0.05 * rng.standard_normal(value.shape)
    grid = Grid.from_origin("EPSG:32632", 6e5, 5e6, 30.0, height, width)
    return Points(position, value, np.full(len(position), 0.05)), Spline.over(height, width, 40.0, grid)


def test_a_field_is_the_same_in_any_number_of_threads(measured: tuple[Points, Spline]) -> None:
    points, spline = measured
    found = []
    for threads in (1, 6):
        with allowed_threads(threads):
            choice = choose_field(points, spline)
            uncertainty = FieldUncertainty.of(choice.fitted, points, choice.weight)
            found.append((choice, choice.fitted.at(points.position), uncertainty.variance_at(points.position)))
    (one, at_one, variance_one), (other, at_other, variance_other) = found
    assert one.scores == other.scores
    np.testing.assert_array_equal(at_one, at_other)
    np.testing.assert_array_equal(variance_one, variance_other)
    assert float(np.abs(at_one - points.value).mean()) < 0.06


def test_an_error_in_a_fold_is_raised(measured: tuple[Points, Spline], monkeypatch: pytest.MonkeyPatch) -> None:
    points, spline = measured
    plain = fit.PolynomialSpline.fits

    def fails(self: fit.PolynomialSpline, points: Points, weight: NDArray[np.float64], smoothings: list[float]):
        if len(smoothings) > 1:
            raise np.linalg.LinAlgError("a fold")
        return plain(self, points, weight, smoothings)

    monkeypatch.setattr(fit.PolynomialSpline, "fits", fails)
    with allowed_threads(6), pytest.raises(np.linalg.LinAlgError, match="a fold"):
        choose_field(points, spline)
