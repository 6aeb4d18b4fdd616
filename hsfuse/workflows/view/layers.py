"""What the explorer shows: the cube, PRISMA and Sentinel-2 on the cube's grid, and the confidence layer."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.warp import Resampler
from hsfuse.errors import HsfuseError, InputError
from hsfuse.grid import Grid, Slice2D
from hsfuse.log import get_logger
from hsfuse.qa.quicklook import fit_shape
from hsfuse.qa.sources import FunctionSource, ImageSource, ProductSource
from hsfuse.readers import open_hsi
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct
from hsfuse.readers.open_msi import open_msi
from hsfuse.workflows.view.origin import Origin, origin_of
from hsfuse.writers.confidence_layer import LAYERS, confidence_path
from hsfuse.writers.raster_cube import RasterCube

_log = get_logger(__name__)
FloatCube = NDArray[np.float32]
OVERVIEW_PX = 1024
"""Longer side of the picture of a whole layer that is kept in memory."""
_KEPT_OVERVIEWS = 24
REACH_NM = 60.0
"""A wavelength farther from every band of a layer is not shown there."""


@dataclass
class Layer:
    """An image on a grid of its own under the cube's pixels.

    Attributes
    ----------
    name, title
        In addresses, and for people.
    source
        Reads bands, decimated where that is wanted.
    fwhm_nm
        Widths of its bands.
    labels
        Names of its bands.
    ratio
        Pixels of the cube along the side of one of the layer's.
    lock
        Files are read by one thread at a time.
    """

    name: str
    title: str
    source: ImageSource
    fwhm_nm: NDArray[np.float64]
    labels: tuple[str, ...]
    ratio: int = 1
    lock: threading.Lock = field(default_factory=threading.Lock)
    _overviews: OrderedDict[int, FloatCube] = field(default_factory=OrderedDict)

    def bands_at(self, wavelengths_nm: Sequence[float]) -> list[int] | None:
        """Bands nearest to wavelengths; None where one has no band near enough."""
        centre = self.source.centre_nm
        bands = [int(np.abs(centre - nm).argmin()) for nm in wavelengths_nm]
        near = all(abs(centre[band] - nm) <= REACH_NM for band, nm in zip(bands, wavelengths_nm, strict=True))
        return bands if near else None

    def overview(self, bands: Sequence[int]) -> FloatCube:
        """Bands of the whole layer at :data:`OVERVIEW_PX`; read once."""
        rows, cols = self.source.shape
        with self.lock:
            missing = sorted({band for band in bands if band not in self._overviews})
            if missing:
                shape = fit_shape((rows, cols), OVERVIEW_PX)
                planes = self.source.read(missing, Slice2D(0, rows, 0, cols), shape)
                self._overviews |= dict(zip(missing, planes, strict=True))
            found = np.stack([self._overviews[band] for band in bands])
            while len(self._overviews) > _KEPT_OVERVIEWS:
                self._overviews.popitem(last=False)
        return found

    def read(self, bands: Sequence[int], block: Slice2D, out_shape: tuple[int, int] | None = None) -> FloatCube:
        """Bands of a block of the layer's own pixels."""
        with self.lock:
            return self.source.read(list(bands), block, out_shape)


