"""The training loop: steps, schedule, averaging, validation, checkpoints, interruption."""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor

from hsfuse.errors import HsfuseError, InputError, MemoryBudgetError, TrainingDivergedError, UsageError
from hsfuse.fusion.methods.ssrfn.network import Ssrfn
from hsfuse.log import get_logger
from hsfuse.progress import Progress, SilentProgress, Stage, format_seconds
from hsfuse.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from hsfuse.training.dataset import Batch, PatchSource, ReducedPair
from hsfuse.training.distributed import Team
from hsfuse.training.losses import FusionLoss
from hsfuse.training.run_log import RunLog
from hsfuse.training.validation import ValidationScores, validate

_log = get_logger(__name__)

_MAX_BAD_STEPS = 3
_DIVERGED = 20.0
"""Training has diverged when the average loss is so many times its smallest value."""
_SETTLED_STEPS = 20
_MIN_GAIN_DB = 0.01
"""What counts as an improvement."""
_PROGRESS_UNITS = 1000.0


@dataclass(frozen=True)
class LoopSettings:
    """How to train.

    Attributes
    ----------
    loss
        What is minimised.
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
        Decay of the average of the weights that is validated and kept; 0 for none.
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
        Save memory by computing the Mamba blocks twice.
    checkpoint_minutes
        Time between checkpoints.
    """

    loss: FusionLoss = field(default_factory=FusionLoss)
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
    """

    network: Ssrfn
    best: ValidationScores
    first: ValidationScores
    steps: int
    best_step: int
    seconds: float
    stopped: str
    history: tuple[dict[str, Any], ...]


def train(
    network: Ssrfn,
    source: PatchSource,
    settings: LoopSettings,
    *,
    files: TrainingFiles | None = None,
    team: Team | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TrainingResult:
    """Train a network.

    Parameters
    ----------
    network
        Start weights; changed in place.
    source
        Training patches and validation windows; its device is ``device``.
    settings
        How to train.
    files
        Checkpoint and log.
    team
        Processes that share every batch.
    device
        Torch device name.
    progress
        Shows the share of the budget that is used up.

    Raises
    ------
    TrainingDivergedError
        The loss is infinite or grows without bounds.
    InputError, UsageError
        The checkpoint cannot be used.
    OutputError
        The disk is full; the last checkpoint is intact.
    MemoryBudgetError
        Not even a single patch fits into memory.
    KeyboardInterrupt
        Training was interrupted (also by SIGTERM); a checkpoint was written.
    """
    trainer = _Trainer(network, source, settings, files or TrainingFiles(), team or Team(), device)
    try:
        return trainer.run(progress or SilentProgress())
    finally:
        source.close()


@dataclass
class _State:
    """Everything beside tensors that a checkpoint has to hold."""

    step: int = 0
    seconds: float = 0.0
    best_step: int = 0
    best: ValidationScores | None = None
    first: ValidationScores | None = None
    stale: int = 0
    loss_average: float = 0.0
    loss_minimum: float = math.inf
    bad_steps: int = 0
    micro_batch: int = 1
    recompute: bool = False
    validated: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        content = vars(self) | {"best": vars(self.best) if self.best else None}
        content["first"] = vars(self.first) if self.first else None
        content["loss_minimum"] = None if math.isinf(self.loss_minimum) else self.loss_minimum
        return content

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> _State:
        values = dict(content)
        for name in ("best", "first"):
            values[name] = ValidationScores(**values[name]) if values[name] else None
        if values["loss_minimum"] is None:
            values["loss_minimum"] = math.inf
        return cls(**values)


class _Trainer:
    def __init__(
        self, network: Ssrfn, source: PatchSource, settings: LoopSettings, files: TrainingFiles, team: Team, device: str
    ) -> None:
        self._network, self._source, self._settings = network.to(device), source, settings
        self._files, self._team, self._device = files, team, device
        self._names = [name for name, p in network.named_parameters() if p.requires_grad]
        self._parameters = [p for p in network.parameters() if p.requires_grad]
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        self._optimizer = kind(
            self._parameters, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self._average = copy.deepcopy(network).eval().requires_grad_(False)
        self._best: dict[str, Tensor] = _snapshot(self._average)
        self._state = _State(micro_batch=max(1, settings.micro_batch), recompute=settings.recompute)
        self._limit = self._step_limit()
        self._interrupted = False

    def run(self, progress: Progress) -> TrainingResult:
        files = self._files
        if files.resume:
            self._restore()
        self._network.set_recompute(self._state.recompute)
        self._network.train()
        pairs = self._source.validation()
        resume_step = self._state.step if files.resume else None
        leader = self._team.leads
        with (
            RunLog(files.log if leader else None, resume_step=resume_step,
                   tensorboard=files.tensorboard if leader else None) as log,
            progress.stage("train", _PROGRESS_UNITS) as stage,
            self._signals(),
        ):  # fmt: skip
            stopped = self._loop(pairs, log, stage)
        state = self._state
        self._network.load_state_dict(self._best)
        self._network.eval()
        if state.best is None or state.first is None:
            raise HsfuseError("Training ended without a validation.")
        return TrainingResult(
            self._network, state.best, state.first, state.step, state.best_step, state.seconds, stopped,
            tuple(state.history),
        )  # fmt: skip

    def _loop(self, pairs: Sequence[ReducedPair], log: RunLog, stage: Stage) -> str:
        state, settings = self._state, self._settings
        before, saved, shown = state.seconds, time.monotonic(), 0.0
        start = time.monotonic()
        if state.step == 0 and not state.validated:
            self._validate(pairs, log, {"step": 0, "seconds": 0.0})
        while True:
            state.seconds = before + time.monotonic() - start
            elapsed, interrupted = self._team.maximum([state.seconds, float(self._interrupted)], self._device)
            state.seconds = elapsed
            used = self._used()
            stage.advance(min(used, 1.0) * _PROGRESS_UNITS - shown)
            shown = max(shown, min(used, 1.0) * _PROGRESS_UNITS)
            if interrupted:
                self._save()
                raise KeyboardInterrupt
            due = state.step > 0 and (state.step % settings.validate_every == 0 or used >= 1.0)
            if due and not state.validated:
                self._validate(pairs, log, {"step": state.step, "seconds": state.seconds})
                if used < 1.0:
                    self._save()
                    saved = time.monotonic()
            if used >= 1.0:
                return "budget"
            if settings.patience and state.stale >= settings.patience:
                return "no more improvement"
            # Whether it is time to save is every process's own business: only the leader writes.
            if time.monotonic() - saved > 60.0 * settings.checkpoint_minutes:
                self._save()
                saved = time.monotonic()
            self._step(log, used)

    def _step(self, log: RunLog, used: float) -> None:
        state, settings = self._state, self._settings
        rate = self._learning_rate(used)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        batch = self._source.batch(state.step, self._team.rank, self._team.size)
        loss = self._gradients(batch)
        norm = self._norm()
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            if settings.clip and norm > settings.clip:
                for parameter in self._parameters:
                    if parameter.grad is not None:
                        parameter.grad.mul_(settings.clip / norm)
            self._optimizer.step()
            self._update_average()
        state.step += 1
        state.validated = False
        log.row({"step": state.step, "seconds": state.seconds, "learning_rate": rate, "loss": loss,
                 "gradient_norm": norm})  # fmt: skip
        self._guard(loss, finite)

    def _gradients(self, batch: Batch) -> float:
        """Leave the gradient of the global batch's mean loss in the parameters; return that loss."""
        while True:
            try:
                total = self._accumulate(batch)
                break
            except torch.OutOfMemoryError:
                self._spare_memory()
        shared = [p.grad for p in self._parameters if p.grad is not None]
        loss = total.reshape(1)
        self._team.add([*shared, loss])
        return float(loss)

    def _accumulate(self, batch: Batch) -> Tensor:
        self._optimizer.zero_grad(set_to_none=False)
        for parameter in self._parameters:
            if parameter.grad is None:
                # Every process must send the same list of gradients.
                parameter.grad = torch.zeros_like(parameter)
        total = torch.zeros((), device=self._device)
        count = self._source.batch_size
        kind = torch.device(self._device).type
        for start in range(0, len(batch), self._state.micro_batch):
            part = batch.part(start, start + self._state.micro_batch)
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=self._settings.precision == "bf16"):
                base, change = self._network.parts(part.hsi, part.msi, part.draft, part.scene)
            losses = self._settings.loss(base + change.float(), part.target, part.scene.std, part.valid, part.error)
            loss = losses.sum() / count
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _spare_memory(self) -> None:
        """Halve what is computed at a time, then recompute; give up after that."""
        state = self._state
        torch.cuda.empty_cache()
        if state.micro_batch > 1:
            state.micro_batch = (state.micro_batch + 1) // 2
            _log.warning("The GPU's memory is full; going on with %d patches at a time.", state.micro_batch)
        elif not state.recompute:
            state.recompute = True
            self._network.set_recompute(True)
            _log.warning("The GPU's memory is full; going on with recomputed Mamba blocks (slower).")
        else:
            raise MemoryBudgetError("Not even one patch fits into the GPU's memory.", hint="Use a smaller --patch.")

    def _norm(self) -> float:
        grads = [p.grad for p in self._parameters if p.grad is not None]
        return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads])))

    def _guard(self, loss: float, finite: bool) -> None:
        state = self._state
        state.bad_steps = 0 if finite else state.bad_steps + 1
        hint = "Use a smaller --lr; a checkpoint of the last validation is kept."
        if state.bad_steps >= _MAX_BAD_STEPS:
            raise TrainingDivergedError(f"The loss is not a number since step {state.step - 2}.", hint=hint)
        if not finite:
            return
        weight = max(0.05, 1.0 / state.step)
        state.loss_average += weight * (loss - state.loss_average)
        if state.step >= _SETTLED_STEPS:
            state.loss_minimum = min(state.loss_minimum, state.loss_average)
            if state.loss_average > _DIVERGED * state.loss_minimum:
                raise TrainingDivergedError(
                    f"The loss grew from {state.loss_minimum:.4g} to {state.loss_average:.4g} by step {state.step}.",
                    hint=hint,
                )

    def _update_average(self) -> None:
        # A young average follows faster, or it would remember the start weights for long.
        decay = min(self._settings.ema, (1.0 + self._state.step) / (10.0 + self._state.step))
        with torch.no_grad():
            learned = dict(self._average.named_parameters())
            averages = (learned[name] for name in self._names)
            for mean, value in zip(averages, self._parameters, strict=True):
                mean.lerp_(value, 1.0 - decay)

    def _validate(self, pairs: Sequence[ReducedPair], log: RunLog, row: dict[str, float]) -> None:
        state = self._state
        scores = validate(self._average, pairs, self._team)
        state.validated = True
        if not math.isfinite(scores.psnr_db):
            raise TrainingDivergedError(
                f"The network returns numbers that are not finite at step {state.step}.", hint="Use a smaller --lr."
            )
        if state.first is None:
            state.first = scores
        if state.best is None or scores.psnr_db > state.best.psnr_db + _MIN_GAIN_DB:
            state.best, state.best_step, state.stale = scores, state.step, 0
            self._best = _snapshot(self._average)
        else:
            state.stale += 1
        state.history.append({"step": state.step, "loss": round(state.loss_average, 6), **scores.to_json()})
        log.row({**row, "psnr_db": scores.psnr_db, "sam_deg": scores.sam_deg, "draft_psnr_db": scores.draft_psnr_db,
                 "draft_sam_deg": scores.draft_sam_deg, "gain_db": scores.gain_db})  # fmt: skip
        if self._team.leads:
            used = self._used()
            left = state.seconds * (1.0 - used) / used if used > 0.0 else None
            _log.info(
                "step %d: loss %.4f, PSNR %.2f dB (draft %.2f), SAM %.2f deg (draft %.2f)%s",
                state.step, state.loss_average, scores.psnr_db, scores.draft_psnr_db, scores.sam_deg,
                scores.draft_sam_deg, f", about {format_seconds(max(left, 0.0))} left" if left is not None else "",
            )  # fmt: skip

    def _used(self) -> float:
        """Share of the budget that is used up."""
        by_steps = self._state.step / self._limit if self._limit else 0.0
        minutes = self._settings.minutes
        return max(by_steps, self._state.seconds / (60.0 * minutes) if minutes else 0.0)

    def _step_limit(self) -> int | None:
        settings = self._settings
        limits = [settings.steps] if settings.steps is not None else []
        if settings.epochs is not None:
            limits.append(max(1, round(settings.epochs * self._source.epoch_steps)))
        return min(limits) if limits else None

    def _learning_rate(self, used: float) -> float:
        settings = self._settings
        rate = settings.learning_rate * min(1.0, (self._state.step + 1) / max(settings.warmup_steps, 1))
        if settings.schedule == "constant":
            return rate
        return rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(used, 1.0))))

    def _save(self) -> None:
        path = self._files.checkpoint
        if path is None or not self._team.leads:
            return
        tensors = {f"model/{n}": t for n, t in self._network.state_dict().items()}
        tensors |= {f"average/{n}": t for n, t in self._average.state_dict().items()}
        tensors |= {f"best/{n}": t for n, t in self._best.items()}
        tensors |= {f"optimizer/{n}": t for n, t in optimizer_tensors(self._optimizer, self._names).items()}
        tensors["random/torch"] = torch.get_rng_state()
        record = {"state": self._state.to_json(), "identity": self._files.identity}
        save_checkpoint(path, Checkpoint(tensors, record))

    def _restore(self) -> None:
        path = self._files.checkpoint
        if path is None:
            raise UsageError("There is no checkpoint to resume from.")
        checkpoint = load_checkpoint(path)
        _check_identity(checkpoint.record.get("identity", {}), self._files.identity, path)
        try:
            self._network.load_state_dict(checkpoint.part("model"))
            self._average.load_state_dict(checkpoint.part("average"))
            self._best = {name: t.to(self._device) for name, t in checkpoint.part("best").items()}
            restore_optimizer(self._optimizer, self._names, checkpoint.part("optimizer"))
            torch.set_rng_state(checkpoint.part("random")["torch"])
            self._state = _State.from_json(checkpoint.record["state"])
        except (RuntimeError, KeyError, TypeError) as error:
            raise InputError(
                f"The checkpoint {path} does not fit this training ({type(error).__name__}).",
                hint="Start anew without --resume.",
            ) from error
        _log.info("Going on at step %d.", self._state.step)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Turn the first interrupt or termination into a stop after the running step; a second one ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old: dict[int, Any] = {}

        def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            self._interrupted = True
            _log.warning("Stopping after this step; a second signal stops at once.")
            for each, handler in old.items():
                signal.signal(each, handler)

        for watched in (signal.SIGINT, signal.SIGTERM):
            old[watched] = signal.signal(watched, stop)
        try:
            yield
        finally:
            for each, handler in old.items():
                signal.signal(each, handler)


def _snapshot(network: Ssrfn) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _check_identity(stored: dict[str, Any], own: dict[str, Any], path: Path) -> None:
    different = sorted(key for key in stored.keys() | own.keys() if stored.get(key) != own.get(key))
    if different:
        raise UsageError(
            f"The checkpoint {path} was made with other settings or data ({', '.join(different)}).",
            hint="Give the same inputs and options as before, or start anew without --resume.",
        )
