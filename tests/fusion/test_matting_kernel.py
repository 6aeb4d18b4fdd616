"""The matting's normal equations: the compiled kernel and NumPy agree, whatever the block is."""

from __future__ import annotations

import numpy as np
import pytest

from hsfuse.degrade import Psf
from hsfuse.fusion.change.matting import NormalEquations
from hsfuse.fusion.change.response import Response
from hsfuse.native import matting
from hsfuse.native.build import OVERRIDE


@pytest.mark.parametrize("instructions", ["", "avx2", "baseline"])
@pytest.mark.parametrize(
    ("shape", "ratio", "bands"), [((4, 5), 3, 1), ((21, 16), 3, 4), ((9, 13), 2, 10), ((5, 7), 6, 33)]
)
def test_compiled_and_plain_agree(
    shape: tuple[int, int], ratio: int, bands: int, instructions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OVERRIDE, instructions)
    if matting.KERNELS.library() is None:
        pytest.skip("there is no compiled path here")
    rng = np.random.default_rng(bands)
    rows, cols = (size * ratio for size in shape)
    x, sparse = rng.standard_normal((2, rows, cols)).astype(np.float32)
    near = (rng.random((rows, cols)) < 0.8).astype(np.float32)
    smooth = [
        rng.random((rows - down, cols - across), np.float32) for down, across in ((0, 1), (1, 0), (1, 1), (1, 1))
    ]  # fmt: skip
    amplitude = rng.standard_normal((rows, bands, cols)).astype(np.float32)
    precision = rng.random((shape[1], shape[0], bands), np.float32)
    response = Response(ratio, Psf(1.2), (0.1, -0.2)).separable(shape)
    equations = NormalEquations(near, amplitude, response)
    compiled = equations.applied(sparse, smooth, precision, x).copy()
    monkeypatch.setenv(OVERRIDE, "off")
    plain = equations.applied(sparse, smooth, precision, x)
    np.testing.assert_allclose(compiled, plain, rtol=0.0, atol=1e-5 * np.abs(plain).max())
    assert np.abs(plain).max() > 1.0
    assert not compiled[near == 0].any()


def test_the_equations_are_symmetric_and_positive() -> None:
    """Conjugate gradients need that."""
    rng = np.random.default_rng(1)
    response = Response(3, Psf(1.2)).separable((6, 7))
    near = np.ones((18, 21), np.float32)
    amplitude = rng.standard_normal((18, 4, 21)).astype(np.float32)
    smooth = [rng.random((18 - down, 21 - across), np.float32) for down, across in ((0, 1), (1, 0), (1, 1), (1, 1))]
    sparse, precision = rng.random((18, 21), np.float32), rng.random((7, 6, 4), np.float32)
    equations = NormalEquations(near, amplitude, response)
    first, second = rng.standard_normal((2, 18, 21)).astype(np.float32)
    applied = [equations.applied(sparse, smooth, precision, x).copy() for x in (first, second)]
    assert np.vdot(second, applied[0]) == pytest.approx(np.vdot(first, applied[1]), rel=1e-4)
    assert np.vdot(first, applied[0]) > 0.0
