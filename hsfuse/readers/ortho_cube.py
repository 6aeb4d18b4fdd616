"""Orthorectified cubes of one TIFF with metadata and quality layers beside it: what EnMAP and DESIS products share."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from hsfuse.errors import InputError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.base import ERROR_INVALID_L1, BoolArray, FloatCube, HyperspectralProduct, ProductInfo
from hsfuse.readers.blocks import BandIndex, band_index, check_block
from hsfuse.readers.decoder import DecoderError, decoder_warnings_are_errors, gdal_warnings
from hsfuse.readers.gdal import TIFF_DRIVERS, closed_world, open_image
from hsfuse.readers.map_grid import read_grid
from hsfuse.readers.overlap import OverlapReport, cut_overlap
from hsfuse.readers.package import ProductPackage
from hsfuse.spectral import BandTable

_PROBES = 8
_NOT_MEASURED = 255
"""In a layer of defects: nothing was measured there."""


@dataclass(frozen=True)
class QualityLayer:
    """Where a package says that pixels are hidden.

    Attributes
    ----------
    part
        File of the package, such as ``QL_QUALITY_CLOUD``.
    index
        Band of it.
    least
        Smallest number that means hidden.
    """

    part: str
    index: int = 1
    least: int = 1


@dataclass(frozen=True)
class CubeFacts:
    """What the metadata of a package say.

    Attributes
    ----------
    sensor, level, start, sun_zenith_deg, sun_azimuth_deg, view_zenith_deg, attributes, warnings
        As in :class:`~hsfuse.readers.base.ProductInfo`.
    bands
        All bands, in file order.
    scale, offset
        From stored numbers to reflectance, for each band of the file.
    nodata
        Stored number of samples without data.
    hidden
        Layers of cloud, cloud shadow and cirrus; those that were not delivered are passed over.
    defects
        File with one layer a band whose non-zero samples are defective, 255 being outside the image; None when there
        is none.
    """

    sensor: str
    level: str
    start: datetime | None
    bands: BandTable
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]
    nodata: float
    sun_zenith_deg: float | None = None
    sun_azimuth_deg: float | None = None
    view_zenith_deg: float | None = None
    hidden: tuple[QualityLayer, ...] = ()
    defects: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class OrthoCube(HyperspectralProduct):
    """A cube on a map grid, with its metadata and quality layers.

    Parameters
    ----------
    package
        Files of the product; the cube closes it.
    facts
        What its metadata say.
    cut_nm
        Where two detectors deliver the same wavelength, the one for shorter waves is used up to here.

    Raises
    ------
    InputError
        The image is missing or damaged, contradicts its metadata or its quality layers, or has no usable map grid.
    """

    def __init__(self, package: ProductPackage, facts: CubeFacts, *, cut_nm: float) -> None:
        self._package, self._facts = package, facts
        self._lock = threading.Lock()
        self._layers: dict[str, DatasetReader] = {}
        self._complaints: list[str] = []
        try:
            cube = self._open("SPECTRAL_IMAGE")
            if cube.count != len(facts.bands):
                raise InputError(
                    f"{package.path}: the image has {cube.count} bands, its metadata describe {len(facts.bands)}.",
                    hint="The files belong to different products; download the product again.",
                )
            self._grid = read_grid(cube, package.path)
            # Some metadata state another number than the image, which is to be believed then too.
            self._fill = np.unique([facts.nodata, facts.nodata if cube.nodata is None else cube.nodata])
            self._hidden = tuple(layer for layer in facts.hidden if self._matching(layer.part))
            self._defects = facts.defects if facts.defects is not None and self._matching(facts.defects) else None
        except BaseException:
            self.close()
            raise
        self._bands, self._overlap = cut_overlap(facts.bands, cut_nm)
        self._probes = sorted({int(i) for i in np.linspace(0, len(self._bands) - 1, _PROBES).round()})
        self._info = self._describe()

    def _open(self, part: str) -> DatasetReader:
        path = self._package.gdal_path(part)
        try:
            settings = closed_world(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR")
            with warnings.catch_warnings(), settings, gdal_warnings() as said:
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                self._layers[part] = open_image(path, TIFF_DRIVERS)
        except (RasterioError, OSError) as error:
            raise self._unreadable(part, error) from error
        self._complaints += [f"GDAL complains of {part} of {self._package.scene}: {text}" for text in said]
        return self._layers[part]

    def _unreadable(self, part: str, error: Exception) -> InputError:
        return InputError(
            f"{self._package.path}: {part} of {self._package.scene} cannot be read ({' '.join(str(error).split())}).",
            hint="The file is damaged or cut off; download the product again.",
        )

    def _matching(self, part: str) -> bool:
        """Open a quality layer; False when it was not delivered."""
        if not self._package.has(part):
            return False
        layer = self._layers[part] if part in self._layers else self._open(part)
        if (layer.height, layer.width) != self._grid.shape:
            raise InputError(
                f"{self._package.path}: {part} has {layer.height} x {layer.width} pixels, the image "
                f"{self._grid.height} x {self._grid.width}.",
                hint="The files belong to different products; download the product again.",
            )
        return True

    def _describe(self) -> ProductInfo:
        facts = self._facts
        missing = [layer.part for layer in facts.hidden if layer not in self._hidden]
        said = [*facts.warnings, *self._complaints]
        if len(missing) == len(facts.hidden) and missing:
            said.append("The quality layers are missing: clouds in the image are taken for ground.")
        return ProductInfo(
            name=self._package.scene,
            sensor=facts.sensor,
            level=facts.level,
            path=self._package.path,
            start=facts.start,
            sun_zenith_deg=facts.sun_zenith_deg,
            sun_azimuth_deg=facts.sun_azimuth_deg,
            view_zenith_deg=facts.view_zenith_deg,
            attributes={
                "epsg": self._grid.crs.to_epsg(),
                "overlap": self._overlap.to_json(),
                "cloud_layers": [layer.part for layer in self._hidden],
                "panchromatic": False,
                **facts.attributes,
            },
            warnings=tuple(said),
        )

    @property
    def info(self) -> ProductInfo:
        """Facts about the product."""
        return self._info

    @property
    def grid(self) -> Grid:
        """Grid of the cube."""
        return self._grid

    @property
    def bands(self) -> BandTable:
        """Bands, ascending in wavelength, a detector overlap cut; ``slot`` is the place in the file (from 0)."""
        return self._bands

    @property
    def overlap_report(self) -> OverlapReport:
        """Which bands the cut between two detectors dropped."""
        return self._overlap

    def _raw(self, part: str, indexes: Sequence[int], block: Slice2D) -> NDArray[Any]:
        check_block(block, self._grid.shape)
        try:
            with self._lock, closed_world(), decoder_warnings_are_errors():
                raw: NDArray[Any] = self._layers[part].read(list(indexes), window=block.window)
        except (RasterioError, OSError, DecoderError) as error:
            raise self._unreadable(part, error) from error
        return raw

    def read(self, block: Slice2D, bands: BandIndex = None) -> FloatCube:
        """Read reflectance, float32 (band, row, col), NaN where there is no data."""
        slots = self._bands.slot[band_index(bands, len(self._bands))]
        if slots.size == 0:
            check_block(block, self._grid.shape)
            return np.empty((0, *block.shape), np.float32)
        raw = self._raw("SPECTRAL_IMAGE", [int(slot) + 1 for slot in slots], block)
        out: FloatCube = np.multiply(raw, self._facts.scale[slots, None, None].astype(np.float32), dtype=np.float32)
        out += self._facts.offset[slots, None, None].astype(np.float32)
        out[self._is_fill(raw) | ~np.isfinite(out)] = np.nan
        return out

    def valid(self, block: Slice2D) -> BoolArray:
        """Pixels with data in any of some bands spread over the spectrum, shape (row, col)."""
        slots = self._bands.slot[self._probes]
        raw = self._raw("SPECTRAL_IMAGE", [int(slot) + 1 for slot in slots], block)
        return np.asarray((~self._is_fill(raw)).any(axis=0), dtype=np.bool_)

    def _is_fill(self, raw: NDArray[Any]) -> BoolArray:
        found: BoolArray = raw == self._fill[0]
        for number in self._fill[1:]:
            found |= raw == number
        return found

    def cloud(self, block: Slice2D) -> BoolArray | None:
        """Pixels under cloud, cloud shadow or cirrus by the producer's layers, shape (row, col); None without any."""
        check_block(block, self._grid.shape)
        if not self._hidden:
            return None
        out = np.zeros(block.shape, np.bool_)
        for layer in self._hidden:
            out |= self._raw(layer.part, [layer.index], block)[0] >= layer.least
        return out

    def error_codes(self, block: Slice2D, bands: BandIndex = None) -> NDArray[np.uint8] | None:
        """Samples of defective detector elements as invalid, shape (band, row, col); None without such a layer."""
        check_block(block, self._grid.shape)
        if self._defects is None:
            return None
        slots = self._bands.slot[band_index(bands, len(self._bands))]
        count = self._layers[self._defects].count
        if count != len(self._facts.bands):
            # One layer for all bands.
            marks = np.repeat(self._raw(self._defects, [1], block), slots.size, axis=0)
        else:
            marks = self._raw(self._defects, [int(slot) + 1 for slot in slots], block)
        return np.where((marks != 0) & (marks != _NOT_MEASURED), np.uint8(ERROR_INVALID_L1), np.uint8(0))

    def close(self) -> None:
        """Close all files and remove what was unpacked."""
        for layer in self._layers.values():
            layer.close()
        self._layers.clear()
        self._package.close()
