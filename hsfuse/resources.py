"""What a piece of work may use of the machine: a value that is handed in, and not set behind a caller's back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import psutil

from hsfuse.processor import usable_cores


@dataclass(frozen=True)
class Resources:
    """Device, threads and memory of one run.

    Several runs at a time, in one process or in several, get a :meth:`share` each.

    Attributes
    ----------
    device
        ``cpu``, ``cuda:N``, or ``auto`` for a GPU where there is one.
    threads
        CPU threads.
    memory
        Bytes that the process may hold at most, what it holds besides the run included (:meth:`beside` adds that).
        None: most of what is free when the run is planned.
    vram
        Bytes of the GPU's memory. None: most of what is free.
    """

    device: str = "cpu"
    threads: int = field(default_factory=usable_cores)
    memory: int | None = None
    vram: int | None = None

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"a run needs a thread at least, not {self.threads}")
        for size in (self.memory, self.vram):
            if size is not None and size < 1:
                raise ValueError(f"{size} bytes are no memory")

    @classmethod
    def beside(
        cls, memory: int | None, *, device: str = "cpu", threads: int | None = None, vram: int | None = None
    ) -> Resources:
        """Resources inside somebody's program: ``memory`` counts from what its process holds already.

        Parameters
        ----------
        memory
            Bytes that the run may add; None: most of what is free.
        device, threads, vram
            As the attributes; all usable cores where ``threads`` is None.
        """
        limit = None if memory is None else memory + held_bytes()
        return cls(device, threads or usable_cores(), limit, vram)

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")

    def share(self, count: int) -> Resources:
        """Return what one of so many equal runs at a time may use, each in a process of its own."""
        return replace(
            self,
            threads=max(self.threads // count, 1),
            memory=None if self.memory is None else self.memory // count,
            vram=None if self.vram is None else self.vram // count,
        )


def held_bytes() -> int:
    """Resident memory of this process now."""
    return int(psutil.Process().memory_info().rss)
