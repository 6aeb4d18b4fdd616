"""``hsfuse train-prior``: images in, the weights of a diffusion prior out."""

from __future__ import annotations

import platform
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from hsfuse._version import __version__
from hsfuse.band_selection.windows import windows_of
from hsfuse.config import TrainConfig
from hsfuse.errors import InputError, UsageError
from hsfuse.fusion.nets.diffusion.files import save_prior
from hsfuse.fusion.nets.diffusion.settings import PriorSettings
from hsfuse.fusion.nets.diffusion.unet import PatchPrior
from hsfuse.log import get_logger
from hsfuse.processor import usable_cores
from hsfuse.progress import Progress
from hsfuse.readers.overlap import DEFAULT_CUT_NM
from hsfuse.resources import Resources
from hsfuse.training.checkpoint import check_space
from hsfuse.training.distributed import Team, check_team
from hsfuse.training.loop import train
from hsfuse.training.prior_task import PriorImage, PriorTask
from hsfuse.training.settings import LoopSettings, TrainingFiles, TrainingResult
from hsfuse.workflows.steps.clock import StageClock
from hsfuse.workflows.steps.cubes import open_cube
from hsfuse.workflows.steps.resources import resolved
from hsfuse.workflows.train_reduced import check_files
from hsfuse.workflows.training.job import training_job
from hsfuse.workflows.training.outputs import check_training_outputs
from hsfuse.workflows.training.prior_settings import TrainPriorConfig

FloatCube = NDArray[np.float32]

_log = get_logger(__name__)

_DEFAULT_STEPS = 4000
_VALIDATIONS = 12
_MINUTES_VALIDATE_EVERY = 200
_SUFFIXES = (".npz", ".tif", ".tiff", ".img", ".dat", ".bil", ".jp2")
_LEAST_SPREAD = 1e-4
_STATE_COPIES = 6


@dataclass(frozen=True)
class TrainPriorResult:
    """What a training made: the weights, and everything that ``--json`` prints."""

    output: Path
    summary: dict[str, Any]


