"""Tie and check points of a co-registration as a vector file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS

from hsfuse.coregister.result import CoregistrationResult, TiePoints
from hsfuse.errors import OutputError, UsageError
from hsfuse.outputs import part_name, replace_file

SUFFIXES = (".gpkg", ".geojson", ".json")
_LAYER = "tie_points"
_HINT = "Check the folder and the disk."


def check_suffix(path: Path) -> None:
    """Refuse file names whose format is unknown, before any work is done."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"Tie points cannot be written as '{path.suffix or path.name}'.", hint="Use .gpkg or .geojson."
        )


def write_tie_points(path: Path, result: CoregistrationResult, crs: CRS) -> None:
    """Write all points with ``dx_m``, ``dy_m``, ``sigma_m``, ``correlation``, ``confidence``, ``residual_m``, ``role``.

    Parameters
    ----------
    path
        GeoPackage (``.gpkg``) or GeoJSON.
    result
        Where the points come from. Their role is ``used`` (they made the field), ``rejected`` (outliers), ``check``
        (held back, behind the reported errors) or ``check rejected``.
    crs
        Reference system of the points: that of the target.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    columns = _columns(result)
    if path.suffix.lower() == ".gpkg":
        _write_geopackage(path, columns, crs)
    else:
        _write_geojson(path, columns, crs)


def _columns(result: CoregistrationResult) -> dict[str, Any]:
    groups = ((result.tie_points, "used", "rejected"), (result.check_points, "check", "check rejected"))

    def joined(name: str, digits: int) -> Any:
        return np.concatenate([np.round(np.asarray(getattr(points, name)), digits) for points, *_ in groups])

    columns: dict[str, Any] = {name: joined(name, 3) for name in ("x", "y", "dx_m", "dy_m", "sigma_m", "residual_m")}
    columns |= {name: joined(name, 4) for name in ("correlation", "confidence")}
    columns["role"] = np.concatenate([_roles(*group) for group in groups])
    return columns


def _roles(points: TiePoints, kept: str, dropped: str) -> Any:
    return np.where(points.used, kept, dropped).astype(object)


def _write_geopackage(path: Path, columns: dict[str, Any], crs: CRS) -> None:
    import pyogrio
    import shapely

    part = part_name(path)
    part.unlink(missing_ok=True)
    geometry = shapely.to_wkb(shapely.points(columns["x"], columns["y"]))
    fields = [name for name in columns if name not in ("x", "y")]
    try:
        pyogrio.raw.write(
            part, geometry, [columns[name] for name in fields], fields, layer=_LAYER, driver="GPKG",
            geometry_type="Point", crs=crs.to_wkt(),
        )  # fmt: skip
        part.replace(path)
    except (OSError, pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        part.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error}.", hint=_HINT) from error


def _write_geojson(path: Path, columns: dict[str, Any], crs: CRS) -> None:
    plain = {name: values.tolist() for name, values in columns.items()}
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Point", "coordinates": [plain["x"][i], plain["y"][i]]},
            "properties": {name: values[i] for name, values in plain.items() if name not in ("x", "y")},
        }
        for i in range(len(plain["x"]))
    ]
    collection: dict[str, Any] = {"type": "FeatureCollection", "name": _LAYER, "features": features}
    authority = crs.to_authority()
    if authority is not None:
        name = f"urn:ogc:def:crs:{authority[0]}::{authority[1]}"
        collection["crs"] = {"type": "name", "properties": {"name": name}}
    try:
        replace_file(path, json.dumps(collection).encode())
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.", hint=_HINT) from error
