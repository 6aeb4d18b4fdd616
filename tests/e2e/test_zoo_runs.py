"""`hsfuse run` with every small network and every method that learns more than statistics: resumed runs are equal."""

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
from hsfuse.fusion.nets.pair_network import PairNetwork
from hsfuse.fusion.nets.weights import save_weights
from hsfuse.fusion.registry import METHODS, network_entries
from hsfuse.sensors.sentinel2 import BANDS_10M
from hsfuse.simulate.products import SimulatedPair
from hsfuse.workflows.demo import read_cube
from hsfuse.workflows.training.training_data import nominal_bands
from hsfuse.writers import CubeWriter

BANDS = nominal_bands(16)
NETWORKS = [
    name
    for name, entry in network_entries()
    if name.endswith("-lite") and entry.architecture != "ssrfn" and not entry.takes_prior
]
QUICK: dict[str, Any] = {
    "coregister": "global", "report": False, "dtype": "float32", "quality": "plain", "bands": "16", "threads": 1,
}  # fmt: skip


def weights_of(name: str, path: Path) -> Path:
    """Weights that correct a base estimate at random."""
    entry = METHODS.get(name).network
    assert entry is not None
    settings = entry.completed({**entry.settings, "n_bands": len(BANDS), "n_msi": 4})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = entry.build(settings)
        assert isinstance(network, PairNetwork)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    header = NetworkHeader(
        name, entry.architecture, settings, tuple(BANDS.centre_nm), tuple(BANDS.fwhm_nm), (3,), BANDS_10M, 4, "glp",
        training={"validation": {"gain_db": 1.0}, "scenes": ["random"]},
    )  # fmt: skip
    return save_weights(path, network, header)


@pytest.fixture(scope="module")
def area(pair: SimulatedPair, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The middle 1.4 km of the pair."""
    plan = hsfuse.fuse_scene(
        pair.prisma, pair.sentinel2, tmp_path_factory.mktemp("area") / "o.tif", dry_run=True, method="bicubic", **QUICK
    )
    left, bottom, right, top = plan.summary["grid"]["bounds"]
    x, y = (left + right) / 2, (bottom + top) / 2
    return f"{x - 700},{y - 700},{x + 700},{y + 700}"


@pytest.mark.parametrize("name", [*NETWORKS, "nlstf", "uhntc"])
def test_a_resumed_run_is_equal(
    name: str, pair: SimulatedPair, area: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As they stand they take minutes; what is tested here does not depend on how far they get.
    monkeypatch.setattr(Uhntc, "__init__", partialmethod(Uhntc.__init__, steps=4, sensor_steps=2))
    monkeypatch.setattr(Nlstf, "__init__", partialmethod(Nlstf.__init__, iterations=1, clusters=4, atoms=4, spectra=4))
    more = {"model": weights_of(name, tmp_path / "w.safetensors")} if name in NETWORKS else {}
    settings = {**QUICK, "method": name, "tile": 60, "aoi": area, **more}
    whole = hsfuse.fuse_scene(pair.prisma, pair.sentinel2, tmp_path / "whole.tif", **settings)
    assert whole.method == name
    cube = read_cube(whole.output)
    assert np.isfinite(cube).any()
    write = CubeWriter.write_rows

    def fail_late(self: CubeWriter, row0: int, data: Any) -> None:
        if row0 > 60:
            raise OSError(5, "gone")
        write(self, row0, data)

    output = tmp_path / "resumed.tif"
    with monkeypatch.context() as patch:
        patch.setattr(CubeWriter, "write_rows", fail_late)
        with pytest.raises(OSError, match="gone"):
            hsfuse.fuse_scene(pair.prisma, pair.sentinel2, output, **settings)
    resumed = hsfuse.fuse_scene(pair.prisma, pair.sentinel2, output, resume=True, **settings)
    np.testing.assert_array_equal(read_cube(resumed.output), cube)
    if name in ("nlstf", "mimo-sst-lite"):
        one = hsfuse.fuse_scene(pair.prisma, pair.sentinel2, tmp_path / "one.tif", **{**settings, "tile": 3000})
        assert np.nanmax(np.abs(read_cube(one.output) - cube)) < 5e-4
