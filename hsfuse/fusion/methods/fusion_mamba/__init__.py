"""FusionMamba: a U-shape of state space blocks in which each stream steers the scan of the other.

Not the network of the same name for pictures of visible and infrared light.
"""

from __future__ import annotations

from hsfuse.fusion.methods.fusion_mamba.config import FusionMambaSettings
from hsfuse.fusion.methods.plain_entry import Tiling, plain_entry
from hsfuse.fusion.nets.settings import NetworkSettings
from hsfuse.fusion.registry import MethodEntry

REFERENCE = "Peng et al., FusionMamba, IEEE TGRS 62 (2024), arXiv 2404.07932"


def _tiling(settings: NetworkSettings) -> Tiling:
    window = settings.window_px if isinstance(settings, FusionMambaSettings) else 16
    return Tiling(halo_px=16, window_px=window, bytes_per_pixel=12000)


def _entry(name: str, settings: FusionMambaSettings, summary: str) -> MethodEntry:
    return plain_entry(
        __name__, name, settings, architecture="fusion-mamba", summary=summary, reference=REFERENCE,
        licence="code without a licence", tiling=_tiling,
        recipes={"paper": {"lr": 5e-4, "optimizer": "adam", "weight_decay": 0.0, "ema": 0.0}},
    )  # fmt: skip


PUBLISHED = _entry("fusion-mamba", FusionMambaSettings(), "FusionMamba as published, 0.5 M parameters")
LITE = _entry(
    "fusion-mamba-lite",
    FusionMambaSettings(width=8, scales=2, states=2, window_px=8, base="estimate"),
    "FusionMamba for two CPU cores, corrects a base estimate",
)
