"""A scene as the engine sees it: strips of both images on nested grids, read on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hsfuse.coregister.warp import Resampler
from hsfuse.degrade import Offset, Psf, masked_lowpass_decimate_array
from hsfuse.errors import OverlapError
from hsfuse.fusion.base import LowResolutionStrip
from hsfuse.grid import Grid, Slice2D
from hsfuse.inference.fill import fill_missing
from hsfuse.inference.scene_strips import RawStrip, SceneStrip
from hsfuse.masks import dilate, expand
from hsfuse.parallel import do_all, side_by_side, threads_for
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct
from hsfuse.spilled import SpilledImages

FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_EXPECTED_ROWS = 128
_MOST_AROUND = 3
"""How many times larger than a block the window may be that it is resampled from."""
_WINDOW_BYTES = 32 << 20
_LEAST_SIDE_PX = 32
_FIT_ROWS, _FIT_DEGRADED_ROWS = 32, 8
"""Of a strip that methods learn from, at least: HSI rows, and what is left of them when they are degraded once more."""
_FIT_PIXELS = 200_000
_FIT_ENOUGH = 5_000
_ENOUGH_WHOLE, _MOST_FILLED = 0.8, 0.1
"""Share of the nearly complete pixels that must be complete for methods to learn from these alone, and share of the
bands that nearly complete ones may lack."""
_MOST_FIT_THREADS = 8


class ReadBefore(Protocol):
    """Rows of the HSI that were asked for before; see :class:`hsfuse.inference.first_rows.FirstRows`."""

    def take(self, rows: Slice2D) -> FloatCube | None:
        """Return some rows; None where they are to be read."""


@dataclass(frozen=True)
class FusionScene:
    """Both products on nested grids.

    Attributes
    ----------
    hsi, msi
        The products.
    bands
        Indices of the HSI bands that are fused, ascending.
    resampler
        Brings the HSI to ``grid``.
    grid
        HSI grid of the result: its pixels are blocks of ``ratio`` x ``ratio`` pixels of the MSI's grid.
    ratio
        Fine pixels per HSI pixel.
    psf
        PSF of the HSI.
    mask_cloud
        Whether clouds of the MSI become nodata.
    cloud_dilate_px
        Growth of the cloud mask, in fine pixels.
    area
        Fine pixels inside the requested area, shape of the fine grid; None: all.
    swir_bands, swir_resampler
        Bands of the HSI (a mask over all of them) that have a displacement of their own, and what brings these to
        ``grid``; None: all are treated alike.
    srf
        Weights that turn the fused HSI bands into the MSI bands, shape (msi band, band), where the MSI has no
        responses to compute them from; None: not known.
    changed
        Fine pixels whose ground differs between both images, shape of the fine grid: nothing is learned from them.
    offset_px
        How far (row, col) the HSI's pixels really lie on ``grid`` towards larger index, HSI pixels, where that was
        found together with ``psf``; None: methods may look for both themselves.
    guide_noise
        Noise of the MSI as it came, shape (msi band,), where parts of it were repaired; None: not known.
    guide_error
        Variance that a correction of the MSI left beyond its noise, shape (msi band,); None: nothing was corrected.
    change
        How far the MSI was not left as it is, and how much of that kept detail of its own, on the fine grid, images as
        :meth:`hsfuse.fusion.base.FusionMethod.change_aware` says; None: nothing changed.
    first_rows
        What is read already for the first strip; None: nothing.
    partners
        Further dates of the MSI with its bands, on its pixels: combined with it before anything else.
    combined_noise
        Noise of an MSI that was combined with partners, shape (msi band,); None: it was not.
    """

    hsi: HyperspectralProduct
    msi: MultispectralProduct
    bands: NDArray[np.int64]
    resampler: Resampler
    grid: Grid
    ratio: int
    psf: Psf
    mask_cloud: bool = True
    cloud_dilate_px: int = 2
    area: BoolArray | None = None
    swir_bands: BoolArray | None = None
    swir_resampler: Resampler | None = None
    srf: NDArray[np.float64] | None = None
    changed: BoolArray | None = None
    offset_px: Offset | None = None
    guide_noise: NDArray[np.float64] | None = None
    guide_error: NDArray[np.float64] | None = None
    change: SpilledImages | None = None
    first_rows: ReadBefore | None = None
    partners: tuple[MultispectralProduct, ...] = ()
    combined_noise: NDArray[np.float64] | None = None

    @property
    def fine_grid(self) -> Grid:
        """Grid of the result."""
        return self.grid.nested(self.ratio)

    @property
    def msi_block(self) -> Slice2D:
        """Where the result lies in the MSI's grid."""
        return self.fine_grid.block_in(self.msi.grid)

    def read_hsi(self, rows: Slice2D, bands: NDArray[np.int64] | None = None) -> FloatCube:
        """Resampled HSI, shape (band, row, col), NaN where there is no data."""
        index = np.asarray(self.bands if bands is None else bands)
        if self.swir_resampler is None or self.swir_bands is None:
            return self._resampled(self.resampler, rows, index)
        own = self.swir_bands[index]
        out = np.empty((len(index), *rows.shape), np.float32)
        for resampler, chosen in ((self.resampler, ~own), (self.swir_resampler, own)):
            if chosen.any():
                out[chosen] = self._resampled(resampler, rows, index[chosen])
        return out

    def _resampled(self, resampler: Resampler, rows: Slice2D, index: NDArray[np.int64]) -> FloatCube:
        source = resampler.source_block(rows)
        if min(source.shape) < 1:
            return np.full((len(index), *rows.shape), np.nan, np.float32)
        parts = _halves(rows, source, len(index))
        if parts is not None:
            # Of a rotated image, a long strip needs a window that is mostly something else.
            return np.concatenate([self._resampled(resampler, part, index) for part in parts[1:]], axis=parts[0])
        return resampler.apply(self.hsi.stored_pixels.read(source, index), source, rows)

    def read_msi(self, rows: Slice2D) -> tuple[FloatCube, BoolArray]:
        """MSI of a block given on the HSI grid (NaN outside the image), and its cloud mask."""
        ratio, offset = self.ratio, self.msi_block
        fine = rows.scaled(ratio)
        wanted = Slice2D(
            fine.row0 + offset.row0, fine.row1 + offset.row0, fine.col0 + offset.col0, fine.col1 + offset.col0
        )
        height, width = self.msi.grid.shape
        margin = self.cloud_dilate_px
        inside = wanted.clipped(height, width)
        cube = np.full((len(self.msi.band_names), *wanted.shape), np.nan, np.float32)
        cloud = np.zeros(wanted.shape, bool)
        if min(inside.shape) < 1:
            return cube, cloud
        target = (
            slice(inside.row0 - wanted.row0, inside.row1 - wanted.row0),
            slice(inside.col0 - wanted.col0, inside.col1 - wanted.col0),
        )
        cube[(slice(None), *target)] = self.msi.read(inside)
        grown = Slice2D(inside.row0 - margin, inside.row1 + margin, inside.col0 - margin, inside.col1 + margin).clipped(
            height, width
        )
        mask = self.msi.cloud(grown)
        if mask is not None:
            wide = dilate(mask, margin)
            cloud[target] = wide[
                inside.row0 - grown.row0 : inside.row1 - grown.row0, inside.col0 - grown.col0 : inside.col1 - grown.col0
            ]
        return cube, cloud

    def read(self, rows: Slice2D) -> SceneStrip:
        """Read full-width rows, gaps filled and masked."""
        return self.complete(self.read_raw(rows))

    def read_raw(self, rows: Slice2D) -> RawStrip:
        """Read full-width rows as they are, with gaps."""
        reads: list[Callable[[Slice2D], Any]] = [self._hsi_once, self.read_msi]
        hsi, (msi, cloud) = side_by_side(lambda read: read(rows), reads, threads_for(len(reads)))
        return RawStrip(rows, hsi, msi, cloud)

    def _hsi_once(self, rows: Slice2D) -> FloatCube:
        known = None if self.first_rows is None else self.first_rows.take(rows)
        return self.read_hsi(rows) if known is None else known

    def complete(self, raw: RawStrip) -> SceneStrip:
        """Fill gaps (in place) and mask them."""
        rows, msi = raw.rows, raw.msi
        hsi, missing = fill_missing(raw.hsi)
        outside = np.all(missing, axis=0)
        valid = np.all(np.isfinite(msi), axis=0) & ~expand(outside, self.ratio)
        if self.area is not None:
            valid &= self.area[rows.scaled(self.ratio).slices]
        if self.mask_cloud:
            valid &= ~raw.cloud
        msi, _ = fill_missing(msi)
        # Where all bands are missing, the pixel is not valid.
        missing &= ~outside
        return SceneStrip(rows, hsi, missing if missing.any() else None, msi, valid, raw.cloud)

    def expected_pixels(self) -> BoolArray:
        """HSI pixels that will probably carry a result, shape of :attr:`grid`: for plans, from masks alone.

        Looks up the nearest measured HSI pixel and the classification at each pixel's centre; no image is read.
        """
        return self._expected_pixels

    @cached_property
    def _expected_pixels(self) -> BoolArray:
        height, width = self.grid.shape
        stored = self.hsi.stored_pixels
        source_height, source_width = stored.grid.shape
        imaged = stored.valid(Slice2D(0, source_height, 0, source_width))
        found = np.zeros((height, width), bool)

        def look(top: int) -> None:
            rows = Slice2D(top, min(top + _EXPECTED_ROWS, height), 0, width)
            at_row, at_col = (np.nan_to_num(np.rint(at), nan=-1.0) for at in self.resampler.positions(rows))
            inside = (at_row >= 0) & (at_row < source_height) & (at_col >= 0) & (at_col < source_width)
            part = found[rows.slices]
            part[inside] = imaged[at_row[inside].astype(np.int64), at_col[inside].astype(np.int64)]
            part &= self._clear_centres(rows)
            if self.area is not None:
                fine = self.area[rows.scaled(self.ratio).slices]
                part &= fine.reshape(rows.shape[0], self.ratio, width, self.ratio).any(axis=(1, 3))

        do_all(look, range(0, height, _EXPECTED_ROWS), threads_for(_MOST_FIT_THREADS))
        return found

    def _clear_centres(self, rows: Slice2D) -> BoolArray:
        """Whether the MSI reaches the centres of a block of HSI pixels, and shows the ground there."""
        fine, offset, middle = rows.scaled(self.ratio), self.msi_block, self.ratio // 2
        wanted = Slice2D(
            fine.row0 + offset.row0, fine.row1 + offset.row0, fine.col0 + offset.col0, fine.col1 + offset.col0
        )
        clear = np.zeros(wanted.shape, bool)
        inside = wanted.clipped(*self.msi.grid.shape)
        if min(inside.shape) > 0:
            seen = np.ones(inside.shape, bool)
            classes = self.msi.classes(inside)
            if classes is not None:
                seen = classes != 0
            if self.mask_cloud:
                cloud = self.msi.cloud(inside)
                seen = seen if cloud is None else seen & ~cloud
            target = Slice2D(
                inside.row0 - wanted.row0, inside.row1 - wanted.row0,
                inside.col0 - wanted.col0, inside.col1 - wanted.col0,
            )  # fmt: skip
            clear[target.slices] = seen
        return clear[middle :: self.ratio, middle :: self.ratio]

    def check_not_empty(self) -> None:
        """Raise an error where :meth:`low_resolution_strips` would: reads no more strips than it takes to know.

        Raises
        ------
        OverlapError
            No strip holds a pixel that is valid in both images.
        """
        next(self._strips(threads=1))

    def low_resolution_strips(self) -> Iterator[LowResolutionStrip]:
        """Sample the scene on the HSI grid for :meth:`FusionMethod.fit`.

        At most about 200 000 pixels are drawn, in strips spread evenly from top to bottom; where they hold hardly
        any valid pixel, the strips between them are searched too. Which ones depends on the scene alone, so results
        do not change with tile size or memory. Clouds are left out even when they are not masked in the result,
        unless there is nothing else.

        Raises
        ------
        OverlapError
            No strip holds a pixel that is valid in both images.
        """
        return self._strips(threads_for(_MOST_FIT_THREADS))

    def _strips(self, threads: int) -> Iterator[LowResolutionStrip]:
        high = max(_FIT_ROWS, _FIT_DEGRADED_ROWS * self.ratio)
        starts = list(range(0, self.grid.height, high))
        wanted = max(round(_FIT_PIXELS / (high * self.grid.width)), 1)
        step = max(len(starts) / wanted, 1.0)
        chosen = sorted({starts[int(i * step)] for i in range(int(len(starts) / step))})
        others = [start for start in starts if start not in set(chosen)]
        found = 0
        for with_cloud in (False, True) if not self.mask_cloud else (False,):
            look = partial(self._low_resolution_at, high=high, with_cloud=with_cloud)
            # Those that were chosen are wanted whatever they hold.
            first = side_by_side(look, chosen, threads)
            for index, strip in enumerate(chain(first, map(look, others))):
                count = int(strip.valid.sum())
                if count:
                    found += count
                    yield strip
                if index + 1 >= len(chosen) and found >= _FIT_ENOUGH:
                    break
            if found:
                return
        raise nothing_valid()

    def _low_resolution_at(self, start: int, *, high: int, with_cloud: bool) -> LowResolutionStrip:
        """Return the strip that begins at a row."""
        rows = Slice2D(start, min(start + high, self.grid.height), 0, self.grid.width)
        return self._low_resolution(rows, with_cloud=with_cloud)

    def _low_resolution(self, rows: Slice2D, *, with_cloud: bool) -> LowResolutionStrip:
        reach = self.psf.reach_px(self.ratio)
        padded = Slice2D(rows.row0 - reach, rows.row1 + reach, 0, self.grid.width).clipped(*self.grid.shape)
        msi, cloud = self.read_msi(padded)
        usable = np.all(np.isfinite(msi), axis=0)
        if not with_cloud:
            usable &= ~cloud
        if self.area is not None:
            usable &= self.area[padded.scaled(self.ratio).slices]
        coarse, valid = masked_lowpass_decimate_array(_numbers(msi), usable, self.ratio, self.psf)
        seen = valid
        if self.changed is not None:
            # The values there are the repaired guide's: they serve as context, but nothing is learned from them.
            usable &= ~self.changed[padded.scaled(self.ratio).slices]
            _, valid = masked_lowpass_decimate_array(_numbers(msi), usable, self.ratio, self.psf)
        inner = slice(rows.row0 - padded.row0, rows.row1 - padded.row0)
        hsi, missing = fill_missing(self.read_hsi(rows))
        measured = measured_pixels(missing)
        complete, repaired = valid[inner] & measured, None
        if self.changed is not None:
            repaired = seen[inner] & measured & ~complete
        low, _ = fill_missing(coarse[:, inner].astype(np.float32))
        fine = np.where(usable, msi, np.float32(np.nan))
        return LowResolutionStrip(hsi, low, complete, fine, inner.start, repaired)


