"""Random weights of every network of the field, in shapes that a test has time for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.weights import save_weights
from hsfuse.fusion.registry import METHODS
from hsfuse.sensors.sentinel2 import BANDS_10M
from hsfuse.workflows.training.training_data import nominal_bands

BANDS = nominal_bands(16)
SMALL: dict[str, dict[str, Any]] = {
    "csakd-lite": {"width": 8, "growth": 4},
    "fusion-mamba-lite": {"width": 4, "window_px": 4},
    "hyfusion-lite": {"width": 8, "growth": 4},
    "mimo-sst-lite": {"width": 4},
    "mpsrnet-diff-lite": {"width": 8, "prior_steps": 1, "training_steps": 1},
    "msst-net-lite": {"features": 8, "spectral_width": 4, "embed": 8},
    "qis-gan-lite": {"width": 8, "hidden": 16},
    "s3rnet-lite": {"width": 8, "growth": 4},
    "ssrfn-paper": {
        "width": 8, "dfe_blocks": 1, "cfe_cycles": 1, "scm_steps": 1, "refine_stages": 1, "headdim": 8, "d_state": 8,
    },
    "ssrnet-lite": {},
}  # fmt: skip
"""Every network of the field in a shape that a test has time for."""


def weights_of(name: str, path: Path, *, base: str = "", ratio: int = 3, guide: tuple[str, ...] = BANDS_10M) -> Path:
    """Random weights, as a rule without a base estimate: of its correction only what helps would be used, nothing."""
    entry = METHODS.get(name).network
    assert entry is not None
    start = {} if name == "ssrfn-paper" else {"base": "estimate" if base else "bicubic"}
    settings = entry.completed(
        {**entry.settings, **start, "n_bands": len(BANDS), "n_msi": len(guide), **SMALL[name]}
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = entry.build(settings)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    header = NetworkHeader(
        name, entry.architecture, settings, tuple(BANDS.centre_nm), tuple(BANDS.fwhm_nm), (ratio,), guide, len(guide),
        training={"validation": {"gain_db": 1.0}, "scenes": ["random"]}, base=base,
    )  # fmt: skip
    return save_weights(path, network, header)
