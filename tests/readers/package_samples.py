"""Products of EnMAP and DESIS as the descriptions of DLR describe them, small, with every setting within reach."""

from __future__ import annotations

import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import rasterio
from rasterio.transform import Affine

from hsfuse.grid import Grid
from hsfuse.simulate import desis, enmap
from hsfuse.simulate.dlr_package import PackageLayout

ENMAP_SCENE = "ENMAP01-____L2A-DT0000001867_20220724T104526Z_008_V010302_20240628T165614Z"
COVER = {"cloud": 7, "shadow": 2, "haze": 1, "cirrus": 3, "snow": 0, "water": 12}


def write_tif(path: Path, cube: Any, grid: Grid, nodata: float | None = None, **profile: Any) -> Path:
    """Write a GeoTIFF, shape (band, row, col)."""
    with rasterio.open(
        path, "w", driver="GTiff", height=cube.shape[1], width=cube.shape[2], count=len(cube), dtype=cube.dtype,
        crs=grid.crs, transform=Affine(*grid.transform[:6]), nodata=nodata, compress="lzw", **profile,
    ) as out:  # fmt: skip
        out.write(cube)
    return path


def make_enmap(
    folder: Path, dn: Any, grid: Grid, *, level: str = "L2A", cog: bool = False, **more: Any
) -> PackageLayout:
    """Write an EnMAP product of stored numbers into a folder; ``changes`` replaces text of the metadata."""
    layout = PackageLayout(
        grid, enmap.enmap_bands(len(dn)), level, datetime(2022, 7, 24, 10, 45, 26, 123456, tzinfo=UTC),
        sun_zenith_deg=32.75, sun_azimuth_deg=154.5, view_zenith_deg=13.75, across_deg=-12.5,
        gain=more.get("gain"), offset=more.get("offset"), cover_percent=COVER,
        nodata=-32768 if level == "L2A" else 0, cog=cog,
    )  # fmt: skip
    enmap.write_enmap_numbers(folder, layout, [(0, dn)], more.get("layers", {}))
    _change(folder, more.get("changes", {}))
    return layout


def make_desis(folder: Path, dn: Any, grid: Grid, *, level: str = "L2A", **more: Any) -> PackageLayout:
    """Write a DESIS product of stored numbers into a folder; ``changes`` replaces text of the metadata."""
    layout = PackageLayout(
        grid, desis.desis_bands(len(dn)), level, datetime(2022, 4, 4, 19, 32, 59, 123000, tzinfo=UTC),
        sun_zenith_deg=36.5, sun_azimuth_deg=140.25, view_zenith_deg=4.5,
        gain=more.get("gain"), offset=more.get("offset"), cover_percent={"cloud": 11},
    )  # fmt: skip
    desis.write_desis_numbers(folder, layout, [(0, dn)], more.get("layers", {}))
    _change(folder, more.get("changes", {}))
    return layout


def _change(folder: Path, changes: dict[str, str]) -> None:
    file = next(path for path in folder.iterdir() if path.name.lower().endswith("-metadata.xml"))
    text = file.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    file.write_text(text, encoding="utf-8")


def pack(folder: Path, target: Path, compression: int, inside: str = "") -> Path:
    """Pack the files of a folder."""
    with zipfile.ZipFile(target, "w", compression) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, inside + file.name)
    return target
