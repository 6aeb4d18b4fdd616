"""How much memory one run takes at most, also where the process held more before or goes on afterwards."""

from __future__ import annotations

import sys
import threading
from types import TracebackType

from hsfuse.resources import held_bytes

_SAMPLE_SECONDS = 0.02
_SLACK_BYTES = 32 << 20


class PeakMemory:
    """Highest resident memory of the process inside a block.

    The system keeps the highest value since the process began, which is exact where the block raises it. Where the
    process had held more before, a thread looks 50 times a second.
    """

    def __init__(self) -> None:
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._final: int | None = None
        self.start_bytes = self._top = held_bytes()
        self._before = _highest_so_far()

    def __enter__(self) -> PeakMemory:
        self.start_bytes = self._top = held_bytes()
        self._before = _highest_so_far()
        if self._before is None or self._before > self.start_bytes + _SLACK_BYTES:
            self._thread = threading.Thread(target=self._watch, name="hsfuse-memory", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._final = self.bytes
        self._done.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def bytes(self) -> int:
        """The peak so far, and of the whole block once it has ended."""
        if self._final is not None:
            return self._final
        highest = _highest_so_far()
        if highest is not None and (self._before is None or highest > self._before):
            return highest
        return max(self._top, held_bytes())

    @property
    def growth_bytes(self) -> int:
        """How far the process grew inside the block."""
        return max(self.bytes - self.start_bytes, 0)

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLE_SECONDS):
            self._top = max(self._top, held_bytes())


def peak_vram_bytes(device: str) -> int | None:
    """Most memory of a GPU that tensors took since the process began; None on a CPU."""
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(device))


def _highest_so_far() -> int | None:
    """Highest resident memory since the process began; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
