"""How a pushbroom spectrometer sees a simulated scene: wrong place, blurred, noisy, striped, failed bands.

The optical system works on the scene's coefficient maps (share times brightness of each endmember) rather than on
bands: reflectance is linear in them, and there are some forty maps instead of 234 bands.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from hsfuse.errors import UsageError
from hsfuse.grid import Grid, Slice2D, reproject_xy
from hsfuse.masks import expand
from hsfuse.readers.base import ERROR_INVALID_L1, ERROR_NEGATIVE, ERROR_SATURATED, BoolArray
from hsfuse.simulate.blocks import CubeBlock, PanBlock
from hsfuse.simulate.scene import Truth
from hsfuse.simulate.sensors import (
    OPAQUE,
    Clouds,
    gaussian_blur,
    noise_sigma,
    prisma_snr,
    top_of_atmosphere,
    transmittance,
)
from hsfuse.simulate.swath import SwathGrid, WholeSwath
from hsfuse.simulate.texture import FloatArray
from hsfuse.simulate.true_field import TrueField
from hsfuse.spectral import BandTable, SpectralResponse

BLOCK_ROWS = 40
PAN_SNR = 240.0
_FULL_SWATH_COLUMNS = 1000
_MASKED = 0.25
"""Opacity and shadow from which the producer's own mask marks a pixel."""


def _pan_response() -> SpectralResponse:
    """A silicon detector behind a filter for 400 to 700 nm: rising towards the red, steep edges, no box."""
    grid = np.arange(360.0, 761.0)
    window = 1.0 / (1.0 + np.exp(-(grid - 412.0) / 9.0)) / (1.0 + np.exp((grid - 698.0) / 7.0))
    silicon = 0.45 + 0.55 * np.clip((grid - 400.0) / 230.0, 0.0, 1.0)
    return SpectralResponse("PAN", grid, window * silicon, "simulated")


PAN_RESPONSE = _pan_response()


@dataclass(frozen=True)
class Optics:
    """How good or bad the simulated instrument is.

    Attributes
    ----------
    psf_fwhm
        Width of the Gaussian point spread function in its pixels.
    snr_scale
        Factor on the signal-to-noise ratio; infinity for none.
    stripe_scale
        Factor on the column stripes (0: none).
    smile_nm
        Shift of the band centres at both ends of the detector rows.
    gain_spread
        Largest radiometric difference to Sentinel-2 (a smooth function of wavelength).
    vnir_swir_shift_m
        Misregistration of the SWIR cube against the VNIR cube on the ground (x, y).
    failed_bands
        Whether the absorption windows come out as zeros and junk, and some samples carry error codes.
    maximum
        Reflectance at which (VNIR, SWIR) samples saturate.
    pan_psf_fwhm
        Width of the panchromatic camera's point spread function in its own pixels; 1.35 passes a fifth of the contrast
        at half its sampling frequency, as stated for PRISMA's.
    pan_shift_m
        Misregistration of the panchromatic image against the VNIR cube on the ground (x, y).
    """

    psf_fwhm: float = 1.25
    snr_scale: float = 1.0
    stripe_scale: float = 1.0
    smile_nm: float = 0.5
    gain_spread: float = 0.02
    vnir_swir_shift_m: tuple[float, float] = (0.0, 0.0)
    failed_bands: bool = True
    maximum: tuple[float, float] = (1.25, 1.1)
    pan_psf_fwhm: float = 1.35
    pan_shift_m: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Footprint:
    """The imaged area: a rectangle, rotated, that touches all four sides of the padded grid.

    Attributes
    ----------
    shape
        (rows, cols) of the grid.
    angle_deg
        Rotation of the flight direction against the columns.
    """

    shape: tuple[int, int]
    angle_deg: float

    def __post_init__(self) -> None:
        if not 0.0 <= abs(self.angle_deg) <= 30.0:
            raise UsageError(f"The footprint may be rotated by at most 30 degrees, not {self.angle_deg:g}.")
        if min(self.sides) < 8.0:
            raise UsageError(f"A footprint rotated by {self.angle_deg:g} degrees does not fit {self.shape} pixels.")

    @property
    def sides(self) -> tuple[float, float]:
        """Length along and across the flight direction, in pixels."""
        cosine, sine = np.cos(np.deg2rad(self.angle_deg)), abs(np.sin(np.deg2rad(self.angle_deg)))
        height, width = self.shape
        double = cosine * cosine - sine * sine
        return (height * cosine - width * sine) / double, (width * cosine - height * sine) / double

    def across(self, rows: slice) -> tuple[NDArray[np.float64], BoolArray]:
        """Detector position (0 at one end of the swath, in pixels) and footprint mask of some rows."""
        cosine, sine = np.cos(np.deg2rad(self.angle_deg)), np.sin(np.deg2rad(self.angle_deg))
        height, width = self.shape
        down = (np.arange(height)[rows] - (height - 1) / 2.0)[:, None]
        right = (np.arange(width) - (width - 1) / 2.0)[None, :]
        along, across = cosine * down + sine * right, cosine * right - sine * down
        length, breadth = self.sides
        return across + breadth / 2.0, (np.abs(along) <= length / 2.0) & (np.abs(across) <= breadth / 2.0)


