"""What a training writes must not touch what it reads, nor what somebody else made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hsfuse.config import TrainConfig
from hsfuse.errors import InputError, OutputError
from hsfuse.outputs import check_paths, part_name, refuse_inputs, refuse_same
from hsfuse.training.run_log import COLUMNS, check_board
from hsfuse.training.settings import TrainingFiles
from hsfuse.workflows.training.training_inputs import TrainingInput


def check_training_outputs(
    output: Path, files: TrainingFiles, given: Sequence[Path], scenes: Iterable[TrainingInput], config: TrainConfig
) -> None:
    """Check weights, checkpoint and logs before any work.

    Parameters
    ----------
    output, files
        What is written.
    given, scenes
        The arguments, and the scenes that they name.
    config
        Settings; some name files that are read.

    Raises
    ------
    OutputError
        An output touches an input, or another file is where the checkpoint or the log is to be.
    UsageError
        A TensorBoard log is wanted, and TensorBoard is not installed.
    """
    if files.tensorboard is not None:
        check_board()
    outputs = [path for path in (output, files.checkpoint, files.log, files.tensorboard) if path is not None]
    read = [*given, *(path for scene in scenes for path in (scene.hsi, *scene.msi))]
    read += [Path(text) for text in (config.init, config.structure, config.bands) if text and Path(text).exists()]
    check_paths([*outputs, *(part_name(path) for path in outputs)])
    refuse_same(outputs)
    refuse_inputs(outputs, read)
    if files.log is not None and files.log.is_file() and not _is_log(files.log):
        raise OutputError(
            f"{files.log} is in the way of the training's log and is none.", hint="Move it, or choose another -o."
        )
    if files.checkpoint is not None and files.checkpoint.exists() and (config.overwrite or not files.resume):
        _check_checkpoint(files.checkpoint)


def _is_log(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            line = stream.readline(4096)
    except OSError:
        return False
    return not line or line.decode("utf-8", "replace").strip().split(",")[0] == COLUMNS[0]


def _check_checkpoint(path: Path) -> None:
    from hsfuse.training.checkpoint import check_is_checkpoint

    try:
        check_is_checkpoint(path)
    except InputError as error:
        raise OutputError(
            f"{path} is in the way of the checkpoint and is none of hsfuse's.", hint="Move it, or choose another -o."
        ) from error
