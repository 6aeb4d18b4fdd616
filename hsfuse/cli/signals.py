"""Signals that end a command: acknowledged at once, obeyed where nothing is lost, and obeyed at once when repeated."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from types import FrameType

from hsfuse.progress import Progress, say_above

_shown: list[Progress] = []
_SECONDS_UNTIL_WOKEN = 1.0
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
    while received := os.read(reader, 1):
        if received[0] in watched:
            name = signal.Signals(received[0]).name
            text = f"stopping ({name}): work in progress is made safe first; a second signal ends at once"
            with contextlib.suppress(OSError):
                if not any(say_above(progress, text) for progress in _shown):
                    os.write(2, f"{text}\n".encode("ascii"))
            _wake_main_thread(received[0])
            return


def _wake_main_thread(number: int) -> None:
    """Let the main thread obey a signal that it has not noticed.

    A signal that another thread receives, or that comes just before the main thread begins to wait, does not interrupt
    that wait, and Python's handler would run when it is over, perhaps never.
    """
    while hasattr(signal, "SIGURG") and signal.getsignal(number) is _stop:
        time.sleep(_SECONDS_UNTIL_WOKEN)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGURG)


def _wake(_number: int, _frame: FrameType | None) -> None:
    """Interrupt a wait, which is all that the signal is for."""


def _stop(number: int, _frame: FrameType | None) -> None:
    die_at_signals()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Stopped(number)
