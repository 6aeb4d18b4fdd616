"""Cloud polygons of the Sentinel-2 baselines before 04.00 (``MSK_CLOUDS_B00.gml``)."""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from rasterio import features

from hsfuse.errors import InputError
from hsfuse.grid import Grid, Slice2D
from hsfuse.masks import BoolArray
from hsfuse.readers.xml import find_all, local_name, parse_xml


class CloudPolygons:
    """Cloud polygons in map coordinates, rasterised window by window.

    Parameters
    ----------
    content
        The GML file; one without features (a clear tile) is fine.
    name
        Its name for error messages.

    Raises
    ------
    InputError
        The file is no XML, or a polygon's coordinates are damaged.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self._shapes: list[tuple[dict[str, Any], tuple[float, float, float, float]]] = []
        for polygon in find_all(parse_xml(content, name), "Polygon"):
            rings = [_ring(element, name) for element in find_all(polygon, "posList")]
            if rings:
                outer = np.asarray(rings[0])
                box = (*outer.min(axis=0).tolist(), *outer.max(axis=0).tolist())
                self._shapes.append(({"type": "Polygon", "coordinates": rings}, box))

    def mask(self, grid: Grid, block: Slice2D) -> BoolArray:
        """Return where clouds cover a block of ``grid`` (pixel centres inside a polygon)."""
        part = grid.crop(block)
        box = part.bounds
        near = [
            shape
            for shape, (left, bottom, right, top) in self._shapes
            if left < box.right and right > box.left and bottom < box.top and top > box.bottom
        ]
        if not near:
            return np.zeros(block.shape, dtype=np.bool_)
        drawn = features.rasterize(near, out_shape=part.shape, transform=part.transform, dtype="uint8")
        return np.asarray(drawn, dtype=np.bool_)


def _ring(element: Element, name: str) -> list[tuple[float, float]]:
    try:
        numbers = np.array((element.text or "").split(), dtype=np.float64)
        points = numbers.reshape(-1, int(element.get("srsDimension", "2")))[:, :2]
    except ValueError as error:
        raise InputError(f"The cloud mask {name} has a damaged {local_name(element)}.") from error
    if len(points) < 4:
        raise InputError(f"The cloud mask {name} has a polygon with {len(points)} corners.")
    return [(float(x), float(y)) for x, y in points]
