"""Half precision on cards: by what the card has, and by a measured error; and torch.compile, which nothing needs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hsfuse.fusion.methods.ssrfn_paper.config import SsrfnConfig
from hsfuse.fusion.methods.ssrfn_paper.method import SsrfnMethod
from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn
from hsfuse.fusion.nets import compiling
from hsfuse.fusion.nets.compiling import SWITCH, compiled
from hsfuse.fusion.nets.half import TYPES, exact_enough, precision_for_card, probe_pair, settle
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.weights import LoadedNetwork
from hsfuse.testing.scene import small_scene
from hsfuse.workflows.steps.precision import network_precision

ALL = ("fp32", "bf16", "fp16")


@pytest.mark.parametrize(
    ("capability", "offered", "expected"),
    [((9, 0), ALL, "bf16"), ((8, 0), ALL, "bf16"), ((7, 5), ALL, "fp16"), ((7, 0), ALL, "fp16"), ((6, 1), ALL, "fp32"),
     ((9, 0), ("fp32",), "fp32"), ((7, 5), ("fp32", "bf16"), "fp32"), ((12, 0), ("fp32", "bf16"), "bf16")],
)  # fmt: skip
def test_a_card_gets_the_half_precision_that_it_multiplies(capability: Any, offered: Any, expected: str) -> None:
    assert precision_for_card(capability, offered) == expected


def test_auto_asks_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6) if device.index else (7, 5))
    assert network_precision("ssrnet-lite", "auto", "cuda:0") == "fp16"
    assert network_precision("ssrnet-lite", "auto", "cuda:1") == "bf16"
    assert network_precision("ssrnet-lite", "fp32", "cuda:1") == "fp32"


def test_exact_enough() -> None:
    full = torch.randn(1, 3, 20, 20, generator=torch.Generator().manual_seed(0)) * 0.05 + 0.3
    assert exact_enough(full.bfloat16(), full)
    assert not exact_enough(full + 0.01 * torch.sign(full - 0.3), full), (
        "a fifth of the deviation, though 3 % of the mean"
    )
    assert exact_enough(torch.full_like(full, 1e-4), torch.zeros_like(full)), "less than the product's integers show"
    assert not exact_enough(torch.full_like(full, torch.nan), full)
    assert not exact_enough(torch.full_like(full, torch.inf), full)


class Scaled(nn.Module):
    """A convolution between a large factor and its inverse: beyond the numbers of fp16 where that is large enough."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(x.to(self.conv.weight.dtype) * self.factor) / self.factor
        return out


@pytest.mark.parametrize(
    ("factor", "wanted", "expected"),
    [(1.0, "fp16", "fp16"), (1e6, "fp16", "fp32"), (1e6, "bf16", "bf16"), (1e6, "fp32", "fp32")],
)
def test_a_network_that_is_too_inexact_runs_in_full_precision(
    factor: float, wanted: Any, expected: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    network, x = Scaled(factor), torch.rand(1, 3, 12, 12)
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    _stays_on_the_cpu(network, monkeypatch)
    with caplog.at_level(logging.WARNING):
        assert settle(network, "cuda:0", wanted, lambda: network(x).float()) == expected
    assert network.conv.weight.dtype == TYPES[expected]
    assert ("fp16 is not exact enough" in caplog.text) == (expected != wanted)
    if expected == "fp32":  # the values too are those from before the attempt
        for name, value in network.state_dict().items():
            torch.testing.assert_close(value, weights[name], rtol=0, atol=0)
    elif expected == wanted:
        assert network.conv.weight.is_contiguous(memory_format=torch.channels_last)


def _stays_on_the_cpu(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    move: Callable[..., nn.Module] = network.to
    monkeypatch.setattr(
        network, "to", lambda **how: move(**{key: value for key, value in how.items() if key != "device"})
    )


def test_on_a_cpu_nothing_is_measured() -> None:
    network = Scaled(1.0)

    def probe() -> torch.Tensor:
        raise AssertionError

    assert settle(network, "cpu", "bf16", probe) == "bf16"
    assert network.conv.weight.dtype == torch.bfloat16


def test_a_network_is_tried_on_its_scene(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = small_scene(size_px=(24, 20), bands=100)
    config = SsrfnConfig(width=8, headdim=8, d_state=8, dfe_blocks=1, cfe_cycles=1, scm_steps=1, refine_stages=1)
    header = NetworkHeader(
        "small", "ssrfn", config.to_dict(), tuple(scene.bands.centre_nm), tuple(scene.bands.fwhm_nm), (), n_msi=4
    )  # fmt: skip
    method = SsrfnMethod(LoadedNetwork(Ssrfn(config), header, ""), precision="fp16")
    hsi, msi = probe_pair(scene.strips, scene.ratio, "cpu")
    assert (tuple(hsi.shape), tuple(msi.shape)) == ((1, 100, 24, 20), (1, 4, 72, 60))
    monkeypatch.setattr("hsfuse.fusion.nets.half.exact_enough", lambda *_: False)
    _stays_on_the_cpu(method.network, monkeypatch)
    monkeypatch.setattr("hsfuse.fusion.nets.plain_network.settle", lambda *given: settle(given[0], "card", *given[2:]))
    method.fit(scene.context, scene.strips)
    assert method.spec.precision == "fp32"


def double(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


def test_nothing_is_compiled_without_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled(double, "cuda:0") is double
    monkeypatch.setenv(SWITCH, "on")
    assert compiled(double, "cpu") is double
    monkeypatch.setattr(torch, "compile", lambda function: lambda x: function(x) + 1)
    assert compiled(double, "cuda:0")(torch.ones(1)) == 3


def test_what_cannot_be_compiled_runs_plainly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SWITCH, "on")
    calls: list[int] = []

    def broken(_: object) -> Callable[..., torch.Tensor]:
        def fail(*_: object) -> torch.Tensor:
            calls.append(1)
            raise RuntimeError("Failed to find C compiler\nmore")

        return fail

    monkeypatch.setattr(compiling.torch, "compile", broken)
    run = compiled(double, "cuda:0")
    with caplog.at_level(logging.WARNING):
        assert [float(run(torch.ones(1))) for _ in range(3)] == [2.0, 2.0, 2.0]
    assert len(calls) == len(caplog.records) == 1
    assert "(Failed to find C compiler)" in caplog.text


def test_memory_that_runs_out_in_compiled_work_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "on")

    def full(*_: object) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "compile", lambda _: full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        compiled(double, "cuda:0")(torch.ones(1))
