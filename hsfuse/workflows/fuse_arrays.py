"""``hsfuse.fuse``: fusion of arrays that are already aligned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hsfuse.degrade import Psf
from hsfuse.degrade.whole_offset import moved, whole_pixel_offset
from hsfuse.errors import OverlapError, UsageError
from hsfuse.fusion.base import FusionContext, FusionMethod
from hsfuse.fusion.create import create_method
from hsfuse.fusion.map.method import Quality, refined
from hsfuse.fusion.registry import uses_guide
from hsfuse.inference import pipeline
from hsfuse.inference.fallback import INTERPOLATION, dependable
from hsfuse.inference.few_bands import few_bands_note
from hsfuse.inference.guide_repair import SceneRepair, repair_scene, told_without_guide
from hsfuse.inference.scene import FusionScene
from hsfuse.log import get_logger
from hsfuse.progress import Progress, progress_here
from hsfuse.resources import Resources
from hsfuse.spectral import SpectralResponse
from hsfuse.workflows.python.data_arrays import Labels
from hsfuse.workflows.python.words import speaks_python
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

if TYPE_CHECKING:
    import xarray as xr

_log = get_logger(__name__)

FloatCube = NDArray[np.float32]
MethodOption = float | str | bool


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


@speaks_python
def fuse(
    hsi: ArrayLike | xr.DataArray,
    msi: ArrayLike | xr.DataArray,
    *,
    ratio: int | None = None,
    method: str = "glp",
    wavelengths_nm: ArrayLike | None = None,
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
    quality: Quality | Literal["plain"] | None = "standard",
    full_output: bool = False,
    partners: Sequence[ArrayLike | xr.DataArray] = (),
    **method_options: MethodOption,
) -> FloatCube | FusedArrays | xr.DataArray | xr.Dataset:
    """Fuse two aligned arrays.

    Parameters
    ----------
    hsi
        Reflectance, shape (band, row, col). NaN marks nodata, as do infinite values, the mask of a masked array, and
        numbers that are used for nothing else (-999, -9999, -32768, -99999) and values more than 100 times what 99 % of
        the image stay below.
        Also a DataArray with the dimensions y, x and wavelength or band, such as ``hsfuse.open(path).reflectance``.
    msi
        Reflectance, shape (msi band, row * ratio, col * ratio); pixel (0, 0) of the HSI covers rows and columns
        ``0 .. ratio - 1``. Also a DataArray.
    ratio
        Pixel size ratio, an integer of at least 2; may be left out where the coordinates of two DataArrays tell it.
    method
        Name of a fusion method.
    wavelengths_nm, fwhm_nm
        HSI bands in nanometres, shape (band,); coordinates ``wavelength`` and ``fwhm`` of a DataArray do as well.
    srf
        Spectral responses of the MSI bands: weights of shape (msi band, band), or SpectralResponse objects. None: by
        the coordinates ``wavelength`` and ``fwhm`` of a DataArray, as flat-topped bands; else not known.
    model
        Weights for a network method: name or file.
    psf_fwhm
        Width of the HSI's PSF (FWHM) in HSI pixels, taken as given. None: 1, and methods that can find the width and
        what is left of a shift on the pair do so; an HSI that clearly lies up to four whole pixels off is moved, with a
        warning.
    tile, overlap
        In MSI pixels; chosen from the memory when None.
    resources
        Device, threads and memory to use; None: the CPU with all its cores, and most of the free memory.
    clip
        Cut reflectance to the physical range.
    seed
        For methods that draw random numbers.
    progress
        Where to show progress; None: in a notebook below the cell, else nowhere.
    quality
        ``fast``, ``standard`` and ``best`` find what changed between both images, repair the MSI there, and refine the
        result: in closed form, on a denoised MSI, and with non-local Bayes too. ``plain`` or None: the method's result
        alone, as always of a method that does not look at the MSI (``bicubic``).
    full_output
        Return what is known about the result too; not with ``plain``.
    partners
        Further dates of ``msi``: its bands, on its pixels, NaN where they do not show the ground clearly. The MSI is
        combined with them where the ground did not change, which takes noise out of it, and they stand in where it
        shows other ground than the HSI and they do not. ``record["partners"]`` of the full output tells what each
        brought. Not with ``plain``.
    **method_options
        Options of the method, by name; ``hsfuse compare --help`` and docs/methods.md name them.

    Returns
    -------
    numpy.ndarray or FusedArrays
        Shape (band, row * ratio, col * ratio), float32, NaN where either input has no data; with ``full_output`` a
        :class:`FusedArrays` that holds it. Of a DataArray: a DataArray with coordinates and reference system, or a
        Dataset.

    Raises
    ------
    HsfuseError
        Shapes, ratio, wavelengths or another argument cannot be meant; no pixel is valid in both images.
    TypeError, ValueError
        An argument is no array of numbers, or no option of the method.

    Notes
    -----
    Where the scene is too small for the method to learn from, or has so few bands that the method is no better than
    interpolation at reduced resolution, or both images differ on most of the ground, the HSI is interpolated, and the
    log says so.

    Examples
    --------
    >>> import numpy as np, hsfuse
    >>> rng = np.random.default_rng(0)
    >>> hsi, msi = rng.random((30, 24, 24)), rng.random((4, 72, 72))
    >>> hsfuse.fuse(hsi, msi, ratio=3, wavelengths_nm=np.linspace(450, 2300, 30)).shape
    (30, 72, 72)
    """
    labels = Labels.of(hsi, msi)
    known_ratio = labels.ratio if ratio is None else ratio
    if known_ratio is None:
        raise _unknown("ratio")
    nested = whole("ratio", known_ratio, least=2)
    centre_nm = labels.wavelengths_nm if wavelengths_nm is None else wavelengths_nm
    if centre_nm is None:
        raise _unknown("wavelengths_nm")
    fwhm_nm = labels.fwhm_nm if fwhm_nm is None else fwhm_nm
    srf = labels.srf if srf is None else srf
    low, high = reflectance("HSI", labels.hsi), reflectance("MSI", labels.msi)
    check_shapes(low, high, nested)
    free = psf_fwhm is None
    offset = (0, 0)
    if free and uses_guide(method):
        offset = whole_pixel_offset((low, high, np.asarray(np.isfinite(low).any(axis=0))), nested)
    if any(offset):
        low = moved(low, offset)
        _log.warning(
            "The HSI lies %+d and %+d of its pixels (rows, columns) off the MSI. It was moved, and is without data at "
            "its border; align the images before (hsfuse coregister), or give psf_fwhm to take them as they lie.",
            *offset,
        )
    tile_px = None if tile is None else whole("tile", tile, least=1)
    overlap_px = None if overlap is None else whole("overlap", overlap, least=0)
    random_seed = whole("seed", seed, least=0)
    spent = _quality(quality, method, full_output=full_output)
    dates = _partners(partners, labels, high.shape, spent)
    bands = band_table(centre_nm, fwhm_nm, len(low))
    weights, responses = spectral_weights(srf, bands, len(high))
    scene = array_scene(low, high, bands, responses, nested, Psf(psf_width(psf_fwhm) or 1.0), weights, dates)
    options: dict[str, Any] = dict(method_options) | ({"model": model} if model is not None else {})
    create_method(method, **options)  # a mistake in its options is said before anything else
    _warn_of_few_bands(len(bands), method)
    given = resolved(resources)
    repair: SceneRepair | None = None
    as_given = scene
    if spent is not None:
        try:
            repair = repair_scene(scene, pipeline.run_context(scene, given, random_seed, calibrate=free))
            scene = repair.scene
        except OverlapError:
            # Too few pixels to tell anything by: they are interpolated below, and that is said.
            if full_output:
                raise
    context = pipeline.run_context(scene, given, random_seed, calibrate=free)
    if repair is not None and not repair.trusted:
        fusion = create_method(INTERPOLATION)
        pipeline.fit(fusion.fit, scene, context)
    else:
        fusion = dependable(
            lambda: refined(create_method(method, **options), spent, ratio=nested),
            lambda: create_method(INTERPOLATION),
            scene, context,
        )  # fmt: skip
    with progress_here(progress) as shown:
        cube = pipeline.fitted_to_array(
            fusion, scene, given, tile=tile_px, overlap=overlap_px, clip=clip, progress=shown
        )  # fmt: skip
    named = labels.cube(cube, centre_nm, fwhm_nm) if labels.labelled else None
    if repair is None or not full_output:
        return cube if named is None else named
    repair = _told_of(repair, fusion, as_given, pipeline.run_context(as_given, given, random_seed, calibrate=free))
    method_record = {"name": fusion.spec.name} | fusion.diagnostics.to_json()
    record = repair.to_json() | {"moved_px": list(offset), "method": method_record}
    if named is None:
        return FusedArrays(cube, repair.change, repair.expected_error, repair.error_bound, record)
    return labels.dataset(
        named, repair.error_bound, record, change_probability=repair.change, expected_error=repair.expected_error
    )  # fmt: skip


def _warn_of_few_bands(bands: int, method: str) -> None:
    note = few_bands_note(bands) if uses_guide(method) else ""
    if note:
        _log.warning("%s", note)


def _told_of(repair: SceneRepair, fusion: FusionMethod, scene: FusionScene, context: FusionContext) -> SceneRepair:
    """What is told of a result, in which the guide may have no part though it was trusted."""
    alone = repair.trusted and fusion.spec.name == INTERPOLATION
    return told_without_guide(repair, scene, context) if alone else repair


def _quality(quality: str | None, method: str, *, full_output: bool) -> Quality | None:
    """What is spent behind a method; None: nothing."""
    if quality not in (None, "plain", "fast", "standard", "best"):
        raise UsageError(f"There is no quality '{quality}'.", hint="Choose 'plain', 'fast', 'standard' or 'best'.")
    spent = None if quality in (None, "plain") or not uses_guide(method) else cast(Quality, quality)
    if full_output and spent is None:
        raise UsageError("full_output needs a quality 'fast', 'standard' or 'best' and a method that looks at the MSI.")
    return spent


def _partners(
    partners: Sequence[ArrayLike | xr.DataArray], labels: Labels, shape: tuple[int, ...], spent: Quality | None
) -> list[FloatCube]:
    """Further dates of an MSI of ``shape`` as reflectance."""
    if getattr(partners, "ndim", None) == len(shape):
        raise UsageError("partners is one image; it must be a list of images.", hint="Give partners=[image].")
    cubes = []
    for number, given in enumerate(partners, start=1):
        name = f"partner {number}"
        cube = reflectance(name, labels.partner(given, name))
        if cube.shape != shape:
            raise UsageError(f"Partner {number} has the shape {cube.shape}, the MSI {shape}: both must be alike.")
        cubes.append(cube)
    if cubes and spent is None:
        raise UsageError("partners need a quality 'fast', 'standard' or 'best' and a method that looks at the MSI.")
    return cubes


def _unknown(name: str) -> UsageError:
    return UsageError(
        f"fuse() needs {name}: plain arrays do not tell it.",
        hint=f"Give {name}=..., or DataArrays with the coordinates wavelength, y and x.",
    )
