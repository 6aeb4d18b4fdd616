"""Weights of a prior on disk: safetensors with its settings and its training in the metadata. Pickles are refused."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from hsfuse.errors import InputError, OutputError, UsageError
from hsfuse.fusion.nets.diffusion.settings import PriorSettings
from hsfuse.fusion.nets.diffusion.unet import PatchPrior
from hsfuse.fusion.nets.header import file_sha256
from hsfuse.fusion.nets.zoo import zoo_folders
from hsfuse.outputs import part_name

FORMAT, FORMAT_VERSION = "hsfuse-prior", 1
SHIPPED = "patch-prior"
"""Folder of the zoo with the prior that comes with hsfuse."""
PRIOR_FILE = "prior.safetensors"


@dataclass(frozen=True)
class LoadedPrior:
    """A prior with its weights, in evaluation mode, its name, the record of its training and the file's hash."""

    network: PatchPrior
    name: str
    training: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""


def save_prior(
    path: Path, network: PatchPrior, name: str, training: dict[str, Any], *, dtype: Literal["fp32", "bf16"] = "fp32"
) -> Path:
    """Write a prior; the file appears under its name only when it is complete.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    content = {"name": name, "settings": network.settings.to_dict(), "training": training}
    metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION), FORMAT: json.dumps(content)}
    tensors = {key: value.detach().to("cpu", kind).contiguous() for key, value in network.state_dict().items()}
    part = part_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata=metadata)
        os.replace(part, path)  # noqa: PTH105 - atomic also over an existing file
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise OutputError(
            f"The prior cannot be written to {path} ({error}).", hint="Check space and rights."
        ) from error
    return path


def load_prior(path: Path | None = None, *, n_bands: int | None = None) -> LoadedPrior:
    """Read a prior.

    Parameters
    ----------
    path
        The file; None: the one that comes with hsfuse.
    n_bands
        Bands that it has to have.

    Raises
    ------
    InputError
        The file is missing, foreign or damaged.
    UsageError
        It has another number of bands, or none comes with this installation.
    """
    file = path or shipped_prior()
    if file is None:
        raise UsageError(
            "No diffusion prior comes with this installation.", hint="Train one with 'hsfuse train-prior'."
        )
    try:
        with safe_open(file, "pt") as stored:
            metadata = stored.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise InputError(
                f"{file} is no diffusion prior of hsfuse.",
                hint="Only weights written by 'hsfuse train-prior' are read.",
            )
        if int(metadata["format_version"]) > FORMAT_VERSION:
            raise InputError(f"{file} was written by a newer version of hsfuse.", hint="Update hsfuse.")
        content = json.loads(metadata[FORMAT])
        settings = PriorSettings.from_dict(content["settings"])
        name, training = str(content["name"]), dict(content["training"])
        tensors = load_file(file)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error}).", hint="Check path and permissions.") from error
    except (SafetensorError, ValueError, KeyError, TypeError, UsageError) as error:
        raise InputError(f"{file} is no prior or is damaged ({error}).", hint="Copy or train it again.") from error
    if n_bands is not None and settings.n_bands != n_bands:
        raise UsageError(
            f"The prior '{name}' is one of {settings.n_bands} bands, the network needs one of {n_bands}.",
            hint=f"Train one with 'hsfuse train-prior --bands {n_bands}', or use the one that comes with hsfuse.",
        )
    network = PatchPrior(settings)
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    if expected != {key: tuple(value.shape) for key, value in tensors.items()}:
        raise InputError(f"The tensors in {file} do not fit the prior it describes.", hint="Copy or train it again.")
    if not all(bool(torch.isfinite(value).all()) for value in tensors.values()):
        raise InputError(f"The weights in {file} are not finite.", hint="Copy or train them again.")
    network.load_state_dict({key: value.float() for key, value in tensors.items()})
    return LoadedPrior(network.eval().requires_grad_(False), name, training, file_sha256(file))


def shipped_prior() -> Path | None:
    """Path of the prior that comes with hsfuse; None where it does not."""
    return next((f for root in zoo_folders() if (f := root / SHIPPED / PRIOR_FILE).is_file()), None)
