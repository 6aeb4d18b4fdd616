"""Drawing pictures in processes of their own: matplotlib holds the interpreter's lock for seconds.

A process reads pickled requests from its standard input, ``(function, data)``, and answers each on its standard output;
it ends when its input does, so none outlives the run that started it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import IO, Any, cast

from hsfuse.address_space import limit
from hsfuse.log import get_logger
from hsfuse.parallel import threads_for
from hsfuse.process import BLAS_THREADS, is_own
from hsfuse.qa.page import FigureFile

_log = get_logger(__name__)

_MODULES = ("hsfuse.qa.figures", "matplotlib.figure", "matplotlib.image", "matplotlib.backends.backend_agg")
_FEWEST_THREADS, _MOST_PROCESSES = 4, 2
"""A process takes a second of a core to start: fewer cores have better to do."""
_END_S = 5.0

Figures = Callable[..., list[FigureFile]]


class DrawProcessError(Exception):
    """A process that draws has ended without an answer."""


def wanted_processes() -> int:
    """How many processes should draw; 0: this one draws beside its other work.

    None inside somebody's program, which may not be a plain Python, nor where the address space is limited.
    """
    threads = threads_for(_FEWEST_THREADS * _MOST_PROCESSES)
    return 0 if not is_own() or limit() is not None else min(threads // _FEWEST_THREADS, _MOST_PROCESSES)


class DrawProcess:
    """A process that draws; it starts at once and imports beside whatever is done here."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hsfuse.qa.draw_process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env=os.environ | dict.fromkeys(("OMP_NUM_THREADS", *BLAS_THREADS), "1"), start_new_session=True,
        )  # fmt: skip
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._answers = cast("IO[bytes]", self._process.stdout)

    def draw(self, figures: Figures, data: Sequence[Any]) -> list[FigureFile]:
        """Return what a function of some module draws of some data, without the drawings themselves.

        Raises
        ------
        DrawProcessError
            The process has ended.
        Exception
            What the function raised.
        """
        try:
            pickle.dump((figures, tuple(data)), self._requests, pickle.HIGHEST_PROTOCOL)
            self._requests.flush()
            drawn, answer = pickle.load(self._answers)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise DrawProcessError(f"exit code {self._process.poll()}") from error
        if not drawn:
            raise answer
        return cast("list[FigureFile]", answer)

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._requests.close()
        try:
            self._process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()


def started_processes(count: int) -> list[DrawProcess]:
    """Start processes; fewer where the system refuses one, which the log says."""
    started: list[DrawProcess] = []
    try:
        while len(started) < count:
            started.append(DrawProcess())
    except OSError as error:
        _log.warning("A process that draws pictures cannot be started (%s).", error.strerror or error)
    return started


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until there are no more."""
    for name in _MODULES:
        importlib.import_module(name)
    while True:
        try:
            figures, data = pickle.load(requests)
        except EOFError:
            return
        answer: tuple[bool, Any]
        try:
            answer = True, [replace(figure, drawing=None) for figure in figures(*data)]
        except Exception as error:
            answer = False, error
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


def main() -> None:
    """Serve whoever started this process."""
    with os.fdopen(os.dup(0), "rb") as requests, os.fdopen(os.dup(1), "wb") as answers:
        # Whatever a library prints must not come between the answers.
        os.dup2(2, 1)
        with contextlib.suppress(BrokenPipeError):
            serve(requests, answers)
    # What the interpreter would tidy up goes with the process.
    os._exit(0)


if __name__ == "__main__":
    main()
