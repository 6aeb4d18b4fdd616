"""Hard pairs with a known displacement: what a co-registration is most likely to be wrong about, and must say so.

Forty pairs of eleven kinds. Relief whose parallax varies over 1 to 8 km and attitude jitter of 40 to 300 lines are
finer than matching windows; drift ice and cumulus that both images hold move otherwise than the land; at low sun
shadows lie elsewhere; a reference mosaic has a seam; harvest and flood change most of the ground; a regular pattern
of fields fits at many places; another place fits nowhere. As in coregistration_scenes.py nothing here uses code of
the package, and a pair is fully described by its :class:`HardSpec`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from coregistration_scenes import (
    CENTRE_XY,
    CLOUD,
    REFERENCE_PIXEL_M,
    ROAD,
    ROOF,
    SNOW,
    TARGET_PIXEL_M,
    WATER,
    Array,
    SceneSpec,
    fractal,
    parcel_spectra,
    parcels,
    roads_and_river,
    see,
)
from numpy.typing import NDArray
from scipy import ndimage

FloatArray = NDArray[np.float64]
Displacement = Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray]]

RATIO = round(TARGET_PIXEL_M / REFERENCE_PIXEL_M)
MARGIN_PX = 60


@dataclass(frozen=True)
class HardSpec:
    """What a hard pair is made of.

    Attributes
    ----------
    name, kind
        Name, and which difficulty it holds.
    seed, size
        Seed of everything that is drawn, side of the target in pixels.
    amplitude_m
        Root mean square of the parallax, amplitude of the jitter, way of the second layer or step at the seam.
    length_m
        Wavelength of the relief, period of the jitter (in metres along the track) or of the field pattern.
    share
        Share of the scene that the second layer, the change or the flood covers.
    sun
        Elevation and azimuth of the sun (degrees) at the reference's and at the target's time.
    heading_deg
        Direction of the track, clockwise from the south.
    """

    name: str
    kind: str
    seed: int
    size: int = 400
    amplitude_m: float = 0.0
    length_m: float = 3000.0
    share: float = 0.0
    sun: tuple[tuple[float, float], tuple[float, float]] = ((50.0, 150.0), (48.0, 155.0))
    heading_deg: float = 0.0

    @property
    def answer(self) -> bool:
        """Whether there is a right answer."""
        return self.kind != "other place"


@dataclass(frozen=True)
class HardPair:
    """Target (band, row, col) at 30 m, reference at 10 m, and the map positions of their upper left corners."""

    target: Array
    target_origin: tuple[float, float]
    reference: Array
    reference_origin: tuple[float, float]
    height: Array
    """Height of the ground in metres on the reference's grid (0 without relief)."""


def ridges(spec: HardSpec) -> Callable[[FloatArray, FloatArray], FloatArray]:
    """Height of relief over its standard deviation: ridges of one wavelength and their branches."""
    rng = np.random.default_rng(spec.seed + 31)
    axis = rng.uniform(0, np.pi)
    theta = axis + rng.normal(0, 0.6, 20)
    k = 2 * np.pi / (spec.length_m * rng.uniform(0.75, 1.4, 20))
    phase, weight = rng.uniform(0, 2 * np.pi, 20), rng.uniform(0.4, 1.0, 20)

    def at(x: FloatArray, y: FloatArray) -> FloatArray:
        total = np.zeros(np.broadcast(x, y).shape)
        for angle, number, shift, w in zip(theta, k, phase, weight, strict=True):
            total += w * np.cos(number * (x * np.cos(angle) + y * np.sin(angle)) + shift)
        total /= np.sqrt((weight**2).sum() / 2)
        # Crests are sharper than valleys are.
        return np.asarray(total + 0.25 * (total**2 - 1.0)) / 1.06

    return at


