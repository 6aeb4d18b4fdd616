"""State space blocks against a step-by-step recurrence in float64, written here independently."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hsfuse.errors import UsageError
from hsfuse.fusion.nets.layers import SequenceMixer
from hsfuse.fusion.nets.scans import selective_scan, ssd_scan
from hsfuse.fusion.nets.ssd import Chunks, factored_scan
from hsfuse.fusion.nets.ssm import Mamba1, Mamba2


@pytest.fixture(autouse=True)
def _plain_path(monkeypatch):
    """The compiled path has tests of its own, against this one."""
    monkeypatch.setenv("HSFUSE_NATIVE", "off")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tiny sizes gain nothing from threads, and threads that wait for each other are slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def recurrence(x: Tensor, dt: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Token by token, state by state: x, dt (n, token, channel), decay (channel, state), b, c (n, token, state)."""
    n, length, channels = x.shape
    state = torch.zeros(n, channels, b.shape[-1], dtype=torch.float64)
    out = torch.empty(n, length, channels, dtype=torch.float64)
    for t in range(length):
        for i in range(n):
            step = dt[i, t][:, None]
            state[i] = torch.exp(step * decay) * state[i] + step * b[i, t][None, :] * x[i, t][:, None]
            out[i, t] = state[i] @ c[i, t]
    return out


def scan_inputs(n: int, length: int, heads: int, channels: int, states: int, seed: int = 0) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, length, heads, channels, generator=g)
    dt = F.softplus(torch.randn(n, length, heads, generator=g) * 2 - 2)
    decay = -torch.empty(heads).uniform_(1, 16, generator=g)
    b, c = torch.randn(2, n, length, states, generator=g)
    return x, dt, decay, b, c


def reference_ssd(x: Tensor, dt: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
    channels, states = x.shape[-1], b.shape[-1]
    wide = (t.double() for t in (x.flatten(2), dt.repeat_interleave(channels, -1)))
    per_channel = decay.double().repeat_interleave(channels)[:, None].expand(-1, states)
    return recurrence(*wide, per_channel, b.double(), c.double()).reshape(x.shape)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 3),
    length=st.integers(1, 100),
    heads=st.integers(1, 3),
    states=st.sampled_from([1, 3, 16]),
    chunk=st.sampled_from([1, 7, 32, 64]),
    seed=st.integers(0, 99),
)
def test_ssd_equals_the_recurrence_for_any_size(n, length, heads, states, chunk, seed):
    inputs = scan_inputs(n, length, heads, 4, states, seed)
    y, _ = ssd_scan(*inputs, chunk=chunk)
    assert relative(y, reference_ssd(*inputs)) < 1e-5


def test_ssd_carries_its_state_from_call_to_call():
    inputs = scan_inputs(2, 130, 2, 8, 16)
    whole, last = ssd_scan(*inputs)
    x, dt, decay, b, c = inputs
    head, state = ssd_scan(x[:, :50], dt[:, :50], decay, b[:, :50], c[:, :50])
    tail, state = ssd_scan(x[:, 50:], dt[:, 50:], decay, b[:, 50:], c[:, 50:], state=state)
    assert relative(torch.cat([head, tail], 1), whole) < 1e-5
    assert relative(state, last) < 1e-5


def test_ssd_gradients_equal_those_of_the_recurrence():
    inputs = [t.double().requires_grad_() for t in scan_inputs(1, 37, 2, 3, 4)]
    weight = torch.randn(1, 37, 2, 3, dtype=torch.float64)
    (ssd_scan(*inputs, chunk=8)[0] * weight).sum().backward()
    got = [t.grad.clone() for t in inputs]

    x, dt, decay, b, c = (t.detach().clone().requires_grad_() for t in inputs)
    state = torch.zeros(1, 2, 3, 4, dtype=torch.float64)
    rows = []
    for t in range(37):
        fade = torch.exp(dt[:, t] * decay)[..., None, None]
        state = fade * state + dt[:, t, :, None, None] * x[:, t, :, :, None] * b[:, t, None, None, :]
        rows.append(state @ c[:, t, None, :, None])
    (torch.stack(rows, 1).squeeze(-1) * weight).sum().backward()
    for ours, theirs in zip(got, (x, dt, decay, b, c), strict=True):
        assert relative(ours, theirs.grad) < 1e-10


