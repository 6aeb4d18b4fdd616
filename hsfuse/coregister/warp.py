"""One resampling of a cube onto another grid, through a displacement field and across reference systems.

The weights of a strip of output pixels form a sparse matrix (output pixel x source pixel) that all bands share, so
a cube of 100 bands costs one matrix product per strip. Weights are computed where they are used: memory does not
grow with the scene. Where compiled kernels are available (:mod:`hsfuse.native`), one of them does the same for
cubic convolution without building the matrix.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from hsfuse.coregister.field import DisplacementField
from hsfuse.errors import UsageError
from hsfuse.grid import Grid, PixelGeometry, Slice2D, reproject_xy
from hsfuse.native import image

Kernel = Literal["cubic", "linear", "nearest"]
FloatArray = NDArray[np.float64]

MISSING_SHARE = 0.15
"""An output sample is NaN when more than this share of its absolute kernel weight has no data.

One outer column of a cubic kernel weighs at most 5 to 6 %, an inner one at least 19 %: samples beside a gap
survive, samples that would be extrapolated into it do not.
"""

_LATTICE_PX = 8
_WEIGHTS_AT_ONCE = 1_000_000
_SNAP_PX = 1e-6


def _keys(distance: FloatArray) -> FloatArray:
    """Keys' cubic convolution kernel with a = -0.5 (third-order accurate)."""
    d = np.abs(distance)
    near = (1.5 * d - 2.5) * d * d + 1.0
    far = ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0
    return np.where(d <= 1.0, near, np.where(d < 2.0, far, 0.0))


def _tent(distance: FloatArray) -> FloatArray:
    return np.maximum(1.0 - np.abs(distance), 0.0)


class _Taps(NamedTuple):
    first: NDArray[np.int64]
    weights: FloatArray


class _Weights(NamedTuple):
    matrix: scipy.sparse.csr_array
    magnitude: scipy.sparse.csr_array
    outside: NDArray[np.float32]
    source: Slice2D


