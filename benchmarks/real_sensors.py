"""Pairs as two different sensors make them (:mod:`hsfuse.degrade.two_sensors`), from a scene of the benchmarks.

The multispectral side is another spacecraft of the family than the one whose responses are told.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from quality_scenes import ReferenceScene, sentinel2_responses

from hsfuse.degrade.two_sensors import TwoSensors
from hsfuse.simulate.wald import WaldPair
from hsfuse.spectral import srf_weights

FloatCube = NDArray[np.float32]


def real_pair(scene: ReferenceScene, guide: FloatCube, ratio: int, seed: int, data: Path | None = None) -> WaldPair:
    """Degrade a scene by two sensor models; equal names and seeds give equal pairs.

    Parameters
    ----------
    scene
        The truth.
    guide
        The MSI of the day, free of noise, shape (msi band, row, col).
    ratio
        HSI pixel size over MSI pixel size.
    seed
        Decides all that is random.
    data
        Folder with measured responses; None: the package's model.
    """
    rng = np.random.default_rng([seed, *scene.name.encode(), 77])
    rows, cols = (size // ratio * ratio for size in scene.cube.shape[1:])
    truth = np.ascontiguousarray(scene.cube[:, :rows, :cols])
    sensors = TwoSensors()
    hsi = sensors.hyperspectral(truth, scene.bands.centre_nm, ratio, rng)
    # The other spacecraft's responses over those that are told, from the scene's own spectra.
    other = srf_weights(scene.bands, sentinel2_responses(data, "Sentinel-2B"))
    change = np.tensordot(other, scene.cube, axes=1) - np.tensordot(scene.srf, scene.cube, axes=1)
    msi = sensors.multispectral(guide[:, :rows, :cols] + change[:, :rows, :cols], rng)
    return WaldPair(hsi, msi, truth)
