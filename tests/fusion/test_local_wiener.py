"""The local Wiener filter of the guide: less noise, structure kept, the same in any tiling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from hsfuse.fusion.map import local_wiener
from hsfuse.fusion.map.local_wiener import denoise, reach_px
from hsfuse.native.wiener import KERNELS

torch.set_num_threads(1)


def _structure(shape: tuple[int, int] = (72, 66)) -> torch.Tensor:
    """Fields of different brightness, seen alike by all bands, in units of the noise."""
    field = gaussian_filter(np.random.default_rng(0).standard_normal(shape), 3.0)
    steps = 8.0 * np.round(3.0 * field / field.std())
    return torch.from_numpy(np.array([1.0, 1.5, 2.0, 4.0])[:, None, None] * steps).float()


def test_noise_goes_and_structure_stays() -> None:
    clean = _structure()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    left = denoise(clean + noise) - clean
    assert float(left.square().mean()) < 0.6
    assert float((denoise(100.0 * clean) - 100.0 * clean).abs().max()) < 0.5


@pytest.mark.parametrize("step", [1, 2, 3])
def test_cut_at_cells_nothing_changes(step: int) -> None:
    image = _structure() + torch.randn(4, 72, 66, generator=torch.Generator().manual_seed(1))
    whole, reach = denoise(image, step=step), reach_px(step)
    part = denoise(image[:, 12:60, 6:54], step=step)
    inner = part[:, reach:-reach, reach:-reach]
    assert torch.allclose(inner, whole[:, 12 + reach : 60 - reach, 6 + reach : 54 - reach], atol=1e-5)


def test_one_band_and_odd_sizes() -> None:
    image = torch.randn(1, 11, 7, generator=torch.Generator().manual_seed(2))
    assert float(denoise(image).square().mean()) < float(image.square().mean())
    assert torch.equal(denoise(image[:, :1]), image[:, :1])


@pytest.mark.parametrize(("bands", "size", "step"), [(4, (37, 50), 3), (1, (2, 9), 2), (10, (8, 7), 1)])
def test_the_compiled_filter_equals_the_plain_one(bands: int, size: tuple[int, int], step: int) -> None:
    if KERNELS.library() is None:
        pytest.skip("no compiler")
    x = torch.from_numpy(np.random.default_rng(bands).normal(size=(bands, *size)).cumsum(axis=1).astype(np.float32))
    gain = sum(weight**2 for weight in local_wiener._BLUR) ** 2 - 2.0 * local_wiener._BLUR[1] ** 2 + 1.0
    plain = local_wiener._plain(x, step, gain)
    torch.testing.assert_close(denoise(x, step=step), plain, atol=2e-5, rtol=0)


@pytest.mark.parametrize("contrast", [1e3, 1e4, 1e5, 1e7, 1e9])
def test_contrast_of_any_number_of_noises_stays_finite_and_as_it_is(contrast: float) -> None:
    rng = np.random.default_rng(0)
    edges = contrast * rng.normal(size=(30, 30)) * np.array([1.0, 1.0, 1.5, 2.0])[:, None, None]
    x = torch.from_numpy((edges + rng.normal(size=(4, 30, 30))).astype(np.float32))
    gain = sum(weight**2 for weight in local_wiener._BLUR) ** 2 - 2.0 * local_wiener._BLUR[1] ** 2 + 1.0
    for cleaned in (denoise(x), local_wiener._plain(x, 3, gain)):
        # Noise may go, contrast may not.
        assert float((cleaned - x).abs().max()) < 5.0 + 1e-6 * contrast
