"""Non-local Bayesian denoising: removes noise, compiled and plain alike, the same wherever an image is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from hsfuse.fusion.map.nonlocal_bayes import denoise, reach_px

torch.set_num_threads(1)


def _image(bands: int, rows: int, cols: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(bands)
    clean = 15.0 * gaussian_filter(rng.standard_normal((bands, rows, cols)), (0, 2.5, 2.5))
    noisy = clean + rng.standard_normal(clean.shape)
    return torch.from_numpy(clean.astype(np.float32)), torch.from_numpy(noisy.astype(np.float32))


@pytest.mark.parametrize("bands", [1, 4])
def test_removes_most_of_the_noise(bands: int) -> None:
    clean, noisy = _image(bands, 40, 46)
    left = float((denoise(noisy) - clean).square().mean())
    assert left < (0.35 if bands > 1 else 0.5)


def test_compiled_is_plain(isa: str, plain: Callable[..., Any]) -> None:
    for bands, rows, cols in ((3, 21, 24), (10, 19, 17)):
        _, noisy = _image(bands, rows, cols)
        assert torch.allclose(denoise(noisy, step=2), plain(denoise, noisy, step=2), atol=2e-4)


def test_one_pass_removes_noise_and_compiled_is_plain(plain: Callable[..., Any]) -> None:
    clean, noisy = _image(3, 40, 46)
    once = denoise(noisy, step=3, passes=1)
    assert float((once - clean).square().mean()) < 0.7
    assert torch.allclose(once, plain(denoise, noisy, step=3, passes=1), atol=2e-4)
    wanted = np.zeros(noisy.shape[1:], bool)
    wanted[9:20, 9:24] = True
    part = denoise(noisy, passes=1, wanted=wanted)
    # Groups of patches farther away add nothing: near the rim it is another mean of like patches.
    assert float((part - once)[:, 9:20, 9:24].abs().max()) < 0.7
    assert float((part - clean)[:, 9:20, 9:24].square().mean()) < 0.7


def test_structure_without_noise_stays() -> None:
    clean, _ = _image(4, 30, 30)
    strong = 50.0 * clean
    assert float((denoise(strong) - strong).abs().mean()) < 0.3


def test_a_group_that_cannot_be_factored_stays_as_it_is(plain: Callable[..., Any]) -> None:
    """On a GPU, as in plain PyTorch, it ended the run."""
    clean, _ = _image(4, 24, 26)
    strong = 1e5 * clean
    found = plain(denoise, strong)
    assert bool(found.isfinite().all())
    assert float((found - strong).abs().max()) < 0.1 * float(strong.abs().max())


@pytest.mark.parametrize("factor", [1e3, 1e6])
def test_structure_that_dwarfs_the_noise_stays(factor: float) -> None:
    """Sums of squares of such structure round to more than the noise, most of all where the bands are alike."""
    noisy = _image(1, 30, 30)[1].repeat(4, 1, 1)
    assert float((denoise(factor * noisy) - factor * noisy).abs().max()) < 0.01 * factor


def test_cut_at_multiples_of_the_step_gives_the_same() -> None:
    _, noisy = _image(4, 30, 150)
    first = 150 - reach_px() - 36
    whole, part = denoise(noisy), denoise(noisy[:, :, first:])
    assert torch.allclose(part[:, :, reach_px() :], whole[:, :, first + reach_px() :], atol=1e-4)


def test_images_smaller_than_a_patch_stay() -> None:
    tiny = torch.ones(2, 2, 5)
    assert denoise(tiny) is tiny


def test_wanted_pixels_are_those_of_the_whole() -> None:
    """Groups that reach none of them are left out."""
    _, noisy = _image(4, 90, 150)
    wanted = np.zeros(noisy.shape[1:], bool)
    wanted[30:60, 40:61] = wanted[70, 20] = True
    whole, part = denoise(noisy), denoise(noisy, wanted=wanted)
    assert torch.equal(part[:, wanted], whole[:, wanted])
