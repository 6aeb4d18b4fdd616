"""Gaussian filters: compiled and plain alike, as SciPy has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from hsfuse.fusion.gaussian import gaussian


@pytest.mark.parametrize("mode", ["reflect", "constant"])
@pytest.mark.parametrize("sigma", [0.7, 8.0])
def test_is_that_of_scipy(mode: Literal["reflect", "constant"], sigma: float, plain: Callable[..., Any]) -> None:
    image = np.random.default_rng(0).random((2, 41, 30))
    expected = gaussian_filter(image, (0, sigma, sigma), mode=mode)
    for found in (gaussian(image, sigma, mode), plain(gaussian, image, sigma, mode)):
        assert found.dtype == np.float32
        assert np.allclose(found, expected, atol=1e-5)
