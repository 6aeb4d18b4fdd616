"""Which kernels run a Mamba-2 block: those that cannot be compiled are left out, the faster ones of the rest serve."""

from __future__ import annotations

import logging
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch

from hsfuse.fusion.nets import mamba_cuda
from hsfuse.fusion.nets.gpu import block as own
from hsfuse.fusion.nets.gpu import choice
from hsfuse.fusion.nets.ssm import Mamba2

U = torch.zeros(1, 8, 32)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Both kinds seem usable; the list says which ran."""
    ran: list[str] = []

    def runs(name: str) -> choice.Forward:
        def forward(_: object, u: torch.Tensor) -> torch.Tensor:
            ran.append(name)
            return u

        return forward

    for module, name in ((own, "hsfuse"), (mamba_cuda, "mamba_ssm")):
        monkeypatch.setattr(module, "usable", lambda *_: True)
        monkeypatch.setattr(module, "mamba2_forward", runs(name))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "card")
    monkeypatch.setattr(choice, "_tried", {})
    monkeypatch.setattr(choice, "_chosen", {})
    return ran


def test_the_faster_kernels_are_chosen_once(kernels: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    block, seconds, timed = Mamba2(32, d_state=16, headdim=32), {"hsfuse": 2.0, "mamba_ssm": 1.0}, []

    def measure(forward: object, *_: object) -> float:
        timed.append("hsfuse" if forward is own.mamba2_forward else "mamba_ssm")
        return seconds[timed[-1]]

    monkeypatch.setattr(choice, "_seconds", measure)
    with torch.no_grad():
        assert choice.kernels_for(block, U) is mamba_cuda.mamba2_forward
        assert choice.kernels_for(block, U) is mamba_cuda.mamba2_forward
        assert kernels == timed == ["hsfuse", "mamba_ssm"]
        seconds["hsfuse"] = 0.5
        assert choice.kernels_for(block, U.bfloat16()) is own.mamba2_forward
    assert choice.kernels_for(block, U) is own.mamba2_forward, "with gradients"
    monkeypatch.setattr(mamba_cuda, "usable", lambda *_: False)
    assert choice.kernels_for(block, U) is own.mamba2_forward
    monkeypatch.setattr(own, "usable", lambda *_: False)
    assert choice.kernels_for(block, U) is None


def test_kernels_that_cannot_be_compiled_are_left_out_for_good(
    kernels: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As with a second version of Triton, or without a C compiler."""

    def broken(*_: object) -> torch.Tensor:
        raise TypeError("launch() got an unexpected keyword argument\nmore")

    monkeypatch.setattr(own, "mamba2_forward", broken)
    block = Mamba2(32, d_state=16, headdim=32)
    with caplog.at_level(logging.WARNING):
        assert choice.kernels_for(block, U) is mamba_cuda.mamba2_forward
        monkeypatch.setattr(mamba_cuda, "usable", lambda *_: False)
        assert choice.kernels_for(block, U) is None
    assert [record.getMessage() for record in caplog.records] == [
        "The Mamba-2 kernels of hsfuse cannot be used for torch.float32 (TypeError: launch() got an unexpected keyword "
        "argument)."
    ]


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUDA error: x")])
def test_what_the_card_says_is_no_fault_of_the_kernels(
    error: Exception, kernels: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> torch.Tensor:
        raise error

    monkeypatch.setattr(own, "mamba2_forward", failing)
    with pytest.raises(type(error)):
        choice.kernels_for(Mamba2(32, d_state=16, headdim=32), U)
    assert not choice._tried


def test_a_broken_mamba_ssm_is_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    package = ModuleType("mamba_ssm")
    package.__path__ = []
    package.__spec__ = ModuleSpec("mamba_ssm", None, is_package=True)
    monkeypatch.setitem(sys.modules, "mamba_ssm", package)
    mamba_cuda.load_kernels.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            assert mamba_cuda.load_kernels() is None
    finally:
        mamba_cuda.load_kernels.cache_clear()
    assert "mamba_ssm is installed but cannot be imported" in caplog.text
