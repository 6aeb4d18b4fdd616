"""Small Sentinel-2 products for the reader tests."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.crs import CRS
from rasterio.transform import from_origin

from hsfuse.grid import Grid
from hsfuse.sensors.sentinel2 import BANDS_10M, RESOLUTION_M
from hsfuse.simulate.sentinel2 import write_safe

ZONE_32 = CRS.from_epsg(32632)
GRID = Grid.from_origin(ZONE_32, 600_000, 5_000_040, 10, 96, 132)


def reflectance(grid: Grid = GRID, bands: tuple[str, ...] = BANDS_10M, seed: int = 0) -> dict[str, Any]:
    """Random reflectance in whole DN, so that a written product gives it back exactly."""
    rng = np.random.default_rng(seed)
    cubes = {}
    for band in bands:
        ratio = RESOLUTION_M[band] // 10
        shape = (-(-grid.height // ratio), -(-grid.width // ratio))
        cubes[band] = rng.integers(-300, 6000, shape) / 10_000
    return cubes


def classes(grid: Grid = GRID, seed: int = 1) -> Any:
    """Random scene classes at 20 m."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 12, (-(-grid.height // 2), -(-grid.width // 2))).astype(np.uint8)


def make_safe(folder: Path, **changes: Any) -> Path:
    """Write a small L2A product; ``changes`` go to the writer."""
    grid = changes.setdefault("grid", GRID)
    settings: dict[str, Any] = {"reflectance": reflectance(grid), "scl": classes(grid)} | changes
    return write_safe(folder, **settings)


def zip_product(product: Path, target: Path, compression: int) -> Path:
    """Pack a product as the archives do, with the .SAFE folder inside."""
    with zipfile.ZipFile(target, "w", compression) as archive:
        for path in sorted(product.rglob("*")):
            archive.write(path, path.relative_to(product.parent))
    return target


def edit_xml(product: Path, old: str, new: str, *, tile: bool = False, count: int = -1) -> None:
    """Replace text in the product's or the tile's metadata."""
    path = next(product.glob("GRANULE/*/MTD_TL.xml" if tile else "MTD_MSI*.xml"))
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, count), encoding="utf-8")


def write_jp2(path: Path, dn: Any, grid: Grid | None) -> None:
    """Write one lossless JPEG 2000 file; without a grid it carries no georeference.

    The product's manifest, whose checksum it would contradict, is taken away.
    """
    for parent in path.parents:
        (parent / "manifest.safe").unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".stage.tif")
    place = {} if grid is None else {"crs": grid.crs, "transform": from_origin(*_corner(grid), *[grid.pixel_m] * 2)}
    with rasterio.open(
        staged, "w", driver="GTiff", height=dn.shape[0], width=dn.shape[1], count=1, dtype=dn.dtype, **place
    ) as out:
        out.write(dn, 1)
    with rasterio.Env(GDAL_PAM_ENABLED="NO"):
        rasterio.shutil.copy(staged, path, driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES", YCBCR420="NO")
    staged.unlink()


def _corner(grid: Grid) -> tuple[float, float]:
    return grid.bounds.left, grid.bounds.top


def copy_writable(source: Path, target: Path) -> Path:
    """Copy a (read-only) folder so that files can be put into it."""
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return target
