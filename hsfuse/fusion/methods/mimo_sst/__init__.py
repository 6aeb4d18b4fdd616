"""MIMO-SST: a U-shape with inputs and outputs at three scales, joined by attention between HSI and MSI."""

from __future__ import annotations

from hsfuse.fusion.methods.mimo_sst.config import MimoSstSettings
from hsfuse.fusion.methods.plain_entry import Tiling, plain_entry
from hsfuse.fusion.nets.settings import NetworkSettings
from hsfuse.fusion.registry import MethodEntry

REFERENCE = "Fang et al., MIMO-SST, IEEE TGRS 62 (2024)"


def _tiling(settings: NetworkSettings) -> Tiling:
    window = settings.window_px if isinstance(settings, MimoSstSettings) else 16
    return Tiling(halo_px=16, window_px=window, bytes_per_pixel=7000)


def _entry(name: str, settings: MimoSstSettings, summary: str) -> MethodEntry:
    return plain_entry(
        __name__, name, settings, architecture="mimo-sst", summary=summary, reference=REFERENCE,
        licence="MIT by its README, no licence file", tiling=_tiling,
        recipes={"paper": {"lr": 1e-4, "optimizer": "adam", "weight_decay": 1e-8, "ema": 0.0}},
    )  # fmt: skip


PUBLISHED = _entry("mimo-sst", MimoSstSettings(), "MIMO-SST as published, 1.9 M parameters; needs a GPU to train")
LITE = _entry(
    "mimo-sst-lite",
    MimoSstSettings(width=12, window_px=8, base="estimate"),
    "MIMO-SST for two CPU cores, corrects a base estimate",
)
