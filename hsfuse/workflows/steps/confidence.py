"""The confidence layer beside a cube: change, expected error and source of every fine pixel, for a GIS.

Three bands of unsigned 16-bit numbers with scales that a GIS applies by itself: the probability that the multispectral
image shows other ground than the hyperspectral one, the expected error relative to the pixel's brightness, and where a
pixel comes from (``SOURCES``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.shutil import copy as copy_raster

from hsfuse._version import __version__
from hsfuse.errors import OutputError
from hsfuse.grid import Slice2D
from hsfuse.inference.guide_repair import SceneRepair
from hsfuse.outputs import part_name
from hsfuse.qa.coregistration import diagnose
from hsfuse.workflows.steps.confidence_path import SOFTWARE
from hsfuse.workflows.steps.prepare import PreparedScene
from hsfuse.writers.confidence_layer import LAYERS, SOURCES

NODATA = 65535
CHANGE_STEP, ERROR_STEP = 1e-4, 1e-4
_TILE_PX, _ROWS = 256, 256


def write_confidence(
    path: Path, prepared: PreparedScene, repair: SceneRepair, threads: int = 1,
    *, begin: Callable[[], object] | None = None, publish: Callable[[], object] | None = None,
) -> Path:  # fmt: skip
    """Write the layer as a COG; it replaces an older one only when it is complete.

    Parameters
    ----------
    path
        Final file.
    prepared, repair
        The scene, and what was found about it.
    threads
        How many compress.
    begin, publish
        Called before any work, and before the layer gets its name; an error of either keeps it from being there.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    if begin is not None:
        begin()
    grid = prepared.scene.fine_grid
    layers = confidence_layers(prepared, repair)
    creation: dict[str, Any] = {
        "driver": "GTiff", "height": grid.height, "width": grid.width, "count": 3, "dtype": "uint16",
        "crs": grid.crs, "transform": grid.transform, "nodata": NODATA, "tiled": True, "blockxsize": _TILE_PX,
        "blockysize": _TILE_PX, "interleave": "band",
    }  # fmt: skip
    ready = part_name(path)
    plain = ready.with_name(ready.name + ".plain.tif")
    try:
        with rasterio.open(plain, "w", **creation) as dataset:
            dataset.write(layers)
            dataset.scales = (CHANGE_STEP, ERROR_STEP, 1.0)
            for band, name in enumerate(LAYERS, start=1):
                dataset.set_band_description(band, name)
            words = "; ".join(f"{value}: {meaning}" for value, meaning in SOURCES.items())
            dataset.update_tags(3, values=words)
            dataset.update_tags(
                error_bound_90=f"{repair.error_bound:.3f}", TIFFTAG_SOFTWARE=f"{SOFTWARE} {__version__}"
            )
        # With differences of neighbours a low level packs as well as a high one, in half the time.
        copy_raster(
            plain, ready, driver="COG", compress="DEFLATE", level="3", predictor="YES", resampling="NEAREST",
            blocksize=str(_TILE_PX), num_threads=str(threads),
        )  # fmt: skip
        if publish is not None:
            publish()
        ready.replace(path)
    except (OSError, rasterio.errors.RasterioError) as error:
        raise OutputError(f"The confidence layer {path} cannot be written: {error}.") from error
    finally:
        for leftover in (plain, ready):
            leftover.unlink(missing_ok=True)
    return path


def confidence_layers(prepared: PreparedScene, repair: SceneRepair) -> NDArray[np.uint16]:
    """Change, expected relative error and source of every fine pixel, shape (3, row, col)."""
    seen, brightness, extrapolated = repair.seen, repair.brightness, _extrapolated(prepared)
    height, width = seen.shape
    layers = np.full((3, height, width), NODATA, np.uint16)
    # Some rows at a time: what is made on the way would be as large as a run at its peak allows.
    for top in range(0, height, _ROWS):
        rows = slice(top, min(top + _ROWS, height))
        here = seen[rows]
        change, error = repair.confidence.read(Slice2D(rows.start, rows.stop, 0, width), [0, 1])
        layers[0, rows][here] = np.rint(change[here] / CHANGE_STEP).astype(np.uint16)
        relative = error[here] / np.maximum(brightness[rows][here], 1e-3)
        layers[1, rows][here] = np.minimum(np.rint(relative / ERROR_STEP), NODATA - 1).astype(np.uint16)
        source = np.where(repair.hsi_only[rows], 2, np.where(extrapolated[rows], 3, 1))
        layers[2, rows] = np.where(here, source, 0)
    return layers


def _extrapolated(prepared: PreparedScene) -> NDArray[np.bool_]:
    """Fine pixels where the displacement field is extrapolated."""
    grid = prepared.scene.fine_grid
    found = diagnose(prepared.coregistration, grid.bounds)
    if found.extrapolated_share is None:
        return np.zeros((grid.height, grid.width), bool)
    rows, cols = found.supported.shape
    row = np.minimum(np.arange(grid.height) * rows // grid.height, rows - 1)
    col = np.minimum(np.arange(grid.width) * cols // grid.width, cols - 1)
    return np.asarray(~found.supported[np.ix_(row, col)], dtype=np.bool_)