def _halves(block: Slice2D, source: Slice2D, bands: int) -> tuple[int, Slice2D, Slice2D] | None:
    """Axis of a cube, and the halves along it, where a block is better read in two; None where it is not."""
    size, needed = block.shape[0] * block.shape[1], source.shape[0] * source.shape[1]
    if needed <= _MOST_AROUND * size or 4 * needed * bands <= _WINDOW_BYTES or max(block.shape) < 2 * _LEAST_SIDE_PX:
        return None
    if block.shape[1] >= block.shape[0]:
        middle = block.col0 + block.shape[1] // 2
        return 2, replace(block, col1=middle), replace(block, col0=middle)
    middle = block.row0 + block.shape[0] // 2
    return 1, replace(block, row1=middle), replace(block, row0=middle)


def _numbers(cube: FloatCube) -> FloatCube:
    """Copy of a cube with zeros for NaN and infinite samples."""
    return np.nan_to_num(cube, posinf=0.0, neginf=0.0)


def nothing_valid() -> OverlapError:
    """Return what to say where no pixel is valid in both images."""
    return OverlapError(
        "No pixel is valid in both images: the overlap is all nodata or all cloud.",
        hint="Choose a less cloudy Sentinel-2 product, or use --no-cloud-mask if the mask is wrong.",
    )


def measured_pixels(missing: BoolArray) -> BoolArray:
    """Pixels that methods learn from, shape (row, col): those with a measurement in every band that has any.

    Dead detectors are others in each band: of many bands few columns may be left. Where that is so, pixels count from
    which few bands are missing, too: what the neighbours in the spectrum tell of these outweighs what is lost.

    Parameters
    ----------
    missing
        Where the HSI holds no number, shape (band, row, col).
    """
    broken = missing[alive_bands(missing)]
    whole = ~np.any(broken, axis=0)
    nearly = np.mean(broken, axis=0) <= _MOST_FILLED
    return np.asarray(whole if whole.sum() >= _ENOUGH_WHOLE * nearly.sum() else nearly, dtype=np.bool_)


def alive_bands(missing: BoolArray) -> BoolArray:
    """Bands that carry data in at least half of the pixels that have any, shape (band,).

    With ``--bands all`` a product's empty bands take part too. They are stand-ins everywhere and nodata in the
    result, and must not make every pixel count as incomplete.
    """
    seen = ~np.all(missing, axis=0)
    if not seen.any():
        return np.ones(missing.shape[0], bool)
    return np.asarray(missing[:, seen].mean(axis=1) <= 0.5, dtype=np.bool_)
