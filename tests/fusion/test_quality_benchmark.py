"""The quality benchmark runs, and on measured scenes the classics reach what they are known for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

torch.set_num_threads(1)
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def quality() -> ModuleType:
    threads = torch.get_num_threads()
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import quality as module
    finally:
        sys.path.remove(str(BENCHMARKS))
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

    def record(scene, method, psnr, sam, classic):
        rest = dict.fromkeys(("ERGAS", "CC", "RMSE", "PSNR_global", "SSIM", "Q2n", "seconds"), 1.0)
        return {"ratio": 3, "setting": "field", "scene": scene, "method": method, "classic": classic,
                "PSNR": psnr, "SAM": sam, **rest}  # fmt: skip

    records = [
        record("a", "gsa", 30.0, 2.0, True), record("a", "glp", 31.0, 1.0, True), record("a", "net", 35.0, 0.8, False),
        record("b", "gsa", 33.0, 2.0, True), record("b", "glp", 31.0, 3.0, True), record("b", "net", 32.9, 2.0, False),
    ]  # fmt: skip
    table = markdown(records, {"date": "today"})
    assert "| net | +1.95 | -0.10 | 0.90 |" in table


def test_equal_seeds_give_equal_pairs_and_the_hsi_moves_by_the_shift(quality):
    rng = np.random.default_rng(0)
    ramp = np.broadcast_to(np.arange(60.0)[:, None] + np.zeros(60), (2, 60, 60)).astype(np.float32)
    from hsfuse.spectral import BandTable

    bands = BandTable.make([500.0, 600.0])
    scene = quality.ReferenceScene("s", ramp, ramp[:1] + rng.random((1, 60, 60)).astype(np.float32), bands, np.eye(2))
    field = quality.SETTINGS["field"]
    first, second = (quality.degrade(scene, 3, field) for _ in range(2))
    np.testing.assert_array_equal(first.hsi, second.hsi)
    np.testing.assert_array_equal(first.msi, second.msi)
    moved = (
        quality.degrade(scene, 3, quality.Setting(shift_px=0.2)).hsi - quality.degrade(scene, 3, quality.Setting()).hsi
    )
    assert 0 < abs(moved[0, 10, 10]) <= 0.2 * 3 + 1e-3


@pytest.mark.shared_data
def test_classics_on_measured_scenes(quality, shared_data):
    """Levels of the published classics with all four bands, and the adaptive form above all of them."""
    args = quality.parse(["--data", str(shared_data), "--scenes", "urban-2", "beach-2", "potsdam"])
    for scene in quality.load_scenes(args):
        for setting, lowest, gain in (("noise-free", 40.0, 0.5), ("35dB", 36.0, 1.0), ("field", 30.5, 3.0)):
            pair = quality.degrade(scene, 3, quality.SETTINGS[setting])
            psnr = {m: quality.run(m, scene, pair, 3, "cpu")["PSNR"] for m in quality.CLASSICS if m != "cnmf"}
            assert psnr["glp:adaptive=false"] > lowest
            assert psnr["glp:adaptive=false"] > psnr["bicubic"] + 6
            assert psnr["gsa"] > psnr["bicubic"] + 7
            assert psnr["glp"] > psnr["glp:adaptive=false"] + gain
