"""The gradient of one global batch: in parts that fit into memory, added up over parts and processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from hsfuse.errors import MemoryBudgetError
from hsfuse.log import get_logger
from hsfuse.training.determinism import step_seed
from hsfuse.training.distributed import Team
from hsfuse.training.settings import LoopSettings
from hsfuse.training.state import Learner, TrainingState
from hsfuse.training.task import Sample, TrainingTask

_log = get_logger(__name__)


class BatchGradients:
    """Leaves gradients in the parameters of a group.

    Parameters
    ----------
    task
        What is trained.
    learners
        All groups.
    settings
        Its precision counts: with ``bf16`` the network computes under autocast, while weights, their gradients and the
        optimiser stay in float32. bfloat16 has float32's range, so losses are not scaled.
    state
        Its ``micro_batch`` and ``recompute`` are lowered when the GPU's memory is full.
    team
        Processes that share the batch.
    device
        Torch device name.
    """

    def __init__(
        self, task: TrainingTask, learners: Sequence[Learner], settings: LoopSettings, state: TrainingState,
        team: Team, device: str,
    ) -> None:  # fmt: skip
        self._task, self._learners, self._settings = task, learners, settings
        self.state, self._team, self._device = state, team, device

    def of(self, learner: Learner, sample: Sample) -> float:
        """Leave the gradient of the global batch's mean loss in a group's parameters; return that loss.

        Raises
        ------
        MemoryBudgetError
            Not even a single patch fits into memory.
        PartnerError
            Another process of the team failed.
        """
        with self._alone(learner):
            total = self._spared(learner, sample)
        shared = [p.grad for p in learner.parameters if p.grad is not None]
        loss = total.reshape(1)
        self._team.add([*shared, loss])
        return float(loss)

    @contextmanager
    def _alone(self, learner: Learner) -> Iterator[None]:
        """Let no other group collect gradients meanwhile."""
        own = set(learner.names)
        others = [p for other in self._learners for name, p in other.group.parameters.items() if name not in own]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def _spared(self, learner: Learner, sample: Sample) -> Tensor:
        """Accumulate; where memory is full, again with less at a time."""
        group = self._learners.index(learner)
        while True:
            torch.manual_seed(step_seed(self._settings.seed, self.state.step, group, self._team.rank))
            try:
                return self._accumulate(learner, sample)
            except torch.OutOfMemoryError:
                pass
            # Outside the handler, whose traceback would keep the tensors of the failed attempt.
            self._spare_memory()

    def _accumulate(self, learner: Learner, sample: Sample) -> Tensor:
        learner.optimizer.zero_grad(set_to_none=False)
        for parameter in learner.parameters:
            if parameter.grad is None:
                # Every process must send the same list of gradients.
                parameter.grad = torch.zeros_like(parameter)
        total = torch.zeros((), device=self._device)
        count = self._task.batch_size
        kind = torch.device(self._device).type
        for start in range(0, len(sample), self.state.micro_batch):
            part = sample.part(start, start + self.state.micro_batch)
            with torch.autocast(kind, dtype=torch.bfloat16, enabled=self._settings.precision == "bf16"):
                losses = self._task.loss(part, learner.group.name, self.state.step)
            loss = losses.sum() / count
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _spare_memory(self) -> None:
        """Halve what is computed at a time, then recompute; give up after that."""
        state = self.state
        torch.cuda.empty_cache()
        if state.micro_batch > 1:
            state.micro_batch = (state.micro_batch + 1) // 2
            _log.warning("The GPU's memory is full; going on with %d patches at a time.", state.micro_batch)
        elif not state.recompute and self._task.save_memory(True):
            state.recompute = True
            _log.warning("The GPU's memory is full; going on with parts computed twice (slower).")
        else:
            raise MemoryBudgetError("Not even one patch fits into the GPU's memory.", hint="Use a smaller --patch.")
