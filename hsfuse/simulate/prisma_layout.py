"""Everything about a simulated PRISMA product except its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import UsageError
from hsfuse.grid import Grid
from hsfuse.readers.base import ERROR_INVALID_L1, ERROR_SATURATED
from hsfuse.readers.solar import reflectance_per_radiance
from hsfuse.simulate.prisma_bands import default_prisma_bands
from hsfuse.simulate.sensors import transmittance
from hsfuse.simulate.swath import SwathGrid
from hsfuse.spectral import BandTable

PrismaLevel = Literal["1", "2B", "2C", "2D"]
DN_MAX = 65535
L1_SCALE = 100.0
"""DN per W m⁻² sr⁻¹ µm⁻¹ in L1."""
_WHITEST = 1.25
_PER_MICROMETRE = 1e3
"""From W m⁻² sr⁻¹ nm⁻¹."""


@dataclass(frozen=True)
class PrismaLayout:
    """Everything about a simulated product except its pixels.

    Attributes
    ----------
    grid
        Grid that the product **claims** (30 m, outer corners); a swath for the levels before L2D. For a product with
        wrong geolocation this is not where the pixels really are.
    level
        ``2D`` and ``2C`` hold reflectance of the surface, ``2B`` radiance of the surface, ``1`` radiance of the top of
        the atmosphere.
    bands
        Acquired bands with their detector and slot, in the order of the blocks' first axis.
    start, duration_s
        Acquisition time (UTC) of the first row and the time it takes.
    sun_zenith_deg, sun_azimuth_deg, view_zenith_deg, relative_azimuth_deg
        Geometry at the scene centre.
    vnir_scale, swir_scale, pan_scale
        Reflectance of DN 0 and DN 65535, of the levels that hold it.
    smile_nm
        Shift of the band centres at both ends of the detector rows, against the middle (``KDP_AUX``).
    cloudy_percent, sea_percent
        Scene percentages as the product states them.
    missing_frames
        Frames flagged in ``Info/Header/Frame_Missing``.
    pan_ratio
        Panchromatic pixels per hyperspectral pixel along one axis.
    attributes
        Global attributes to add or replace; None removes one (for products that lack it).
    """

    grid: Grid | SwathGrid
    bands: BandTable = field(default_factory=default_prisma_bands)
    start: datetime = datetime(2024, 6, 21, 10, 30, 12, 345678, tzinfo=UTC)
    duration_s: float = 4.31
    sun_zenith_deg: float = 32.5
    sun_azimuth_deg: float = 148.0
    view_zenith_deg: float = 4.2
    relative_azimuth_deg: float = 52.0
    vnir_scale: tuple[float, float] = (0.0, 1.25)
    swir_scale: tuple[float, float] = (0.0, 1.1)
    pan_scale: tuple[float, float] = (0.0, 1.25)
    smile_nm: float = 1.2
    cloudy_percent: float = 0.0
    sea_percent: float = 0.0
    missing_frames: tuple[int, ...] = ()
    pan_ratio: int = 6
    attributes: Mapping[str, Any] = field(default_factory=dict)
    level: PrismaLevel = "2D"

    def __post_init__(self) -> None:
        if (self.level == "2D") == isinstance(self.grid, SwathGrid):
            raise UsageError("A PRISMA L2D product lies on a map grid, one of another level is a swath.")

    @property
    def stop(self) -> datetime:
        """Time of the last row."""
        return self.start + timedelta(seconds=self.duration_s)

    @property
    def pan_grid(self) -> Grid:
        """Grid of the panchromatic image: the same outer corner, ``pan_ratio`` times finer."""
        if isinstance(self.grid, SwathGrid):
            raise UsageError("The panchromatic image is simulated for L2D only.")
        return self.grid.nested(self.pan_ratio)

    @property
    def file_name(self) -> str:
        """Name that ASI would give the product."""
        kind = "STD_OFFL" if self.level == "1" else "STD"
        return f"PRS_L{self.level}_{kind}_{self.start:%Y%m%d%H%M%S}_{self.stop:%Y%m%d%H%M%S}_0001.he5"

    def swath(self, kind: str) -> str:
        """Group of a swath: ``HCO`` of the cube, ``PCO`` of the panchromatic image."""
        return f"HDFEOS/SWATHS/PRS_L{self.level}_{kind}"

    @property
    def error_matrix(self) -> str:
        """End of the names of the error matrices."""
        return "PIXEL_SAT_ERR_MATRIX" if self.level == "1" else "PIXEL_L2_ERR_MATRIX"

    def error_codes(self, bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return error bits as the level writes them: L1 counts 1 defective, 2 saturated, and knows no negative."""
        if self.level != "1":
            return bits
        saturated = (bits & ERROR_SATURATED) != 0
        return np.where((bits & ERROR_INVALID_L1) != 0, 1, np.where(saturated, 2, 0)).astype(np.uint8)

    def scale(self, detector: str) -> tuple[float, float]:
        """Value of DN 0 and DN 65535 of a detector (of levels other than L1)."""
        radiance = self.radiance_of_white
        if radiance is None:
            return self.vnir_scale if detector == "VNIR" else self.swir_scale
        own = [white for white, name in zip(radiance, self.bands.detector, strict=True) if name == detector]
        return 0.0, _WHITEST * max(own, default=1.0)

    def encoding(self, detector: str) -> tuple[float, float]:
        """Value of DN 0 and numbers per unit."""
        if self.level == "1":
            return 0.0, L1_SCALE
        low, high = self.scale(detector)
        return low, DN_MAX / (high - low)

    @cached_property
    def radiance_of_white(self) -> NDArray[np.float64] | None:
        """Radiance (W m⁻² sr⁻¹ µm⁻¹) of reflectance 1 in each band; None for levels that hold reflectance.

        That of the surface has lost on the way down what the gases of the air absorb.
        """
        if self.level in ("2C", "2D"):
            return None
        factor = reflectance_per_radiance(self.bands, self.sun_zenith_deg, self.start, "the simulated product")
        white: NDArray[np.float64] = _PER_MICROMETRE / factor
        return white if self.level == "1" else white * np.sqrt(transmittance(self.bands.centre_nm))
