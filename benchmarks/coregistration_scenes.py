"""Pairs of images with a known geolocation error: what the co-registration benchmark measures against.

A landscape is drawn at 10 m (parcels, roads, a river, settlements, relief and fractal texture in five bands). The
reference is that landscape with its own blur, noise and clouds, where asked on the grid of another UTM zone. The
target's pixel that *claims* position ``q`` sees the landscape at ``q + d(q)`` through a wider point spread function,
with gain, gamma, noise, stripes, changed parcels and other clouds. Nothing here uses code of the package: blur,
interpolation and fields are scipy's and numpy's own.

A scene is fully described by its :class:`SceneSpec`, so other seeds give other scenes of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Array = NDArray[np.float32]
Field = Callable[[NDArray[np.float64], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]]

BAND_NAMES = ("blue", "green", "red", "nir", "swir")
TARGET_PIXEL_M, REFERENCE_PIXEL_M = 30.0, 10.0
MARGIN_M = 600.0
TARGET_EPSG, OTHER_EPSG = 32632, 32633
CENTRE_XY = (655_000.0, 5_105_000.0)
"""Map position of the scenes' centre, near the border to the next zone."""


@dataclass(frozen=True)
class SceneSpec:
    """What a scene is made of; the defaults are an ordinary clear summer pair."""

    name: str
    seed: int = 1
    size: int = 500
    shift_m: tuple[float, float] = (83.0, -47.0)
    rotation_deg: float = 0.0
    wave: tuple[float, float] = (0.0, 9000.0)
    irregular: tuple[float, float] = (0.0, 6000.0)
    jitter: tuple[float, float] = (0.0, 3000.0)
    landscape: str = "parcels"
    target_cloud: float = 0.09
    reference_cloud: float = 0.05
    psf_px: float = 1.5
    noise: float = 0.006
    stripes: float = 0.003
    gain: float = 0.9
    gamma: float = 1.1
    changed_parcels: float = 0.05
    drift: float = 0.08
    sun_azimuth_deg: tuple[float, float] = (140.0, 150.0)
    relief: float = 0.0
    snow: float = 0.0
    water: float = 0.0
    contrast: float = 1.0
    mixed_bands: float = 0.0
    covered: float = 1.0
    other_zone: bool = False
    answer: bool = True

    @property
    def distorted(self) -> bool:
        """Whether the displacement differs inside the scene."""
        return bool(self.rotation_deg or self.wave[0] or self.irregular[0] or self.jitter[0])

    @property
    def margin_px(self) -> int:
        """How far the landscape reaches beyond the target, in pixels of 10 m."""
        return int(max(MARGIN_M, max(abs(v) for v in self.shift_m) + 400.0) / REFERENCE_PIXEL_M)


@dataclass(frozen=True)
class ScenePair:
    """A generated pair.

    ``target`` is (band, row, col) at 30 m, ``reference`` at 10 m reaches further on each side; ``reference_cloud``
    is the reference's own mask (the target has none, as PRISMA L2D). Origins are the map positions (x, y) of the
    upper left corners.
    """

    spec: SceneSpec
    target: Array
    target_origin: tuple[float, float]
    reference: Array
    reference_cloud: NDArray[np.bool_]
    reference_origin: tuple[float, float]
    reference_epsg: int


def fractal(rng: np.random.Generator, rows: int, cols: int, slope: float, smallest_px: float = 0.0) -> Array:
    """Noise whose amplitude falls with frequency to the power ``slope``; zero mean, unit variance."""
    high, wide = fft.next_fast_len(rows, real=True), fft.next_fast_len(cols, real=True)
    spectrum = fft.rfft2(rng.standard_normal((high, wide), dtype=np.float32))
    ky, kx = np.fft.fftfreq(high)[:, None], np.fft.rfftfreq(wide)[None, :]
    k = np.hypot(ky, kx)
    k[0, 0] = 1.0
    shape = k ** (-slope) * np.exp(-0.5 * (k * smallest_px * 2) ** 2)
    shape[0, 0] = 0.0
    out = fft.irfft2(spectrum * shape.astype(np.float32), s=(high, wide))[:rows, :cols]
    return ((out - out.mean()) / out.std()).astype(np.float32)


