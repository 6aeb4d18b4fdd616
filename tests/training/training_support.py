"""A small scene and a tiny network, as plain functions: processes that train together make their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hsfuse.degrade import Psf
from hsfuse.fusion.methods.ssrnet.config import SsrnetSettings
from hsfuse.fusion.methods.ssrnet.network import Ssrnet
from hsfuse.sensors.sentinel2 import BANDS_10M, SPACECRAFT, table_responses
from hsfuse.simulate.training_scene import training_scene
from hsfuse.spectral import BandTable, srf_weights
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.scenes import SceneEntry, TrainingScene
from hsfuse.training.source import Sampling

BANDS = BandTable.make(np.linspace(440.0, 900.0, 12))
SAMPLING = {"patch_px": 24, "window_px": 48, "batch": 4, "pool": 2, "validation_windows": 2, "gap_px": 6}


def make_small_scene() -> TrainingScene:
    truth = training_scene(3, (96, 60))
    reference = truth.reflectance(BANDS, truth.grid.full)
    srf = tuple(srf_weights(BANDS, table_responses(name, BANDS_10M)) for name in SPACECRAFT)
    return TrainingScene("small", reference, np.ones(reference.shape[1:], bool), None, srf, Psf(1.0))


def make_setup(scene: TrainingScene, **changes: Any) -> TaskSetup:
    return TaskSetup([SceneEntry.of(scene)], Sampling(**{**SAMPLING, **changes}), BANDS.centre_nm, BANDS.fwhm_nm)


TINY = SsrnetSettings(n_bands=12, base="estimate")


def make_tiny() -> Ssrnet:
    """A network that corrects a base estimate."""
    torch.manual_seed(0)
    return Ssrnet(TINY)
