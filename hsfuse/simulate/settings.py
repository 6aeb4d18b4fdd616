"""Settings of a simulated pair."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from hsfuse.config import _Config

HsiSensor = Literal["prisma-l2d", "prisma-l2c", "prisma-l2b", "prisma-l1", "enmap", "desis", "emit"]
"""What a hyperspectral product can be."""


class SimulationConfig(_Config):
    """Settings of `hsfuse simulate`."""

    command: ClassVar[str] = "simulate"

    sensor: HsiSensor = Field("prisma-l2d", description="hyperspectral product: its sensor and level")
    rows: int = Field(160, ge=24, le=1400, description="rows of the hyperspectral product, in pixels of 30 m")
    cols: int = Field(170, ge=24, le=1400, description="columns of the hyperspectral product, in pixels of 30 m")
    seed: int = Field(0, ge=0, description="seed of the scene and of everything random about its products")
    shift_m: tuple[float, float] | None = Field(
        None, description="PRISMA's position error, east and north in metres; default: 80 to 300 m, by the seed"
    )
    rotation_deg: float = Field(0.05, ge=-1.0, le=1.0, description="rotation of PRISMA's positions, in degrees")
    wave_m: float = Field(12.0, ge=0.0, le=100.0, description="amplitude of the smooth position wave, in metres")
    wavelength_m: float = Field(10_000.0, ge=1_000.0, description="length of that wave; shortened for small scenes")
    psf_fwhm: float = Field(1.25, ge=0.3, le=3.0, description="PSF width (FWHM) of the hyperspectral sensor, in pixels")
    s2_psf_fwhm: float = Field(0.8, ge=0.0, le=3.0, description="Sentinel-2's PSF width (FWHM) in 10 m pixels")
    snr_scale: float = Field(1.0, gt=0.0, description="factor on both signal-to-noise ratios; inf: no noise")
    stripe_scale: float = Field(1.0, ge=0.0, description="factor on PRISMA's column stripes")
    smile_nm: float = Field(0.5, ge=0.0, le=5.0, description="PRISMA's smile at both ends of the swath, in nm")
    gain_spread: float = Field(0.02, ge=0.0, le=0.2, description="largest radiometric difference of the sensors")
    vnir_swir_shift_m: tuple[float, float] = Field(
        (0.0, 0.0), description="misregistration of PRISMA's SWIR against its VNIR, east and north in metres"
    )
    failed_bands: bool = Field(True, description="zeros and junk in the absorption windows, dead detector elements")
    cloud_fraction: float = Field(0.0, ge=0.0, le=1.0, description="share of the Sentinel-2 image under cloud")
    hsi_cloud_fraction: float = Field(0.0, ge=0.0, le=1.0, description="share of the PRISMA image under cloud")
    footprint_deg: float = Field(13.5, ge=-30.0, le=30.0, description="rotation of PRISMA's footprint, in degrees")
    vnir_bands: int = Field(63, ge=1, le=66, description="acquired VNIR bands")
    swir_bands: int = Field(171, ge=1, le=173, description="acquired SWIR bands")
    pan: bool = Field(True, description="write PRISMA's 5 m panchromatic image too")
    pan_psf_fwhm: float = Field(1.35, ge=0.3, le=3.0, description="the panchromatic PSF's width (FWHM) in 5 m pixels")
    pan_shift_m: tuple[float, float] = Field(
        (0.0, 0.0), description="misregistration of the panchromatic image against VNIR, east and north in metres"
    )
    scene_pixel_m: int = Field(
        10, description="pixels of the ground truth: 10, or 5 for a panchromatic image that shows more than 10 m pixels"
    )
    s2_bands: Literal["10m", "all"] = Field("all", description="Sentinel-2 bands: 10 m only, or the 20 m bands too")
    spacecraft: Literal["Sentinel-2A", "Sentinel-2B", "Sentinel-2C"] = Field(
        "Sentinel-2A", description="spacecraft, which decides the spectral responses"
    )
    full_tile: bool = Field(False, description="write the whole 10980 x 10980 Sentinel-2 tile around the footprint")
    tile_fill: Literal["mirror", "nodata"] = Field(
        "mirror", description="what a full tile holds beyond the scene: the scene mirrored, or nodata"
    )
    margin_m: float = Field(300.0, ge=60.0, le=5_000.0, description="Sentinel-2 image beyond the true footprint")
    hsi_epsg: int | None = Field(None, description="UTM zone of the PRISMA product; default: Sentinel-2's (32632)")
    start: datetime = Field(
        datetime(2024, 6, 21, 10, 30, 12, 345678, tzinfo=UTC), description="PRISMA's acquisition time (UTC)"
    )
    s2_start: datetime = Field(
        datetime(2024, 6, 23, 10, 20, 21, 24000, tzinfo=UTC), description="Sentinel-2's acquisition time (UTC)"
    )

    days_apart: int | None = Field(
        None, ge=-400, le=400, description="Sentinel-2 so many days later: harvest, season, sun, haze, missed clouds"
    )
    overflight: int = Field(
        0, ge=0, description="Sentinel-2's noise, clouds and haze of so many other draws over the same ground"
    )
    relief_m: float = Field(
        0.0, ge=0.0, le=4_000.0, description="relief (5 to 95 % of heights): slopes, cast shadows, parallax"
    )
    view_angle_deg: float = Field(8.0, ge=-30.0, le=30.0, description="view angle whose parallax relief leaves")
    jitter_m: float | None = Field(
        None, ge=0.0, le=50.0, description="amplitude of attitude jitter; default: 3 with days apart or relief, else 0"
    )

    @field_validator("start", "s2_start")
    @classmethod
    def _utc(cls, value: datetime) -> datetime:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        turn = math.radians(abs(self.footprint_deg))
        low, high = sorted((self.rows, self.cols))
        if low * math.cos(turn) - high * math.sin(turn) < 8.0:
            raise ValueError("a footprint so rotated does not fit the rows and columns")
        if self.scene_pixel_m not in (5, 10):
            raise ValueError("the ground truth has pixels of 10 or 5 m")
        if self.scene_pixel_m == 5 and (self.is_realistic or self.full_tile):
            raise ValueError("a ground truth of 5 m shows one day, flat ground and no whole tile")
        if self.full_tile and self.shift_m is not None and max(map(abs, self.shift_m)) > 20_000.0:
            raise ValueError("so large a shift leaves the tile")
        return self

    @property
    def guide_start(self) -> datetime:
        """Sentinel-2's acquisition time: so many days apart when that is asked for."""
        if self.days_apart is None:
            return self.s2_start
        return datetime.combine(self.start.date() + timedelta(days=self.days_apart), self.s2_start.timetz())

    @property
    def coarsening(self) -> int:
        """Pixels of 30 m in one of the hyperspectral product, along one axis."""
        return 2 if self.sensor == "emit" else 1

    @property
    def sees_through_air(self) -> bool:
        """Whether both products hold what is seen from above the air."""
        return self.sensor == "prisma-l1"

    @property
    def is_realistic(self) -> bool:
        """Whether the two images show different days or relief."""
        return self.days_apart is not None or self.relief_m > 0.0
