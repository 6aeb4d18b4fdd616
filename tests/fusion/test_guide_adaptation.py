"""A denoiser that learns from the image that it denoises."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from hsfuse.fusion.nets.denoiser import GuideDenoiser
from hsfuse.fusion.nets.guide_adaptation import adapt_denoiser, loss_gradient

torch.set_num_threads(1)


def _image(seed: int = 0) -> np.ndarray:
    """Fields with sharp edges, the same in every band but for brightness, shape (4, 96, 96)."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.standard_normal((96, 96)), 4.0)
    steps = np.digitize(field, np.quantile(field, [0.2, 0.4, 0.6, 0.8])) / 5.0
    return np.stack([0.1 + gain * steps for gain in (0.2, 0.25, 0.3, 0.4)]).astype(np.float32)


def _pair(noise: float, seed: int = 0) -> tuple[np.ndarray, torch.Tensor, tuple[torch.Tensor, ...]]:
    clean = _image(seed)
    rng = np.random.default_rng(seed + 1)
    noisy = torch.from_numpy((clean + noise * rng.standard_normal(clean.shape)).astype(np.float32))[None]
    facts = (noisy.mean(dim=(2, 3)), noisy.std(dim=(2, 3)), torch.full((1, 4), noise))
    return clean, noisy, facts


def _error(denoiser: GuideDenoiser, noisy: torch.Tensor, facts: tuple[torch.Tensor, ...], clean: np.ndarray) -> float:
    with torch.no_grad():
        return float((denoiser(noisy, *facts)[0].numpy() - clean).std())


def test_it_removes_noise_without_having_seen_a_clean_image() -> None:
    torch.manual_seed(0)
    clean, noisy, facts = _pair(0.01)
    start = GuideDenoiser(4, 12)
    weights = {name: value.clone() for name, value in start.state_dict().items()}
    adapted = adapt_denoiser(start, [noisy[0].numpy()], *facts, steps=200)
    left = _error(adapted.denoiser, noisy, facts, clean)
    assert _error(start, noisy, facts, clean) == pytest.approx(0.01, rel=0.05)
    assert left < 0.85 * 0.01
    assert adapted.record.left_after == pytest.approx((left / 0.01) ** 2, abs=0.25)
    assert adapted.record.left_before == pytest.approx(1.0, abs=0.1)
    # The network of the zoo serves other scenes too.
    assert all(torch.equal(value, weights[name]) for name, value in start.state_dict().items())
    assert not any(p.requires_grad for p in adapted.denoiser.parameters())


def test_thorough_cleaning_does_not_depend_on_how_the_image_lies() -> None:
    torch.manual_seed(0)
    clean, noisy, facts = _pair(0.01)
    adapted = adapt_denoiser(GuideDenoiser(4, 12), [noisy[0].numpy()], *facts, steps=100)
    with torch.no_grad():
        once = adapted.clean(noisy, *facts)
        found = adapted.clean(noisy, *facts, thorough=True)
        turned = adapted.clean(noisy[..., :60].rot90(1, (-2, -1)), *facts, thorough=True).rot90(-1, (-2, -1))
        part = adapted.clean(noisy[..., :60], *facts, thorough=True)
    assert (found[0].numpy() - clean).std() < (once[0].numpy() - clean).std()
    torch.testing.assert_close(turned, part, rtol=0.0, atol=1e-6)


def test_the_same_scene_gives_the_same_denoiser() -> None:
    torch.manual_seed(0)
    _, noisy, facts = _pair(0.02)
    start = GuideDenoiser(4, 8)
    first, again = (adapt_denoiser(start, [noisy[0].numpy()], *facts, steps=8, seed=3).denoiser for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_without_noise_blocks_or_steps_it_stays_as_it_is() -> None:
    _, noisy, (mean, std, noise) = _pair(0.02)
    start, block = GuideDenoiser(4, 8), noisy[0].numpy()
    for blocks, told, steps in (([block], torch.zeros(1, 4), 5), ([], noise, 5), ([block[:, :10]], noise, 5),
                                ([block], noise, 0)):  # fmt: skip
        adapted = adapt_denoiser(start, blocks, mean, std, told, steps=steps)
        assert adapted.denoiser is start
        assert math.isnan(adapted.record.left_after)
        assert adapted.record.to_json()["left_after"] is None


def test_a_band_without_noise_does_no_harm_to_the_others() -> None:
    torch.manual_seed(0)
    clean, noisy, (mean, std, noise) = _pair(0.01)
    noisy[:, 0] = torch.from_numpy(clean[0])
    noise[:, 0] = 0.0
    adapted = adapt_denoiser(GuideDenoiser(4, 12), [noisy[0].numpy()], mean, std, noise, steps=150)
    with torch.no_grad():
        found = adapted.denoiser(noisy, mean, std, noise)[0].numpy()
    assert np.array_equal(found[0], clean[0])
    assert (found[1:] - clean[1:]).std() < 0.9 * 0.01


def test_half_precision_networks_adapt_in_single_precision() -> None:
    torch.manual_seed(0)
    _, noisy, facts = _pair(0.02)
    adapted = adapt_denoiser(GuideDenoiser(4, 8).to(torch.bfloat16), [noisy[0].numpy()], *facts, steps=20)
    assert next(adapted.denoiser.parameters()).dtype == torch.bfloat16
    assert adapted.record.left_after < adapted.record.left_before


@pytest.mark.parametrize(("images", "height"), [(3, 64), (3, 25), (1, 40), (2, 30), (5, 7)])
def test_two_threads_find_the_gradient_of_one(images: int, height: int) -> None:
    torch.manual_seed(0)
    denoiser = GuideDenoiser(4, 8)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    seen, wanted = 0.3 + 0.01 * torch.randn(2, images, 4, height, 33)
    facts = (torch.full((1, 4), 0.3), torch.full((1, 4), 0.02), torch.full((1, 4), 0.01))
    plain = loss_gradient(denoiser, seen, wanted, facts)
    with ThreadPoolExecutor(1) as beside:
        shared = loss_gradient(denoiser, seen, wanted, facts, beside)
        again = loss_gradient(denoiser, seen, wanted, facts, beside)
    for a, b, c in zip(plain, shared, again, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5 * float(a.abs().max()))
        assert torch.equal(b, c)
