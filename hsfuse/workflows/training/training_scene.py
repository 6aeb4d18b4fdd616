"""Prepared pairs as scenes to train on, in memory or in nameless files that vanish by themselves."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray

from hsfuse.degrade import masked_lowpass_decimate_array
from hsfuse.errors import OutputError
from hsfuse.grid import Slice2D
from hsfuse.inference.fill import fill_missing
from hsfuse.inference.scene import FusionScene
from hsfuse.log import get_logger
from hsfuse.spectral import srf_weights
from hsfuse.training.scenes import TrainingScene

_log = get_logger(__name__)
_STRIP_ROWS = 64


class SceneStore:
    """Keeps scenes in memory as long as there is enough of it, then in nameless files that vanish by themselves."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._left = psutil.virtual_memory().available // 4

    def keep(self, scene: TrainingScene) -> TrainingScene:
        """Return the scene, backed by memory or by a file."""
        self._left -= scene.reference.nbytes
        if self._left >= 0 or self._folder is None:
            return scene
        _log.info("%s is kept on disk while training: memory is short.", scene.name)
        return replace(scene, reference=_on_disk(scene.reference, self._folder))


def _blank(shape: tuple[int, ...], folder: Path | None) -> NDArray[np.float32]:
    if folder is None:
        return np.empty(shape, np.float32)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            return np.memmap(file, np.float32, mode="w+", shape=shape)
    except OSError as error:
        raise OutputError(
            f"The scene cannot be kept in {folder} while training ({error.strerror}).",
            hint="Free some space or memory, or cut the area with --aoi.",
        ) from error


def _on_disk(array: NDArray[np.float32], folder: Path) -> NDArray[np.float32]:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            np.ascontiguousarray(array).tofile(file)
            file.flush()
            # The map outlives the file's name and handle; the space is free again when training ends, however it ends.
            return np.memmap(file, np.float32, mode="r", shape=array.shape)
    except OSError as error:
        raise OutputError(
            f"A scene of {array.nbytes / 1e6:.0f} MB cannot be kept in {folder} ({error.strerror}).",
            hint="Free some space or memory, or train on fewer scenes.",
        ) from error


def scene_as_training(scene: FusionScene, name: str, *, scratch: Path | None = None) -> TrainingScene:
    """Read a prepared pair and bring its MSI to the HSI's grid (the first half of Wald's protocol).

    ``scratch`` is a folder for the HSI, as a file without a name; None keeps it in memory.
    """
    grid, ratio = scene.grid, scene.ratio
    shape = (grid.height, grid.width)
    reference = _blank((len(scene.bands), *shape), scratch)
    msi = np.empty((len(scene.msi.band_names), *shape), np.float32)
    valid = np.empty(shape, bool)
    reach = scene.psf.reach_px(ratio)
    for row0 in range(0, grid.height, _STRIP_ROWS):
        rows = Slice2D(row0, min(row0 + _STRIP_ROWS, grid.height), 0, grid.width)
        padded = Slice2D(rows.row0 - reach, rows.row1 + reach, 0, grid.width).clipped(*shape)
        fine, cloud = scene.read_msi(padded)
        usable = ~np.any(np.isnan(fine), axis=0)
        if scene.mask_cloud:
            usable &= ~cloud
        coarse, seen = masked_lowpass_decimate_array(np.nan_to_num(fine), usable, ratio, scene.psf)
        inner = slice(rows.row0 - padded.row0, rows.row1 - padded.row0)
        cube, missing = fill_missing(scene.read_hsi(rows))
        into = slice(rows.row0, rows.row1)
        reference[:, into] = cube
        msi[:, into] = coarse[:, inner]
        valid[into] = seen[inner] & ~np.any(missing, axis=0)
    msi[:, ~valid & np.isnan(msi).any(axis=0)] = np.nan
    msi, _ = fill_missing(msi)
    bands = scene.hsi.bands.take(scene.bands)
    responses = scene.msi.responses
    srf = (srf_weights(bands, responses),) if responses is not None else ()
    return TrainingScene(name, reference, valid, msi, srf, scene.psf, "measured")
