"""Compiled kernels of the matching against their plain twins, for every instruction set of this processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hsfuse.coregister.refine import Refiner
from hsfuse.coregister.sampling import Smoother
from hsfuse.coregister.sums import WindowSums
from hsfuse.coregister.windows import Windows
from hsfuse.native import OVERRIDE, match

CPU = torch.device("cpu")


@pytest.mark.parametrize(("height", "width"), [(5, 3), (70, 131)])
@pytest.mark.parametrize("scale", [0.6, 1.5, 2.9])
def test_images_without_their_local_mean(isa, plain, height, width, scale):
    torch.manual_seed(0)
    image, mask = torch.randn(height, width) + 3.0, (torch.rand(height, width) > 0.3).float()
    smoother, count = Smoother(height, width, scale, CPU), mask.sum()

    def flattened(out):
        smoother.flatten(
            image if out is None else out,
            mask,
            smoother.total(mask),
            count,
            out := torch.empty_like(image) if out is None else out,
        )
        return out

    expected = plain(flattened, None)
    torch.testing.assert_close(flattened(None), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(flattened(image.clone()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gaps", [0.0, 0.001])
def test_the_reference_at_displaced_positions(isa, plain, gaps):
    torch.manual_seed(0)
    target = torch.randn(1, 40, 37)
    reference = torch.randn(3, 2 * 46, 2 * 43)
    reference[:, torch.rand(reference.shape[1:]) < gaps] = torch.nan
    # Some positions lie far outside, where samples of the border repeat and nothing counts as known.
    displacement = 4.0 * torch.randn(2, 40, 37)
    refiner = Refiner(target, reference.clone(), 3.0)
    expected, found = plain(refiner.warp, displacement), refiner.warp(displacement)
    assert 0.3 < float(expected.usable.float().mean()) < 1.0
    torch.testing.assert_close(found.usable, expected.usable)
    torch.testing.assert_close(found.image, expected.image, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize(("height", "width", "planes", "channels"), [(100, 131, 4, 3), (49, 64, 1, 1), (20, 30, 2, 1)])
@pytest.mark.parametrize("kind", ["fit", "resemblance", "shift"])
def test_sums_over_windows(isa, plain, kind, boxes, height, width, planes, channels):
    torch.manual_seed(0)
    windows = Windows.boxes(height, width, 17, CPU) if boxes else Windows.hann(height, width, 24, 9, CPU)
    reference = torch.randn(planes, height, width).cumsum(1).cumsum(2) / 30.0
    target = 0.7 * reference[:1].repeat(channels, 1, 1) + 0.1 * torch.randn(channels, height, width)
    mask = (torch.rand(height, width) > 0.1).float()
    mask[: height // 3, : width // 2] = 0.0
    sums = WindowSums(windows, reference, target, mask, torch.rand(height, width) > 0.05)
    model = (
        torch.rand(channels, planes + 1, *windows.shape, dtype=torch.float64) - 0.2,
        0.05 + torch.rand(channels, *windows.shape, dtype=torch.float64),
    )
    for given in (model, None) if kind == "fit" else (model,):
        expected, found = plain(sums.of, kind, given), sums.of(kind, given)
        for one, other in zip(found, expected, strict=True):
            assert one.shape == other.shape
            torch.testing.assert_close(
                one, other, rtol=2e-4, atol=2e-5 * float(other.abs().max() if other.numel() else 1.0)
            )


def test_what_is_switched_off_is_said(monkeypatch):
    monkeypatch.setenv(OVERRIDE, "off")
    assert match.KERNELS.status().startswith("plain PyTorch (switched off")
    with pytest.raises(RuntimeError, match="no compiled kernels"):
        match.convolve(np.zeros((2, 2), np.float32), np.ones(1, np.float32))
