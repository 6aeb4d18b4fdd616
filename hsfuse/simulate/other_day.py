"""What differs when a scene is seen on another day: harvest, season, sun and shadows, haze, clouds that no mask holds.

The truth of a pair is the ground on the day of the hyperspectral image. The guide sees a variant of it, and a map
says where and why the guide does not belong.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rasterio.crs import CRS

from hsfuse.grid import Grid, reproject_xy
from hsfuse.simulate.landscape import SHADE_STEPS, Landscape
from hsfuse.simulate.mixtures import CROP, GRASS
from hsfuse.simulate.scene import Truth
from hsfuse.simulate.sensors import Clouds
from hsfuse.simulate.texture import FloatArray, fractal, mix_hash, unit

CHANGED_PARCEL, CHANGED_LIGHT, MISSED_CLOUD, HAZE = 1, 2, 4, 8
"""Bits of a truth's ``change``: another surface, another light by more than a tenth, cloud or shadow, haze."""
_STRIP_ROWS = 192
_HARVEST_DAYS, _MOST_CHANGED = 70.0, 0.6
"""Parcels of farmland change as a process with this time constant, up to this share."""
_SEASON_DAYS = 160.0
_SEASON = {"crop": 0.9, "grass": 0.7, "broadleaf": 0.5, "conifer": 0.08}
"""How far the spectra of plants move towards dry ones in ``_SEASON_DAYS`` days."""
_DIFFUSE = 0.2
_LIGHT_DIFFERENCE, _VISIBLE = 0.1, 0.02
_GREEN, _BARE = ("crop", "grass"), ("soil", "dry")


@dataclass(frozen=True)
class Haze:
    """Light that the air adds, in 1/255 of ``strongest`` at 490 nm; shape of ``amount`` (row, col)."""

    amount: NDArray[np.uint8]
    strongest: float = 0.06

    @classmethod
    def random(cls, shape: tuple[int, int], rng: np.random.Generator, *, pixel_m: float) -> Haze:
        """Draw smooth haze over a third of the grid."""
        texture = fractal(shape, rng, slope=3.5, outer_px=min(6000.0 / pixel_m, max(shape)), inner_px=8)
        low, high = np.quantile(texture, (0.67, 0.98))
        return cls((np.clip((texture - low) / max(float(high - low), 1e-6), 0.0, 1.0) * 255.0).astype(np.uint8))

    def cover(self, reflectance: FloatArray, wavelength_nm: ArrayLike, rows: slice, cols: slice) -> FloatArray:
        """Reflectance (band, row, col) of a block as seen through the haze."""
        here = self.amount[rows, cols].astype(np.float32) * np.float32(self.strongest / 255.0)
        colour = (490.0 / np.asarray(wavelength_nm, dtype=np.float32)) ** np.float32(1.5)
        path = colour.reshape(-1, 1, 1) * here
        return np.asarray(reflectance * (1.0 - path) + path, dtype=np.float32)


@dataclass(frozen=True)
class OtherDay:
    """A scene as the guide sees it.

    Attributes
    ----------
    hsi
        Truth on the hyperspectral image's day, with the map of what differs (``change``) and heights.
    guide
        Truth on the guide's day.
    unmasked
        Clouds and haze over the guide that its classes do not know.
    """

    hsi: Truth
    guide: Truth
    unmasked: tuple[Clouds | Haze, ...]


def relief_height(grid: Grid, *, seed: int, relief_m: float) -> FloatArray:
    """Height of a scene's ground over its mean in metres; ``relief_m`` is the difference of heights (5 to 95 %)."""
    terrain = Landscape(grid.shape, pixel_m=grid.pixel_m, seed=seed).terrain
    low, high = np.quantile(terrain, (0.05, 0.95))
    return np.asarray((terrain - terrain.mean()) * (relief_m / max(float(high - low), 1e-6)), dtype=np.float32)


