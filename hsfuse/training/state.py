"""The state of a training: what a checkpoint holds beside tensors, and how it is put into one and taken out again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hsfuse.errors import InputError, UsageError
from hsfuse.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    optimizer_tensors,
    read_record,
    restore_optimizer,
)
from hsfuse.training.task import ParameterGroup, Scores, TrainingTask


@dataclass
class TrainingState:
    """Everything beside tensors that a checkpoint has to hold.

    ``last_gain`` is the quality that further validations have to surpass, ``stale`` how many have not.
    """

    step: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best: Scores | None = None
    first: Scores | None = None
    last_gain: float | None = None
    stale: int = 0
    loss_average: float = 0.0
    loss_minimum: float = math.inf
    bad_steps: int = 0
    micro_batch: int = 1
    recompute: bool = False
    validated: bool = False
    pixels: int = 0
    step_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def megapixels_per_second(self) -> float:
        """Fine pixels that were learned from, over all processes, per second of steps (validations left out)."""
        return 1e-6 * self.pixels / self.step_seconds if self.step_seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values, exact ones."""
        content = vars(self) | {"best": vars(self.best) if self.best else None}
        content["first"] = vars(self.first) if self.first else None
        content["loss_minimum"] = None if math.isinf(self.loss_minimum) else self.loss_minimum
        return content

    @classmethod
    def from_json(cls, content: dict[str, Any], task: TrainingTask) -> TrainingState:
        """Take back what :meth:`to_json` returned."""
        values = dict(content)
        for name in ("best", "first"):
            values[name] = task.restore_scores(values[name]) if values[name] else None
        if values["loss_minimum"] is None:
            values["loss_minimum"] = math.inf
        return cls(**values)


@dataclass
class Learner:
    """A parameter group with its optimiser and the moving averages of its parameters."""

    group: ParameterGroup
    optimizer: torch.optim.Optimizer
    average: dict[str, Tensor]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """In the order of the optimiser."""
        return list(self.group.parameters.values())

    @property
    def names(self) -> list[str]:
        """Of the parameters, in the same order."""
        return list(self.group.parameters)

    def swap(self) -> None:
        """Exchange the parameters for their averages, or back."""
        for name, parameter in self.group.parameters.items():
            parameter.data, self.average[name] = self.average[name], parameter.data


def weights_of(task: TrainingTask) -> dict[str, Tensor]:
    """State of all modules of a task, ``module.tensor``; no copies."""
    return {
        f"{module_name}.{name}": tensor
        for module_name, module in task.modules().items()
        for name, tensor in module.state_dict().items()
    }


def set_weights(task: TrainingTask, weights: Mapping[str, Tensor]) -> None:
    """Load what :func:`weights_of` returned.

    Raises
    ------
    RuntimeError
        The weights are those of other modules.
    """
    for module_name, module in task.modules().items():
        start = f"{module_name}."
        module.load_state_dict({n.removeprefix(start): w for n, w in weights.items() if n.startswith(start)})


def pack(
    task: TrainingTask, learners: list[Learner], best: Mapping[str, Tensor], state: TrainingState,
    identity: dict[str, Any],
) -> Checkpoint:  # fmt: skip
    """Collect everything that a training needs to go on."""
    tensors = {f"model/{name}": tensor for name, tensor in weights_of(task).items()}
    tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    for learner in learners:
        tensors |= {f"average/{name}": tensor for name, tensor in learner.average.items()}
        kept = optimizer_tensors(learner.optimizer, learner.names)
        tensors |= {f"optimizer/{name}": tensor for name, tensor in kept.items()}
    return Checkpoint(tensors, {"state": state.to_json(), "identity": identity})


def unpack(
    path: Path, task: TrainingTask, learners: list[Learner], identity: dict[str, Any], device: str
) -> tuple[TrainingState, dict[str, Tensor]]:
    """Put a checkpoint back into a task and its learners; return the state and the best weights so far.

    Raises
    ------
    UsageError
        It was made with other settings or data.
    InputError
        It cannot be read, or belongs to other networks.
    """
    checkpoint = load_checkpoint(path)
    _check_identity(checkpoint.record.get("identity", {}), identity, path)
    try:
        set_weights(task, checkpoint.part("model"))
        average, kept = checkpoint.part("average"), checkpoint.part("optimizer")
        if set(average) != {name for learner in learners for name in learner.group.parameters}:
            raise InputError("The checkpoint belongs to another network.", hint="Start anew without --resume.")
        for learner in learners:
            for name, tensor in learner.average.items():
                tensor.copy_(average[name])
            own = {key: t for key, t in kept.items() if key.rpartition("/")[0] in learner.group.parameters}
            restore_optimizer(learner.optimizer, learner.names, own)
        best = {name: tensor.to(device) for name, tensor in checkpoint.part("best").items()}
        return TrainingState.from_json(checkpoint.record["state"], task), best
    except (RuntimeError, KeyError, TypeError) as error:
        raise InputError(
            f"The checkpoint {path} does not fit this training ({type(error).__name__}).",
            hint="Start anew without --resume.",
        ) from error


def is_of(path: Path, identity: dict[str, Any]) -> bool:
    """Whether a checkpoint was made by a training with these settings and data."""
    stored = read_record(path).get("identity")
    return isinstance(stored, dict) and not _differences(stored, identity)


def _check_identity(stored: dict[str, Any], own: dict[str, Any], path: Path) -> None:
    different = _differences(stored, own)
    if different:
        raise UsageError(
            f"The checkpoint {path} was made with other settings or data ({', '.join(different)}).",
            hint="Give the same inputs and options as before, or start anew without --resume.",
        )


def _differences(stored: dict[str, Any], own: dict[str, Any]) -> list[str]:
    return sorted(key for key in stored.keys() | own.keys() if stored.get(key) != own.get(key))