def true_displacement(spec: HardSpec) -> Displacement:
    """Displacement (dx, dy) in metres at claimed positions relative to the target's centre."""
    rng = np.random.default_rng(spec.seed + 77)
    shift = rng.uniform(-150.0, 150.0, 2)
    angle = np.deg2rad(rng.uniform(-0.05, 0.05))
    phase, azimuth = rng.uniform(0, 2 * np.pi, 3), rng.uniform(-0.25, 0.25)
    height = ridges(spec)
    heading = np.deg2rad(spec.heading_deg)
    seam_angle, seam_at = rng.uniform(-0.5, 0.5) + rng.choice([0.0, np.pi / 2]), rng.uniform(-0.2, 0.2)
    step_angle = rng.uniform(0, 2 * np.pi)

    def at(x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        dx, dy = shift[0] - np.sin(angle) * y, shift[1] + np.sin(angle) * x
        if spec.kind == "relief":
            parallax = spec.amplitude_m * height(x, y)
            dx, dy = dx + parallax * np.cos(azimuth), dy + parallax * np.sin(azimuth)
        elif spec.kind == "jitter":
            along = 2 * np.pi * (x * np.sin(heading) + y * np.cos(heading)) / spec.length_m
            dx = dx + spec.amplitude_m * np.sin(along + phase[0])
            dy = dy + 0.7 * spec.amplitude_m * np.sin(along * 1.13 + phase[1])
        elif spec.kind == "seam":
            across = x * np.cos(seam_angle) + y * np.sin(seam_angle)
            there = across > seam_at * spec.size * TARGET_PIXEL_M
            dx = dx + np.where(there, spec.amplitude_m * np.cos(step_angle), 0.0)
            dy = dy + np.where(there, spec.amplitude_m * np.sin(step_angle), 0.0)
        else:
            dx = dx + 6.0 * np.sin(2 * np.pi * y / 11000.0 + phase[2])
        return dx, dy

    return at


def cast_shadow(height: Array, elevation_deg: float, azimuth_deg: float) -> NDArray[np.bool_]:
    """Where terrain of 10 m pixels hides the sun."""
    azimuth, slope = np.deg2rad(azimuth_deg), np.tan(np.deg2rad(elevation_deg))
    hidden = np.zeros(height.shape, dtype=bool)
    reach = int(np.ceil((height.max() - height.min()) / slope / REFERENCE_PIXEL_M))
    for step in range(1, min(reach, 150) + 1):
        # Towards the sun: north is up, rows count down.
        rows, cols = round(-np.cos(azimuth) * step), round(np.sin(azimuth) * step)
        hidden |= np.roll(height, (-rows, -cols), (0, 1)) - step * REFERENCE_PIXEL_M * slope > height
    return hidden


def _sunlight(height: Array, sun: tuple[float, float]) -> Array:
    """Direct and diffuse light on the ground, relative to flat ground without shadow."""
    elevation, azimuth = np.deg2rad(sun[0]), np.deg2rad(sun[1])
    down, right = np.gradient(height, REFERENCE_PIXEL_M)
    normal = np.sqrt(1 + down**2 + right**2)
    cosine = (np.sin(elevation) - np.cos(elevation) * (right * np.sin(azimuth) - down * np.cos(azimuth))) / normal
    direct = np.clip(cosine / np.sin(elevation), 0.0, 2.5)
    direct = np.where(cast_shadow(height, *sun), 0.0, direct)
    return np.asarray(0.22 + 0.78 * direct, dtype=np.float32)


def _positions(size: int) -> tuple[FloatArray, FloatArray]:
    """Positions (x, y) of the landscape's pixels of 10 m relative to the centre."""
    steps = (np.arange(size, dtype=np.float64) - (size - 1) / 2) * REFERENCE_PIXEL_M
    x, y = np.meshgrid(steps, -steps)
    return x, y


def _relief_m(spec: HardSpec, size: int, rng: np.random.Generator) -> Array:
    if spec.kind == "relief":
        return (ridges(spec)(*_positions(size)) * 0.045 * spec.length_m).astype(np.float32)
    if spec.kind == "low sun":
        return fractal(rng, size, size, 1.9, 4.0) * np.float32(spec.amplitude_m)
    if spec.kind == "urban shadow":
        # Buildings of 20 to 60 m on blocks between streets.
        label = np.kron(rng.random((size // 4 + 1, size // 4 + 1)), np.ones((4, 4)))[:size, :size]
        town = ndimage.gaussian_filter(fractal(rng, size, size, 1.3), 20)
        built = (label > 0.6) & (town > np.quantile(town, 1 - spec.share))
        return np.where(built, spec.amplitude_m * (0.5 + label), 0.0).astype(np.float32)
    return np.zeros((size, size), dtype=np.float32)


def _pattern(spec: HardSpec, size: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Labels of rectangular fields of equal size, each of one of two crops in turns."""
    x, y = _positions(size)
    angle = rng.uniform(-0.4, 0.4)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    row, col = np.floor(v / spec.length_m), np.floor(u / spec.length_m)
    return np.asarray((row + col) % 2, dtype=np.int32)


def _ground(spec: HardSpec, size: int, seed: int, height: Array) -> tuple[Array, Array]:
    """Land at the reference's and at the target's date, each (band, row, col) at 10 m."""
    rng = np.random.default_rng(seed)
    changed = spec.share if spec.kind == "harvest" else 0.08
    about = SceneSpec(spec.name, changed_parcels=changed, drift=0.25 if spec.kind == "harvest" else 0.08)
    texture, fine = fractal(rng, size, size, 1.3), fractal(rng, size, size, 0.7, 2.0)
    label = _pattern(spec, size, rng) if spec.kind == "periodic" else parcels(rng, size)
    spectra = parcel_spectra(rng, int(label.max()) + 1, about)
    roads, river = roads_and_river(rng, size)
    if spec.kind == "periodic":
        roads[:], river[:] = False, False
        texture, fine = 0.1 * texture, 0.1 * fine
        spectra = (np.stack([spectra[0][0], 1.6 * spectra[0][0] + 0.03]),) * 2
    town = ndimage.gaussian_filter(texture, 12) > 0.9
    blocks = fractal(rng, size, size, 0.2, 2.5)
    pair = []
    for colours, sun in zip(spectra, spec.sun, strict=True):
        image = colours.T[:, label] * (1 + 0.10 * texture + 0.05 * fine)
        if spec.kind == "low sun":
            # Mountains have no parcels.
            image = (0.5 * colours.mean(axis=0))[:, None, None] * (1 + 0.25 * texture + 0.10 * fine)
        image[:, town] = ROOF[:, None] * (1 + 0.25 * blocks[town])
        image[:, roads] = ROAD[:, None]
        image[:, river] = WATER[:, None]
        image = image.astype(np.float32)
        if height.any():
            image *= _sunlight(height, sun)
        pair.append(image)
    return pair[0], pair[1]


def _floes(rng: np.random.Generator, size: int) -> tuple[NDArray[np.bool_], Array]:
    """Ice floes between leads of open water, and their brightness."""
    label = parcels(rng, size)
    edge = np.zeros(label.shape, dtype=bool)
    edge[1:] |= label[1:] != label[:-1]
    edge[:, 1:] |= label[:, 1:] != label[:, :-1]
    kept = rng.random(int(label.max()) + 1) < 0.75
    leads = ndimage.binary_dilation(edge, iterations=2)
    brightness = rng.uniform(0.5, 1.0, int(label.max()) + 1).astype(np.float32)
    return kept[label] & ~leads, brightness[label]


def _moved(layer: Array, rows: float, cols: float) -> Array:
    return np.asarray(ndimage.shift(layer, (rows, cols), order=1, mode="grid-wrap"), dtype=np.float32)


def _second_layer(spec: HardSpec, pair: list[Array], rng: np.random.Generator) -> None:
    """Add drift ice on the sea, or cumulus, that lies elsewhere in the target; in place."""
    size = pair[0].shape[-1]
    direction = rng.uniform(0, 2 * np.pi)
    rows, cols = (spec.amplitude_m / REFERENCE_PIXEL_M * f(direction) for f in (np.sin, np.cos))
    if spec.kind == "ice":
        coast = ndimage.gaussian_filter(fractal(rng, size, size, 1.8), 4) + np.linspace(-1.5, 1.5, size)[None, :]
        sea = coast > np.quantile(coast, 1 - spec.share)
        ice, brightness = _floes(rng, size)
        for number, image in enumerate(pair):
            here = _moved(ice.astype(np.float32), number * rows, number * cols)
            bright = _moved(brightness, number * rows, number * cols)
            image[:, sea] = (WATER[:, None, None] * (1 - here) + SNOW[:, None, None] * bright * here)[:, sea]
        return
    shape = fractal(rng, size, size, 1.1, 6.0)
    opacity = np.clip((shape - np.quantile(shape, 1 - spec.share)) / 0.3, 0.0, 1.0).astype(np.float32)
    inner = 1 + 0.15 * fractal(rng, size, size, 0.9)
    for number, image in enumerate(pair):
        here, bright = (_moved(v, number * rows, number * cols) for v in (opacity, inner))
        shadow = 0.5 * _moved(here, -14.0, 9.0)
        image *= (1 - shadow) * (1 - here)
        image += here * bright * CLOUD[:, None, None]


def _flood(spec: HardSpec, image: Array, rng: np.random.Generator) -> None:
    low = fractal(rng, *image.shape[1:], 1.6)
    wet = low < np.quantile(low, spec.share)
    ripple = fractal(rng, *image.shape[1:], 0.6, 2.0)
    image[:, wet] = (WATER + np.array([0.02, 0.03, 0.04, 0.02, 0.0], np.float32))[:, None] * (1 + 0.15 * ripple[wet])


def make_hard_pair(spec: HardSpec) -> HardPair:
    """Draw a pair."""
    size = spec.size * RATIO + 2 * MARGIN_PX
    rng = np.random.default_rng(spec.seed + 1000)
    height = _relief_m(spec, size, rng)
    first, second = _ground(spec, size, spec.seed, height)
    if spec.kind == "other place":
        second = _ground(spec, size, spec.seed + 500, height)[1]
    pair = [first, second]
    if spec.kind in ("ice", "cumulus"):
        _second_layer(spec, pair, rng)
    elif spec.kind == "flood":
        _flood(spec, pair[1], rng)
    reference = np.stack([ndimage.gaussian_filter(layer, 0.4) for layer in pair[0]])
    reference += rng.normal(0, 0.002, reference.shape).astype(np.float32)
    half, ground_half = spec.size * TARGET_PIXEL_M / 2, size * REFERENCE_PIXEL_M / 2
    if spec.kind == "seam":
        reference = _with_seam(spec, reference)
    return HardPair(
        _target(spec, pair[1], rng), (CENTRE_XY[0] - half, CENTRE_XY[1] + half), reference,
        (CENTRE_XY[0] - ground_half, CENTRE_XY[1] + ground_half), height,
    )  # fmt: skip


def _with_seam(spec: HardSpec, reference: Array) -> Array:
    """The reference as a mosaic: beyond the seam everything lies a step farther on."""
    x, y = _positions(reference.shape[-1])
    whole, none = true_displacement(spec), true_displacement(replace(spec, amplitude_m=0.0))
    step = [a - b for a, b in zip(whole(x, y), none(x, y), strict=True)]
    rows, cols = np.indices(x.shape)
    at = [rows + step[1] / REFERENCE_PIXEL_M, cols - step[0] / REFERENCE_PIXEL_M]
    return np.stack([ndimage.map_coordinates(layer, at, order=3, mode="nearest") for layer in reference])


def _target(spec: HardSpec, ground: Array, rng: np.random.Generator) -> Array:
    steps = (np.arange(spec.size, dtype=np.float64) - (spec.size - 1) / 2) * TARGET_PIXEL_M
    x, y = np.meshgrid(steps, -steps)
    # The step of a seam is the reference's own: the target sees the ground where it is.
    dx, dy = true_displacement(replace(spec, amplitude_m=0.0) if spec.kind == "seam" else spec)(x, y)
    middle = (ground.shape[-1] - 1) / 2
    image = see(ground, 1.5, middle - (y + dy) / REFERENCE_PIXEL_M, middle + (x + dx) / REFERENCE_PIXEL_M, RATIO)
    image = np.float32(0.9) * np.clip(image, 1e-4, None) ** np.float32(1.1)
    image += rng.normal(0, 0.003, (1, 1, spec.size))
    return (image + rng.normal(0, 0.006, image.shape)).astype(np.float32)


def _lines(number: float) -> float:
    return number * TARGET_PIXEL_M


LOW_SUN = ((14.0, 150.0), (11.0, 205.0)), ((17.0, 165.0), (13.0, 195.0)), ((25.0, 140.0), (16.0, 190.0))

HARD_PAIRS: tuple[HardSpec, ...] = (
    HardSpec("relief 1 km", "relief", 1, amplitude_m=14.0, length_m=1000.0),
    HardSpec("relief 1.5 km", "relief", 2, amplitude_m=20.0, length_m=1500.0),
    HardSpec("relief 2 km", "relief", 3, amplitude_m=25.0, length_m=2000.0),
    HardSpec("relief 3 km", "relief", 4, amplitude_m=30.0, length_m=3000.0),
    HardSpec("relief 5 km", "relief", 5, amplitude_m=30.0, length_m=5000.0),
    HardSpec("relief 8 km", "relief", 6, amplitude_m=35.0, length_m=8000.0),
    HardSpec("jitter 40 lines", "jitter", 11, amplitude_m=18.0, length_m=_lines(40), heading_deg=11.0),
    HardSpec("jitter 70 lines", "jitter", 12, amplitude_m=25.0, length_m=_lines(70)),
    HardSpec("jitter 130 lines", "jitter", 13, amplitude_m=25.0, length_m=_lines(130), heading_deg=12.0),
    HardSpec("jitter 300 lines", "jitter", 14, amplitude_m=30.0, length_m=_lines(300), heading_deg=-10.0),
    HardSpec("ice 90 m", "ice", 21, amplitude_m=90.0, share=0.6),
    HardSpec("ice 150 m", "ice", 22, amplitude_m=150.0, share=0.75),
    HardSpec("ice 210 m", "ice", 23, amplitude_m=210.0, share=0.7),
    HardSpec("ice 600 m", "ice", 24, amplitude_m=600.0, share=0.8),
    HardSpec("cumulus 80 m", "cumulus", 31, amplitude_m=80.0, share=0.35),
    HardSpec("cumulus 120 m", "cumulus", 32, amplitude_m=120.0, share=0.45),
    HardSpec("cumulus 200 m", "cumulus", 33, amplitude_m=200.0, share=0.3),
    HardSpec("cumulus 450 m", "cumulus", 34, amplitude_m=450.0, share=0.4),
    HardSpec("low sun 14 deg", "low sun", 41, amplitude_m=90.0, sun=LOW_SUN[0]),
    HardSpec("low sun 17 deg", "low sun", 42, amplitude_m=140.0, sun=LOW_SUN[1]),
    HardSpec("low sun 25 deg", "low sun", 43, amplitude_m=200.0, sun=LOW_SUN[2]),
    HardSpec("urban shadow 30 %", "urban shadow", 44, amplitude_m=25.0, share=0.3, sun=LOW_SUN[0]),
    HardSpec("urban shadow 60 %", "urban shadow", 45, amplitude_m=35.0, share=0.6, sun=LOW_SUN[1]),
    HardSpec("urban shadow 90 %", "urban shadow", 46, amplitude_m=45.0, share=0.9, sun=LOW_SUN[2]),
    HardSpec("seam 15 m", "seam", 51, amplitude_m=15.0),
    HardSpec("seam 30 m", "seam", 52, amplitude_m=30.0),
    HardSpec("seam 45 m", "seam", 53, amplitude_m=45.0),
    HardSpec("seam 70 m", "seam", 54, amplitude_m=70.0),
    HardSpec("harvest 50 %", "harvest", 61, share=0.5),
    HardSpec("harvest 70 %", "harvest", 62, share=0.7),
    HardSpec("harvest 85 %", "harvest", 63, share=0.85),
    HardSpec("harvest 95 %", "harvest", 64, share=0.95),
    HardSpec("flood 30 %", "flood", 71, share=0.3),
    HardSpec("flood 55 %", "flood", 72, share=0.55),
    HardSpec("flood 75 %", "flood", 73, share=0.75),
    HardSpec("periodic 150 m", "periodic", 81, length_m=150.0),
    HardSpec("periodic 240 m", "periodic", 82, length_m=240.0),
    HardSpec("periodic 400 m", "periodic", 83, length_m=400.0),
    HardSpec("other place", "other place", 91),
    HardSpec("other place, low sun", "other place", 92, sun=LOW_SUN[0]),
)
