"""From two open products to a scene that can be fused: align, choose bands, estimate the blur."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from hsfuse.band_selection import BandSelection, check_request, parse_bands, select_bands
from hsfuse.config import RunConfig
from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.result import CoregistrationResult
from hsfuse.coregister.warp import Resampler
from hsfuse.degrade import Psf
from hsfuse.degrade.psf_estimation import Pair as ArrayPair
from hsfuse.degrade.psf_estimation import estimate_psf
from hsfuse.degrade.whole_offset import whole_pixel_offset
from hsfuse.errors import CoregistrationError
from hsfuse.fusion.registry import uses_guide
from hsfuse.grid import Slice2D
from hsfuse.inference.few_bands import few_bands_note
from hsfuse.inference.joined_guide import JoinedGuide
from hsfuse.inference.scene import FusionScene, alive_bands, nothing_valid
from hsfuse.log import get_logger
from hsfuse.parallel import do_all, parts_of, threads_for, together
from hsfuse.progress import Progress
from hsfuse.readers.base import HyperspectralProduct
from hsfuse.threads import single_threaded, torch_threads
from hsfuse.workflows.steps.aoi import AreaOfInterest, parse_aoi
from hsfuse.workflows.steps.clock import hidden
from hsfuse.workflows.steps.guide import (
    GuideResponse,
    align_guides,
    matching_reference,
    with_measured_response,
)
from hsfuse.workflows.steps.inputs import Pair, Resampled, common_grid
from hsfuse.workflows.steps.swir import with_swir

_log = get_logger(__name__)

_OTHER_GUIDE = (
    "Choose a Sentinel-2 image closer in season and with fewer clouds",
    "Both images of one product lie on each other as far as it says; use Sentinel-2 as the guide (--guide s2)",
)  # fmt: skip
_MATCHING_PSF = Psf(1.25)
_PSF_WINDOW_PX = 192
_PSF_RANGE_NM = (430.0, 900.0)
_PSF_BANDS = 24
_MOST_PARTS = 16


@dataclass(frozen=True)
class PreparedScene:
    """A scene that is ready to be fused, and how it came about.

    Attributes
    ----------
    scene
        The scene.
    coregistration
        Of the HSI on its guide.
    selection
        Which bands were kept, and why.
    warnings
        Sentences for the report.
    psf_estimated, psf_source
        Whether the pair told the width of the HSI's blur, and where it comes from.
    guide_response
        Which response a guide band was taken to have that brings none of its own.
    guides_aligned
        Co-registration of the panchromatic image on the multispectral one, of two guides.
    """

    scene: FusionScene
    coregistration: CoregistrationResult
    selection: BandSelection
    warnings: tuple[str, ...]
    psf_estimated: bool
    psf_source: str
    guide_response: GuideResponse | None = None
    guides_aligned: CoregistrationResult | None = None
    resampled: Resampled | None = None

    @property
    def judged(self) -> PreparedScene:
        """The scene as results are judged on it: of two guides, the one with the result's own pixels."""
        msi = self.scene.msi
        return replace(self, scene=replace(self.scene, msi=msi.finest())) if isinstance(msi, JoinedGuide) else self


