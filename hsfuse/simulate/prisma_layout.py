"""Everything about a simulated PRISMA product except its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from hsfuse.grid import Grid
from hsfuse.simulate.prisma_bands import default_prisma_bands
from hsfuse.spectral import BandTable


@dataclass(frozen=True)
class PrismaLayout:
    """Everything about a simulated product except its pixels.

    Attributes
    ----------
    grid
        Grid that the product **claims** (30 m, outer corners). For a product with wrong geolocation this is not
        where the pixels really are.
    bands
        Acquired bands with their detector and slot, in the order of the blocks' first axis.
    start, duration_s
        Acquisition time (UTC) of the first row and the time it takes.
    sun_zenith_deg, sun_azimuth_deg, view_zenith_deg, relative_azimuth_deg
        Geometry at the scene centre.
    vnir_scale, swir_scale, pan_scale
        Reflectance of DN 0 and DN 65535.
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

    grid: Grid
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

    @property
    def stop(self) -> datetime:
        """Time of the last row."""
        return self.start + timedelta(seconds=self.duration_s)

    @property
    def pan_grid(self) -> Grid:
        """Grid of the panchromatic image: the same outer corner, ``pan_ratio`` times finer."""
        return self.grid.nested(self.pan_ratio)

    @property
    def file_name(self) -> str:
        """Name that ASI would give the product."""
        return f"PRS_L2D_STD_{self.start:%Y%m%d%H%M%S}_{self.stop:%Y%m%d%H%M%S}_0001.he5"

    def scale(self, detector: str) -> tuple[float, float]:
        """Reflectance of DN 0 and DN 65535 of a detector."""
        return self.vnir_scale if detector == "VNIR" else self.swir_scale
