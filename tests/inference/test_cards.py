"""Which card is taken, how much of it, and what is said where none can be used; PyTorch's answers are made up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from hsfuse.errors import DeviceError, MemoryBudgetError, explained
from hsfuse.fusion.base import ModelSpec
from hsfuse.inference import cards
from hsfuse.inference.accelerator import bounded_vram
from hsfuse.inference.budget import choose_plan, make_budget
from hsfuse.resources import Resources
from hsfuse.workflows.steps import resources as steps
from hsfuse.workflows.steps.resources import resolve_device

GB = 10**9
Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make PyTorch see cards: free bytes of each (an error where it does not answer), and what is wrong otherwise."""

    def make(
        *free: int | RuntimeError, capability: tuple[int, int] = (9, 0), cuda: str | None = "13.0", init: str = "",
        built: tuple[str, ...] = ("sm_75", "sm_80", "sm_90", "compute_120"),
    ) -> None:  # fmt: skip
        def told(device: object = 0) -> tuple[int, int]:
            index = device if isinstance(device, int) else torch.device(str(device)).index
            found = free[index or 0]
            if isinstance(found, RuntimeError):
                raise found
            return found, 24 * GB

        def failing() -> None:
            raise RuntimeError(init)

        properties = SimpleNamespace(name="Card", major=capability[0], minor=capability[1], total_memory=24 * GB)
        for name, value in {
            "is_available": lambda: bool(free), "device_count": lambda: len(free), "mem_get_info": told,
            "get_device_properties": lambda _: properties, "get_arch_list": lambda: list(built), "init": failing,
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(steps, "node_present", lambda: True)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return make


def test_auto_takes_the_card_with_the_most_free_memory(machine: Machine) -> None:
    machine(3 * GB, 20 * GB, 20 * GB, RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable"))
    assert resolve_device("auto") == resolve_device("cuda") == "cuda:1"
    assert resolve_device("cuda:0") == "cuda:0"
    with pytest.raises(DeviceError, match="does not answer"):
        resolve_device("cuda:3")


def test_the_plan_counts_on_free_memory_and_no_more_than_allowed(machine: Machine) -> None:
    """Another process holds 14 of 24 GB."""
    machine(10 * GB)
    assert make_budget(Resources("cuda:0")).vram == int(8.5 * GB)
    assert make_budget(Resources("cuda:0", vram=4 * GB)).vram == 4 * GB
    assert make_budget(Resources("cuda:0", vram=20 * GB)).vram == int(8.5 * GB)


def test_a_card_too_small_for_one_tile_is_told_before_anything_is_computed(machine: Machine) -> None:
    machine(100 * 10**6)
    spec = ModelSpec("any", "network", halo_px=8, overlap_px=4, bytes_per_pixel=20_000)
    with pytest.raises(MemoryBudgetError, match=r"needs at least 0\.\d GB of GPU memory") as caught:
        choose_plan(300, 300, ratio=3, n_bands=100, n_msi=4, source_bands=100, spec=spec,
                    budget=make_budget(Resources("cuda:0", memory=64 * GB)))  # fmt: skip
    assert caught.value.exit_code == 6
    assert "--device cpu" in caught.value.hint


def test_the_allocator_keeps_to_the_limit_and_is_free_afterwards(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(20 * GB)
    told: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, _: told.append(share))
    with bounded_vram("cuda:0", 6 * GB):
        assert told == [0.25]
    assert told == [0.25, 1.0]
    with bounded_vram("cuda:0", None), bounded_vram("cpu", 6 * GB):
        assert len(told) == 2


TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"
BAD = {
    "no driver": ({"init": "Found no NVIDIA driver on your system. Please check that"}, "no NVIDIA driver", "Install"),
    "old driver": ({"init": TOO_OLD}, r"driver is older than PyTorch", "Update the driver"),
    "no CUDA": ({"cuda": None}, "built without CUDA", "install PyTorch from the index"),
    "unknown": (
        {"init": "CUDA unknown error - this may be due\nto"},
        "unknown error - this may be due.$",
        "nvidia-smi",
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_without_a_usable_card_auto_says_why_and_a_named_card_is_refused(
    case: str, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    made, sentence, hint = BAD[case]
    machine(**made)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        assert resolve_device("auto") == "cpu"
    for device in ("cuda", "cuda:0"):
        with pytest.raises(DeviceError, match=sentence) as caught:
            resolve_device(device)
        assert (caught.value.exit_code, caught.value.message.count("\n")) == (11, 0)
        assert hint in caught.value.hint
        assert "--device cpu" in caught.value.hint
    assert "The CPU is used" in caplog.text


def test_a_card_older_or_newer_than_the_wheel(machine: Machine) -> None:
    machine(20 * GB, capability=(6, 1))
    assert resolve_device("auto") == "cpu"
    with pytest.raises(DeviceError, match=r"compute capability 6\.1\) is none that PyTorch .* was built for"):
        resolve_device("cuda:0")
    for capability in ((7, 5), (8, 9), (12, 1)):  # of a built generation, or newer than the PTX that came along
        machine(20 * GB, capability=capability)
        assert resolve_device("cuda:0") == "cuda:0"


def test_hidden_cards(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    error = cards.obstacle()
    assert error is not None
    assert "hides every GPU" in error.message


@pytest.mark.parametrize(
    ("text", "code"),
    [("CUDA error: unspecified launch failure\nCUDA kernel errors might", 11), ("cuDNN error: X", 11),
     ("CUDA out of memory. Tried to allocate 2.00 GiB", 6), ("CUDA error: out of memory", 6),
     ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling", 6)],
)  # fmt: skip
def test_errors_of_a_card_are_no_bugs(text: str, code: int) -> None:
    error = explained(RuntimeError(text))
    assert error.exit_code == code
    assert "\n" not in error.message
    assert ("--resume" if code == 11 else "--max-vram") in error.hint


def test_a_card_is_warmed_up_and_says_nothing_when_it_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    solve = torch.cholesky_solve
    monkeypatch.setattr(torch, "cholesky_solve", lambda *given: done.append("solved") or solve(*given))
    cards.warm_up("cpu").join(60)
    assert done == ["solved"]

    def lost(*_: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch, "cholesky_solve", lost)
    cards.warm_up("cpu").join(60)
