"""Where Linux, glibc or an x86 processor are missing, plain paths serve."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest

from hsfuse import allocator, process, processor
from hsfuse.native import OVERRIDE, build, image
from hsfuse.workflows.steps import memory


def test_an_arm_processor_gets_the_portable_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    for machine in ("arm64", "aarch64"):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        assert build.best_isa() == "baseline"


def test_a_switch_takes_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OVERRIDE, "off")
    assert image.image_library() is None
    assert OVERRIDE in image.KERNELS.status()


def test_another_c_library_keeps_its_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    allocator._of_glibc.cache_clear()
    try:
        assert not allocator.keep_freed_memory()
        assert not allocator.share_one_arena()
        allocator.release_freed_memory()
        allocator.give_back()
        with allocator.large_arrays_apart():
            pass
    finally:
        allocator._of_glibc.cache_clear()


def test_systems_that_say_less_about_processor_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert processor.usable_cores() == os.cpu_count()
    exact = memory._highest_so_far()
    monkeypatch.setattr(sys, "platform", "darwin")  # counts bytes, not kilobytes
    assert exact is not None
    assert memory._highest_so_far() == pytest.approx(exact / 1024, rel=0.5)
    monkeypatch.setitem(sys.modules, "resource", None)  # Windows
    assert memory._highest_so_far() is None
    process._allow_open_files()
    with memory.PeakMemory() as peak:
        assert peak.bytes > 10_000_000


def test_no_processor_flags_mean_no_special_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(OSError("no /proc")))
    build._processor_flags.cache_clear()
    try:
        assert build.best_isa() == "baseline"
    finally:
        build._processor_flags.cache_clear()
