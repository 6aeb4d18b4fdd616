"""The SWIR detector's own displacement: measured after every co-registration, corrected when asked for."""

from __future__ import annotations

from dataclasses import replace

from hsfuse.config import CoregisterConfig
from hsfuse.coregister.result import CoregistrationResult
from hsfuse.degrade import Psf
from hsfuse.errors import HsfuseError
from hsfuse.log import get_logger
from hsfuse.progress import Progress
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct
from hsfuse.threads import torch_threads

_log = get_logger(__name__)

_NOTABLE_SHARE = 0.2
"""Misalignment (in HSI pixels) from which spectra across both detectors mix what lies side by side."""


def with_swir(
    result: CoregistrationResult,
    hsi: HyperspectralProduct,
    msi: MultispectralProduct,
    config: CoregisterConfig,
    psf: Psf,
    progress: Progress,
) -> tuple[CoregistrationResult, tuple[str, ...]]:
    """Add the misalignment of the SWIR bands to a result, and mark it as corrected when that is wanted.

    Parameters
    ----------
    result
        Co-registration of the other bands.
    hsi, msi
        The products; when the MSI was opened without its SWIR bands, it is opened again with them.
    config
        Settings.
    psf
        Blur of the HSI relative to the MSI.
    progress
        Where to show progress.

    Returns
    -------
    (result, warnings)
        With sentences for the report.
    """
    if not result.trusted or not hsi.bands.in_swir().any() or (result.verdict == "off" and not config.correct_swir):
        return result, ()
    from hsfuse.coregister.swir import measure_swir, swir_names

    reference: MultispectralProduct | None = msi if swir_names(msi) else None
    other = None
    if result.verdict == "off":
        # Nothing says that the two images lie on each other; the product's own bands do.
        reference = None
    elif reference is None:
        reference = other = _swir_bands_of(msi)
    try:
        with torch_threads(1):
            swir = measure_swir(hsi, reference, result, psf=psf, progress=progress)
            if swir is None and reference is not None:
                swir = measure_swir(hsi, None, psf=psf, progress=progress)
    finally:
        if other is not None:
            other.close()
    if swir is None:
        if not config.correct_swir:
            return result, ()
        return result, ("The SWIR bands could not be compared with the VNIR bands, so they were not moved.",)
    corrected = config.correct_swir and swir.significant
    result = replace(result, swir=replace(swir, corrected=corrected))
    east, north = swir.dx_m, swir.dy_m
    where = f"{east:.1f} m east and {north:.1f} m north (standard error {swir.sigma_m:.1f} m)"
    if corrected:
        _log.info("The SWIR bands were moved by %s to meet the VNIR bands.", where)
    elif config.correct_swir:
        _log.info("The SWIR bands meet the VNIR bands within the error of the comparison: %s.", where)
    elif swir.significant and swir.length_m > _NOTABLE_SHARE * hsi.grid.pixel_m:
        warning = f"The SWIR bands have to be moved by {where} to meet the VNIR bands; --correct-swir does it."
        _log.warning("%s", warning)
        return result, (warning,)
    return result, ()


def _swir_bands_of(msi: MultispectralProduct) -> MultispectralProduct | None:
    try:
        return msi.swir_reference()
    except HsfuseError as error:
        _log.debug("No 20 m bands to compare the SWIR bands with: %s", error.message)
        return None
