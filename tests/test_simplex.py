"""The simplex search finds what SciPy's does, to the last digit, whether or not it looks ahead."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.optimize import minimize

from hsfuse.degrade import Psf, decimate_separable, displaced_kernels
from hsfuse.degrade.psf_estimation import estimate_psf
from hsfuse.degrade.simplex import minimise
from hsfuse.parallel import allowed_threads


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ahead", [False, True])
def test_the_same_as_scipy(seed: int, ahead: bool) -> None:
    rng = np.random.default_rng(seed)
    root, lowest = rng.standard_normal((3, 3)), rng.standard_normal(3)
    start = rng.standard_normal(3) + np.vstack([np.zeros(3), 0.15 * np.eye(3)])

    def height(x: NDArray[np.float64]) -> float:
        return float(((root @ (x - lowest)) ** 2).sum() + 0.3 * np.sin(5.0 * x).sum() + 0.5 * np.abs(x).max())

    asked: list[int] = []

    def heights(points: list[NDArray[np.float64]]) -> list[float]:
        asked.append(len(points))
        return [height(point) for point in points]

    options = {"initial_simplex": start, "xatol": 1e-2, "fatol": 1e-5, "maxfev": 500}
    wanted = minimize(height, start[0], method="Nelder-Mead", options=options)
    point, value = minimise(heights, start, size=1e-2, spread=1e-5, most=500, ahead=ahead)
    np.testing.assert_array_equal(point, wanted.x)
    assert value == wanted.fun
    assert asked[0] == 4
    assert max(asked[1:]) == (4 if ahead else 1) or 3 in asked


def test_a_blur_is_the_same_in_any_number_of_threads() -> None:
    import torch

    rng = np.random.default_rng(0)
    fine = gaussian_filter(rng.standard_normal((3, 192, 192)), (0, 1.0, 1.0)).astype(np.float32)
    kernels = displaced_kernels(Psf(1.3), 3, (0.1, -0.05))
    hsi = decimate_separable(torch.from_numpy(fine)[None], 3, *kernels)[0].numpy()
    hsi = np.tensordot(rng.random((5, 3)), hsi, axes=1) + 0.01 * rng.standard_normal((5, *hsi.shape[1:]))
    found = []
    for threads in (1, 8):
        with allowed_threads(threads):
            found.append(estimate_psf([(hsi, fine, np.ones(hsi.shape[1:], bool))], 3))
    assert found[0] is not None
    assert found[0] == found[1]
    assert found[0].fwhm_px == pytest.approx(1.3, abs=0.05)


def test_an_error_while_looking_ahead_is_raised() -> None:
    def fails(points: list[NDArray[np.float64]]) -> list[float]:
        if len(points) == 4 and points[0][0] > 0.0:
            raise ValueError("beyond")
        return [float(point @ point) for point in points]

    start = np.array([-1.0, 0.0]) + np.vstack([np.zeros(2), np.eye(2)])
    with pytest.raises(ValueError, match="beyond"):
        minimise(fails, start, size=1e-6, spread=1e-9, most=200, ahead=True)
