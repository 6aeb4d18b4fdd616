"""Sentinel-2 L2A and L1C products: one tile as lazy windows of reflectance, classes and cloud.

Reflectance is ``(DN + offset) / quantification`` with both numbers from the product's own metadata. DN 0 (no
data) and 65535 (saturated: the true value is unknown) become NaN; negative reflectance after the offset is
legitimate and stays.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader

from hsfuse.errors import HsfuseError, UsageError
from hsfuse.grid import Grid, Slice2D
from hsfuse.log import get_logger
from hsfuse.masks import SCL_CLOUD, BoolArray, in_classes
from hsfuse.processor import usable_cores
from hsfuse.readers.base import FloatCube, MultispectralProduct, ProductInfo
from hsfuse.readers.entry import BandChoice
from hsfuse.readers.sentinel2.archive import SafeArchive
from hsfuse.readers.sentinel2.decoded_layers import DecodedLayers
from hsfuse.readers.sentinel2.description import choose_responses, describe
from hsfuse.readers.sentinel2.images import LayerPool, finish
from hsfuse.readers.sentinel2.layers import choose_granule, layer_members, place_layers
from hsfuse.readers.sentinel2.masks import CloudPolygons
from hsfuse.readers.sentinel2.metadata import read_safe_metadata
from hsfuse.readers.sentinel2.overview import OverviewReader
from hsfuse.sensors.sentinel2 import BANDS_10M, BANDS_ALL
from hsfuse.spectral import SpectralResponse

_log = get_logger(__name__)

BandSet = BandChoice | Literal["first"]
"""Bands to open; ``first``: B02 alone, for those who look at the scene classes."""
_CHOICES: dict[BandSet, tuple[str, ...]] = {
    "10m": BANDS_10M, "all": BANDS_ALL, "swir": ("B02", "B11", "B12"), "first": ("B02",),
}  # fmt: skip


@dataclass(frozen=True)
class ReadStatistics:
    """Samples read so far (a window read twice counts twice, so use them as shares)."""

    samples: int
    nodata: int
    saturated: int


class Sentinel2Product(MultispectralProduct):
    """One tile (granule) of a Sentinel-2 product.

    Parameters
    ----------
    path
        ``.SAFE`` folder, its ``MTD_MSIL*.xml``, or a ``.zip`` of it.
    bands
        ``10m``: B02, B03, B04, B08. ``all``: these and B05, B06, B07, B8A, B11, B12, whose 20 m pixels are brought
        to 10 m by bilinear interpolation. ``swir``: B02 (whose grid they share), B11 and B12. ``first``: B02 alone.
    granule
        Which granule, by its folder or tile name; needed only for old products with several.
    verify
        Compare each image with its checksum in ``manifest.safe`` (when it is listed there) before it is read. Without,
        each is looked through for holes.
    threads
        Threads that may decode images; None: one for each core that the process may use.
    notes
        What else there is to say about the product, for its warnings.

    Raises
    ------
    InputError
        The product is damaged, incomplete, or holds several granules and none was chosen.

    Notes
    -----
    Reading is safe from several threads. Each band has its own, and blocks under the window alone are decoded, once.
    """

    def __init__(
        self, path: Path | str, *, bands: BandSet = "10m", granule: str | None = None, verify: bool = True,
        threads: int | None = None, notes: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self._verify, self._threads = verify, threads or usable_cores()
        self._archive = SafeArchive(Path(path))
        self._pool: LayerPool | None = None
        self._layers: DecodedLayers | None = None
        try:
            self._metadata = read_safe_metadata(self._archive)
            self._granule = choose_granule(self._metadata, granule)
            self._band_names = _CHOICES[bands]
            self._warnings = [*self._metadata.warnings, *notes]
            self._members = layer_members(self._granule, self._band_names, self._metadata.name)
            paths = {layer: self._archive.gdal_path(member) for layer, member in self._members.items()}
            self._pool = LayerPool(paths, self._metadata.name, self._check_layer, threads=self._threads)
            self._grid, self._placements = place_layers(
                self._pool, list(self._members), self._granule.grids[10], self._metadata.name, self._warnings
            )
            self._layers = DecodedLayers(self._pool, self._placements, self._metadata.name, self._threads)
            self._clouds = self._read_polygons()
            self._responses = choose_responses(self._metadata, self._band_names, self._warnings)
            if verify:
                tile = self._granule
                read = (self._archive.product_xml, self._archive.tile_xml(tile.name), tile.masks.get("MSK_CLOUDS"))
                self._warnings += self._archive.altered(name for name in read if name is not None)
        except HsfuseError:
            self.close()
            raise
        self._info = describe(
            self._archive.path, self._metadata, self._granule, self._responses, self._cloud_source(), self._warnings
        )
        self._lock = threading.Lock()
        self._counts = np.zeros(3, np.int64)

    @property
    def info(self) -> ProductInfo:
        """Facts about the product."""
        return self._info

    @property
    def grid(self) -> Grid:
        """Grid of the 10 m bands."""
        return self._grid

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the bands in reading order."""
        return self._band_names

    @property
    def responses(self) -> tuple[SpectralResponse, ...]:
        """Spectral responses in reading order."""
        return self._responses

    @property
    def offers_band_choice(self) -> bool:
        """True: 10 m bands, or the 20 m bands too."""
        return True

    def swir_reference(self) -> Sentinel2Product:
        """Open the same tile with its SWIR bands; the caller closes it."""
        # No more bands than needed: those of a compressed .zip are unpacked first.
        return Sentinel2Product(
            self._archive.path, bands="swir", granule=self._granule.name, verify=self._verify, threads=self._threads
        )

    # ------------------------------------------------------------------ set-up

    def _check_layer(self, layer: str) -> None:
        self._archive.check_image(self._members[layer], layer, verify=self._verify)

    def _read_polygons(self) -> CloudPolygons | None:
        name = self._granule.masks.get("MSK_CLOUDS")
        if name is None or "SCL" in self._placements or "MSK_CLASSI" in self._placements:
            return None
        return CloudPolygons(self._archive.read_bytes(name), f"{self._metadata.name}/{name}")

    def _cloud_source(self) -> str | None:
        for layer in ("SCL", "MSK_CLASSI"):
            if layer in self._placements:
                return layer
        return "MSK_CLOUDS" if self._clouds is not None else None

    # ------------------------------------------------------------------ reading

    @property
    def _open_layers(self) -> DecodedLayers:
        if self._layers is None:
            raise UsageError("The Sentinel-2 product was closed.")
        return self._layers

    def read(self, block: Slice2D, bands: Sequence[int] | None = None) -> FloatCube:
        """Read reflectance on the 10 m grid, shape (band, row, col), NaN where there is no data or saturation.

        Parameters
        ----------
        block
            Rows and columns inside :attr:`grid`.
        bands
            Indices into :attr:`band_names` (all when None).
        """
        self._check_block(block)
        names = self.band_names if bands is None else tuple(self.band_names[i] for i in bands)
        layers = self._open_layers
        cube = np.empty((len(names), *block.shape), np.float32)
        futures: list[Future[None]] = []
        for band, plane in zip(names, cube, strict=True):

            def task(file: DatasetReader, band: str = band, plane: NDArray[np.float32] = plane) -> None:
                self._read_band(file, band, block, plane)

            futures.append(layers.pool.submit(band, task))
        finish(futures)
        layers.report_flat_blocks(self.band_names, self._metadata.nodata_dn)
        return cube

    def _read_band(
        self, file: DatasetReader, band: str, block: Slice2D, plane: NDArray[np.float32], *, count: bool = True
    ) -> None:
        placement = self._placements[band]
        if placement.ratio == 1:
            self._scale(self._open_layers.read(file, band, block), band, plane, count=count)
            return
        source = placement.source(block, margin=1)
        if min(source.shape) < 1:
            plane.fill(np.nan)
            return
        coarse = np.empty(source.shape, np.float32)
        self._scale(self._open_layers.read(file, band, source), band, coarse, count=count)
        plane[:] = placement.bilinear(coarse, source, block)

    def read_ahead(self, block: Slice2D, bands: Sequence[int] | None = None) -> None:
        """Begin to decode what will be read soon, on cores that have nothing else to do; returns at once.

        Parameters
        ----------
        block
            Rows and columns of :attr:`grid`; what lies outside is left out.
        bands
            Indices into :attr:`band_names` (all when None); the scene classification is expected with each.
        """
        inside = block.clipped(*self.grid.shape)
        names = self.band_names if bands is None else tuple(self.band_names[i] for i in bands)
        if not names or min(inside.shape) < 1:
            return
        if "SCL" in self._placements:
            names = (*names, "SCL")
        self._open_layers.read_ahead(names, inside)

    def _scale(
        self, dn: NDArray[np.unsignedinteger], band: str, out: NDArray[np.float32], *, count: bool = True
    ) -> None:
        """Turn DN into reflectance, in place of ``out``."""
        meta = self._metadata
        np.multiply(dn, np.float32(1.0 / meta.quantification), out=out, casting="unsafe")
        out += np.float32(meta.offsets[band] / meta.quantification)
        nodata, saturated = dn == meta.nodata_dn, dn == meta.saturated_dn
        out[nodata | saturated] = np.nan
        if count:
            with self._lock:
                self._counts += np.array([dn.size, np.count_nonzero(nodata), np.count_nonzero(saturated)], np.int64)

    @property
    def statistics(self) -> ReadStatistics:
        """How many samples were read so far, and how many of them had no data or were saturated."""
        with self._lock:
            return ReadStatistics(*(int(value) for value in self._counts))

    def read_overview(self, block: Slice2D, factor: int, bands: Sequence[int] | None = None) -> FloatCube:
        """Read a decimated view for coarse matching and quicklooks, shape (band, rows // factor, cols // factor).

        Much faster than :meth:`read`, because JPEG 2000 files carry their own lower resolutions; ``factor`` is a
        power of two. ``grid.crop(block).coarsened(factor)`` is its grid, pixel centres included. Pixels beside
        nodata are NaN too, since the stored resolutions mix nodata into them.
        """
        self._check_block(block)
        names = self.band_names if bands is None else tuple(self.band_names[i] for i in bands)
        read_band, scale = partial(self._read_band, count=False), partial(self._scale, count=False)
        reader = OverviewReader(self._open_layers.pool, self._placements, read_band, scale)
        return reader.read(names, block, factor)

    def classes(self, block: Slice2D) -> NDArray[np.uint8] | None:
        """Scene classification (SCL codes) on the 10 m grid by nearest pixel, shape (row, col); None for L1C."""
        self._check_block(block)
        return self._nearest_layer("SCL", block, (1,))[0] if "SCL" in self._placements else None

    def cloud(self, block: Slice2D) -> BoolArray | None:
        """Pixels hidden by cloud, cirrus or (L2A only) cloud shadow, shape (row, col); None without any mask.

        From the scene classification; in L1C from the classification mask (opaque cloud, cirrus) or, in baselines
        before 04.00, from the cloud polygons.
        """
        classes = self.classes(block)
        if classes is not None:
            return in_classes(classes, SCL_CLOUD)
        if "MSK_CLASSI" in self._placements:
            return np.asarray(self._nearest_layer("MSK_CLASSI", block, (1, 2)).any(axis=0), dtype=np.bool_)
        return self._clouds.mask(self.grid, block) if self._clouds is not None else None

    def _nearest_layer(self, layer: str, block: Slice2D, indexes: tuple[int, ...]) -> NDArray[np.uint8]:
        place = self._placements[layer]
        source = place.source(block)
        if min(source.shape) < 1:
            return np.zeros((len(indexes), *block.shape), np.uint8)

        def task(file: DatasetReader) -> NDArray[np.uint8]:
            present = [index for index in indexes if index <= file.count]
            if present == [1]:
                return np.asarray(self._open_layers.read(file, layer, source)[None], dtype=np.uint8)
            return np.asarray(file.read(present, window=source.window), dtype=np.uint8)

        return place.nearest(self._open_layers.pool.submit(layer, task).result(), source, block)

    def _check_block(self, block: Slice2D) -> None:
        if block != block.clipped(*self.grid.shape) or min(block.shape) < 1:
            raise UsageError(
                f"The block {block} does not lie inside the image of {self.grid.height} x {self.grid.width}."
            )

    # ------------------------------------------------------------------ end

    def close(self) -> None:
        """Close all files and remove what was unpacked."""
        if self._layers is not None:
            self._layers.stop()
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._layers is not None:
            self._layers.close()
            self._layers = None
        self._archive.close()
