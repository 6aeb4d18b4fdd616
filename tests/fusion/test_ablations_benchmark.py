"""The ablation script trains every variant, scores it on scenes left out, and writes a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def ablations(benchmark_module: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_module("ablations")


def test_every_variant_is_trained_and_scored(ablations, tmp_path, capsys):
    from hsfuse.simulate.training_scene import training_scene
    from hsfuse.spectral import BandTable

    bands = BandTable.make(np.linspace(420.0, 2300.0, 40))
    for number, name in enumerate(("train_a", "held_b")):
        truth = training_scene(number, (60, 48))
        np.savez(
            tmp_path / f"{name}.npz", cube=truth.reflectance(bands, truth.grid.full), wavelength_nm=bands.centre_nm
        )
    small = ["width=8", "d_state=8", "headdim=8", "dfe_blocks=1", "cfe_cycles=1", "scm_steps=1", "refine_stages=1"]
    base = ["--data", str(tmp_path), "--hold-out", "held", "--network", "literal", "--steps", "1", "--batch", "1",
            "--patch", "12", "--generated", "0", "--conditions", "field", "--device", "cpu", "--threads", "1",
            "--output", str(tmp_path / "out"), "--settings", *small]  # fmt: skip
    chosen = ["full", "no CFE, no SCM", "only CNN"]
    ablations.main([*base, "--bands", "12", "--variants", *chosen])
    printed = capsys.readouterr().out
    for name in (*chosen, "bicubic", "glp"):
        assert f"| {name} |" in printed
    assert "29.86 / 2.53" in printed
    rows = json.loads((tmp_path / "out" / "ablations.json").read_text())
    assert {r["scene"] for r in rows} == {"held_b"}
    assert len(rows) == 5
    sizes = [float(line.split("|")[2]) for line in printed.splitlines() if line.startswith(("| full", "| no CFE"))]
    assert sizes[1] < sizes[0]
    # Trained networks are kept: the second call only scores.
    before = (tmp_path / "out" / "full.safetensors").stat().st_mtime_ns
    ablations.main([*base, "--bands", "12", "--variants", "full"])
    assert (tmp_path / "out" / "full.safetensors").stat().st_mtime_ns == before
    capsys.readouterr()


def test_bad_wishes_of_the_ablations(ablations, tmp_path):
    with pytest.raises(SystemExit, match="no cubes"):
        ablations.main(["--data", str(tmp_path), "--output", str(tmp_path / "o")])
    np.savez(tmp_path / "a.npz", cube=np.ones((12, 24, 24)), wavelength_nm=np.linspace(400, 2450, 12))
    with pytest.raises(SystemExit, match="no scene to score"):
        ablations.main(["--data", str(tmp_path), "--hold-out", "b", "--output", str(tmp_path / "o")])
