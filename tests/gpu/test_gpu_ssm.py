"""State space blocks and SSRFN on a GPU against the CPU; run with ``pytest tests/gpu``."""

from __future__ import annotations

import pytest
import torch

from hsfuse.fusion.methods.ssrfn.config import GateConfig
from hsfuse.fusion.methods.ssrfn_paper.config import SsrfnConfig
from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn
from hsfuse.fusion.nets import mamba_cuda
from hsfuse.fusion.nets.ssm import Mamba1, Mamba2

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.cpu().double() - b.cpu().double()).abs().max() / b.cpu().double().abs().max())


@pytest.mark.parametrize("kernels", [False, True], ids=["plain", "mamba_ssm"])
@pytest.mark.parametrize(("d_model", "headdim"), [(64, 32), (256, 64)])
def test_mamba2_on_gpu_equals_cpu_forward_and_backward(kernels, d_model, headdim, monkeypatch):
    if kernels and mamba_cuda.load_kernels() is None:
        pytest.skip("needs mamba_ssm")
    if not kernels:
        monkeypatch.setattr(mamba_cuda, "load_kernels", lambda: None)
    torch.manual_seed(0)
    block = Mamba2(d_model, headdim=headdim)
    u = torch.randn(2, 300, d_model)
    expected = block(u)
    expected.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in block.named_parameters()}
    block = block.cuda()
    block.zero_grad()
    out = block(u.cuda())
    out.square().sum().backward()
    assert relative(out.detach(), expected.detach()) < 1e-3
    for name, p in block.named_parameters():
        assert relative(p.grad, gradients[name]) < 1e-2, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mamba2_in_half_precision_stays_close(dtype):
    torch.manual_seed(0)
    block = Mamba2(64, headdim=32).cuda()
    u = torch.randn(2, 500, 64, device="cuda")
    with torch.no_grad():
        exact = block(u)
        half = block.to(dtype)(u.to(dtype)).float()
    assert float((half - exact).norm() / exact.norm()) < 2e-2


def test_kernels_split_batches_that_exceed_their_offsets(monkeypatch):
    if mamba_cuda.load_kernels() is None:
        pytest.skip("needs mamba_ssm")
    block = Mamba2(64, headdim=32).cuda()
    u = torch.randn(5, 128, 64, device="cuda")
    with torch.no_grad():
        whole = mamba_cuda.mamba2_forward(block, u)
        monkeypatch.setattr(mamba_cuda, "MAX_ELEMENTS", 2 * 128 * mamba_cuda.widest_row(block))
        torch.testing.assert_close(mamba_cuda.mamba2_forward(block, u), whole)


def test_mamba1_on_gpu_equals_cpu():
    torch.manual_seed(0)
    block = Mamba1(32, d_state=16)
    u = torch.randn(2, 200, 32)
    with torch.no_grad():
        expected = block(u)
        assert relative(block.cuda()(u.cuda()), expected) < 1e-3


@pytest.mark.parametrize("config", [GateConfig(backbone="ssrfn").modules(4, 100), SsrfnConfig()], ids=["gate", "paper"])
def test_network_on_gpu_equals_cpu(config):
    torch.manual_seed(0)
    network = Ssrfn(config).eval()
    for p in network.ffm.parameters():
        if p.abs().sum() == 0:
            torch.nn.init.normal_(p, std=0.05)
    hsi, msi = torch.rand(1, 100, 8, 8), torch.rand(1, 4, 24, 24)
    with torch.no_grad():
        expected = network(hsi, msi)
        out = network.cuda()(hsi.cuda(), msi.cuda()).cpu()
    assert relative(out, expected) < 1e-2


def test_training_step_under_autocast_is_finite():
    torch.manual_seed(0)
    network = Ssrfn(SsrfnConfig(width=64, headdim=32, d_state=32, scan="lines")).cuda()
    hsi, msi = torch.rand(2, 100, 12, 12, device="cuda"), torch.rand(2, 4, 36, 36, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        loss = (network(hsi, msi) - torch.rand(2, 100, 36, 36, device="cuda")).abs().mean()
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
