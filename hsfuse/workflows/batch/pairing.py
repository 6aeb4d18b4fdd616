"""Which Sentinel-2 products go with a hyperspectral one: footprint first, then time and cloud."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from shapely.errors import GEOSException
from shapely.geometry import Polygon, box
from shapely.ops import unary_union

from hsfuse.grid import Grid, reproject_xy
from hsfuse.readers.product_header import ProductHeader

_EDGE_POINTS = 9
_ADDS_SHARE = 0.005
"""A further tile is used when it covers at least this much more of the image."""
_DAYS_PER_CLOUD_PERCENT = 0.3
"""One percent of cloud over the product counts as much as so many days between the images."""
_DAYS_PER_MISSING_PERCENT = 1.0
_TOP_OF_ATMOSPHERE_DAYS = 30.0
"""L1C is no surface reflectance: used where no L2A is near."""
_MOST_FILLS = 7
_OPEN_PERCENT = 0.5
"""Overflights are added until this share is expected to stay open, were clouds spread at random."""
_DEGREES = 360.0
_IMAGED = -1
"""In place of a tile's number: the imaged part of all tiles."""


@dataclass(frozen=True)
class PairingLimits:
    """What a partner must keep to: days apart, percent of cloud, covered share of the hyperspectral image."""

    max_days: float = 60.0
    max_cloud: float = 80.0
    min_overlap: float = 0.2


@dataclass(frozen=True)
class Partner:
    """The products of one overflight that fit an image best.

    Attributes
    ----------
    products
        One or more tiles, the one that covers most first.
    days_apart
        Time between the images; None when one of the times is unknown.
    cloud_percent
        Cloud cover of the products, weighted by what they cover; None: unknown.
    coverage
        Share of the hyperspectral image's extent under the products, 0 to 1.
    fills
        Products of further overflights of the same level that may fill what clouds and the products' edges leave open,
        the better ones first; a run looks at their scene classes and uses what it needs.
    """

    products: tuple[ProductHeader, ...]
    days_apart: float | None
    cloud_percent: float | None
    coverage: float
    fills: tuple[ProductHeader, ...] = ()

    @property
    def open_percent(self) -> float:
        """Share of the image that is under cloud or not covered, in percent."""
        return 100.0 - self.coverage * (100.0 - (self.cloud_percent or 0.0))

    @property
    def cost(self) -> float:
        """How far this is from an ideal partner, in days."""
        days = self.days_apart or 0.0
        cloud = _DAYS_PER_CLOUD_PERCENT * (self.cloud_percent or 0.0)
        level = _TOP_OF_ATMOSPHERE_DAYS if self.products[0].level == "L1C" else 0.0
        return days + cloud + level + _DAYS_PER_MISSING_PERCENT * 100.0 * (1.0 - self.coverage)

    def fault(self, limits: PairingLimits) -> str:
        """Why this does not keep to the limits; empty when it does."""
        names = self.products[0].name + (f" and {len(self.products) - 1} more" if len(self.products) > 1 else "")
        if self.coverage < limits.min_overlap:
            return f"{names} covers only {100 * self.coverage:.0f} % of it (--min-overlap {limits.min_overlap:g})"
        if self.days_apart is not None and self.days_apart > limits.max_days:
            return f"the nearest in time, {names}, is {self.days_apart:.0f} days apart (--max-days {limits.max_days:g})"
        if self.cloud_percent is not None and self.cloud_percent > limits.max_cloud:
            return f"{names} has {self.cloud_percent:.0f} % cloud (--max-cloud {limits.max_cloud:g})"
        return ""


