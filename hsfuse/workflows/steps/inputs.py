"""Open both products and find out how they lie to each other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hsfuse.config import CompareConfig, CoregisterConfig, RunConfig, TrainConfig
from hsfuse.coregister.channels import MATCHING_BANDS
from hsfuse.coregister.field import DisplacementField
from hsfuse.errors import InputError, OverlapError, UsageError
from hsfuse.grid import Bounds, Grid, reproject_xy
from hsfuse.log import get_logger
from hsfuse.readers import open_hsi
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct, ProductInfo
from hsfuse.readers.declarations import Declarations
from hsfuse.readers.source_dates import DateWish
from hsfuse.workflows.steps.aoi import AreaOfInterest
from hsfuse.workflows.steps.open_guide import open_guide
from hsfuse.workflows.steps.resampled_guide import ResampledGuide

_log = get_logger(__name__)

_RATIO_TOLERANCE = 0.01
_RATIOS = (1.5, 20.0)
"""Ratios of pixel sizes that are fused."""
_MIN_SIZE_PX = 8
_AROUND_PX = 4
"""What filters reach beyond the search, HSI pixels."""


@dataclass(frozen=True)
class Pair:
    """Both products, open, the ratio of their pixel sizes, and how the guide was brought to it (None: as it is)."""

    hsi: HyperspectralProduct
    msi: MultispectralProduct
    ratio: int
    warnings: tuple[str, ...]
    resampled: Resampled | None = None


@dataclass(frozen=True)
class Resampled:
    """How a guide was resampled whose pixels do not nest in those of the HSI.

    Attributes
    ----------
    native_m, pixel_m
        Pixel size of the guide as delivered, and as it is used.
    native_ratio
        Pixel size of the HSI over that of the guide as delivered.
    """

    native_m: float
    pixel_m: float
    native_ratio: float

    def sentence(self, ratio: int) -> str:
        """Say it in a sentence."""
        return (
            f"The ratio of the pixel sizes is {self.native_ratio:.4g}: the guide was resampled from "
            f"{self.native_m:.4g} to {self.pixel_m:.4g} m, so that {ratio} of its pixels make one of the HSI's."
        )


def declarations(config: RunConfig | TrainConfig | CompareConfig) -> Declarations:
    """Return what the settings say of a hyperspectral raster."""
    return Declarations(config.wavelengths, config.scale, config.offset, config.nodata)


def open_pair(hsi_path: Path, msi_paths: Sequence[Path], config: RunConfig, stack: ExitStack) -> Pair:
    """Open both products; ``stack`` closes them.

    Raises
    ------
    InputError, OverlapError, UsageError
        A product cannot be read, they do not overlap, or their pixel sizes do not nest.
    """
    hsi = open_hsi(hsi_path, cut_nm=config.vnir_swir_cut_nm, declared=declarations(config))
    stack.callback(hsi.close)
    if min(hsi.grid.shape) < _MIN_SIZE_PX:
        raise OverlapError(
            f"{hsi.info.name} has only {hsi.grid.height} x {hsi.grid.width} pixels "
            f"(at least {_MIN_SIZE_PX} x {_MIN_SIZE_PX}).",
            hint="Give a larger part of the scene.",
        )
    wish = replace(date_wish(hsi, config), partners=0 if config.quality == "plain" else config.partners)
    msi = open_guide(hsi, msi_paths, config, stack, dates=wish)
    ratio, exact = pixel_ratio(hsi.grid, msi.grid, config.ratio)
    resampled = None
    if not exact:
        native_m = msi.grid.pixel_m
        msi = ResampledGuide(msi, hsi.grid.pixel_m / ratio)
        resampled = Resampled(native_m, msi.grid.pixel_m, hsi.grid.pixel_m / native_m)
    if hsi.grid.bounds_in(msi.grid.crs).intersect(msi.grid.bounds) is None:
        raise OverlapError(
            f"{hsi.info.name} and {msi.info.name} do not overlap.",
            hint="Check the tile of the Sentinel-2 product; `hsfuse info FILE` prints both footprints.",
        )
    warnings = [*hsi.info.warnings, *msi.info.warnings]
    if resampled is not None:
        warnings.append(resampled.sentence(ratio))
    warnings += _radiometry(hsi.info, msi.info, allow=config.allow_radiometry_mismatch)
    if config.s2_bands == "all" and not msi.offers_band_choice and config.guide != "pan":
        warnings.append(
            f"--s2-bands all has no effect: {msi.info.name} offers no choice of bands, and all its"
            f" {len(msi.band_names)} bands are used anyway."
        )
    if hsi.info.start and msi.info.start and abs((hsi.info.start - msi.info.start).days) > 180:
        gap = abs((hsi.info.start - msi.info.start).days)
        warnings.append(
            f"The images were taken {gap} days apart ({hsi.info.start:%Y-%m-%d} and {msi.info.start:%Y-%m-%d}): "
            "the land cover may have changed."
        )
    for warning in warnings:
        _log.warning("%s", warning)
    return Pair(hsi, msi, ratio, tuple(warnings), resampled)


def used_sources(msi: MultispectralProduct, given: Sequence[Path]) -> tuple[Path, ...]:
    """Return the products that a run depends on: those given, or of folders that were searched those that are used."""
    if not given:
        # The guide is the hyperspectral product's own.
        return ()
    own = {path.resolve() for path in msi.sources}
    return tuple(given) if {path.resolve() for path in given} >= own else msi.sources


def date_wish(moving: HyperspectralProduct | MultispectralProduct, config: CoregisterConfig) -> DateWish:
    """Return which dates of an archive are wanted for an image."""
    info = moving.info
    radiometry = info.attributes.get("radiometry")
    return DateWish(
        info.start, info.sun_zenith_deg, info.sun_azimuth_deg, None if radiometry is None else radiometry == "surface",
        config.s2_days, config.max_days,
        imaged=moving.valid if isinstance(moving, HyperspectralProduct) else None,
    )  # fmt: skip


def _radiometry(hsi: ProductInfo, msi: ProductInfo, *, allow: bool) -> list[str]:
    """Compare what both images measure; what the atmosphere adds to one of them would end in the spectra."""
    kinds = hsi.attributes.get("radiometry"), msi.attributes.get("radiometry")
    if kinds[1] == "top of atmosphere" != kinds[0]:
        unlike = " as in the hyperspectral image; L2A fits better." if kinds[0] == "surface" else "."
        return [f"{msi.name}: its reflectance is that of the top of the atmosphere, not of the surface{unlike}"]
    if kinds != ("top of atmosphere", "surface"):
        return []
    if not allow:
        raise InputError(
            f"{hsi.name} holds reflectance of the top of the atmosphere, {msi.name} that of the surface.",
            hint="Give the Sentinel-2 L1C product, or a hyperspectral product of surface reflectance; or add "
            "--allow-radiometry-mismatch.",
        )
    return [f"{hsi.name} holds reflectance of the top of the atmosphere, {msi.name} that of the surface."]


def read_ahead(pair: Pair, config: RunConfig) -> None:
    """Let the MSI decode ahead what the run will read, in the order in which it will."""
    names = pair.msi.band_names
    under = Bounds(*pair.hsi.grid.bounds_in(pair.msi.grid.crs))
    matched: list[int] = []
    parts: list[tuple[Bounds, list[int]]] = []
    if config.coregister != "off":
        matched = [names.index(name) for name in MATCHING_BANDS if name in names]
        parts.append((under.buffer(config.search_m + _AROUND_PX * pair.hsi.grid.pixel_m), matched))
    if not config.aoi:
        # Of an area of interest, the other bands are read there only.
        parts.append((under, [i for i in range(len(names)) if i not in matched]))
    for bounds, bands in parts:
        with suppress(OverlapError):
            pair.msi.read_ahead(pair.msi.grid.block_of(bounds), bands)


def pixel_ratio(coarse: Grid, fine: Grid, wanted: int | None = None) -> tuple[int, bool]:
    """Whole-number ratio of pixel sizes.

    Parameters
    ----------
    coarse, fine
        Grids of the HSI and of the guide.
    wanted
        What the user asks for.

    Returns
    -------
    (ratio, exact)
        The nearest whole ratio of 2 or more; whether the sizes nest as they are.

    Raises
    ------
    UsageError
        The sizes are too near or too far from each other, or contradict the ratio that the user wants.
    """
    exact = coarse.pixel_m / fine.pixel_m
    if exact < 1.0:
        raise UsageError(
            f"The guide's pixels ({fine.pixel_m:g} m) are larger than the HSI's ({coarse.pixel_m:g} m): it has no"
            " detail to give.",
            hint="Give the hyperspectral image first; the guide has to be the finer one.",
        )
    low, high = _RATIOS
    if not low * (1 - _RATIO_TOLERANCE) <= exact <= high * (1 + _RATIO_TOLERANCE):
        raise UsageError(
            f"The pixel sizes {coarse.pixel_m:g} m and {fine.pixel_m:g} m have a ratio of {exact:.3g}; fusion takes "
            f"{low:g} to {high:g}.",
            hint="Choose a guide that is finer than the hyperspectral image."
            if exact < low
            else "Average the guide to larger pixels first.",
        )
    if wanted is not None and abs(wanted - exact) >= 1.0:
        raise UsageError(
            f"The pixel sizes {coarse.pixel_m:g} m and {fine.pixel_m:g} m have a ratio of {exact:.3g}, and --ratio "
            f"{wanted} was asked for.",
            hint="Leave --ratio out: the nearest whole ratio is taken.",
        )
    ratio = wanted or max(2, round(exact))
    return ratio, abs(exact / ratio - 1.0) <= _RATIO_TOLERANCE


def true_bounds(grid: Grid, field: DisplacementField, target: Grid) -> Bounds:
    """Extent of the HSI after its positions were corrected, in the MSI's reference system."""
    left, bottom, right, top = grid.bounds
    xs, ys = [], []
    for fraction in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = left + fraction * (right - left), bottom + fraction * (top - bottom)
        xs += [x, x, left, right]
        ys += [bottom, top, y, y]
    import numpy as np

    x_all, y_all = np.array(xs), np.array(ys)
    dx, dy = field.at(x_all, y_all)
    x_true, y_true = reproject_xy(grid.crs, target.crs, x_all + dx, y_all + dy)
    return Bounds(float(x_true.min()), float(y_true.min()), float(x_true.max()), float(y_true.max()))


