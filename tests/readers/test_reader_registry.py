"""Readers are found through entry points: the package's own, and those of other distributions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import foreign_reader
import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from hsfuse.errors import InputError
from hsfuse.readers import open_product
from hsfuse.readers.choose import check_exists, choose_reader, likely_role
from hsfuse.readers.entry import READERS

ROOT = Path(__file__).parents[2]


def _write_tif(path: Path, cube: np.ndarray, pixel_m: float, wavelength_nm: list[float], fwhm_nm: float) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=cube.shape[1], width=cube.shape[2], count=len(cube), dtype="float32",
        crs="EPSG:32633", transform=Affine(pixel_m, 0, 500000, 0, -pixel_m, 5000000),
    ) as out:  # fmt: skip
        out.write(cube.astype(np.float32))
        for band, nm in enumerate(wavelength_nm, start=1):
            out.update_tags(band, wavelength=nm, wavelength_units="Nanometers", fwhm=fwhm_nm)
    return path


def test_the_packages_own_readers_are_entry_points() -> None:
    assert {"prisma", "sentinel2", "raster"} <= set(READERS.names())
    for name, entry in READERS.entries():
        assert entry.name == name
        assert entry.summary
        assert entry.roles <= {"hsi", "msi", "pan"}


def test_finding_readers_imports_no_heavy_library() -> None:
    code = "from hsfuse.readers.entry import READERS; import sys; list(READERS.entries());"
    code += "print([m for m in ('h5py', 'torch', 'scipy', 'defusedxml') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_foreign_reader_serves_the_command_line(tmp_path: Path) -> None:
    site = foreign_reader.install(tmp_path / "site")
    rng = np.random.default_rng(1)
    fine = 0.25 + 0.1 * rng.random((72, 72)).cumsum(0).cumsum(1) / 5184
    nm = np.arange(440.0, 900.0, 20.0)
    cube = fine.reshape(24, 3, 24, 3).mean((1, 3))[None] * (nm / 700)[:, None, None]
    scene = tmp_path / "scene"
    scene.mkdir()
    np.save(scene / "cube.npy", cube.astype(np.float32))
    facts = {
        "epsg": 32633, "left": 500000, "top": 5000000, "pixel_m": 30,
        "wavelength_nm": nm.tolist(), "fwhm_nm": [12.0] * nm.size,
    }  # fmt: skip
    (scene / "scene.json").write_text(json.dumps(facts), encoding="utf-8")
    msi_nm = [492.7, 559.8, 664.6, 832.8]
    msi = _write_tif(tmp_path / "m.tif", fine[None] * (np.array(msi_nm) / 700)[:, None, None], 10, msi_nm, 40)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])}

    def hsfuse(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hsfuse", *args], capture_output=True, text=True, env=env, check=False
        )

    info = hsfuse("info", str(scene))
    assert info.returncode == 0, info.stderr
    assert "Folder camera" in info.stdout
    assert "23" in info.stdout
    options = [
        "--method",
        "glp",
        "--quality",
        "plain",
        "--bands",
        "all",
        "--coregister",
        "off",
        "--no-report",
        "--no-progress",
    ]
    run = hsfuse("run", str(scene), str(msi), "-o", str(tmp_path / "o.tif"), *options)
    assert run.returncode == 0, run.stderr
    # What is wrong with another package is said, and keeps nobody else from their files.
    assert "'broken' failed to look at" in run.stderr
    assert "'gone' of folder-cube cannot be loaded" in run.stderr
    assert "'prisma' of folder-cube is passed over: the name is taken" in run.stderr
    with rasterio.open(tmp_path / "o.tif") as out:
        assert out.count == nm.size
        assert out.transform.a == 10
    wrong = hsfuse("run", str(msi), str(scene), "-o", str(tmp_path / "w.tif"), *options)
    assert wrong.returncode == 3
    assert "this is no multispectral image but a folder cube" in wrong.stderr


def test_the_role_of_a_raster_follows_its_wavelengths(tmp_path: Path) -> None:
    cube = np.full((5, 8, 8), 0.2)
    named = _write_tif(tmp_path / "named.tif", cube, 30, [500, 550, 600, 650, 700], 10)
    plain = _write_tif(tmp_path / "plain.tif", cube, 30, [], 10)
    assert (likely_role(named), likely_role(plain)) == ("hsi", "msi")
    with open_product(named) as product:
        assert len(product.bands) == 5
    with open_product(plain) as product:
        assert len(product.band_names) == 5
    assert choose_reader(plain, "hsi").name == "raster"


def test_pipes_devices_and_loops_are_no_products(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for path, words in (
        (tmp_path / "pipe", "neither a file nor a folder"),
        (Path("/dev/zero"), "neither a file nor a folder"),
        (tmp_path / "a", "no such file"),
        (Path("x\0y"), "no such file|cannot be followed"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            check_exists(path)
        assert caught.value.exit_code == 3
