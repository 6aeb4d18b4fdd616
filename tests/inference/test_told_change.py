"""What is known of a guide's change reaches the methods that use it, pixel by pixel."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import hsfuse
from hsfuse.degrade import Psf
from hsfuse.fusion.create import create_method
from hsfuse.fusion.methods.ssrfn.config import GateConfig
from hsfuse.fusion.methods.ssrfn.method import GateMethod
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.inference import pipeline
from hsfuse.inference.scene import FusionScene
from hsfuse.inference.told_change import tell_change
from hsfuse.resources import Resources
from hsfuse.spectral import BandTable
from hsfuse.spilled import SpilledImages
from hsfuse.workflows.steps.array_scene import array_scene
from hsfuse.workflows.steps.resources import resolved

sys.path.insert(0, str(Path(__file__).parents[1] / "fusion"))
from pair_support import RATIO, make_pair

SIDE, BANDS = 18, 30
CHANGED = (slice(15, 30), slice(21, 39))


def _scene() -> FusionScene:
    rng = np.random.default_rng(0)
    rows = np.linspace(0.0, 6.0, SIDE * RATIO)
    fields = np.stack([np.sin(rows[:, None] * (1.0 + 0.7 * k) + k) * np.cos(rows * (1.3 + 0.4 * k)) for k in range(4)])
    spectra = 0.3 + 0.2 * np.stack([np.sin(np.linspace(5.0, 11.0, BANDS) / (1.0 + 0.4 * k)) for k in range(4)])
    truth = 0.4 + 0.15 * np.tensordot(spectra.T, fields, axes=1)
    hsi = truth.reshape(BANDS, SIDE, RATIO, SIDE, RATIO).mean(axis=(2, 4))
    hsi = (hsi + 0.003 * rng.standard_normal(hsi.shape)).astype(np.float32)
    msi = (truth[[4, 10, 16, 24]] + 0.003 * rng.standard_normal((4, *truth.shape[1:]))).astype(np.float32)
    change = np.zeros((2, *msi.shape[1:]), np.float32)
    change[:, *CHANGED] = np.array([0.75, 0.25], np.float32)[:, None, None]
    bands = BandTable.make(np.linspace(450.0, 1000.0, BANDS))
    return replace(array_scene(hsi, msi, bands, None, RATIO, Psf(1.0)), change=SpilledImages(change))


def _gate() -> Gate:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        gate = Gate(GateConfig(change=True))
        assert gate.change is not None
        torch.nn.init.normal_(gate.change.leave.weight, std=0.5)
    return gate.eval()


def _fused(scene: FusionScene, tile: int | None = None) -> np.ndarray:
    return pipeline.fuse_to_array(GateMethod(_gate(), validate=False), scene, _resources(), tile=tile)


def _resources() -> Resources:
    return resolved(None)


def test_the_change_lies_behind_the_guide() -> None:
    scene = _scene()
    method = GateMethod(_gate(), validate=False)
    pipeline.fit(method.fit, scene, pipeline.scene_context(scene, "cpu", 0))
    told, aware = tell_change(scene, method)
    assert aware is not method
    block = told.msi_block
    read = told.msi.read(block)
    assert read.shape[0] == len(told.msi.band_names) == 6
    assert np.array_equal(read[:4], scene.msi.read(block))
    assert (read[4][CHANGED] == 0.75).all()
    assert (read[5][CHANGED] == 0.25).all()
    assert float(read[4].sum()) == 0.75 * read[4][CHANGED].size
    assert np.array_equal(told.msi.read(block, [5, 0]), read[[5, 0]])


def test_methods_without_a_use_for_it_are_not_told() -> None:
    scene = _scene()
    method = create_method("glp")
    assert tell_change(scene, method) == (scene, method)
    unchanged = replace(scene, change=None)
    assert tell_change(unchanged, method) == (unchanged, method)


def test_a_run_uses_it_where_it_is_in_any_tiling() -> None:
    scene = _scene()
    with_it, without = _fused(scene), _fused(replace(scene, change=None))
    differs = np.abs(with_it - without).max(axis=0)
    assert differs[CHANGED].max() > 1e-4
    assert differs.max() == differs[15:30, 21:39].max()
    assert np.allclose(_fused(scene, tile=8 * RATIO), with_it, atol=1e-4)


def test_gaps_of_a_changed_guide_do_not_spoil_what_lies_beside_them() -> None:
    def parcel(clean: NDArray[np.float32]) -> NDArray[np.float32]:
        changed = clean.copy()
        changed[:, 60:81, 60:81] = 0.8
        return changed

    pair = make_pair((40, 48), change=parcel)
    msi = pair.msi.copy()
    msi[:, 30:48, 30:60] = np.nan
    beside = np.zeros(msi.shape[1:], bool)
    beside[28:50, 28:62] = True
    beside &= np.isfinite(msi[0])

    def error(method: str) -> float:
        cube = hsfuse.fuse(
            pair.hsi, msi, ratio=RATIO, method=method, wavelengths_nm=pair.centre_nm, srf=pair.srf,
            resources=Resources(threads=1),
        )  # fmt: skip
        return float(np.sqrt(((cube - pair.truth)[:, beside] ** 2).mean()))

    assert error("ssrfn-lite") < 1.5 * error("glp")
