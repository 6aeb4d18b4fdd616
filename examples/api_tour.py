"""The Python interface in one page: fuse products, then fuse plain arrays.

Usage: python api_tour.py PRISMA.he5 S2.SAFE OUT.tif
"""

from __future__ import annotations

import sys

import numpy as np
import rasterio

import hsfuse
from hsfuse.errors import HsfuseError


def fuse_products(prisma: str, sentinel2: str, output: str) -> None:
    """Do what `hsfuse run` does, and look at the result."""
    try:
        result = hsfuse.fuse_scene(prisma, sentinel2, output, method="glp", bands="60", overwrite=True)
    except HsfuseError as error:
        sys.exit(f"{error.message} {error.hint}")
    print("made by", result.method, "-", result.method_reason)
    print("alignment:", result.summary["coregistration"]["verdict"])
    with rasterio.open(output) as cube:
        first = cube.read(1, masked=True)
        print(cube.count, "bands of", cube.shape, "pixels;", cube.descriptions[0], "mean", float(first.mean()))


def fuse_arrays() -> None:
    """Fuse aligned arrays: no files, no georeference."""
    rng = np.random.default_rng(0)
    hsi = rng.random((40, 24, 24), dtype=np.float32)
    msi = rng.random((4, 72, 72), dtype=np.float32)
    wavelengths_nm = np.linspace(450, 2300, 40)
    cube = hsfuse.fuse(hsi, msi, ratio=3, method="glp", wavelengths_nm=wavelengths_nm)
    print("fused array:", cube.shape, cube.dtype)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    fuse_products(*sys.argv[1:])
    fuse_arrays()
