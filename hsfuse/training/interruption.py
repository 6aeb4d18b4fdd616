"""Stop after the running step when the user or the system asks for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hsfuse.log import get_logger

_log = get_logger(__name__)


class Interruption:
    """Whether somebody asked to stop.

    Attributes
    ----------
    requested
        Set by the first SIGINT or SIGTERM inside :meth:`watched`.
    """

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take note of the first interrupt or termination; a second one ends at once.

        Signal handlers are put back in the end. Outside the main thread nothing is watched.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        old: dict[int, Any] = {}

        def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            self.requested = True
            _log.warning("Stopping after this step; a second signal stops at once.")
            for each, handler in old.items():
                signal.signal(each, handler)

        for watched in (signal.SIGINT, signal.SIGTERM):
            old[watched] = signal.signal(watched, stop)
        try:
            yield
        finally:
            for each, handler in old.items():
                signal.signal(each, handler)
