"""Score a fused scene from sampled windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Slice2D
from hsfuse.inference.scene import FusionScene
from hsfuse.metrics import Evidence, Metric, Scoring, metrics_for
from hsfuse.metrics.noreference import Difference, band_rmse, hsi_difference, msi_difference
from hsfuse.parallel import side_by_side, threads_for
from hsfuse.qa.plots import MsiBandError
from hsfuse.qa.sources import ImageSource
from hsfuse.spectral import srf_coverage, srf_weights

_SIDE_PX = 64
_PER_AXIS = 3
_COMPLETE = 0.99
_MOST_THREADS = 4
"""Each window takes 100 MB while it is looked at."""
_LEAST_COVERAGE = 0.6
"""Of an MSI band's response; below, a few thinned bands cannot be compared with what the MSI measured."""


@dataclass(frozen=True)
class WindowScores:
    """Scores without reference.

    Attributes
    ----------
    scores
        Key of a metric -> value, None where no window allowed one.
    band_rmse
        Label -> RMSE of the degraded cube against the HSI for each band.
    msi_bands
        How far the cube is from each multispectral band; empty without responses.
    not_made
        Name of a score that is None -> why.
    """

    scores: dict[str, float | None]
    band_rmse: dict[str, NDArray[np.float64]]
    msi_bands: tuple[MsiBandError, ...]
    not_made: dict[str, str]


class _Found(NamedTuple):
    """What was found in one window."""

    scored: dict[str, Any]
    agreeing: dict[str, Any]
    hsi: Difference | None
    msi: Difference | None


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


def score_windows(scene: FusionScene, fused: ImageSource, changed: NDArray[np.bool_] | None = None) -> WindowScores:
    """Score up to nine windows of 64 x 64 HSI pixels.

    Parameters
    ----------
    scene
        Where HSI and MSI come from.
    fused
        The finished cube.
    changed
        Fine pixels that show other ground in the MSI: what the cube should not agree with there says nothing about it.
        None: nobody looked.
    """
    blocks = sample_windows(*scene.grid.shape)
    low = [scene.read_hsi(block) for block in blocks]
    alive = _complete_bands(low)
    weights = _weights(scene, alive)
    # Metrics that need what a scene lacks stand in the table all the same, as not computed.
    metrics = metrics_for(frozenset({"hsi", "msi", "srf"}))
    # What compares with the MSI's own bands looks at ground that both images show alike.
    scoring = Scoring([metric for metric in metrics if "srf" not in metric.needs])
    agreeing = Scoring([metric for metric in metrics if "srf" in metric.needs])
    differences: list[Difference] = []
    msi_differences: list[Difference] = []

    def windows() -> Iterator[tuple[Evidence, Evidence]]:
        for block, hsi in zip(blocks, low, strict=True):
            cube = fused.read([int(i) for i in alive], block.scaled(scene.ratio))
            if not np.isfinite(cube).any():
                continue
            msi, cloud = scene.read_msi(block)
            window = Evidence(cube, ~cloud, scene.ratio, scene.psf, hsi=hsi[alive], msi=msi, srf=weights)
            alike = window
            if changed is not None:
                clear = ~cloud & ~changed[block.scaled(scene.ratio).slices]
                alike = Evidence(cube, clear, scene.ratio, scene.psf, hsi=hsi[alive], msi=msi, srf=weights)
            yield window, alike

    def looked_at(given: tuple[Evidence, Evidence]) -> _Found:
        window, alike = given
        return _Found(
            scoring.look(window), agreeing.look(alike), hsi_difference(window),
            None if weights is None else msi_difference(alike),
        )  # fmt: skip

    for found in side_by_side(looked_at, windows(), threads_for(_MOST_THREADS)):
        scoring.take(found.scored)
        agreeing.take(found.agreeing)
        differences += [] if found.hsi is None else [found.hsi]
        msi_differences += [] if found.msi is None else [found.msi]
    curves = {}
    if differences:
        curve = np.full(len(scene.bands), np.nan)
        curve[alive] = band_rmse(differences)
        curves["fused against HSI"] = curve
    both = scoring.scores() | agreeing.scores()
    scores = {metric.key: both[metric.key] for metric in metrics}
    reasons = {metric.key: _why(metric, scene) for metric in metrics if scores[metric.key] is None}
    return WindowScores(scores, curves, _msi_bands(scene, msi_differences), reasons)


def _msi_bands(scene: FusionScene, differences: list[Difference]) -> tuple[MsiBandError, ...]:
    if not differences or scene.msi.responses is None:
        return ()
    return tuple(
        MsiBandError(response.name, response.centre_nm, *response.range_nm, float(rmse))
        for response, rmse in zip(scene.msi.responses, band_rmse(differences), strict=True)
        if np.isfinite(rmse)
    )


def _why(metric: Metric, scene: FusionScene) -> str:
    if "srf" in metric.needs and scene.msi.responses is None:
        return "the spectral responses of the MSI are not known"
    if "srf" in metric.needs:
        return "too few of the kept bands lie under the MSI's, or no sampled window has data"
    return "no sampled window is free of nodata"


def _complete_bands(windows: list[NDArray[np.float32]]) -> NDArray[np.int64]:
    """Bands to judge. Empty or riddled ones (`--bands all`) are nodata in the cube and would hide all others."""
    known = np.concatenate([np.isfinite(cube).reshape(len(cube), -1) for cube in windows], axis=1)
    seen = known.any(axis=0)
    share = known[:, seen].mean(axis=1) if seen.any() else np.zeros(len(known))
    complete = np.flatnonzero(share > _COMPLETE)
    return complete if complete.size else np.flatnonzero(share > 0)


def _weights(scene: FusionScene, alive: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Weights that turn the fused bands into MSI bands; a row of zeros where too few of them lie under one."""
    if scene.msi.responses is None or alive.size == 0:
        return None
    bands = scene.hsi.bands.take(scene.bands).take(alive)
    weights = srf_weights(bands, scene.msi.responses)
    weights[[srf_coverage(bands, response) < _LEAST_COVERAGE for response in scene.msi.responses]] = 0.0
    return weights
