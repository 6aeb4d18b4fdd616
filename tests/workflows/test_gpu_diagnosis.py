"""What ``hsfuse doctor`` says about graphics cards, with made-up answers of PyTorch and of the installation."""

from __future__ import annotations

import importlib.util
from importlib import metadata

import pytest

from hsfuse.errors import DeviceError
from hsfuse.fusion.nets import mamba_cuda
from hsfuse.fusion.nets.gpu import block
from hsfuse.inference.cards import Card
from hsfuse.workflows import gpu_diagnosis
from hsfuse.workflows.gpu_diagnosis import diagnose_gpus

H100 = Card(0, "NVIDIA H100", (9, 0), 80 * 10**9, 78 * 10**9)
OLD = Card(0, "Tesla V100", (7, 0), 16 * 10**9, 10**9)


def diagnosed(monkeypatch: pytest.MonkeyPatch, *cards: Card, error: DeviceError | None = None) -> tuple[str, str]:
    """Problems and notes."""
    monkeypatch.setattr(gpu_diagnosis, "find_cards", lambda: list(cards))
    monkeypatch.setattr(gpu_diagnosis, "node_present", lambda: True)
    monkeypatch.setattr(gpu_diagnosis, "obstacle", lambda: error)
    monkeypatch.setattr(gpu_diagnosis, "unusable", lambda _: error)
    problems: list[str] = []
    notes: list[str] = []
    diagnose_gpus(problems, notes)
    return "\n".join(problems), "\n".join(notes)


@pytest.fixture(autouse=True)
def installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are there, and nothing twice."""
    monkeypatch.setattr(block, "available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"triton": ["triton"]})
    monkeypatch.setattr(metadata, "version", lambda name: {"triton": "3.7.0"}.get(name, "3.5.1"))
    monkeypatch.setattr(metadata, "requires", lambda _: ['triton==3.7.0; platform_system == "Linux"', "sympy>=1.13"])


def test_a_good_card_needs_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    assert diagnosed(monkeypatch, H100) == ("", "")


def test_a_driver_that_does_not_fit_is_a_problem_and_a_cpu_build_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    old = DeviceError("The NVIDIA driver is older than PyTorch needs.", hint="Update the driver.")
    assert diagnosed(monkeypatch, error=old) == (
        "there is a GPU, but it cannot be used: The NVIDIA driver is older than PyTorch needs. Update the driver.", "",
    )  # fmt: skip
    for_cpu = DeviceError("This PyTorch (2.13.0+cpu) was built without CUDA.", hint="Use --device cpu.")
    problems, notes = diagnosed(monkeypatch, error=for_cpu)
    assert not problems
    assert "built without CUDA" in notes


def test_a_card_that_this_pytorch_does_not_serve_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    error = DeviceError("GPU 0 is none that PyTorch was built for.", hint="Use --device cpu.")
    assert diagnosed(monkeypatch, OLD, error=error) == (
        "GPU 0 is none that PyTorch was built for. Use --device cpu.", "",
    )  # fmt: skip


def test_an_old_and_nearly_full_card(monkeypatch: pytest.MonkeyPatch) -> None:
    problems, notes = diagnosed(monkeypatch, OLD)
    assert not problems
    assert "Tesla V100) has no bfloat16" in notes
    assert "has 1.0 of 16 GB free: other processes hold the rest" in notes


def test_two_versions_of_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"triton": ["triton", "pytorch-triton"]})
    assert "two versions of Triton are installed (pytorch-triton 3.5.1 and triton 3.7.0)" in diagnosed(
        monkeypatch, H100
    )[1]  # fmt: skip
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"triton": ["triton"]})
    monkeypatch.setattr(metadata, "version", lambda _: "3.1.0")
    assert "PyTorch was built with 3.7.0: pip install triton==3.7.0" in diagnosed(monkeypatch, H100)[1]


def test_broken_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(mamba_cuda, "load_kernels", lambda: None)
    monkeypatch.setattr(block, "available", lambda: False)
    notes = diagnosed(monkeypatch, H100)[1]
    assert "mamba_ssm is installed but cannot be imported" in notes
    assert "networks run in plain PyTorch" in notes