def prepare_scene(
    pair: Pair, config: RunConfig, progress: Progress, *, network_nm: Sequence[float] | None = None
) -> PreparedScene:
    """Co-register, find the common grid, select bands, estimate the PSF.

    ``network_nm`` are the centre wavelengths that a trained network expects; they decide the bands then.

    Raises
    ------
    CoregistrationError
        No trustworthy alignment was found.
    OverlapError
        Nothing is left to fuse.
    """
    matching = Psf(config.psf_fwhm) if config.psf_fwhm != "auto" else _MATCHING_PSF
    # A request that cannot be met fails before minutes of matching; the bands themselves are examined beside it.
    wanted = band_request(pair.hsi, config.bands, asked="bands" in config.model_fields_set)
    check_bands(pair.hsi, wanted, network_nm)
    area = _area(pair, config)
    if area is not None and pair.msi.grid.bounds.intersect(area.bounds.buffer(pair.hsi.grid.pixel_m)) is None:
        # Off the guide, wherever the HSI is found to lie.
        common_grid(pair, DisplacementField.zero(), area)
    with ThreadPoolExecutor(1, thread_name_prefix="hsfuse-bands") as beside:
        examining = beside.submit(select_scene_bands, pair.hsi, wanted, hidden(progress), network_nm)
        result = align(pair, config, matching, progress)
        selection = examining.result()
    if not result.trusted:
        remedy = result.remedy(_OTHER_GUIDE[config.guide == "pan"])
        raise CoregistrationError(
            f"The co-registration was rejected: {result.reason}",
            hint=f"{remedy}, or use --coregister off if the images are known to be aligned.",
        )
    _log.info("Co-registration %s: %s", result.verdict, result.reason)
    msi, between = align_guides(pair.msi, config.coregistration(), progress)
    pair = replace(pair, msi=msi)
    with ThreadPoolExecutor(1, thread_name_prefix="hsfuse-swir") as beside, torch_threads(1):
        shown = progress if config.correct_swir else hidden(progress)
        reference = matching_reference(pair.msi)
        comparing = beside.submit(with_swir, result, pair.hsi, reference, config, matching, shown)
        if config.correct_swir:
            result, _ = comparing.result()
        prepared = _prepare(pair, result, selection, matching, config, progress)
        # Unless the bands are to be moved, nothing but the report depends on the comparison.
        result, notes = comparing.result()
    return replace(
        prepared, coregistration=result, warnings=(*prepared.warnings, *notes), guides_aligned=between
    )  # fmt: skip


def _prepare(
    pair: Pair,
    result: CoregistrationResult,
    selection: BandSelection,
    matching: Psf,
    config: RunConfig,
    progress: Progress,
) -> PreparedScene:
    """Find the common grid and estimate the PSF."""
    scene = _scene_of(pair, result, np.asarray(selection.indices), matching, config)
    found, source = None, "given"
    # Read once, and by whichever asks for it first.
    middle = cache(partial(_middle_of, scene))
    if config.psf_fwhm == "auto":
        with progress.stage("estimate blur") as stage, single_threaded():
            # Fails when no pixel is valid in both images, before any method has to cope with emptiness.
            (found, source), _ = together(
                partial(estimate_scene_psf, middle, scene.ratio), scene.check_not_empty, threads=threads_for(2)
            )
            stage.advance()
        scene = replace(scene, psf=found or scene.psf)
        level = logging.WARNING if found is None else logging.INFO
        _log.log(level, "The HSI's PSF is %.2f HSI pixels wide (FWHM): %s.", scene.psf.fwhm_px, source)
    else:
        scene.check_not_empty()
    scene, response = with_measured_response(scene)
    warnings = pair.warnings + _few_bands(scene, config)
    if config.coregister == "off":
        warnings += _taken_as_aligned(middle(), scene.ratio)
    return PreparedScene(
        scene, result, selection, warnings, found is not None, source, response, resampled=pair.resampled
    )


def _area(pair: Pair, config: RunConfig) -> AreaOfInterest | None:
    return parse_aoi(config.aoi, pair.msi.grid.crs, config.aoi_crs) if config.aoi else None


def _scene_of(
    pair: Pair, result: CoregistrationResult, bands: NDArray[np.int64], psf: Psf, config: RunConfig
) -> FusionScene:
    """Put both products on the grid that they share."""
    area = _area(pair, config)
    grid = common_grid(pair, result.field, area)
    scene = FusionScene(
        pair.hsi,
        pair.msi,
        bands,
        Resampler(pair.hsi.stored_pixels.grid, grid, result.field),
        grid,
        pair.ratio,
        psf,
        config.cloud_mask,
        config.cloud_dilate_px,
        area.mask(grid.nested(pair.ratio)) if area else None,
        partners=pair.msi.partners,
    )
    if result.swir is None or not result.swir.corrected:
        return scene
    own = pair.hsi.bands.in_swir(config.vnir_swir_cut_nm)
    return replace(
        scene, swir_bands=own, swir_resampler=Resampler(pair.hsi.stored_pixels.grid, grid, result.swir_field)
    )


