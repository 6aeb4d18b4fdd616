"""Signals that end a command: acknowledged at once, obeyed where nothing is lost, and obeyed at once when repeated."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from types import FrameType

from hsfuse.progress import Progress, say_above

_shown: list[Progress] = []
_acknowledged = threading.Event()
_SECONDS_UNTIL_WOKEN = 1.0
_LONGEST_FOR_AN_ANSWER_S = 2.0
_ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(BaseException):
    """A signal other than Ctrl-C asked the command to end; as :class:`KeyboardInterrupt`, no error.

    Parameters
    ----------
    number
        The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        """As shells have it."""
        return 128 + self.number


def end_on_signals() -> None:
    """Let this process, which is the command line's own, unwind on signals that end it.

    Temporary files are removed on the way and finished rows stay for ``--resume``. Signals that the caller ignores,
    such as SIGHUP under ``nohup``, stay ignored.
    """
    watched = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    for number in watched:
        signal.signal(number, _stop)
    # Python's own handlers wait for the main thread, which may compute for seconds; this thread says something now.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    if hasattr(signal, "SIGURG"):
        signal.signal(signal.SIGURG, _wake)  # Without a handler it would not interrupt what the main thread waits for.
    threading.Thread(target=_acknowledge, args=(reader, frozenset(watched)), name="hsfuse-signals", daemon=True).start()


def die_at_signals() -> None:
    """Let signals end this process at once: the command is over, and nothing is left to be made safe."""
    for number in _ENDING:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL)


def tell_also(progress: Progress) -> None:
    """Let what is drawn on the terminal show the answer to a signal: it would wipe away what is written past it."""
    _shown[:] = [progress]


def _acknowledge(reader: int, watched: frozenset[int]) -> None:
    """Answer signals while the main thread computes, and see that they are obeyed.

    A signal that another thread receives, or that comes just before the main thread begins to wait, does not interrupt
    that wait, and Python's handler would run when it is over, perhaps never: such a wait is interrupted from here.
    """
    first = None
    while first is None or _is_still_to_be_obeyed(first):
        if not select.select([reader], [], [], None if first is None else _SECONDS_UNTIL_WOKEN)[0]:
            _wake_main_thread()
            continue
        number = os.read(reader, 1)[0]
        if number not in watched:
            continue
        if first is not None:
            os._exit(128 + number)  # As the default action does, which the main thread has not come to restore.
        first = number
        _say_that_it_stops(number)
        _acknowledged.set()


def _say_that_it_stops(number: int) -> None:
    text = (
        f"stopping ({signal.Signals(number).name}): work in progress is made safe first; a second signal ends at once"
    )
    with contextlib.suppress(OSError):
        if not any(say_above(progress, text) for progress in _shown):
            os.write(2, f"{text}\n".encode("ascii"))


def _is_still_to_be_obeyed(number: int) -> bool:
    return signal.getsignal(number) is _stop


def _wake_main_thread() -> None:
    if hasattr(signal, "SIGURG"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGURG)


def _wake(_number: int, _frame: FrameType | None) -> None:
    """Interrupt a wait, which is all that the signal is for."""


def _stop(number: int, _frame: FrameType | None) -> None:
    die_at_signals()
    # What the command says at its end comes after the answer, which may want a display that this thread holds.
    _acknowledged.wait(_LONGEST_FOR_AN_ANSWER_S)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(number)
