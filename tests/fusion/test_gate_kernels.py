"""The gate's kernels for a card, under Triton's interpreter, against plain PyTorch."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("triton", reason="needs triton (no wheel for this platform)")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("with a GPU, tests/gpu runs the kernels themselves", allow_module_level=True)

from hsfuse.fusion.experts.bank import EXPERTS
from hsfuse.fusion.methods.ssrfn import card, network, pixelwise
from hsfuse.fusion.methods.ssrfn.config import PRESENT, GateConfig
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.fusion.methods.ssrfn.streaming import slopes

COMPONENTS, ASKED = 5, (0, 1, 3, 6, 8, 9, 10, 14, 20)


def _tile() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    state = 6.0 * torch.randn(1, COMPONENTS, 9, 12, generator=generator)
    outputs = torch.zeros(1, len(EXPERTS), COMPONENTS, 9, 12)
    outputs[:, list(ASKED)] = 4.0 * torch.randn(1, len(ASKED), COMPONENTS, 9, 12, generator=generator)
    return state, outputs, torch.tensor([[2.0, 1.1, 0.4, 0.03, 0.0]])


def test_features_are_those_of_plain_pytorch() -> None:
    state, outputs, strength = _tile()
    gate = Gate(GateConfig())
    expected = gate.features(state, outputs, strength)
    present = (strength[0] > PRESENT).float()
    constants = torch.stack([strength.amax(), present.sum() / network.MOST_COMPONENTS])
    flags = network._flags(ASKED, state.device)
    # What nobody was asked for may be anything.
    outputs[:, [number for number in range(len(EXPERTS)) if number not in ASKED]] = torch.nan
    found = card.features(state[0], outputs[0], present, gate._others, flags, constants)
    assert float((found - expected[0]).abs().max()) < 1e-5
    plain = pixelwise.features(state[0], outputs[0].nan_to_num(), present, gate._others, flags, constants)
    assert float((plain - expected[0]).abs().max()) < 1e-5


def test_the_weighed_sum_is_that_of_plain_pytorch() -> None:
    state, outputs, strength = _tile()
    gate = Gate(GateConfig())
    found = torch.randn(1, 2 * len(EXPERTS), 9, 12, generator=torch.Generator().manual_seed(7))
    expected = gate._applied(found, outputs, strength)[0]
    flags, slope = network._flags(ASKED, state.device), slopes(strength)[0]
    for weighed in (card.weighed, pixelwise.weighed):
        assert (
            float((weighed(found[0], outputs[0], slope, flags, float(gate.config.most)) - expected).abs().max()) < 1e-5
        )
