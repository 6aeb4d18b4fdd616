"""Weights on disk: safetensors with everything needed to use them in the metadata. Pickles are refused."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hsfuse.errors import InputError, OutputError, UsageError
from hsfuse.fusion.nets.ssrfn import Ssrfn, SsrfnConfig
from hsfuse.fusion.nets.zoo import NetworkHeader, file_sha256, read_header


@dataclass(frozen=True)
class LoadedNetwork:
    """A network with its weights (float32, in evaluation mode), its description and the file's hash."""

    network: Ssrfn
    header: NetworkHeader
    sha256: str


def save_weights(path: Path, network: Ssrfn, header: NetworkHeader, *, dtype: Literal["fp32", "bf16"] = "fp32") -> Path:
    """Write a network; the file appears under its name only when it is complete.

    Parameters
    ----------
    path
        Target, ``.safetensors``.
    network
        Its state is written.
    header
        Description; its configuration must be the network's.
    dtype
        ``bf16`` halves the file and keeps 8 significant bits.

    Raises
    ------
    UsageError
        The header does not describe this network.
    OutputError
        The file cannot be written.
    """
    if header.config != network.config.to_dict():
        raise UsageError("The description of the weights does not match the network's configuration.")
    header.check(path)
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    tensors = {name: t.detach().to("cpu", kind).contiguous() for name, t in network.state_dict().items()}
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata=header.to_metadata())
        os.replace(part, path)  # noqa: PTH105 - atomic also over an existing file
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise OutputError(
            f"The weights cannot be written to {path} ({error}).", hint="Check space and rights."
        ) from error
    return path


def load_weights(path: Path) -> LoadedNetwork:
    """Read a network.

    Raises
    ------
    InputError
        The file is missing, a pickle, damaged, foreign, or its tensors do not fit its own configuration.
    """
    header = read_header(path)
    try:
        config = SsrfnConfig.from_dict(header.config)
    except (UsageError, TypeError) as error:
        raise InputError(
            f"The configuration inside {path} cannot be used: {error}", hint="Update hsfuse, or train again."
        ) from error
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}).", hint="Copy or train the weights again.") from error
    with torch.device("meta"):
        network = Ssrfn(config)
    expected = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    given = {name: tuple(t.shape) for name, t in tensors.items()}
    if expected != given:
        wrong = sorted(set(expected.items()) ^ set(given.items()))[:3]
        shown = ", ".join(dict.fromkeys(name for name, _ in wrong))
        raise InputError(
            f"The tensors in {path} do not fit the network it describes (such as {shown}).",
            hint="The file is damaged or was edited; copy or train the weights again.",
        )
    broken = [name for name, t in tensors.items() if not bool(torch.isfinite(t).all())]
    if broken:
        raise InputError(
            f"The weights in {path} are not finite (such as {broken[0]}).", hint="Copy or train the weights again."
        )
    network.load_state_dict({name: t.float() for name, t in tensors.items()}, assign=True)
    network.eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LoadedNetwork(network, header, file_sha256(path))
