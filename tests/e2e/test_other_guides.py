"""Sentinel-2 from other sources gives the cube that the product gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import rasterio
from typer.testing import CliRunner

import hsfuse
from hsfuse.cli.app import app
from hsfuse.grid import Grid
from hsfuse.readers import open_msi
from hsfuse.sensors.landsat import oli_response
from hsfuse.simulate.products import simulate_pair
from hsfuse.spectral import srf_weights
from hsfuse.testing import small_scene

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


def test_a_landsat_scene_guides_a_cube_of_60_m(tmp_path: Path) -> None:
    scene = small_scene(3, (20, 22), ratio=2)
    corner = scene.grid.transform
    fine, coarse = (
        Grid.from_origin(scene.grid.crs, corner.c, corner.f, pixel_m, *cube.shape[1:])
        for pixel_m, cube in ((30.0, scene.truth), (60.0, scene.hsi))
    )
    folder = tmp_path / "landsat"
    folder.mkdir()
    for name in ("B2", "B3", "B4", "B5"):
        band = np.tensordot(srf_weights(scene.bands, [oli_response(name)]), scene.truth, axes=1)
        with rasterio.open(
            folder / f"LC09_L2SP_193028_20240623_20240701_02_T1_SR_{name}.TIF", "w", driver="GTiff", height=fine.height,
            width=fine.width, count=1, dtype="uint16", nodata=0, crs=fine.crs, transform=fine.transform,
        ) as out:  # fmt: skip
            out.write(np.rint((band + 0.2) / 2.75e-5).astype(np.uint16))
    with rasterio.open(
        tmp_path / "hsi.tif", "w", driver="GTiff", height=coarse.height, width=coarse.width, count=len(scene.hsi),
        dtype="float32", crs=coarse.crs, transform=coarse.transform,
    ) as out:  # fmt: skip
        out.write(scene.hsi)
        for index, (centre, width) in enumerate(zip(scene.bands.centre_nm, scene.bands.fwhm_nm, strict=True), start=1):
            out.update_tags(index, wavelength=f"{centre:.6g}", wavelength_units="Nanometers", fwhm=f"{width:.6g}")
    settings = {**SETTINGS, "bands": "all", "coregister": "off", "dtype": "float32"}
    error = {}
    for method in ("bicubic", "gsa"):
        target = tmp_path / f"{method}.tif"
        result = hsfuse.fuse_scene(tmp_path / "hsi.tif", folder, target, **{**settings, "method": method})
        assert result.summary["grid"]["pixel_m"] == 30
        with rasterio.open(target) as file:
            assert file.transform == fine.transform
            inside = np.s_[:, 4:-4, 4:-4]
            error[method] = float(np.sqrt(np.nanmean((file.read() - scene.truth)[inside] ** 2)))
    assert error["gsa"] < 0.6 * error["bicubic"], error
