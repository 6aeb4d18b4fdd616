"""The compiled Mamba path against its plain twin, and building it on machines of all kinds."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
import torch

from hsfuse.fusion.methods.ssrfn.config import GateConfig
from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn
from hsfuse.fusion.nets.layers import SequenceMixer
from hsfuse.fusion.nets.native import build, native_status
from hsfuse.fusion.nets.native import run as native
from hsfuse.fusion.nets.native import train as native_train
from hsfuse.fusion.nets.ssm import Mamba2
from hsfuse.native import build as builder

ISAS = list(builder.ISA_FLAGS)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


every_isa = pytest.mark.parametrize("isa", ISAS, indirect=True)


def mixer(width: int, **options) -> SequenceMixer:
    torch.manual_seed(0)
    made = SequenceMixer(width, **options)
    for p in made.parameters():  # away from the special initial values 0 and 1
        with torch.no_grad():
            p.add_(0.1 * torch.randn_like(p))
    return made


def plain(made: SequenceMixer, x: torch.Tensor, monkeypatch) -> torch.Tensor:
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setenv(builder.OVERRIDE, "off")
        assert not native.usable(made, x)
        return made(x)


def image(width: int, rows: int, cols: int, n: int = 2) -> torch.Tensor:
    return torch.randn(n, width, rows, cols).contiguous(memory_format=torch.channels_last)


@every_isa
@pytest.mark.parametrize(
    ("width", "state", "headdim"), [(32, 16, 32), (64, 32, 32), (48, 24, 16), (64, 64, 64), (16, 8, 32)]
)
def test_kernel_equals_plain_path(isa, width, state, headdim, monkeypatch):
    made = mixer(width, d_state=state, headdim=headdim)
    x = image(width, 13, 11)  # 143 tokens: no multiple of a block
    with torch.no_grad():
        assert native.usable(made, x)
        fast = made(x)
    slow = plain(made, x, monkeypatch)
    torch.testing.assert_close(fast, slow, rtol=2e-5, atol=2e-5)


@every_isa
@pytest.mark.parametrize(
    ("scan", "direction"),
    [("raster", 0), ("bidirectional", 0), ("cross", 0), ("channels", 0), *(("lines", i) for i in range(4))],
)
def test_every_scan_equals_the_plain_path(isa, scan, direction, monkeypatch):
    made = mixer(32, scan=scan, direction=direction, d_state=16, headdim=16)
    x = image(32, 9, 55)
    with torch.no_grad():
        fast = made(x)
    torch.testing.assert_close(fast, plain(made, x, monkeypatch), rtol=2e-5, atol=2e-5)


@every_isa
@pytest.mark.parametrize("wrap", ["residual", "prenorm", "bare"])
def test_norm_and_residual_equal_the_plain_path(isa, wrap, monkeypatch):
    made = mixer(32, wrap=wrap, d_state=16, headdim=16)
    x = image(32, 5, 7)
    with torch.no_grad():
        fast = made(x)
    torch.testing.assert_close(fast, plain(made, x, monkeypatch), rtol=2e-5, atol=2e-5)


@every_isa
def test_bfloat16_is_as_close_as_the_plain_path(isa, monkeypatch):
    made = mixer(64, scan="lines", direction=2, d_state=32, headdim=32, wrap="prenorm")
    x = image(64, 60, 20)
    exact = plain(made, x, monkeypatch)
    made, x = made.bfloat16(), x.bfloat16()
    with torch.no_grad():
        fast = made(x)
    slow = plain(made, x, monkeypatch)
    assert fast.dtype == torch.bfloat16
    error = [float((t.float() - exact).norm() / exact.norm()) for t in (fast, slow)]
    assert error[0] < 2e-2
    assert error[0] < 1.5 * error[1]


@every_isa
@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4])
def test_extreme_inputs_stay_finite_and_equal(isa, scale, monkeypatch):
    made = mixer(32, wrap="bare", d_state=16, headdim=16)
    x = image(32, 6, 9) * scale
    with torch.no_grad():
        fast = made(x)
    slow = plain(made, x, monkeypatch)
    assert torch.isfinite(fast).all()
    torch.testing.assert_close(fast, slow, rtol=1e-3, atol=1e-4 * float(slow.abs().max()))


@every_isa
@pytest.mark.parametrize("decay", [1e-6, 1.0, 5.0, 12.0, 1e3])
def test_slow_and_steep_decays_equal_the_plain_path(isa, decay, monkeypatch):
    """Some heads forget at once, others never: states in units of their decay would overflow."""
    made = mixer(32, wrap="bare", d_state=16, headdim=16)
    with torch.no_grad():
        made.mamba.A_log.copy_(torch.tensor([1e-3, 0.1, 1.0, 1.0]).mul(decay).log())
        made.mamba.dt_bias.copy_(torch.tensor([-3.0, 0.0, 1.0, 3.0]))
    x = image(32, 11, 17)
    with torch.no_grad():
        fast = made(x)
    torch.testing.assert_close(fast, plain(made, x, monkeypatch), rtol=2e-5, atol=2e-5)


@every_isa
@pytest.mark.parametrize("state", [16, 32, 48, 24])
@pytest.mark.parametrize("decay", [1e-6, 1.0, 5.0, 12.0, 60.0, 1e3])
def test_decays_that_change_along_a_line_are_as_exact_as_the_plain_path(isa, state, decay, monkeypatch):
    """In bfloat16 each head scans in its own way, which may be another one in every block of tokens."""
    made = mixer(64, wrap="bare", scan="lines", d_state=state, headdim=32)
    with torch.no_grad():
        made.mamba.A_log.copy_(torch.tensor([1e-3, 0.3, 1.0, 3.0]).mul(decay).log())
        made.mamba.in_proj.weight[-4:].mul_(8.0)
    x = image(64, 3, 187) * torch.linspace(0.2, 3.0, 187).roll(60)
    exact = plain(made, x, monkeypatch)
    made, x = made.bfloat16(), x.bfloat16()
    with torch.no_grad():
        fast = made(x)
    slow = plain(made, x, monkeypatch)
    error = [float((t.float() - exact).norm() / exact.norm()) for t in (fast, slow)]
    assert error[0] < 3e-2
    assert error[0] < 1.5 * error[1]


@every_isa
def test_nan_in_one_line_stays_there(isa):
    made = mixer(32, scan="lines", d_state=16, headdim=16)
    x = image(32, 4, 60)
    x[0, :, 1, 30] = float("nan")
    with torch.no_grad():
        broken = made(x).isnan().any(dim=1)[0]
    assert broken[1, 30:].all()
    assert not broken[[0, 2, 3]].any()
    assert not broken[1, :30].any()


@every_isa
def test_threads_give_the_same_bits(isa):
    made = mixer(32, scan="lines", direction=2, d_state=16, headdim=16)
    x = image(32, 20, 37)
    with torch.no_grad():
        one = made(x)
        torch.set_num_threads(3)
        assert torch.equal(made(x), one)


@every_isa
def test_changed_weights_are_noticed(isa, monkeypatch):
    made = mixer(32, d_state=16, headdim=16)
    x = image(32, 5, 5)
    with torch.no_grad():
        before = made(x)
        made.mamba.out_proj.weight.mul_(2.0)
        after = made(x)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, plain(made, x, monkeypatch), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("isa", ["avx512_bf16", "avx512", "avx2", "baseline"], indirect=True)
def test_whole_network_equals_the_plain_path(isa, monkeypatch):
    torch.manual_seed(0)
    network = Ssrfn(GateConfig(backbone="ssrfn").modules(4, 12)).eval()
    torch.nn.init.normal_(network.ffm.head.weight, std=0.1)
    hsi, msi = torch.rand(1, 12, 9, 10), torch.rand(1, 4, 27, 30)
    with torch.inference_mode():
        fast = network(hsi, msi)
        monkeypatch.setenv(builder.OVERRIDE, "off")
        slow = network(hsi, msi)
    assert slow.abs().max() > 1e-3
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5 * float(slow.abs().max()) + 1e-6)


# ---- training ------------------------------------------------------------------------------------------------


def gradients(block: Mamba2, u: torch.Tensor, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    block.zero_grad()
    u = u.clone().requires_grad_()
    out = block(u)
    (out * weight).sum().backward()
    return {"out": out.detach(), "u": u.grad, **{name: p.grad.clone() for name, p in block.named_parameters()}}


@every_isa
@pytest.mark.parametrize(
    ("width", "state", "headdim", "shape"),
    [(32, 16, 32, (2, 96)), (64, 32, 32, (1, 101)), (48, 24, 16, (3, 49)), (32, 8, 64, (2, 2)), (32, 64, 16, (1, 200))],
)
def test_gradients_equal_the_plain_path(isa, width, state, headdim, shape, monkeypatch):
    torch.manual_seed(0)
    block = Mamba2(width, state, headdim=headdim)
    for p in block.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    u, weight = torch.randn(2, *shape, width)
    assert native_train.usable(block, u)
    fast = gradients(block, u, weight)
    monkeypatch.setenv(builder.OVERRIDE, "off")
    assert not native_train.usable(block, u)
    slow = gradients(block, u, weight)
    for name, expected in slow.items():
        scale = float(expected.abs().max())
        torch.testing.assert_close(fast[name], expected, rtol=1e-4, atol=1e-4 * scale + 1e-6, msg=name)


@every_isa
def test_gradients_agree_with_finite_differences_of_the_float64_recurrence(isa):
    """An oracle that shares no code with either path: one parameter of each kind moved in float64."""
    torch.manual_seed(0)
    block = Mamba2(16, 8, headdim=16)
    u, weight = torch.randn(2, 1, 60, 16)
    analytic = gradients(block, u, weight)
    for name in ("dt_bias", "A_log", "D", "conv1d.bias", "norm.weight", "in_proj.weight"):
        values = []
        for sign in (1, -1):
            moved = {k: v.double() for k, v in block.state_dict().items()}
            moved[name].view(-1)[0] += sign * 1e-4
            values.append(float((stepwise(block, moved, u.double()) * weight).sum()))
        numeric = (values[0] - values[1]) / 2e-4
        assert float(analytic[name].view(-1)[0]) == pytest.approx(numeric, rel=1e-3, abs=1e-3), name


def stepwise(block: Mamba2, p: dict[str, torch.Tensor], u: torch.Tensor) -> torch.Tensor:
    """The block token by token in float64, for one sequence."""
    inner, n = block.d_inner, block.d_state
    z, xbc, dt = (u[0] @ p["in_proj.weight"].T).split([inner, inner + 2 * n, block.nheads], -1)
    padded = torch.cat([torch.zeros(3, xbc.shape[1], dtype=xbc.dtype), xbc])
    taps = p["conv1d.weight"][:, 0]
    xbc = torch.stack([(padded[t : t + 4] * taps.T).sum(0) for t in range(len(xbc))]) + p["conv1d.bias"]
    x, b, c = torch.nn.functional.silu(xbc).split([inner, n, n], -1)
    step = torch.nn.functional.softplus(dt + p["dt_bias"]).repeat_interleave(block.headdim, -1)
    decay, skip = (v.repeat_interleave(block.headdim) for v in (-p["A_log"].exp(), p["D"]))
    state = torch.zeros(inner, n, dtype=torch.float64)
    rows = []
    for t in range(len(x)):
        state = torch.exp(step[t] * decay)[:, None] * state + (step[t] * x[t])[:, None] * b[t]
        rows.append(state @ c[t] + skip * x[t])
    y = torch.stack(rows) * torch.nn.functional.silu(z)
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-5) * p["norm.weight"]
    return (y @ p["out_proj.weight"].T)[None]


@every_isa
def test_gradients_hardly_depend_on_threads_and_repeat_exactly(isa):
    torch.manual_seed(0)
    block = Mamba2(32, 16, headdim=16)
    u, weight = torch.randn(2, 5, 60, 32)
    one = gradients(block, u, weight)
    torch.set_num_threads(3)
    first, second = gradients(block, u, weight), gradients(block, u, weight)
    for name, expected in one.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@every_isa
def test_training_under_autocast_and_with_recomputation(isa):
    torch.manual_seed(0)
    made = mixer(32, scan="lines", d_state=16, headdim=16)
    x = image(32, 6, 20).requires_grad_()
    made(x).square().sum().backward()
    expected = x.grad.clone()
    x.grad = None
    made.recompute = True
    made(x).square().sum().backward()
    torch.testing.assert_close(x.grad, expected)
    x.grad = None
    with torch.autocast("cpu", torch.bfloat16):
        out = made(x)
    out.float().square().sum().backward()
    assert float((x.grad - expected).norm() / expected.norm()) < 2e-2


def test_training_never_takes_the_inference_kernels():
    made = mixer(32, d_state=16, headdim=16)
    x = image(32, 3, 3)
    assert not native.usable(made, x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert not native.usable(made, x)
    with torch.no_grad():
        assert not native.usable(made, x.double())
        assert not native.usable(mixer(20, headdim=8), image(20, 3, 3))
        assert not native.usable(mixer(32, kind="mamba1"), x)


# ---- building --------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path, monkeypatch) -> Path:
    """An empty cache, and a build that has forgotten everything."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(builder.OVERRIDE, raising=False)
    build.KERNELS.forget()
    yield tmp_path / "hsfuse" / "native"
    build.KERNELS.forget()


