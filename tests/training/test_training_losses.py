"""Losses: scale, masks, finite gradients."""

from __future__ import annotations

import pytest
import torch

from hsfuse.training.losses import BaseError, FusionLoss, LossKind, spectral_angle

KINDS = ["relative", "l1-sam", "l1", "mse"]
Given = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, BaseError]


def _pair() -> Given:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, 5, 8, 8, generator=generator) + 0.1
    estimate = target + 0.01 * torch.randn(3, 5, 8, 8, generator=generator)
    valid = torch.ones(3, 8, 8)
    base = target + 0.02 * torch.randn(3, 5, 8, 8, generator=generator)
    return estimate, target, target.std(dim=(2, 3)), valid, BaseError.of(base, target, valid)


@pytest.mark.parametrize("kind", KINDS)
def test_patches_add_up(kind: LossKind) -> None:
    estimate, target, std, valid, base = _pair()
    loss = FusionLoss(kind)
    whole = loss(estimate, target, std, valid, base)
    single = torch.cat(
        [
            loss(
                *(part[i : i + 1] for part in (estimate, target, std, valid)),
                BaseError(base.rms[i : i + 1], base.angle[i : i + 1]),
            )
            for i in range(3)
        ]
    )
    torch.testing.assert_close(whole, single)
    assert bool((whole > loss(target, target, std, valid, base)).all())


def test_mse_is_the_mean_squared_error() -> None:
    estimate, target, std, valid, base = _pair()
    expected = torch.nn.functional.mse_loss(estimate, target, reduction="none").mean(dim=(1, 2, 3))
    torch.testing.assert_close(FusionLoss("mse")(estimate, target, std, valid, base), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_invalid_pixels_do_not_count(kind: LossKind) -> None:
    estimate, target, std, valid, base = _pair()
    valid[:, :4] = 0.0
    spoilt = estimate.clone()
    spoilt[:, :, :4] += 5.0
    loss = FusionLoss(kind)
    torch.testing.assert_close(loss(estimate, target, std, valid, base), loss(spoilt, target, std, valid, base))
    assert float(loss(estimate, target, std, torch.zeros_like(valid), base).abs().sum()) == 0.0


def test_gradient_is_finite_where_spectra_agree_or_vanish() -> None:
    _, target, std, valid, base = _pair()
    for start in (target.clone(), torch.zeros_like(target)):
        start.requires_grad_(True)
        FusionLoss()(start, target, std, valid, base).sum().backward()
        assert start.grad is not None
        assert bool(torch.isfinite(start.grad).all())


def test_angle_is_the_angle() -> None:
    estimate, target, *_ = _pair()
    cosine = torch.nn.functional.cosine_similarity(estimate.double(), target.double(), dim=1)
    torch.testing.assert_close(spectral_angle(estimate, target).double(), torch.arccos(cosine), atol=1e-3, rtol=0.02)


def test_relative_loss_of_the_base_estimate_itself_is_its_share_of_errors_and_angle() -> None:
    _, target, std, valid, _ = _pair()
    base = target * 1.1 + 0.05 * torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    errors = BaseError.of(base, target, valid)
    torch.testing.assert_close(
        FusionLoss("relative")(base, target, std, valid, errors), torch.full((3,), 2.0), atol=1e-4, rtol=1e-4
    )


def test_relative_loss_does_not_care_how_bright_a_band_is() -> None:
    estimate, target, std, valid, _ = _pair()
    loss = FusionLoss("relative", sam_weight=0.0)
    scale = torch.tensor([1.0, 0.1, 5.0, 2.0, 0.5])[:, None, None]
    base = target + 0.02
    before = loss(estimate, target, std, valid, BaseError.of(base, target, valid))
    after = loss(
        estimate * scale,
        target * scale,
        std * scale.flatten(),
        valid,
        BaseError.of(base * scale, target * scale, valid),
    )
    torch.testing.assert_close(before, after)
