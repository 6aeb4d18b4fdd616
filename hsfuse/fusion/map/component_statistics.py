"""Second moments of the HSI's components over a scene: their power, and that of their slopes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from hsfuse.fusion.base import LowResolutionStrip
from hsfuse.fusion.classical.statistics import FloatMatrix
from hsfuse.fusion.map.degraded import DegradedWindow
from hsfuse.fusion.scene_model.model import SceneModel
from hsfuse.parallel import side_by_side


def component_power(strips: list[LowResolutionStrip], model: SceneModel, threads: int) -> FloatMatrix:
    """Covariance of the HSI's components over its pixels, whatever the MSI shows there."""
    forward, mean = (np.asarray(array, np.float32) for array in (model.space.forward, model.space.mean))

    def look(strip: LowResolutionStrip) -> tuple[NDArray[np.float32], int]:
        inside = forward @ (strip.hsi[:, strip.of_hsi] - mean[:, None])
        return inside @ inside.T, inside.shape[1]

    scatter, count = np.zeros((model.space.rank, model.space.rank)), 0
    for part, pixels in side_by_side(look, strips, threads):
        scatter += part
        count += pixels
    return np.asarray(scatter / max(count, 1))


def slope_covariance(strips: list[LowResolutionStrip], model: SceneModel, threads: int) -> FloatMatrix:
    """Covariance of the components' slopes (per HSI pixel, both directions together), without that of their noise."""
    return _slopes([(strip.hsi, strip.of_hsi) for strip in strips], model, threads)


def slope_covariance_low(windows: list[DegradedWindow], model: SceneModel, threads: int) -> FloatMatrix:
    """The same one level down."""
    return _slopes([(window.low, np.ones(window.low.shape[1:], bool)) for window in windows], model, threads)


def _slopes(
    images: list[tuple[NDArray[np.float32], NDArray[np.bool_]]], model: SceneModel, threads: int
) -> FloatMatrix:  # fmt: skip
    space = model.space

    def look(pair: tuple[NDArray[np.float32], NDArray[np.bool_]]) -> tuple[list[NDArray[np.float32]], int]:
        image, valid = pair
        centred = image - space.mean.astype(np.float32)[:, None, None]
        components = np.tensordot(space.forward.astype(np.float32), centred, axes=1)
        inside = np.asarray(binary_erosion(valid, np.ones((3, 3), bool), border_value=1), dtype=np.bool_)
        axes = [axis for axis in (1, 2) if image.shape[axis] > 1]
        slopes = (np.gradient(components, axis=axis)[:, inside] for axis in axes)
        return [slope @ slope.T for slope in slopes], int(inside.sum())

    scatter, count = np.zeros((space.rank, space.rank)), 0
    for parts, pixels in side_by_side(look, images, threads):
        for part in parts:
            scatter += part
        count += pixels
    # A central difference halves the variance of white noise; there are two directions.
    values, vectors = np.linalg.eigh(scatter / max(count, 1) - np.eye(space.rank))
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)