def make_other_day(
    truth: Truth, *, days: int, seed: int, when: tuple[datetime, datetime], height_m: FloatArray | None,
    weather_seed: int | None = None,
) -> OtherDay:  # fmt: skip
    """Age a scene by some days, and light both days as their sun stands.

    Parameters
    ----------
    truth
        The scene on the hyperspectral image's day, evenly lit.
    days
        Days between the images; the sign does not matter.
    seed
        Of what changes on the ground; the scene's own seed.
    when
        Times (UTC) of the hyperspectral image and of the guide.
    height_m
        Heights for the light on slopes and for cast shadows, shape (row, col); None: flat.
    weather_seed
        Of haze and missed clouds; None: ``seed``.
    """
    rng = np.random.default_rng([seed if weather_seed is None else weather_seed, 0x0DA7])
    parcels = _changed_parcels(truth, abs(days), seed)
    guide = _aged(_with_other_crops(truth, parcels, seed), abs(days))
    change = np.where(parcels, np.uint8(CHANGED_PARCEL), np.uint8(0))
    if height_m is not None:
        light = [sunlight(height_m, truth.grid.pixel_m, *sun_position(truth.grid, time)) for time in when]
        truth, guide = _lit(truth, light[0]), _lit(guide, light[1])
        differs = np.abs(light[0] - light[1]) > _LIGHT_DIFFERENCE
        change |= np.where(differs, np.uint8(CHANGED_LIGHT), np.uint8(0))
    unmasked: tuple[Clouds | Haze, ...] = ()
    if days:
        shape, pixel_m = truth.grid.shape, truth.grid.pixel_m
        haze = Haze.random(shape, rng, pixel_m=pixel_m)
        clouds = Clouds.random(shape, rng, fraction=0.015, pixel_m=pixel_m * 4.0, shadow_m=pixel_m * 120.0)
        change |= np.where(haze.amount > 255 * 0.2, np.uint8(HAZE), np.uint8(0))
        unmasked = (haze,)
        if clouds is not None:
            opacity, shadow = clouds.block(slice(0, shape[0]), slice(0, shape[1]))
            change |= np.where(np.maximum(opacity, shadow) > _VISIBLE, np.uint8(MISSED_CLOUD), np.uint8(0))
            unmasked = (haze, clouds)
    return OtherDay(dataclasses.replace(truth, change=change, height_m=height_m), guide, unmasked)


def _changed_parcels(truth: Truth, days: int, seed: int) -> NDArray[np.bool_]:
    """Farmland whose parcel was harvested, ploughed or sown in between, shape (row, col)."""
    landscape = Landscape(truth.grid.shape, pixel_m=truth.grid.pixel_m, seed=seed)
    share = _MOST_CHANGED * (1.0 - math.exp(-days / _HARVEST_DAYS))
    changed = np.zeros(truth.grid.shape, dtype=np.bool_)
    for block in truth.grid.row_blocks(_STRIP_ROWS):
        rows = slice(block.row0, block.row1)
        changed[rows] = unit(mix_hash(landscape.parcels(block.row0, block.row1), 91), 1) < share
    return np.asarray(changed & np.isin(truth.label, (CROP, GRASS)))


def _with_other_crops(truth: Truth, changed: NDArray[np.bool_], seed: int) -> Truth:
    """Green parcels become bare or dry and the other way round, where marked."""
    members = truth.endmembers
    green, bare = members.of(*_GREEN), members.of(*_BARE)
    rng = np.random.default_rng([seed, 0xC409])
    other = np.arange(len(members), dtype=np.uint8)
    other[green] = rng.choice(bare, green.size)
    other[bare] = rng.choice(green, bare.size)
    return dataclasses.replace(truth, index=np.where(changed, other[truth.index], truth.index))


