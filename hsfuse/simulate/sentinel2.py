"""Write a Sentinel-2 L2A or L1C product in the true format: real JPEG 2000 bands, metadata, masks, manifest.

Bands come as arrays or as functions that deliver a few rows at a time, so a full 10980 x 10980 tile needs no more
memory than a strip. JPEG 2000 can only be written by copying a finished raster, so each band passes through a
temporary sparse GeoTIFF beside the product.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.windows import Window

from hsfuse.errors import OutputError, UsageError
from hsfuse.grid import Grid, Slice2D
from hsfuse.processor import usable_cores
from hsfuse.progress import Progress, SilentProgress
from hsfuse.sensors.sentinel2 import BANDS_10M, BANDS_ALL, RESOLUTION_M, SPACECRAFT, table_responses
from hsfuse.simulate.safe_names import SafeNames, mgrs_tile
from hsfuse.simulate.safe_xml import (
    SafeFacts,
    cloud_gml,
    coarse_shape,
    manifest_xml,
    product_xml,
    tile_xml,
)
from hsfuse.spectral import SpectralResponse

BandSource = NDArray[np.floating] | Callable[[Slice2D], NDArray[np.floating]]
"""Reflectance of one band on its own pixels: an array (row, col), or a function from a block to such an array."""

ClassSource = NDArray[np.integer] | Callable[[Slice2D], NDArray[np.integer]]
"""Scene classes on 20 m pixels, as an array or as a function."""

NODATA_DN, SATURATED_DN = 0, 65535
_STRIP_ROWS = 512
_DEFAULT_TIME = datetime(2023, 7, 1, 10, 6, 1, 24000, tzinfo=UTC)


def write_safe(
    folder: Path,
    *,
    grid: Grid,
    reflectance: Mapping[str, BandSource],
    scl: ClassSource | None = None,
    tile: Grid | None = None,
    spacecraft: str = "Sentinel-2A",
    sensing_time: datetime = _DEFAULT_TIME,
    tile_id: str | None = None,
    level: Literal["L2A", "L1C"] = "L2A",
    baseline: str = "05.09",
    offset: int | None = None,
    quantification: int = 10_000,
    responses: Sequence[SpectralResponse] | None = None,
    naming: Literal["compact", "old"] = "compact",
    relative_orbit: int = 22,
    sun_zenith_deg: float = 30.0,
    sun_azimuth_deg: float = 150.0,
    view_zenith_deg: float = 5.0,
    view_azimuth_deg: float = 105.0,
    tci: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write one tile as a SAFE product.

    Parameters
    ----------
    folder
        Where the product folder is made (created when missing).
    grid
        10 m grid of the data, in a UTM zone of WGS 84.
    reflectance
        Band name (``B02`` ... ``B12``) to reflectance (0 to 1, NaN is nodata) on the band's own pixels: 10 m for
        B02, B03, B04 and B08, which are required, 20 m for the optional others. A function is called with blocks
        of full-width rows of that pixel grid, from the top, each exactly once.
    scl
        Scene classes (0 to 11) at 20 m. In an L1C product they become its cloud mask (MSK_CLASSI, or polygons
        for baselines before 04.00).
    tile
        10 m grid of the whole tile when the data cover only a part of it: the rest is nodata.
    spacecraft
        ``Sentinel-2A``, ``Sentinel-2B`` or ``Sentinel-2C``.
    sensing_time
        Acquisition time (UTC).
    tile_id
        MGRS tile such as ``T32TQM``; by default worked out from the grid.
    level, baseline
        Processing level and baseline; they decide names, mask format and, by default, the offset.
    offset
        Additive offset in DN; default -1000 from baseline 04.00 on, none before.
    quantification
        DN per unit of reflectance.
    responses
        Spectral responses for the metadata, named like the bands; by default flat-top models of the spacecraft's
        table. An empty list leaves them out, as very old products do.
    naming
        ``compact`` (since December 2016) or ``old`` names and granule list.
    tci
        Also write the 10 m true-colour image.
    overwrite
        Replace a product of the same name.
    progress
        Shows the bands as they are written.

    Returns
    -------
    Path
        The product folder, which appears only when complete.

    Raises
    ------
    UsageError
        Bands are missing or unknown, shapes do not fit, or the grid is not a 10 m UTM grid.
    OutputError
        The product exists already, or the folder cannot be written.
    """
    tile = tile or grid
    _check(grid, tile, reflectance, spacecraft)
    names = SafeNames(level, naming, spacecraft, baseline, sensing_time, relative_orbit, tile_id or mgrs_tile(tile))
    if offset is None:
        offset = -1000 if float(baseline) >= 4.0 else 0
    product = Path(folder) / names.product
    if product.exists() and not overwrite:
        raise OutputError(f"The product {product} exists already.", hint="Choose another folder or overwrite it.")
    with _scratch(Path(folder)) as scratch:
        root = scratch / names.product
        writer = _Writer(root, scratch, names, grid, tile, quantification, offset, progress or SilentProgress())
        writer.write_images(reflectance, scl, tci=tci)
        facts = SafeFacts(
            level=level,
            compact=naming == "compact",
            spacecraft=spacecraft,
            baseline=baseline,
            start=sensing_time,
            generated=names.generated,
            relative_orbit=relative_orbit,
            absolute_orbit=names.absolute_orbit,
            tile_id=names.tile_id,
            product_uri=names.product,
            granule=names.granule,
            quantification=quantification,
            offset=offset,
            responses=table_responses(spacecraft, BANDS_ALL) if responses is None else responses,
            images=writer.images,
            masks=writer.masks,
            grid=tile,
            sun_zenith_deg=sun_zenith_deg,
            sun_azimuth_deg=sun_azimuth_deg,
            view_zenith_deg=view_zenith_deg,
            view_azimuth_deg=view_azimuth_deg,
            cloud_percent=writer.cloud_percent,
            nodata_percent=writer.nodata_percent,
        )
        (root / names.product_xml).write_bytes(product_xml(facts))
        (root / "GRANULE" / names.granule / names.tile_xml).write_bytes(tile_xml(facts))
        files = [path for path in root.rglob("*") if path.is_file()]
        (root / "manifest.safe").write_bytes(manifest_xml(facts, root, files))
        if product.exists():
            shutil.rmtree(product)
        root.rename(product)
    return product


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Make a temporary folder beside the product, so that the finished one only has to be renamed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".safe-", suffix=".part", dir=folder) as name:
            yield Path(name)
    except OSError as error:
        raise OutputError(
            f"The Sentinel-2 product cannot be written to {folder}: {error.strerror or error}.",
            hint="Check free space and permissions.",
        ) from error


