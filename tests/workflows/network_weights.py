"""Weights of a tiny network for tests that need some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hsfuse.fusion.methods.ssrfn.network import Ssrfn, make_network
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.weights import save_weights
from hsfuse.sensors.sentinel2 import BANDS_10M
from hsfuse.workflows.training.training_data import nominal_bands

BANDS = 24


def tiny_network(*, noise: float = 0.0, bands: int = BANDS) -> Ssrfn:
    """A network that returns its base estimate; with ``noise``, one that adds some nonsense to it."""
    torch.manual_seed(0)
    network = make_network("ssrfn-lite", n_bands=bands, width=8, dfe_blocks=1, cfe_cycles=1, scm_steps=1, headdim=8,
                           d_state=8, estimate_features=4)  # fmt: skip
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
        "name": "tiny", "architecture": "ssrfn", "config": network.config.to_dict(),
        "centre_nm": tuple(map(float, bands.centre_nm)),
        "fwhm_nm": tuple(map(float, bands.fwhm_nm)), "ratios": (3,), "msi_bands": BANDS_10M, "n_msi": 4, "base": "glp",
        "training": {"validation": {"gain_db": gain_db}, "scenes": ["aviris_urban-1", "generated 0"]},
    }  # fmt: skip
    return save_weights(path, network, NetworkHeader(**(values | changes)))
