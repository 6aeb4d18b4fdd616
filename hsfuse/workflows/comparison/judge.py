"""Scores, error maps, pictures and spectra of fused cubes of one comparison."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import masked_lowpass_decimate_array
from hsfuse.errors import HsfuseError
from hsfuse.grid import Slice2D
from hsfuse.metrics import Evidence, Scoring, metrics_for
from hsfuse.qa.compare_report import MethodResult
from hsfuse.qa.pixels import PixelStrip, PurePixel, find_pure_pixels, inner_spread, key_bands
from hsfuse.qa.quicklook import fit_shape
from hsfuse.qa.sources import ArraySource
from hsfuse.workflows.comparison.scratch_cube import ScratchCube
from hsfuse.workflows.comparison.setting import ComparisonSetting
from hsfuse.workflows.steps.window_scores import score_windows

_PICTURE_NM = (660.0, 560.0, 480.0)
_PICTURE_PX, _MAP_PX = 360, 400
_STRIP_ROWS = 32

FloatCube = NDArray[np.float32]


class Judge:
    """Scores, maps, pictures and spectra of fused cubes of one comparison."""

    def __init__(self, setting: ComparisonSetting) -> None:
        self._setting, scene = setting, setting.scene
        self._scene = scene
        self.centre_nm = np.asarray(scene.hsi.bands.centre_nm[scene.bands], dtype=np.float64)
        self._shown = [int(np.abs(self.centre_nm - nm).argmin()) for nm in _PICTURE_NM]
        self._pixels = self._pure_pixels()

    def judge(self, name: str, cube: ScratchCube) -> MethodResult:
        """Judge one cube."""
        block = Slice2D(0, cube.shape[0], 0, cube.shape[1])
        picture = cube.read(self._shown, block, fit_shape(cube.shape, _PICTURE_PX))
        parts = self._against_reference(cube) if self._setting.reference is not None else self._without(cube)
        return MethodResult(name, picture=picture, spectra=self._spectra(cube), **parts)

    def reference_picture(self) -> FloatCube:
        """Three bands of the truth; without one, of the HSI."""
        scene, reference = self._scene, self._setting.reference
        if reference is not None:
            shape = reference.shape[1:]
            block = Slice2D(0, shape[0], 0, shape[1])
            return ArraySource(reference, self.centre_nm).read(self._shown, block, fit_shape(shape, _PICTURE_PX))
        return scene.read_hsi(scene.grid.full, scene.bands[self._shown])

    def reference_spectra(self) -> dict[str, NDArray[np.float64]]:
        """Spectra that the methods' are held against."""
        reference = self._setting.reference
        found = {}
        for label, pixel in self._pixels.items():
            if reference is None:
                block = Slice2D(pixel.row, pixel.row + 1, pixel.col, pixel.col + 1)
                spectrum = self._scene.read_hsi(block)[:, 0, 0]
            else:
                spectrum = reference[(slice(None), *self._middle(pixel))]
            found[label] = spectrum.astype(np.float64)
        return {label: spectrum for label, spectrum in found.items() if np.isfinite(spectrum).any()}

    def _middle(self, pixel: PurePixel) -> tuple[int, int]:
        r = self._scene.ratio
        return pixel.row * r + r // 2, pixel.col * r + r // 2

    def _spectra(self, cube: ScratchCube) -> dict[str, NDArray[np.float64]]:
        every, r = range(len(self.centre_nm)), self._scene.ratio
        found = {}
        for label, pixel in self._pixels.items():
            if self._setting.reference is None:
                block = Slice2D(pixel.row, pixel.row + 1, pixel.col, pixel.col + 1).scaled(r)
            else:
                row, col = self._middle(pixel)
                block = Slice2D(row, row + 1, col, col + 1)
            found[label] = cube.read(every, block).mean(axis=(1, 2)).astype(np.float64)
        return {label: spectrum for label, spectrum in found.items() if np.isfinite(spectrum).any()}

    def _pure_pixels(self) -> dict[str, PurePixel]:
        """One pixel of each surface type that the HSI shows."""
        scene = self._scene
        index = sorted(set(key_bands(self.centre_nm).values()))
        if not index:
            return {}

        def strips() -> Iterator[PixelStrip]:
            for rows in scene.grid.row_blocks(_STRIP_ROWS):
                hsi = scene.read_hsi(rows, scene.bands[index])
                msi, cloud = scene.read_msi(rows)
                r = scene.ratio
                hidden = (cloud | np.any(np.isnan(msi), axis=0)).reshape(rows.shape[0], r, rows.shape[1], r)
                clear = ~np.any(hidden, axis=(1, 3)) & np.all(np.isfinite(hsi), axis=0)
                yield PixelStrip(rows.row0, hsi, clear, inner_spread(msi, r))

        side = 5 if min(scene.grid.shape) >= 32 else 3
        pixels = find_pure_pixels(strips(), self.centre_nm[index], per_kind=1, window_px=side).pixels
        return {f"{p.kind} (HSI row {p.row}, column {p.col})": p for p in pixels}

    def _against_reference(self, cube: ScratchCube) -> dict[str, Any]:
        reference = self._setting.reference
        if reference is None:
            raise HsfuseError("There is no reference.")
        block = Slice2D(0, cube.shape[0], 0, cube.shape[1])
        fused = cube.read(range(len(self.centre_nm)), block)
        known = np.all(np.isfinite(fused), axis=0) & np.all(np.isfinite(reference), axis=0)
        scoring = Scoring(metrics_for(frozenset({"reference"})))
        scoring.add(Evidence(fused, known, self._scene.ratio, self._scene.psf, reference=reference))
        squares = np.zeros(block.shape, np.float64)
        curve = np.full(len(reference), np.nan)
        for band, (true, estimate) in enumerate(zip(reference, fused, strict=True)):
            error = (estimate.astype(np.float64) - true) ** 2
            squares += error
            mean, peak = float(error[known].mean()), float(true[known].max())
            curve[band] = 10.0 * np.log10(peak**2 / mean) if mean > 0 and peak > 0 else np.nan
        errors = np.where(known, np.sqrt(squares / len(reference)), np.nan)
        # Q2n needs whole blocks of 32 pixels, which a scene full of clouds may not have.
        scores = {name: value for name, value in scoring.scores().items() if value is not None}
        return {"scores": scores, "band_psnr": curve, "error_map": _smaller(errors)}

    def _without(self, cube: ScratchCube) -> dict[str, Any]:
        scene = self._scene
        windows = score_windows(scene, cube)
        scores = {name: value for name, value in windows.scores.items() if value is not None}
        rmse = next(iter(windows.band_rmse.values()), None)
        errors, peak = self._inconsistency(cube)
        curve = None
        if rmse is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                curve = np.where((rmse > 0) & (peak > 0), 20.0 * np.log10(peak / rmse), np.nan)
        return {"scores": scores, "band_psnr": curve, "error_map": _smaller(errors)}

    def _inconsistency(self, cube: ScratchCube) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """RMSE over bands between the degraded cube and the HSI, shape (row, col), and each band's maximum."""
        scene, every = self._scene, range(len(self.centre_nm))
        reach = scene.psf.reach_px(scene.ratio)
        errors = np.full(scene.grid.shape, np.nan)
        peak = np.zeros(len(self.centre_nm))
        for rows in scene.grid.row_blocks(_STRIP_ROWS):
            padded = Slice2D(rows.row0 - reach, rows.row1 + reach, 0, scene.grid.width).clipped(*scene.grid.shape)
            fused = cube.read(every, padded.scaled(scene.ratio))
            valid = np.all(np.isfinite(fused), axis=0)
            low, usable = masked_lowpass_decimate_array(np.nan_to_num(fused), valid, scene.ratio, scene.psf)
            inner = slice(rows.row0 - padded.row0, rows.row1 - padded.row0)
            hsi = scene.read_hsi(rows)
            difference = np.where(usable[inner], low[:, inner] - hsi, np.nan)
            errors[rows.slices] = np.sqrt(np.mean(difference.astype(np.float64) ** 2, axis=0))
            known = np.where(np.isfinite(hsi), hsi, 0.0).reshape(len(hsi), -1)
            peak = np.maximum(peak, known.max(axis=1))
        return errors, peak


def _smaller(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average a map down to what a picture needs."""
    step = -(-max(plane.shape) // _MAP_PX)
    if step == 1:
        return plane
    rows, cols = (size // step * step for size in plane.shape)
    cells = plane[:rows, :cols].reshape(rows // step, step, cols // step, step)
    count = np.isfinite(cells).sum(axis=(1, 3))
    return np.where(count > 0, np.nansum(cells, axis=(1, 3)) / np.maximum(count, 1), np.nan)