@settings(max_examples=15, deadline=None)
@given(length=st.integers(1, 80), chunk=st.sampled_from([1, 5, 32]), seed=st.integers(0, 99))
def test_selective_scan_equals_the_recurrence(length, chunk, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(2, length, 5, generator=g)
    dt = F.softplus(torch.randn(2, length, 5, generator=g) - 2)
    decay = -torch.empty(5, 4).uniform_(0.5, 8, generator=g)
    b, c = torch.randn(2, 2, length, 4, generator=g)
    y, _ = selective_scan(x, dt, decay, b, c, chunk=chunk)
    assert relative(y, recurrence(*(t.double() for t in (x, dt, decay, b, c)))) < 1e-5


def test_tied_mamba1_scan_equals_the_ssd():
    x, dt, decay, b, c = scan_inputs(2, 70, 3, 4, 8)
    one, _ = selective_scan(
        x.flatten(2), dt.repeat_interleave(4, -1), decay.repeat_interleave(4)[:, None].expand(-1, 8), b, c
    )
    assert relative(one.reshape(x.shape), ssd_scan(x, dt, decay, b, c)[0]) < 1e-5


def block_reference(block: Mamba2, u: Tensor) -> Tensor:
    """The whole Mamba-2 block in float64 from its state dict, as its published definition reads."""
    p = {k: v.double() for k, v in block.state_dict().items()}
    inner, state, heads = block.d_inner, block.d_state, block.nheads
    projected = u.double() @ p["in_proj.weight"].T
    z, xbc, dt = projected.split([inner, inner + 2 * state, heads], -1)
    taps = p["conv1d.weight"][:, 0]
    mixed = torch.zeros_like(xbc)
    for t in range(xbc.shape[1]):
        for k in range(4):
            if t - 3 + k >= 0:
                mixed[:, t] += taps[:, k] * xbc[:, t - 3 + k]
    mixed = F.silu(mixed + p["conv1d.bias"])
    x, b, c = mixed.split([inner, state, state], -1)
    x = x.unflatten(-1, (heads, -1))
    y = reference_ssd(x, F.softplus(dt + p["dt_bias"]), -p["A_log"].exp(), b, c) + x * p["D"][:, None]
    y = y.flatten(-2) * F.silu(z)
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5) * p["norm.weight"]
    return y @ p["out_proj.weight"].T


def test_mamba2_block_equals_its_definition_with_and_without_gradients():
    torch.manual_seed(1)
    block = Mamba2(32, d_state=16, headdim=16)
    u = torch.randn(2, 100, 32)
    expected = block_reference(block, u)
    assert relative(block(u).detach(), expected) < 1e-5
    with torch.no_grad():
        for segment in (7, 64, 150, 10_000):  # cut inside a sequence, and between sequences
            block.segment_tokens = segment
            assert relative(block(u), expected) < 1e-5


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("steepness", [1.0, 20.0])
def test_mamba2_in_half_precision_stays_close(kind: torch.dtype, steepness: float) -> None:
    torch.manual_seed(1)
    block = Mamba2(32, headdim=32)
    with torch.no_grad():
        block.A_log += math.log(steepness)
    u = torch.randn(1, 300, 32)
    with torch.no_grad():
        expected = block(u)
        half = copy.deepcopy(block).to(kind)(u.to(kind))
        with torch.autocast("cpu", kind):
            auto = block(u)
    assert half.dtype == kind
    assert float((half.float() - expected).norm() / expected.norm()) < 2e-2
    assert float((auto.float() - expected).norm() / expected.norm()) < 2e-2


