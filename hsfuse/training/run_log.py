"""The log of a training: always a CSV file, and TensorBoard when it is asked for."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hsfuse.errors import OutputError, UsageError

COLUMNS = ("step", "seconds", "learning_rate", "loss", "gradient_norm")
"""Of every log; the task's own follow."""


class RunLog:
    """Writes one row a step.

    Parameters
    ----------
    path
        CSV file; None writes nothing.
    columns
        Of the task, beside :data:`COLUMNS`.
    resume_step
        Keep the rows up to this step of an interrupted training and go on; None starts anew.
    tensorboard
        Folder for TensorBoard; None for none.

    Raises
    ------
    OutputError
        The file cannot be written.
    UsageError
        TensorBoard was asked for, but is not installed.
    """

    def __init__(
        self,
        path: Path | None,
        columns: Sequence[str] = (),
        *,
        resume_step: int | None = None,
        tensorboard: Path | None = None,
    ) -> None:
        names = (*COLUMNS, *columns)
        self._board: Any = _open_board(tensorboard) if tensorboard is not None else None
        self._path, self._stream = path, None
        if path is None:
            return
        try:
            kept = _rows_until(path, resume_step, names) if resume_step is not None and path.is_file() else []
            self._stream = path.open("w", encoding="utf-8", newline="")
            self._writer = csv.DictWriter(self._stream, names)
            self._writer.writeheader()
            self._writer.writerows(kept)
            self._stream.flush()
        except OSError as error:
            raise OutputError(f"The training log {path} cannot be written: {error.strerror}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()
        if self._board is not None:
            self._board.close()

    def row(self, values: Mapping[str, float]) -> None:
        """Write one row; columns that are left out stay empty.

        Raises
        ------
        OutputError
            The disk is full.
        """
        if self._stream is not None:
            try:
                self._writer.writerow({name: _shown(value) for name, value in values.items()})
                self._stream.flush()
            except OSError as error:
                raise OutputError(
                    f"The training log {self._path} cannot be written: {error.strerror}.",
                    hint="Free some space; training goes on from the last checkpoint with --resume.",
                ) from error
        if self._board is not None:
            for name, value in values.items():
                if name != "step" and math.isfinite(value):
                    self._board.add_scalar(name, value, int(values["step"]))


def _shown(value: float) -> str:
    return repr(value) if isinstance(value, int) else f"{value:.8g}"


def _rows_until(path: Path, step: int, names: Sequence[str]) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if (row.get("step") or "").isdigit()]
    return [{name: row.get(name) or "" for name in names} for row in rows if int(row["step"]) <= step]


def check_board() -> None:
    """Find out before any work whether a TensorBoard log can be written.

    Raises
    ------
    UsageError
        TensorBoard is not installed.
    """
    if find_spec("tensorboard") is None:
        raise _no_board()


def _no_board() -> UsageError:
    return UsageError(
        "TensorBoard is not installed.", hint="pip install 'hsfuse[tensorboard]', or leave out --tensorboard."
    )


def _open_board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise _no_board() from error
    return SummaryWriter(str(folder))
