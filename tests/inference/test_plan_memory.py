"""What a plan foretells counts what is done before anything is fused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hsfuse.degrade import Psf
from hsfuse.fusion.create import create_method
from hsfuse.inference import budget, pipeline
from hsfuse.inference.guide_repair import bytes_to_repair
from hsfuse.inference.scene import FusionScene
from hsfuse.resources import Resources, held_bytes
from hsfuse.spectral import BandTable
from hsfuse.workflows.steps.array_scene import array_scene

SIDE, RATIO = 800, 3


def _scene(msi_bands: int, partners: int) -> FusionScene:
    """A large scene that takes no memory itself."""
    hsi = np.broadcast_to(np.float32(0.2), (6, SIDE, SIDE))
    msi = np.broadcast_to(np.float32(0.2), (msi_bands, SIDE * RATIO, SIDE * RATIO))
    bands = BandTable.make(np.linspace(450.0, 900.0, 6))
    return array_scene(hsi, msi, bands, None, RATIO, Psf(1.0), None, [msi] * partners)


def _foretold(scene: FusionScene, resources: Resources) -> int:
    spec = create_method("glp").spec
    return pipeline.plan(scene, spec, resources, earlier_bytes=bytes_to_repair(scene)).host_bytes


@pytest.mark.parametrize(("bands", "each"), [(4, 82), (10, 170)])
def test_finding_changes_and_partners_are_counted(bands: int, each: int) -> None:
    resources = Resources(device="cpu", threads=1)
    alone, joined = (_foretold(_scene(bands, partners), resources) for partners in (0, 1))
    pixels = (SIDE * RATIO) ** 2
    assert alone >= each * pixels
    assert 4 * pixels <= joined - alone <= 20 * pixels


def test_a_dry_run_foretells_as_much_as_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It plans before the libraries are loaded: a whole scene was told 1.65 GB, and took 1.83."""
    foretold = []
    for held in (300_000_000, 450_000_000):
        monkeypatch.setattr(budget, "held_bytes", lambda held=held: held)
        foretold.append(_foretold(_scene(4, 0), Resources(device="cpu", threads=1)))
    assert foretold[0] == foretold[1] > bytes_to_repair(_scene(4, 0)) + 450_000_000


def test_a_limit_below_it_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    # What the process holds already, whatever ran before, is part of the limit.
    limit = held_bytes() + 850_000_000
    _foretold(_scene(10, 1), replace(Resources(device="cpu", threads=1), memory=limit))
    assert f"more than the {limit / 1e9:.1f} GB that may be used" in caplog.text


def test_further_threads_are_counted() -> None:
    """Every thread works on a block of its own."""
    scene = _scene(4, 0)
    assert bytes_to_repair(scene, 8) - bytes_to_repair(scene, 2) > 6 * 80_000_000
