"""Rasters that are refused by the command line: why, with which exit code, and a hint that works."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from rasterio.warp import calculate_default_transform
from typer.testing import CliRunner, Result

from hsfuse.cli.app import app
from hsfuse.testing import small_scene

runner = CliRunner()


def write(path: Path, size: tuple[int, int], crs: str, transform: rasterio.Affine) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=size[0], width=size[1], count=12, dtype="float32", crs=crs,
        transform=transform,
    ) as out:  # fmt: skip
        out.write(np.random.default_rng(0).uniform(0.1, 0.4, (12, *size)).astype(np.float32))
        for band in range(12):
            out.update_tags(band + 1, wavelength=str(440 + 40 * band), wavelength_units="nm", fwhm="12")
    return path


@pytest.mark.parametrize("size", [(5, 5), (1, 40), (40, 1)])
@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_scenes_of_a_few_pixels(tmp_path: Path, size: tuple[int, int], flags: list[str]) -> None:
    hsi = write(tmp_path / "h.tif", size, "EPSG:32633", from_origin(5e5, 5e6, 30, 30))
    msi = small_scene(0, (20, 20)).write_msi(tmp_path / "m.tif")
    done = runner.invoke(app, ["run", str(hsi), str(msi), "-o", str(tmp_path / "o.tif"), "--no-progress", *flags])
    assert done.exit_code == 4, done.output
    assert f"has only {size[0]} x {size[1]} pixels" in " ".join(done.output.split())
    assert not (tmp_path / "o.tif").exists()


def test_the_hint_for_a_guide_in_degrees_works(tmp_path: Path) -> None:
    hsi = write(tmp_path / "h.tif", (20, 20), "EPSG:32633", from_origin(500_300, 4_999_700, 30, 30))
    msi = write(tmp_path / "m.tif", (150, 150), "EPSG:4326", from_origin(15.0, 45.153, 0.000127, 0.00009))

    def plan(guide: Path) -> Result:
        more = ["--no-progress", "--coregister", "off", "--method", "glp", "--bands", "all", "--dry-run"]
        return runner.invoke(app, ["run", str(hsi), str(guide), "-o", str(tmp_path / "o.tif"), *more])

    done = plan(msi)
    assert done.exit_code == 3, done.output
    hint = re.search(r"gdalwarp -t_srs (\S+) -tr (\S+) (\S+)", " ".join(done.output.split()))
    assert hint is not None, done.output
    crs, size = hint[1], (float(hint[2]), float(hint[3]))
    with rasterio.open(msi) as source:
        transform, width, height = calculate_default_transform(
            source.crs, crs, source.width, source.height, *source.bounds, resolution=size
        )
    again = plan(write(tmp_path / "w.tif", (height, width), crs, transform))
    assert again.exit_code == 0, again.output
