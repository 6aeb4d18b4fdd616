"""Fixtures that every test may use."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from hsfuse.log import LOGGER_NAME
from hsfuse.native import OVERRIDE, build, image

# Without a GPU its kernels run under Triton's interpreter, which asks for this when Triton is imported.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Programs that a shell begins in the background, or with nohup, inherit that signals are ignored, and hand it on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A busy machine is no failure: examples take as long as they take.
settings.register_profile("hsfuse", deadline=None, derandomize=False, suppress_health_check=[HealthCheck.too_slow])
# Continuous integration tries the same examples every time: a change is judged by what it changed. New examples are
# for those who run the tests themselves.
settings.register_profile("hsfuse-ci", parent=settings.get_profile("hsfuse"), derandomize=True, database=None)
settings.load_profile("hsfuse-ci" if os.environ.get("CI") else "hsfuse")


def _shared_data() -> Path | None:
    named = os.environ.get("HSFUSE_SHARED_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real cubes, spectra and metadata; the test is skipped where it does not exist."""
    folder = _shared_data()
    if folder is None:
        pytest.skip("needs the shared data folder (set HSFUSE_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def benchmark_module() -> Callable[[str], ModuleType]:
    """Import a script of ``benchmarks`` by its path there, without its ending."""

    def imported(path: str) -> ModuleType:
        script = Path(__file__).resolve().parents[1] / "benchmarks" / path
        sys.path.insert(0, str(script.parent))
        try:
            return importlib.import_module(script.name)
        finally:
            sys.path.remove(str(script.parent))

    return imported


@pytest.fixture(params=list(build.ISA_FLAGS))
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Select an instruction set for all compiled kernels; skip without a compiler or on another processor."""
    order = ["baseline", "avx2", "avx512", "avx512_bf16"]
    if order.index(request.param) > order.index(build.best_isa()):
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv(OVERRIDE, request.param)
    if image.image_library() is None:
        pytest.skip(image.KERNELS.status())
    return str(request.param)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Call a function without compiled kernels."""

    def call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setenv(OVERRIDE, "off")
            assert image.image_library() is None
            return function(*arguments, **options)

    return call


@pytest.fixture
def torch_threads_as_they_were() -> Iterator[None]:
    """Take back how many threads a command of this process has given to torch."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Make every random number repeatable."""
    import random

    import numpy as np

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - third-party code may use the legacy generator


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """Take back how a command has set up the log: else a later test hears nothing, or everything twice.

    pytest listens at the root, and at each logger that passes nothing on when a test begins. One that passes nothing on
    because of an earlier test, and is told to do so in this one, would hand each record over twice.
    """
    logger = logging.getLogger(LOGGER_NAME)
    level, propagate = logger.level, logger.propagate
    yield
    for handler in [handler for handler in logger.handlers if type(handler).__module__ == "hsfuse.log"]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(level)
    logger.propagate = propagate
