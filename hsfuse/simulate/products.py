"""A simulated pair: one scene, a PRISMA and a Sentinel-2 product of it, and the truth."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

import numpy as np
from pydantic import Field, field_validator, model_validator
from rasterio.crs import CRS

from hsfuse.config import _Config
from hsfuse.errors import OutputError
from hsfuse.grid import Bounds, Grid, reproject_xy
from hsfuse.log import get_logger
from hsfuse.progress import Progress, SilentProgress, Stage
from hsfuse.sensors.sentinel2 import BANDS_10M, BANDS_ALL
from hsfuse.simulate.other_day import make_other_day, relief_height
from hsfuse.simulate.prisma import PanBlock, PrismaBlock, PrismaLayout, default_prisma_bands, write_prisma_l2d
from hsfuse.simulate.prisma_sensor import Footprint, PrismaOptics, PrismaSensor
from hsfuse.simulate.s2_sensor import Cover, Sentinel2Sensor
from hsfuse.simulate.scene import Truth
from hsfuse.simulate.sensors import Clouds
from hsfuse.simulate.true_field import TrueField
from hsfuse.spectral import BandTable

logger = get_logger(__name__)
_Block = TypeVar("_Block", PrismaBlock, PanBlock)

HSI_PIXEL_M, MSI_PIXEL_M, PAN_RATIO = 30.0, 10.0, 6
TILE_PX = 10_980
TILE_ORIGIN_M = (699_960.0, 5_000_040.0)
"""Upper-left corner of tile T32TQQ, whose pixel edges the scenes share."""
TRUTH_NAME = "truth.npz"
_SNAP_M = 60.0  # tile and 20 m pixel edges


class SimulationConfig(_Config):
    """Settings of `hsfuse simulate`."""

    command: ClassVar[str] = "simulate"

    rows: int = Field(160, ge=24, le=1400, description="rows of the PRISMA product, in pixels of 30 m")
    cols: int = Field(170, ge=24, le=1400, description="columns of the PRISMA product, in pixels of 30 m")
    seed: int = Field(0, ge=0, description="seed of the scene and of everything random about its products")
    shift_m: tuple[float, float] | None = Field(
        None, description="PRISMA's position error, east and north in metres; default: 80 to 300 m, by the seed"
    )
    rotation_deg: float = Field(0.05, ge=-1.0, le=1.0, description="rotation of PRISMA's positions, in degrees")
    wave_m: float = Field(12.0, ge=0.0, le=100.0, description="amplitude of the smooth position wave, in metres")
    wavelength_m: float = Field(10_000.0, ge=1_000.0, description="length of that wave; shortened for small scenes")
    psf_fwhm: float = Field(1.25, ge=0.3, le=3.0, description="PRISMA's PSF width (FWHM) in 30 m pixels")
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
    def is_realistic(self) -> bool:
        """Whether the two images show different days or relief."""
        return self.days_apart is not None or self.relief_m > 0.0


@dataclass(frozen=True)
class SimulatedPair:
    """What a simulation wrote.

    Attributes
    ----------
    prisma
        PRISMA L2D product (``.he5``).
    sentinel2
        Sentinel-2 L2A product (``.SAFE`` folder).
    truth
        Ground truth; read it with :meth:`hsfuse.simulate.scene.Truth.load`.
    field
        True minus claimed positions of the PRISMA product.
    config
        Settings that made them.
    """

    prisma: Path
    sentinel2: Path
    truth: Path
    field: TrueField
    config: SimulationConfig


def simulate_pair(
    folder: Path | str,
    config: SimulationConfig | None = None,
    *,
    size_px: tuple[int, int] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> SimulatedPair:
    """Write a PRISMA product, a Sentinel-2 product and the ground truth of one simulated scene.

    Parameters
    ----------
    folder
        Where (made when missing); the products get their agencies' names, the truth is ``truth.npz``.
    config
        Settings; alternatively, or over them, give single ones as keywords (``seed=3, psf_fwhm=1.5``).
    size_px
        (rows, cols) of the PRISMA product, over the settings.
    overwrite
        Replace products of an earlier run.
    progress
        Shows the stages.

    Raises
    ------
    UsageError
        Settings are wrong or contradict each other.
    OutputError
        Products exist already, or the folder cannot be written.
    """
    from hsfuse.simulate.sentinel2 import write_safe

    progress = progress or SilentProgress()
    if size_px is not None:
        settings |= {"rows": size_px[0], "cols": size_px[1]}
    if config is None:
        config = SimulationConfig.resolve(**settings)
    elif settings:
        config = SimulationConfig.resolve(**{**config.model_dump(), **settings})
    target = _prepare(Path(folder), overwrite=overwrite)
    hsi_grid, truth_grid, field = plan_grids(config)
    facts = {"config": config.model_dump(mode="json"), "hsi_crs": hsi_grid.crs.to_string()}
    truth = Truth.generate(truth_grid, seed=config.seed, field=field, facts=facts, progress=progress)
    guide = truth
    unmasked: tuple[Cover, ...] = ()
    if config.is_realistic:
        truth, guide, unmasked = _other_day(config, truth)
        field = truth.field or field

    sensor, layout = _prisma(config, truth, hsi_grid, field)
    with progress.stage("write PRISMA product", config.rows * (1.3 if config.pan else 1.0)) as stage:
        blocks = _watched(sensor.blocks(), stage, share=1.0)
        pan = _watched(sensor.pan_blocks(PAN_RATIO), stage, share=0.3) if config.pan else None
        prisma = write_prisma_l2d(target, layout, blocks, pan_blocks=pan)

    tile = _tile(truth_grid) if config.full_tile else None
    beyond = config.full_tile and config.tile_fill == "mirror"
    view = _sentinel2(config, guide, tile if beyond and tile is not None else truth_grid, unmasked)
    sentinel2 = write_safe(
        target,
        grid=view.grid,
        tile=tile,
        reflectance={name: view.band(name) for name in (BANDS_10M if config.s2_bands == "10m" else BANDS_ALL)},
        scl=view.classes,
        spacecraft=config.spacecraft,
        sensing_time=config.guide_start,
        overwrite=overwrite,
        progress=progress,
    )
    truth.save(target / TRUTH_NAME)
    logger.info("simulated %s and %s", prisma.name, sentinel2.name)
    return SimulatedPair(prisma, sentinel2, target / TRUTH_NAME, field, config)


def _watched(blocks: Iterator[_Block], stage: Stage, *, share: float) -> Iterator[_Block]:
    """Pass blocks on and advance a stage by ``share`` for each row of the cube that they cover."""
    for block in blocks:
        yield block
        rows = block.reflectance.shape[-2]
        stage.advance(share * (rows / PAN_RATIO if isinstance(block, PanBlock) else rows))


def plan_grids(config: SimulationConfig) -> tuple[Grid, Grid, TrueField]:
    """Work out the claimed PRISMA grid, the 10 m grid of the scene, and the position error.

    PRISMA's pixel edges are not aligned with Sentinel-2's: the origin has a fraction, as in real products.
    """
    rng = np.random.default_rng([config.seed, 0xF1E1D])
    msi_crs = CRS.from_epsg(32632)
    hsi_crs = msi_crs if config.hsi_epsg is None else CRS.from_epsg(config.hsi_epsg)
    shift_m = config.shift_m
    drawn, away = rng.uniform(80.0, 300.0), rng.uniform(0.0, 2.0 * np.pi)
    if shift_m is None:
        shift_m = (float(drawn * np.cos(away)), float(drawn * np.sin(away)))
    height_m, width_m = config.rows * HSI_PIXEL_M, config.cols * HSI_PIXEL_M
    middle_x = TILE_ORIGIN_M[0] + 24_000.0 + width_m / 2.0
    middle_y = TILE_ORIGIN_M[1] - 30_000.0 - height_m / 2.0
    x, y = reproject_xy(msi_crs, hsi_crs, np.array([middle_x]), np.array([middle_y]))
    left = math.floor((x[0] - width_m / 2.0) / _SNAP_M) * _SNAP_M + 13.5
    top = math.ceil((y[0] + height_m / 2.0) / _SNAP_M) * _SNAP_M - 8.3
    hsi = Grid.from_origin(hsi_crs, left, top, HSI_PIXEL_M, config.rows, config.cols)
    field = TrueField.for_grid(
        hsi,
        shift_m=shift_m,
        rotation_deg=config.rotation_deg,
        wave_m=config.wave_m,
        wavelength_m=config.wavelength_m,
        rng=rng,
    )
    field = _with_distortion(config, field, rng)
    reach = field.largest_m(hsi) + max(map(abs, config.vnir_swir_shift_m)) + config.margin_m
    reach += 3.0 * config.psf_fwhm * HSI_PIXEL_M + 1.5 * config.relief_m * max(map(abs, field.parallax))
    box = hsi.bounds_in(msi_crs).buffer(reach)
    return hsi, _snapped(msi_crs, box), field


def _with_distortion(config: SimulationConfig, field: TrueField, rng: np.random.Generator) -> TrueField:
    """Add the jitter along the track, and the parallax across it."""
    jitter_m = config.jitter_m if config.jitter_m is not None else 3.0 * config.is_realistic
    if not jitter_m and not config.relief_m:
        return field
    track, slope = math.radians(config.footprint_deg), math.tan(math.radians(config.view_angle_deg))
    phases = rng.uniform(0.0, 2.0 * np.pi, 2)
    return dataclasses.replace(
        field, jitter_m=jitter_m, jitter_phase_rad=(float(phases[0]), float(phases[1])),
        track_deg=config.footprint_deg, parallax=(slope * math.cos(track), -slope * math.sin(track)),
    )  # fmt: skip


def _snapped(crs: CRS, box: Bounds) -> Grid:
    """Return the 10 m grid over ``box`` whose edges lie on the tile's 60 m lattice."""
    left0, top0 = TILE_ORIGIN_M
    left = left0 + math.floor((box.left - left0) / _SNAP_M) * _SNAP_M
    right = left0 + math.ceil((box.right - left0) / _SNAP_M) * _SNAP_M
    top = top0 - math.floor((top0 - box.top) / _SNAP_M) * _SNAP_M
    bottom = top0 - math.ceil((top0 - box.bottom) / _SNAP_M) * _SNAP_M
    return Grid.from_origin(
        crs, left, top, MSI_PIXEL_M, round((top - bottom) / MSI_PIXEL_M), round((right - left) / MSI_PIXEL_M)
    )