class Archive:
    """Multispectral products to choose from, ready for many questions."""

    def __init__(self, products: Sequence[ProductHeader]) -> None:
        self._products = list(products)
        self._boxes = [[_lonlat_box(grid) for grid in product.grids] for product in self._products]
        self._outlines: dict[tuple[int, int, str], Polygon | None] = {}

    def __len__(self) -> int:
        return len(self._products)

    def partner(self, hsi: ProductHeader, limits: PairingLimits, days: Sequence[date] = ()) -> Partner | str:
        """Return the best partner of an image, or one sentence that says why there is none.

        ``days`` are those (UTC) that may be used; empty for all.
        """
        area = box(*hsi.grids[0].bounds)
        covered = self._covered(hsi, area)
        if not covered:
            return f"none of the {len(self)} Sentinel-2 products lies under it"
        if days:
            covered = {number: part for number, part in covered.items() if self._is_of(number, days)}
            if not covered:
                return f"no Sentinel-2 product under it is of {', '.join(map(str, days))} (--s2-date)"
        found = [self._best_tiles(hsi, area, group, covered) for group in self._acquisitions(covered)]
        found.sort(key=lambda partner: (partner.cost, partner.products[0].name))
        fitting = [partner for partner in found if not partner.fault(limits)]
        if fitting:
            # A part of the image is enough for those that only fill it.
            others = [p for p in found if not p.fault(replace(limits, min_overlap=0.0))]
            return _with_fills(fitting[0], others)
        # The one that is named misses as little as possible.
        nearest = min(found, key=lambda partner: (partner.coverage < limits.min_overlap, partner.cost))
        return nearest.fault(limits)

    def _is_of(self, number: int, days: Sequence[date]) -> bool:
        start = self._products[number].start
        return start is not None and start.date() in days

    def _covered(self, hsi: ProductHeader, area: Polygon) -> dict[int, Polygon]:
        """Part of the image under each product that touches it, by the product's index."""
        around = _lonlat_box(hsi.grids[0])
        covered: dict[int, Polygon] = {}
        for number, boxes in enumerate(self._boxes):
            parts = []
            for tile, tile_box in enumerate(boxes):
                if _boxes_touch(around, tile_box):
                    outline = self._outline(number, tile, hsi.grids[0].crs)
                    if outline is not None and outline.intersects(area):
                        parts.append(outline.intersection(area))
            common = unary_union(parts) if parts else None
            imaged = self._imaged(number, hsi.grids[0].crs)
            if common is not None and imaged is not None:
                common = common.intersection(imaged)
            if common is not None and common.area > 0.0:
                covered[number] = common
        return covered

    def _acquisitions(self, covered: Mapping[int, Polygon]) -> list[list[int]]:
        """Sort products that touch the image by overflight."""

        def key(number: int) -> str:
            product = self._products[number]
            return product.acquisition or str(product.path)

        return [list(group) for _, group in groupby(sorted(covered, key=key), key=key)]

    def _best_tiles(
        self, hsi: ProductHeader, area: Polygon, group: Sequence[int], covered: Mapping[int, Polygon]
    ) -> Partner:
        """Choose products of one overflight until a further one would add next to nothing."""
        # Newer processing first, so that the same tile processed twice is taken from the later one.
        waiting = sorted(group, key=lambda i: (self._products[i].baseline, self._products[i].name), reverse=True)
        chosen: list[int] = []
        union: Polygon | None = None
        while waiting:
            held = 0.0 if union is None else union.area
            gains = [(covered[i] if union is None else union.union(covered[i])).area - held for i in waiting]
            best = max(range(len(waiting)), key=gains.__getitem__)
            if chosen and gains[best] < _ADDS_SHARE * area.area:
                break
            number = waiting.pop(best)
            chosen.append(number)
            union = covered[number] if union is None else union.union(covered[number])
        products = tuple(self._products[i] for i in chosen)
        weights = [covered[i].area for i in chosen]
        clouds = [product.cloud_percent for product in products]
        known = [(w, c) for w, c in zip(weights, clouds, strict=True) if c is not None]
        cloud = sum(w * c for w, c in known) / sum(w for w, _ in known) if known else None
        start = products[0].start
        days = abs((hsi.start - start).total_seconds()) / 86_400.0 if hsi.start and start else None
        share = min(1.0, (union.area if union is not None else 0.0) / area.area)
        return Partner(products, days, cloud, share)

    def _outline(self, number: int, tile: int, crs: CRS) -> Polygon | None:
        """Outline of a tile in another reference system; None where it cannot be shown there."""
        key = (number, tile, crs.to_wkt())
        if key not in self._outlines:
            self._outlines[key] = _outline(self._products[number].grids[tile], crs)
        return self._outlines[key]

    def _imaged(self, number: int, crs: CRS) -> Polygon | None:
        """Imaged part of a product, which may be less than its tiles; None: all of them."""
        corners = self._products[number].outline
        key = (number, _IMAGED, crs.to_wkt())
        if corners and key not in self._outlines:
            longitude, latitude = np.array(corners).T
            self._outlines[key] = _polygon(*reproject_xy(CRS.from_epsg(4326), crs, longitude, latitude))
        return self._outlines.get(key)


def _with_fills(best: Partner, others: Sequence[Partner]) -> Partner:
    """Add overflights that can fill what the best one leaves open."""
    fills: list[ProductHeader] = []
    left = best.open_percent
    for other in others:
        if left <= _OPEN_PERCENT or len(fills) >= _MOST_FILLS:
            break
        if other is best or other.products[0].level != best.products[0].level:
            continue
        fills += other.products
        left *= other.open_percent / 100.0
    return replace(best, fills=tuple(fills))


def _outline(grid: Grid, crs: CRS) -> Polygon | None:
    left, bottom, right, top = grid.bounds
    along = np.linspace(0.0, 1.0, _EDGE_POINTS)[:-1]
    x = np.concatenate([left + along * (right - left), np.full(along.size, right),
                        right - along * (right - left), np.full(along.size, left)])  # fmt: skip
    y = np.concatenate([np.full(along.size, bottom), bottom + along * (top - bottom),
                        np.full(along.size, top), top - along * (top - bottom)])  # fmt: skip
    if grid.crs != crs:
        x, y = reproject_xy(grid.crs, crs, x, y)
    return _polygon(x, y)


def _polygon(x: NDArray[np.float64], y: NDArray[np.float64]) -> Polygon | None:
    if not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
        return None
    try:
        outline = Polygon(np.column_stack([x, y]))
        return outline if outline.is_valid else None
    except (ValueError, GEOSException):
        return None


def _lonlat_box(grid: Grid) -> tuple[float, float, float, float]:
    """West, south, width and height in degrees; the width may cross the antimeridian."""
    left, bottom, right, top = grid.bounds
    x, y = np.array([left, right, right, left]), np.array([bottom, bottom, top, top])
    longitude, latitude = reproject_xy(grid.crs, CRS.from_epsg(4326), x, y)
    # Longitudes relative to the first corner, so that an image across 180 degrees is narrow.
    relative = (longitude - longitude[0] + _DEGREES / 2) % _DEGREES - _DEGREES / 2
    west = float(longitude[0] + relative.min())
    return west, float(latitude.min()), float(np.ptp(relative)), float(np.ptp(latitude))


def _boxes_touch(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    margin = 0.1
    if a[1] > b[1] + b[3] + margin or b[1] > a[1] + a[3] + margin:
        return False
    offset = (b[0] - a[0]) % _DEGREES
    return offset <= a[2] + margin or offset + b[2] + margin >= _DEGREES