class HyperspectralSensor:
    """Observes a scene.

    Parameters
    ----------
    truth
        The scene.
    grid
        Pixels where the product claims them; may lie in another reference system than the scene.
    field
        True minus claimed position, in the reference system of ``grid``.
    bands
        Acquired bands.
    footprint, optics, clouds
        Geometry, quality, and clouds over ``grid`` (None: clear sky).
    seed
        Of noise, stripes and dead pixels.
    above_air
        Whether it sees reflectance of the top of the atmosphere instead of the surface's.
    """

    def __init__(
        self,
        truth: Truth,
        grid: Grid | SwathGrid,
        field: TrueField,
        bands: BandTable,
        footprint: Footprint | WholeSwath,
        optics: Optics,
        clouds: Clouds | None,
        *,
        seed: int,
        above_air: bool = False,
    ) -> None:
        self.truth, self.grid, self.field, self.bands = truth, grid, field, bands
        self.footprint, self.optics, self.clouds, self.seed = footprint, optics, clouds, seed
        self._above_air = above_air
        rng = np.random.default_rng([seed, 0x9215])
        spectra = truth.endmembers.in_bands(bands)
        moved = truth.endmembers.in_bands(bands.centre_nm + 0.5, bands.fwhm_nm)
        moved -= truth.endmembers.in_bands(bands.centre_nm - 0.5, bands.fwhm_nm)
        self.gain = _smooth_gain(bands.centre_nm, optics.gain_spread, rng)
        self._spectra, self._slope = (part.astype(np.float32) for part in (spectra, moved))
        self._swir = np.array([name == "SWIR" for name in bands.detector])
        self._air = transmittance(bands.centre_nm)
        with np.errstate(divide="ignore"):
            self._snr = prisma_snr(bands.centre_nm) * optics.snr_scale
        self._columns = int(np.ceil(footprint.sides[1])) + 2
        self._stripe_gain, self._stripe_offset = self._draw_stripes(rng)
        self._dead = [(int(rng.integers(len(bands))), int(rng.integers(self._columns))) for _ in range(10)]

    def blocks(self) -> Iterator[CubeBlock]:
        """Observe the cube, block of rows after block of rows."""
        for block in self.grid.row_blocks(BLOCK_ROWS):
            yield self._observe(slice(block.row0, block.row1))

    def pan_blocks(self, ratio: int) -> Iterator[PanBlock]:
        """Observe the panchromatic image with ``ratio`` x ``ratio`` pixels in each of the cube's."""
        if isinstance(self.grid, SwathGrid):
            raise UsageError("Panchromatic images are simulated on map grids only.")
        grid = self.grid.nested(ratio)
        for block in self.grid.row_blocks(BLOCK_ROWS):
            rows = slice(block.row0, block.row1)
            fine = slice(block.row0 * ratio, block.row1 * ratio)
            rng = np.random.default_rng([self.seed, 0xFA4, block.row0])
            row, col = self._place(grid, fine, self.optics.pan_shift_m)
            fwhm_px = self.optics.pan_psf_fwhm * grid.pixel_m / self.truth.grid.pixel_m
            window = self._window(row, col, margin=int(4.0 * fwhm_px / 2.35) + 12)
            scene = gaussian_blur(self.truth.response([PAN_RESPONSE], window), fwhm_px)[0]
            view = ndimage.map_coordinates(scene, (row - window.row0, col - window.col0), order=3, mode="nearest")
            if self.clouds is not None:
                opacity, shadow = (np.kron(part, np.ones((ratio, ratio), np.float32))
                                   for part in self.clouds.block(rows, slice(None)))  # fmt: skip
                view = view * (1.0 - 0.5 * shadow) * (1.0 - opacity) + 0.8 * opacity
            view += noise_sigma(view[None], np.array([PAN_SNR * self.optics.snr_scale]))[0] * rng.standard_normal(
                view.shape, dtype=np.float32
            )
            inside = expand(self.footprint.across(rows)[1], ratio)
            yield PanBlock(fine.start, np.where(inside, view, np.float32(np.nan)).astype(np.float32))

    def _observe(self, rows: slice) -> CubeBlock:
        across, inside = self.footprint.across(rows)
        shape = (len(self.bands), *inside.shape)
        cube = np.full(shape, np.nan, np.float32)
        codes = np.zeros(shape, np.uint8)
        cloud = shadow = None
        if self.clouds is not None:
            opacity, shade = self.clouds.block(rows, slice(None))
            cloud, shadow = (opacity > _MASKED) & inside, (shade > _MASKED) & inside
        if inside.any():
            position = across[inside]
            seen = self._project(rows, inside, position)
            if self.clouds is not None:
                full = np.zeros(shape, np.float32)
                full[:, inside] = seen
                seen = self.clouds.cover(full, self.bands.centre_nm, rows, slice(None))[:, inside]
            if self._above_air:
                seen = top_of_atmosphere(seen, self.bands.centre_nm)
            samples, marks = self._detect(seen, position, rows.start)
            cube[:, inside], codes[:, inside] = samples, marks
        return CubeBlock(rows.start, cube, codes, inside, cloud, shadow)

    def _place(
        self, grid: Grid | SwathGrid, rows: slice, offset_m: tuple[float, float]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Fractional (row, col) in the scene of all pixels in some rows of ``grid``."""
        row, col = np.meshgrid(np.arange(rows.start, rows.stop, 1.0), np.arange(0.0, grid.width), indexing="ij")
        x, y = grid.xy(row, col)
        dx, dy = self.field.at(x, y)
        x, y = reproject_xy(grid.crs, self.truth.grid.crs, x + dx + offset_m[0], y + dy + offset_m[1])
        return self.truth.grid.rowcol(x, y)

    def _window(self, row: NDArray[np.floating], col: NDArray[np.floating], margin: int) -> Slice2D:
        block = Slice2D(int(row.min()) - margin, int(row.max()) + margin + 2,
                        int(col.min()) - margin, int(col.max()) + margin + 2)  # fmt: skip
        if block != block.clipped(*self.truth.grid.shape):
            raise UsageError("The simulated scene is too small for this footprint and displacement.")
        return block

    def _project(self, rows: slice, inside: BoolArray, position: NDArray[np.floating]) -> FloatArray:
        """Reflectance (band, pixel) of the footprint's pixels in some rows, noise-free."""
        breadth = self.footprint.sides[1]
        # Smile: band centres move with the square of the distance from the middle of the detector row.
        smile = (self.optics.smile_nm * ((2.0 * position / breadth - 1.0) ** 2)).astype(np.float32)
        out = np.empty((len(self.bands), position.size), np.float32)
        shift_m = self.optics.vnir_swir_shift_m
        detectors = [(shift_m, self._swir), ((0.0, 0.0), ~self._swir)]
        if shift_m == (0.0, 0.0):  # one look serves both
            detectors = [(shift_m, np.ones_like(self._swir))]
        for offset_m, chosen in detectors:
            row, col = self._place(self.grid, rows, offset_m)
            shares = self._shares(row[inside], col[inside])
            seen = self._spectra[chosen] @ shares
            if self.optics.smile_nm:
                seen += smile * (self._slope[chosen] @ shares)
            out[chosen] = seen * self.gain[chosen, None]
        return out

    def _shares(self, row: NDArray[np.floating], col: NDArray[np.floating]) -> FloatArray:
        """Coefficients (endmember, pixel) seen through the point spread function at places of the scene."""
        fwhm_px = self.optics.psf_fwhm * self.grid.pixel_m / self.truth.grid.pixel_m
        block = self._window(row, col, margin=int(4.0 * fwhm_px / 2.35) + 12)
        maps = self.truth.coefficients(block)
        present = maps.any(axis=(1, 2))
        shares = np.zeros((maps.shape[0], row.size), np.float32)
        where = np.stack([row - block.row0, col - block.col0])
        for member in np.flatnonzero(present):
            blurred = gaussian_blur(maps[member][None], fwhm_px)[0]
            ndimage.map_coordinates(blurred, where, output=shares[member], order=3, mode="nearest")
        return shares

    def _detect(
        self, radiance: FloatArray, position: NDArray[np.floating], row0: int
    ) -> tuple[FloatArray, NDArray[np.uint8]]:
        """Add stripes, noise and failures: samples (band, pixel), NaN where lost, and error codes."""
        rng = np.random.default_rng([self.seed, 0xDE7, row0])
        low = np.clip(position.astype(np.intp), 0, self._columns - 2)
        part = np.clip(position - low, 0.0, 1.0).astype(np.float32)
        if self.optics.stripe_scale > 0.0:
            gain, offset = (table[:, low] * (1.0 - part) + table[:, low + 1] * part
                            for table in (self._stripe_gain, self._stripe_offset))  # fmt: skip
            radiance = radiance + gain * radiance + offset
        if np.isfinite(self.optics.snr_scale):
            radiance = radiance + noise_sigma(radiance, self._snr) * rng.standard_normal(
                radiance.shape, dtype=np.float32
            )
        samples = np.ascontiguousarray(radiance, dtype=np.float32)
        codes = np.zeros(samples.shape, np.uint8)
        if self.optics.failed_bands:
            self._fail(samples, codes, low, rng)
        codes[samples < 0.0] |= ERROR_NEGATIVE
        limit = np.where(self._swir, self.optics.maximum[1], self.optics.maximum[0])[:, None]
        codes[samples > limit] |= ERROR_SATURATED
        return samples, codes

    def _fail(
        self, samples: FloatArray, codes: NDArray[np.uint8], column: NDArray[np.intp], rng: np.random.Generator
    ) -> None:
        """Lose what an atmospheric correction and dead detector elements lose; changes both arrays."""
        for band in (int(index) for index in np.flatnonzero(self._air < OPAQUE)):
            # Deep windows: nothing at all; at their rims some samples survive as junk.
            survive = rng.random(samples.shape[1]) < (self._air[band] / OPAQUE) ** 2
            junk = samples[band] * np.asarray(rng.normal(0.4, 0.8, samples.shape[1]), dtype=np.float32)
            lost = ~survive | (junk <= 0.0)
            samples[band] = np.where(lost, np.nan, junk)
            codes[band][lost] |= ERROR_NEGATIVE
        for band, dead in self._dead:
            hit = column == dead
            samples[band, hit] = np.nan
            codes[band, hit] = ERROR_INVALID_L1
        stray = rng.integers(0, samples.size, int(samples.size * 5e-6))
        samples.reshape(-1)[stray] = np.nan
        codes.reshape(-1)[stray] = ERROR_INVALID_L1

    def _draw_stripes(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Gain error and offset of every band and detector column."""
        bands, scale = len(self.bands), self.optics.stripe_scale
        # Detector columns differ everywhere a little, more where the signal is weak.
        weak = (400.0 / np.maximum(prisma_snr(self.bands.centre_nm), 20.0))[:, None]
        gain = 0.0022 * np.sqrt(weak) * rng.standard_normal((bands, self._columns))
        offset = 0.00025 * weak * rng.standard_normal((bands, self._columns))
        for detector in (False, True):  # a few hot or cold columns in each detector
            for column in rng.integers(0, self._columns, max(1, round(4 * self._columns / _FULL_SWATH_COLUMNS))):
                gain[self._swir == detector, column] += rng.choice((-1.0, 1.0)) * rng.uniform(0.015, 0.04)
        return (scale * gain).astype(np.float32), (scale * offset).astype(np.float32)


def _smooth_gain(wavelength_nm: NDArray[np.float64], spread: float, rng: np.random.Generator) -> FloatArray:
    """Radiometric gain as a smooth function of wavelength, within 1 +- ``spread``."""
    knots = np.linspace(350.0, 2600.0, 7)
    values = rng.uniform(-1.0, 1.0, knots.size)
    fitted = np.polynomial.Polynomial.fit(knots, values, 4)
    smooth = np.asarray(fitted(wavelength_nm), dtype=np.float32)
    return np.asarray(1.0 + spread * smooth / max(float(np.abs(smooth).max()), 1.0), dtype=np.float32)
