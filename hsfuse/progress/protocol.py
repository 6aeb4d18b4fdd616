"""What shows progress, as library code sees it, and the kind that shows nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


class Stage(Protocol):
    """A running stage that can be advanced."""

    def advance(self, amount: float = 1.0) -> None:
        """Say that ``amount`` of the stage's total is done."""
        ...


class Progress(Protocol):
    """Something that shows stages."""

    def stage(self, name: str, total: float = 1.0) -> AbstractContextManager[Stage]:
        """Open a stage called ``name`` with ``total`` units of work; use it in a ``with`` statement."""
        ...


@dataclass(frozen=True)
class Step:
    """A stage that is to come.

    Attributes
    ----------
    name
        That of the stage.
    text
        What it does, in the words of the field.
    seconds
        How long it should take on this machine.
    timed
        It takes so long whatever the machine, because a time was asked for.
    measured
        The seconds rest on a measurement of the machine as it is; the pace of steps that were only guessed says
        nothing about them.
    telling
        How long it takes tells how fast the machine is; not so where that hangs on what the images show.
    """

    name: str
    text: str = ""
    seconds: float = 1.0
    timed: bool = False
    measured: bool = False
    telling: bool = True


@runtime_checkable
class Foreseeing(Protocol):
    """A :class:`Progress` that numbers stages and estimates the whole from what is to come."""

    def expect(self, steps: Sequence[Step]) -> None:
        """Say which stages a run has, in their order; again when more is known about their time."""
        ...


@runtime_checkable
class Noted(Protocol):
    """A :class:`Stage` that shows what is done in it."""

    def note(self, text: str) -> None:
        """Say in a few words what is done just now."""
        ...


@runtime_checkable
class Closing(Protocol):
    """A :class:`Progress` that holds a part of the screen until it is closed."""

    def open(self) -> None:
        """Begin to draw, before anything is known of the run."""
        ...

    def say(self, text: str) -> None:
        """Show a line above what is drawn."""
        ...

    def close(self) -> None:
        """Give the screen back; nothing happens the second time."""
        ...


def expect(progress: Progress, steps: Sequence[Step]) -> None:
    """Tell what is to come, where that is of use."""
    if isinstance(progress, Foreseeing):
        progress.expect(steps)


def note(stage: Stage, text: str) -> None:
    """Say what is done in a stage, where that is shown."""
    if isinstance(stage, Noted):
        stage.note(text)


def open_display(progress: Progress) -> None:
    """Take a part of the screen."""
    if isinstance(progress, Closing):
        progress.open()


def say_above(progress: Progress, text: str) -> bool:
    """Show a line without disturbing what is drawn; False where nothing is drawn."""
    if isinstance(progress, Closing):
        progress.say(text)
        return True
    return False


def close(progress: Progress | None) -> None:
    """Give the screen back."""
    if progress is not None and isinstance(progress, Closing):
        progress.close()


class _SilentStage:
    def advance(self, amount: float = 1.0) -> None:
        """Ignore the call."""


class SilentProgress:
    """Shows nothing (library default, ``--quiet``)."""

    @contextmanager
    def stage(self, name: str, total: float = 1.0) -> Iterator[Stage]:  # noqa: ARG002
        """Open a stage that shows nothing."""
        yield _SilentStage()


class Within:
    """A part of a longer course: what it expects stands between the steps before and after it.

    Parameters
    ----------
    progress
        What shows the whole.
    before, after
        Steps of the whole around the part.
    """

    def __init__(self, progress: Progress, before: Sequence[Step], after: Sequence[Step]) -> None:
        self._progress, self._before, self._after = progress, tuple(before), tuple(after)

    def stage(self, name: str, total: float = 1.0) -> AbstractContextManager[Stage]:
        """Open a stage of the whole."""
        return self._progress.stage(name, total)

    def expect(self, steps: Sequence[Step]) -> None:
        """Pass on what the part expects, with the steps around it."""
        expect(self._progress, [*self._before, *steps, *self._after])


def format_seconds(seconds: float) -> str:
    """Return ``7 s``, ``2 min 05 s`` or ``1 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
