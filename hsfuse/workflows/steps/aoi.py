"""Area of interest: a bounding box or a vector file, as extent and mask on the result's grid."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from hsfuse.errors import InputError, UsageError
from hsfuse.grid import Bounds, Grid, reproject_bounds, reproject_xy
from hsfuse.readers.choose import check_exists


@dataclass(frozen=True)
class AreaOfInterest:
    """An area in the result's reference system; ``shapes`` are GeoJSON-like polygons, empty for a plain box."""

    bounds: Bounds
    shapes: tuple[dict[str, Any], ...] = ()

    def mask(self, grid: Grid) -> NDArray[np.bool_] | None:
        """Pixels of ``grid`` whose centre lies inside the polygons; None for a plain box."""
        if not self.shapes:
            return None
        from rasterio.features import geometry_mask

        inside: NDArray[np.bool_] = geometry_mask(self.shapes, grid.shape, grid.transform, invert=True)
        return inside


def parse_aoi(text: str, crs: CRS, aoi_crs: str | None = None) -> AreaOfInterest:
    """Understand ``left,bottom,right,top`` or the name of a vector file.

    Parameters
    ----------
    text
        Four numbers, or a file that OGR reads (GeoJSON, GeoPackage, Shapefile ...). Of longitudes, the left one may be
        the larger (179.9 and -179.9): the box then lies across the 180th meridian.
    crs
        Reference system of the result.
    aoi_crs
        Reference system of the four numbers; the result's own when None. A file says its own.

    Raises
    ------
    UsageError, InputError
        The numbers or the reference system make no sense; the file is missing, empty or without polygons.
    """
    numbers = re.split(r"\s*,\s*|\s+", text.strip())
    if len(numbers) == 4 and not _exists(text):
        try:
            left, bottom, right, top = (float(n) for n in numbers)
        except ValueError:
            raise UsageError(f"--aoi '{text}' is neither four numbers nor a file.") from None
        box = Bounds(left, bottom, right, top)
        across = aoi_crs is not None and left > right and -180 <= right <= left <= 180
        if not np.all(np.isfinite(box)) or not bottom < top or not (left < right or across):
            raise UsageError(
                f"--aoi '{text}' is empty.", hint="The order is left,bottom,right,top (west,south,east,north)."
            )
        if aoi_crs is None:
            if crs.is_projected and _like_degrees(box):
                raise UsageError(
                    f"--aoi '{text}' looks like degrees, but the result is in metres ({crs.to_string()}).",
                    hint="Say so with --aoi-crs EPSG:4326; the order is west,south,east,north.",
                )
            return AreaOfInterest(box)
        try:
            source = CRS.from_user_input(aoi_crs)
        except CRSError as error:
            raise UsageError(f"--aoi-crs '{aoi_crs}' is not a known reference system.") from error
        if source.is_geographic and not _like_degrees(box):
            raise UsageError(
                f"--aoi '{text}' is not in degrees, as --aoi-crs {aoi_crs} says.",
                hint=f"Leave out --aoi-crs for map units of the result ({crs.to_string()}); else the order is"
                " west,south,east,north.",
            )
        if across and not source.is_geographic:
            raise UsageError(f"--aoi '{text}' is empty.", hint="The order is left,bottom,right,top.")
        return AreaOfInterest(_transformed(box, source, crs, text))
    return _from_file(Path(text), crs)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        # Longer than any name, or none at all.
        return False


def _transformed(box: Bounds, source: CRS, crs: CRS, text: str) -> Bounds:
    """Extent of a box in another reference system; left of right, longitudes run across the 180th meridian."""
    if box.left > box.right:
        steps = np.linspace(0.0, 1.0, 23)
        x = box.left + steps * (box.right + 360.0 - box.left)
        y = box.bottom + steps * (box.top - box.bottom)
        edges = [(x, np.full_like(x, box.bottom)), (x, np.full_like(x, box.top))]
        edges += [(np.full_like(y, x[0]), y), (np.full_like(y, x[-1]), y)]
        east, north = reproject_xy(source, crs, *(np.concatenate(part) for part in zip(*edges, strict=True)))
        moved = Bounds(float(east.min()), float(north.min()), float(east.max()), float(north.max()))
    else:
        moved = reproject_bounds(source, crs, box)
    if not np.all(np.isfinite(moved)):
        raise UsageError(
            f"--aoi '{text}' cannot be brought to the reference system of the result ({crs.to_string()}).",
            hint="The order is west,south,east,north: longitude before latitude.",
        )
    return moved


def _like_degrees(box: Bounds) -> bool:
    """Whether four numbers can be longitudes and latitudes (in metres, they would lie outside every map zone)."""
    return max(abs(box.left), abs(box.right)) <= 360.0 and max(abs(box.bottom), abs(box.top)) <= 90.0


def _from_file(path: Path, crs: CRS) -> AreaOfInterest:
    if not _exists(str(path)):
        raise InputError(f"The area file {path} does not exist.", hint="Give a vector file, or left,bottom,right,top.")
    check_exists(path)
    import shapely

    polygons, named = _read_polygons(path)
    polygons = [p for p in polygons if p is not None and shapely.get_type_id(p) == 3 and not p.is_empty]
    if not polygons:
        raise InputError(f"The area file {path} holds no polygon.")
    if named is None and not _like_degrees(Bounds(*(float(v) for v in shapely.total_bounds(polygons)))):
        raise InputError(
            f"The area file {path} names no reference system, and its coordinates are no degrees.",
            hint="Write the reference system into it, for example with ogr2ogr -a_srs EPSG:32632 OUT IN.",
        )
    try:
        source = CRS.from_user_input(named or "EPSG:4326")
    except CRSError as error:
        raise InputError(f"The area file {path} names no known reference system.", hint=str(error)) from error

    def to_result(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = reproject_xy(source, crs, points[:, 0], points[:, 1])
        return np.column_stack([x, y])

    moved = [shapely.transform(p, to_result) for p in polygons]
    bounds = Bounds(*(float(v) for v in shapely.total_bounds(moved)))
    if not np.all(np.isfinite(bounds)):
        raise InputError(
            f"The area file {path} cannot be brought to the reference system of the result ({crs.to_string()}).",
            hint="Check its coordinates: longitude comes before latitude.",
        )
    return AreaOfInterest(bounds, tuple(shapely.geometry.mapping(p) for p in moved))


def _read_polygons(path: Path) -> tuple[list[Any], str | None]:
    """Parts of the geometries of a vector file, and its reference system when it names one."""
    import pyogrio
    import shapely

    # A GeoJSON file may name its reference system by an address, which is not looked up.
    offline = {"GDAL_HTTP_PROXY": "127.0.0.1:9", "CPL_VSIL_CURL_ALLOWED_FILENAME": "/none"}
    before = {name: pyogrio.get_gdal_config_option(name) for name in offline}
    pyogrio.set_gdal_config_options(offline)
    try:
        meta, _, geometry, _ = pyogrio.raw.read(path, columns=[])
        return list(shapely.get_parts(shapely.from_wkb(geometry))), meta["crs"]
    except (
        pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, pyogrio.errors.CRSError,
        shapely.errors.ShapelyError, ValueError,
    ) as error:  # fmt: skip
        raise InputError(f"The area file {path} cannot be read as a vector layer.", hint=str(error)) from error
    finally:
        pyogrio.set_gdal_config_options(before)
