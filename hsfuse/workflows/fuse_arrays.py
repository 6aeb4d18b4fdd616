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
from hsfuse.inference.fallback import dependable
from hsfuse.inference.guide_repair import SceneRepair, repair_scene
from hsfuse.progress import Progress
from hsfuse.resources import Resources
from hsfuse.spectral import SpectralResponse
from hsfuse.workflows.steps.array_checks import (
    band_table,
    check_shapes,
    psf_width,
    reflectance,
    spectral_weights,
    whole,
)
from hsfuse.workflows.steps.array_scene import array_scene
from hsfuse.workflows.steps.resources import resolved

FloatCube = NDArray[np.float32]
INTERPOLATION = "bicubic"
"""Method that stands in where a scene is too small, or has too few bands, for the one that was asked for."""


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
        Reflectance, shape (band, row, col). NaN marks nodata, as do infinite values and the mask of a masked array.
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
    HsfuseError
        Shapes, ratio, wavelengths or another argument cannot be meant; no pixel is valid in both images.
    TypeError, ValueError
        An argument is no array of numbers, or no option of the method.

    Notes
    -----
    Where the scene is too small for the method to learn from, or has so few bands that the method is no better than
    interpolation at reduced resolution, the HSI is interpolated, and the log says so.
    """
    low, high = reflectance("HSI", hsi), reflectance("MSI", msi)
    nested = whole("ratio", ratio, least=2)
    check_shapes(low, high, nested)
    tile_px = None if tile is None else whole("tile", tile, least=1)
    overlap_px = None if overlap is None else whole("overlap", overlap, least=0)
    random_seed = whole("seed", seed, least=0)
    if full_output and quality is None:
        raise UsageError("full_output needs a quality: 'fast', 'standard' or 'best'.")
    if quality not in (None, "fast", "standard", "best"):
        raise UsageError(f"There is no quality '{quality}'.", hint="Choose 'fast', 'standard' or 'best', or None.")
    bands = band_table(wavelengths_nm, fwhm_nm, len(low))
    weights, responses = spectral_weights(srf, bands, len(high))
    scene = array_scene(low, high, bands, responses, nested, Psf(psf_width(psf_fwhm) or 1.0), weights)
    options = dict(method_options) | ({"model": model} if model is not None else {})
    create_method(method, **options)  # a mistake in its options is said before anything else
    given = resolved(resources)
    repair: SceneRepair | None = None
    free = psf_fwhm is None
    if quality is not None:
        repair = repair_scene(scene, pipeline.scene_context(scene, given.device, random_seed, calibrate=free))
        scene = repair.scene
    fusion = dependable(
        lambda: refined(create_method(method, **options), quality, ratio=nested),
        lambda: create_method(INTERPOLATION),
        scene, pipeline.scene_context(scene, given.device, random_seed, calibrate=free),
    )  # fmt: skip
    cube = pipeline.fitted_to_array(
        fusion, scene, given, tile=tile_px, overlap=overlap_px, clip=clip, progress=progress
    )  # fmt: skip
    if repair is None or not full_output:
        return cube
    record = repair.to_json() | {"method": fusion.diagnostics.to_json()}
    return FusedArrays(cube, repair.change, repair.expected_error, repair.error_bound, record)