def _check(grid: Grid, tile: Grid, reflectance: Mapping[str, BandSource], spacecraft: str) -> None:
    epsg = grid.crs.to_epsg() or 0
    if epsg // 100 not in (326, 327) or abs(grid.transform.a - 10.0) > 1e-6 or abs(grid.transform.e + 10.0) > 1e-6:
        raise UsageError("A Sentinel-2 product needs a 10 m grid in a UTM zone of WGS 84 (EPSG:326xx or 327xx).")
    if spacecraft not in SPACECRAFT:
        raise UsageError(f"The spacecraft '{spacecraft}' is unknown.", hint=f"Choose one of {', '.join(SPACECRAFT)}.")
    missing = [band for band in BANDS_10M if band not in reflectance]
    unknown = [band for band in reflectance if band not in BANDS_ALL]
    if missing or unknown:
        raise UsageError(
            f"Bands {', '.join(missing or unknown)} are {'missing' if missing else 'not 10 m or 20 m bands'}.",
            hint=f"Required: {', '.join(BANDS_10M)}; possible: {', '.join(BANDS_ALL)}.",
        )
    inside = grid.block_in(tile)
    if inside != inside.clipped(*tile.shape) or inside.row0 % 2 or inside.col0 % 2:
        raise UsageError("The data do not lie inside the tile, on its 20 m pixel edges.")


