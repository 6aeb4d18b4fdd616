"""Training the gate: experts are worked out once, equal steps see equal patches, and what is kept is the best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from hsfuse.fusion.experts.bank import EXPERTS
from hsfuse.fusion.methods.ssrfn.augmentation import (
    CAP,
    DISPLACED,
    METRIC,
    OUTPUTS,
    STATE,
    STRENGTH,
    WEIGHT,
    fewer_bands,
)
from hsfuse.fusion.methods.ssrfn.config import GateConfig
from hsfuse.fusion.methods.ssrfn.network import MOST_COMPONENTS, Gate
from hsfuse.fusion.methods.ssrfn.objective import dark_weights
from hsfuse.fusion.methods.ssrfn.task import GateTask
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.loop import train
from hsfuse.training.pairs import ReducedPair
from hsfuse.training.scenes import SceneEntry, TrainingScene
from hsfuse.training.settings import LoopSettings

Setup = Callable[..., TaskSetup]


def _gate() -> Gate:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Gate(GateConfig(width=8))


@pytest.fixture
def whole(setup: Setup, small_scene: TrainingScene) -> TaskSetup:
    """Strips of the scene would be too small for experts: the whole of it validates too."""
    entries = [SceneEntry.of(small_scene, "training"), SceneEntry.of(small_scene, "validation")]
    return replace(setup(rounds=1, seed=1, validation_windows=1), entries=entries)


@pytest.fixture
def task(whole: TaskSetup, tmp_path: Path) -> GateTask:
    return GateTask(_gate(), replace(whole, cache=tmp_path / "windows"))


def test_learns_keeps_the_best_and_works_experts_out_once(task: GateTask, whole: TaskSetup) -> None:
    cache = task.setup.cache
    assert cache is not None
    result = train(task, LoopSettings(steps=3, validate_every=2, micro_batch=4, warmup_steps=1))
    files = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert files
    assert result.best.quality >= result.first.quality
    assert np.isfinite(list(result.best.to_json().values())).all()
    again = GateTask(_gate(), task.setup)
    fresh = GateTask(_gate(), whole)
    for one, other in ((again, task), (fresh, task)):
        found, wanted = one.sample(2), other.sample(2)
        for name in (OUTPUTS, STATE):
            assert torch.equal(found.images[name], wanted.images[name])
        assert torch.equal(found.target, wanted.target)
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == files


def test_experts_of_a_window_are_not_those_of_another_with_its_name_and_seed(
    whole: TaskSetup, tmp_path: Path
) -> None:  # fmt: skip
    pairs: list[ReducedPair] = []
    whole.source(lambda pair: pairs.append(pair) or pair).batch(0)
    pair = pairs[0]
    task = GateTask(_gate(), replace(whole, cache=tmp_path))
    quiet, loud = (
        task.prepare(replace(pair, hsi=hsi)) for hsi in (pair.hsi, pair.hsi + 0.01 * torch.rand_like(pair.hsi))
    )
    assert not torch.equal(quiet.images[OUTPUTS], loud.images[OUTPUTS])


def test_patches_have_bases_of_their_own_and_the_same_error(task: GateTask) -> None:
    plain, turned = task.source.batch(0), task.sample(0)
    assert turned.images[OUTPUTS].shape[1] == len(EXPERTS) * MOST_COMPONENTS
    for number in range(len(plain)):
        energies = []
        for batch in (plain, turned):
            part = batch.part(number, number + 1)
            energies.append(float(torch.einsum("nkhw,nkl,nlhw->", part.target, part.values[METRIC], part.target)))
        if bool((turned.values[STRENGTH][number] > 0).equal(plain.values[STRENGTH][number] > 0)):
            assert energies[1] == pytest.approx(energies[0], rel=1e-3)
        else:
            # Components that were left out carry no error.
            assert energies[1] >= 0.0


def test_decibels_are_minimised(task: GateTask) -> None:
    sample = task.sample(0)

    def louder(factor: float) -> torch.Tensor:
        values = {**sample.values, METRIC: factor * sample.values[METRIC], CAP: factor * sample.values[CAP]}
        return task.loss(replace(sample, values=values), "all", 0)

    # A tenth more of a large error counts as much as a tenth more of a small one; no error counts nothing.
    torch.testing.assert_close(louder(1.1e4) - louder(1e4), torch.full((4,), float(np.log(1.1))), rtol=0.02, atol=0.0)
    assert not louder(0.0).any()


def test_errors_count_as_spectral_angles_do(task: GateTask) -> None:
    truth = torch.full((5, 6, 8), 0.4)
    truth[:, :, :4] = 0.1
    weights = dark_weights(truth, torch.ones(6, 8))
    assert float(weights.mean()) == pytest.approx(1.0, abs=1e-5)
    # A quarter of the brightness is four times the angle, and sixteen times its square.
    assert float(weights[0, 0] / weights[0, 7]) == pytest.approx(16.0, rel=0.2)
    sample = task.sample(0)
    more = replace(sample, images={**sample.images, WEIGHT: 2.0 * sample.images[WEIGHT]})
    assert (task.loss(more, "all", 0) > task.loss(sample, "all", 0)).all()


def test_displaced_windows_train_weights_of_their_own(whole: TaskSetup) -> None:
    task = GateTask(Gate(GateConfig(width=8, displaced=True)), whole)
    sample = task.sample(0)
    assert set(sample.values[DISPLACED].flatten().tolist()) <= {0.0, 1.0}
    twin = task.network.displaced
    assert twin is not None
    for flag in (0.0, 1.0):
        task.network.zero_grad()
        sample.values[DISPLACED].fill_(flag)
        task.loss(sample, "all", 0).sum().backward()
        used = [gate.constant.grad is not None and bool(gate.constant.grad.any()) for gate in (task.network, twin)]
        assert used == [flag == 0.0, flag == 1.0]


def test_patches_come_from_windows_and_whole_cubes_as_often_as_wanted(
    whole: TaskSetup, benchmark_module: Callable[[str], ModuleType]
) -> None:  # fmt: skip
    mixed = benchmark_module("train_zoo/whole_cubes").MixedTask
    windows = mixed(_gate(), whole).windows
    for window in windows:
        window.values[DISPLACED].fill_(0.0)
    cubes = [replace(window, values={**window.values, DISPLACED: torch.ones(1)}) for window in windows]
    task = mixed(_gate(), whole, ((windows, 0.5), (cubes[:3], 0.3), (cubes[3:], 0.2)))
    task.source.window = lambda number, slot: windows[slot]
    steps = [task.sample(step) for step in range(12)]
    assert 0.3 < float(torch.cat([step.values[DISPLACED] for step in steps]).mean()) < 0.7
    assert torch.equal(task.sample(5).target, steps[5].target)
    # Processes that train together see the parts of one batch.
    assert torch.equal(task.sample(5, 1, 2).target, steps[5].target[1::2])


def test_windows_keep_some_bands_only(task: GateTask, setup: Setup) -> None:
    pairs = []
    GateTask(_gate(), setup()).setup.source(lambda pair: pairs.append(pair) or pair).batch(0)
    pair = fewer_bands(pairs[0])
    assert len(pair.hsi) == len(pair.target) == pair.facts.centre_nm.size == 12
    assert pair.facts.srf is None or np.allclose(pair.facts.srf.sum(axis=1), 1.0)
    many = np.linspace(400.0, 900.0, 300)
    wide = replace(
        pairs[0], hsi=torch.zeros(300, 4, 4), target=torch.zeros(300, 12, 12),
        facts=replace(pairs[0].facts, centre_nm=many, fwhm_nm=many, srf=None, truth_noise=many),
    )  # fmt: skip
    assert 20 <= len(fewer_bands(wide).hsi) <= 160
