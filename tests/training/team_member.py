"""One of several processes that train together; torchrun starts it in ``test_training_team.py``."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from test_training_tasks import SETTINGS, Adversarial, make_adversarial
from torch import Tensor
from training_support import make_setup, make_small_scene

from hsfuse.errors import HsfuseError, OutputError
from hsfuse.training.distributed import Team, joined
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.loop import train
from hsfuse.training.pairs import Batch
from hsfuse.training.settings import TrainingFiles
from hsfuse.training.state import weights_of

QUICK = replace(SETTINGS, steps=6, validate_every=3, checkpoint_minutes=1e-9)


class _AtStep:
    """A progress display that does something at a step."""

    def __init__(self, step: int, action: Any) -> None:
        self._step, self._action = step, action

    @contextmanager
    def stage(self, name: str, total: float = 1.0) -> Any:
        yield self

    def advance(self, amount: float = 1.0) -> None:
        self._step -= 1
        if self._step == 0:
            self._action()


def trained(setup: TaskSetup, team: Team, files: TrainingFiles | None = None, **more: Any) -> dict[str, Tensor]:
    """Train a pair of adversaries; return the weights of both."""
    task = make_adversarial(setup)
    train(task, QUICK, files=files, team=team, **more)
    return {name: tensor.detach().clone() for name, tensor in weights_of(task).items()}


def seeds(setup: TaskSetup, team: Team) -> list[int]:
    """Seeds of the random numbers inside the network, step after step."""
    task, found = make_adversarial(setup), []
    own = task.loss

    def told(sample: Batch, group: str, step: int) -> Tensor:
        found.append(torch.initial_seed())
        return own(sample, group, step)

    task.loss = told  # type: ignore[method-assign]
    train(task, replace(QUICK, steps=2), team=team)
    return found


def fails_in_the_second(setup: TaskSetup, team: Team) -> None:
    """The second process finds no room on its disk in its third step."""
    task = make_adversarial(setup)

    def broken(sample: Batch, group: str, step: int) -> Tensor:
        if team.rank == 1 and step == 2:
            raise OutputError("There is no room.")
        return Adversarial.loss(task, sample, group, step)

    task.loss = broken  # type: ignore[method-assign]
    train(task, QUICK, team=team)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    setup = make_setup(make_small_scene())
    with joined("cpu") as team:
        whole = trained(setup, team, TrainingFiles(folder / "whole.safetensors", folder / f"{team.rank}.csv"))
        save_file(whole, folder / f"whole-{team.rank}.safetensors")
        files = TrainingFiles(folder / "part.safetensors")
        # Only the second process is told to stop; both have to.
        stop = _AtStep(4, (lambda: os.kill(os.getpid(), signal.SIGTERM)) if team.rank == 1 else (lambda: None))
        stopped = False
        try:
            trained(setup, team, files, progress=stop)
        except KeyboardInterrupt:
            stopped = True
        torch.manual_seed(99 + team.rank)
        save_file(trained(setup, team, replace(files, resume=True)), folder / f"resumed-{team.rank}.safetensors")
        facts = {"stopped": stopped, "seeds": seeds(setup, team)}
        (folder / f"facts-{team.rank}.json").write_text(json.dumps(facts))
        try:
            fails_in_the_second(setup, team)
        except HsfuseError as error:
            team.tell(error)
            (folder / f"failure-{team.rank}.json").write_text(json.dumps([error.exit_code, error.message]))
            raise


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except HsfuseError as error:
        # As the program ends, see hsfuse/__main__.py: threads of PyTorch may still run when an interpreter takes
        # itself apart, which then is aborted now and again.
        sys.stderr.flush()
        os._exit(error.exit_code)