def _tile(scene: Grid) -> Grid:
    return Grid.from_origin(scene.crs, *TILE_ORIGIN_M, MSI_PIXEL_M, TILE_PX, TILE_PX)


def _prisma(config: SimulationConfig, truth: Truth, grid: Grid, field: TrueField) -> tuple[PrismaSensor, PrismaLayout]:
    """Set up the PRISMA product."""
    bands: BandTable = default_prisma_bands(config.vnir_bands, config.swir_bands)
    optics = PrismaOptics(
        psf_fwhm=config.psf_fwhm,
        snr_scale=config.snr_scale,
        stripe_scale=config.stripe_scale,
        smile_nm=config.smile_nm,
        gain_spread=config.gain_spread,
        vnir_swir_shift_m=config.vnir_swir_shift_m,
        failed_bands=config.failed_bands,
    )
    rng = np.random.default_rng([config.seed, 0xC10])
    clouds = Clouds.random(grid.shape, rng, fraction=config.hsi_cloud_fraction, pixel_m=HSI_PIXEL_M, shadow_m=900.0)
    layout = PrismaLayout(
        grid,
        bands,
        start=config.start,
        vnir_scale=(0.0, optics.maximum[0]),
        swir_scale=(0.0, optics.maximum[1]),
        smile_nm=config.smile_nm,
        cloudy_percent=100.0 * config.hsi_cloud_fraction,
        pan_ratio=PAN_RATIO,
    )
    footprint = Footprint(grid.shape, config.footprint_deg)
    return PrismaSensor(truth, grid, field, bands, footprint, optics, clouds, seed=config.seed), layout


