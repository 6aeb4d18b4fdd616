"""A simulated pair: one scene, a hyperspectral and a Sentinel-2 product of it, and the truth."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS

from hsfuse.errors import OutputError
from hsfuse.grid import Bounds, Grid, reproject_xy
from hsfuse.log import get_logger
from hsfuse.progress import Progress, SilentProgress
from hsfuse.sensors.sentinel2 import BANDS_10M, BANDS_ALL
from hsfuse.simulate.hsi_product import write_hsi_product
from hsfuse.simulate.other_day import make_other_day, relief_height
from hsfuse.simulate.s2_sensor import Cover, Sentinel2Sensor
from hsfuse.simulate.scene import Truth
from hsfuse.simulate.sensors import Clouds
from hsfuse.simulate.settings import HsiSensor, SimulationConfig
from hsfuse.simulate.true_field import TrueField

__all__ = ["HsiSensor", "SimulatedPair", "SimulationConfig", "plan_grids", "simulate_pair"]

logger = get_logger(__name__)

HSI_PIXEL_M, MSI_PIXEL_M = 30.0, 10.0
TILE_PX = 10_980
TILE_ORIGIN_M = (699_960.0, 5_000_040.0)
"""Upper-left corner of tile T32TQQ, whose pixel edges the scenes share."""
TRUTH_NAME = "truth.npz"
_PRODUCTS = ("PRS_*.he5", "ENMAP01-*", "DESIS-*", "EMIT_*.nc", "S2?_MSI*.SAFE", TRUTH_NAME)
_SNAP_M = 60.0  # tile and 20 m pixel edges


@dataclass(frozen=True)
class SimulatedPair:
    """What a simulation wrote.

    Attributes
    ----------
    hsi
        The hyperspectral product: a ``.he5`` of PRISMA, the folder of EnMAP or DESIS, a ``.nc`` of EMIT.
    sentinel2
        Sentinel-2 product (``.SAFE`` folder), L1C beside reflectance of the top of the atmosphere.
    truth
        Ground truth; read it with :meth:`hsfuse.simulate.scene.Truth.load`.
    field
        True minus claimed positions of the hyperspectral product.
    config
        Settings that made them.
    """

    hsi: Path
    sentinel2: Path
    truth: Path
    field: TrueField
    config: SimulationConfig

    @property
    def prisma(self) -> Path:
        """The hyperspectral product, by the name of the sensor that it comes from by default."""
        return self.hsi


def simulate_pair(
    folder: Path | str,
    config: SimulationConfig | None = None,
    *,
    size_px: tuple[int, int] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> SimulatedPair:
    """Write a hyperspectral product, a Sentinel-2 product and the ground truth of one simulated scene.

    Parameters
    ----------
    folder
        Where (made when missing); the products get their agencies' names, the truth is ``truth.npz``.
    config
        Settings; alternatively, or over them, give single ones as keywords (``seed=3, psf_fwhm=1.5``).
    size_px
        (rows, cols) of the hyperspectral product in pixels of 30 m, over the settings.
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
    hsi_grid, msi_grid, field = plan_grids(config)
    truth_grid = msi_grid.nested(round(MSI_PIXEL_M / config.scene_pixel_m))
    facts = {"config": config.model_dump(mode="json"), "hsi_crs": hsi_grid.crs.to_string()}
    truth = Truth.generate(truth_grid, seed=config.seed, field=field, facts=facts, progress=progress)
    guide = truth
    unmasked: tuple[Cover, ...] = ()
    if config.is_realistic:
        truth, guide, unmasked = _other_day(config, truth)
        field = truth.field or field

    claimed = hsi_grid.coarsened(config.coarsening)
    hsi = write_hsi_product(target, config, truth, claimed, field, progress)

    tile = _tile(msi_grid) if config.full_tile else None
    beyond = config.full_tile and config.tile_fill == "mirror"
    view = _sentinel2(config, guide, tile if beyond and tile is not None else msi_grid, unmasked)
    sentinel2 = write_safe(
        target,
        grid=view.grid,
        tile=tile,
        reflectance={name: view.band(name) for name in (BANDS_10M if config.s2_bands == "10m" else BANDS_ALL)},
        scl=view.classes,
        spacecraft=config.spacecraft,
        sensing_time=config.guide_start,
        level="L1C" if config.sees_through_air else "L2A",
        overwrite=overwrite,
        progress=progress,
    )
    truth.save(target / TRUTH_NAME)
    logger.info("simulated %s and %s", hsi.name, sentinel2.name)
    return SimulatedPair(hsi, sentinel2, target / TRUTH_NAME, field, config)


def plan_grids(config: SimulationConfig) -> tuple[Grid, Grid, TrueField]:
    """Work out the claimed 30 m grid of the hyperspectral product, the 10 m grid of the scene, the position error.

    The hyperspectral pixel edges are not aligned with Sentinel-2's: the origin has a fraction, as in real products.
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
    reach = field.largest_m(hsi) + max(map(abs, (*config.vnir_swir_shift_m, *config.pan_shift_m))) + config.margin_m
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


def _overflight_seed(config: SimulationConfig) -> int:
    """Seed of what is another with every overflight of Sentinel-2: noise, clouds and haze."""
    if not config.overflight:
        return config.seed
    return int(np.random.SeedSequence([config.seed, 0x0F17, config.overflight]).generate_state(1)[0])


def _other_day(config: SimulationConfig, truth: Truth) -> tuple[Truth, Truth, tuple[Cover, ...]]:
    """The scene on both days, and what hides the guide's ground unknown to its classes."""
    height = None
    if config.relief_m > 0.0:
        height = relief_height(truth.grid, seed=config.seed, relief_m=config.relief_m)
    both = make_other_day(
        truth, days=config.days_apart or 0, seed=config.seed, weather_seed=_overflight_seed(config),
        when=(config.start, config.guide_start), height_m=height,
    )  # fmt: skip
    field = None if truth.field is None else truth.field.over(truth.grid, height)
    return dataclasses.replace(both.hsi, field=field), both.guide, both.unmasked


def _sentinel2(config: SimulationConfig, truth: Truth, grid: Grid, unmasked: tuple[Cover, ...] = ()) -> Sentinel2Sensor:
    """Set up the Sentinel-2 product."""
    rng = np.random.default_rng([_overflight_seed(config), 0xC52])
    shape = truth.grid.coarsened(round(MSI_PIXEL_M / truth.grid.pixel_m)).shape
    clouds = Clouds.random(shape, rng, fraction=config.cloud_fraction, pixel_m=MSI_PIXEL_M, shadow_m=1100.0)
    return Sentinel2Sensor(
        truth,
        grid,
        spacecraft=config.spacecraft,
        psf_fwhm=config.s2_psf_fwhm,
        snr_scale=config.snr_scale,
        clouds=clouds,
        seed=_overflight_seed(config),
        unmasked=unmasked,
        above_air=config.sees_through_air,
    )


def _prepare(folder: Path, *, overwrite: bool) -> Path:
    """Make the folder and see that nothing is replaced unasked."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = sorted(file for pattern in _PRODUCTS for file in folder.glob(pattern))
    except OSError as error:
        raise OutputError(f"The folder {folder} cannot be used: {error.strerror or error}.") from error
    if present and not overwrite:
        raise OutputError(
            f"The folder {folder} holds a simulated pair already ({present[0].name}).",
            hint="Choose another folder, or allow overwriting.",
        )
    return folder