class Resampler:
    """Resamples blocks of a product onto a grid of **true** positions, once.

    Parameters
    ----------
    source_grid
        Pixels where the product claims them: a grid, or others that are not north-up in metres.
    target_grid
        Grid of the output, in any reference system.
    field
        Displacement from claimed to true positions, in ``source_grid.crs``.
    kernel
        ``cubic`` (Keys, a = -0.5), ``linear`` or ``nearest``. Where the output is coarser than the source, the
        kernel is widened in proportion, so that detail too fine for the output does not alias into it.

    Raises
    ------
    UsageError
        The field belongs to another reference system than ``source_grid``, or the kernel is unknown.
    """

    def __init__(
        self,
        source_grid: PixelGeometry,
        target_grid: Grid,
        field: DisplacementField | None = None,
        *,
        kernel: Kernel = "cubic",
    ) -> None:
        if kernel not in ("cubic", "linear", "nearest"):
            raise UsageError(f"Unknown resampling kernel '{kernel}'.", hint="Choose cubic, linear or nearest.")
        self._source, self._target = source_grid, target_grid
        self._field = field if field is not None else DisplacementField.zero()
        if self._field.crs is not None and self._field.crs != source_grid.crs:
            raise UsageError("The displacement field belongs to another reference system than the raster.")
        self._kernel = kernel
        scale_y, scale_x = self._scale()
        self._stretch = (1.0, 1.0) if kernel == "nearest" else (max(1.0, scale_y), max(1.0, scale_x))
        reach = {"cubic": 2.0, "linear": 1.0, "nearest": 0.5}[kernel]
        self._reach = reach * self._stretch[0], reach * self._stretch[1]
        self._last: tuple[Slice2D, tuple[FloatArray, FloatArray]] | None = None

    def _scale(self) -> tuple[float, float]:
        """Source rows and columns per output pixel, whatever its direction, at the middle of the output."""
        row, col = (self._target.height - 1) / 2, (self._target.width - 1) / 2
        x, y = self._target.xy(np.array([row, row + 1, row]), np.array([col, col, col + 1]))
        rows, cols = self._source.rowcol(*reproject_xy(self._target.crs, self._source.crs, x, y))
        steps = (np.hypot(at[1] - at[0], at[2] - at[0]) for at in (rows, cols))
        # Grids of equal pixel size across two map zones differ by 0.1 %: that is no reason to blur.
        return tuple(float(s) if s > 1.02 else 1.0 for s in steps)  # type: ignore[return-value]

    def positions(self, block: Slice2D) -> tuple[FloatArray, FloatArray]:
        """Fractional source (row, col) of the centres of a block of output pixels, each of shape (row, col).

        Those of the last block are kept: whoever resamples one asks first what it needs.
        """
        last = self._last
        if last is None or last[0] != block:
            last = self._last = block, self._positions(block)
        return last[1]

    def _positions(self, block: Slice2D) -> tuple[FloatArray, FloatArray]:
        """Positions for :meth:`positions`.

        The mapping is computed exactly on a lattice that is fixed to the output grid and interpolated bilinearly in
        between, where it is straight to a few centimetres; of swaths whose positions follow the terrain, the map
        position is interpolated and the pixel looked up exactly.
        """
        i0, i1 = block.row0 // _LATTICE_PX, -(-block.row1 // _LATTICE_PX)
        j0, j1 = block.col0 // _LATTICE_PX, -(-block.col1 // _LATTICE_PX)
        at_row = np.arange(i0, i1 + 1, dtype=np.float64) * _LATTICE_PX
        at_col = np.arange(j0, j1 + 1, dtype=np.float64) * _LATTICE_PX
        x, y = np.broadcast_arrays(*self._target.xy(at_row[:, None], at_col[None, :]))
        x, y = reproject_xy(self._target.crs, self._source.crs, x, y)
        smooth = self._source.is_smooth
        claimed = self._field.claimed(x, y)
        knots = np.stack(self._source.rowcol(*claimed) if smooth else claimed)
        ti, tj = (
            np.arange(block.row0, block.row1) / _LATTICE_PX - i0,
            np.arange(block.col0, block.col1) / _LATTICE_PX - j0,
        )
        i = np.minimum(ti.astype(np.int64), i1 - i0 - 1)
        j = np.minimum(tj.astype(np.int64), j1 - j0 - 1)
        along = knots[:, i] + (knots[:, i + 1] - knots[:, i]) * (ti - i)[None, :, None]
        full = along[:, :, j] + (along[:, :, j + 1] - along[:, :, j]) * (tj - j)
        if not smooth:
            full = np.stack(self._source.rowcol(*full))
        # Grids that differ by whole pixels must reproduce their samples exactly, whatever the rounding.
        whole = np.rint(full)
        full = np.where(np.abs(full - whole) < _SNAP_PX, whole, full)
        return full[0], full[1]

    def source_block(self, block: Slice2D) -> Slice2D:
        """Block of the source that an output block needs, clipped to the source grid (empty when outside)."""
        if min(block.shape) < 1:
            return Slice2D(0, 0, 0, 0)
        rows, cols = self.positions(block)
        return self._needed(rows, cols)

    def _needed(self, rows: FloatArray, cols: FloatArray) -> Slice2D:
        finite = np.isfinite(rows) & np.isfinite(cols)
        if not finite.any():
            return Slice2D(0, 0, 0, 0)
        rows, cols = rows[finite], cols[finite]
        (reach_y, reach_x), (height, width) = self._reach, self._source.shape
        if (
            rows.max() < -reach_y or rows.min() > height - 1 + reach_y
            or cols.max() < -reach_x or cols.min() > width - 1 + reach_x
        ):  # fmt: skip
            return Slice2D(0, 0, 0, 0)
        return Slice2D(
            int(np.floor(rows.min() - reach_y)), int(np.ceil(rows.max() + reach_y)) + 1,
            int(np.floor(cols.min() - reach_x)), int(np.ceil(cols.max() + reach_x)) + 1,
        ).clipped(height, width)  # fmt: skip

    def apply(self, cube: NDArray[np.floating], source_block: Slice2D, block: Slice2D) -> NDArray[np.float32]:
        """Resample one block.

        Parameters
        ----------
        cube
            Source samples of ``source_block``, shape (band, row, col); NaN is nodata.
        source_block
            Where ``cube`` lies in the source grid; at least :meth:`source_block` of ``block``, or what lies outside
            counts as nodata.
        block
            Block of the output grid.

        Returns
        -------
        numpy.ndarray
            float32, shape (band, row, col); NaN where too much of the kernel has no data, per band.
        """
        if cube.ndim != 3 or cube.shape[1:] != source_block.shape:
            raise UsageError(f"A cube of shape {cube.shape} does not fill a block of {source_block.shape} pixels.")
        height, width = block.shape
        out = np.full((cube.shape[0], height, width), np.nan, dtype=np.float32)
        if min(source_block.shape) < 1 or min(block.shape) < 1:
            return out
        if self._compiled(cube, source_block, block, out):
            return out
        strip = max(1, int(_WEIGHTS_AT_ONCE / (width * 4 * self._reach[0] * self._reach[1])))
        for top in range(0, height, strip):
            part = Slice2D(block.row0 + top, block.row0 + min(top + strip, height), block.col0, block.col1)
            weights = self._weights(part, source_block)
            if weights is None:
                continue
            inside = weights.source
            local = cube[
                :,
                inside.row0 - source_block.row0 : inside.row1 - source_block.row0,
                inside.col0 - source_block.col0 : inside.col1 - source_block.col0,
            ]
            values = _product(weights, local)
            out[:, top : top + part.shape[0]] = values.T.reshape(cube.shape[0], *part.shape)
        return out

    def _compiled(
        self, cube: NDArray[np.floating], source_block: Slice2D, part: Slice2D, out: NDArray[np.float32]
    ) -> bool:
        """Fill ``out`` by the compiled kernel; False where there is none for this case."""
        if self._kernel != "cubic" or self._stretch != (1.0, 1.0) or image.image_library() is None:
            return False
        rows, cols = self.positions(part)
        inside = self._needed(rows, cols).intersect(source_block)
        if inside is None:
            return True
        local = cube[
            :,
            inside.row0 - source_block.row0 : inside.row1 - source_block.row0,
            inside.col0 - source_block.col0 : inside.col1 - source_block.col0,
        ]
        if local.dtype != np.float32 or local.strides[2] != 4:
            local = np.ascontiguousarray(local, dtype=np.float32)
        at_row, at_col = (rows - inside.row0).ravel(), (cols - inside.col0).ravel()
        return image.warp(local, at_row, at_col, MISSING_SHARE, out.reshape(out.shape[0], -1))

    def _axis_taps(self, position: FloatArray, axis: int) -> _Taps:
        stretch = self._stretch[axis]
        if self._kernel == "nearest":
            return _Taps(np.floor(position + 0.5).astype(np.int64), np.ones((1, position.size)))
        count = 2 * int(np.ceil(self._reach[axis]))
        first = np.floor(position).astype(np.int64) - count // 2 + 1
        distance = (first[None, :] + np.arange(count)[:, None] - position[None, :]) / stretch
        weights = _keys(distance) if self._kernel == "cubic" else _tent(distance)
        return _Taps(first, weights / weights.sum(axis=0) if stretch > 1.0 else weights)

    def _weights(self, part: Slice2D, available: Slice2D) -> _Weights | None:
        rows, cols = self.positions(part)
        inside = self._needed(rows, cols).intersect(available)
        if inside is None:
            return None
        flat_rows, flat_cols = rows.ravel(), cols.ravel()
        lost = ~(np.isfinite(flat_rows) & np.isfinite(flat_cols))
        flat_rows, flat_cols = np.where(lost, -1e9, flat_rows), np.where(lost, -1e9, flat_cols)
        taps_y, taps_x = self._axis_taps(flat_rows, 0), self._axis_taps(flat_cols, 1)
        size, (high, wide) = flat_rows.size, inside.shape
        row = taps_y.first[:, None] + np.arange(taps_y.weights.shape[0]) - inside.row0
        col = taps_x.first[:, None] + np.arange(taps_x.weights.shape[0]) - inside.col0
        weight = taps_y.weights.T[:, :, None] * taps_x.weights.T[:, None, :]
        kept = ((row >= 0) & (row < high))[:, :, None] & ((col >= 0) & (col < wide))[:, None, :]
        magnitude = np.abs(weight)
        total = magnitude.sum(axis=(1, 2))
        outside = 1.0 - np.where(kept, magnitude, 0.0).sum(axis=(1, 2)) / total
        kept &= weight != 0.0
        index = (row * wide)[:, :, None] + col[:, None, :]
        pointer = np.concatenate([[0], np.cumsum(kept.reshape(size, -1).sum(axis=1))])
        shape = (size, high * wide)
        columns = index[kept].astype(np.int32)
        pointer = pointer.astype(np.int32)
        matrix = scipy.sparse.csr_array((weight[kept].astype(np.float32), columns, pointer), shape=shape)
        share = (magnitude / total[:, None, None])[kept].astype(np.float32)
        return _Weights(
            matrix, scipy.sparse.csr_array((share, columns, pointer), shape=shape), outside.astype(np.float32), inside
        )