class Explored:
    """A cube with everything that can be shown of it; a context manager.

    Parameters
    ----------
    path
        The cube.
    hsi, msi
        Products that it was made of; None: where its report and its metadata say that they are.

    Raises
    ------
    InputError
        The cube cannot be read, or a product that was named cannot.
    """

    def __init__(self, path: Path, *, hsi: Path | None = None, msi: Sequence[Path] = ()) -> None:
        self.path = path
        self.notes: list[str] = []
        self.read_ahead: Callable[[], None] = lambda: None
        """Begin to decode the multispectral image under the cube: later reads find it ready."""
        self._stack = ExitStack()
        try:
            self._open(hsi, msi)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Explored:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self, hsi: Path | None, msi: Sequence[Path]) -> None:
        cube = self._stack.enter_context(open_hsi(self.path))
        self.grid: Grid = cube.grid
        self.bands, self.info = cube.bands, cube.info
        reader = RasterCube(self.path)
        # The product's own reader knows the order of the bands; GDAL's decimated reading is quick.
        source = ProductSource(reader, _in_file(self.bands.centre_nm, self.bands.slot, reader.shape[0]))
        self._stack.callback(reader.close)
        self.cube = Layer(
            "fused", "fused cube", _InOrder(source, self.bands.slot, self.bands.centre_nm), self.bands.fwhm_nm,
            tuple(self.bands.names()),
        )  # fmt: skip
        self.origin: Origin = origin_of(self.path)
        self.layers: dict[str, Layer] = {"fused": self.cube}
        self._add("PRISMA", lambda: self._hsi_layer(hsi or self.origin.hsi), named=hsi is not None)
        self._add("Sentinel-2", lambda: self._msi_layer(msi or self.origin.msi), named=bool(msi))
        layer = confidence_path(self.path)
        self.confidence: Layer | None = None
        if layer.is_file():
            found = self._stack.enter_context(RasterCube(layer))
            if found.shape == (len(LAYERS), *self.grid.shape):
                planes = ProductSource(found, np.arange(float(len(LAYERS))))
                self.confidence = Layer("change", "change map", planes, np.zeros(len(LAYERS)), LAYERS)

    def _add(self, title: str, make: Any, *, named: bool) -> None:
        option = "--hsi" if title == "PRISMA" else "--msi"
        why = f"the product was not found beside the cube; name it with {option}"
        layer = None
        try:
            layer = make()
        except HsfuseError as error:
            if named:
                raise
            why = error.message.rstrip(".")
        if layer is None:
            self.notes.append(f"{title} is not shown: {why}.")
            return
        self.layers[layer.name] = layer

    def _hsi_layer(self, path: Path | None) -> Layer | None:
        if path is None:
            return None
        product: HyperspectralProduct = self._stack.enter_context(open_hsi(path))
        ratio = max(round(product.grid.pixel_m / self.grid.pixel_m), 1)
        coarse = self.grid.coarsened(ratio)
        resampler = Resampler(product.grid, coarse, self.origin.field or DisplacementField.zero())

        def read(block: Slice2D, bands: Sequence[int]) -> FloatCube:
            source = resampler.source_block(block)
            if min(source.shape) < 1:
                return np.full((len(bands), *block.shape), np.nan, np.float32)
            return resampler.apply(product.read(source, list(bands)), source, block)

        bands = product.bands
        return Layer(
            "prisma", product.info.sensor or "hyperspectral", FunctionSource(coarse.shape, bands.centre_nm, read),
            bands.fwhm_nm, tuple(bands.names()), ratio,
        )  # fmt: skip

    def _msi_layer(self, paths: Sequence[Path]) -> Layer | None:
        if not paths:
            return None
        product: MultispectralProduct = self._stack.enter_context(open_msi(list(paths), target=self.grid, verify=False))
        if product.grid.crs != self.grid.crs or not product.grid.aligned_with(self.grid):
            raise InputError(f"the pixels of {product.info.name} are not those of the cube.")
        offset = self.grid.block_in(product.grid)
        whole = product.grid.full

        def read(block: Slice2D, bands: Sequence[int]) -> FloatCube:
            out = np.full((len(bands), *block.shape), np.nan, np.float32)
            wanted = Slice2D(block.row0 + offset.row0, block.row1 + offset.row0,
                             block.col0 + offset.col0, block.col1 + offset.col0)  # fmt: skip
            inside = wanted.intersect(whole)
            if inside is not None:
                rows = slice(inside.row0 - wanted.row0, inside.row1 - wanted.row0)
                cols = slice(inside.col0 - wanted.col0, inside.col1 - wanted.col0)
                out[:, rows, cols] = product.read(inside, list(bands))
            return out

        self.read_ahead = lambda: product.read_ahead(offset.clipped(*whole.shape))
        responses = product.responses
        count = len(product.band_names)
        centre = np.array([r.centre_nm for r in responses]) if responses else np.full(count, np.nan)
        width = np.array([r.range_nm[1] - r.range_nm[0] for r in responses]) if responses else np.zeros(count)
        return Layer(
            "sentinel2", product.info.sensor or "multispectral", FunctionSource(self.grid.shape, centre, read), width,
            tuple(product.band_names),
        )  # fmt: skip


class _InOrder:
    """A product whose bands stand in the file in another order than in its table."""

    def __init__(self, source: ProductSource, slot: NDArray[np.int64], centre_nm: NDArray[np.float64]) -> None:
        self._source, self._slot, self._centre = source, slot, centre_nm

    @property
    def shape(self) -> tuple[int, int]:
        return self._source.shape

    @property
    def centre_nm(self) -> NDArray[np.float64]:
        return self._centre

    def read(self, bands: Sequence[int], block: Slice2D, out_shape: tuple[int, int] | None = None) -> FloatCube:
        return self._source.read([int(self._slot[band]) for band in bands], block, out_shape)


def _in_file(centre_nm: NDArray[np.float64], slot: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    out = np.full(count, np.nan)
    out[slot] = centre_nm
    return out