def train_prior(
    inputs: Sequence[Path],
    output: Path,
    config: TrainPriorConfig,
    *,
    resources: Resources | None = None,
    progress: Progress | None = None,
) -> TrainPriorResult:
    """Train a diffusion prior on images and write its weights.

    Parameters
    ----------
    inputs
        Images with as many bands as the prior or more, and folders of them: rasters, cubes (``.npz``).
    output
        Weights, ``.safetensors``. Checkpoint and log are written beside it.
    config
        Settings.
    resources
        Device and threads to use; None: as the settings say.
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
    given = resolved(resources or Resources(config.device, config.threads or usable_cores()))
    with training_job(given, progress) as (device, team, clock):
        return _train(inputs, output, config, device, team, clock)


def _train(
    inputs: Sequence[Path], output: Path, config: TrainPriorConfig, device: str, team: Team, clock: StageClock
) -> TrainPriorResult:
    files = check_files(output, config)
    paths = find_images(inputs)
    check_training_outputs(output, files, paths, (), TrainConfig())
    check_space(output.resolve().parent, 10_000_000)
    # What the first process refuses, no other begins to read for.
    team.wait()
    with clock.stage("read images", len(paths)) as stage:
        images = []
        for path in paths:
            images.append(read_image(path))
            stage.advance()
    training, validation = split(images, config)
    settings = PriorSettings(
        config.bands, config.fold, config.width, config.levels, config.blocks, config.levels_of_noise
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = PatchPrior(settings)
    count = sum(p.numel() for p in network.parameters())
    check_space(output.resolve().parent, 4 * _STATE_COPIES * count + 10_000_000)
    task = PriorTask(
        network, training, validation, patch_px=config.patch, batch=config.batch, seed=config.seed, device=device
    )
    identity = config.identity() | {"images": [[i.name, *i.bands.shape, zlib.crc32(i.bands[0])] for i in images]}
    _log.info("Training a prior (%.2f M parameters) on %d images, on %s.", count / 1e6, len(training), device)
    result = train(
        task, _loop(config), files=TrainingFiles(files.checkpoint, files.log, files.tensorboard, files.resume,
                                                 identity),
        team=team, device=device, progress=clock,
    )  # fmt: skip
    summary = _summary(result, config, images, count, device) | {"processes": team.size}
    if team.leads:
        save_prior(output, network, config.name or output.stem, summary, dtype=config.weights)
        if files.checkpoint is not None:
            files.checkpoint.unlink(missing_ok=True)
    team.wait()
    summary |= {"output": str(output), "log": str(files.log), "peak_memory_bytes": clock.memory.bytes}
    return TrainPriorResult(output, summary)


def find_images(inputs: Sequence[Path]) -> list[Path]:
    """List the images among files and folders.

    Raises
    ------
    InputError, UsageError
        Something does not exist, or nothing was given.
    """
    found: list[Path] = []
    for path in inputs:
        if not path.exists():
            raise InputError(f"{path} does not exist.", hint="Check the path.")
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES) if path.is_dir() else [path]
        found += inside
    if not found:
        raise UsageError(
            "There is no image to train on.", hint=f"Give images or folders of them ({', '.join(_SUFFIXES)})."
        )
    return found


def read_image(path: Path) -> PriorImage:
    """Read an image and scale every band by its mean and deviation; what varies with the air or not at all is left out.

    Raises
    ------
    InputError
        It cannot be read, or shows nothing.
    """
    bands = _cube_bands(path) if path.suffix.lower() == ".npz" else _raster_bands(path)
    known = np.isfinite(bands).all(axis=0)
    if known.mean() < 0.5:
        raise InputError(f"{path} is half empty or more.", hint="Cut out the part with data.")
    mean = bands[:, known].mean(axis=1)
    spread = bands[:, known].std(axis=1)
    kept = spread > _LEAST_SPREAD * max(float(np.abs(mean).max()), 1e-12)
    scaled = (bands[kept] - mean[kept, None, None]) / spread[kept, None, None]
    return PriorImage(path.stem, np.nan_to_num(scaled).astype(np.float32))


def _cube_bands(path: Path) -> FloatCube:
    product = open_cube(path, cut_nm=DEFAULT_CUT_NM)
    try:
        clear = np.array([window is None for window in windows_of(product.bands.centre_nm)]) & product.bands.good
        return product.read(product.grid.full, np.flatnonzero(clear))
    finally:
        product.close()


def _raster_bands(path: Path) -> FloatCube:
    try:
        with warnings.catch_warnings():
            # Only the picture counts, not where it lies.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                bands = file.read(masked=True).astype(np.float32)
    except (RasterioError, OSError) as error:
        raise InputError(f"The image {path} cannot be read.", hint="Give GeoTIFFs or .npz cubes.") from error
    return np.asarray(bands.filled(np.nan), np.float32)


def split(images: Sequence[PriorImage], config: TrainPriorConfig) -> tuple[list[PriorImage], list[PriorImage]]:
    """Keep the last rows of every image that is large enough for validation.

    Raises
    ------
    InputError
        No image is.
    """
    training, validation = [], []
    for image in images:
        rows = image.bands.shape[1]
        kept = max(round(rows * config.validation_share), config.patch)
        if rows - kept < config.patch:
            training.append(image)
            continue
        training.append(PriorImage(image.name, image.bands[:, : rows - kept]))
        validation.append(PriorImage(image.name, image.bands[:, rows - kept :]))
    if not validation:
        raise InputError(
            f"No image has {2 * config.patch} rows: {config.patch} to train on and as many to validate on.",
            hint="Give a larger image, or a smaller --patch.",
        )
    return training, validation


def _loop(config: TrainPriorConfig) -> LoopSettings:
    steps = config.steps if config.steps or config.minutes else _DEFAULT_STEPS
    every = config.validate_every or (max(10, steps // _VALIDATIONS) if steps else _MINUTES_VALIDATE_EVERY)
    return LoopSettings(
        learning_rate=config.lr, warmup_steps=100, ema=config.ema, steps=steps, minutes=config.minutes,
        validate_every=every, micro_batch=config.micro_batch, checkpoint_minutes=config.checkpoint_minutes,
        seed=config.seed,
    )  # fmt: skip


def _summary(
    result: TrainingResult, config: TrainPriorConfig, images: Sequence[PriorImage], count: int, device: str
) -> dict[str, Any]:
    return {
        "hsfuse": __version__, "torch": torch.__version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"), "config": config.model_dump(mode="json"),
        "parameters": count, "scenes": [image.name for image in images], "steps": result.steps,
        "best_step": result.best_step, "training_seconds": round(result.seconds, 1),
        "megapixels_per_second": result.megapixels_per_second, "stopped": result.stopped,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine(),
        "validation": result.best.to_json(), "validation_before": result.first.to_json(),
        "history": list(result.history),
    }  # fmt: skip
