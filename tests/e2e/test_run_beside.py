"""A run that writes and judges while it fuses: the same product and the same figures, also when it breaks off."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hsfuse.errors import HsfuseError
from hsfuse.simulate.products import SimulatedPair
from hsfuse.workflows.run import fuse_scene
from hsfuse.workflows.steps import product, quality

_ABOUT_THE_RUN = ("created", "seconds", "cpu_seconds", "peak_memory_bytes", "configuration", "facts", "versions")


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """``beside(True)``: the runs that follow work beside their fusion, else after it."""

    def choose(wanted: bool) -> None:
        monkeypatch.setattr(product, "_FEWEST_BESIDE_FUSION", 1 if wanted else 10**6)

    return choose


def _figures(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output.with_name("o.qa.json").read_text())
    return {name: value for name, value in found.items() if name not in _ABOUT_THE_RUN}


def test_product_and_figures_are_those_of_a_run_that_does_one_after_the_other(
    pair: SimulatedPair, tmp_path: Path, beside: Callable[[bool], None], disk_that_fails: Callable[[int], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def run(name: str, **settings: Any) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        path = tmp_path / name / "o.tif"
        fuse_scene(
            pair.prisma, pair.sentinel2, path, method="glp", quality="plain", bands="16", tile=90, coregister="off",
            psf_fwhm="1.3", threads=4, **settings,
        )  # fmt: skip
        return path

    beside(False)
    after = run("after")
    beside(True)
    while_fused = run("beside")
    assert while_fused.read_bytes() == after.read_bytes()
    assert _figures(while_fused) == _figures(after)
    # Pools that are kept for the next run were there before.
    before = set(threading.enumerate())
    with disk_that_fails(90), pytest.raises(OSError, match="gone"):
        run("broken")
    assert not (tmp_path / "broken" / "o.tif").exists()
    gc.collect()  # What the exception held.
    assert not [thread.name for thread in threading.enumerate() if thread not in before]
    assert run("broken", resume=True).read_bytes() == after.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise HsfuseError("no figures today")

    # The cube is worth more than what is said about it.
    monkeypatch.setattr(quality, "score_windows", fail)
    with pytest.raises(HsfuseError, match="no figures today"):
        run("unjudged")
    assert (tmp_path / "unjudged" / "o.tif").read_bytes() == after.read_bytes()
