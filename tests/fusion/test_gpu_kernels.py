"""Triton kernels under Triton's interpreter, against the recurrence in float64 and PyTorch's own gradients."""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

pytest.importorskip("triton", reason="needs triton (no wheel for this platform)")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("with a GPU, tests/gpu runs the kernels themselves", allow_module_level=True)

from hsfuse.fusion.nets.gpu import ssd
from hsfuse.fusion.nets.gpu.block import mamba2_forward
from hsfuse.fusion.nets.gpu.convolution import causal_conv_silu
from hsfuse.fusion.nets.gpu.gated_norm import gated_rms_norm
from hsfuse.fusion.nets.ssm import Mamba2

SHAPES = [(2, 150, 3, 8, 16), (1, 64, 1, 16, 5), (3, 7, 2, 32, 20), (1, 200, 8, 20, 16)]


def _arguments(shape: tuple[int, int, int, int, int], kind: torch.dtype = torch.float32) -> list[Tensor]:
    n_seq, length, heads, channels, states = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    inner = heads * channels
    # As the block cuts them from one projection: views with the strides of the whole.
    joined = draw(n_seq, length, inner + 2 * states + heads).to(kind)
    x, b, c, dt = joined.split([inner, states, states, heads], dim=-1)
    bias, decay, skip = draw(heads) - 2.0, -draw(heads).exp(), draw(heads)
    return [x.unflatten(-1, (heads, channels)), dt, bias, decay, b, c, skip]


def _recurrence(x: Tensor, dt: Tensor, bias: Tensor, decay: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> Tensor:
    x, dt, bias, decay, b, c, skip = (t.double() for t in (x, dt, bias, decay, b, c, skip))
    step = torch.nn.functional.softplus(dt + bias)
    state = x.new_zeros(x.shape[0], x.shape[2], x.shape[3], b.shape[-1])
    rows = []
    for t in range(x.shape[1]):
        add = (step[:, t, :, None] * x[:, t])[..., None] * b[:, t, None, None, :]
        state = torch.exp(step[:, t] * decay)[..., None, None] * state + add
        rows.append((state * c[:, t, None, None, :]).sum(-1) + skip[:, None] * x[:, t])
    return torch.stack(rows, 1)


def _relative(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("chunked", [False, True], ids=["sequences", "chunks"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_scan_equals_the_recurrence(shape: tuple[int, int, int, int, int], chunked: bool) -> None:
    arguments = _arguments(shape)
    assert _relative(ssd.scan(*arguments, chunked=chunked), _recurrence(*arguments)) < 1e-5


@pytest.mark.parametrize("chunked", [False, True], ids=["sequences", "chunks"])
def test_the_scan_in_bfloat16_stays_close(chunked: bool) -> None:
    arguments = _arguments(SHAPES[0], torch.bfloat16)
    found = ssd.scan(*arguments, chunked=chunked)
    assert found.dtype == torch.bfloat16
    assert _relative(found, _recurrence(*arguments)) < 2e-2


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_of_the_scan_are_those_of_the_recurrence(shape: tuple[int, int, int, int, int]) -> None:
    ours = [t.detach().clone().requires_grad_() for t in _arguments(shape)]
    theirs = [t.detach().double().requires_grad_() for t in ours]
    upstream = torch.randn(ours[0].shape, generator=torch.Generator().manual_seed(1))
    ssd.scan(*ours).backward(upstream)
    _recurrence(*theirs).backward(upstream.double())
    for name, a, b in zip(("x", "dt", "bias", "decay", "b", "c", "skip"), ours, theirs, strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert _relative(a.grad, b.grad) < 1e-4, name


def test_steep_decays_leave_nothing_infinite() -> None:
    arguments = _arguments(SHAPES[0])
    arguments[3] = torch.tensor([-1e-4, -50.0, -1e4])
    found = ssd.scan(*arguments)
    assert bool(torch.isfinite(found).all())
    assert _relative(found, _recurrence(*arguments)) < 1e-5


def _compare_gradients(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.grad is not None
        assert b.grad is not None
        assert _relative(a.grad, b.grad) < 1e-4, index


@pytest.mark.parametrize("shape", [(2, 70, 5), (1, 3, 130)], ids=str)
def test_the_convolution_equals_pytorchs(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    n_channel = shape[-1]
    start = [torch.randn(s, generator=generator) for s in (shape, (n_channel, 4), (n_channel,))]
    ours = [t.clone().requires_grad_() for t in start]
    theirs = [t.double().requires_grad_() for t in start]
    found = causal_conv_silu(*ours)
    padded = F.pad(theirs[0].transpose(1, 2), (3, 0))
    expected = F.silu(F.conv1d(padded, theirs[1][:, None], theirs[2], groups=n_channel)).transpose(1, 2)
    assert _relative(found, expected) < 1e-5
    upstream = torch.randn(shape, generator=generator)
    found.backward(upstream)
    expected.backward(upstream.double())
    _compare_gradients(ours, theirs)


@pytest.mark.parametrize("shape", [(2, 21, 40), (1, 5, 64)], ids=str)
def test_the_gated_normalisation_equals_pytorchs(shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(s, generator=generator) for s in (shape, shape, shape[-1:])]
    ours = [t.clone().requires_grad_() for t in start]
    theirs = [t.double().requires_grad_() for t in start]
    found = gated_rms_norm(*ours, 1e-5)
    gated = theirs[0] * F.silu(theirs[1])
    expected = gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + 1e-5) * theirs[2]
    assert _relative(found, expected) < 1e-5
    upstream = torch.randn(shape, generator=generator)
    found.backward(upstream)
    expected.backward(upstream.double())
    _compare_gradients(ours, theirs)


def test_a_block_by_kernels_equals_the_plain_block() -> None:
    torch.manual_seed(0)
    block = Mamba2(32, d_state=20, headdim=16)
    u = torch.randn(2, 80, 32)
    expected = block(u)
    expected.square().sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in block.named_parameters()}
    block.zero_grad()
    found = mamba2_forward(block, u)
    found.square().sum().backward()
    assert _relative(found, expected) < 1e-5
    for name, parameter in block.named_parameters():
        assert _relative(parameter.grad, gradients[name]) < 1e-4, name
