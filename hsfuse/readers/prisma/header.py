"""What the attributes of a PRISMA product say: level, bands, scales, map grid, geometry."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from hsfuse.errors import InputError
from hsfuse.grid import Grid, reproject_xy
from hsfuse.readers.overlap import OverlapReport, cut_overlap
from hsfuse.readers.prisma.file import ORDER_HINT, He5File
from hsfuse.spectral import BandTable

PIXEL_M = 30.0
CORNER_TOLERANCE_M = 5.0
SLACK_PX = 0.1
"""Largest misfit between the corner coordinates and the number of pixels."""
DETECTORS = ("VNIR", "SWIR")
SWATHS = "HDFEOS/SWATHS"
ANGLES = ("Observing_Angle", "Rel_Azimuth_Angle", "Solar_Zenith_Angle")

_LARGEST_REFLECTANCE = 100.0
_LARGEST_RADIANCE = 1e4

LEVELS = ("2D", "2C", "2B", "1")
"""Levels that are read, the best first."""
_REFUSED = {"1G": "top-of-atmosphere radiance on a map grid"}


def read_level(file: He5File) -> str:
    """Return one of :data:`LEVELS`, from the attribute ``Processing_Level`` (never from the file name).

    Raises
    ------
    InputError
        The file is no PRISMA product, or of another level.
    """
    swaths = [name for name in file.groups(SWATHS) if name.startswith("PRS_")]
    if not swaths and not file.has_attribute("Processing_Level"):
        if file.has("sensor_band_parameters"):
            # EMIT delivers a scene in several files.
            raise InputError(
                f"{file.path}: this file of an EMIT product holds no reflectance.",
                hint="Pass the file EMIT_L2A_RFL_*.nc of the same scene; its mask is read from beside it.",
            )
        raise InputError(
            f"{file.path}: this HDF5 file is not a PRISMA product (no PRS_* swath and no 'Processing_Level').",
            hint="Pass a PRISMA .he5 file, EMIT_L2A_RFL_*.nc, or a GeoTIFF or ENVI cube with wavelengths.",
        )
    level = str(file.attribute("Processing_Level")).strip().upper().removeprefix("L")
    if level not in LEVELS:
        content = _REFUSED.get(level, "a level that hsfuse does not know")
        raise InputError(
            f"{file.path}: this is a PRISMA L{level} product ({content}), which is not read.",
            hint="Order the L2D product of the same acquisition (L2C, L2B and L1 are read too).",
        )
    if not file.has(f"{SWATHS}/PRS_L{level}_HCO"):
        raise InputError(f"{file.path}: the group '{SWATHS}/PRS_L{level}_HCO' is missing.", hint=ORDER_HINT)
    return level


@dataclass(frozen=True)
class AcquiredBands:
    """Bands of a product before and after the overlap cut."""

    acquired: BandTable
    bands: BandTable
    overlap: OverlapReport
    warnings: tuple[str, ...]


def read_bands(file: He5File, cut_nm: float) -> AcquiredBands:
    """Read the band lists: acquired slots only, ascending, the overlap cut.

    Raises
    ------
    InputError
        A list is missing, the lists differ in length, no band was acquired, or the wavelengths are absurd.
    """
    centres, widths, slots, names, warnings = [], [], [], [], []
    for detector in DETECTORS:
        short = detector.capitalize()
        # The lists are float32; four decimals give back the numbers that were meant.
        centre, fwhm = (np.round(file.vector(f"List_{kind}_{short}"), 4) for kind in ("Cw", "Fwhm"))
        flags = _acquired_flags(file, short)
        if flags is None:
            warnings.append(f"The acquired-band flags of {detector} are missing; non-zero wavelengths decide.")
            flags = np.ones(centre.size, dtype=bool)
        if not centre.size == fwhm.size == flags.size:
            raise InputError(
                f"{file.path}: the {detector} lists of wavelengths, widths and flags have {centre.size}, {fwhm.size} "
                f"and {flags.size} entries.",
                hint=ORDER_HINT,
            )
        keep = np.flatnonzero(flags & (centre != 0) & (fwhm != 0))
        if keep.size == 0:
            warnings.append(f"No {detector} band was acquired.")
        centres.append(centre[keep])
        widths.append(fwhm[keep])
        slots.append(keep)
        names += [detector] * keep.size
    centre, fwhm = np.concatenate(centres), np.concatenate(widths)
    plausible = np.all((centre > 300) & (centre < 2700)) and np.all((fwhm > 0) & (fwhm < 100))
    if centre.size == 0 or not plausible:
        shown = "no band acquired" if centre.size == 0 else f"{centre.min():g} to {centre.max():g} nm"
        raise InputError(
            f"{file.path}: the wavelengths in List_Cw_* and List_Fwhm_* are not PRISMA's ({shown}).", hint=ORDER_HINT
        )
    acquired = BandTable.make(centre, fwhm, detector=names, slot=np.concatenate(slots))
    bands, overlap = cut_overlap(acquired, cut_nm)
    return AcquiredBands(acquired, bands, overlap, tuple(warnings))


def _acquired_flags(file: He5File, short: str) -> NDArray[np.bool_] | None:
    for name in (f"List_Cw_{short}_Flags", f"CNM_{short.upper()}_SELECT"):
        if file.has_attribute(name):
            return np.asarray(file.vector(name) != 0)
    return None


def read_scale(file: He5File, name: str) -> tuple[float, float]:
    """Return the reflectance of DN 0 and of one DN step of ``Vnir``, ``Swir`` or ``Pan``.

    Raises
    ------
    InputError
        The attributes are missing or the range is empty.
    """
    low, high = file.number(f"L2Scale{name}Min"), file.number(f"L2Scale{name}Max")
    if high <= low:
        raise InputError(
            f"{file.path}: L2Scale{name}Min ({low:g}) is not below L2Scale{name}Max ({high:g}).", hint=ORDER_HINT
        )
    if max(abs(low), abs(high)) > _LARGEST_REFLECTANCE:
        raise InputError(
            f"{file.path}: L2Scale{name}Min ({low:g}) and L2Scale{name}Max ({high:g}) are no reflectance.",
            hint=ORDER_HINT,
        )
    return low, (high - low) / 65535.0


def read_radiance_scale(file: He5File, name: str, level: str) -> tuple[float, float]:
    """Return the radiance (W m⁻² sr⁻¹ µm⁻¹) of DN 0 and of one DN step, of a level that holds radiance.

    L2B is scaled as reflectance is, between two numbers; L1 is DN / factor - offset.

    Raises
    ------
    InputError
        The attributes are missing or cannot be meant.
    """
    if level == "2B":
        low, high = file.number(f"L2Scale{name}Min"), file.number(f"L2Scale{name}Max")
        step = (high - low) / 65535.0
    else:
        factor = file.number(f"ScaleFactor_{name}")
        low = -file.number(f"Offset_{name}")
        step = 1.0 / factor if factor > 0 else 0.0
    if not 0 < step * 65535 <= _LARGEST_RADIANCE or abs(low) > _LARGEST_RADIANCE:
        raise InputError(f"{file.path}: the scale of the {name} radiance cannot be meant.", hint=ORDER_HINT)
    return low, step


def read_map_grid(file: He5File, shape: tuple[int, int]) -> Grid:
    """Return the grid of an L2D product; its corner attributes are the **centres** of the corner pixels.

    Raises
    ------
    InputError
        An attribute is missing, the reference system is unknown, or the corners contradict the cube's shape.
    """
    rows, cols = shape
    epsg = int(file.number("Epsg_Code"))
    try:
        crs = CRS.from_epsg(epsg)
    except CRSError as error:
        raise InputError(
            f"{file.path}: the reference system EPSG:{epsg} (attribute 'Epsg_Code') cannot be resolved.",
            hint="If PROJ_DATA or PROJ_LIB is set in the environment, unset it; otherwise the file is damaged.",
        ) from error
    if not crs.is_projected:
        raise InputError(f"{file.path}: EPSG:{epsg} is not a projected reference system.", hint=ORDER_HINT)
    left, top = file.number("Product_ULcorner_easting"), file.number("Product_ULcorner_northing")
    right, bottom = file.number("Product_LRcorner_easting"), file.number("Product_LRcorner_northing")
    # From centre to centre there are n - 1 pixels; whoever takes the attributes for outer corners gets 30 (n - 1) / n.
    slack_x, slack_y = right - left - PIXEL_M * (cols - 1), top - bottom - PIXEL_M * (rows - 1)
    if max(abs(slack_x), abs(slack_y)) > SLACK_PX * PIXEL_M:
        raise InputError(
            f"{file.path}: the corner coordinates span {right - left:g} x {top - bottom:g} m, which does not fit "
            f"{cols} columns and {rows} rows of {PIXEL_M:g} m.",
            hint="The file was probably cropped or rewritten by another tool; use the original L2D product.",
        )
    return Grid.from_origin(crs, left - PIXEL_M / 2, top + PIXEL_M / 2, PIXEL_M, rows, cols)


def corner_disagreement(file: He5File, group: str, grid: Grid) -> float | None:
    """Largest distance (m) between the corner pixels' centres by the attributes and by the lat/lon arrays.

    None when the arrays are missing or hold nothing at the corners.
    """
    names = [f"{group}/Geolocation Fields/{name}" for name in ("Longitude", "Latitude")]
    if not all(file.has(name) for name in names):
        return None
    datasets = [file.dataset(name, ndim=2) for name in names]
    if any(dataset.shape != grid.shape for dataset in datasets):
        raise InputError(
            f"{file.path}: the latitude and longitude arrays have {datasets[0].shape} and {datasets[1].shape} pixels, "
            f"the cube has {grid.shape}.",
            hint=ORDER_HINT,
        )
    row = np.array([0, 0, grid.height - 1, grid.height - 1])
    col = np.array([0, grid.width - 1, 0, grid.width - 1])
    longitude, latitude = (
        np.array([float(file.read(dataset, (r, c))) for r, c in zip(row, col, strict=True)]) for dataset in datasets
    )
    known = np.isfinite(longitude) & np.isfinite(latitude) & ((longitude != 0) | (latitude != 0))
    known &= (np.abs(latitude) <= 90) & (np.abs(longitude) <= 360)
    if not known.any():
        return None
    x, y = reproject_xy(CRS.from_epsg(4326), grid.crs, longitude[known], latitude[known])
    want_x, want_y = grid.xy(row[known], col[known])
    return float(np.hypot(x - want_x, y - want_y).max())


def centre_disagreement(file: He5File, longitude: NDArray[np.floating], latitude: NDArray[np.floating]) -> float | None:
    """Distance (m) between the scene centre by the attributes and by the lat/lon arrays.

    The attribute means the centre of the imaged scene, which may differ from the middle pixel by some pixels. None
    when the attributes are missing.
    """
    lon, lat = file.optional_number("Product_center_long"), file.optional_number("Product_center_lat")
    if lon is None or lat is None:
        return None
    row, col = longitude.shape[0] // 2, longitude.shape[1] // 2
    metres_per_degree = 111_195.0
    east = (float(longitude[row, col]) - lon + 180.0) % 360.0 - 180.0
    dx = east * np.cos(np.deg2rad(lat))
    return float(np.hypot(dx, float(latitude[row, col]) - lat) * metres_per_degree)


def read_time(file: He5File, name: str) -> datetime | None:
    """Return a time attribute (UTC), None when it is missing or unreadable."""
    text = file.optional_text(name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def missing_frames(file: He5File) -> int:
    """Count the frames that the product reports as missing (0 when it does not say)."""
    name = "Info/Header/Frame_Missing"
    if not file.has(name):
        return 0
    try:
        return int(np.count_nonzero(file.read(file.dataset(name, ndim=1), slice(None))))
    except (InputError, TypeError):
        return 0