def claim_scene(pair: Pair, config: RunConfig, *, network_nm: Sequence[float] | None = None) -> PreparedScene:
    """Lay the scene out where its products claim to lie: for a plan within seconds.

    No image is read. Which bands are kept is not known; as many as a run would keep stand in for them.

    Raises
    ------
    OverlapError, UsageError, InputError
        What a run would find out from names, grids and masks.
    """
    psf = Psf(config.psf_fwhm) if config.psf_fwhm != "auto" else _MATCHING_PSF
    wanted = band_request(pair.hsi, config.bands, asked="bands" in config.model_fields_set)
    bands, notes = _claimed_bands(pair.hsi, wanted, network_nm)
    claimed = CoregistrationResult.off()
    if config.coregister != "off":
        reason = "not measured yet: positions as claimed; a run, and --dry-run=full, measure them."
        claimed = replace(claimed, reason=reason)
    scene = _scene_of(pair, claimed, bands, psf, config)
    if not scene.expected_pixels().any():
        raise nothing_valid()
    selection = BandSelection(bands, pair.hsi.bands.take(bands), (), notes)
    source = "given" if config.psf_fwhm != "auto" else "not estimated yet"
    warnings = pair.warnings + _few_bands(scene, config)
    return PreparedScene(scene, claimed, selection, warnings, False, source, resampled=pair.resampled)


