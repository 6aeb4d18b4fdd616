"""A reader of another distribution, as a test installs it: a folder with ``cube.npy`` and ``scene.json``."""

from __future__ import annotations

from pathlib import Path

MODULE = '''
"""Cubes in folders: cube.npy (band, row, col) and scene.json."""
import json
from pathlib import Path
import numpy as np
from rasterio.crs import CRS
from hsfuse.errors import InputError
from hsfuse.grid import Grid
from hsfuse.readers import HyperspectralProduct, ProductInfo, ReaderEntry
from hsfuse.spectral import BandTable


class FolderCube(HyperspectralProduct):
    def __init__(self, path, options):
        scene = json.loads((path / "scene.json").read_text())
        try:
            self._cube = np.load(path / "cube.npy", mmap_mode="r")
        except OSError as error:
            raise InputError(f"{path}: cube.npy cannot be read ({error}).") from error
        rows, cols = self._cube.shape[1:]
        crs = CRS.from_epsg(scene["epsg"])
        self._grid = Grid.from_origin(crs, scene["left"], scene["top"], scene["pixel_m"], rows, cols)
        self._bands = BandTable.make(scene["wavelength_nm"], scene["fwhm_nm"])
        self._info = ProductInfo(path.name, "Folder camera", "", path)

    @property
    def info(self):
        return self._info

    @property
    def grid(self):
        return self._grid

    @property
    def bands(self):
        return self._bands

    def read(self, block, bands=None):
        part = self._cube[(slice(None), *block.slices)]
        return np.array(part if bands is None else part[np.asarray(bands)], np.float32)

    def valid(self, block):
        return np.isfinite(self.read(block)).any(axis=0)

    def error_codes(self, block, bands=None):
        return None

    def close(self):
        pass


def probe(path):
    return float(path.is_dir() and (path / "scene.json").is_file())


READER = ReaderEntry("folder-cube", "folder cube", frozenset({"hsi"}), probe, FolderCube)


def broken_probe(path):
    raise RuntimeError("no camera attached")


BROKEN = ReaderEntry("broken", "broken reader", frozenset({"msi"}), broken_probe, FolderCube)
'''


def install(site: Path) -> Path:
    """Lay out an installed distribution in a folder that goes on the module search path."""
    site.mkdir(parents=True)
    (site / "folder_cube.py").write_text(MODULE, encoding="utf-8")
    info = site / "folder_cube-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: folder-cube\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(
        "[hsfuse.readers]\nfolder-cube = folder_cube:READER\nbroken = folder_cube:BROKEN\n"
        "prisma = folder_cube:READER\ngone = folder_cube_missing:READER\n",
        encoding="utf-8",
    )
    return site
