"""Half precision on graphics cards: which kind a card has, and whether a network is exact enough in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hsfuse.fusion.base import LowResolutionStrip, Precision
from hsfuse.log import get_logger

_log = get_logger(__name__)

TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HAS_BFLOAT, HAS_FAST_HALF = (8, 0), (7, 0)
"""Compute capabilities: Ampere multiplies bfloat16, Volta and Turing float16; before, half precision is slower."""
MOST_ERROR, NEGLIGIBLE = 0.03, 2e-4
"""That half precision may bring into the output: share of the output's deviation within its bands, and reflectance (two
steps of the product's integers)."""
_PROBE_PX = 24


def precision_for_card(capability: tuple[int, int], offered: Sequence[Precision]) -> Precision:
    """Return the precision to try on a card; :func:`settle` decides whether it stays.

    Parameters
    ----------
    capability
        Compute capability of the card.
    offered
        What the network runs in; the first is its default.
    """
    if "bf16" in offered and capability >= HAS_BFLOAT:
        return "bf16"
    if "fp16" in offered and HAS_FAST_HALF <= capability < HAS_BFLOAT:
        return "fp16"
    return offered[0]


def exact_enough(half: Tensor, full: Tensor) -> bool:
    """Tell whether an output in half precision, (n, band, row, col) in reflectance, is near enough to the full one."""
    error = float((half.double() - full.double()).square().mean().sqrt())
    size = float((full.double() - full.double().mean(dim=(-2, -1), keepdim=True)).square().mean().sqrt())
    return error <= max(MOST_ERROR * size, NEGLIGIBLE)  # never true of NaN


@torch.no_grad()
def settle(network: nn.Module, device: str, wanted: Precision, probe: Callable[[], Tensor]) -> Precision:
    """Bring a network to its device in the precision that it is wanted in, or in fp32 where that is too inexact there.

    On a CPU the wanted precision is taken as it is.

    Parameters
    ----------
    network
        In float32; changed in place.
    device
        Where it is to run.
    wanted
        Precision.
    probe
        Runs the network as it is now on a piece of the scene; returns what it adds to the scene, reflectance.

    Returns
    -------
    str
        The precision in which it is now.
    """
    if wanted == "fp32" or device == "cpu":
        network.to(device=device, dtype=TYPES[wanted])
        return wanted
    network.to(device=device, dtype=torch.float32)
    full, weights = probe(), {name: value.clone() for name, value in network.state_dict().items()}
    _to_half(network, TYPES[wanted])
    half = probe()
    if exact_enough(half, full):
        return wanted
    network.to(dtype=torch.float32)
    network.load_state_dict(weights)
    _log.warning("The network runs in fp32: %s is not exact enough on this scene.", wanted)
    return "fp32"


def _to_half(network: nn.Module, dtype: torch.dtype) -> None:
    """Half precision in channels-last memory: what the fast convolutions of cards take without turning data around."""
    convert: Callable[..., object] = network.to
    convert(dtype=dtype, memory_format=torch.channels_last)


def probe_pair(strips: Iterable[LowResolutionStrip], ratio: int, device: str) -> tuple[Tensor, Tensor]:
    """Return a small piece of the scene, HSI and MSI on their grids (n = 1), to try a network on.

    The MSI is that of the HSI's grid, repeated: what matters are its values, not its detail.
    """
    strip = max(strips, key=lambda one: int(one.valid.sum()))
    rows, cols = (_around(np.flatnonzero(strip.valid.any(axis=axis)), strip.valid.shape[1 - axis]) for axis in (1, 0))
    hsi = torch.from_numpy(np.ascontiguousarray(strip.hsi[:, rows, cols]))[None].to(device)
    msi = torch.from_numpy(np.ascontiguousarray(strip.msi[:, rows, cols]))[None].to(device)
    return hsi, msi.repeat_interleave(ratio, -2).repeat_interleave(ratio, -1)


def _around(valid: NDArray[np.int64], size: int) -> slice:
    """A probe's side around the middle of what is valid."""
    side = min(_PROBE_PX, size)
    middle = int(valid.mean()) if valid.size else size // 2
    start = min(max(middle - side // 2, 0), size - side)
    return slice(start, start + side)
