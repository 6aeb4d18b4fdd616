"""Adapting a network to the scene that it is going to fuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rasterio.crs import CRS
from training_support import TINY

from hsfuse.config import RunConfig
from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.warp import Resampler
from hsfuse.degrade import Psf, lowpass_decimate_array
from hsfuse.errors import DisplacedPairError, UsageError
from hsfuse.fusion.base import FusionContext
from hsfuse.fusion.methods.ssrfn.config import GateConfig
from hsfuse.fusion.methods.ssrfn.method import GateMethod
from hsfuse.fusion.methods.ssrfn.scene import GateScene
from hsfuse.fusion.methods.ssrnet.network import Ssrnet
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.plain_network import PlainNetworkMethod
from hsfuse.fusion.nets.weights import LoadedNetwork
from hsfuse.grid import Grid
from hsfuse.inference.scene import FusionScene
from hsfuse.progress import SilentProgress
from hsfuse.resources import Resources
from hsfuse.sensors.sentinel2 import BANDS_10M, table_responses
from hsfuse.simulate.training_scene import training_scene
from hsfuse.spectral import BandTable, srf_weights
from hsfuse.workflows.steps import adapted
from hsfuse.workflows.steps.adapt import adapt
from hsfuse.workflows.steps.adapted import adaptation_text, short_adaptation_text
from hsfuse.workflows.steps.array_scene import ArrayProduct
from hsfuse.workflows.steps.methods import choose_method
from hsfuse.workflows.training.training_scene import scene_as_training

BANDS = BandTable.make(np.linspace(440.0, 900.0, 12))


@pytest.fixture(scope="module")
def scene() -> FusionScene:
    return _scene(216, 144)


def _scene(rows: int, cols: int) -> FusionScene:
    truth = training_scene(8, (rows, cols))
    fine = Grid.from_origin(CRS.from_epsg(32632), 500_000.0, 5_000_000.0, 10.0, rows, cols)
    coarse = fine.coarsened(3)
    cube = truth.reflectance(BANDS, truth.grid.full)
    responses = table_responses("Sentinel-2A", BANDS_10M)
    msi = np.tensordot(srf_weights(BANDS, responses), cube, axes=1).astype(np.float32)
    rng = np.random.default_rng(0)
    hsi = lowpass_decimate_array(cube, 3, Psf(1.0))
    hsi += 0.003 * rng.standard_normal(hsi.shape, np.float32)
    hsi[:, :4, :4] = np.nan
    msi[:, 150:160, 60:70] = np.nan
    table = BandTable.make(np.linspace(490.0, 830.0, 4))
    return FusionScene(
        ArrayProduct(hsi, coarse, BANDS), ArrayProduct(msi, fine, table, responses), np.arange(12),
        Resampler(coarse, coarse, DisplacementField.zero()), coarse, 3, Psf(1.0),
    )  # fmt: skip


def test_pair_comes_to_the_coarse_grid(scene: FusionScene) -> None:
    training = scene_as_training(scene, "scene")
    assert training.reference.shape == (12, 72, 48)
    assert training.msi is not None
    assert np.isfinite(training.reference).all()
    assert np.isfinite(training.msi).all()
    assert not training.valid[:4, :4].any()
    assert not training.valid[51, 21]
    assert training.valid.mean() > 0.9
    # The degraded MSI is what the sensor would have seen of the HSI.
    seen = np.tensordot(training.srf[0], training.reference, axes=1)
    error = np.abs(seen - training.msi)[:, training.valid]
    assert float(np.median(error)) < 0.004


def _method(network: Ssrnet) -> PlainNetworkMethod:
    header = NetworkHeader(
        "tiny", "ssrnet", TINY.to_dict(), tuple(BANDS.centre_nm), tuple(BANDS.fwhm_nm), (3,), n_msi=4, base="glp"
    )  # fmt: skip
    return PlainNetworkMethod(LoadedNetwork(network, header, ""), statistics=True)


def test_adapting_changes_the_network_only_if_it_helps(scene: FusionScene, tiny: Callable[[], Ssrnet]) -> None:
    method = _method(tiny())
    before = {name: t.clone() for name, t in method.network.state_dict().items()}
    result = adapt(method, scene, steps=2, patch_px=12, batch=2)
    assert result.steps == 2
    after = method.network.state_dict()
    same = all(torch.equal(before[name], after[name]) for name in before)
    assert same == (result.after == result.before)
    assert result.after.psnr_db >= result.before.psnr_db
    assert set(result.to_json()) == {"steps", "seconds", "before", "after"}
    context = FusionContext(3, BANDS.centre_nm, BANDS.fwhm_nm, None, scene.psf)
    method.fit(context, list(scene.low_resolution_strips()))
    strip = scene.read(scene.grid.full)
    with torch.no_grad():
        fused = method.fuse(torch.as_tensor(strip.hsi)[None], torch.as_tensor(strip.msi)[None])
    assert bool(torch.isfinite(fused).all())


def test_other_bands_are_refused(scene: FusionScene, tiny: Callable[[], Ssrnet]) -> None:
    with pytest.raises(UsageError, match="takes 12 HSI"):
        adapt(_method(tiny()), replace(scene, bands=np.arange(10)), steps=1)


def test_a_gate_is_adapted_to_its_scene() -> None:
    """It learns to weigh the experts of the scene's own reduced pairs, in the scene's bands."""
    method = GateMethod.untrained(GateConfig(width=8, backbone="ssrfn"))
    # Its last strip is too narrow for whole patches.
    result = adapt(method, _scene(318, 288), steps=2)
    assert result.steps == 2
    assert result.after.quality >= result.before.quality
    record = result.to_json()
    assert {"gain_db", "gain_without_db"} <= record["after"].keys()
    assert short_adaptation_text(record) in adaptation_text(record)
    assert record["after"]["gain_db"] == pytest.approx(result.after.gain_db, abs=1e-4)
    assert f"{record['after']['gain_db']:+.2f} dB on held-out parts" in short_adaptation_text(record)


def test_a_displaced_pair_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its degraded windows would teach the displacement; whoever named the network could not know."""
    monkeypatch.setattr(GateScene, "displaced", staticmethod(lambda record, model: True))
    with pytest.raises(DisplacedPairError) as caught:
        adapt(GateMethod.untrained(), _scene(288, 288), steps=1)

    def fails(*_: Any) -> dict[str, Any]:
        raise caught.value

    monkeypatch.setattr(adapted, "_train", fails)
    config = RunConfig(method="ssrfn-lite", adapt=1.0)
    chosen = choose_method(config)
    with caplog.at_level("WARNING"):
        found = adapted.adapt_to_scene(
            chosen, _scene(72, 72), tmp_path / "o.tif", [], config, Resources("cpu", 1), SilentProgress()
        )
    assert "displaced locally" in caplog.text
    assert "--adapt had no effect" in caplog.text
    assert (found.chosen, found.record) == (chosen, {})
