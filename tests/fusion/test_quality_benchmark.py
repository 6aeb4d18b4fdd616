"""The quality benchmark runs, and on measured scenes the classics reach what they are known for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from hsfuse.simulate.wald import CONDITIONS, Condition, reduce_scene
from hsfuse.workflows.steps.method_specification import classics, parse_specification

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflows"))
from network_weights import write_tiny

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def quality(benchmark_module: Callable[[str], ModuleType]) -> ModuleType:
    threads = torch.get_num_threads()
    module = benchmark_module("quality")
    torch.set_num_threads(threads)
    return module


def test_user_supplied_cubes_give_tables_and_scores(quality, tmp_path, capsys):
    rng = np.random.default_rng(0)
    centre = np.linspace(400, 2450, 60)
    fields = rng.random((3, 8, 9)).repeat(6, axis=1).repeat(6, axis=2)
    spectra = 0.2 + 0.3 * rng.random((3, 1)) * np.abs(np.sin(centre / 300 + rng.random((3, 1)) * 6))
    cube = np.tensordot(spectra.T, fields, 1).astype(np.float32)
    np.savez(tmp_path / "field-1.npz", cube=cube, wavelength_nm=centre)
    np.savez(tmp_path / "pavia_part.npz", cube=(cube * 1000).astype(np.int16), wavelength_nm=centre)
    files = [str(tmp_path / name) for name in ("field-1.npz", "pavia_part.npz", "t.md", "t.json")]
    methods = ["--methods", "bicubic", "gsa:ridge=1e-3", "glp+srf_weight=0.3", "--ratios", "2", "--settings", "field"]
    quality.main(["--data", str(tmp_path), "--cubes", *files[:2], *methods, "--out", files[2], "--json", files[3]])
    capsys.readouterr()
    table = (tmp_path / "t.md").read_text()
    for text in (
        "Ratio 2, field",
        "| bicubic |",
        "| gsa:ridge=1e-3 |",
        "field-1",
        "PSNR",
        "SAM",
        "ERGAS",
        "CC",
        "RMSE",
    ):
        assert text in table
    assert "authors of SSRFN report for Pavia Centre" in table
    records = json.loads((tmp_path / "t.json").read_text())["records"]
    assert len(records) == 6
    assert all(record["classic"] and record["PSNR"] > 10 for record in records)


def test_a_matlab_cube_of_a_known_scene_is_read(quality, tmp_path):
    from scipy.io import savemat

    savemat(tmp_path / "Chikusei_crop.mat", {"chikusei": np.random.default_rng(0).random((40, 30, 16))})
    cube, bands = quality.read_cube(tmp_path / "Chikusei_crop.mat", largest=24)
    assert cube.shape == (16, 24, 24)
    assert bands.centre_nm[[0, -1]] == pytest.approx([363, 1018])


def test_networks_are_compared_with_the_best_classic_of_each_scene(quality):
    from quality_tables import markdown

    def record(scene, method, psnr, sam, classic=True, seen=False):
        rest = dict.fromkeys(("ERGAS", "CC", "RMSE", "PSNR_global", "SSIM", "Q2n", "seconds"), 1.0)
        return {"ratio": 3, "setting": "field", "scene": scene, "method": method, "classic": classic, "seen": seen,
                "PSNR": psnr, "SAM": sam, **rest}  # fmt: skip

    records = [
        record("a", "gsa", 30.0, 2.0), record("a", "cnmf", 31.0, 1.0), record("a", "glp", 34.0, 0.9),
        record("a", "net", 35.0, 0.8, False),
        record("b", "gsa", 33.0, 2.0), record("b", "cnmf", 31.0, 3.0), record("b", "glp", 36.0, 1.8),
        record("b", "net", 32.9, 2.0, False),
        record("c", "gsa", 30.0, 2.0), record("c", "glp", 30.0, 2.0), record("c", "net", 50.0, 0.1, False, True),
    ]  # fmt: skip
    table = markdown(records, {"date": "today"})
    textbook, adaptive = table.split("Gain over the adaptive GLP")
    assert "| 3 | field | net | 2 | +1.95 | -0.10 (b) | 0.90 | 1.00 |" in textbook
    assert "| 3 | field | net | 2 | -1.05 | -3.10 (b) | 1.00 | 1.11 |" in adaptive
    assert "50.00**†" in table
    assert "does not count" in table


def test_networks_are_scored_on_scenes_they_were_not_trained_on(quality, tmp_path, capsys):
    """Seen scenes are passed over or marked; folds pick their weights; adapted networks stand beside."""
    from hsfuse.workflows.training.training_data import nominal_bands

    bands = nominal_bands(40)
    rng = np.random.default_rng(0)
    for name in ("aviris_urban-1", "aviris_urban-2", "enmap_x"):
        fields = rng.random((3, 9, 9)).repeat(10, axis=1).repeat(10, axis=2)
        spectra = 0.2 + 0.3 * rng.random((3, 1)) * np.abs(np.sin(bands.centre_nm / 300 + rng.random((3, 1)) * 6))
        cube = np.tensordot(spectra.T, fields, 1) + 0.005 * rng.standard_normal((40, 90, 90))
        np.savez(tmp_path / f"{name}.npz", cube=cube.astype(np.float32), wavelength_nm=bands.centre_nm)
    for fold in ("aviris", "enmap"):
        write_tiny(tmp_path / f"not_{fold}.safetensors", noise=0.02)
    cubes = [str(path) for path in sorted(tmp_path.glob("*.npz"))]
    base = ["--data", str(tmp_path), "--cube", *cubes, "--ratio", "3", "--settings", "35dB", "--json"]
    one = [*base, str(tmp_path / "1.json"), "--methods", "glp", "bicubic", "ssrnet-lite"]
    quality.main([*one, "--weights", f"ssrnet-lite={tmp_path}/not_enmap.safetensors"])
    printed = capsys.readouterr().out
    assert "urban-1        ssrnet-lite          left out: was trained on it" in printed
    records = json.loads((tmp_path / "1.json").read_text())["records"]
    own = [r for r in records if r["method"] == "ssrnet-lite"]
    assert {r["scene"] for r in own} == {"urban-2", "enmap_x"}
    assert all(r["validation"]["windows"] for r in own)
    assert "Gain over the best textbook classic" in printed
    assert "Gain over the adaptive GLP" in printed
    quality.main(
        [*one, "--weights", f"ssrnet-lite={tmp_path}/not_enmap.safetensors", "--allow-seen", "--scenes", "urban"]
    )
    assert "†" in capsys.readouterr().out
    folds = [*base, str(tmp_path / "2.json"), "--methods", "glp", "ssrnet-lite", "--scenes", "urban-2", "enmap",
             "--weights", f"ssrnet-lite={tmp_path}/not_{{fold}}.safetensors", "--fold-by", "sensor"]  # fmt: skip
    quality.main([*folds, "--adapt-steps", "1"])
    records = json.loads((tmp_path / "2.json").read_text())["records"]
    adapted = [r for r in records if r["method"] == "ssrnet-lite, adapted"]
    assert {r["scene"] for r in adapted} == {"urban-2", "enmap_x"}
    assert all(r["adaptation"]["steps"] == 1 and r["adapt_seconds"] > 0 for r in adapted)


def test_bad_wishes_of_the_benchmark(quality, tmp_path, capsys):
    np.savez(tmp_path / "a.npz", cube=np.ones((60, 24, 24)), wavelength_nm=np.linspace(400, 2450, 60))
    base = ["--cube", str(tmp_path / "a.npz"), "--data", str(tmp_path), "--ratio", "2"]
    for flags, text in (
        (["--methods", "magic"], "no fusion method"),
        (["--methods", "glp", "--weights", "ssrfn=x"], "does not name"),
        (["--weights", "x"], "NAME=FILE"),
        (["--methods", "ssrfn@nowhere.safetensors"], "no weights file"),
    ):
        with pytest.raises(SystemExit, match=text):
            quality.main([*base, *flags])
    capsys.readouterr()


def test_equal_seeds_give_equal_pairs_and_the_hsi_moves_by_the_shift(quality):
    rng = np.random.default_rng(0)
    ramp = np.broadcast_to(np.arange(60.0)[:, None] + np.zeros(60), (2, 60, 60)).astype(np.float32)
    msi = ramp[:1] + rng.random((1, 60, 60)).astype(np.float32)
    first, second = (reduce_scene(ramp, msi, 3, CONDITIONS["field"], name="s") for _ in range(2))
    np.testing.assert_array_equal(first.hsi, second.hsi)
    np.testing.assert_array_equal(first.msi, second.msi)
    moved = reduce_scene(ramp, msi, 3, Condition(shift_px=0.2)).hsi - reduce_scene(ramp, msi, 3, Condition()).hsi
    assert 0 < abs(moved[0, 10, 10]) <= 0.2 * 3 + 1e-3


@pytest.mark.shared_data
def test_classics_on_measured_scenes(quality, shared_data):
    """Levels of the published classics with all four bands, and the adaptive form above all of them."""
    args = quality.parse(["--data", str(shared_data), "--scenes", "urban-2", "beach-2", "potsdam"])
    for scene in quality.load_scenes(args):
        for setting, lowest, gain in (("noise-free", 40.0, 0.5), ("35dB", 36.0, 1.0), ("field", 30.5, 3.0)):
            pair = reduce_scene(scene.cube, scene.msi, 3, CONDITIONS[setting], name=scene.name)
            psnr = {
                m: quality.run(parse_specification(m), scene, pair, 3, "cpu")["PSNR"] for m in classics() if m != "cnmf"
            }
            assert psnr["glp:adaptive=false"] > lowest
            assert psnr["glp:adaptive=false"] > psnr["bicubic"] + 6
            assert psnr["gsa"] > psnr["bicubic"] + 7
            assert psnr["glp"] > psnr["glp:adaptive=false"] + gain
