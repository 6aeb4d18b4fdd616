"""NLSTF: tiles that agree, detail that the HSI does not have, and what it says of scenes without any pixel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hsfuse.errors import OverlapError, UsageError
from hsfuse.fusion.base import LowResolutionStrip
from hsfuse.fusion.create import create_method
from hsfuse.fusion.methods.nlstf.coding import Modes, product
from hsfuse.metrics.reference import psnr
from hsfuse.testing import SmallScene, check_method, small_scene


@pytest.fixture(scope="module")
def scene() -> SmallScene:
    return small_scene()


def fused(scene: SmallScene, name: str, **options: object) -> float:
    method = create_method(name, **options)
    method.fit(scene.context, scene.strips)
    cube = method.fuse(torch.from_numpy(scene.hsi)[None], torch.from_numpy(scene.msi)[None])
    return psnr(scene.truth, cube[0].numpy())


def test_tiles_agree(scene: SmallScene) -> None:
    check_method(lambda: create_method("nlstf", iterations=4, clusters=4), scene)


def test_it_finds_what_interpolation_does_not(scene: SmallScene) -> None:
    assert fused(scene, "nlstf", iterations=12, clusters=8) > fused(scene, "bicubic") + 10.0


def test_without_the_fine_image_patches_come_from_the_degraded_one(scene: SmallScene) -> None:
    method = create_method("nlstf", iterations=4, clusters=4)
    method.fit(scene.context, [replace(strip, fine=None) for strip in scene.strips])
    cube = method.fuse(torch.from_numpy(scene.hsi)[None], torch.from_numpy(scene.msi)[None])
    assert psnr(scene.truth, cube[0].numpy()) > fused(scene, "bicubic")


def test_a_core_that_explains_the_data_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, cols, bands = (torch.rand(2, size, 4, generator=generator) for size in (6, 6, 5))
    core = torch.randn(2, 4, 4, 4, generator=generator)
    data = product(core, rows, cols, bands)
    modes = Modes.of(rows, cols, bands)
    found = modes.solve(modes.correlated(data), torch.zeros_like(core), 1e-7)
    torch.testing.assert_close(product(found, rows, cols, bands), data, atol=1e-2, rtol=1e-2)


def test_bad_input(scene: SmallScene) -> None:
    with pytest.raises(UsageError, match="must be positive"):
        create_method("nlstf", clusters=0)
    hidden = [replace(strip, valid=np.zeros_like(strip.valid)) for strip in scene.strips]
    with pytest.raises(OverlapError, match="valid in both images"):
        create_method("nlstf").fit(scene.context, hidden)


def test_a_guide_full_of_gaps_is_no_lack_of_pixels(scene: SmallScene) -> None:
    def torn(strip: LowResolutionStrip) -> LowResolutionStrip:
        assert strip.fine is not None
        fine = strip.fine.copy()
        fine[:, ::2, ::2] = np.nan
        return replace(strip, fine=fine)

    with pytest.raises(OverlapError, match="no patch of 6 x 6 pixels without gaps") as caught:
        create_method("nlstf").fit(scene.context, [torn(strip) for strip in scene.strips])
    assert "such as glp" in str(caught.value.hint)
