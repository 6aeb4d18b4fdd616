"""A run that is cut off at a named moment, in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
from rasterio.crs import CRS

from hsfuse.grid import Grid
from hsfuse.spectral import BandTable
from hsfuse.writers import CubeWriter, WriteOptions, cube_writer, journal, publish

MOMENTS = (
    "rows stored", "rows counted", "product built", "publication marked", "old cube removed", "stale files removed",
    "moved companion", "moved cube", "journal removed",
)  # fmt: skip
GRID = Grid.from_origin(CRS.from_epsg(32632), 500000.0, 5000000.0, 10.0, 60, 48)
BANDS = BandTable.make(np.linspace(450, 2200, 5), np.full(5, 10.0))
_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(
    ["rasterio", "hsfuse.writers.cog.layout", "hsfuse.writers.geotiff.tiff", "hsfuse.writers.envi.raw"]
)


def cube(seed: int) -> np.ndarray:
    data = np.random.default_rng(seed).uniform(0, 0.5, (5, 60, 48)).astype(np.float32)
    data[:, :7] = np.nan
    return data


def write(path: str, file_format: str, seed: int, moment: str, overwrite: bool, resume: bool) -> None:
    """Write a cube in strips; die when a moment is reached."""

    def die(reached: str) -> None:
        if reached == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    for module in (journal, publish, cube_writer):
        module.reached = die  # type: ignore[attr-defined]
    options = WriteOptions(format=file_format, overwrite=overwrite, resume=resume)
    with CubeWriter(
        Path(path), GRID, BANDS, options, identity=f"run {seed}", provenance={"seed": seed}, threads=1
    ) as writer:
        for row0 in range(writer.rows_done, 60, 25):
            writer.write_rows(row0, cube(seed)[:, row0 : row0 + 25])
        writer.finish()


def run(path: Path, file_format: str, seed: int, moment: str = "", **options: bool) -> int:
    """Exit code of such a run; -9 when it was killed."""
    flags = {"overwrite": False, "resume": False} | options
    process = _server.Process(target=write, args=(str(path), file_format, seed, moment), kwargs=flags)
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        item.relative_to(folder).as_posix(): item.read_bytes() for item in sorted(folder.rglob("*")) if item.is_file()
    }
