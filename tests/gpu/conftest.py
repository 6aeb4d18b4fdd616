"""The device that the tests of this folder compare with the CPU, and methods ready to be compared.

``HSFUSE_TEST_DEVICE`` names it. Without, it is the GPU where there is one; elsewhere tests marked ``smoke`` compare the
CPU with itself, so that they cannot rot, and all others are skipped. ``HSFUSE_TEST_DEVICE=cpu pytest tests/gpu`` runs
all that need no card (minutes).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from gpu_support import Maker, random_weights

from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.create import create_method
from hsfuse.fusion.registry import METHODS
from hsfuse.testing.scene import SmallScene, small_scene


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    named = os.environ.get("HSFUSE_TEST_DEVICE")
    if named:
        return named
    if torch.cuda.is_available():
        return "cuda:0"
    if request.node.get_closest_marker("smoke") is None:
        pytest.skip("needs an NVIDIA GPU (HSFUSE_TEST_DEVICE=cpu compares the CPU with itself)")
    return "cpu"


@pytest.fixture
def card(device: str) -> str:
    """A device that is a GPU."""
    if not device.startswith("cuda"):
        pytest.skip("needs an NVIDIA GPU")
    return device


@pytest.fixture(autouse=True)
def _full_precision() -> Iterator[None]:
    """TF32 would hide real differences."""
    matmul, conv = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, conv


@pytest.fixture(scope="session")
def scene() -> SmallScene:
    return small_scene(size_px=(24, 20))


@pytest.fixture(scope="session")
def fitted(scene: SmallScene, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Make a method, on a device, that has seen the scene; networks get random weights that correct something."""
    folder = tmp_path_factory.mktemp("weights")

    def make(name: str, device: str, **options: object) -> FusionMethod:
        entry = METHODS.get(name).network
        model = None if entry is None else random_weights(name, scene, folder)
        given = {} if model is None else {"model": model, "validate": False}
        method = create_method(name, **given, **options)
        with torch.no_grad():
            method.fit(replace(scene.context, device=device), scene.strips)
        return method

    return make
