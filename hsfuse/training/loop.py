"""The training loop: steps, schedule, averaging, validation, checkpoints, interruption."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from hsfuse.errors import HsfuseError, TrainingDivergedError, UsageError
from hsfuse.log import get_logger
from hsfuse.progress import Progress, SilentProgress, Stage, format_seconds, note
from hsfuse.training.checkpoint import save_checkpoint
from hsfuse.training.determinism import deterministic_algorithms
from hsfuse.training.distributed import Team
from hsfuse.training.gradients import BatchGradients
from hsfuse.training.interruption import Interruption
from hsfuse.training.run_log import RunLog
from hsfuse.training.settings import LoopSettings, TrainingFiles, TrainingResult
from hsfuse.training.state import Learner, TrainingState, pack, set_weights, unpack, weights_of
from hsfuse.training.task import ParameterGroup, Sample, TrainingTask

_log = get_logger(__name__)

_MAX_BAD_STEPS = 3
_DIVERGED = 20.0
"""Training has diverged when the average loss is so many times its smallest value."""
_SETTLED_STEPS = 20
_MIN_GAIN = 0.01
"""What counts as an improvement: over what training began with, and for going on."""
_PROGRESS_UNITS = 1000.0


def train(
    task: TrainingTask,
    settings: LoopSettings,
    *,
    files: TrainingFiles | None = None,
    team: Team | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TrainingResult:
    """Train a task.

    Parameters
    ----------
    task
        What is trained; its networks are changed in place and end with the best weights.
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
    trainer = Trainer(task, settings, files or TrainingFiles(), team or Team(), device)
    gpus = [torch.device(device)] if device.startswith("cuda") else []
    try:
        # The caller's random numbers are the caller's.
        with torch.random.fork_rng(devices=gpus), deterministic_algorithms(settings.deterministic):
            return trainer.run(progress or SilentProgress())
    finally:
        task.close()