@torch.no_grad()
def test_float16_keeps_what_its_short_range_cannot_factor() -> None:
    """Over half a chunk these decays reach exp(-14): its inverse is finite in bfloat16, not in float16."""
    torch.manual_seed(1)
    block = Mamba2(32, headdim=32)
    block.in_proj.weight[-block.nheads :] = 0.0
    block.dt_bias.fill_(math.log(math.expm1(0.01)))
    block.A_log.fill_(math.log(90.0))
    u = torch.randn(1, 300, 32)
    half = copy.deepcopy(block).half()(u.half())
    assert relative(half.float(), block(u)) < 2e-2


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (
            Mamba2(64, d_state=64, headdim=64),
            {
                "dt_bias": (2,), "A_log": (2,), "D": (2,), "in_proj.weight": (386, 64), "conv1d.weight": (256, 1, 4),
                "conv1d.bias": (256,), "norm.weight": (128,), "out_proj.weight": (64, 128),
            },
        ),
        (
            Mamba1(64, d_state=64),
            {
                "A_log": (128, 64), "D": (128,), "in_proj.weight": (256, 64), "conv1d.weight": (128, 1, 4),
                "conv1d.bias": (128,), "x_proj.weight": (132, 128), "dt_proj.weight": (128, 4),
                "dt_proj.bias": (128,), "out_proj.weight": (64, 128),
            },
        ),
    ],
    ids=["mamba2", "mamba1"],
)  # fmt: skip
def test_state_dict_has_the_names_and_shapes_of_mamba_ssm(block, expected):
    assert {name: tuple(t.shape) for name, t in block.state_dict().items()} == expected


def test_initial_values_are_those_of_mamba():
    torch.manual_seed(0)
    block = Mamba2(512, headdim=8)
    decay, step = block.A_log.exp(), F.softplus(block.dt_bias)
    assert decay.min() >= 1
    assert decay.max() <= 16
    assert step.min() >= 0.99e-4
    assert step.max() <= 0.101
    first = Mamba1(32, d_state=4)
    torch.testing.assert_close(first.A_log.exp()[0], torch.tensor([1.0, 2.0, 3.0, 4.0]))


def test_impossible_head_width_is_a_usage_error():
    with pytest.raises(UsageError, match="multiple of its head width"):
        Mamba2(40, headdim=64)


def test_mamba1_block_segments_agree():
    torch.manual_seed(0)
    block = Mamba1(16, d_state=8)
    u = torch.randn(2, 90, 16)
    expected = block(u).detach()
    with torch.no_grad():
        block.segment_tokens = 40
        assert relative(block(u), expected) < 1e-5


def test_no_output_depends_on_later_tokens():
    torch.manual_seed(0)
    block = Mamba2(32, d_state=8, headdim=16)
    u = torch.randn(1, 100, 32)
    changed = u.clone()
    changed[:, 61:] += 1.0
    with torch.no_grad():
        before, after = block(u), block(changed)
    torch.testing.assert_close(before[:, :61], after[:, :61])
    assert not torch.allclose(before[:, 61], after[:, 61])


@pytest.mark.parametrize("scan", ["raster", "bidirectional", "cross", "lines", "channels"])
@pytest.mark.parametrize("direction", [0, 1, 2, 3])
def test_mixer_gives_the_same_with_and_without_gradients(scan, direction):
    torch.manual_seed(0)
    mixer = SequenceMixer(32, scan=scan, direction=direction, d_state=8, headdim=16)
    x = torch.randn(2, 32, 5, 7)
    trained = mixer(x).detach()
    mixer.mamba.segment_tokens = 9  # type: ignore[assignment]
    with torch.no_grad():
        torch.testing.assert_close(mixer(x), trained, rtol=1e-4, atol=1e-5)
    mixer.recompute = True
    torch.testing.assert_close(mixer(x).detach(), trained)


@pytest.mark.parametrize(("direction", "flip", "turn"), [(1, 3, False), (2, None, True), (3, 3, True)])
def test_line_scans_are_rotations_of_each_other(direction, flip, turn):
    torch.manual_seed(0)
    along_rows = SequenceMixer(32, scan="lines", direction=0, d_state=8, headdim=16)
    other = SequenceMixer(32, scan="lines", direction=direction, d_state=8, headdim=16)
    other.load_state_dict(along_rows.state_dict())
    x = torch.randn(1, 32, 6, 9)
    moved = x.transpose(2, 3) if turn else x
    moved = moved.flip(flip) if flip else moved
    expected = along_rows(moved)
    expected = expected.flip(flip) if flip else expected
    torch.testing.assert_close(other(x), expected.transpose(2, 3) if turn else expected)


