"""The spectrum of one pixel: fused, PRISMA, Sentinel-2, with what is known about its error."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import UsageError
from hsfuse.grid import Slice2D, reproject_xy
from hsfuse.workflows.view.layers import Explored, Layer
from hsfuse.writers.confidence_layer import SOURCES


def spectrum(explored: Explored, row: int, col: int, layers: Sequence[str] | None = None) -> dict[str, Any]:
    """Return what layers (all when None) measured at a pixel of the cube, as plain values (None for no data).

    Raises
    ------
    UsageError
        The pixel lies outside the cube.
    """
    height, width = explored.grid.shape
    if not (0 <= row < height and 0 <= col < width):
        raise UsageError(f"Row {row}, column {col} lies outside the cube of {height} x {width} pixels.")
    x, y = (float(v) for v in explored.grid.xy(float(row), float(col)))
    longitude, latitude = (float(v[0]) for v in _degrees(explored, x, y))
    return {
        "row": row, "col": col, "x": round(x, 2), "y": round(y, 2), "longitude": round(longitude, 6),
        "latitude": round(latitude, 6), "crs": explored.grid.crs.to_string(),
        "series": [
            _series(layer, row, col) for name, layer in explored.layers.items() if layers is None or name in layers
        ],
        "confidence": _confidence(explored, row, col),
    }  # fmt: skip


def _degrees(explored: Explored, x: float, y: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from rasterio.crs import CRS

    return reproject_xy(explored.grid.crs, CRS.from_epsg(4326), np.array([x]), np.array([y]))


def _series(layer: Layer, row: int, col: int) -> dict[str, Any]:
    r, c = row // layer.ratio, col // layer.ratio
    rows, cols = layer.source.shape
    bands = list(range(len(layer.labels)))
    values = (
        layer.read(bands, Slice2D(r, r + 1, c, c + 1))[:, 0, 0]
        if r < rows and c < cols
        else np.full(len(bands), np.nan, np.float32)
    )
    return {
        "layer": layer.name, "title": layer.title, "bands": list(layer.labels), "pixel": layer.ratio,
        "nm": _plain(layer.source.centre_nm), "fwhm": _plain(layer.fwhm_nm), "reflectance": _plain(values),
    }  # fmt: skip


def _confidence(explored: Explored, row: int, col: int) -> dict[str, Any] | None:
    if explored.confidence is None:
        return None
    change, error, source = explored.confidence.read([0, 1, 2], Slice2D(row, row + 1, col, col + 1))[:, 0, 0]
    name = SOURCES.get(int(source), "") if np.isfinite(source) else SOURCES[0]
    return {"change_probability": _number(change), "relative_error": _number(error), "source": name}


def _plain(values: NDArray[Any]) -> list[float | None]:
    return [_number(value) for value in values]


def _number(value: Any) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def spectrum_csv(found: dict[str, Any], cube: str) -> str:
    """The same as a table: a line for each band of each layer."""
    out = io.StringIO()
    out.write(f"# {cube}, row {found['row']}, column {found['col']}, x {found['x']}, y {found['y']}, {found['crs']}\n")
    if found["confidence"]:
        about = ", ".join(f"{name} {value}" for name, value in found["confidence"].items())
        out.write(f"# {about}\n")
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["layer", "band", "wavelength_nm", "fwhm_nm", "reflectance"])
    for series in found["series"]:
        columns = (series["bands"], series["nm"], series["fwhm"], series["reflectance"])
        for values in zip(*columns, strict=True):
            table.writerow([series["title"], *("" if value is None else value for value in values)])
    return out.getvalue()


def vectors(explored: Explored, per_side: int = 15) -> list[dict[str, float]]:
    """The displacement field over the scene: position in pixels of the cube, displacement in metres.

    Empty where nothing tells the field.
    """
    field = explored.origin.field
    if field is None:
        return []
    height, width = explored.grid.shape
    step = max(height, width) / per_side
    rows, cols = np.meshgrid(
        np.arange(step / 2, height, step), np.arange(step / 2, width, step), indexing="ij"
    )  # fmt: skip
    x, y = explored.grid.xy(rows.ravel(), cols.ravel())
    if field.crs is not None and field.crs != explored.grid.crs:
        x, y = reproject_xy(explored.grid.crs, field.crs, x, y)
    dx, dy = field.at(x, y)
    return [
        {"row": round(float(r), 1), "col": round(float(c), 1), "dx_m": round(float(a), 3), "dy_m": round(float(b), 3)}
        for r, c, a, b in zip(rows.ravel(), cols.ravel(), dx, dy, strict=True)
    ]
