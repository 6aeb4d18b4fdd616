"""From settings to what a run may use of the machine."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Protocol

from hsfuse.errors import UsageError
from hsfuse.inference.cards import automatic_device, named_device, node_present
from hsfuse.process import is_own
from hsfuse.processor import usable_cores
from hsfuse.resources import Resources, parse_size


class ResourceSettings(Protocol):
    """The settings that say what may be used; several commands have them."""

    @property
    def device(self) -> str:
        """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
        ...

    @property
    def threads(self) -> int | None:
        """CPU threads; None: all."""
        ...


def resources_of(config: ResourceSettings) -> Resources:
    """Find the device and turn sizes into bytes.

    ``max_memory`` is what the process of a command may hold; inside somebody's program it is what a run may add.

    Raises
    ------
    UsageError, DeviceError
        There is no such device, or it cannot be used.
    """
    memory, vram = (
        None if text is None else parse_size(text)
        for text in (getattr(config, "max_memory", None), getattr(config, "max_vram", None))
    )
    device, threads = resolve_device(config.device), config.threads or usable_cores()
    return (
        Resources(device, threads, memory, vram)
        if is_own()
        else Resources.beside(memory, device=device, threads=threads, vram=vram)
    )


def resolved(resources: Resources | None) -> Resources:
    """What was handed in, with its device checked; None: the CPU with all its cores.

    Raises
    ------
    UsageError, DeviceError
        There is no such device, or it cannot be used.
    """
    given = resources or Resources()
    return replace(given, device=resolve_device(given.device))


def resolve_device(wanted: str) -> str:
    """Turn ``auto`` and ``cuda`` into the GPU with the most free memory, and check a GPU that was named.

    Raises
    ------
    UsageError
        The name is none of a device.
    DeviceError
        There is no such GPU, or it cannot be used.
    """
    if wanted == "cpu":
        return "cpu"
    if not (wanted in ("auto", "cuda") or (wanted.startswith("cuda:") and wanted[5:].isdigit())):
        raise UsageError(f"There is no device '{wanted}'.", hint="Choose auto, cpu, cuda or cuda:N.")
    if wanted == "auto" and sys.platform == "linux" and not node_present():
        # Loading torch to be told so takes a second.
        return "cpu"
    if wanted.startswith("cuda:"):
        return named_device(int(wanted[5:]))
    return automatic_device(needed=wanted == "cuda")
