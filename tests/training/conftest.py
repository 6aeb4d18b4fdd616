"""A small scene and a tiny network that all training tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from training_support import BANDS, SAMPLING, make_setup, make_small_scene, make_tiny

from hsfuse.fusion.methods.ssrnet.network import Ssrnet
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.reducer import Reducer
from hsfuse.training.scenes import SceneEntry, TrainingScene
from hsfuse.training.source import PatchSource, Sampling


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


@pytest.fixture
def tiny() -> Callable[[], Ssrnet]:
    return make_tiny
