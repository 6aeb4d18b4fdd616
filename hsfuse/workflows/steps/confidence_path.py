"""The place of a cube's confidence layer: checked before any work, and what lies there of an older cube."""

from __future__ import annotations

from pathlib import Path

import rasterio

from hsfuse.workflows.steps.companion import check_companion
from hsfuse.writers import WriteOptions
from hsfuse.writers.confidence_layer import confidence_path

SOFTWARE = "hsfuse confidence layer"
"""Begins the item of a layer's file that says what made it."""


def check_confidence_path(output: Path, options: WriteOptions) -> None:
    """Check the layer's place before any work; see :func:`~hsfuse.workflows.steps.companion.check_companion`."""
    path = confidence_path(output)
    check_companion("confidence layer", (path,), options, _is_layer)


def old_confidence(output: Path) -> tuple[Path, ...]:
    """Return the layer of an older cube, which goes when the cube is replaced; what is no layer of ours stays."""
    path = confidence_path(output)
    try:
        found = path.is_file()
    except OSError:
        # A name that cannot be is complained of where the output's place is checked.
        return ()
    return (path,) if found and _is_layer(path) else ()


def _is_layer(path: Path) -> bool:
    try:
        with rasterio.open(path) as dataset:
            return bool(dataset.tags().get("TIFFTAG_SOFTWARE", "").startswith(SOFTWARE)) and dataset.count == 3
    except (OSError, rasterio.errors.RasterioError):
        return False
