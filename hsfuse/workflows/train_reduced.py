"""``hsfuse train-reduced``: scenes in, weights out."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from hsfuse._version import __version__
from hsfuse.config import TrainConfig
from hsfuse.errors import OutputError, UsageError
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.weights import save_weights
from hsfuse.log import get_logger
from hsfuse.progress import Progress, Step, expect
from hsfuse.resources import Resources
from hsfuse.training.checkpoint import check_space
from hsfuse.training.distributed import Team, check_team, is_leader
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.loop import train
from hsfuse.training.settings import LoopSettings, TrainingFiles, TrainingResult
from hsfuse.training.state import is_of
from hsfuse.training.task import TrainingTask
from hsfuse.workflows.steps.clock import StageClock
from hsfuse.workflows.steps.resources import resolved, resources_of
from hsfuse.workflows.training.job import training_job
from hsfuse.workflows.training.outputs import check_training_outputs
from hsfuse.workflows.training.prior_settings import TrainPriorConfig
from hsfuse.workflows.training.recipes import Recipe, loop_settings, loss_of, recipe_of, sampling
from hsfuse.workflows.training.start import StartNetwork, start_network, start_weights
from hsfuse.workflows.training.training_data import TrainingData, collect
from hsfuse.workflows.training.training_inputs import parse_inputs

_log = get_logger(__name__)

_STATE_COPIES = 6
"""Copies of the weights in a checkpoint: weights, average, best, two of the optimiser, and the result."""


@dataclass(frozen=True)
class TrainResult:
    """What a training made.

    Attributes
    ----------
    output
        The weights.
    summary
        Everything that ``--json`` prints.
    """

    output: Path
    summary: dict[str, Any]


def train_reduced(
    inputs: Sequence[Path],
    output: Path,
    config: TrainConfig,
    *,
    resources: Resources | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a network at reduced resolution (Wald's protocol) and write its weights.

    Parameters
    ----------
    inputs
        Pairs, cubes, or one CSV list of them; see :func:`hsfuse.workflows.training.training_inputs.parse_inputs`.
    output
        Weights, ``.safetensors``. Checkpoint and log are written beside it.
    config
        Settings.
    resources
        Device, threads and memory to use; None: as the settings say.
    progress
        Where to show progress.

    Raises
    ------
    HsfuseError
        See :mod:`hsfuse.errors`.
    KeyboardInterrupt
        Interrupted; the checkpoint allows ``resume``.
    """
    check_team()
    given = resolved(resources) if resources else resources_of(config)
    with training_job(given, progress) as (device, team, clock):
        return _train(inputs, output, config, device, team, clock)


def _train(
    inputs: Sequence[Path], output: Path, config: TrainConfig, device: str, team: Team, clock: StageClock
) -> TrainResult:
    files, scenes = check_files(output, config), parse_inputs(inputs)
    check_training_outputs(output, files, inputs, scenes, config)
    # What the first process refuses, no other begins to read for.
    team.wait()
    expect(clock, _to_come(config))
    with clock.stage("start weights") as stage:
        loaded = start_weights(config)
        stage.advance()
    folder = output.resolve().parent
    check_space(folder, 10_000_000)
    header = None if loaded is None else loaded.header
    data = collect(scenes, config, header, clock, scratch=folder)
    start = start_network(config, data, loaded)
    check_space(folder, 4 * _STATE_COPIES * start.n_parameters + 10_000_000)
    recipe = recipe_of(start.entry, config.recipe)
    cache = output.with_suffix(".windows")
    task = _task(start, data, config, recipe, device, cache)
    settings = loop_settings(config, recipe, task.epoch_steps, device)
    identity = {**config.identity(), "data": data.fingerprint, "init_sha256": start.sha256}
    if files.resume and config.overwrite and files.checkpoint is not None and not is_of(files.checkpoint, identity):
        # That of an older training: the one that is to replace it was stopped before it had its first.
        _log.warning("The checkpoint %s is of another training; this one starts anew.", files.checkpoint)
        files = replace(files, resume=False)
    _log.info(
        "Training %s (%.2f M parameters) on %d scene%s, %d steps an epoch, on %s.",
        start.name, start.n_parameters / 1e6, len(data.entries), "" if len(data.entries) == 1 else "s",
        task.epoch_steps, device,
    )  # fmt: skip
    result = train(
        task, settings, files=replace(files, identity=identity), team=team, device=device, progress=clock
    )  # fmt: skip
    summary = _summary(result, config, recipe, data, settings, start, task, device, team, clock)
    # Others may still read their windows.
    team.wait()
    if team.leads:
        _write(output, result, data, config, start, task, summary)
        if files.checkpoint is not None:
            files.checkpoint.unlink(missing_ok=True)
        shutil.rmtree(cache, ignore_errors=True)
    team.wait()
    gain = summary["validation"].get("gain_db")
    if gain is not None and gain <= 0.0:
        _log.warning("The network is no better than its base estimate on the validation strips (%.2f dB).", gain)
    summary |= {"output": str(output), "log": str(files.log), "peak_memory_bytes": clock.memory.bytes,
                "seconds": {name: round(value, 2) for name, value in clock.seconds.items()}}  # fmt: skip
    return TrainResult(output, summary)


