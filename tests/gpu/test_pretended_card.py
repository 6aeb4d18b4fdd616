"""What methods do with tiles stays on the device that they were given: shown on a card that is pretended.

The gate's method holds a network, the MAP estimate, the non-local step and the experts. Numbers are those of the plain
path on the CPU, for the compiled kernels serve no card.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from gpu_support import Maker, fused
from pretend_card import OnCard, pretended

from hsfuse.testing.scene import SmallScene

TOLERANCE = 2e-4
LONG = pytest.mark.skipif("HSFUSE_TEST_DEVICE" not in os.environ, reason="takes 20 s; set HSFUSE_TEST_DEVICE=cpu")


def test_a_pretended_card_refuses_what_a_card_refuses() -> None:
    with pretended() as device:
        there, here = torch.ones(3, device=device), torch.ones(3)
        assert there.is_cuda
        with pytest.raises(RuntimeError, match="same device"):
            there + here
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(there)
        moved = (there + here.to(device)).sum()
    assert float(moved.cpu()) == 6.0


@pytest.mark.parametrize("name", ["gsa", "glp", "cnmf", pytest.param("ssrfn-lite", marks=LONG)])
def test_work_on_tiles_stays_on_the_device(name: str, fitted: Maker, scene: SmallScene) -> None:
    expected = fused(fitted(name, "cpu"), scene, "cpu")
    with pretended() as device:
        method = fitted(name, str(device))
        hsi, msi = (torch.from_numpy(image)[None].to(device) for image in (scene.hsi, scene.msi))
        with torch.no_grad():
            found = method.fuse(hsi, msi)
    assert isinstance(found, OnCard)
    assert float((found.cpu() - expected).abs().max()) <= TOLERANCE
