"""Reference scenes of the quality benchmark: measured cubes on PRISMA-like bands, with the MSI beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from hsfuse.band_selection.thinning import thin
from hsfuse.band_selection.windows import window_of
from hsfuse.errors import InputError, UsageError
from hsfuse.readers.overlap import cut_overlap
from hsfuse.readers.raster.hsi import RasterHsi
from hsfuse.sensors.sentinel2 import BANDS_10M, table_responses
from hsfuse.simulate.prisma_bands import default_prisma_bands
from hsfuse.simulate.training_scene import training_scene
from hsfuse.spectral import FWHM_TO_SIGMA, BandTable, SpectralResponse, srf_weights
from hsfuse.workflows.steps.cubes import largest_rectangle

FloatCube = NDArray[np.float32]


def prisma_like_bands(count: int = 100) -> BandTable:
    """Return PRISMA bands outside the absorption windows, thinned to ``count``.

    Raises
    ------
    UsageError
        More bands are wanted than PRISMA has outside the windows.
    """
    bands, _ = cut_overlap(default_prisma_bands())
    clear = bands.take([k for k, nm in enumerate(bands.centre_nm) if window_of(float(nm)) is None])
    if not 2 <= count <= len(clear):
        raise UsageError(f"{count} bands are not possible: PRISMA has {len(clear)} outside the absorption windows.")
    return clear.take(thin(clear.centre_nm, np.ones(len(clear)), count).kept)


def resample_bands(cube: FloatCube, source: BandTable, target: BandTable) -> FloatCube:
    """Bring a cube to other bands: Gaussian weights of the target's widths over the source's bands.

    Targets narrower than the source's spacing interpolate between its neighbours; targets outside its range, or in
    a gap of it, take the nearest band.

    Parameters
    ----------
    cube
        Shape (band, row, col).
    source, target
        Bands before and after.
    """
    order = np.argsort(source.centre_nm, kind="stable")
    centre = source.centre_nm[order]
    spacing = np.maximum(np.gradient(centre), 1e-3) if centre.size > 1 else np.ones(1)
    local = np.interp(target.centre_nm, centre, spacing)
    width = np.maximum(target.fwhm_nm, local)
    distance = (target.centre_nm[:, None] - centre[None, :]) / (width[:, None] * FWHM_TO_SIGMA)
    exponent = -0.5 * distance**2
    weights = np.exp(exponent - exponent.max(axis=1, keepdims=True)) * spacing[None, :]
    weights[weights < 1e-3 * weights.max(axis=1, keepdims=True)] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    return np.tensordot(weights, cube[order], axes=1).astype(np.float32)


@dataclass(frozen=True)
class ReferenceScene:
    """A sharp scene and its multispectral view.

    Attributes
    ----------
    name
        For tables.
    cube
        Reflectance (or what stands for it, about 0 to 1), shape (band, row, col), free of NaN.
    msi
        As the MSI's responses see the full spectrum, shape (msi band, row, col). For a method that knows only the
        chosen bands it is not an exact mixture of them, as in reality.
    bands
        Bands of the cube.
    srf
        Weights from the cube's bands to the MSI's, shape (msi band, band): what a method is told.
    responses
        Spectral responses of the MSI.
    file
        Name of the file without suffix, as a network's record of its training has it.
    """

    name: str
    cube: FloatCube
    msi: FloatCube
    bands: BandTable
    srf: NDArray[np.float64]
    responses: tuple[SpectralResponse, ...] = ()
    file: str = ""

    @classmethod
    def make(
        cls,
        name: str,
        cube: FloatCube,
        source: BandTable,
        responses: Sequence[SpectralResponse],
        *,
        target: BandTable | None = None,
        file: str = "",
    ) -> ReferenceScene:
        """Resample a cube to the target's bands (None: keep its own) and integrate the responses over all of them."""
        weights = srf_weights(source, responses)
        if (weights.sum(axis=1) <= 0).any():
            raise InputError(f"The cube '{name}' does not cover all bands of the multispectral sensor.")
        wanted = source if target is None else target
        sharp = cube if target is None else resample_bands(cube, source, target)
        msi = np.tensordot(weights, cube, axes=1).astype(np.float32)
        return cls(name, sharp, msi, wanted, srf_weights(wanted, responses), tuple(responses), file or name)