def test_built_once_and_kept(fresh):
    if build.native_library() is None:
        pytest.skip(native_status())
    assert native_status().startswith("compiled (")
    (built,) = fresh.iterdir()
    assert stat.S_IMODE(fresh.stat().st_mode) & 0o022 == 0
    stamp = built.stat().st_mtime_ns
    build.KERNELS.forget()
    assert build.native_library() is not None
    assert [p.stat().st_mtime_ns for p in fresh.iterdir()] == [stamp]


def test_simultaneous_first_uses_build_one_file(fresh):
    if not any(builder.shutil.which(name) for name in ("gcc", "clang", "cc")):
        pytest.skip("needs a C compiler")
    found = []
    workers = [threading.Thread(target=lambda: found.append(build.native_library())) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(entry is not None for entry in found)
    assert len(list(fresh.iterdir())) == 1


def test_without_a_compiler_the_plain_path_serves(fresh, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert build.native_library() is None
    assert "no C compiler" in native_status()
    made = mixer(32, d_state=16, headdim=16)
    with torch.no_grad():
        assert torch.isfinite(made(image(32, 3, 3))).all()


def test_a_failing_compiler_is_reported_and_leaves_nothing_behind(fresh, monkeypatch):
    monkeypatch.setenv("CC", "false")
    assert build.native_library() is None
    assert "false failed" in native_status()
    assert list(fresh.iterdir()) == []


def test_an_unwritable_cache_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv(builder.OVERRIDE, raising=False)
    build.KERNELS.forget()
    assert build.native_library() is None
    assert native_status().startswith("plain PyTorch (")
    build.KERNELS.forget()


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv(builder.OVERRIDE, "off")
    assert build.native_library() is None
    assert "switched off" in native_status()
    assert "off" in os.environ[builder.OVERRIDE]