def _other_day(config: SimulationConfig, truth: Truth) -> tuple[Truth, Truth, tuple[Cover, ...]]:
    """The scene on both days, and what hides the guide's ground unknown to its classes."""
    height = None
    if config.relief_m > 0.0:
        height = relief_height(truth.grid, seed=config.seed, relief_m=config.relief_m)
    both = make_other_day(
        truth, days=config.days_apart or 0, seed=config.seed, when=(config.start, config.guide_start), height_m=height
    )
    field = None if truth.field is None else truth.field.over(truth.grid, height)
    return dataclasses.replace(both.hsi, field=field), both.guide, both.unmasked


def _sentinel2(config: SimulationConfig, truth: Truth, grid: Grid, unmasked: tuple[Cover, ...] = ()) -> Sentinel2Sensor:
    """Set up the Sentinel-2 product."""
    rng = np.random.default_rng([config.seed, 0xC52])
    clouds = Clouds.random(truth.grid.shape, rng, fraction=config.cloud_fraction, pixel_m=MSI_PIXEL_M, shadow_m=1100.0)
    return Sentinel2Sensor(
        truth,
        grid,
        spacecraft=config.spacecraft,
        psf_fwhm=config.s2_psf_fwhm,
        snr_scale=config.snr_scale,
        clouds=clouds,
        seed=config.seed,
        unmasked=unmasked,
    )


def _prepare(folder: Path, *, overwrite: bool) -> Path:
    """Make the folder and see that nothing is replaced unasked."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = sorted([*folder.glob("PRS_*.he5"), *folder.glob("S2?_MSI*.SAFE"), *folder.glob(TRUTH_NAME)])
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be used: {error.strerror or error}.") from error
    if present and not overwrite:
        raise OutputError(
            f"The folder {folder} holds a simulated pair already ({present[0].name}).",
            hint="Choose another folder, or allow overwriting.",
        )
    return folder
