"""The hyperspectral product of a simulated pair: a sensor that observes the scene, written in its agency's format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeVar, cast

import numpy as np

from hsfuse.grid import Grid
from hsfuse.progress import Progress, Stage
from hsfuse.simulate.blocks import CubeBlock, PanBlock
from hsfuse.simulate.desis import desis_bands, write_desis
from hsfuse.simulate.dlr_package import PackageLayout
from hsfuse.simulate.emit import EmitLayout, emit_bands, write_emit
from hsfuse.simulate.enmap import enmap_bands, write_enmap
from hsfuse.simulate.hyperspectral_sensor import Footprint, HyperspectralSensor, Optics
from hsfuse.simulate.prisma import write_prisma
from hsfuse.simulate.prisma_bands import default_prisma_bands
from hsfuse.simulate.prisma_layout import PrismaLayout, PrismaLevel
from hsfuse.simulate.scene import Truth
from hsfuse.simulate.sensors import Clouds
from hsfuse.simulate.settings import SimulationConfig
from hsfuse.simulate.swath import SwathGrid, WholeSwath
from hsfuse.simulate.true_field import TrueField
from hsfuse.spectral import BandTable

PAN_RATIO = 6
_SHADOW_M = 900.0
_PAN_SHARE = 0.3
_Block = TypeVar("_Block", CubeBlock, PanBlock)


def write_hsi_product(
    folder: Path, config: SimulationConfig, truth: Truth, claimed: Grid, field: TrueField, progress: Progress
) -> Path:
    """Observe the scene with the sensor that the settings name, and write its product.

    Parameters
    ----------
    folder
        Gets the product under its agency's name.
    config
        Settings.
    truth
        The scene.
    claimed
        Map grid that the product claims, or into whose middle its swath is laid.
    field
        True minus claimed position.
    progress
        Shows the rows.
    """
    writer = _package if config.sensor in ("enmap", "desis") else _emit if config.sensor == "emit" else _prisma
    has_pan = config.pan and config.sensor == "prisma-l2d"
    with progress.stage("write hyperspectral product", config.rows * (1.0 + _PAN_SHARE * has_pan)) as stage:
        return writer(folder, config, truth, claimed, field, stage)


def _prisma(
    folder: Path, config: SimulationConfig, truth: Truth, claimed: Grid, field: TrueField, stage: Stage
) -> Path:
    level = cast(PrismaLevel, config.sensor.removeprefix("prisma-l").upper())
    bands = default_prisma_bands(config.vnir_bands, config.swir_bands)
    grid: Grid | SwathGrid = claimed if level == "2D" else _swath(config, claimed, "across")
    optics = _optics(config)
    sensor = _sensor(config, truth, grid, field, bands, lines="across")
    layout = PrismaLayout(
        grid,
        bands,
        start=config.start,
        vnir_scale=(0.0, optics.maximum[0]),
        swir_scale=(0.0, optics.maximum[1]),
        smile_nm=config.smile_nm,
        cloudy_percent=100.0 * config.hsi_cloud_fraction,
        pan_ratio=PAN_RATIO,
        level=level,
    )
    pan = _watched(sensor.pan_blocks(PAN_RATIO), stage, config) if config.pan and level == "2D" else None
    return write_prisma(folder, layout, _watched(sensor.blocks(), stage, config), pan_blocks=pan)


def _package(
    folder: Path, config: SimulationConfig, truth: Truth, claimed: Grid, field: TrueField, stage: Stage
) -> Path:
    bands, write = (enmap_bands(), write_enmap) if config.sensor == "enmap" else (desis_bands(), write_desis)
    sensor = _sensor(config, truth, claimed, field, bands)
    cover = {"cloud": 100.0 * config.hsi_cloud_fraction}
    layout = PackageLayout(claimed, bands, start=config.start, cover_percent=cover)
    return write(folder, layout, _watched(sensor.blocks(), stage, config))


def _emit(folder: Path, config: SimulationConfig, truth: Truth, claimed: Grid, field: TrueField, stage: Stage) -> Path:
    grid, bands = _swath(config, claimed, "along"), emit_bands()
    sensor = _sensor(config, truth, grid, field, bands, lines="along")
    return write_emit(folder, EmitLayout(grid, bands, config.start), _watched(sensor.blocks(), stage, config))


def _optics(config: SimulationConfig) -> Optics:
    return Optics(
        psf_fwhm=config.psf_fwhm,
        snr_scale=config.snr_scale,
        stripe_scale=config.stripe_scale,
        smile_nm=config.smile_nm,
        gain_spread=config.gain_spread,
        vnir_swir_shift_m=config.vnir_swir_shift_m,
        # It is the correction of the atmosphere that fails: radiance above it is measured in every band.
        failed_bands=config.failed_bands and not config.sees_through_air,
        pan_psf_fwhm=config.pan_psf_fwhm,
        pan_shift_m=config.pan_shift_m,
    )


def _swath(config: SimulationConfig, claimed: Grid, lines: Literal["along", "across"]) -> SwathGrid:
    footprint = Footprint(claimed.shape, config.footprint_deg)
    return SwathGrid.within(claimed, config.footprint_deg, footprint.sides, lines=lines)


def _sensor(
    config: SimulationConfig,
    truth: Truth,
    grid: Grid | SwathGrid,
    field: TrueField,
    bands: BandTable,
    *,
    lines: Literal["along", "across"] = "along",
) -> HyperspectralSensor:
    rng = np.random.default_rng([config.seed, 0xC10])
    clouds = Clouds.random(
        grid.shape, rng, fraction=config.hsi_cloud_fraction, pixel_m=grid.pixel_m, shadow_m=_SHADOW_M
    )
    whole = isinstance(grid, SwathGrid)
    footprint = WholeSwath(grid.shape, lines) if whole else Footprint(grid.shape, config.footprint_deg)
    return HyperspectralSensor(
        truth, grid, field, bands, footprint, _optics(config), clouds, seed=config.seed,
        above_air=config.sees_through_air,
    )  # fmt: skip


def _watched(blocks: Iterator[_Block], stage: Stage, config: SimulationConfig) -> Iterator[_Block]:
    """Pass blocks on and advance a stage by the rows of 30 m that they cover, of the panchromatic image by less."""
    for block in blocks:
        yield block
        rows = block.reflectance.shape[-2]
        stage.advance(_PAN_SHARE * rows / PAN_RATIO if isinstance(block, PanBlock) else rows * config.coarsening)