def true_field(spec: SceneSpec) -> Field:
    """The displacement (dx, dy) of a scene in metres, at claimed map positions relative to the target's centre."""
    angle = np.deg2rad(spec.rotation_deg)
    rng = np.random.default_rng(spec.seed + 77)
    parts = []
    for amplitude, length in (spec.irregular, spec.jitter):
        if amplitude > 0:
            # Sums of plane waves with random directions: smooth, irregular, without a preferred axis.
            waves = 12
            k = 2 * np.pi / (length * rng.uniform(0.7, 1.8, (2, waves)))
            theta, phase = rng.uniform(0, 2 * np.pi, (2, waves)), rng.uniform(0, 2 * np.pi, (2, waves))
            parts.append((amplitude * np.sqrt(2 / waves), k, theta, phase))

    def at(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        size, length = spec.wave
        dx = spec.shift_m[0] + (np.cos(angle) - 1) * x - np.sin(angle) * y + size * np.sin(2 * np.pi * y / length)
        dy = spec.shift_m[1] + np.sin(angle) * x + (np.cos(angle) - 1) * y + size * np.cos(2 * np.pi * x / length)
        out = [dx, dy]
        for amplitude, k, theta, phase in parts:
            for axis in range(2):
                for i in range(k.shape[1]):
                    along = x * np.cos(theta[axis, i]) + y * np.sin(theta[axis, i])
                    out[axis] = out[axis] + amplitude * np.cos(k[axis, i] * along + phase[axis, i])
        return out[0], out[1]

    return at


def parcels(rng: np.random.Generator, size: int) -> NDArray[np.int32]:
    """Label of the parcel that each pixel belongs to: cells of jittered seeds in a rotated, stretched frame."""
    spacing = 28
    count = size // spacing + 2
    grid = np.stack(np.meshgrid(np.arange(count), np.arange(count), indexing="ij"), -1).reshape(-1, 2)
    seeds = (grid + rng.uniform(-0.45, 0.45, grid.shape)) * spacing
    seeds = seeds[rng.random(len(seeds)) < 0.6]
    seeds = np.unique(np.clip(seeds, 0, size - 1).astype(int), axis=0)
    marker = np.ones((size, size), dtype=bool)
    marker[seeds[:, 0], seeds[:, 1]] = False
    label = np.zeros((size, size), dtype=np.int32)
    label[seeds[:, 0], seeds[:, 1]] = np.arange(len(seeds))
    index = ndimage.distance_transform_edt(marker, return_distances=False, return_indices=True)
    return label[index[0], index[1]]


SOIL = np.array([0.07, 0.11, 0.16, 0.24, 0.32], dtype=np.float32)
GREEN = np.array([0.02, 0.05, 0.03, 0.42, 0.18], dtype=np.float32)
DRY = np.array([0.06, 0.10, 0.14, 0.28, 0.30], dtype=np.float32)
FOREST = np.array([0.015, 0.03, 0.02, 0.28, 0.10], dtype=np.float32)
ROOF = np.array([0.14, 0.16, 0.19, 0.24, 0.26], dtype=np.float32)
ROAD = np.array([0.10, 0.11, 0.12, 0.15, 0.17], dtype=np.float32)
WATER = np.array([0.04, 0.035, 0.02, 0.01, 0.005], dtype=np.float32)
SNOW = np.array([0.80, 0.80, 0.78, 0.70, 0.10], dtype=np.float32)
CLOUD = np.array([0.55, 0.55, 0.56, 0.58, 0.50], dtype=np.float32)


def parcel_spectra(rng: np.random.Generator, count: int, spec: SceneSpec) -> tuple[Array, Array]:
    """Spectra of the parcels at both dates, each (parcel, band): some were re-cropped, all drifted a little."""

    def draw() -> Array:
        cover = rng.beta(0.7, 0.7, count).astype(np.float32)[:, None]
        dry = (rng.random(count) < 0.3)[:, None]
        forest = (rng.random(count) < 0.2)[:, None]
        plant = np.where(forest, FOREST, np.where(dry, DRY, GREEN))
        cover = np.where(forest, 0.9, cover)
        return ((cover * plant + (1 - cover) * SOIL) * rng.normal(1.0, 0.12, (count, 1))).astype(np.float32)

    first = draw()
    second = np.where((rng.random(count) < spec.changed_parcels)[:, None], draw(), first)
    return first, (second * rng.normal(1.0, spec.drift, second.shape)).astype(np.float32)


def roads_and_river(rng: np.random.Generator, size: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    line = np.ones((size, size), dtype=bool)
    for _ in range(max(6, size // 120)):
        t = np.linspace(0, 1, size * 2)
        a, b = rng.uniform(0, size, (2, 2))
        bend = rng.normal(0, size / 30) * np.sin(np.pi * t * rng.integers(1, 4))
        row, col = a[0] + (b[0] - a[0]) * t + bend, a[1] + (b[1] - a[1]) * t - bend
        inside = (row >= 0) & (row < size) & (col >= 0) & (col < size)
        line[row[inside].astype(int), col[inside].astype(int)] = False
    roads = ndimage.distance_transform_edt(line) < 1.2
    t = np.arange(size)
    middle = (
        size * rng.uniform(0.3, 0.7) + size / 12 * np.sin(t / size * 9 + rng.uniform(0, 6)) + size / 40 * np.sin(t / 37)
    )
    width = 5 + 3 * np.sin(t / 90)
    river = np.abs(np.arange(size)[None, :] - middle[:, None]) < width[:, None]
    return roads, river


def _quilt(rng: np.random.Generator, image: Array, size: int) -> Array:
    """Fill a square with rotated, mirrored pieces of a real image, feathered into each other."""
    piece = min(image.shape[1:])
    step = int(piece * 0.75)
    ramp = np.minimum(1.0, (np.minimum(np.arange(piece), np.arange(piece)[::-1]) + 1) / (piece - step))
    window = (ramp[:, None] * ramp[None, :]).astype(np.float32)
    total = np.zeros((image.shape[0], size + piece, size + piece), dtype=np.float32)
    weight = np.zeros((size + piece, size + piece), dtype=np.float32)
    for row in range(0, size, step):
        for col in range(0, size, step):
            turned = np.rot90(image[:, :piece, :piece], rng.integers(4), axes=(1, 2))
            if rng.random() < 0.5:
                turned = turned[:, :, ::-1]
            total[:, row : row + piece, col : col + piece] += turned * window
            weight[row : row + piece, col : col + piece] += window
    return total[:, :size, :size] / weight[:size, :size]


def _landscapes(spec: SceneSpec, size: int, real: Array | None) -> tuple[Array, Array]:
    """The ground at the reference's and at the target's date, each (band, row, col) at 10 m."""
    rng = np.random.default_rng(spec.seed)
    texture = fractal(rng, size, size, 1.3)
    fine = fractal(rng, size, size, 0.7, 2.0)
    if real is not None:
        ground = _quilt(rng, real, size)
        pair = [ground, ground.copy()]
    elif spec.landscape == "desert":
        base = (SOIL * 1.5)[:, None, None] * (1 + spec.contrast * (0.10 * texture + 0.03 * fine))
        pair = [base.astype(np.float32), base.astype(np.float32)]
    elif spec.landscape == "water":
        swell = [fractal(np.random.default_rng(spec.seed + k), size, size, 0.8, 3.0) for k in (11, 12)]
        pair = [(WATER[:, None, None] * (1 + 0.1 * s)).astype(np.float32) for s in swell]
    else:
        label = parcels(rng, size)
        spectra = parcel_spectra(rng, int(label.max()) + 1, spec)
        roads, river = roads_and_river(rng, size)
        town = ndimage.gaussian_filter(texture, 12) > 0.9
        blocks = fractal(rng, size, size, 0.2, 2.5)
        pair = []
        for colours in spectra:
            image = colours.T[:, label]
            image *= 1 + 0.10 * texture + 0.05 * fine
            image[:, town] = ROOF[:, None] * (1 + 0.25 * blocks[town])
            image[:, roads] = ROAD[:, None]
            image[:, river] = WATER[:, None]
            pair.append(image)
    if spec.relief > 0:
        height = fractal(rng, size, size, 1.9, 3.0)
        slope_y, slope_x = np.gradient(height * 14)
        for image, azimuth in zip(pair, spec.sun_azimuth_deg, strict=True):
            a = np.deg2rad(azimuth)
            shade = np.clip(1 + spec.relief * (slope_x * np.sin(a) - slope_y * np.cos(a)), 0.15, 2.2)
            image *= shade.astype(np.float32)
    if spec.snow > 0:
        cap = ndimage.gaussian_filter(texture, 3)
        for image, share in zip(pair, (spec.snow, spec.snow * 0.7), strict=True):
            white = cap > np.quantile(cap, 1 - share)
            image[:, white] = SNOW[:, None] * (1 + 0.05 * fine[white])
    if spec.water > 0:
        coast = ndimage.gaussian_filter(fractal(rng, size, size, 1.8), 4) + np.linspace(-2, 2, size)[None, :]
        sea = coast > np.quantile(coast, 1 - spec.water)
        for number, image in enumerate(pair):
            waves = fractal(np.random.default_rng(spec.seed + 5 + number), size, size, 0.6, 2.0)
            image[:, sea] = WATER[:, None] * (1.2 + 0.3 * waves[sea])
    return pair[0], pair[1]


def cloud_opacity(rng: np.random.Generator, rows: int, cols: int, share: float, smooth_px: float) -> Array:
    """Opacity 0 to 1 of clouds that cover ``share`` of the image."""
    if share <= 0:
        return np.zeros((rows, cols), dtype=np.float32)
    if share >= 1:
        return np.ones((rows, cols), dtype=np.float32)
    shape = ndimage.gaussian_filter(fractal(rng, rows, cols, 1.6), smooth_px)
    edge = np.quantile(shape, 1 - share)
    return np.clip((shape - edge) / (0.15 * shape.std()) + 0.5, 0, 1).astype(np.float32)


def see(ground: Array, fwhm_px: float, rows: Array, cols: Array, ratio: int) -> Array:
    """Sample the ground through a Gaussian point spread function at fractional 10 m positions."""
    sigma = fwhm_px * ratio / 2.3548
    out = np.empty((ground.shape[0], *rows.shape), dtype=np.float32)
    for band, layer in enumerate(ground):
        blurred = ndimage.gaussian_filter(layer, sigma, mode="nearest", truncate=4.0)
        out[band] = ndimage.map_coordinates(blurred, [rows, cols], order=3, mode="nearest")
    return out


def make_scene(spec: SceneSpec, real: Array | None = None) -> ScenePair:
    """Draw a scene; ``real`` is a five-band reflectance image whose texture is used instead of drawn parcels."""
    ratio = int(TARGET_PIXEL_M / REFERENCE_PIXEL_M)
    size = spec.size * ratio + 2 * spec.margin_px
    rng = np.random.default_rng(spec.seed + 1000)
    reference_ground, target_ground = _landscapes(spec, size, real)
    if spec.landscape == "other":
        target_ground = _landscapes(replace(spec, seed=spec.seed + 500, landscape="parcels"), size, real)[1]
    half = spec.size * TARGET_PIXEL_M / 2
    target = _target(spec, rng, target_ground)
    reference, opacity, origin = _reference(spec, rng, reference_ground)
    return ScenePair(
        spec, target.astype(np.float32), (CENTRE_XY[0] - half, CENTRE_XY[1] + half), reference.astype(np.float32),
        ndimage.binary_dilation(opacity > 0.02, iterations=3), origin, OTHER_EPSG if spec.other_zone else TARGET_EPSG,
    )  # fmt: skip


def _target(spec: SceneSpec, rng: np.random.Generator, ground: Array) -> Array:
    ratio, middle = int(TARGET_PIXEL_M / REFERENCE_PIXEL_M), (ground.shape[-1] - 1) / 2
    x, y = target_positions(spec)
    dx, dy = true_field(spec)(x, y)
    clean = see(
        ground, spec.psf_px, middle - (y + dy) / REFERENCE_PIXEL_M, middle + (x + dx) / REFERENCE_PIXEL_M, ratio
    )
    if spec.mixed_bands > 0:
        clean = (1 - spec.mixed_bands) * clean + spec.mixed_bands * np.roll(clean, 1, axis=0)
    image = spec.gain * np.clip(clean, 1e-4, None) ** spec.gamma
    opacity = cloud_opacity(rng, spec.size, spec.size, spec.target_cloud, 2.0)
    shadow = ndimage.shift(opacity, (9, -6), order=1, mode="nearest") * 0.5
    bright = (1 + 0.1 * fractal(rng, spec.size, spec.size, 1.0))[None] * CLOUD[:, None, None]
    image = image * (1 - shadow) * (1 - opacity) + opacity * bright
    image += rng.normal(0, 1, (1, 1, spec.size)) * spec.stripes + rng.normal(0, spec.stripes / 2, (5, 1, spec.size))
    return image + rng.normal(0, spec.noise, image.shape)


def _reference(spec: SceneSpec, rng: np.random.Generator, ground: Array) -> tuple[Array, Array, tuple[float, float]]:
    """The reference image, the opacity of its clouds, and the map position of its upper left corner."""
    size = ground.shape[-1]
    half = size * REFERENCE_PIXEL_M / 2
    image = np.stack([ndimage.gaussian_filter(layer, 0.4) for layer in ground])
    origin = (CENTRE_XY[0] - half, CENTRE_XY[1] + half)
    if spec.other_zone:
        image, origin = _in_other_zone(image)
    opacity = cloud_opacity(rng, *image.shape[1:], spec.reference_cloud, 6.0)
    image = image * (1 - opacity) + opacity * CLOUD[:, None, None]
    image += rng.normal(0, 0.002, image.shape).astype(np.float32)
    if spec.covered < 1:
        kept = spec.margin_px + round((size - 2 * spec.margin_px) * spec.covered)
        image, opacity = image[:, :, :kept], opacity[:, :kept]
    return image, opacity, origin


def _in_other_zone(image: Array) -> tuple[Array, tuple[float, float]]:
    """Sample an image on the 10 m grid of the neighbouring UTM zone, over about the same area."""
    from pyproj import Transformer

    there = Transformer.from_crs(TARGET_EPSG, OTHER_EPSG, always_xy=True)
    size, middle = image.shape[-1], (image.shape[-1] - 1) / 2
    x0, y0 = (round(v / REFERENCE_PIXEL_M) * REFERENCE_PIXEL_M for v in there.transform(*CENTRE_XY))
    steps = (np.arange(size) - middle) * REFERENCE_PIXEL_M
    x, y = np.meshgrid(x0 + steps, y0 - steps)
    back_x, back_y = there.transform(x, y, direction="INVERSE")
    rows = middle - (back_y - CENTRE_XY[1]) / REFERENCE_PIXEL_M
    cols = middle + (back_x - CENTRE_XY[0]) / REFERENCE_PIXEL_M
    out = np.stack([ndimage.map_coordinates(layer, [rows, cols], order=3, cval=np.nan) for layer in image])
    half = size * REFERENCE_PIXEL_M / 2
    return out, (x0 - half, y0 + half)


def target_positions(spec: SceneSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Claimed positions (x, y) of the target's pixel centres relative to its centre, each (row, col)."""
    steps = (np.arange(spec.size, dtype=np.float64) - (spec.size - 1) / 2) * TARGET_PIXEL_M
    x, y = np.meshgrid(steps, -steps)
    return x, y


def textures(folder: Path) -> dict[str, Array]:
    """Real images as five bands (blue, green, red, NIR, SWIR) by name, as far as the data folder holds them."""
    found: dict[str, Array] = {}
    path = folder / "sentinel2" / "s2_l2a_10m_4band_300x300.tif"
    if path.exists():
        import rasterio

        with rasterio.open(path) as source:
            image = source.read().astype(np.float32) / 10000.0
        found["sentinel2"] = np.concatenate([image, image[3:]])
    cubes = [folder / "cubes" / f"aviris_{name}.npz" for name in ("urban-1", "beach-2", "indian_pines")]
    for path in cubes:
        if path.exists():
            with np.load(path) as values:
                cube, centre = values["cube"].astype(np.float32), values["wavelength_nm"]
            bands = [int(np.abs(centre - nm).argmin()) for nm in (490.0, 560.0, 665.0, 842.0, 1610.0)]
            image = cube[bands]
            found[path.stem] = (0.3 * image / np.quantile(image, 0.98, axis=(1, 2), keepdims=True)).astype(np.float32)
    return found


SCENES: tuple[SceneSpec, ...] = (
    SceneSpec("A shift", size=1000),
    SceneSpec("B wave", size=1000, rotation_deg=0.05, wave=(12.0, 9000.0)),
    SceneSpec("C large shift", shift_m=(213.0, -187.0)),
    SceneSpec("D cloud 36 %", target_cloud=0.36),
    SceneSpec("F1A shift", seed=2, shift_m=(61.0, 74.0)),
    SceneSpec("F1B wave", seed=3, shift_m=(-94.0, 38.0), rotation_deg=0.04, wave=(12.0, 12000.0)),
    SceneSpec(
        "F2B band mixture", seed=4, shift_m=(119.0, -68.0), rotation_deg=-0.05, wave=(15.0, 10000.0), psf_px=1.9,
        target_cloud=0.12, mixed_bands=0.6,
    ),
    SceneSpec(
        "F2C same band", seed=4, shift_m=(119.0, -68.0), rotation_deg=-0.05, wave=(15.0, 10000.0), psf_px=1.9,
        target_cloud=0.12,
    ),
    SceneSpec(
        "season", seed=5, shift_m=(-140.0, 95.0), rotation_deg=0.03, wave=(10.0, 11000.0), changed_parcels=0.5,
        sun_azimuth_deg=(140.0, 165.0), relief=0.1, gain=0.8,
    ),
    SceneSpec("cloud 50 %", seed=6, rotation_deg=-0.03, wave=(10.0, 12000.0), target_cloud=0.5, reference_cloud=0.15),
    SceneSpec("coast", seed=7, shift_m=(-75.0, -120.0), rotation_deg=0.04, wave=(10.0, 10000.0), water=0.7),
    SceneSpec(
        "mountains", seed=8, shift_m=(160.0, 60.0), relief=0.7, sun_azimuth_deg=(135.0, 160.0), snow=0.15,
        irregular=(12.0, 8000.0),
    ),
    SceneSpec(
        "snow 60 %", seed=18, shift_m=(-66.0, 91.0), snow=0.6, relief=0.3, rotation_deg=0.05, wave=(8.0, 11000.0)
    ),
    SceneSpec("low texture", seed=9, landscape="desert", contrast=0.35, wave=(10.0, 12000.0)),
    SceneSpec("stripes", seed=10, shift_m=(-55.0, 66.0), stripes=0.02, noise=0.01, wave=(10.0, 9000.0)),
    SceneSpec("irregular 250 m", seed=11, shift_m=(165.0, -20.0), irregular=(55.0, 14000.0)),
    SceneSpec("jitter", seed=12, shift_m=(90.0, 30.0), wave=(12.0, 9000.0), jitter=(4.0, 5000.0)),
    SceneSpec("20 % overlap", seed=13, shift_m=(100.0, -35.0), rotation_deg=0.05, covered=0.2),
    SceneSpec("1.1 km shift", seed=19, shift_m=(1120.0, -870.0)),
    SceneSpec(
        "other UTM zone", seed=20, shift_m=(-120.0, 45.0), rotation_deg=0.04, wave=(10.0, 9000.0), other_zone=True
    ),
    SceneSpec(
        "Sentinel-2 texture", seed=14, landscape="sentinel2", shift_m=(-88.0, 52.0), rotation_deg=0.04,
        wave=(12.0, 10000.0),
    ),
    SceneSpec("city texture", seed=21, landscape="aviris_urban-1", shift_m=(140.0, 77.0), wave=(12.0, 9000.0)),
    SceneSpec(
        "farmland texture", seed=22, landscape="aviris_indian_pines", shift_m=(-35.0, -130.0), rotation_deg=-0.04,
        wave=(10.0, 11000.0),
    ),
    SceneSpec("no common content", seed=15, landscape="other", answer=False),
    SceneSpec("all cloud", seed=16, target_cloud=1.0, answer=False),
    SceneSpec("flat water", seed=17, landscape="water", target_cloud=0.0, reference_cloud=0.0, answer=False),
)  # fmt: skip