class _Writer:
    """Writes the images of one product and keeps what the metadata need to know about them."""

    def __init__(
        self,
        root: Path,
        scratch: Path,
        names: SafeNames,
        grid: Grid,
        tile: Grid,
        quantification: int,
        offset: int,
        progress: Progress,
    ) -> None:
        self.root, self.scratch, self.names, self.grid, self.tile = root, scratch, names, grid, tile
        self.quantification, self.offset, self.progress = quantification, offset, progress
        self.images: list[str] = []
        self.masks: dict[str, str] = {}
        self.cloud_percent = 0.0
        self.nodata_percent = 0.0
        (root / "GRANULE" / names.granule / "QI_DATA").mkdir(parents=True)

    def write_images(self, reflectance: Mapping[str, BandSource], scl: ClassSource | None, *, tci: bool) -> None:
        """Write bands, classes and masks."""
        total = len(reflectance) + (scl is not None) + tci
        with self.progress.stage("write Sentinel-2 product", total) as stage:
            for band in sorted(reflectance):
                staged = self._stage_layer(band, RESOLUTION_M[band], "uint16", reflectance[band], self._encode)
                if band == "B02":
                    self.nodata_percent = 100.0 * _share(staged, (NODATA_DN,))
                self._compress(staged, self.names.image(band, RESOLUTION_M[band]))
                if not (tci and band in ("B02", "B03", "B04")):
                    staged.unlink()
                stage.advance()
            if scl is not None:
                self._write_classes(scl)
                stage.advance()
            if tci:
                self._compress(self._stage_true_colour(), self.names.image("TCI", 10))
                stage.advance()

    def _encode(self, values: NDArray[np.floating]) -> NDArray[np.uint16]:
        """Reflectance to DN: 0 nodata, 65535 saturated, everything else at least 1."""
        dn = np.rint(np.asarray(values, dtype=np.float64) * self.quantification - self.offset)
        clipped = np.clip(np.nan_to_num(dn, nan=0.0, posinf=SATURATED_DN), 1, SATURATED_DN)
        encoded: NDArray[np.uint16] = clipped.astype(np.uint16)
        encoded[~np.isfinite(dn) & ~np.isposinf(dn)] = NODATA_DN
        return encoded

    def _stage_layer(
        self,
        layer: str,
        resolution_m: int,
        dtype: str,
        source: BandSource | ClassSource,
        encode: Callable[[NDArray[Any]], NDArray[np.unsignedinteger]],
    ) -> Path:
        """Put one layer into the tile, strip by strip, as a temporary GeoTIFF."""
        rows, cols = coarse_shape(self.grid, resolution_m)
        inside = self.grid.block_in(self.tile)
        ratio = resolution_m // 10
        if not callable(source) and source.shape != (rows, cols):
            raise UsageError(f"Layer {layer} is {source.shape[0]} x {source.shape[1]} pixels, not {rows} x {cols}.")
        path = self.scratch / f"{layer}.tif"
        with _new_raster(path, self.tile, resolution_m, dtype) as out:
            for row0 in range(0, rows, _STRIP_ROWS):
                block = Slice2D(row0, min(row0 + _STRIP_ROWS, rows), 0, cols)
                strip = np.asarray(source(block) if callable(source) else source[block.slices])
                if strip.shape != block.shape:
                    raise UsageError(f"Layer {layer}: a strip is {strip.shape}, not {block.shape}.")
                where = Window(inside.col0 // ratio, inside.row0 // ratio + row0, cols, strip.shape[0])
                out.write(encode(strip), 1, window=where)
        return path

    def _write_classes(self, scl: ClassSource) -> None:
        staged = self._stage_layer("SCL", 20, "uint8", scl, lambda values: values.astype(np.uint8))
        self.cloud_percent = 100.0 * _share(staged, (8, 9, 10))
        if self.names.level == "L2A":
            self._compress(staged, self.names.image("SCL", 20))
        else:
            self._write_l1c_mask(staged)
        staged.unlink()

    def _write_l1c_mask(self, classes: Path) -> None:
        """Turn scene classes into an L1C product's cloud mask on 60 m pixels."""
        with rasterio.open(classes) as file:
            scl = file.read(1)
        rows, cols = coarse_shape(self.tile, 60)
        padded = np.zeros((rows * 3, cols * 3), np.uint8)
        padded[: scl.shape[0], : scl.shape[1]] = scl[: rows * 3, : cols * 3]
        blocks = padded.reshape(rows, 3, cols, 3)
        layers = [np.asarray(np.isin(blocks, kind).any(axis=(1, 3))) for kind in ((8, 9), (10,), (11,))]
        opaque, cirrus, snow = layers
        quality = f"GRANULE/{self.names.granule}/QI_DATA"
        if float(self.names.baseline) < 4.0:
            coarse = Grid.from_origin(self.tile.crs, self.tile.bounds.left, self.tile.bounds.top, 60.0, rows, cols)
            name = f"{quality}/MSK_CLOUDS_B00.gml"
            (self.root / name).write_bytes(cloud_gml(opaque, cirrus & ~opaque, coarse))
            self.masks["MSK_CLOUDS"] = name
            return
        path = self.scratch / "classi.tif"
        with _new_raster(path, self.tile, 60, "uint8", count=3) as out:
            out.write(np.stack([opaque, cirrus, snow]).astype(np.uint8))
        self._compress(path, f"{quality}/MSK_CLASSI_B00", listed=False)
        self.masks["MSK_CLASSI"] = f"{quality}/MSK_CLASSI_B00.jp2"

    def _stage_true_colour(self) -> Path:
        path = self.scratch / "TCI.tif"
        with _new_raster(path, self.tile, 10, "uint8", count=3) as out:
            for index, band in enumerate(("B04", "B03", "B02"), start=1):
                with rasterio.open(self.scratch / f"{band}.tif") as file:
                    for block in self.tile.row_blocks(_STRIP_ROWS):
                        dn = file.read(1, window=block.window)
                        shade = (dn.astype(np.float32) + self.offset) / self.quantification * (255.0 / 0.3558)
                        out.write(
                            np.where(dn == NODATA_DN, 0, np.clip(shade, 1, 255)).astype(np.uint8),
                            index,
                            window=block.window,
                        )
        return path

    def _compress(self, staged: Path, name: str, *, listed: bool = True) -> None:
        """Copy a temporary raster to lossless JPEG 2000 in 1024 x 1024 tiles."""
        target = self.root / f"{name}.jp2"
        target.parent.mkdir(parents=True, exist_ok=True)
        threads = str(usable_cores())
        # PAM is off because it would leave .aux.xml files that no real product has.
        with rasterio.Env(GDAL_NUM_THREADS=threads, GDAL_PAM_ENABLED="NO"):
            rasterio.shutil.copy(
                staged,
                target,
                driver="JP2OpenJPEG",
                QUALITY="100",
                REVERSIBLE="YES",
                YCBCR420="NO",
                YCC="NO",
                BLOCKXSIZE="1024",
                BLOCKYSIZE="1024",
            )
        if listed:
            self.images.append(name)


def _new_raster(path: Path, tile: Grid, resolution_m: int, dtype: str, count: int = 1) -> rasterio.io.DatasetWriter:
    rows, cols = coarse_shape(tile, resolution_m)
    return rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=rows,
        width=cols,
        count=count,
        dtype=dtype,
        crs=tile.crs,
        transform=rasterio.transform.from_origin(tile.bounds.left, tile.bounds.top, resolution_m, resolution_m),
        tiled=True,
        blockxsize=512,
        blockysize=512,
        sparse_ok=True,
        bigtiff="if_safer",
    )


def _share(path: Path, values: tuple[int, ...]) -> float:
    """Share of pixels (0 to 1) that hold one of ``values``."""
    found = total = 0
    with rasterio.open(path) as file:
        for row0 in range(0, file.height, _STRIP_ROWS):
            strip = file.read(1, window=Window(0, row0, file.width, min(_STRIP_ROWS, file.height - row0)))
            found += int(np.isin(strip, values).sum())
            total += strip.size
    return found / total
