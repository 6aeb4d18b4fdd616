"""`hsfuse run` with every network of the field, NLSTF and UHNTC: in tiles, gone on with, and in one tile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from zoo_weights import SMALL, weights_of

import hsfuse
from hsfuse.fusion.methods.nlstf.method import Nlstf
from hsfuse.fusion.methods.uhntc.method import Uhntc
from hsfuse.simulate.products import SimulatedPair
from hsfuse.workflows.demo import read_cube

QUICK: dict[str, Any] = {
    "coregister": "off", "report": False, "dtype": "float32", "quality": "plain", "bands": "16", "threads": 1,
    "precision": "fp32",
}  # fmt: skip


@pytest.fixture(scope="module")
def area(pair: SimulatedPair, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The middle kilometre of the pair."""
    plan = hsfuse.fuse_scene(
        pair.prisma, pair.sentinel2, tmp_path_factory.mktemp("area") / "o.tif", dry_run=True, method="bicubic", **QUICK
    )
    left, bottom, right, top = plan.summary["grid"]["bounds"]
    x, y = (left + right) / 2, (bottom + top) / 2
    return f"{x - 480},{y - 480},{x + 480},{y + 480}"


@pytest.mark.parametrize("name", ["nlstf", "uhntc", *SMALL])
def test_tiles_and_resumed_runs_are_equal(
    name: str,
    pair: SimulatedPair,
    area: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    disk_that_fails: Callable[[int], Any],
) -> None:
    # As they stand they take minutes; what is tested here does not depend on how far they get.
    monkeypatch.setattr(Uhntc, "__init__", partialmethod(Uhntc.__init__, steps=4, sensor_steps=2))
    monkeypatch.setattr(Nlstf, "__init__", partialmethod(Nlstf.__init__, iterations=1, clusters=4, atoms=4, spectra=4))
    more = {"model": weights_of(name, tmp_path / "w.safetensors")} if name in SMALL else {}
    settings = {**QUICK, "method": name, "tile": 48, "aoi": area, **more}

    def run(folder: str, **changes: Any) -> Path:
        output = tmp_path / folder / "o.tif"
        output.parent.mkdir(exist_ok=True)
        result = hsfuse.fuse_scene(pair.prisma, pair.sentinel2, output, **{**settings, **changes})
        assert result.method == name
        return output

    whole = run("whole")
    with disk_that_fails(0), pytest.raises(OSError, match="gone"):
        run("broken")
    assert not (tmp_path / "broken" / "o.tif").exists()
    assert run("broken", resume=True).read_bytes() == whole.read_bytes()
    cube = read_cube(whole)
    assert np.isfinite(cube).any()
    # The raster scan of the literal SSRFN carries what it saw from row to row of a tile.
    if name != "ssrfn-paper":
        assert np.nanmax(np.abs(read_cube(run("one", tile=3000)) - cube)) < 5e-4
