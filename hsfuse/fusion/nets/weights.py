"""Weights on disk: safetensors with everything needed to use them in the metadata. Pickles are refused."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hsfuse.errors import InputError, OutputError, UsageError
from hsfuse.fusion.nets.header import NetworkHeader, file_sha256, read_header
from hsfuse.fusion.nets.zoo import find_model, untrained
from hsfuse.fusion.registry import architecture
from hsfuse.outputs import part_name


@dataclass(frozen=True)
class LoadedNetwork:
    """A network with its weights (float32, in evaluation mode), its description and the file's hash."""

    network: nn.Module
    header: NetworkHeader
    sha256: str


def save_weights(
    path: Path, network: nn.Module, header: NetworkHeader, *, dtype: Literal["fp32", "bf16"] = "fp32"
) -> Path:
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
    state = network.state_dict()
    if _shapes(_skeleton(header).state_dict()) != _shapes(state):
        raise UsageError("The description of the weights does not match the network's configuration.")
    header.check(path)
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    tensors = {name: _stored(t, kind) for name, t in state.items()}
    part = part_name(path)
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
        network = _skeleton(header)
    except (UsageError, TypeError) as error:
        raise InputError(
            f"The configuration inside {path} cannot be used: {error}", hint="Update hsfuse, or train again."
        ) from error
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}).", hint="Copy or train the weights again.") from error
    expected, given = _shapes(network.state_dict()), _shapes(tensors)
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
    state = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    network.load_state_dict(state, assign=True)
    if any(buffer.is_meta for buffer in network.buffers()):
        # Tables that are computed and not stored: only a network that is really built has them.
        with torch.random.fork_rng(devices=[]):
            network = _built(header)
        network.load_state_dict(state)
    network.eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return LoadedNetwork(network, header, file_sha256(path))


def load_named(name_or_path: str | Path) -> LoadedNetwork:
    """Load a network of the zoo or a weights file.

    Raises
    ------
    UsageError
        There is no such network, or nobody has trained it.
    InputError
        The weights cannot be used.
    """
    model = find_model(name_or_path)
    if model.weights is None:
        raise untrained(model.name)
    return load_weights(model.weights)


def _skeleton(header: NetworkHeader) -> nn.Module:
    """Return the network that a header describes, without memory for its tensors.

    Raises
    ------
    UsageError
        The architecture is not installed, or its settings are impossible.
    """
    with torch.device("meta"), _NothingDrawn():
        return _built(header)


class _NothingDrawn(TorchFunctionMode):
    """Leaves out that tensors without memory are filled with random numbers: for that torch loads its compiler."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # fmt: skip
        given = kwargs or {}
        if func in (Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_):
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _built(header: NetworkHeader) -> nn.Module:
    entry = architecture(header.architecture)
    return entry.build(entry.completed(header.config))


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in tensors.items()}


def _stored(tensor: Tensor, kind: torch.dtype) -> Tensor:
    """Tensor as it is written; counters stay whole numbers."""
    return tensor.detach().to("cpu", kind if tensor.is_floating_point() else tensor.dtype).contiguous()