def _to_come(config: TrainConfig) -> list[Step]:
    seconds = 60.0 * config.minutes if config.minutes else float(config.steps or 400)
    return [
        Step("start weights", "load the weights to start from, or draw new ones", 1.0),
        Step("read cubes", "read the cubes, align pairs, make training windows", 5.0),
        Step("train", "train at reduced resolution (Wald's protocol)", seconds, timed=config.minutes is not None),
    ]  # fmt: skip


def _task(
    start: StartNetwork, data: TrainingData, config: TrainConfig, recipe: Recipe, device: str, cache: Path
) -> TrainingTask:
    if start.entry.task is None:
        raise UsageError(f"The network '{start.name}' cannot be trained with train-reduced.")
    setup = TaskSetup(
        data.entries, sampling(config, recipe, data.ratios, device), data.bands.centre_nm, data.bands.fwhm_nm,
        loss_of(config, recipe), start.header.base if start.header else "", device, cache,
    )  # fmt: skip
    task: TrainingTask = start.entry.task(start.network, setup)
    return task


def check_files(output: Path, config: TrainConfig | TrainPriorConfig) -> TrainingFiles:
    """Decide where everything goes, before any work.

    Raises
    ------
    UsageError
        The output has another suffix, or the training to resume is complete.
    OutputError
        The output or a checkpoint exists already.
    """
    if output.suffix != ".safetensors":
        raise UsageError(f"The weights are written as .safetensors, not {output.name}.", hint="-o model.safetensors")
    checkpoint = output.with_suffix(".checkpoint.safetensors")
    board = output.with_suffix(".tensorboard") if config.tensorboard else None
    # Every process of a team sees the same: none writes before all have come together.
    resume = config.resume and checkpoint.exists()
    files = TrainingFiles(checkpoint, output.with_suffix(".log.csv"), board, resume)
    # Only the first process looks: it may be done with writing before another one gets here.
    if not is_leader() or resume:
        return files
    if config.resume:
        if output.exists() and not config.overwrite:
            raise UsageError(
                f"There is no checkpoint {checkpoint} to resume from. {output} is complete.",
                hint="Train further with --init and another -o, or add --overwrite to train anew.",
            )
        _log.info("There is no checkpoint %s yet: the training starts anew.", checkpoint)
        return files
    for path in (output, checkpoint):
        if path.exists() and not config.overwrite:
            raise OutputError(
                f"{path} exists already.",
                hint="Use --resume to go on, or --overwrite to start anew."
                if path == checkpoint
                else "Use --overwrite to replace it, or another -o.",
            )
    return files


def _summary(
    result: TrainingResult, config: TrainConfig, recipe: Recipe, data: TrainingData, settings: LoopSettings,
    start: StartNetwork, task: TrainingTask, device: str, team: Team, clock: StageClock,
) -> dict[str, Any]:  # fmt: skip
    """Return the record of the training that the weights keep."""
    # Weights are passed on: names of files are enough, where they lay is nobody's business.
    given = config.model_dump(mode="json")
    given |= {key: Path(given[key]).name for key in ("init", "structure") if given[key]}
    hardware = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return {
        "hsfuse": __version__, "torch": torch.__version__, "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": config.recipe, "config": given,
        "loop": {"learning_rate": settings.learning_rate, "loss": loss_of(config, recipe).kind,
                 "optimizer": settings.optimizer,
                 "schedule": settings.schedule, "ema": settings.ema, "precision": settings.precision,
                 "recompute": settings.recompute, "deterministic": settings.deterministic},
        "network": start.name, "parameters": start.n_parameters, "base": task.base,
        "init_sha256": start.sha256, "scenes": list(dict.fromkeys(entry.name for entry in data.entries))[:200],
        "ratios": list(data.ratios),
        "steps": result.steps, "best_step": result.best_step, "training_seconds": round(result.seconds, 1),
        "megapixels_per_second": result.megapixels_per_second, "stopped": result.stopped, "device": hardware,
        "processes": team.size, "total_seconds": round(clock.total, 1),
        "validation": result.best.to_json(), "validation_before": result.first.to_json(),
        "history": list(result.history),
    }  # fmt: skip


def _write(
    output: Path, result: TrainingResult, data: TrainingData, config: TrainConfig, start: StartNetwork,
    task: TrainingTask, record: Mapping[str, Any],
) -> None:  # fmt: skip
    free = start.entry.any_bands
    header = NetworkHeader(
        name=config.name or output.stem,
        architecture=start.entry.architecture,
        config=start.settings,
        centre_nm=() if free else tuple(float(v) for v in data.bands.centre_nm),
        fwhm_nm=() if free else tuple(float(v) for v in data.bands.fwhm_nm),
        ratios=() if free else data.ratios,
        msi_bands=() if free else data.msi_bands,
        n_msi=0 if free else len(data.msi_bands),
        base=task.base,
        halo_px=start.header.halo_px if start.header else 0,
        overlap_px=start.header.overlap_px if start.header else 0,
        training=dict(record),
    )
    save_weights(output, result.network, header, dtype=config.weights)
