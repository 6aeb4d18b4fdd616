"""A small scene and a tiny network that all training tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from hsfuse.degrade import Psf
from hsfuse.fusion.methods.ssrfn.network import Ssrfn, make_network
from hsfuse.sensors.sentinel2 import BANDS_10M, SPACECRAFT, table_responses
from hsfuse.simulate.training_scene import training_scene
from hsfuse.spectral import BandTable, srf_weights
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.reducer import Reducer
from hsfuse.training.scenes import SceneEntry, TrainingScene
from hsfuse.training.source import PatchSource, Sampling

BANDS = BandTable.make(np.linspace(440.0, 900.0, 12))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks are slower on several threads, and sums must not depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_scene() -> TrainingScene:
    return make_small_scene()


def make_small_scene() -> TrainingScene:
    truth = training_scene(3, (96, 60))
    reference = truth.reflectance(BANDS, truth.grid.full)
    srf = tuple(srf_weights(BANDS, table_responses(name, BANDS_10M)) for name in SPACECRAFT)
    return TrainingScene("small", reference, np.ones(reference.shape[1:], bool), None, srf, Psf(1.0))


SAMPLING = {"patch_px": 24, "window_px": 48, "batch": 4, "pool": 2, "validation_windows": 2, "gap_px": 6}


@pytest.fixture
def make_source(small_scene: TrainingScene) -> Callable[..., PatchSource]:
    def make(scene: TrainingScene = small_scene, **changes: Any) -> PatchSource:
        reducer = Reducer(BANDS.centre_nm, BANDS.fwhm_nm)
        return PatchSource([SceneEntry.of(scene)], Sampling(**{**SAMPLING, **changes}), reducer)

    return make


@pytest.fixture
def setup(small_scene: TrainingScene) -> Callable[..., TaskSetup]:
    """What a task on the small scene is made from."""
    return partial(make_setup, small_scene)


def make_setup(scene: TrainingScene, **changes: Any) -> TaskSetup:
    return TaskSetup([SceneEntry.of(scene)], Sampling(**{**SAMPLING, **changes}), BANDS.centre_nm, BANDS.fwhm_nm)


@pytest.fixture
def tiny() -> Callable[[], Ssrfn]:
    return make_tiny


def make_tiny() -> Ssrfn:
    torch.manual_seed(0)
    return make_network("ssrfn-lite", n_bands=12, width=8, dfe_blocks=1, cfe_cycles=1, scm_steps=1, headdim=8,
                        d_state=8, estimate_features=4)  # fmt: skip
