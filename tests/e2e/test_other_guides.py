"""Sentinel-2 from other sources gives the cube that the product gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import rasterio
from typer.testing import CliRunner

import hsfuse
from hsfuse.cli.app import app
from hsfuse.readers import open_msi
from hsfuse.simulate.products import simulate_pair

SETTINGS = {
    "method": "gsa",
    "quality": "plain",
    "bands": "12",
    "coregister": "global",
    "cloud_mask": False,
    "report": False,
}


def test_bands_of_the_copernicus_browser(tmp_path: Path) -> None:
    # Without clouds, of which single bands tell nothing.
    pair = simulate_pair(tmp_path, size_px=(90, 90), seed=5, shift_m=(118.0, -76.0), s2_bands="10m", pan=False)
    folder = tmp_path / "browser"
    folder.mkdir()
    with open_msi(pair.sentinel2) as product:
        cube = np.nan_to_num(product.read(product.grid.full))
        for band, values in zip(product.band_names, cube, strict=True):
            name = f"2024-06-23-00:00_2024-06-23-23:59_Sentinel-2_L2A_{band}_(Raw).tiff"
            with rasterio.open(
                folder / name, "w", driver="GTiff", height=values.shape[0], width=values.shape[1], count=1,
                dtype="float32", crs=product.grid.crs, transform=product.grid.transform,
            ) as out:  # fmt: skip
                out.write(values, 1)
    told = CliRunner().invoke(app, ["info", str(folder), "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["sensor"] == "Sentinel-2"
    cubes = []
    for name, guide in (("safe", pair.sentinel2), ("browser", folder)):
        result = hsfuse.fuse_scene(pair.hsi, guide, tmp_path / f"{name}.tif", **SETTINGS)
        assert result.summary["grid"]["pixel_m"] == 10
        with rasterio.open(tmp_path / f"{name}.tif") as file:
            cubes.append(file.read().astype(int))
    # The product also says where water is, which is left out of matching: shifts differ by centimetres.
    assert np.abs(cubes[0] - cubes[1]).max() <= 20
    assert np.abs(cubes[0] - cubes[1]).mean() < 1
