"""What the loop can train without knowing it: distillation, adversarial pairs, diffusion, a single scene."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hsfuse.degrade import upsample
from hsfuse.errors import TrainingDivergedError
from hsfuse.progress import Stage
from hsfuse.training.distributed import Team
from hsfuse.training.fusion_task import FusionTask, SupervisedTask, TaskSetup
from hsfuse.training.loop import train
from hsfuse.training.pairs import Batch
from hsfuse.training.settings import LoopSettings, TrainingFiles
from hsfuse.training.task import ParameterGroup, TrainingTask, step_rng

Setup = Callable[..., TaskSetup]
STEPS = 8
SETTINGS = LoopSettings(steps=STEPS, validate_every=4, micro_batch=2, warmup_steps=1, learning_rate=1e-2)


class Sharpener(nn.Module):
    """Adds a linear map of the MSI's detail to the interpolated HSI."""

    def __init__(self, width: int = 0) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4, width, 3, padding=1) if width else nn.Identity()
        self.outer = nn.Conv2d(width or 4, 12, 3, padding=1)

    def forward(self, hsi: Tensor, msi: Tensor) -> Tensor:
        smooth = nn.functional.avg_pool2d(msi, 3, stride=1, padding=1)
        return upsample(hsi, msi.shape[-1] // hsi.shape[-1]) + self.outer(torch.tanh(self.inner(msi - smooth)))


def _made(kind: Callable[[], nn.Module], seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind()


@dataclass(frozen=True)
class Error:
    """A score that is no fusion score."""

    error: float

    @property
    def quality(self) -> float:
        return -self.error

    @property
    def text(self) -> str:
        return f"error {self.error:.3f}"

    def to_json(self) -> dict[str, Any]:
        return {"error": self.error}


class Distillation(FusionTask):
    """A small student learns from the truth and from a teacher that stays as it is."""

    def __init__(self, student: nn.Module, teacher: nn.Module, setup: TaskSetup) -> None:
        super().__init__(student, setup)
        self.teacher = teacher.eval().requires_grad_(False)

    def fuse(self, batch: Batch) -> Tensor:
        fused: Tensor = self.network(batch.hsi, batch.msi)
        return fused

    def loss(self, sample: Batch, group: str, step: int) -> Tensor:
        fused = self.fuse(sample)
        with torch.no_grad():
            taught = self.teacher(sample.hsi, sample.msi)
        return self.fusion_loss(fused, sample) + 0.5 * (fused - taught).abs().mean(dim=(1, 2, 3))


class MovingTeacher(Distillation):
    """The teacher is the student's own moving average; checkpoints have to hold it."""

    def modules(self) -> Mapping[str, nn.Module]:
        return {"network": self.network, "teacher": self.teacher}

    def after_step(self, step: int) -> None:
        with torch.no_grad():
            for mean, value in zip(self.teacher.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(value, 0.1)


class Adversarial(FusionTask):
    """A discriminator and a generator with optimisers of their own."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module, setup: TaskSetup) -> None:
        super().__init__(generator, setup)
        self.discriminator = discriminator

    def modules(self) -> Mapping[str, nn.Module]:
        return {"network": self.network, "discriminator": self.discriminator}

    def groups(self) -> Sequence[ParameterGroup]:
        return [
            ParameterGroup("discriminator", self.trainable("discriminator"), rate=0.5, every=2),
            ParameterGroup("generator", self.trainable("network")),
        ]

    def fuse(self, batch: Batch) -> Tensor:
        fused: Tensor = self.network(batch.hsi, batch.msi)
        return fused

    def loss(self, sample: Batch, group: str, step: int) -> Tensor:
        fused = self.fuse(sample)
        if group == "discriminator":
            real, false = self._judged(sample.target), self._judged(fused.detach())
            return nn.functional.softplus(-real) + nn.functional.softplus(false)
        return self.fusion_loss(fused, sample) + 0.01 * nn.functional.softplus(-self._judged(fused))

    def _judged(self, cube: Tensor) -> Tensor:
        return self.discriminator(cube).mean(dim=(1, 2, 3))


class Diffusion(FusionTask):
    """The network predicts noise of a random level; level and noise are drawn with the sample."""

    def sample(self, step: int, rank: int = 0, size: int = 1) -> Batch:
        batch = super().sample(step, rank, size)
        items = range(rank, self.batch_size, size)
        levels = torch.tensor([step_rng(0, step, item).uniform(0.1, 1.0) for item in items], dtype=torch.float32)
        noise = torch.stack(
            [
                torch.as_tensor(step_rng(1, step, item).standard_normal(batch.target.shape[1:]), dtype=torch.float32)
                for item in items
            ]
        )
        return replace(batch, images={**batch.images, "noise": noise}, values={**batch.values, "level": levels})

    def loss(self, sample: Batch, group: str, step: int) -> Tensor:
        level = sample.values["level"][:, None, None, None]
        noisy = sample.target + level * sample.images["noise"]
        return (self.network.outer(self._guide(noisy)) - sample.images["noise"]).square().mean(dim=(1, 2, 3))

    def fuse(self, batch: Batch) -> Tensor:
        raise NotImplementedError("a prior alone does not fuse")

    columns = ("error",)

    def validate(self, team: Team) -> Error:
        with torch.no_grad():
            return Error(float(self.loss(self.sample(1000), "network", 0).mean()))

    def restore_scores(self, values: dict[str, Any]) -> Error:
        return Error(**values)

    @staticmethod
    def _guide(cube: Tensor) -> Tensor:
        return cube[:, :4]


def _teacher() -> Sharpener:
    return Sharpener(width=16)


def make_distillation(setup: TaskSetup) -> FusionTask:
    return Distillation(_made(Sharpener), _made(_teacher, 1), setup)


def make_moving_teacher(setup: TaskSetup) -> FusionTask:
    return MovingTeacher(_made(Sharpener), _made(Sharpener, 1), setup)


def make_adversarial(setup: TaskSetup) -> FusionTask:
    return Adversarial(_made(Sharpener), _made(lambda: nn.Conv2d(12, 1, 3), 1), setup)


def make_diffusion(setup: TaskSetup) -> FusionTask:
    return Diffusion(_made(Sharpener), setup)


def make_own_loss(setup: TaskSetup) -> FusionTask:
    def own(fused: Tensor, batch: Batch) -> Tensor:
        return (fused - batch.target).abs().mean(dim=(1, 2, 3))

    return SupervisedTask(_made(lambda: Sharpener(width=8)), setup, loss=own)


MAKERS = [make_distillation, make_moving_teacher, make_adversarial, make_diffusion, make_own_loss]


class _Stop:
    """Ends the training at its n-th step, as a user would."""

    def __init__(self, at: int) -> None:
        self._left = at

    @contextmanager
    def stage(self, name: str, total: float = 1.0) -> Iterator[Stage]:
        yield self

    def advance(self, amount: float = 1.0) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def _state(task: TrainingTask) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.clone() for name, m in task.modules().items() for key, value in m.state_dict().items()
    }


@pytest.mark.parametrize("make", MAKERS)
def test_tasks_train_and_resume_exactly(make: Callable[[TaskSetup], FusionTask], setup: Setup, tmp_path: Path) -> None:
    whole = make(setup())
    before = _state(whole)
    first = train(whole, SETTINGS, files=TrainingFiles(log=tmp_path / "whole.csv"))
    assert first.best_step > 0
    assert any(not torch.equal(before[name], value) for name, value in _state(whole).items())
    files = TrainingFiles(tmp_path / "state.safetensors", tmp_path / "log.csv")
    with pytest.raises(KeyboardInterrupt):
        train(make(setup()), SETTINGS, files=files, progress=_Stop(6))
    resumed = make(setup())
    second = train(resumed, SETTINGS, files=replace(files, resume=True))
    assert first.history == second.history
    logs = [list(csv.DictReader((tmp_path / f"{name}.csv").read_text().splitlines())) for name in ("whole", "log")]
    exact = [[{**row, "seconds": ""} for row in rows] for rows in logs]
    assert exact[0] == exact[1]
    assert all(torch.equal(value, _state(resumed)[name]) for name, value in _state(whole).items())


def test_a_network_with_its_own_loss_learns(setup: Setup) -> None:
    result = train(make_own_loss(setup()), replace(SETTINGS, steps=30, validate_every=10))
    assert result.best.quality > result.first.quality + 0.3


def test_a_frozen_teacher_stays_as_it_is_and_teaches(setup: Setup) -> None:
    task = make_distillation(setup())
    assert isinstance(task, Distillation)
    before = {name: t.clone() for name, t in task.teacher.state_dict().items()}
    train(task, SETTINGS)
    assert all(torch.equal(before[name], t) for name, t in task.teacher.state_dict().items())
    other = Distillation(_made(Sharpener), _made(_teacher, 2), setup())
    train(other, SETTINGS)
    assert not torch.equal(task.network.outer.weight, other.network.outer.weight)


def test_each_group_has_its_own_pace_and_gradients(setup: Setup, tmp_path: Path) -> None:
    task = make_adversarial(setup())
    assert isinstance(task, Adversarial)
    seen: list[str] = []
    own = task.loss

    def watched(sample: Batch, group: str, step: int) -> Tensor:
        other = task.network if group == "discriminator" else task.discriminator
        assert not any(p.requires_grad for p in other.parameters())
        seen.append(f"{group} {step}")
        return own(sample, group, step)

    task.loss = watched  # type: ignore[method-assign]
    before = task.discriminator.weight.detach().clone()
    log = tmp_path / "log.csv"
    train(task, replace(SETTINGS, steps=3, validate_every=3, micro_batch=4), files=TrainingFiles(log=log))
    assert seen == ["discriminator 0", "generator 0", "generator 1", "discriminator 2", "generator 2"]
    assert not torch.equal(before, task.discriminator.weight)
    assert all(p.requires_grad for p in task.discriminator.parameters())
    assert "loss_discriminator" in log.read_text().splitlines()[0]


def test_random_levels_belong_to_the_step(setup: Setup) -> None:
    task, other = make_diffusion(setup()), make_diffusion(setup())
    whole = task.sample(5)
    parts = [other.sample(5, rank, 2) for rank in (0, 1)]
    assert torch.equal(whole.images["noise"][0::2], parts[0].images["noise"])
    assert torch.equal(whole.values["level"][1::2], parts[1].values["level"])
    assert not torch.equal(whole.values["level"], task.sample(6).values["level"])


def test_a_group_that_diverges_ends_the_training(setup: Setup) -> None:
    task = make_adversarial(setup())
    own = task.loss

    def broken(sample: Batch, group: str, step: int) -> Tensor:
        return own(sample, group, step) * (float("nan") if group == "discriminator" else 1.0)

    task.loss = broken  # type: ignore[method-assign]
    task.groups = lambda: [replace(g, every=1) for g in Adversarial.groups(task)]  # type: ignore[method-assign]
    with pytest.raises(TrainingDivergedError, match="not a number since step 1"):
        train(task, SETTINGS)


@dataclass(frozen=True)
class Rows:
    """Rows of one image."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    @property
    def pixels(self) -> int:
        return self.values.numel()

    def part(self, start: int, stop: int) -> Rows:
        return Rows(self.values[start:stop])


class OneScene(TrainingTask):
    """Learns a single image without any truth, and judges itself by a score of its own."""

    columns = ("error",)

    def __init__(self) -> None:
        self.network = _made(lambda: nn.Linear(8, 8))
        self.image = torch.linspace(0.0, 1.0, 64).reshape(8, 8)

    @property
    def batch_size(self) -> int:
        return 8

    def sample(self, step: int, rank: int = 0, size: int = 1) -> Rows:
        return Rows(self.image[rank::size])

    def loss(self, sample: Rows, group: str, step: int) -> Tensor:
        found: Tensor = (self.network(sample.values) - sample.values).square().mean(dim=1)
        return found

    def validate(self, team: Team) -> Error:
        with torch.no_grad():
            return Error(float(self.loss(Rows(self.image), "network", 0).mean()))

    def restore_scores(self, values: dict[str, Any]) -> Error:
        return Error(**values)


def test_a_single_scene_is_learnt_without_a_truth_and_resumes(tmp_path: Path) -> None:
    settings = LoopSettings(steps=40, validate_every=10, learning_rate=0.02, micro_batch=8)
    whole = train(OneScene(), settings)
    assert whole.best.quality > 0.3 * whole.first.quality
    files = TrainingFiles(tmp_path / "state.safetensors", tmp_path / "log.csv")
    with pytest.raises(KeyboardInterrupt):
        train(OneScene(), settings, files=files, progress=_Stop(25))
    assert train(OneScene(), settings, files=replace(files, resume=True)).history == whole.history


def test_the_callers_random_numbers_are_left_alone(setup: Setup) -> None:
    before = torch.get_rng_state()
    train(make_own_loss(setup()), replace(SETTINGS, steps=1, validate_every=1))
    assert torch.equal(before, torch.get_rng_state())