def _aged(truth: Truth, days: int) -> Truth:
    """Plants turn towards dry ones, each kind at its own pace."""
    members = truth.endmembers
    dry = members.reflectance[members.of("dry")].mean(axis=0)
    pace = min(days / _SEASON_DAYS, 1.0)
    share = np.array([_SEASON.get(group, 0.0) * pace for group in members.group])[:, None]
    spectra = (1.0 - share) * members.reflectance + share * dry
    return dataclasses.replace(truth, endmembers=dataclasses.replace(members, reflectance=spectra))


def _lit(truth: Truth, light: FloatArray) -> Truth:
    shade = np.clip(np.rint(truth.shade * light), SHADE_STEPS * 0.05, 255.0).astype(np.uint8)
    return dataclasses.replace(truth, shade=shade)


def sun_position(grid: Grid, when: datetime) -> tuple[float, float]:
    """Elevation and azimuth (clockwise from north) of the sun over a grid's middle in degrees, to half a degree."""
    box = grid.bounds
    x, y = np.array([(box.left + box.right) / 2.0]), np.array([(box.bottom + box.top) / 2.0])
    lon, lat = (float(v[0]) for v in reproject_xy(grid.crs, CRS.from_epsg(4326), x, y))
    day = when.timetuple().tm_yday
    declination = math.radians(23.44) * math.sin(2.0 * math.pi * (day - 81) / 365.25)
    b = 2.0 * math.pi * (day - 81) / 364.0
    equation_min = 9.87 * math.sin(2.0 * b) - 7.53 * math.cos(b) - 1.5 * math.sin(b)
    hours = when.hour + when.minute / 60.0 + when.second / 3600.0 + equation_min / 60.0 + lon / 15.0
    angle, phi = math.radians(15.0 * (hours - 12.0)), math.radians(lat)
    height = math.sin(phi) * math.sin(declination) + math.cos(phi) * math.cos(declination) * math.cos(angle)
    south = math.cos(angle) * math.sin(phi) - math.tan(declination) * math.cos(phi)
    azimuth = math.degrees(math.atan2(math.sin(angle), south)) + 180.0
    return max(math.degrees(math.asin(height)), 3.0), azimuth % 360.0


def sunlight(height_m: FloatArray, pixel_m: float, elevation_deg: float, azimuth_deg: float) -> FloatArray:
    """Light on the ground relative to flat ground: the slope towards the sun, cast shadows, the sky's own light."""
    elevation, azimuth = math.radians(elevation_deg), math.radians(azimuth_deg)
    down, right = np.gradient(height_m, pixel_m)
    normal = np.sqrt(1.0 + down**2 + right**2)
    toward = right * math.sin(azimuth) - down * math.cos(azimuth)
    direct = np.clip((math.sin(elevation) - math.cos(elevation) * toward) / normal / math.sin(elevation), 0.0, 1.5)
    direct = np.where(cast_shadow(height_m, pixel_m, elevation_deg, azimuth_deg), 0.0, direct)
    return np.asarray(_DIFFUSE + (1.0 - _DIFFUSE) * direct, dtype=np.float32)


def cast_shadow(height_m: FloatArray, pixel_m: float, elevation_deg: float, azimuth_deg: float) -> NDArray[np.bool_]:
    """Where terrain hides the sun, shape (row, col)."""
    azimuth, slope = math.radians(azimuth_deg), math.tan(math.radians(elevation_deg))
    rows, cols = height_m.shape
    hidden = np.zeros(height_m.shape, dtype=np.bool_)
    reach = int((float(height_m.max()) - float(height_m.min())) / slope / pixel_m) + 1
    for step in range(1, min(reach, max(rows, cols) - 1) + 1):
        down, right = round(-math.cos(azimuth) * step), round(math.sin(azimuth) * step)
        here = slice(max(0, -down), rows - max(0, down)), slice(max(0, -right), cols - max(0, right))
        there = slice(max(0, down), rows + min(0, down)), slice(max(0, right), cols + min(0, right))
        hidden[here] |= height_m[there] - np.float32(step * pixel_m * slope) > height_m[here]
    return hidden
