"""``hsfuse.fuse``: fusion of arrays that are already aligned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hsfuse.degrade import Psf
from hsfuse.errors import UsageError
from hsfuse.fusion.create import create_method
from hsfuse.fusion.map.method import Quality, refined
from hsfuse.inference import pipeline
from hsfuse.inference.guide_repair import SceneRepair, repair_scene
from hsfuse.progress import Progress
from hsfuse.resources import Resources
from hsfuse.spectral import BandTable, SpectralResponse, srf_weights
from hsfuse.workflows.steps.array_scene import array_scene
from hsfuse.workflows.steps.resources import resolved

FloatCube = NDArray[np.float32]


@dataclass(frozen=True)
class FusedArrays:
    """A cube and what is known about it.

    Attributes
    ----------
    cube
        Shape (band, row, col), reflectance, NaN for nodata.
    change_probability
        That the MSI shows other ground than the HSI, shape (row, col).
    expected_error
        Expected root mean square error over the bands, reflectance, shape (row, col).
    error_bound
        90 % of the errors should stay below so many times the expected one.
    record
        What was found and done, as plain values.
    """

    cube: FloatCube
    change_probability: FloatCube
    expected_error: FloatCube
    error_bound: float
    record: dict[str, Any]


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
    resources: Resources | None = None,
    clip: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    quality: Quality | None = None,
    full_output: bool = False,
    **method_options: Any,
) -> FloatCube | FusedArrays:
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
    resources
        Device, threads and memory to use; None: the CPU with all its cores, and most of the free memory.
    clip
        Cut reflectance to the physical range.
    seed
        For methods that draw random numbers.
    progress
        Where to show progress.
    quality
        None: the method's result. ``fast``, ``standard`` and ``best`` find what changed between both images, repair the
        MSI there, and refine the result: in closed form, on a denoised MSI, and with non-local Bayes too.
    full_output
        Return what is known about the result too; needs ``quality``.
    **method_options
        Passed to the method.

    Returns
    -------
    numpy.ndarray or FusedArrays
        Shape (band, row * ratio, col * ratio), float32, NaN where either input has no data; with ``full_output`` a
        :class:`FusedArrays` that holds it.

    Raises
    ------
    UsageError
        Shapes, ratio or wavelengths do not fit together.
    """
    low = np.asarray(hsi, dtype=np.float32)
    high = np.asarray(msi, dtype=np.float32)
    _check_shapes(low, high, ratio)
    if full_output and quality is None:
        raise UsageError("full_output needs a quality: 'fast', 'standard' or 'best'.")
    if quality not in (None, "fast", "standard", "best"):
        raise UsageError(f"There is no quality '{quality}'.", hint="Choose 'fast', 'standard' or 'best', or None.")
    bands = BandTable.make(wavelengths_nm, fwhm_nm)
    if len(bands) != low.shape[0]:
        raise UsageError(f"{len(bands)} wavelengths were given for {low.shape[0]} bands.")
    weights, responses = _srf(srf, bands, high.shape[0])
    scene = array_scene(low, high, bands, responses, int(ratio), Psf(psf_fwhm or 1.0), weights)
    options = dict(method_options) | ({"model": model} if model is not None else {})
    fusion = refined(create_method(method, **options), quality, ratio=int(ratio))
    given = resolved(resources)
    repair: SceneRepair | None = None
    if quality is not None:
        repair = repair_scene(scene, pipeline.scene_context(scene, given.device, seed, calibrate=psf_fwhm is None))
        scene = repair.scene
    cube = pipeline.fuse_to_array(
        fusion, scene, given, seed=seed, calibrate=psf_fwhm is None, tile=tile, overlap=overlap, clip=clip,
        progress=progress,
    )  # fmt: skip
    if repair is None or not full_output:
        return cube
    record = repair.to_json() | {"method": fusion.diagnostics.to_json()}
    return FusedArrays(cube, repair.change, repair.expected_error, repair.error_bound, record)


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
