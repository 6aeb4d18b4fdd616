"""Weights of a tiny network for tests that need some."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hsfuse.fusion.methods.ssrnet.config import SsrnetSettings
from hsfuse.fusion.methods.ssrnet.network import Ssrnet
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.weights import save_weights
from hsfuse.fusion.registry import METHODS
from hsfuse.sensors.sentinel2 import BANDS_10M
from hsfuse.workflows.training.training_data import nominal_bands

BANDS = 24
METHOD = "ssrnet-lite"
"""Whose weights these are: a network with bands of its own that corrects a base estimate."""


def tiny_network(*, noise: float = 0.0, bands: int = BANDS) -> Ssrnet:
    """A network that returns its base estimate; with ``noise``, one that adds some nonsense to it."""
    torch.manual_seed(0)
    network = Ssrnet(SsrnetSettings(n_bands=bands, base="estimate"))
    if noise:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(noise * torch.randn_like(parameter))
    return network


def write_tiny(path: Path, *, noise: float = 0.0, gain_db: float = 1.0, **changes: Any) -> Path:
    """Write such a network with the description that a training gives it."""
    network = tiny_network(noise=noise)
    bands = nominal_bands(BANDS)
    values: dict[str, Any] = {
        "name": "tiny", "architecture": "ssrnet", "config": SsrnetSettings(n_bands=BANDS, base="estimate").to_dict(),
        "centre_nm": tuple(map(float, bands.centre_nm)),
        "fwhm_nm": tuple(map(float, bands.fwhm_nm)), "ratios": (3,), "msi_bands": BANDS_10M, "n_msi": 4, "base": "glp",
        "training": {"validation": {"gain_db": gain_db}, "scenes": ["aviris_urban-1", "generated 0"]},
    }  # fmt: skip
    return save_weights(path, network, NetworkHeader(**(values | changes)))


def choose_automatically(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let ``auto`` try these networks, in this order and no others, as those of another package may say of theirs."""
    for name, entry in list(METHODS.entries()):
        if entry.network is not None:
            rank = names.index(name) if name in names else None
            monkeypatch.setitem(METHODS._loaded, name, replace(entry, auto_rank=rank))
