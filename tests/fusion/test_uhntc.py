"""UHNTC learns on the scene alone: better than interpolation, the same again, tiles agree, small scenes are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hsfuse.errors import OverlapError, UsageError
from hsfuse.fusion.create import create_method
from hsfuse.metrics.reference import psnr
from hsfuse.testing import SmallScene, check_method, small_scene


@pytest.fixture(scope="module")
def scene() -> SmallScene:
    return small_scene()


@pytest.fixture(autouse=True)
def _one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_tiles_agree_and_a_second_run_is_equal(scene: SmallScene) -> None:
    check_method(lambda: create_method("uhntc", steps=4, sensor_steps=2, width=8), scene, tolerance=5e-4)


def test_it_learns_from_the_pair(scene: SmallScene) -> None:
    found = {}
    for steps in (1, 60):
        method = create_method("uhntc", steps=steps, sensor_steps=5, width=12)
        before = torch.get_rng_state()
        method.fit(scene.context, scene.strips)
        assert torch.equal(before, torch.get_rng_state()), "the caller's random numbers are the caller's"
        cube = method.fuse(torch.from_numpy(scene.hsi)[None], torch.from_numpy(scene.msi)[None])
        found[steps] = psnr(scene.truth, cube[0].numpy())
    assert found[60] > found[1] + 1.0


def test_bad_input(scene: SmallScene) -> None:
    with pytest.raises(UsageError, match="must be positive"):
        create_method("uhntc", steps=0)
    hidden = [replace(strip, valid=np.zeros_like(strip.valid)) for strip in scene.strips]
    with pytest.raises(OverlapError, match="too little to learn on") as caught:
        create_method("uhntc").fit(scene.context, hidden)
    assert "larger area" in str(caught.value.hint)
