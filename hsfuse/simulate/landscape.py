"""Land cover for simulated scenes: farmland, forest, river, lake, roads and towns as mixtures of endmembers.

Every pixel is a mixture of at most four endmembers times a brightness: three that its mixture names
(:mod:`hsfuse.simulate.mixtures`), one for what lies over it, such as a road, a hedge or a shore.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.simulate.landscape_parts import BentLine, Overlay, place_towns
from hsfuse.simulate.mixtures import (
    BARE,
    BUILT,
    FOREST,
    ROAD,
    WATER,
    make_surfaces,
    scene_endmembers,
)
from hsfuse.simulate.texture import Districts, FloatArray, HashArray, Subdivision, fractal, mix_hash, unit

SLOTS = 4
SHADE_STEPS = 160.0
"""Brightness 1.0 is stored as this number."""


@dataclass(frozen=True)
class Fields:
    """Fractal textures of the whole scene, each (row, col) with standard deviation about 1."""

    terrain: FloatArray
    patches: FloatArray
    moisture: FloatArray
    grain: FloatArray
    sparkle: FloatArray
    warp_x: FloatArray
    warp_y: FloatArray
    bend: FloatArray

    @classmethod
    def random(cls, shape: tuple[int, int], rng: np.random.Generator, pixel_m: float) -> Fields:
        """Draw all textures."""

        def standard(texture: FloatArray) -> FloatArray:
            texture -= texture.mean()
            texture /= max(float(texture.std()), 1e-6)
            return texture

        km = 1000.0 / pixel_m
        return cls(
            standard(fractal(shape, rng, slope=3.2, outer_px=8 * km, inner_px=4)),
            standard(fractal(shape, rng, slope=3.0, outer_px=1.5 * km)),
            standard(fractal(shape, rng, slope=2.4, outer_px=1.2 * km)),
            fractal(shape, rng, slope=1.5, outer_px=0.15 * km),
            fractal(shape, rng, slope=1.4, outer_px=0.12 * km),
            fractal(shape, rng, slope=4.0, outer_px=2.5 * km, inner_px=8),
            fractal(shape, rng, slope=4.0, outer_px=2.5 * km, inner_px=8),
            fractal(shape, rng, slope=4.5, outer_px=1.8 * km, inner_px=24),
        )


@dataclass(frozen=True)
class Strip:
    """Finished rows of the scene: up to four endmembers with shares that sum to 255, brightness, label."""

    index: NDArray[np.uint8]
    weight: NDArray[np.uint8]
    shade: NDArray[np.uint8]
    label: NDArray[np.uint8]


class Landscape:
    """Draws strips of a scene; everything random is fixed when it is made.

    Parameters
    ----------
    shape
        (rows, cols) of the scene.
    pixel_m
        Pixel size.
    seed
        Equal seeds and shapes give equal scenes.
    """

    def __init__(self, shape: tuple[int, int], *, pixel_m: float = 10.0, seed: int = 0) -> None:
        rng = np.random.default_rng([seed, 0x5CE7E])
        self.shape, self.pixel_m = shape, pixel_m
        self.endmembers = scene_endmembers(rng)
        mixtures, self._surfaces = make_surfaces(self.endmembers, rng)
        self._members, self._numbers, self._labels = mixtures.table()
        self._fields = Fields.random(shape, rng, pixel_m)
        self._rows = Subdivision.random(rng, spread=0.45)
        self._cols = Subdivision.random(rng, spread=0.6)
        profile = np.convolve(rng.standard_normal(1 << 16), [0.25, 0.5, 0.25], "same")
        self._row_profile = (profile / profile.std()).astype(np.float32)
        self._districts = Districts(float(rng.uniform(1300.0, 1800.0)), int(rng.integers(1 << 30)))
        height_m, width_m = shape[0] * pixel_m, shape[1] * pixel_m
        self._extent_m = min(height_m, width_m)
        self._river = BentLine.random(rng, width_m, height_m, inside=0.22)
        self._river_m = float(np.clip(self._extent_m * 0.012, 35.0, 110.0) * rng.uniform(0.8, 1.3))
        self._road = BentLine.random(rng, width_m, height_m, inside=0.3)
        # So many metres of bending make the line's direction swing by one radian or so.
        self._bend_reach_m = pixel_m / max(float(np.diff(self._fields.bend[::4], axis=1).std()), 1e-6)
        self._sun_rad = float(rng.uniform(2.3, 2.7))
        self._towns = place_towns(rng, width_m, height_m)
        self._lakes = [
            (float(rng.uniform(0.1, 0.9) * width_m), float(rng.uniform(0.1, 0.9) * height_m),
             float(np.clip(self._extent_m * rng.uniform(0.03, 0.07), 120.0, 900.0)))
            for _ in range(1 + int(width_m * height_m / 250e6))
        ]  # fmt: skip

    def strip(self, row0: int, row1: int) -> Strip:
        """Draw rows ``row0`` to ``row1 - 1``; how a scene is cut into strips changes nothing."""
        first, last = max(row0 - 1, 0), min(row1 + 1, self.shape[0])  # slopes need a neighbour
        drawn = self._draw(first, last)
        keep = slice(row0 - first, row1 - first)
        return Strip(drawn.index[:, keep], drawn.weight[:, keep], drawn.shade[keep], drawn.label[keep])

    @property
    def terrain(self) -> FloatArray:
        """Shape of the ground, shape (row, col), standard deviation about 1."""
        return self._fields.terrain

    def parcels(self, row0: int, row1: int) -> HashArray:
        """Hash of the parcel that each pixel of some rows belongs to, shape (row, col)."""
        _, _, x_bent, y_bent = self._positions(row0, row1)
        cell, _ = self._districts.at(x_bent, y_bent)
        return self._parcels(x_bent, y_bent, cell)[0]

    def _positions(self, row0: int, row1: int) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Positions of pixels in metres, x and y, and the same bent as parcels are."""
        y, x = np.meshgrid(
            (np.arange(row0, row1, dtype=np.float32) + 0.5) * np.float32(self.pixel_m),
            (np.arange(self.shape[1], dtype=np.float32) + 0.5) * np.float32(self.pixel_m),
            indexing="ij",
        )
        rows = slice(row0, row1)
        return x, y, x + 55.0 * self._fields.warp_x[rows], y + 55.0 * self._fields.warp_y[rows]

    def _draw(self, row0: int, row1: int) -> Strip:
        rows = slice(row0, row1)
        x, y, x_bent, y_bent = self._positions(row0, row1)
        cell, border = self._districts.at(x_bent, y_bent)
        parcel, edge, across = self._parcels(x_bent, y_bent, cell)
        mixture = self._land_use(rows, cell, parcel)
        town = self._towns_at(x, y, rows)
        over = Overlay.empty(x.shape)
        hedge = unit(mix_hash(parcel, 31), 1)
        over.add(self._coverage(edge, 2.0) * (hedge < 0.5), self._tracks(cell), BARE)
        over.add(0.7 * self._coverage(edge, 3.0 + 3.0 * hedge) * (hedge > 0.8), self._one("broadleaf", cell, 5), FOREST)
        third, building = self._build(town, x_bent, y_bent, mixture, over)
        wet, lake = self._flood(rows, x, y, mixture, over)
        building = np.where(wet, np.float32(0.0), building)
        width = 3.5 + 4.0 * unit(cell, 41)
        over.add(self._coverage(border, width) * ~lake, self._one("asphalt", cell, 42), ROAD)
        highway = self._road.distance(x, y, -self._fields.bend[rows], 0.3 * self._bend_reach_m, self.pixel_m)
        over.add(
            self._coverage(highway, 12.0) * ~lake, np.full(x.shape, self.endmembers.of("asphalt")[0], np.uint8), ROAD
        )
        return self._compose(rows, mixture, parcel, across, cell, third, building, over)

    def _coverage(self, distance_m: NDArray[np.floating], half_width_m: NDArray[np.floating] | float) -> FloatArray:
        """Share of a pixel under a line whose middle is ``distance_m`` away."""
        half = self.pixel_m / 2.0
        low = np.maximum(distance_m - half, -half_width_m)
        high = np.minimum(distance_m + half, half_width_m)
        return np.asarray(np.clip((high - low) / self.pixel_m, 0.0, 1.0), dtype=np.float32)

    def _one(self, group: str, key: HashArray, salt: int) -> NDArray[np.uint8]:
        members = self.endmembers.of(group).astype(np.uint8)
        return np.asarray(members[mix_hash(key, salt) % np.uint32(members.size)])

    def _tracks(self, cell: HashArray) -> NDArray[np.uint8]:
        members = self.endmembers.of("gravel", "soil", "dry").astype(np.uint8)
        return np.asarray(members[mix_hash(cell, 21) % np.uint32(members.size)])

    def _parcels(self, x: FloatArray, y: FloatArray, cell: HashArray) -> tuple[HashArray, FloatArray, FloatArray]:
        """Hash of the field, distance to its edge, position across the working direction, all in metres."""
        angle = unit(cell, 11) * np.float32(np.pi)
        cosine, sine = np.cos(angle), np.sin(angle)
        along, across = cosine * x + sine * y, cosine * y - sine * x
        width = 75.0 + 210.0 * unit(cell, 12) ** 1.5
        length = 140.0 + 420.0 * unit(cell, 13)
        row, row_edge = self._rows.at(across / width, mix_hash(cell, 14))
        lane = mix_hash(row, 15) ^ cell
        col, col_edge = self._cols.at(along / length, mix_hash(lane, 16))
        parcel = mix_hash(mix_hash(col, 17) ^ lane, 18)
        return parcel, np.minimum(row_edge * width, col_edge * length).astype(np.float32), across

    def _land_use(self, rows: slice, cell: HashArray, parcel: HashArray) -> NDArray[np.int64]:
        """Mixture of the open country."""
        fields, surfaces = self._fields, self._surfaces
        # Neighbours often grow the same: half the parcels pick among six favourites of their district.
        favourite = mix_hash(cell ^ (mix_hash(parcel, 51) % np.uint32(6)), 52)
        choice = np.where(unit(parcel, 53) < 0.5, favourite, mix_hash(parcel, 54))
        mixture = surfaces.farmland[choice % np.uint32(surfaces.farmland.size)]
        height = fields.terrain[rows] + 0.5 * fields.patches[rows] + 0.03 * fields.grain[rows]
        stand = mix_hash(parcel, 55)
        heath = (height > 0.62) & (height <= 0.8)
        mixture = np.where(heath, surfaces.heath[stand % np.uint32(surfaces.heath.size)], mixture)
        # A wood's stands mostly look like its district; the last three mixtures are clear-cuts.
        trees = np.where(unit(parcel, 56) < 0.6, mix_hash(cell, 57), stand) % np.uint32(surfaces.woodland.size - 3)
        trees = np.where(unit(parcel, 58) < 0.06, surfaces.woodland.size - 3 + stand % np.uint32(3), trees)
        return np.asarray(np.where(height > 0.8, surfaces.woodland[trees], mixture))

    def _towns_at(self, x: FloatArray, y: FloatArray, rows: slice) -> tuple[FloatArray, NDArray[np.int8]]:
        """Density of building (0 at the rim, 1 in the centre, below 0 outside) and number of the town."""
        density = np.full(x.shape, -1.0, np.float32)
        which = np.full(x.shape, -1, np.int8)
        ragged = 0.22 * self._fields.patches[rows]
        for number, town in enumerate(self._towns):
            here = 1.0 - np.hypot(x - town.x_m, y - town.y_m) / np.float32(town.radius_m) + ragged
            nearer = here > density
            density = np.where(nearer, here, density)
            which = np.where(nearer, np.int8(number), which)
        return density.astype(np.float32), which

    def _build(
        self, town: tuple[FloatArray, NDArray[np.int8]], x: FloatArray, y: FloatArray, mixture: NDArray[np.int64],
        over: Overlay,
    ) -> tuple[NDArray[np.uint8], FloatArray]:  # fmt: skip
        """Put streets, houses and parks where there is a town; changes ``mixture`` and ``over``.

        Returns the roof's endmember and the share of the pixel under roof.
        """
        density, which = town
        roof = np.zeros(x.shape, np.uint8)
        covered = np.zeros(x.shape, np.float32)
        surfaces = self._surfaces
        for number, place in enumerate(self._towns):
            inside = (which == number) & (density > 0.0)
            if not inside.any():
                continue
            cosine, sine = np.float32(np.cos(place.angle_rad)), np.float32(np.sin(place.angle_rad))
            px, py, dense = x[inside], y[inside], density[inside]
            u, v = cosine * px + sine * py, cosine * py - sine * px
            grain_m = np.float32(2.6 if place.industrial else 1.0)
            seed = np.full(px.shape, mix_hash(np.array([place.salt], np.uint32), 1)[0], np.uint32)
            block_v, street_v = self._rows.at(v / (95.0 * grain_m), seed)
            block_u, street_u = self._cols.at(u / (130.0 * grain_m), mix_hash(block_v ^ seed, 2))
            block = mix_hash(mix_hash(block_u, 3) ^ mix_hash(block_v, 4) ^ seed, 5)
            street = np.minimum(street_v * 95.0, street_u * 130.0) * grain_m
            turned = unit(block, 6) < 0.5
            lot_v, wall_v = self._rows.at(np.where(turned, u, v) / (24.0 * grain_m), block)
            lot_u, wall_u = self._cols.at(np.where(turned, v, u) / (34.0 * grain_m), mix_hash(lot_v ^ block, 7))
            lot = mix_hash(mix_hash(lot_u, 8) ^ mix_hash(lot_v, 9) ^ block, 10)
            wall = np.minimum(wall_v * 24.0, wall_u * 34.0) * grain_m
            core = dense > 0.55
            set_back = np.where(core, 1.0, 3.0 + 4.0 * unit(lot, 11)) * grain_m
            chance = np.clip(0.45 + 0.6 * dense, 0.0, 0.95)
            green = (unit(block, 12) < np.where(core, 0.05, 0.13)) & (not place.industrial)
            house = np.clip((wall - set_back) / self.pixel_m + 0.5, 0.0, 1.0) * (unit(lot, 13) < chance) * ~green
            covered[inside] = np.clip(np.minimum(house, street / 6.0), 0.0, 1.0)
            roofs = ("metal", "metal", "concrete", "roof") if place.industrial else ("tile", "tile", "roof", "concrete")
            kind = np.stack([self._one(name, lot, 14 + i) for i, name in enumerate(roofs)])
            roof[inside] = np.take_along_axis(kind, (mix_hash(lot, 20) % np.uint32(4)).astype(np.intp)[None], 0)[0]
            ground = surfaces.paved if place.industrial else surfaces.yard
            mostly_paved = core | (unit(lot, 21) < 0.1)
            ground_here = np.where(mostly_paved, surfaces.paved[lot % np.uint32(surfaces.paved.size)],
                                   ground[lot % np.uint32(ground.size)])  # fmt: skip
            mixture[inside] = np.where(green, surfaces.park[block % np.uint32(surfaces.park.size)], ground_here)
            paving = np.zeros(x.shape, np.float32)
            paving[inside] = self._coverage(street, np.where(dense > 0.4, 5.0, 3.5) * np.sqrt(grain_m))
            over.clear(inside)
            stone = np.zeros(x.shape, np.uint8)
            stone[inside] = self._one("asphalt", mix_hash(seed, 22), 23)
            over.add(paving, stone, ROAD)
        return roof, covered

    def _flood(
        self, rows: slice, x: FloatArray, y: FloatArray, mixture: NDArray[np.int64], over: Overlay
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Put the river and the lakes in; changes ``mixture`` and ``over``.

        Returns what is no place for a house, and what no road crosses (rivers are bridged, lakes are not).
        """
        fields = self._fields
        width = self._river_m * (1.0 + 0.18 * fields.warp_y[rows])
        depth = width / 2.0 - self._river.distance(x, y, fields.bend[rows], 0.75 * self._bend_reach_m, self.pixel_m)
        lake = np.full(x.shape, -np.inf, np.float32)
        for lake_x, lake_y, radius in self._lakes:
            reach = radius * (1.0 + 0.25 * fields.patches[rows] + 0.25 * fields.warp_x[rows])
            lake = np.maximum(lake, reach - np.hypot(x - lake_x, y - lake_y))
        depth = np.maximum(depth, lake)
        share = np.clip(depth / self.pixel_m + 0.5, 0.0, 1.0).astype(np.float32)
        bank = (depth > -22.0 - 8.0 * fields.grain[rows]) & (fields.moisture[rows] > 0.5)
        mixture[bank] = self._surfaces.sand
        mixture[share >= 1.0] = self._surfaces.water
        over.clear(bank | (share > 0.0))
        shore = np.full(x.shape, int(self.endmembers.of("water")[0]), np.uint8)
        over.add(np.where(share < 1.0, share, 0.0).astype(np.float32), shore, WATER)
        trees = (depth < -5.0) & (depth > -45.0) & ~bank & (fields.grain[rows] > 0.2)
        alder = np.full(x.shape, int(self.endmembers.of("broadleaf")[0]), np.uint8)
        over.add(0.85 * trees.astype(np.float32), alder, FOREST)
        return np.asarray(bank | (share > 0.0)), np.asarray(lake > 0.0)

    def _compose(
        self, rows: slice, mixture: NDArray[np.int64], parcel: HashArray, across: FloatArray, cell: HashArray,
        third: NDArray[np.uint8], building: FloatArray, over: Overlay,
    ) -> Strip:  # fmt: skip
        """Turn mixtures and textures into shares and brightness."""
        fields = self._fields
        share, split, patchy, grainy, bright, rough, row_strength = np.moveaxis(self._numbers[mixture], -1, 0)
        label = self._labels[mixture]
        where = ((across / 9.0).astype(np.int64) + (cell >> np.uint32(9)).astype(np.int64)) % self._row_profile.size
        furrow = self._row_profile[where] * row_strength
        grain, sparkle = fields.grain[rows], fields.sparkle[rows]
        main = np.clip(share + patchy * fields.moisture[rows] + grainy * grain + 0.5 * furrow, 0.02, 1.0)
        second = (1.0 - main) * np.clip(split + 0.25 * fields.patches[rows] + 0.15 * sparkle, 0.0, 1.0)
        second = np.where(label == BUILT, 1.0 - main, second)
        parts = np.stack([main, second, 1.0 - main - second, np.zeros_like(main)])
        index = np.empty((SLOTS, *mixture.shape), np.uint8)
        index[:3] = np.moveaxis(self._members[mixture], -1, 0)
        index[3] = over.member
        built = building > 0.0
        index[2] = np.where(built, third, index[2])
        parts[2] = np.where(built, building, parts[2])
        parts[:2] *= np.where(built, (1.0 - building) / np.maximum(parts[0] + parts[1], 1e-6), 1.0)
        parts[:3] *= (1.0 - over.share) / np.maximum(parts[:3].sum(axis=0), 1e-6)
        parts[3] = over.share
        # Rounding the running sum keeps the total at exactly 255.
        running = np.rint(np.cumsum(parts, axis=0) * 255.0).astype(np.int16)
        running[-1] = 255
        weight = np.diff(running, axis=0, prepend=np.int16(0)).astype(np.uint8)
        label = np.where(building > 0.5, np.uint8(BUILT), label)
        label = np.where(over.share > 0.5, over.label, label)
        own = 0.94 + 0.12 * unit(parcel, 71)
        own = np.where((label == WATER) | (label == BUILT) | (label == ROAD), 1.0, own)
        relief = np.clip(1.0 + 0.07 * self._slope(rows), 0.75, 1.25)
        relief = np.where(label == WATER, 1.0, relief)
        brightness = relief * own * bright * np.exp(rough * sparkle + 0.4 * furrow)
        shade = np.clip(np.rint(brightness * SHADE_STEPS), 16, 255).astype(np.uint8)
        return Strip(index, weight, shade, label.astype(np.uint8))

    def _slope(self, rows: slice) -> FloatArray:
        """Slope towards the sun, standard deviation about 1."""
        down, right = np.gradient(self._fields.terrain[rows])
        toward = np.cos(self._sun_rad) * down + np.sin(self._sun_rad) * right
        return np.asarray(toward / self._slope_scale, dtype=np.float32)

    @property
    def _slope_scale(self) -> float:
        terrain = self._fields.terrain
        step = max(1, terrain.shape[0] // 64)
        return max(float(np.diff(terrain[::step], axis=1).std()), 1e-6)
