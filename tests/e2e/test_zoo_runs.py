"""`hsfuse run` with every network of the field, NLSTF and UHNTC: in tiles, gone on with, and in one tile."""

from __future__ import annotations

from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hsfuse
from hsfuse.fusion.methods.nlstf.method import Nlstf
from hsfuse.fusion.methods.uhntc.method import Uhntc
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.weights import save_weights
from hsfuse.fusion.registry import METHODS
from hsfuse.sensors.sentinel2 import BANDS_10M
from hsfuse.simulate.products import SimulatedPair
from hsfuse.workflows.demo import read_cube
from hsfuse.workflows.training.training_data import nominal_bands
from hsfuse.writers import CubeWriter

BANDS = nominal_bands(16)
SMALL: dict[str, dict[str, Any]] = {
    "csakd-lite": {"width": 8, "growth": 4},
    "fusion-mamba-lite": {"width": 4, "window_px": 4},
    "hyfusion-lite": {"width": 8, "growth": 4},
    "mimo-sst-lite": {"width": 4},
    "mpsrnet-diff-lite": {"width": 8, "prior_steps": 1, "training_steps": 1},
    "msst-net-lite": {"features": 8, "spectral_width": 4, "embed": 8},
    "qis-gan-lite": {"width": 8, "hidden": 16},
    "s3rnet-lite": {"width": 8, "growth": 4},
    "ssrfn-paper": {
        "width": 8, "dfe_blocks": 1, "cfe_cycles": 1, "scm_steps": 1, "refine_stages": 1, "headdim": 8, "d_state": 8,
    },
    "ssrnet-lite": {},
}  # fmt: skip
"""Every network of the field in a shape that a test has time for."""
QUICK: dict[str, Any] = {
    "coregister": "off", "report": False, "dtype": "float32", "quality": "plain", "bands": "16", "threads": 1,
    "precision": "fp32",
}  # fmt: skip


def weights_of(name: str, path: Path) -> Path:
    """Random weights without a base estimate: of a correction, only what helps on the scene would be used, nothing."""
    entry = METHODS.get(name).network
    assert entry is not None
    base = {} if name == "ssrfn-paper" else {"base": "bicubic"}
    settings = entry.completed({**entry.settings, **base, "n_bands": len(BANDS), "n_msi": 4, **SMALL[name]})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = entry.build(settings)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    header = NetworkHeader(
        name, entry.architecture, settings, tuple(BANDS.centre_nm), tuple(BANDS.fwhm_nm), (3,), BANDS_10M, 4,
        training={"validation": {"gain_db": 1.0}, "scenes": ["random"]},
    )  # fmt: skip
    return save_weights(path, network, header)


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
    name: str, pair: SimulatedPair, area: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    write = CubeWriter.write_rows

    def fail_late(self: CubeWriter, row0: int, data: Any) -> None:
        if row0 > 0:
            raise OSError(5, "gone")
        write(self, row0, data)

    with monkeypatch.context() as patch:
        patch.setattr(CubeWriter, "write_rows", fail_late)
        with pytest.raises(OSError, match="gone"):
            run("broken")
    assert not (tmp_path / "broken" / "o.tif").exists()
    assert run("broken", resume=True).read_bytes() == whole.read_bytes()
    cube = read_cube(whole)
    assert np.isfinite(cube).any()
    # The raster scan of the literal SSRFN carries what it saw from row to row of a tile.
    if name != "ssrfn-paper":
        assert np.nanmax(np.abs(read_cube(run("one", tile=3000)) - cube)) < 5e-4