def test_a_line_scan_never_mixes_lines():
    torch.manual_seed(0)
    mixer = SequenceMixer(32, scan="lines", direction=2, d_state=8, headdim=16)
    x = torch.randn(1, 32, 6, 9)
    changed = x.clone()
    changed[..., 4] += 1.0
    with torch.no_grad():
        different = (mixer(x) != mixer(changed)).any(dim=1)[0]
    assert different[:, 4].any()
    assert not different[:, [0, 1, 2, 3, 5, 6, 7, 8]].any()


@torch.no_grad()
def _factored(
    x: torch.Tensor, dt: torch.Tensor, decay: torch.Tensor, b: torch.Tensor, c: torch.Tensor,
    state: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor] | None:  # fmt: skip
    """The factored scan with arguments of the plain one; what fills the last chunk must not matter."""
    chunks, length = Chunks.of(dt, decay, x.dtype), x.shape[1]
    x, b, c = (torch.nn.functional.pad(t.flatten(2), (0, 0, 0, chunks.length - length), value=7.0) for t in (x, b, c))
    found = factored_scan(x, b, c, chunks, state)
    return None if found is None else (found[0][:, :length].unflatten(-1, (dt.shape[2], -1)), found[1])


@pytest.mark.parametrize("steepness", [1e-6, 0.3, 3.0, 40.0, 1e4])
@pytest.mark.parametrize("length", [1, 5, 33, 100])
def test_factored_scan_equals_the_recurrence_in_double_precision(length: int, steepness: float) -> None:
    torch.manual_seed(length)
    x, b, c = torch.randn(2, length, 3, 4), torch.randn(2, length, 5), torch.randn(2, length, 5)
    dt, decay = torch.rand(2, length, 3) * steepness, -torch.tensor([0.01, 1.0, 3.0])
    dt[:, length // 2] = 0.0
    state = torch.randn(2, 5, 3, 4)
    expected, running = [], state.double()
    for t in range(length):
        kept = torch.exp(dt[:, t].double() * decay)[:, None, :, None]
        gained = b[:, t, :, None, None].double() * (x[:, t] * dt[:, t, :, None])[:, None].double()
        running = kept * running + gained
        expected.append((c[:, t, :, None, None].double() * running).sum(dim=1))
    found = _factored(x, dt, decay, b, c, state.permute(0, 2, 3, 1))
    assert found is not None
    size = 1e-5 * (1.0 + steepness)
    torch.testing.assert_close(found[0].double(), torch.stack(expected, dim=1), rtol=2e-5, atol=size)
    torch.testing.assert_close(found[1].double(), running.permute(0, 2, 3, 1), rtol=2e-5, atol=size)


@pytest.mark.parametrize("steepness", [0.1, 2.0, 12.0])
def test_factored_scan_in_bfloat16_is_as_close_as_its_digits_allow(steepness: float) -> None:
    torch.manual_seed(5)
    x, b, c = torch.randn(3, 150, 2, 32), torch.randn(3, 150, 16) / 4, torch.randn(3, 150, 16) / 4
    x, b, c = x.bfloat16(), b.bfloat16(), c.bfloat16()
    dt, decay = torch.rand(3, 150, 2) * steepness, -torch.tensor([0.3, 3.0])
    exact, last = ssd_scan(x.double(), dt.double(), decay.double(), b.double(), c.double())
    found = _factored(x, dt, decay, b, c)
    assert found is not None
    assert float((found[0].double() - exact).norm() / exact.norm()) < 0.01
    assert float((found[1].double() - last).norm() / last.norm()) < 0.01


def test_numbers_out_of_range_are_noticed() -> None:
    x, ones = torch.full((1, 8, 1, 2), 1e30), torch.ones(1, 8, 1)
    assert _factored(x, 12.0 * ones, torch.tensor([-1.0]), ones, ones) is None