def _product(weights: _Weights, local: NDArray[np.floating]) -> NDArray[np.float32]:
    """Weighted sums with missing samples left out, shape (output pixel, band)."""
    bands = local.shape[0]
    pixels = np.ascontiguousarray(local.reshape(bands, -1).T, dtype=np.float32)
    finite: NDArray[np.bool_] = np.isfinite(pixels)
    everywhere = finite.all(axis=1)
    edge = weights.outside > 1e-6
    if everywhere.all() and not edge.any():
        return np.asarray(weights.matrix @ pixels, dtype=np.float32)
    somewhere = np.asarray(finite.any(axis=1), dtype=np.bool_)
    filled = np.where(finite, pixels, np.float32(0.0))
    values = np.asarray(weights.matrix @ filled, dtype=np.float32)
    # Fill is mostly common to all bands: one vector serves them, and only the other bands pay for their own mask.
    own = np.asarray(np.any(finite != somewhere[:, None], axis=0), dtype=np.bool_)
    _renormalise(values, ~own, weights, somewhere[:, None])
    if own.any():
        _renormalise(values, own, weights, finite[:, own])
    return values


def _renormalise(
    values: NDArray[np.float32], bands: NDArray[np.bool_], weights: _Weights, valid: NDArray[np.bool_]
) -> None:
    """Divide the sums of some bands by the weight that was present, or set them to NaN, in place."""
    mask = valid.astype(np.float32)
    present = np.asarray(weights.matrix @ mask)
    absent = np.float32(1.0) - np.asarray(weights.magnitude @ mask)
    # Rows without a gap keep their sum as it is: dividing by 0.9999999 would spoil exact copies.
    scale = np.where(absent > 1e-5, np.float32(1.0) / np.where(present == 0, np.float32(1.0), present), np.float32(1.0))
    scale = np.where(absent > MISSING_SHARE, np.float32(np.nan), scale).astype(np.float32)
    if bands.all():
        values *= scale
    else:
        values[:, bands] *= scale