def generated_scene(
    number: int, side: int, ratio: int, responses: Sequence[SpectralResponse], target: BandTable
) -> ReferenceScene:
    """Draw a scene that no training sees: seeds from 1000 on belong to the benchmark."""
    truth = training_scene(1000 + number, side // ratio * ratio, ratio)
    source, _ = cut_overlap(default_prisma_bands())
    cube = truth.reflectance(source, truth.grid.full)
    return ReferenceScene.make(f"generated-{1000 + number}", cube, source, responses, target=target)


def sentinel2_responses(folder: Path | None, spacecraft: str = "Sentinel-2A") -> list[SpectralResponse]:
    """Return the 10 m bands' responses: measured ones from ``folder/srf``, else the package's model."""
    tables = None if folder is None else folder / "srf" / spacecraft / "MSI"
    if tables is None or not tables.is_dir():
        return list(table_responses(spacecraft, BANDS_10M))
    found = []
    for name in BANDS_10M:
        table = np.loadtxt(tables / f"band_{int(name[1:])}", skiprows=1)
        found.append(SpectralResponse(name, table[:, 0], table[:, 1], "measured"))
    return found


def read_cube(path: Path | str, *, largest: int = 512) -> tuple[FloatCube, BandTable]:
    """Read a measured cube: ``.npz`` (``cube``, ``wavelength_nm``), ``.mat``, or any raster with wavelengths.

    Integer cubes without a known scale are divided by their 99.9th percentile, so that they lie between 0 and
    about 1. Of rasters with nodata, the largest rectangle of valid pixels is used; of scenes with a side longer than
    ``largest``, the middle.

    Returns
    -------
    cube : numpy.ndarray
        Shape (band, row, col), non-negative.
    bands : BandTable
        Ascending in wavelength.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".mat": _read_mat}
    cube, bands = readers.get(path.suffix.lower(), _read_raster)(path)
    order = np.argsort(bands.centre_nm, kind="stable")
    top, left = (max(size - largest, 0) // 2 for size in cube.shape[1:])
    part = cube[order, top : top + largest, left : left + largest]
    return np.maximum(part, 0.0), bands.take(order)


MAT_RANGE_NM = {"chikusei": (363.0, 1018.0), "pavia": (430.0, 860.0)}
"""Spectral ranges of the public scenes whose .mat files carry no wavelengths."""


def _read_mat(path: Path) -> tuple[FloatCube, BandTable]:
    limits = next((nm for name, nm in MAT_RANGE_NM.items() if name in path.stem.lower()), None)
    if limits is None:
        raise InputError(
            f"The wavelengths of {path} are not known.", hint=f"Known scenes: {', '.join(MAT_RANGE_NM)} (file names)."
        )
    try:
        arrays = list(loadmat(path).values())
    except NotImplementedError:  # MATLAB 7.3 files are HDF5
        with h5py.File(path) as file:
            arrays = [np.asarray(item).T for item in file.values() if isinstance(item, h5py.Dataset)]
    cubes = [array for array in arrays if isinstance(array, np.ndarray) and array.ndim == 3]
    if not cubes:
        raise InputError(f"There is no cube in {path}.")
    raw = max(cubes, key=lambda array: array.size)
    cube = np.moveaxis(raw, int(np.argmin(raw.shape)), 0).astype(np.float32)
    cube /= max(float(np.percentile(cube, 99.9)), 1e-6)
    return cube, BandTable.make(np.linspace(*limits, len(cube)))


def _read_npz(path: Path) -> tuple[FloatCube, BandTable]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = set(archive.files)
            raw = np.asarray(archive["cube"])
            centre = np.asarray(archive["wavelength_nm"], dtype=np.float64)
            width = np.asarray(archive["fwhm_nm"], dtype=np.float64) if "fwhm_nm" in names else None
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"The file {path} is not a cube with wavelengths.",
            hint="An .npz needs the arrays 'cube' (band, row, col) and 'wavelength_nm' (band,).",
        ) from error
    if raw.ndim != 3 or raw.shape[0] != centre.size:
        raise InputError(f"The cube in {path} has the shape {raw.shape}, but there are {centre.size} wavelengths.")
    cube = raw.astype(np.float32)
    if np.issubdtype(raw.dtype, np.integer):
        cube /= max(float(np.percentile(cube, 99.9)), 1e-6)
    if width is None:
        # Overlapping detectors make spacings useless as widths; 10 nm is what imaging spectrometers have.
        width = np.full(centre.size, 10.0)
    return np.nan_to_num(cube), BandTable.make(centre, width)


def _read_raster(path: Path) -> tuple[FloatCube, BandTable]:
    with RasterHsi(path) as product:
        good = np.flatnonzero(product.bands.good)
        cube = product.read(product.grid.full, good)
        bands = product.bands.take(good)
    filled = np.isfinite(cube).any(axis=(1, 2))
    cube, bands = cube[filled], bands.take(filled)
    if cube.shape[0] == 0:
        raise InputError(f"The raster {path} holds no data.")
    block = largest_rectangle(np.asarray(np.isfinite(cube).all(axis=0)))
    if min(block.shape) < 1:
        raise InputError(f"No pixel of {path} is valid in all bands.")
    return cube[:, *block.slices], bands