class Trainer:
    """One training; see :func:`train`."""

    def __init__(
        self, task: TrainingTask, settings: LoopSettings, files: TrainingFiles, team: Team, device: str
    ) -> None:
        self._task, self._settings = task, settings
        self._files, self._team, self._device = files, team, device
        for module in task.modules().values():
            module.to(device)
        self._learners = [self._learner(group) for group in task.groups()]
        if not any(learner.group.parameters for learner in self._learners):
            raise HsfuseError("The training task has no parameters to train.")
        if task.batch_size < team.size:
            raise UsageError(
                f"A batch of {task.batch_size} cannot be shared by {team.size} processes.", hint="Use a larger --batch."
            )
        self._best: dict[str, Tensor] = self._snapshot()
        self._state = TrainingState(micro_batch=max(1, settings.micro_batch), recompute=settings.recompute)
        self.gradients = BatchGradients(task, self._learners, settings, self._state, team, device)
        self._limit = self._step_limit()
        self._interruption = Interruption()

    @property
    def learners(self) -> list[Learner]:
        """Parameter groups with their optimisers."""
        return self._learners

    def _learner(self, group: ParameterGroup) -> Learner:
        settings = self._settings
        kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
        optimizer = kind(
            list(group.parameters.values()), lr=settings.learning_rate, betas=settings.betas,
            weight_decay=settings.weight_decay,
        )  # fmt: skip
        return Learner(group, optimizer, {name: p.detach().clone() for name, p in group.parameters.items()})

    def run(self, progress: Progress) -> TrainingResult:
        """Train until the budget is used up."""
        files, task = self._files, self._task
        if files.resume:
            self._restore()
        if not task.save_memory(self._state.recompute):
            _log.warning("--recompute has no effect: this network cannot trade time for memory.")
        resume_step = self._state.step if files.resume else None
        leader = self._team.leads
        extra = [f"loss_{learner.group.name}" for learner in self._learners[:-1]]
        with progress.stage("train", _PROGRESS_UNITS) as stage:
            note(stage, "preparing the training data")
            task.start()
            self._set_mode(training=True)
            with (
                RunLog(files.log if leader else None, (*task.columns, *extra), resume_step=resume_step,
                       tensorboard=files.tensorboard if leader else None) as log,
                self._interruption.watched(),
            ):  # fmt: skip
                stopped = self._loop(log, stage)
        state = self._state
        set_weights(task, self._best)
        self._set_mode(training=False)
        if state.best is None or state.first is None:
            raise HsfuseError("Training ended without a validation.")
        return TrainingResult(
            task.network, state.best, state.first, state.step, state.best_step, state.seconds, stopped,
            tuple(state.history), round(state.megapixels_per_second, 4),
        )  # fmt: skip

    def _loop(self, log: RunLog, stage: Stage) -> str:
        state, settings = self._state, self._settings
        before, saved, shown = state.seconds, time.monotonic(), 0.0
        start = time.monotonic()
        if state.step == 0 and not state.validated:
            note(stage, "validating the weights to start from")
            self._validate(log, {"step": 0, "seconds": 0.0})
        while True:
            state.seconds = before + time.monotonic() - start
            elapsed, interrupted = self._team.maximum(
                [state.seconds, float(self._interruption.requested)], self._device
            )
            state.seconds = elapsed
            used = self._used()
            stage.advance(min(used, 1.0) * _PROGRESS_UNITS - shown)
            shown = max(shown, min(used, 1.0) * _PROGRESS_UNITS)
            if interrupted:
                self._save()
                # torchrun ends the others as soon as one is gone: none may go before the checkpoint is written.
                self._team.wait()
                raise KeyboardInterrupt
            due = state.step > 0 and (state.step % settings.validate_every == 0 or used >= 1.0)
            if due and not state.validated:
                note(stage, f"validating after {state.step} steps")
                self._validate(log, {"step": state.step, "seconds": state.seconds})
                if used < 1.0:
                    self._save()
                    saved = time.monotonic()
            # One step is made in any case: a slow machine may spend minutes on the first validation.
            if used >= 1.0 and state.step > 0:
                return "budget"
            if settings.patience and state.stale >= settings.patience:
                return "no more improvement"
            # Whether it is time to save is every process's own business: only the leader writes.
            if time.monotonic() - saved > 60.0 * settings.checkpoint_minutes:
                self._save()
                saved = time.monotonic()
            begun = time.monotonic()
            loss = self._step(log, used)
            state.step_seconds += time.monotonic() - begun
            note(stage, f"step {state.step}, loss {loss:.4g}, {state.megapixels_per_second:.3g} Mpx/s")

    def _step(self, log: RunLog, used: float) -> float:
        """Train on one batch; return its loss."""
        state = self._state
        rate = self._learning_rate(used)
        sample = self._task.sample(state.step, self._team.rank, self._team.size)
        state.pixels += sample.pixels * self._task.batch_size // len(sample)
        row: dict[str, float] = {"step": state.step + 1, "seconds": state.seconds, "learning_rate": rate}
        finite = True
        for learner in self._learners:
            if state.step % learner.group.every:
                continue
            loss, norm = self._update(learner, sample, rate)
            finite = finite and math.isfinite(loss) and math.isfinite(norm)
            # The last group is what training is for: its loss is the loss.
            main = learner is self._learners[-1]
            row |= {"loss": loss, "gradient_norm": norm} if main else {f"loss_{learner.group.name}": loss}
        self._task.after_step(state.step)
        state.step += 1
        state.validated = False
        log.row(row)
        self._guard(row.get("loss"), finite)
        return row.get("loss", math.nan)

    def _update(self, learner: Learner, sample: Sample, rate: float) -> tuple[float, float]:
        """Step one group, unless its gradient is not finite; return loss and norm of the gradient."""
        clip = self._settings.clip
        for settings in learner.optimizer.param_groups:
            settings["lr"] = rate * learner.group.rate
        loss = self.gradients.of(learner, sample)
        norm = _norm(learner)
        if math.isfinite(loss) and math.isfinite(norm):
            if clip and norm > clip:
                for parameter in learner.parameters:
                    if parameter.grad is not None:
                        parameter.grad.mul_(clip / norm)
            learner.optimizer.step()
            self._update_average(learner)
        return loss, norm

    def _guard(self, loss: float | None, finite: bool) -> None:
        state = self._state
        state.bad_steps = 0 if finite else state.bad_steps + 1
        hint = "Use a smaller --lr; a checkpoint of the last validation is kept."
        if state.bad_steps >= _MAX_BAD_STEPS:
            raise TrainingDivergedError(f"The loss is not a number since step {state.step - 2}.", hint=hint)
        if not finite or loss is None:
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

    def _update_average(self, learner: Learner) -> None:
        # A young average follows faster, or it would remember the start weights for long.
        decay = min(self._settings.ema, (1.0 + self._state.step) / (10.0 + self._state.step))
        with torch.no_grad():
            for name, parameter in learner.group.parameters.items():
                learner.average[name].lerp_(parameter, 1.0 - decay)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Put the averages in the place of the weights, and all modules into evaluation mode."""
        self._set_mode(training=False)
        for learner in self._learners:
            learner.swap()
        try:
            yield
        finally:
            for learner in self._learners:
                learner.swap()
            self._set_mode(training=True)

    def _set_mode(self, *, training: bool) -> None:
        for module in self._task.modules().values():
            module.train(training)

    def _snapshot(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in weights_of(self._task).items()}

    def _validate(self, log: RunLog, row: dict[str, float]) -> None:
        state = self._state
        with self._averaged():
            scores = self._task.validate(self._team)
            state.validated = True
            if not math.isfinite(scores.quality):
                raise TrainingDivergedError(
                    f"The network returns numbers that are not finite at step {state.step}.", hint="Use a smaller --lr."
                )
            if state.first is None:
                state.first = scores
            # What it began with gives way to a gain only; of what was trained the best is kept, however little better:
            # a schedule ends in small steps.
            least = _MIN_GAIN if state.best_step == 0 else 0.0
            if state.best is None or scores.quality > state.best.quality + least:
                state.best, state.best_step = scores, state.step
                self._best = self._snapshot()
            if state.last_gain is None or scores.quality > state.last_gain + _MIN_GAIN:
                state.last_gain, state.stale = scores.quality, 0
            else:
                state.stale += 1
        values = scores.to_json()
        state.history.append({"step": state.step, "loss": round(state.loss_average, 6), **values})
        log.row({**row, **{name: float(getattr(scores, name, values[name])) for name in self._task.columns}})
        if self._team.leads:
            used = self._used()
            left = state.seconds * (1.0 - used) / used if used > 0.0 else None
            ahead = f", about {format_seconds(max(left, 0.0))} left" if left is not None else ""
            _log.info("step %d: loss %.4f, %s%s", state.step, state.loss_average, scores.text, ahead)

    def _used(self) -> float:
        """Share of the budget that is used up."""
        by_steps = self._state.step / self._limit if self._limit else 0.0
        minutes = self._settings.minutes
        return max(by_steps, self._state.seconds / (60.0 * minutes) if minutes else 0.0)

    def _step_limit(self) -> int | None:
        settings = self._settings
        limits = [settings.steps] if settings.steps is not None else []
        if settings.epochs is not None:
            limits.append(max(1, round(settings.epochs * self._task.epoch_steps)))
        return min(limits) if limits else None

    def _learning_rate(self, used: float) -> float:
        settings = self._settings
        rate = settings.learning_rate * min(1.0, (self._state.step + 1) / max(settings.warmup_steps, 1))
        if settings.schedule == "constant":
            return rate
        return rate * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(used, 1.0))))

    def _save(self) -> None:
        path = self._files.checkpoint
        if path is not None and self._team.leads:
            kept = pack(self._task, self._learners, self._best, self._state, self._files.identity)
            save_checkpoint(path, kept)

    def _restore(self) -> None:
        path = self._files.checkpoint
        if path is None:
            raise UsageError("There is no checkpoint to resume from.")
        self._state, self._best = unpack(path, self._task, self._learners, self._files.identity, self._device)
        self.gradients.state = self._state
        _log.info("Going on at step %d.", self._state.step)


def _norm(learner: Learner) -> float:
    grads = [p.grad for p in learner.parameters if p.grad is not None]
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in grads])))
