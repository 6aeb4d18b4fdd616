"""Settings of the training loop, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import nn

from hsfuse.errors import UsageError
from hsfuse.training.task import Scores


@dataclass(frozen=True)
class LoopSettings:
    """How to train.

    Attributes
    ----------
    optimizer
        ``adamw`` or ``adam``.
    learning_rate, betas, weight_decay
        Of the optimiser.
    schedule
        ``cosine``: down to a hundredth over the budget; ``constant``.
    warmup_steps
        The learning rate grows linearly over so many steps.
    clip
        Largest norm of the gradient; 0 for none.
    ema
        Decay of the exponential moving average of the weights that is validated and kept; 0 for none.
    steps, epochs, minutes
        The budget; the first one that is used up ends the training. At least one is needed.
    validate_every
        Steps between validations.
    patience
        Stop after so many validations without improvement; 0 for never.
    micro_batch
        Patches that are computed at a time; gradients are added up. Bounds the memory.
    precision
        ``fp32``, or ``bf16`` for automatic mixed precision.
    recompute
        Save memory by computing parts of the network twice, where the task can.
    checkpoint_minutes
        Time between checkpoints.
    seed
        Of what is random inside the network, such as dropout.
    deterministic
        Use algorithms that give the same numbers on every run; slower on a GPU.
    """

    optimizer: Literal["adamw", "adam"] = "adamw"
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 20
    clip: float = 1.0
    ema: float = 0.995
    steps: int | None = None
    epochs: float | None = None
    minutes: float | None = None
    validate_every: int = 100
    patience: int = 0
    micro_batch: int = 8
    precision: Literal["fp32", "bf16"] = "fp32"
    recompute: bool = False
    checkpoint_minutes: float = 10.0
    seed: int = 0
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.steps is None and self.epochs is None and self.minutes is None:
            raise UsageError("Training needs a budget.", hint="Give --steps, --epochs or --minutes.")


@dataclass(frozen=True)
class TrainingFiles:
    """Where a training keeps its state.

    Attributes
    ----------
    checkpoint
        Checkpoint file; None for none.
    log
        CSV log; None for none.
    tensorboard
        Folder; None for none.
    resume
        Go on from the checkpoint.
    identity
        What must be equal for that, JSON values (settings, data).
    """

    checkpoint: Path | None = None
    log: Path | None = None
    tensorboard: Path | None = None
    resume: bool = False
    identity: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingResult:
    """Outcome.

    Attributes
    ----------
    network
        The averaged network at its best validation.
    best, first
        Scores of that network, and of the one that training started from.
    steps, best_step
        Steps made, and the one with the best validation.
    seconds
        Time spent, over all resumed parts.
    stopped
        Why training ended: ``budget`` or ``no more improvement``.
    history
        Every validation: step, loss and scores.
    megapixels_per_second
        Fine pixels that were learned from, over all processes, per second of steps.
    """

    network: nn.Module
    best: Scores
    first: Scores
    steps: int
    best_step: int
    seconds: float
    stopped: str
    history: tuple[dict[str, Any], ...]
    megapixels_per_second: float = 0.0
