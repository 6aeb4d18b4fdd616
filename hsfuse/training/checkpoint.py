"""Checkpoints: one safetensors file with tensors and a JSON record; written whole or not at all, never a pickle."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hsfuse.errors import InputError, OutputError
from hsfuse.outputs import part_name

FORMAT = "hsfuse-checkpoint"
VERSION = 2
_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class Checkpoint:
    """State of an interrupted training.

    Attributes
    ----------
    tensors
        Weights, averages, optimiser state; names have the form ``part/name``.
    record
        Everything else, JSON values.
    """

    tensors: dict[str, Tensor]
    record: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """Tensors of one part, without its prefix."""
        prefix = name + "/"
        return {key[len(prefix) :]: value for key, value in self.tensors.items() if key.startswith(prefix)}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an older one stays intact until the new one is complete.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    partial = part_name(path)
    metadata = {"format": FORMAT, "format_version": str(VERSION), "record": json.dumps(checkpoint.record)}
    try:
        tensors = {name: t.detach().to("cpu").contiguous().clone() for name, t in checkpoint.tensors.items()}
        save_file(tensors, partial, metadata=metadata)
        os.replace(partial, path)  # noqa: PTH105 - atomic also over an existing file
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OutputError(
            f"The checkpoint {path} cannot be written ({error}).",
            hint="Free some space; training goes on from the last checkpoint with --resume.",
        ) from error


def check_is_checkpoint(path: Path) -> None:
    """Raise InputError where a file is no checkpoint of hsfuse, without reading its tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is no safetensors file ({error}).") from error
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path} is not a training checkpoint of hsfuse.")


def read_record(path: Path) -> dict[str, Any]:
    """Return the record of a checkpoint without its tensors; empty where it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get("record", "{}"))
    except (OSError, SafetensorError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    InputError
        The file is missing, a pickle, damaged, or not a checkpoint of hsfuse.
    """
    if not path.is_file():
        raise InputError(
            f"There is no checkpoint {path} to resume from.", hint="Leave out --resume to start from the beginning."
        )
    try:
        with path.open("rb") as stream:
            start = stream.read(4)
        if start.startswith(_PICKLE_MAGIC):
            raise InputError(
                f"{path} is a pickle (PyTorch checkpoint), which can run code when it is opened.",
                hint="hsfuse resumes from its own safetensors checkpoints only.",
            )
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} is damaged or no safetensors file ({error}).", hint="Delete it and train again."
        ) from error
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path} is not a training checkpoint of hsfuse.", hint="Give the right file, or delete it.")
    if metadata.get("format_version") != str(VERSION):
        raise InputError(f"{path} was written by another version of hsfuse.", hint="Use that version, or start anew.")
    try:
        record = json.loads(metadata["record"])
        if not isinstance(record, dict):
            raise ValueError("its record is no JSON object")
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}).", hint="Delete it and train again.") from error
    return Checkpoint(tensors, record)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """Return the state of an optimiser by parameter name, ``name/value``; ``names`` in the optimiser's order."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    found: dict[str, Tensor] = {}
    for name, parameter in zip(names, parameters, strict=True):
        for key, value in optimizer.state.get(parameter, {}).items():
            found[f"{name}/{key}"] = torch.as_tensor(value)
    return found


def restore_optimizer(optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` returned.

    Raises
    ------
    InputError
        The tensors belong to another network.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    by_name = dict(zip(names, parameters, strict=True))
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        parameter = by_name.get(name)
        if parameter is None or (value.ndim and value.shape != parameter.shape):
            raise InputError("The checkpoint belongs to another network.", hint="Start anew without --resume.")
        # Step counters stay on the CPU, as the optimiser itself keeps them.
        where = parameter.device if value.ndim else torch.device("cpu")
        optimizer.state[parameter][entry] = value.to(where)


def check_space(folder: Path, needed: int) -> None:
    """Raise OutputError when a folder does not exist, is not writable or lacks space."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise OutputError(f"{folder} cannot be used ({error.strerror}).", hint="Choose another folder.") from error
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder} is not writable.", hint="Choose another folder.")
    if free < needed:
        raise OutputError(
            f"{folder} has {free / 1e6:.0f} MB free; weights and checkpoint need {needed / 1e6:.0f} MB.",
            hint="Free some space or choose another disk.",
        )
