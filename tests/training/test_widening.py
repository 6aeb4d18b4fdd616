"""A gate that was widened computes what it computed before, whatever looks at its channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pytest
import torch

from hsfuse.errors import UsageError
from hsfuse.fusion.methods.ssrfn.config import GateConfig
from hsfuse.fusion.methods.ssrfn.network import INPUTS, Gate

MODULES = GateConfig(width=8, backbone="ssrfn")


@pytest.fixture(scope="module")
def widening(benchmark_module: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_module("train_zoo/widening")


def _random(config: GateConfig) -> Gate:
    """No weight of it is zero or one, as those are that it starts with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Gate(config)
        with torch.no_grad():
            for values in network.parameters():
                values.add_(0.06 * torch.randn(values.shape))
    return network.eval()


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    return torch.randn((1, INPUTS, 18, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "config",
    [MODULES, replace(MODULES, mamba="none"), replace(MODULES, correction=False), GateConfig(width=8)],
    ids=["mamba", "convolutions alone", "without correction", "plain"],
)
def test_computes_the_same(widening: ModuleType, features: torch.Tensor, config: GateConfig) -> None:
    narrow = _random(config)
    wide = widening.widened(narrow, replace(config, width=16, displaced=True))
    assert wide.config.copies == 2
    assert wide.displaced is not None
    assert wide.displaced.config.copies == 1
    expected = narrow.double().found(features.double(), 3).detach()
    assert float(expected.abs().max()) > 1.0
    torch.testing.assert_close(wide.double().found(features.double(), 3).detach(), expected, rtol=1e-5, atol=1e-5)
    # In float32 and without gradients the wide one runs in the compiled kernels, which know multiples of 16.
    with torch.inference_mode():
        found = wide.float().found(features.contiguous(memory_format=torch.channels_last), 3)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_weights_for_displaced_pairs_are_widened_too(widening: ModuleType, features: torch.Tensor) -> None:
    narrow = _random(replace(MODULES, displaced=True))
    wide = widening.widened(narrow, replace(MODULES, width=16, displaced=True))
    again = Gate(GateConfig.from_dict(wide.config.to_dict())).eval()
    again.load_state_dict(wide.state_dict())
    assert narrow.displaced is not None
    assert again.displaced is not None
    expected = narrow.displaced.double().found(features.double(), 3).detach()
    assert float(expected.abs().max()) > 1.0
    torch.testing.assert_close(again.displaced.double().found(features.double(), 3), expected, rtol=1e-5, atol=1e-5)


def test_widened_again_and_copies_that_learn_apart(widening: ModuleType, features: torch.Tensor) -> None:
    narrow = _random(replace(MODULES, width=4))
    wide = widening.widened(widening.widened(narrow, MODULES), replace(MODULES, width=16))
    assert wide.config.copies == 4
    expected = narrow.double().found(features.double(), 3).detach()
    torch.testing.assert_close(wide.double().found(features.double(), 3).detach(), expected, rtol=1e-5, atol=1e-5)
    apart = widening.widened(narrow.float(), replace(MODULES, width=16), noise=0.02).state_dict()
    weight = apart["backbone.network.ffm.head.weight"]
    assert not torch.equal(weight[:, 0], weight[:, 1])


def test_what_cannot_be_widened_is_refused(widening: ModuleType) -> None:
    narrow = Gate(MODULES)
    for wanted in (replace(MODULES, width=12), replace(MODULES, width=16, blocks=2), GateConfig(width=16)):
        with pytest.raises(UsageError, match="widened"):
            widening.widened(narrow, wanted)
    with pytest.raises(UsageError, match="displaced"):
        widening.widened(Gate(replace(MODULES, displaced=True)), replace(MODULES, width=16))
    with pytest.raises(UsageError, match="copies"):
        GateConfig(width=16, backbone="ssrfn", copies=3).modules(4, 12)
