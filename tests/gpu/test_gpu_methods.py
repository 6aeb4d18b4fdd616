"""Every registered method on a GPU against the CPU: classics, networks, MAP and the non-local step, experts and gate.

Tolerances are in reflectance. Single precision on both sides; sums run in another order, which regressions and matrix
decompositions amplify. Half precision is compared in units of what a network changes.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from gpu_support import Maker, fused

from hsfuse.fusion.base import FusionMethod, Quality
from hsfuse.fusion.create import create_method
from hsfuse.fusion.map.method import RefinedMethod
from hsfuse.fusion.registry import METHODS, listed_methods
from hsfuse.testing.scene import SmallScene

TOLERANCE = 2e-4
ITERATED = {"cnmf": 2e-3, "nlstf": 2e-3, "uhntc": 5e-2, "mpsrnet-diff": 2e-3, "mpsrnet-diff-lite": 2e-3}
"""Methods that iterate, learn on the scene or sample: small differences grow."""
NAMES = [entry.name for entry in listed_methods()]
HALF = [name for name in NAMES if (e := METHODS.get(name).network) is not None and "bf16" in e.precisions]
SMOKE = ("bicubic", "glp")

pytestmark = pytest.mark.gpu


def marked(names: list[str]) -> list[object]:
    """Mark what runs without a card too."""
    return [pytest.param(name, marks=pytest.mark.smoke) if name in SMOKE else name for name in names]


@pytest.mark.parametrize("name", marked(NAMES))
def test_a_method_gives_what_it_gives_on_the_cpu(name: str, device: str, fitted: Maker, scene: SmallScene) -> None:
    if (entry := METHODS.get(name).network) is not None and entry.takes_prior:
        pytest.skip("needs a trained prior")
    expected = fused(fitted(name, "cpu"), scene, "cpu")
    found = fused(fitted(name, device), scene, device)
    assert torch.isfinite(found).all()
    assert float((found - expected).abs().max()) <= ITERATED.get(name, TOLERANCE)


@pytest.mark.parametrize("quality", ["fast", "standard", "best"])
def test_map_and_the_nonlocal_step_give_what_they_give_on_the_cpu(
    quality: Quality, device: str, scene: SmallScene
) -> None:
    expected, found = (fused(_refined(quality, at, scene), scene, at) for at in ("cpu", device))
    assert float((found - expected).abs().max()) <= TOLERANCE


def _refined(quality: Quality, device: str, scene: SmallScene) -> FusionMethod:
    method = RefinedMethod(create_method("glp"), quality, ratio=scene.ratio)
    with torch.no_grad():
        method.fit(replace(scene.context, device=device), scene.strips)
    return method


@pytest.mark.parametrize("name", HALF)
def test_half_precision_stays_near_a_networks_own_correction(
    name: str, device: str, fitted: Maker, scene: SmallScene
) -> None:
    exact = fused(fitted(name, "cpu"), scene, "cpu")
    base = fused(fitted("glp", "cpu"), scene, "cpu")
    half = fused(fitted(name, device, precision="bf16"), scene, device)
    assert float((half - exact).norm()) <= 5e-2 * float((exact - base).norm()) + 1e-3


def test_a_training_step_under_autocast_is_finite(device: str) -> None:
    from hsfuse.fusion.methods.ssrfn.config import GateConfig
    from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn

    torch.manual_seed(0)
    network = Ssrfn(GateConfig(backbone="ssrfn").modules(4, 12)).to(device)
    hsi, msi = torch.rand(2, 12, 8, 8, device=device), torch.rand(2, 4, 24, 24, device=device)
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        loss = (network(hsi, msi) - torch.rand(2, 12, 24, 24, device=device)).abs().mean()
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters() if p.requires_grad)
    assert all(p.dtype == torch.float32 for p in network.parameters())
