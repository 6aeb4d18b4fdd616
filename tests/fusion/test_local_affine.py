"""The regression in moving windows behind local corrections: its compiled path and its plain twin."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from hsfuse.fusion.change.local import local_affine
from hsfuse.native import affine
from hsfuse.native.build import OVERRIDE

_Pair = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _pair(bands: int, shape: tuple[int, int]) -> _Pair:
    """What the HSI shows, a guide whose bands are alike, and weights that leave a corner all but out."""
    rng = np.random.default_rng(bands)
    common = gaussian_filter(rng.normal(size=shape), 1.0)
    guide = 0.3 + 0.1 * common + 0.01 * gaussian_filter(rng.normal(size=(bands, *shape)), (0, 1, 1))
    weight = rng.uniform(size=shape)
    weight[:4, :6] = 1e-9
    return 1.2 * guide - 0.03 + 0.002 * rng.normal(size=guide.shape), guide, weight


@pytest.mark.parametrize(
    ("bands", "shape", "sigma"),
    [(4, (70, 150), 2.5), (4, (33, 64), 4.0), (10, (40, 65), 1.5), (3, (7, 5), 4.0), (1, (1, 3), 2.0)],
)
@pytest.mark.parametrize("asked", [False, True])
def test_compiled_and_plain_regressions_agree(
    bands: int, shape: tuple[int, int], sigma: float, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if affine.KERNELS.library() is None:
        pytest.skip("there is no compiled path here")
    seen, guide, weight = _pair(bands, shape)
    where = None
    if asked:
        some = np.zeros(shape, bool)
        some[shape[0] // 3, shape[1] // 2] = some[0, -1] = True
        where = np.asarray(binary_dilation(some, iterations=3), dtype=np.bool_)
    fast = local_affine(seen, guide, weight, sigma, 0.03, where)
    monkeypatch.setenv(OVERRIDE, "off")
    assert affine.KERNELS.library() is None
    for found, wanted in zip(fast, local_affine(seen, guide, weight, sigma, 0.03, where), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0.0, atol=1e-10 * float(np.abs(wanted).max()))


def test_image_that_is_worth_threads_is_corrected_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    if affine.KERNELS.library() is None:
        pytest.skip("there is no compiled path here")
    seen, guide, weight = _pair(2, (90, 70))
    alone = local_affine(seen, guide, weight, 2.0, 0.1)
    monkeypatch.setattr(affine, "_WORTH_THREADS", 1)
    for found, wanted in zip(local_affine(seen, guide, weight, 2.0, 0.1), alone, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("native", ["", "off"])
def test_affine_change_of_a_guide_is_found_where_it_was_asked_for(native: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OVERRIDE, native)
    _, guide, weight = _pair(3, (60, 80))
    turn = np.array([[0.2, -0.1, 0.0], [0.0, 0.3, 0.1], [-0.2, 0.0, 0.1]])
    seen = guide + np.tensordot(turn, guide, axes=1) + 0.02
    where = np.zeros(weight.shape, bool)
    where[20:30, 30:50] = True
    correction, error = local_affine(seen, guide, weight, 2.5, 1e-6, where)
    np.testing.assert_allclose(correction[:, :3, where], np.broadcast_to(turn[:, :, None], (3, 3, 200)), atol=0.01)
    assert not correction[:, :, ~where].any()
    assert np.abs(error[:, where]).max() < 1e-4
    np.testing.assert_array_equal(error[:, ~where], (seen - guide)[:, ~where])
