"""What a quality metric promises."""

from __future__ import annotations

import numpy as np

from hsfuse.metrics import Metric, Scoring
from hsfuse.testing.expect import expect
from hsfuse.testing.scene import SmallScene, small_scene


def check_metric(metric: Metric, scene: SmallScene | None = None) -> None:
    """Check a metric: it is a finite number, it prefers the truth to noise and wrong spectra, it stands nodata.

    Raises
    ------
    AssertionError
        A promise is broken.
    """
    scene = scene or small_scene()
    reference = "reference" in metric.needs
    best = _score(metric, scene, scene.truth, reference=reference)
    # Spectra of every other pixel turned round, and noise: wrong for the spectral and for the spatial kind.
    noise = np.random.default_rng(0).normal(0.0, 0.05, scene.truth.shape)
    spoiled = np.clip(scene.truth + noise, 0.001, None).astype(np.float32)
    spoiled[:, ::2] = spoiled[::-1, ::2]
    worst = _score(metric, scene, spoiled, reference=reference)
    expect(worst is not None, f"{metric.key} gives no number for a bad cube.")
    if metric.direction and best is not None and worst is not None:
        better = metric.direction * (best - worst)
        expect(better > 0, f"{metric.key} prefers noise and wrong spectra ({worst:.4g}) to the truth ({best:.4g}).")
    holed = scene.truth.copy()
    holed[:, : 4 * scene.ratio] = np.nan
    _score(metric, scene, holed, reference=reference)
    empty = _score(metric, scene, np.full_like(scene.truth, np.nan), reference=reference, may_refuse=True)
    expect(empty is None, f"{metric.key} is {empty} for a cube without data.")
    expect(metric.text.label and metric.text.meaning, f"{metric.key} does not say what it means.")


def _score(
    metric: Metric, scene: SmallScene, fused: np.ndarray, *, reference: bool, may_refuse: bool = False
) -> float | None:
    from hsfuse.errors import HsfuseError

    scoring = Scoring([metric], strict=True)
    try:
        scoring.add(scene.evidence(fused, reference=reference))
    except HsfuseError:
        if not may_refuse:
            raise
        return None
    return scoring.scores()[metric.key]
