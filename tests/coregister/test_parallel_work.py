"""Work in two threads gives what it gives in one, and torch can be loaded beside other work."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from functools import partial

import pytest
from generated_images import COARSE_M, Landscape

from hsfuse.config import CoregisterConfig
from hsfuse.coregister import coregister_products, register
from hsfuse.coregister.threads import map_in_halves, parallel_map, prefetch, run_all, run_both
from hsfuse.degrade import Psf


def test_results_come_in_order_whichever_is_ready_first() -> None:
    def square(value: int) -> int:
        time.sleep(0.002 * (value % 3 == 0))
        return value * value

    expected = [value * value for value in range(9)]
    assert list(parallel_map(square, range(9))) == expected
    assert map_in_halves(lambda value: sum(parallel_map(square, [value])), range(9)) == expected
    assert list(prefetch(square, range(9))) == list(zip(range(9), expected, strict=True))
    assert map_in_halves(square, []) == list(prefetch(square, [])) == []


def test_the_second_piece_has_ended_when_the_first_fails() -> None:
    begun, ended = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        time.sleep(0.05)
        ended.set()

    def fails() -> None:
        begun.wait(10.0)
        raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        run_both(fails, slow)
    assert ended.is_set()
    with pytest.raises(ValueError, match="first"):
        run_both(slow, fails)


def test_work_that_runs_work_beside_itself_never_waits_for_a_thread() -> None:
    def deep(level: int) -> int:
        return sum(run_all(*(partial(deep, level - 1) for _ in range(3)))) if level else 1

    assert deep(4) == 3**4


def test_an_error_while_working_ahead_reaches_the_caller() -> None:
    def work(value: int) -> int:
        if value == 2:
            raise ValueError("third")
        return value

    done = []
    with pytest.raises(ValueError, match="third"):
        done += [result for _, result in prefetch(work, range(5))]
    for value, _ in prefetch(work, range(2)):
        done.append(value)
        break
    assert done == [0]


def test_torch_is_loaded_beside_other_work_and_leaves_the_interpreter_as_it_was() -> None:
    code = """
import gc, sys, threading
interval = sys.getswitchinterval()
from hsfuse._early import import_torch, torch_beside
def joined():
    [thread.join() for thread in threading.enumerate() if thread.name == "import torch"]
    return gc.isenabled() and sys.getswitchinterval() == interval
try:
    with torch_beside():
        raise KeyError
except KeyError:
    pass
assert joined() and "torch" not in sys.modules
with torch_beside():
    assert "torch" not in sys.modules
import torch
assert joined()
with torch_beside():
    assert threading.active_count() == 1
del sys.modules["torch"]
sys.path, path = [], sys.path
try:
    import_torch()  # of an installation without it
except ImportError:
    assert joined()
else:
    raise AssertionError
sys.path, sys.modules["torch"] = path, torch
print(float(torch.ones(3).sum()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "3.0", done.stderr


@pytest.mark.parametrize("pixels", [900, 909])
def test_a_large_image_is_matched_at_half_resolution_first(monkeypatch: pytest.MonkeyPatch, pixels: int) -> None:
    """The size from which that is done is lowered here; at the second size halves are not whole pixels."""
    monkeypatch.setattr(register, "_HALVED_FROM_PX", 100)
    land = Landscape(3, pixels)
    config = CoregisterConfig(search_m=600.0)
    result = coregister_products(land.coarse(41.0, -23.0, noise=0.002), land.fine(), config, psf=Psf(1.25))
    assert result.verdict == "accepted"
    east, north = result.field.at(600_000.0 + 15 * pixels / 3, 5_000_000.0 - 15 * pixels / 3)
    assert float(east) == pytest.approx(41.0, abs=COARSE_M / 50)
    assert float(north) == pytest.approx(-23.0, abs=COARSE_M / 50)
