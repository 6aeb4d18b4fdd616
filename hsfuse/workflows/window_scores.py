"""Score a fused scene from sampled windows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Slice2D
from hsfuse.inference.scene import FusionScene
from hsfuse.metrics.noreference import NoReferenceQuality
from hsfuse.qa.sources import ImageSource
from hsfuse.spectral import srf_weights

_SIDE_PX = 64
_PER_AXIS = 3


@dataclass(frozen=True)
class WindowScores:
    """Scores without reference.

    Attributes
    ----------
    scores
        See :meth:`hsfuse.metrics.noreference.NoReferenceQuality.scores`.
    band_rmse
        Label -> RMSE of the degraded cube against the HSI for each band.
    notes
        Remarks for the report.
    """

    scores: dict[str, float | None]
    band_rmse: dict[str, NDArray[np.float64]]
    notes: tuple[str, ...]


def sample_windows(height: int, width: int, side: int = _SIDE_PX, per_axis: int = _PER_AXIS) -> list[Slice2D]:
    """Spread windows evenly over an image of HSI pixels; the whole image when it is small."""

    def starts(size: int) -> list[int]:
        if size <= side:
            return [0]
        count = min(per_axis, size // side)
        return sorted({round(v) for v in np.linspace(0, size - side, count + 2)[1:-1]} or {(size - side) // 2})

    return [
        Slice2D(row, min(row + side, height), col, min(col + side, width))
        for row in starts(height)
        for col in starts(width)
    ]


def score_windows(scene: FusionScene, fused: ImageSource) -> WindowScores:
    """Score up to nine windows of 64 x 64 HSI pixels.

    Parameters
    ----------
    scene
        Where HSI and MSI come from.
    fused
        The finished cube.
    """
    responses = scene.msi.responses
    bands = scene.hsi.bands.take(scene.bands)
    weights = srf_weights(bands, responses) if responses is not None else None
    quality = NoReferenceQuality(scene.ratio, scene.psf, weights)
    every = list(range(len(scene.bands)))
    for block in sample_windows(*scene.grid.shape):
        cube = fused.read(every, block.scaled(scene.ratio))
        if not np.isfinite(cube[0]).any():
            continue
        msi, cloud = scene.read_msi(block)
        quality.add(cube, scene.read_hsi(block), msi, ~cloud)
    notes = () if quality.blocks else ("No sampled window is free of nodata, so there is no QNR.",)
    curve = quality.band_rmse
    return WindowScores(quality.scores(), {} if curve is None else {"fused against HSI": curve}, notes)
