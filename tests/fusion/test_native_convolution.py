"""Compiled 3x3 convolutions against PyTorch's in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hsfuse.fusion.methods.ssrfn.network import make_network
from hsfuse.fusion.nets.layers import SpatialConv, activation, conv3x3
from hsfuse.fusion.nets.native import convolution
from hsfuse.fusion.nets.native.build import native_library
from hsfuse.fusion.nets.native.convolution import convolve3x3

ERROR = {torch.float32: 2e-6, torch.bfloat16: 2e-2}
"""Largest relative error of a layer, root mean square."""

fast_isa = pytest.mark.parametrize("isa", ["avx512_bf16", "avx512", "avx2"], indirect=True)
types = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def features(dtype: torch.dtype, *shape: int, seed: int = 0) -> Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.to(dtype).contiguous(memory_format=torch.channels_last)


def layer(dtype: torch.dtype, inputs: int, outputs: int, *, bias: bool = True) -> SpatialConv:
    torch.manual_seed(1)
    return conv3x3(inputs, outputs, bias=bias).to(dtype)


def exact(conv: SpatialConv, x: Tensor) -> Tensor:
    bias = None if conv.bias is None else conv.bias.double()
    return F.conv2d(x.double(), conv.weight.double(), bias, padding=1)


def served(isa: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip what PyTorch does at least as fast; pretend not to have a processor that would do without the kernel."""
    monkeypatch.setattr(convolution, "multiplies_tiles", lambda: False)
    if dtype == torch.bfloat16 and isa != "avx512_bf16":
        pytest.skip("products of bfloat16 need the instruction for them")


def close(fast: Tensor | None, wanted: Tensor, dtype: torch.dtype) -> None:
    assert fast is not None
    assert fast.dtype == dtype
    assert fast.shape == wanted.shape
    assert fast.is_contiguous(memory_format=torch.channels_last)
    assert float((fast.double() - wanted).norm() / wanted.norm()) < ERROR[dtype]
    # No pixel is far off either: borders and the last tiles of a row are where mistakes would show.
    assert float((fast.double() - wanted).abs().max()) < 6 * ERROR[dtype] * float(wanted.std())


@fast_isa
@types
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (52, 64), (200, 48), (32, 32), (33, 16), (64, 192)])
def test_it_equals_the_plain_convolution(
    isa: str, dtype: torch.dtype, inputs: int, outputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    served(isa, dtype, monkeypatch)
    conv, x = layer(dtype, inputs, outputs), features(dtype, 2, inputs, 13, 27)
    with torch.inference_mode():
        close(convolve3x3(conv, x), exact(conv, x), dtype)


@fast_isa
@types
def test_sum_and_silu_follow_in_this_order(isa: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    served(isa, dtype, monkeypatch)
    conv, x = layer(dtype, 32, 48, bias=False), features(dtype, 1, 32, 10, 9)
    other = features(dtype, 1, 48, 10, 9, seed=2)
    with torch.inference_mode():
        plain = exact(conv, x)
        close(convolve3x3(conv, x, silu=True), F.silu(plain), dtype)
        close(convolve3x3(conv, x, other), plain + other.double(), dtype)
        close(convolve3x3(conv, x, other, silu=True), F.silu(plain + other.double()), dtype)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 3), rows=st.integers(1, 19), cols=st.integers(1, 31), seed=st.integers(0, 99))
def test_every_size_of_image_fits(count: int, rows: int, cols: int, seed: int) -> None:
    conv, x = layer(torch.float32, 16, 16), features(torch.float32, count, 16, rows, cols, seed=seed)
    with torch.inference_mode():
        close(conv(x), exact(conv, x), torch.float32)


@fast_isa
def test_pixels_outside_count_as_zero(isa: str) -> None:
    conv, x = layer(torch.float32, 16, 16, bias=False), torch.ones(1, 16, 3, 3)
    with torch.inference_mode():
        alone = convolve3x3(conv, x)
        surrounded = convolve3x3(conv, F.pad(x, (2, 2, 2, 2)))
    assert alone is not None
    assert surrounded is not None
    torch.testing.assert_close(alone, surrounded[:, :, 2:-2, 2:-2], rtol=1e-5, atol=1e-6)


@fast_isa
def test_threads_give_the_same_bits(isa: str) -> None:
    conv, x = layer(torch.float32, 32, 32), features(torch.float32, 2, 32, 40, 30)
    threads = torch.get_num_threads()
    try:
        with torch.inference_mode():
            torch.set_num_threads(1)
            one = convolve3x3(conv, x)
            torch.set_num_threads(3)
            assert one is not None
            assert torch.equal(conv(x), one)
    finally:
        torch.set_num_threads(threads)


@fast_isa
def test_changed_weights_are_noticed(isa: str) -> None:
    conv, x = layer(torch.float32, 16, 16), features(torch.float32, 1, 16, 8, 8)
    with torch.no_grad():
        before = conv(x)
        conv.weight.mul_(2.0)
        close(conv(x), exact(conv, x), torch.float32)
    assert not torch.allclose(before, conv(x))


def test_what_the_kernel_does_not_know_is_left_to_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    conv, x = layer(torch.float32, 16, 16), features(torch.float32, 1, 16, 8, 8)
    assert convolve3x3(conv, x) is None  # gradients may be wanted
    with torch.inference_mode():
        assert convolve3x3(layer(torch.float32, 16, 4), x) is None
        assert convolve3x3(layer(torch.float32, 4, 16), x[:, :4]) is None  # mostly padding
        assert convolve3x3(conv, x.double()) is None
        assert convolve3x3(conv, x, x[:, :, :4]) is None
        monkeypatch.setattr(convolution, "multiplies_tiles", lambda: True)
        assert convolve3x3(conv.bfloat16(), x.bfloat16()) is None


@pytest.mark.parametrize("name", ["silu", "gelu", "none"])
@pytest.mark.parametrize("add", [True, False])
def test_a_layer_gives_the_same_with_and_without_kernels(name: Any, add: bool, plain: Callable[..., Any]) -> None:
    conv, x, act = layer(torch.float32, 16, 16), features(torch.float32, 1, 16, 9, 9), activation(name)
    other = features(torch.float32, 1, 16, 9, 9, seed=3) if add else None
    wanted = act(exact(conv, x) + (0 if other is None else other.double())).detach()
    with torch.no_grad():
        close(conv(x, other, act), wanted, torch.float32)
        close(plain(conv, x, other, act), wanted, torch.float32)
    trained = conv(x, other, act)
    close(trained.detach(), wanted, torch.float32)
    assert trained.requires_grad


def test_no_convolution_of_features_is_left_to_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a network without the kernel is a third longer, and nothing else would tell."""
    native = native_library()
    if native is None or native.isa == "baseline":
        pytest.skip("no compiled convolutions here")
    network = make_network("ssrfn").eval()
    left: list[tuple[int, ...]] = []
    real = torch.nn.Conv2d.forward

    def spy(conv: torch.nn.Conv2d, x: Tensor) -> Tensor:
        if isinstance(conv, SpatialConv):
            left.append(tuple(conv.weight.shape))
        return real(conv, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", spy)
    with torch.inference_mode():
        network(torch.rand(1, 100, 8, 8), torch.rand(1, 4, 24, 24), torch.rand(1, 100, 24, 24))
    assert not left