def _claimed_bands(
    hsi: HyperspectralProduct, request: str, network_nm: Sequence[float] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    found = check_bands(hsi, request, network_nm)
    if found is not None:
        return found, ()
    usable = np.flatnonzero(hsi.bands.good)
    count = parse_bands(request).count
    if not isinstance(count, int):
        return np.arange(len(hsi.bands)), ()
    several = usable if usable.size >= count else np.arange(len(hsi.bands))
    spread = np.linspace(0, several.size - 1, count).round().astype(np.int64)
    return several[spread], ("Which bands are kept is decided when the images are read.",)


def align(pair: Pair, config: RunConfig, psf: Psf, progress: Progress) -> CoregistrationResult:
    """Co-register, unless it was switched off."""
    if config.coregister == "off":
        return CoregistrationResult.off()
    from hsfuse.coregister.products import coregister_products

    return coregister_products(
        pair.hsi, matching_reference(pair.msi), config.coregistration(), psf=psf, progress=progress
    )


def check_bands(
    hsi: HyperspectralProduct, request: str, network_nm: Sequence[float] | None = None
) -> NDArray[np.int64] | None:
    """Raise an error for a request of bands that a product cannot meet, without reading it.

    Returns
    -------
    numpy.ndarray or None
        Indices of the bands where wavelengths were asked for.
    """
    if network_nm is not None:
        return check_request(hsi, wavelengths_nm=network_nm)
    wanted = parse_bands(request)
    return check_request(hsi, count=wanted.count, wavelengths_nm=wanted.wavelengths_nm)


def band_request(hsi: HyperspectralProduct, bands: str, *, asked: bool) -> str:
    """Return the ``--bands`` that is meant: all of a product that has fewer than the usual number nobody asked for."""
    return bands if asked or not bands.isdigit() or int(bands) <= len(hsi.bands) else "all"


def select_scene_bands(
    hsi: HyperspectralProduct, request: str, progress: Progress, network_nm: Sequence[float] | None = None
) -> BandSelection:
    """Select bands as the ``--bands`` option says, or those that a network was trained for."""
    if network_nm is not None:
        return select_bands(
            hsi, wavelengths_nm=network_nm, not_wanted="not a band of the network", progress=progress
        )  # fmt: skip
    wanted = parse_bands(request)
    return select_bands(hsi, count=wanted.count, wavelengths_nm=wanted.wavelengths_nm, progress=progress)


def estimate_scene_psf(strip: Callable[[], ArrayPair | None], ratio: int) -> tuple[Psf | None, str]:
    """Estimate the PSF on a strip of the scene, on the bands that the MSI covers.

    Parameters
    ----------
    strip
        Reads it, see :func:`_middle_of`.
    ratio
        HSI pixel size over MSI pixel size.

    Returns
    -------
    (psf, source)
        None when the pair cannot tell; the text says where the width comes from, and why it is assumed then.
    """
    middle = strip()
    if middle is None:
        low, high = _PSF_RANGE_NM
        return None, f"assumed, because no selected band lies between {low:g} and {high:g} nm"
    found = estimate_psf([middle], ratio)
    if found is None:
        return None, "assumed, because the pair has too few clear pixels or too little texture in common to tell"
    return Psf(found.fwhm_px), "estimated from the pair"


def _few_bands(scene: FusionScene, config: RunConfig) -> tuple[str, ...]:
    """Sentences about a scene of few bands that a method is to fuse."""
    note = few_bands_note(len(scene.bands)) if uses_guide(config.method) else ""
    if not note:
        return ()
    _log.warning("%s", note)
    return (note,)


def _taken_as_aligned(middle: ArrayPair | None, ratio: int) -> tuple[str, ...]:
    """Sentences about a pair that nobody aligned and that clearly lies pixels off."""
    offset = (0, 0) if middle is None else whole_pixel_offset(middle, ratio)
    if not any(offset):
        return ()
    rows, cols = offset
    said = (
        f"The HSI lies {rows:+d} and {cols:+d} of its pixels (rows, columns) off the MSI, and was taken as it lies "
        "(--coregister off): leave the option out."
    )
    _log.warning("%s", said)
    return (said,)


def _middle_of(scene: FusionScene) -> ArrayPair | None:
    """A strip from the scene's middle: HSI bands that the MSI covers, MSI, and which HSI pixels both show clearly."""
    centre = scene.hsi.bands.centre_nm[scene.bands]
    under = np.flatnonzero((centre > _PSF_RANGE_NM[0]) & (centre < _PSF_RANGE_NM[1]))
    if under.size == 0:
        return None
    chosen = under[np.unique(np.linspace(0, under.size - 1, min(under.size, _PSF_BANDS)).round().astype(int))]
    rows = min(_PSF_WINDOW_PX, scene.grid.height)
    top = (scene.grid.height - rows) // 2
    block = Slice2D(top, top + rows, 0, scene.grid.width)
    hsi, (msi, cloud) = together(
        lambda: scene.read_hsi(block, scene.bands[chosen]), lambda: scene.read_msi(block), threads=threads_for(2)
    )
    valid = np.empty(block.shape, np.bool_)

    def clear(part: slice) -> None:
        """Mark pixels that both images show clearly, and fill the others, in place."""
        fine, mine = msi[:, part.start * scene.ratio : part.stop * scene.ratio], hsi[:, part]
        seen = ~(np.isnan(fine).any(axis=0) | cloud[part.start * scene.ratio : part.stop * scene.ratio])
        shape = (part.stop - part.start, scene.ratio, scene.grid.width, scene.ratio)
        valid[part] = np.all(seen.reshape(shape), axis=(1, 3)) & ~np.isnan(mine[alive]).any(axis=0)
        for image in (fine, mine):
            np.nan_to_num(image, copy=False)

    alive = alive_bands(np.isnan(hsi))
    do_all(clear, parts_of(rows, _MOST_PARTS), threads_for(_MOST_PARTS))
    return hsi[alive], msi, valid
