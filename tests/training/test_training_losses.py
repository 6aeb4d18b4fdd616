"""Losses: scale, masks, finite gradients."""

from __future__ import annotations

import pytest
import torch

from hsfuse.training.losses import FusionLoss, LossKind, spectral_angle


def _pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, 5, 8, 8, generator=generator) + 0.1
    estimate = target + 0.01 * torch.randn(3, 5, 8, 8, generator=generator)
    return estimate, target, target.std(dim=(2, 3)), torch.ones(3, 8, 8)


@pytest.mark.parametrize("kind", ["l1-sam", "l1", "mse"])
def test_patches_add_up(kind: LossKind) -> None:
    estimate, target, std, valid = _pair()
    loss = FusionLoss(kind)
    whole = loss(estimate, target, std, valid)
    single = torch.cat(
        [loss(estimate[i : i + 1], target[i : i + 1], std[i : i + 1], valid[i : i + 1]) for i in range(3)]
    )
    torch.testing.assert_close(whole, single)
    assert bool((whole > loss(target, target, std, valid)).all())


def test_mse_is_the_mean_squared_error() -> None:
    estimate, target, std, valid = _pair()
    expected = torch.nn.functional.mse_loss(estimate, target, reduction="none").mean(dim=(1, 2, 3))
    torch.testing.assert_close(FusionLoss("mse")(estimate, target, std, valid), expected)


@pytest.mark.parametrize("kind", ["l1-sam", "l1", "mse"])
def test_invalid_pixels_do_not_count(kind: LossKind) -> None:
    estimate, target, std, valid = _pair()
    valid[:, :4] = 0.0
    spoilt = estimate.clone()
    spoilt[:, :, :4] += 5.0
    loss = FusionLoss(kind)
    torch.testing.assert_close(loss(estimate, target, std, valid), loss(spoilt, target, std, valid))
    assert float(loss(estimate, target, std, torch.zeros_like(valid)).abs().sum()) == 0.0


def test_gradient_is_finite_where_spectra_agree_or_vanish() -> None:
    _, target, std, valid = _pair()
    for start in (target.clone(), torch.zeros_like(target)):
        start.requires_grad_(True)
        FusionLoss()(start, target, std, valid).sum().backward()
        assert start.grad is not None
        assert bool(torch.isfinite(start.grad).all())


def test_angle_is_the_angle() -> None:
    estimate, target, _, _ = _pair()
    cosine = torch.nn.functional.cosine_similarity(estimate.double(), target.double(), dim=1)
    torch.testing.assert_close(spectral_angle(estimate, target).double(), torch.arccos(cosine), atol=1e-3, rtol=0.02)
