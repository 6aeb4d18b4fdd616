"""The adapter to mamba_ssm: limits and arguments with stand-in kernels, numbers with the official ones.

The official Triton kernels run on a CPU through Triton's interpreter, so their parity needs no GPU; that test is
skipped where mamba_ssm and triton are not installed.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from hsfuse.fusion.nets import mamba_cuda
from hsfuse.fusion.nets.mamba_cuda import Kernels
from hsfuse.fusion.nets.scans import ssd_scan
from hsfuse.fusion.nets.ssm import Mamba2


def stand_in_scan(x, dt, decay, b, c, chunk_size, D=None, z=None, dt_bias=None, dt_softplus=False):
    """What mamba_chunk_scan_combined computes, on one group of states."""
    assert b.shape[2] == c.shape[2] == 1
    assert dt_softplus
    assert z is None
    y, _ = ssd_scan(x, F.softplus(dt.float() + dt_bias), decay, b[:, :, 0], c[:, :, 0], chunk=chunk_size)
    return y + x * D[:, None]


@pytest.fixture
def calls(monkeypatch):
    """Stand-in kernels without causal_conv1d; the list collects (sequences, tokens) of every call."""
    seen = []

    def scan(x, *args, **options):
        seen.append(tuple(x.shape[:2]))
        return stand_in_scan(x, *args, **options)

    monkeypatch.setattr(mamba_cuda, "load_kernels", lambda: Kernels(scan, None, False, "0"))
    return seen


def test_scan_kernel_gets_the_arguments_that_make_it_equal_to_the_plain_path(calls):
    torch.manual_seed(0)
    block = Mamba2(32, d_state=16, headdim=16)
    u = torch.randn(3, 50, 32)
    torch.testing.assert_close(mamba_cuda.mamba2_forward(block, u), block(u), rtol=1e-4, atol=1e-5)
    assert calls == [(3, 50)]


def test_batches_are_split_below_the_offset_limit(calls, monkeypatch):
    torch.manual_seed(0)
    block = Mamba2(32, d_state=16, headdim=16)
    u = torch.randn(7, 50, 32)
    monkeypatch.setattr(mamba_cuda, "MAX_ELEMENTS", 3 * 50 * block.in_proj.out_features + 1)
    assert mamba_cuda.usable(block, u)
    torch.testing.assert_close(mamba_cuda.mamba2_forward(block, u), block(u), rtol=1e-4, atol=1e-5)
    assert calls == [(3, 50), (3, 50), (1, 50)]


def test_a_single_sequence_beyond_the_limit_goes_to_the_plain_path(calls, monkeypatch):
    block = Mamba2(32, d_state=16, headdim=16)
    monkeypatch.setattr(mamba_cuda, "MAX_ELEMENTS", 50 * block.in_proj.out_features - 1)
    assert not mamba_cuda.usable(block, torch.empty(1, 50, 32))
    assert mamba_cuda.usable(block, torch.empty(9, 49, 32))


def test_the_real_limit_admits_what_the_paper_preset_needs():
    block = Mamba2(256)
    rows = 512 * 512 * mamba_cuda.widest_row(block)
    assert mamba_cuda.MAX_ELEMENTS // rows == 7


OFFICIAL = """
import contextlib, torch
torch.manual_seed(0)
torch.cuda.device = lambda *a: contextlib.nullcontext()
import triton
from triton.runtime.autotuner import Autotuner
Autotuner.run = lambda self, *a, **k: self.fn.run(*a, **k, **self.configs[0].all_kwargs())
from hsfuse.fusion.nets import mamba_cuda
from hsfuse.fusion.nets.ssm import Mamba2
assert mamba_cuda.load_kernels() is not None
block = Mamba2(64, d_state=16, headdim=32)
u = torch.randn(2, 100, 64)
mamba_cuda.KERNEL_CHUNK = 64
with torch.no_grad():
    ours, theirs = block(u), mamba_cuda.mamba2_forward(block, u)
print("difference", float((ours - theirs).abs().max() / ours.abs().max()))
"""


def test_official_kernels_agree_with_the_plain_path_in_the_interpreter():
    for package in ("mamba_ssm", "triton", "einops"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run([sys.executable, "-c", OFFICIAL], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout.split()[-1]) < 1e-5
