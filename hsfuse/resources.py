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


def parse_size(text: str) -> int:
    """Turn ``4GB``, ``800 MB`` or ``2GiB`` into bytes (decimal and binary units).

    Raises
    ------
    ValueError
        The text is not a size.
    """
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    units |= {"K": 2**10, "M": 2**20, "G": 2**30, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
    cleaned = text.strip().upper().replace(" ", "")
    digits = cleaned.rstrip("KMGTIB")
    try:
        size = float(digits) * units[cleaned[len(digits) :]]
    except (ValueError, KeyError):
        raise ValueError(f"'{text}' is not a size such as 4GB or 800MB") from None
    if not size < 2**63:
        raise ValueError(f"'{text}' is more than any computer has")
    if size < 2**20:
        raise ValueError(f"'{text}' is less than 1 MB")
    return int(size)
