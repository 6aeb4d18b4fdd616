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
from rasterio.warp import transform_bounds

from hsfuse.errors import InputError, UsageError
from hsfuse.grid import Bounds, Grid, reproject_xy


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
        Four numbers, or a file that OGR reads (GeoJSON, GeoPackage, Shapefile ...).
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
    if len(numbers) == 4 and not Path(text).exists():
        try:
            left, bottom, right, top = (float(n) for n in numbers)
        except ValueError:
            raise UsageError(f"--aoi '{text}' is neither four numbers nor a file.") from None
        if not (left < right and bottom < top):
            raise UsageError(
                f"--aoi '{text}' is empty.", hint="The order is left,bottom,right,top (west,south,east,north)."
            )
        box = Bounds(left, bottom, right, top)
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
        return AreaOfInterest(Bounds(*transform_bounds(source, crs, *box, densify_pts=21)))
    return _from_file(Path(text), crs)


def _like_degrees(box: Bounds) -> bool:
    """Whether four numbers can be longitudes and latitudes (in metres, they would lie outside every map zone)."""
    return max(abs(box.left), abs(box.right)) <= 360.0 and max(abs(box.bottom), abs(box.top)) <= 90.0


def _from_file(path: Path, crs: CRS) -> AreaOfInterest:
    if not path.exists():
        raise InputError(f"The area file {path} does not exist.", hint="Give a vector file, or left,bottom,right,top.")
    import pyogrio
    import shapely

    try:
        meta, _, geometry, _ = pyogrio.raw.read(path, columns=[])
        polygons = shapely.get_parts(shapely.from_wkb(geometry))
        source = CRS.from_user_input(meta["crs"] or "EPSG:4326")
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, shapely.errors.ShapelyError) as error:
        raise InputError(f"The area file {path} cannot be read as a vector layer.", hint=str(error)) from error
    polygons = [p for p in polygons if p is not None and shapely.get_type_id(p) == 3 and not p.is_empty]
    if not polygons:
        raise InputError(f"The area file {path} holds no polygon.")

    def to_result(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = reproject_xy(source, crs, points[:, 0], points[:, 1])
        return np.column_stack([x, y])

    moved = [shapely.transform(p, to_result) for p in polygons]
    bounds = Bounds(*(float(v) for v in shapely.total_bounds(moved)))
    return AreaOfInterest(bounds, tuple(shapely.geometry.mapping(p) for p in moved))
