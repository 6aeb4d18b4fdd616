"""Chains of cheap operations in C against the plain operations they stand for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from hsfuse.fusion.methods.ssrfn.config import GateConfig
from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn
from hsfuse.fusion.nets.layers import activated, activation
from hsfuse.fusion.nets.native import elementwise
from hsfuse.native import OVERRIDE

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3}


def features(dtype: torch.dtype, seed: int, width: int = 48, scale: float = 3.0) -> Tensor:
    torch.manual_seed(seed)
    x = scale * torch.randn(2, width, 5, 7)
    x[0, 0, 0, :3] = torch.tensor([0.0, 60.0, -60.0])
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def close(fast: Tensor | None, exact: Tensor, dtype: torch.dtype) -> None:
    assert fast is not None
    assert fast.dtype == dtype
    size = TOLERANCE[dtype]
    torch.testing.assert_close(fast.double(), exact, rtol=size, atol=size)


types = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@types
def test_silu_of_a_sum(isa: str, dtype: torch.dtype) -> None:
    x, y = features(dtype, 0), features(dtype, 1)
    with torch.inference_mode():
        close(elementwise.silu_(x.clone()), F.silu(x.double()), dtype)
        close(elementwise.silu_(x.clone(), y), F.silu(x.double() + y.double()), dtype)


@types
@pytest.mark.parametrize("rule", ["one", "tanh", "sigmoid"])
def test_gates(isa: str, dtype: torch.dtype, rule: elementwise.GateRule) -> None:
    x, trust = features(dtype, 0), torch.sigmoid(features(dtype, 1))
    gate = {"one": torch.ones_like, "tanh": torch.tanh, "sigmoid": lambda t: 2 * torch.sigmoid(t)}[rule](x.double())
    with torch.inference_mode():
        close(elementwise.gated(x, trust, rule), trust.double() * gate * x.double() + x.double(), dtype)


@types
def test_exchange(isa: str, dtype: torch.dtype) -> None:
    a, b = features(dtype, 0), features(dtype, 1)
    near, far = a.clone(), b.clone()
    with torch.inference_mode():
        assert elementwise.exchange_(near, far) is near
    close(near, a.double() + torch.sigmoid(a.double()) * b.double(), dtype)
    close(far, b.double() + torch.sigmoid(b.double()) * a.double(), dtype)


@types
@pytest.mark.parametrize("width", [16, 48, 128])
def test_attention(isa: str, dtype: torch.dtype, width: int) -> None:
    key, value, query = (features(dtype, seed, width, 2.0) for seed in range(3))
    k, v, q = (t.double() for t in (key, value, query))
    with torch.inference_mode():
        for copies in (1, 2):
            expected = (1 - copies * torch.softmax(k * v, dim=1)) * q + v
            close(elementwise.attend(key, value, query, copies), expected, dtype)


def test_what_the_kernels_do_not_know_is_left_to_the_plain_way() -> None:
    x = features(torch.float32, 0)
    assert elementwise.silu_(x) is None  # gradients may be wanted
    with torch.inference_mode():
        assert elementwise.silu_(x.contiguous()) is None
        assert elementwise.silu_(x.double()) is None
        assert elementwise.silu_(features(torch.float32, 0, 20)) is None
        assert elementwise.silu_(x, x[:, :, :3]) is None
        assert elementwise.attend(*(features(torch.float32, s, 144) for s in range(3))) is None
        gelu = activation("gelu")
        torch.testing.assert_close(activated(gelu, x.clone(), x), F.gelu(2 * x))


def test_threads_share_the_pixels(isa: str) -> None:
    x = features(torch.float32, 0)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with torch.inference_mode():
            close(elementwise.silu_(x.clone()), F.silu(x.double()), torch.float32)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("changes", [{}, {"scm_residual": False, "scm_gate": "sigmoid"}, {"dfe_mamba": "local"}])
def test_a_network_gives_the_same_with_and_without_kernels(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = Ssrfn(replace(GateConfig(backbone="ssrfn").modules(4, 100), **changes)).eval()
    network.ffm.head.weight.data.normal_(0, 0.1)
    hsi, msi = torch.rand(1, 100, 10, 12), torch.rand(1, 4, 30, 36)
    with torch.inference_mode():
        fast = network(hsi, msi)
        monkeypatch.setenv(OVERRIDE, "off")
        slow = network(hsi, msi)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)
