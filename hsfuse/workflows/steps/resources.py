"""From settings to what a run may use of the machine."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from hsfuse.errors import InputError, UsageError
from hsfuse.process import is_own
from hsfuse.processor import usable_cores
from hsfuse.resources import Resources, parse_size

_GPU_NODES = ("/dev/nvidiactl", "/dev/nvhost-ctrl", "/dev/dxg", "/dev/kfd")
"""How Linux shows GPUs: NVIDIA's driver, its small boards, Windows' subsystem, AMD's driver."""


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
    UsageError, InputError
        There is no such device.
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
    UsageError, InputError
        There is no such device.
    """
    given = resources or Resources()
    return replace(given, device=resolve_device(given.device))


def resolve_device(wanted: str) -> str:
    """Turn ``auto`` into a device and check that a GPU which was asked for exists.

    Raises
    ------
    UsageError, InputError
        The name is none of a device, or there is no such GPU.
    """
    if wanted == "cpu":
        return "cpu"
    if not (wanted in ("auto", "cuda") or (wanted.startswith("cuda:") and wanted[5:].isdigit())):
        raise UsageError(f"There is no device '{wanted}'.", hint="Choose auto, cpu, cuda or cuda:N.")
    if wanted == "auto" and sys.platform == "linux" and not any(Path(node).exists() for node in _GPU_NODES):
        # Loading torch to be told so takes a second.
        return "cpu"
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda:0" if count else "cpu"
    index = int(wanted.partition(":")[2] or 0)
    if index >= count:
        raise InputError(
            f"There is no GPU {index}: {count} CUDA device{'s' if count != 1 else ''} found.",
            hint="Use --device cpu; `hsfuse doctor` shows what PyTorch sees.",
        )
    return f"cuda:{index}"