def common_grid(pair: Pair, field: DisplacementField, area: AreaOfInterest | None) -> Grid:
    """HSI grid of the result: blocks of whole MSI pixels under both images and the wanted area.

    Raises
    ------
    OverlapError
        Nothing, or less than a handful of pixels, is left.
    """
    bounds: Bounds | None = true_bounds(pair.hsi.grid, field, pair.msi.grid)
    bounds = bounds.intersect(pair.msi.grid.bounds) if bounds else None
    if bounds is not None and area is not None:
        # Whole HSI pixels: grow to the block that contains the area's edge.
        bounds = bounds.intersect(area.bounds.buffer(pair.ratio * pair.msi.grid.pixel_m * 0.999))
    if bounds is None:
        raise OverlapError(
            "The area of interest lies outside both images." if area else "The images do not overlap.",
            hint="`hsfuse info FILE` prints the extent of each product."
            + (" The order of --aoi is left,bottom,right,top: longitude before latitude." if area else ""),
        )
    grid = pair.msi.grid.covering(bounds, pair.ratio).coarsened(pair.ratio)
    if min(grid.shape) < _MIN_SIZE_PX:
        raise OverlapError(
            f"Only {grid.height} x {grid.width} HSI pixels are left (at least {_MIN_SIZE_PX} x {_MIN_SIZE_PX}).",
            hint="Enlarge --aoi.",
        )
    return grid
