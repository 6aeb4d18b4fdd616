"""What the training loop trains: a task, which may hold one network or several.

The loop owns optimisers, averages of the weights, checkpoints, exact resume and the processes that share a batch. The
task owns everything else: what a step learns from, what is minimised, what a base estimate or a frozen teacher is, how
data are scaled, and how success is measured. So these fit without a change to the loop:

* a network with its own loss: override :meth:`TrainingTask.loss`;
* teacher and student: a frozen teacher is the task's own affair; one that is trained along is another module with its
  own parameter group; one that follows the student is moved in :meth:`TrainingTask.after_step`;
* adversarial pairs: two groups, stepped one after the other, with losses of their own;
* diffusion: random levels and noise belong to the sample of a step, a function of seed, step and patch;
* learning on a single scene: :meth:`TrainingTask.sample` cuts the scene itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from torch import Tensor, nn

from hsfuse.training.distributed import Team
from hsfuse.training.validation import ValidationScores


class Sample(Protocol):
    """What one step learns from: a batch that can be cut, so that memory stays bounded."""

    def __len__(self) -> int: ...

    @property
    def pixels(self) -> int:
        """Fine pixels of all items: what the throughput counts."""
        ...

    def part(self, start: int, stop: int) -> Self:
        """Return some of the items."""
        ...


class Scores(Protocol):
    """Outcome of a validation; a dataclass of numbers."""

    @property
    def quality(self) -> float:
        """What is maximised."""
        ...

    @property
    def text(self) -> str:
        """For the log."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return plain values, those of the log's columns among them."""
        ...


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with an optimiser of their own.

    Attributes
    ----------
    name
        Handed to :meth:`TrainingTask.loss`.
    parameters
        By a name that is unique in the task.
    rate
        Factor on the learning rate.
    every
        It is stepped in one of so many steps.
    """

    name: str
    parameters: Mapping[str, nn.Parameter]
    rate: float = 1.0
    every: int = 1


class TrainingTask(ABC):
    """What is trained; see the module's text.

    Attributes
    ----------
    network
        What training is for: its weights are the result.
    base
        Method of the base estimate that the network corrects; empty for none. Kept in the weights.
    columns
        What the log records of a validation.
    """

    network: nn.Module
    base: str = ""
    columns: tuple[str, ...] = ()

    def modules(self) -> Mapping[str, nn.Module]:
        """Everything that changes in training, by name: what checkpoints hold and what is put into training mode."""
        return {"network": self.network}

    def groups(self) -> Sequence[ParameterGroup]:
        """Parameters to train, in the order in which a step steps them; by default all that require gradients.

        Parameters outside the group that is being stepped get no gradients meanwhile.
        """
        return [ParameterGroup("network", self.trainable())]

    def trainable(self, *names: str) -> dict[str, nn.Parameter]:
        """Parameters that require gradients, of the modules called so (of all without a name)."""
        return {
            f"{module_name}.{name}": parameter
            for module_name, module in self.modules().items() if not names or module_name in names
            for name, parameter in module.named_parameters() if parameter.requires_grad
        }  # fmt: skip

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Items of a step, over all processes."""

    @property
    def epoch_steps(self) -> int:
        """Steps in which the data are seen once."""
        return 1

    @abstractmethod
    def sample(self, step: int, rank: int = 0, size: int = 1) -> Sample:
        """Return what process ``rank`` of ``size`` learns from in a step; equal arguments give equal samples.

        That is what makes a training resume exactly: random draws belong here, with :func:`step_rng`.
        """

    @abstractmethod
    def loss(self, sample: Any, group: str, step: int) -> Tensor:
        """Return what the parameters of a group minimise: one value per item, shape (n,).

        Parameters
        ----------
        sample
            From :meth:`sample`, or a part of one.
        group
            Name of the group that is being stepped.
        step
            Steps made so far.
        """

    def after_step(self, step: int) -> None:  # noqa: B027 - most tasks have nothing to do
        """Do what follows a step that was made, such as moving a teacher after its student."""

    @abstractmethod
    def validate(self, team: Team) -> Scores:
        """Measure the network as it is now; the processes of a team may share the work."""

    def restore_scores(self, values: dict[str, Any]) -> Scores:
        """Turn what a checkpoint kept of scores (the fields of their dataclass) into scores."""
        return ValidationScores(**values)

    def save_memory(self, on: bool) -> bool:
        """Trade time for memory, as far as that is possible; tell whether it is."""
        return not on

    def start(self) -> None:  # noqa: B027 - most tasks have nothing to do
        """Make ready what validations need; called once, before time is counted."""

    def close(self) -> None:  # noqa: B027 - most tasks hold nothing
        """Release what the task holds; called when training is over."""


def step_rng(seed: int, step: int, item: int) -> np.random.Generator:
    """Random numbers of one item of one step; the same in every process and after every resume."""
    return np.random.default_rng([seed, 7, step, item])
