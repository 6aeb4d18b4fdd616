"""Fusion of arrays that are already aligned: the same engine without products."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rasterio.crs import CRS

from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.warp import Resampler
from hsfuse.degrade import Psf
from hsfuse.errors import UsageError
from hsfuse.fusion.base import FusionContext
from hsfuse.fusion.create import create_method
from hsfuse.grid import Grid, Slice2D
from hsfuse.inference.budget import choose_plan, make_budget
from hsfuse.inference.engine import fuse_scene_tiles
from hsfuse.inference.scene import FusionScene
from hsfuse.progress import Progress
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct, ProductInfo
from hsfuse.spectral import BandTable, SpectralResponse, srf_weights
from hsfuse.workflows.steps.methods import resolve_device

FloatCube = NDArray[np.float32]


class ArrayProduct(HyperspectralProduct, MultispectralProduct):
    """An array behind both product protocols.

    Parameters
    ----------
    cube
        Reflectance, shape (band, row, col), NaN where there is none.
    grid
        Where it lies.
    bands
        Its bands.
    responses
        Spectral responses, when it serves as an MSI.
    start
        Acquisition time.
    """

    def __init__(
        self,
        cube: FloatCube,
        grid: Grid,
        bands: BandTable,
        responses: tuple[SpectralResponse, ...] | None = None,
        start: datetime | None = None,
    ) -> None:
        self.cube, self.start = cube, start
        self._grid, self._bands, self._responses = grid, bands, responses

    @property
    def grid(self) -> Grid:
        """Grid of the array."""
        return self._grid

    @property
    def bands(self) -> BandTable:
        """Bands of the array."""
        return self._bands

    @property
    def responses(self) -> tuple[SpectralResponse, ...] | None:
        """Spectral responses; None when unknown."""
        return self._responses

    @property
    def info(self) -> ProductInfo:
        """Say that the product is an array."""
        return ProductInfo("array", "array", "", Path(), self.start)

    @property
    def band_names(self) -> tuple[str, ...]:
        """Names of the responses; numbers where there are none."""
        if self.responses is not None and len(self.responses) == self.cube.shape[0]:
            return tuple(response.name for response in self.responses)
        return tuple(f"B{i + 1:02d}" for i in range(self.cube.shape[0]))

    def read(self, block: Slice2D, bands: Sequence[int] | NDArray[np.integer] | None = None) -> FloatCube:
        """Cut out a window."""
        part = self.cube[(slice(None), *block.slices)]
        return np.array(part if bands is None else part[np.asarray(bands)], dtype=np.float32)

    def valid(self, block: Slice2D) -> NDArray[np.bool_]:
        """Mark pixels with any measurement."""
        window: NDArray[np.bool_] = np.any(np.isfinite(self.cube[(slice(None), *block.slices)]), axis=0)
        return window

    def error_codes(self, block: Slice2D, bands: Any = None) -> None:  # noqa: ARG002
        """Arrays carry none."""
        return

    def cloud(self, block: Slice2D) -> None:  # noqa: ARG002
        """Arrays carry none."""
        return

    def classes(self, block: Slice2D) -> None:  # noqa: ARG002
        """Arrays carry none."""
        return

    def close(self) -> None:
        """Do nothing."""


def array_scene(
    hsi: FloatCube, msi: FloatCube, bands: BandTable, responses: Sequence[SpectralResponse] | None, ratio: int, psf: Psf
) -> FusionScene:
    """Put two aligned arrays (band, row, col) on nested grids; NaN marks nodata."""
    fine = Grid.from_origin(CRS.from_epsg(32631), 500_000.0, 5_000_000.0, 10.0, *msi.shape[1:])
    coarse = fine.coarsened(ratio)
    known = tuple(responses) if responses is not None else None
    # What the MSI's bands are is in its responses; without them nobody asks.
    table = BandTable.make([r.centre_nm for r in known] if known else np.linspace(450.0, 900.0, len(msi)))
    return FusionScene(
        ArrayProduct(hsi, coarse, bands), ArrayProduct(msi, fine, table, known), np.arange(len(bands)),
        Resampler(coarse, coarse, DisplacementField.zero()), coarse, ratio, psf,
    )  # fmt: skip


def fuse(
    hsi: ArrayLike,
    msi: ArrayLike,
    *,
    ratio: int,
    method: str = "glp",
    wavelengths_nm: ArrayLike,
    fwhm_nm: ArrayLike | None = None,
    srf: ArrayLike | Sequence[SpectralResponse] | None = None,
    model: str | Path | None = None,
    psf_fwhm: float | None = None,
    tile: int | None = None,
    overlap: int | None = None,
    device: str = "cpu",
    max_memory: str | None = None,
    clip: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    **method_options: Any,
) -> FloatCube:
    """Fuse two aligned arrays.

    Parameters
    ----------
    hsi
        Reflectance, shape (band, row, col); NaN marks nodata.
    msi
        Reflectance, shape (msi band, row * ratio, col * ratio); pixel (0, 0) of the HSI covers rows and columns
        ``0 .. ratio - 1``.
    ratio
        Pixel size ratio, an integer of at least 2.
    method
        Name of a fusion method.
    wavelengths_nm, fwhm_nm
        HSI bands in nanometres, shape (band,).
    srf
        Spectral responses of the MSI bands: weights of shape (msi band, band), or SpectralResponse objects.
    model
        Weights for a network method: name or file.
    psf_fwhm
        Width of the HSI's PSF (FWHM) in HSI pixels, taken as given. None: 1, and methods that can find the width and
        what is left of a shift on the pair do so.
    tile, overlap
        In MSI pixels; chosen from the memory when None.
    device
        ``cpu``, ``cuda:N``, or ``auto``.
    max_memory
        Such as ``4GB``.
    clip
        Cut reflectance to the physical range.
    seed
        For methods that draw random numbers.
    progress
        Where to show progress.
    **method_options
        Passed to the method.

    Returns
    -------
    numpy.ndarray
        Shape (band, row * ratio, col * ratio), float32, NaN where either input has no data.

    Raises
    ------
    UsageError
        Shapes, ratio or wavelengths do not fit together.
    """
    low = np.asarray(hsi, dtype=np.float32)
    high = np.asarray(msi, dtype=np.float32)
    _check_shapes(low, high, ratio)
    ratio, device = int(ratio), resolve_device(device)
    bands = BandTable.make(wavelengths_nm, fwhm_nm)
    if len(bands) != low.shape[0]:
        raise UsageError(f"{len(bands)} wavelengths were given for {low.shape[0]} bands.")
    weights, responses = _srf(srf, bands, high.shape[0])
    scene = array_scene(low, high, bands, responses, ratio, Psf(psf_fwhm or 1.0))
    coarse, fine = scene.grid, scene.fine_grid
    options = dict(method_options) | ({"model": model} if model is not None else {})
    fusion = create_method(method, **options)
    context = FusionContext(
        ratio, bands.centre_nm, bands.fwhm_nm, weights, scene.psf, device, seed, calibrate=psf_fwhm is None
    )
    fusion.fit(context, list(scene.low_resolution_strips()))
    estimate = choose_plan(
        *coarse.shape, ratio=ratio, n_bands=len(bands), n_msi=high.shape[0], source_bands=len(bands),
        spec=fusion.spec, budget=make_budget(device, max_memory, None), tile=tile, overlap=overlap, sample_bytes=4,
    )  # fmt: skip
    result = np.empty((len(bands), *fine.shape), np.float32)

    def keep(row0: int, rows: FloatCube) -> None:
        result[:, row0 : row0 + rows.shape[1]] = rows

    fuse_scene_tiles(
        scene, fusion, estimate.plan, keep, device=device, batch=estimate.batch, clip=clip, progress=progress
    )
    return result


def _check_shapes(low: FloatCube, high: FloatCube, ratio: int) -> None:
    if low.ndim != 3 or high.ndim != 3:
        raise UsageError("Both arrays must have the shape (band, row, col).")
    if ratio < 2 or ratio != int(ratio):
        raise UsageError(f"The ratio must be an integer of at least 2, not {ratio}.")
    expected = (low.shape[1] * ratio, low.shape[2] * ratio)
    if high.shape[1:] != expected:
        raise UsageError(
            f"The MSI has {high.shape[1]} x {high.shape[2]} pixels; the HSI and ratio {ratio} need"
            f" {expected[0]} x {expected[1]}."
        )


def _srf(
    srf: ArrayLike | Sequence[SpectralResponse] | None, bands: BandTable, n_msi: int
) -> tuple[NDArray[np.float64] | None, tuple[SpectralResponse, ...] | None]:
    if srf is None:
        return None, None
    if isinstance(srf, Sequence) and srf and isinstance(srf[0], SpectralResponse):
        responses = tuple(r for r in srf if isinstance(r, SpectralResponse))
        if len(responses) != n_msi:
            raise UsageError(f"{len(responses)} spectral responses were given for {n_msi} MSI bands.")
        return srf_weights(bands, responses), responses
    weights = np.asarray(srf, dtype=np.float64)
    if weights.shape != (n_msi, len(bands)):
        raise UsageError(f"The SRF must have the shape ({n_msi}, {len(bands)}), not {weights.shape}.")
    return weights, None
