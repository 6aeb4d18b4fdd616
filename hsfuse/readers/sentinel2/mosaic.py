"""Several Sentinel-2 tiles as one image, also across UTM zones.

The mosaic lies on the pixel grid of the tile that covers most of the footprint, so that this tile, and every other
tile of its zone, is passed on without resampling. Tiles of other zones are warped window by window as they are
read. Where tiles overlap, the one with the largest clear area in the footprint wins and the next ones fill its gaps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling

from hsfuse.errors import HsfuseError, InputError, OverlapError, UsageError
from hsfuse.grid import Bounds, Grid, Slice2D
from hsfuse.masks import SCL_CLOUD, BoolArray, dilate, in_classes
from hsfuse.readers.base import FloatCube, MultispectralProduct, ProductInfo
from hsfuse.readers.sentinel2.layout import coverage, mosaic_grid, pixel_offset
from hsfuse.readers.sentinel2.product import Sentinel2Product
from hsfuse.readers.sentinel2.warping import RIM_PX, block_under, warp, within
from hsfuse.spectral import SpectralResponse

_OVERVIEW_ROWS = 512


@dataclass(frozen=True)
class _Tile:
    """One tile of the mosaic.

    ``offset`` is the mosaic pixel (row, col) of its corner, None when it is warped; ``clear_m2`` is its clear area in
    the footprint, None where nobody asked.
    """

    product: Sentinel2Product
    offset: tuple[int, int] | None
    clear_m2: float | None


class Sentinel2Mosaic(MultispectralProduct):
    """A mosaic of tiles that behaves like one product.

    Parameters
    ----------
    products
        Open tiles with the same level and bands; the mosaic closes them.
    target_crs
        Reference system of the mosaic; by default that of the tile that covers most of the footprint.
    bounds
        Footprint that matters (default: everything). Tiles outside are left out and closed.
    bounds_crs
        Reference system of ``bounds``; by default ``target_crs``, else that of the first product.

    Raises
    ------
    InputError
        Levels or bands differ.
    OverlapError
        No tile touches the footprint.
    """

    def __init__(
        self,
        products: Sequence[Sentinel2Product],
        *,
        target_crs: CRS | None = None,
        bounds: Bounds | None = None,
        bounds_crs: CRS | None = None,
    ) -> None:
        if not products:
            raise UsageError("A mosaic needs at least one Sentinel-2 product.")
        self._products = tuple(products)
        _check_alike(self._products)
        crs = bounds_crs or target_crs or products[0].grid.crs
        covered = [(product, *coverage(product, bounds, crs)) for product in self._products]
        inside = [entry for entry in covered if entry[1] > 0]
        if not inside:
            raise OverlapError(
                "None of the Sentinel-2 tiles has data under the hyperspectral image.",
                hint="Choose the tiles by the footprint; `hsfuse info FILE` prints the extent of each product.",
            )
        base = max(inside, key=lambda entry: entry[1])[0]
        self._footprint: tuple[CRS | None, Bounds | None, CRS] | None = (target_crs, bounds, crs)
        self._used = [entry[0] for entry in inside]
        self._grid = mosaic_grid([entry[0] for entry in inside], base, target_crs, bounds, crs)
        # Areas that differ by less than a hundredth are equal, and the order of the products decides.
        unit = 0.01 * max(entry[2] for entry in inside) or 1.0
        ranked = sorted(inside, key=lambda entry: -round(entry[2] / unit))
        self._tiles = [_Tile(product, pixel_offset(product.grid, self._grid), clear) for product, _, clear in ranked]
        for product, area, _ in covered:
            if area <= 0:
                product.close()
        self._base = base
        self._info = self._describe(base)

    @classmethod
    def on_grid(cls, products: Sequence[Sentinel2Product], grid: Grid) -> Sentinel2Mosaic:
        """Lay open tiles on a given grid, in the order in which they win; the mosaic closes them."""
        _check_alike(products)
        mosaic = cls.__new__(cls)
        mosaic._products = tuple(products)
        mosaic._used, mosaic._grid, mosaic._footprint = list(products), grid, None
        mosaic._tiles = [_Tile(product, pixel_offset(product.grid, grid), None) for product in products]
        mosaic._base = products[0]
        mosaic._info = mosaic._describe(products[0])
        return mosaic

    @property
    def info(self) -> ProductInfo:
        """Facts about the mosaic; ``attributes["tiles"]`` lists its tiles, the winning one first."""
        return self._info

    @property
    def grid(self) -> Grid:
        """Grid of the mosaic."""
        return self._grid

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands in reading order."""
        return self._base.band_names

    @property
    def responses(self) -> tuple[SpectralResponse, ...]:
        """Spectral responses of the tile that covers most."""
        return self._base.responses

    @property
    def offers_band_choice(self) -> bool:
        """True: 10 m bands, or the 20 m bands too."""
        return True

    @property
    def sources(self) -> tuple[Path, ...]:
        """Paths of the products that are used."""
        return tuple(dict.fromkeys(tile.product.info.path for tile in self._tiles))

    def swir_reference(self) -> Sentinel2Mosaic:
        """Open the same mosaic with its SWIR bands; the caller closes it."""
        opened: list[Sentinel2Product] = []
        try:
            for product in self._used:
                opened.append(product.swir_reference())  # noqa: PERF401 - kept for closing
            if self._footprint is None:
                return Sentinel2Mosaic.on_grid(opened, self._grid)
            target_crs, bounds, crs = self._footprint
            return Sentinel2Mosaic(opened, target_crs=target_crs, bounds=bounds, bounds_crs=crs)
        except HsfuseError:
            for product in opened:
                product.close()
            raise

    def _describe(self, base: Sentinel2Product) -> ProductInfo:
        tiles = [tile.product.info for tile in self._tiles]
        warnings = list(dict.fromkeys(warning for info in tiles for warning in info.warnings))
        spacecraft = sorted({info.sensor for info in tiles})
        if len(spacecraft) > 1:
            warnings.append(
                f"The mosaic mixes {' and '.join(spacecraft)}, whose bands differ slightly; the spectral responses "
                f"are those of {base.info.sensor}."
            )
        days = sorted({f"{info.start:%Y-%m-%d}" for info in tiles if info.start})
        if len(days) > 1:
            warnings.append(f"The mosaic mixes images of {', '.join(days)}: expect seams where tiles meet.")
        info = base.info
        more = f" and {len(tiles) - 1} more" if len(tiles) > 1 else ""
        attributes = dict(info.attributes) | {
            "tiles": [
                {
                    "name": tile.product.info.name,
                    "tile_id": tile.product.info.attributes.get("tile_id"),
                    "clear_km2": None if tile.clear_m2 is None else round(tile.clear_m2 / 1e6, 3),
                    "resampled": tile.offset is None,
                }
                for tile in self._tiles
            ]
        }
        return ProductInfo(
            name=f"{info.name}{more}",
            sensor=" + ".join(spacecraft),
            level=info.level,
            path=info.path,
            start=info.start,
            sun_zenith_deg=info.sun_zenith_deg,
            sun_azimuth_deg=info.sun_azimuth_deg,
            view_zenith_deg=info.view_zenith_deg,
            attributes=attributes,
            warnings=tuple(warnings),
        )

    # ------------------------------------------------------------------ reading

    def read(self, block: Slice2D, bands: Sequence[int] | None = None) -> FloatCube:
        """Read reflectance on the mosaic's grid, shape (band, row, col), NaN where no tile has data.

        Tiles of other zones are interpolated with a cubic kernel.
        """
        count = len(self.band_names) if bands is None else len(bands)
        cube = np.full((count, *block.shape), np.nan, np.float32)
        for tile in self._tiles:
            for part, target in self._open_parts(tile, block, np.asarray(np.isnan(cube).any(axis=0))):
                piece = cube[(slice(None), *target)]
                found = self._tile_reflectance(tile, part, bands, count)
                np.copyto(piece, found, where=np.isnan(piece))
        return cube

    def read_overview(self, block: Slice2D, factor: int, bands: Sequence[int] | None = None) -> FloatCube:
        """Read a decimated view, shape (band, rows // factor, cols // factor); see the product's own.

        A cell that reaches over the edge of a tile has no data.
        """
        count = len(self.band_names) if bands is None else len(bands)
        cube = np.full((count, block.shape[0] // factor, block.shape[1] // factor), np.nan, np.float32)
        for tile in self._tiles:
            inside = self._reach(tile).intersect(block)
            if inside is None:
                continue
            # Whole cells of the view that lie on the tile.
            cells = Slice2D(
                -(-(inside.row0 - block.row0) // factor), (inside.row1 - block.row0) // factor,
                -(-(inside.col0 - block.col0) // factor), (inside.col1 - block.col0) // factor,
            ).clipped(*cube.shape[1:])  # fmt: skip
            if min(cells.shape) < 1:
                continue
            piece = cube[(slice(None), *cells.slices)]
            if np.isnan(piece).any():
                np.copyto(piece, self._tile_overview(tile, cells, block, factor, bands, count), where=np.isnan(piece))
        return cube

    def _tile_overview(
        self, tile: _Tile, cells: Slice2D, block: Slice2D, factor: int, bands: Sequence[int] | None, count: int
    ) -> FloatCube:
        fine = cells.scaled(factor)
        part = Slice2D(fine.row0 + block.row0, fine.row1 + block.row0, fine.col0 + block.col0, fine.col1 + block.col0)
        if tile.offset is not None:
            row, col = tile.offset
            source = Slice2D(part.row0 - row, part.row1 - row, part.col0 - col, part.col1 - col)
            return tile.product.read_overview(source, factor, bands)
        out = np.empty((count, *cells.shape), np.float32)
        for row0 in range(part.row0, part.row1, lines := max(1, _OVERVIEW_ROWS // factor) * factor):
            strip = Slice2D(row0, min(row0 + lines, part.row1), part.col0, part.col1)
            values = self._warped_reflectance(tile, strip, bands, count)
            means = values.reshape(count, strip.shape[0] // factor, factor, cells.shape[1], factor).mean(axis=(2, 4))
            first = (row0 - part.row0) // factor
            out[:, first : first + means.shape[1]] = means
        return out

    def read_ahead(self, block: Slice2D, bands: Sequence[int] | None = None) -> None:
        """Begin to decode what will be read soon of the tile that wins."""
        first = self._tiles[0]
        source = self._source(first, block)
        if source is not None:
            first.product.read_ahead(source, bands)

    def classes(self, block: Slice2D) -> NDArray[np.uint8] | None:
        """Scene classes by nearest pixel, shape (row, col), 0 where no tile has any; None when none is delivered."""
        out = np.zeros(block.shape, np.uint8)
        delivered = False
        for tile in self._tiles:
            delivered |= tile.product.info.attributes.get("cloud_mask") == "SCL"
            for part, target in self._open_parts(tile, block, out == 0):
                found = self._tile_classes(tile, part)
                if found is not None:
                    np.copyto(out[target], found, where=out[target] == 0)
        return out if delivered else None

    def cloud(self, block: Slice2D) -> BoolArray | None:
        """Pixels hidden by cloud in the tile that they come from, shape (row, col); None without any mask."""
        classes = self.classes(block)
        if classes is not None and self._all_classified():
            return in_classes(classes, SCL_CLOUD)
        out, owned = np.zeros(block.shape, np.bool_), np.zeros(block.shape, np.bool_)
        for tile in self._tiles:
            for part, target in self._open_parts(tile, block, ~owned):
                # The tile that gives the pixel's reflectance also says whether it is cloud.
                has_data = np.isfinite(self._tile_reflectance(tile, part, (0,), 1)[0])
                fresh = has_data & ~owned[target]
                np.copyto(out[target], self._tile_cloud(tile, part), where=fresh)
                owned[target] |= fresh
        masked = any(tile.product.info.attributes.get("cloud_mask") for tile in self._tiles)
        return out if masked else None

    def _all_classified(self) -> bool:
        return all(tile.product.info.attributes.get("cloud_mask") == "SCL" for tile in self._tiles)

    def _open_parts(
        self, tile: _Tile, block: Slice2D, wanted: BoolArray
    ) -> Iterator[tuple[Slice2D, tuple[slice, slice]]]:
        """Part of ``block`` that is still wanted and that the tile may fill: in mosaic pixels, and as array index."""
        rows, cols = np.flatnonzero(wanted.any(axis=1)), np.flatnonzero(wanted.any(axis=0))
        if rows.size == 0:
            return
        reach = self._reach(tile)
        part = Slice2D(
            max(block.row0 + int(rows[0]), reach.row0),
            min(block.row0 + int(rows[-1]) + 1, reach.row1),
            max(block.col0 + int(cols[0]), reach.col0),
            min(block.col0 + int(cols[-1]) + 1, reach.col1),
        )
        if min(part.shape) < 1:
            return
        yield part, within(part, block)

    def _reach(self, tile: _Tile) -> Slice2D:
        """Mosaic pixels that a tile can touch (may lie outside the mosaic)."""
        grid = tile.product.grid
        if tile.offset is not None:
            row, col = tile.offset
            return Slice2D(row, row + grid.height, col, col + grid.width)
        box, t = grid.bounds_in(self.grid.crs), self.grid.transform
        return Slice2D(
            math.floor((t.f - box.top) / -t.e),
            math.ceil((t.f - box.bottom) / -t.e),
            math.floor((box.left - t.c) / t.a),
            math.ceil((box.right - t.c) / t.a),
        )

    def _source(self, tile: _Tile, part: Slice2D) -> Slice2D | None:
        """Block of the tile's own pixels under a part of the mosaic; None when there is none."""
        if tile.offset is not None:
            row, col = tile.offset
            return Slice2D(part.row0 - row, part.row1 - row, part.col0 - col, part.col1 - col)
        return block_under(tile.product.grid, self.grid.crop(part))

    def _tile_reflectance(self, tile: _Tile, part: Slice2D, bands: Sequence[int] | None, count: int) -> FloatCube:
        if tile.offset is None:
            return self._warped_reflectance(tile, part, bands, count)
        source = self._source(tile, part)
        return np.full((count, *part.shape), np.nan, np.float32) if source is None else tile.product.read(source, bands)

    def _warped_reflectance(self, tile: _Tile, part: Slice2D, bands: Sequence[int] | None, count: int) -> FloatCube:
        rim = RIM_PX
        grown = Slice2D(part.row0 - rim, part.row1 + rim, part.col0 - rim, part.col1 + rim)
        out = np.full((count, *grown.shape), np.nan, np.float32)
        source = self._source(tile, grown)
        if source is not None:
            warp(
                tile.product.read(source, bands),
                tile.product.grid,
                source,
                self.grid,
                grown,
                out,
                np.nan,
                Resampling.cubic,
            )
            # Beside nodata the kernel is cut off and shifts the image by up to half a pixel: leave that rim out.
            out[:, dilate(np.asarray(np.isnan(out).any(axis=0)), rim)] = np.nan
        return out[:, rim:-rim, rim:-rim]

    def _tile_classes(self, tile: _Tile, part: Slice2D) -> NDArray[np.uint8] | None:
        source = self._source(tile, part)
        classes = tile.product.classes(source) if source is not None else None
        if classes is None or source is None or tile.offset is not None:
            return classes
        out = np.zeros(part.shape, np.uint8)
        warp(classes, tile.product.grid, source, self.grid, part, out, 0, Resampling.nearest)
        return out

    def _tile_cloud(self, tile: _Tile, part: Slice2D) -> BoolArray:
        source = self._source(tile, part)
        cloud = tile.product.cloud(source) if source is not None else None
        if cloud is None or source is None:
            return np.zeros(part.shape, np.bool_)
        if tile.offset is not None:
            return cloud
        out = np.zeros(part.shape, np.uint8)
        warp(cloud.astype(np.uint8), tile.product.grid, source, self.grid, part, out, 0, Resampling.nearest)
        return out.astype(np.bool_)

    # ------------------------------------------------------------------ end

    def close(self) -> None:
        """Close all tiles."""
        for product in self._products:
            product.close()


def _check_alike(products: Sequence[Sentinel2Product]) -> None:
    for what, values in (
        ("processing levels", {product.info.level for product in products}),
        ("bands", {product.band_names for product in products}),
    ):
        if len(values) > 1:
            listed = " and ".join(sorted(str(value) for value in values))
            raise InputError(
                f"The Sentinel-2 products have different {what} ({listed}), so they make no mosaic.",
                hint="Use products of one level, best L2A.",
            )
