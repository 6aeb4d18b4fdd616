"""``hsfuse train-reduced``: scenes in, weights out."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from hsfuse._version import __version__
from hsfuse.config import TrainConfig
from hsfuse.errors import InputError, OutputError, UsageError
from hsfuse.fusion.methods.ssrfn.config import PRESETS, SsrfnConfig
from hsfuse.fusion.methods.ssrfn.method import DEFAULT_DRAFT
from hsfuse.fusion.methods.ssrfn.network import Ssrfn
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.weights import load_weights, save_weights
from hsfuse.fusion.nets.zoo import find_model, untrained
from hsfuse.log import get_logger
from hsfuse.progress import Progress
from hsfuse.resources import Resources
from hsfuse.threads import torch_threads
from hsfuse.training.checkpoint import check_space
from hsfuse.training.dataset import PatchSource, Reducer, Sampling
from hsfuse.training.distributed import Team, is_leader, joined, own_device, world_size
from hsfuse.training.loop import LoopSettings, TrainingFiles, TrainingResult, train
from hsfuse.training.losses import FusionLoss
from hsfuse.workflows.steps.clock import StageClock
from hsfuse.workflows.steps.resources import resolved, resources_of
from hsfuse.workflows.training.training_data import TrainingData, collect, parse_inputs

_log = get_logger(__name__)

RECIPES: dict[str, dict[str, Any]] = {
    # Errors as shares of the draft's, band by band, and the spectral angle: dark bands and material identity matter to
    # users of spectra as much as bright bands do, and clean scenes as much as noisy ones. Averaged weights and a
    # falling rate steady short trainings.
    "default": {
        "loss": "relative", "optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-4, "schedule": "cosine",
        "warmup": 50, "ema": 0.995, "clip": 1.0, "patience": 0, "augment": True, "epochs": 100.0,
    },
    # As published (squared error, Adam 0.9/0.99, rate 1e-4, 200 epochs).
    "paper": {
        "loss": "mse", "optimizer": "adam", "lr": 1e-4, "weight_decay": 0.0, "schedule": "constant",
        "warmup": 1, "ema": 0.0, "clip": 0.0, "patience": 0, "augment": False, "epochs": 200.0,
    },
}  # fmt: skip
"""What ``--recipe`` stands for."""
_VALIDATIONS, _MIN_VALIDATE_EVERY = 20, 10
_CPU_MICRO_BATCH = 2
_MINUTES_VALIDATE_EVERY = 100
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


@dataclass(frozen=True)
class _Start:
    """A network to start from."""

    network: Ssrfn
    header: NetworkHeader | None
    preset: str
    sha256: str | None


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
        Pairs, cubes, or one CSV list of them; see :func:`hsfuse.workflows.training.training_data.parse_inputs`.
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
    team_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    given = (resolved(resources) if resources else resources_of(config)).share(team_size)
    with StageClock(progress if is_leader() else None) as clock, torch_threads(given.threads):
        return _train(inputs, output, config, own_device(given.device), clock)


def _train(inputs: Sequence[Path], output: Path, config: TrainConfig, device: str, clock: StageClock) -> TrainResult:
    files = check_files(output, config)
    with clock.stage("start weights") as stage:
        header, start_path, sha256 = _start_header(config)
        stage.advance()
    folder = output.resolve().parent
    check_space(folder, 10_000_000)
    data = collect(parse_inputs(inputs), config, header, clock, scratch=folder)
    start = _start_network(config, data, header, start_path, sha256)
    check_space(folder, 4 * _STATE_COPIES * start.network.n_parameters + 10_000_000)
    draft = _draft_of(start)
    source = PatchSource(data.entries, _sampling(config, data, device), _reducer(data, draft, device, start.network))
    settings = loop_settings(config, source, device)
    identity = {**config.identity(), "data": data.fingerprint, "init_sha256": sha256}
    _log.info(
        "Training %s (%.2f M parameters) on %d scene%s, %d steps an epoch, on %s.",
        start.preset, start.network.n_parameters / 1e6, len(data.entries), "" if len(data.entries) == 1 else "s",
        source.epoch_steps, device,
    )  # fmt: skip
    with joined(device) as team:
        result = train(
            start.network, source, settings, files=replace(files, identity=identity), team=team, device=device,
            progress=clock,
        )  # fmt: skip
        summary = _summary(result, config, data, source, settings, start, draft, device, team, clock)
        if team.leads:
            _write(output, result, data, config, start, draft, summary)
            if files.checkpoint is not None:
                files.checkpoint.unlink(missing_ok=True)
        team.wait()
    if result.best.gain_db <= 0.0:
        _log.warning("The network is no better than its draft on the validation strips (%.2f dB).", result.best.gain_db)
    summary |= {"output": str(output), "log": str(files.log), "peak_memory_bytes": clock.memory.bytes,
                "seconds": {name: round(value, 2) for name, value in clock.seconds.items()}}  # fmt: skip
    return TrainResult(output, summary)


def check_files(output: Path, config: TrainConfig) -> TrainingFiles:
    """Decide where everything goes, before any work.

    Raises
    ------
    UsageError
        The output has another suffix, or there is nothing to resume.
    OutputError
        The output or a checkpoint exists already.
    """
    if output.suffix != ".safetensors":
        raise UsageError(f"The weights are written as .safetensors, not {output.name}.", hint="-o model.safetensors")
    checkpoint = output.with_suffix(".checkpoint.safetensors")
    board = output.with_suffix(".tensorboard") if config.tensorboard else None
    files = TrainingFiles(checkpoint, output.with_suffix(".log.csv"), board, config.resume)
    # Only the first process looks: it may be done with writing before another one gets here.
    if not is_leader():
        return files
    if config.resume:
        if not checkpoint.exists():
            done = output.exists()
            raise UsageError(
                f"There is no checkpoint {checkpoint} to resume from." + (f" {output} is complete." if done else ""),
                hint="Train further with --init and another -o." if done else "Start without --resume.",
            )
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


def loop_settings(config: TrainConfig, source: PatchSource, device: str) -> LoopSettings:
    """Merge the options over the recipe."""
    recipe = RECIPES[config.recipe]

    def chosen(name: str) -> Any:
        value = getattr(config, name)
        return recipe[name] if value is None else value

    unlimited = config.steps is None and config.epochs is None and config.minutes is None
    epochs = recipe["epochs"] if unlimited else config.epochs
    limits = [config.steps] if config.steps else []
    limits += [round(epochs * source.epoch_steps)] if epochs else []
    every = config.validate_every or (
        max(_MIN_VALIDATE_EVERY, round(min(limits) / _VALIDATIONS)) if limits else _MINUTES_VALIDATE_EVERY
    )
    gpu = device.startswith("cuda")
    precision = config.precision if config.precision != "auto" else "bf16" if gpu else "fp32"
    return LoopSettings(
        loss=FusionLoss(chosen("loss")), optimizer=recipe["optimizer"], learning_rate=chosen("lr"),
        weight_decay=recipe["weight_decay"], schedule=chosen("schedule"), warmup_steps=recipe["warmup"],
        clip=chosen("clip"), ema=chosen("ema"), steps=config.steps, epochs=epochs, minutes=config.minutes,
        validate_every=every, patience=chosen("patience"),
        micro_batch=config.micro_batch or (config.batch if gpu else _CPU_MICRO_BATCH),
        precision=precision, recompute=config.recompute, checkpoint_minutes=config.checkpoint_minutes,
    )  # fmt: skip


def parse_network_settings(text: str | None) -> dict[str, Any]:
    """Turn ``width=48,scan=lines`` into settings of :class:`~hsfuse.fusion.methods.ssrfn.network.SsrfnConfig`.

    Raises
    ------
    UsageError
        A part has no ``=``.
    """
    found: dict[str, Any] = {}
    for part in filter(None, (text or "").split(",")):
        name, sign, value = (piece.strip() for piece in part.partition("="))
        if not sign or not name or not value:
            raise UsageError(f"'{part}' is not a network setting.", hint="Such as --network-settings width=48.")
        words: dict[str, Any] = {"true": True, "false": False, "none": None}
        plain = value.lower()
        # "none" is also a proper choice of several settings; only the optional one takes the empty value.
        if plain in words and (plain != "none" or name == "shuffle_ratio"):
            found[name] = words[plain]
        else:
            found[name] = int(value) if value.isdigit() else value
    return found


def _start_header(config: TrainConfig) -> tuple[NetworkHeader | None, Path | None, str | None]:
    if config.init is None:
        return None, None, None
    if config.network_settings:
        raise UsageError("--network-settings cannot change a trained network.", hint="Leave out --init.")
    model = find_model(config.init)
    if model.weights is None:
        raise untrained(model.name)
    # Loaded here once already: a damaged file should be found before minutes of co-registration.
    loaded = load_weights(model.weights)
    return loaded.header, model.weights, loaded.sha256


def _start_network(
    config: TrainConfig, data: TrainingData, header: NetworkHeader | None, path: Path | None, sha256: str | None
) -> _Start:
    if header is not None and path is not None:
        network = load_weights(path).network
        if not isinstance(network, Ssrfn):
            raise UsageError("These weights cannot be trained further.")
        if network.config.n_msi != len(data.msi_bands):
            raise UsageError(
                f"The weights take {network.config.n_msi} MSI bands, the data bring {len(data.msi_bands)}.",
                hint="Check --s2-bands.",
            )
        return _Start(network, header, header.name, sha256)
    if config.network not in PRESETS:
        raise UsageError(f"There is no network '{config.network}'.", hint=f"Choose one of: {', '.join(PRESETS)}.")
    changes = parse_network_settings(config.network_settings)
    shape = {"n_bands": len(data.bands), "n_msi": len(data.msi_bands)}
    settings = SsrfnConfig.from_dict({**PRESETS[config.network].to_dict(), **changes, **shape})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return _Start(Ssrfn(settings), None, config.network, None)


def _draft_of(start: _Start) -> str:
    if start.network.config.base != "draft":
        return ""
    return start.header.base if start.header and start.header.base else DEFAULT_DRAFT


def _reducer(data: TrainingData, draft: str, device: str, network: Ssrfn) -> Reducer:
    return Reducer(data.bands.centre_nm, data.bands.fwhm_nm, draft, device, network)


def _sampling(config: TrainConfig, data: TrainingData, device: str) -> Sampling:
    augment = RECIPES[config.recipe]["augment"] if config.augment == "auto" else config.augment == "on"
    return Sampling(
        ratios=data.ratios, patch_px=config.patch, window_px=config.window, batch=config.batch,
        validation_share=config.validation_share, gap_px=config.gap, validation_windows=config.validation_windows,
        drawn_share=config.generated_share,
        augment=augment, seed=config.seed, prefetch=device.startswith("cuda"),
    )  # fmt: skip


def _summary(
    result: TrainingResult, config: TrainConfig, data: TrainingData, source: PatchSource, settings: LoopSettings,
    start: _Start, draft: str, device: str, team: Team, clock: StageClock,
) -> dict[str, Any]:  # fmt: skip
    """Return the record of the training that the weights keep."""
    # Weights are passed on: names of files are enough, where they lay is nobody's business.
    given = config.model_dump(mode="json")
    given |= {key: Path(given[key]).name for key in ("init", "structure") if given[key]}
    hardware = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()
    return {
        "hsfuse": __version__, "torch": torch.__version__, "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": config.recipe, "config": given,
        "loop": {"learning_rate": settings.learning_rate, "loss": settings.loss.kind, "optimizer": settings.optimizer,
                 "schedule": settings.schedule, "ema": settings.ema, "precision": settings.precision},
        "network": start.preset, "parameters": start.network.n_parameters, "draft": draft,
        "init_sha256": start.sha256, "scenes": list(source.scenes)[:200], "ratios": list(data.ratios),
        "steps": result.steps, "best_step": result.best_step, "training_seconds": round(result.seconds, 1),
        "stopped": result.stopped, "device": hardware, "processes": team.size, "total_seconds": round(clock.total, 1),
        "validation": result.best.to_json(), "validation_before": result.first.to_json(),
        "history": list(result.history),
    }  # fmt: skip


def _write(
    output: Path, result: TrainingResult, data: TrainingData, config: TrainConfig, start: _Start, draft: str,
    record: Mapping[str, Any],
) -> None:  # fmt: skip
    header = NetworkHeader(
        name=config.name or output.stem,
        architecture="ssrfn",
        config=result.network.config.to_dict(),
        centre_nm=tuple(float(v) for v in data.bands.centre_nm),
        fwhm_nm=tuple(float(v) for v in data.bands.fwhm_nm),
        ratios=data.ratios,
        msi_bands=data.msi_bands,
        n_msi=len(data.msi_bands),
        base=draft,
        halo_px=start.header.halo_px if start.header else 0,
        overlap_px=start.header.overlap_px if start.header else 0,
        training=dict(record),
    )
    save_weights(output, result.network, header, dtype=config.weights)


def check_team() -> None:
    """Raise InputError where torchrun's variables contradict each other."""
    try:
        size, rank = world_size(), int(os.environ.get("RANK", "0"))
    except ValueError as error:
        raise InputError("RANK and WORLD_SIZE must be whole numbers.", hint="Start with torchrun.") from error
    if not 0 <= rank < size:
        raise InputError(f"RANK {rank} does not fit WORLD_SIZE {size}.", hint="Start with torchrun.")
