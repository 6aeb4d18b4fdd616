"""MSST-Net: transformers along the spectrum at low resolution and over patches at high resolution."""

from __future__ import annotations

from hsfuse.fusion.methods.msst_net.config import MsstNetSettings
from hsfuse.fusion.methods.plain_entry import Tiling, plain_entry
from hsfuse.fusion.nets.settings import NetworkSettings
from hsfuse.fusion.registry import MethodEntry

REFERENCE = "Jia et al., MSST-Net, Information Fusion 96 (2023)"


def _tiling(settings: NetworkSettings) -> Tiling:
    window = settings.window_px if isinstance(settings, MsstNetSettings) else 32
    return Tiling(halo_px=max(16, window), window_px=window, bytes_per_pixel=8000)


def _entry(name: str, settings: MsstNetSettings, summary: str) -> MethodEntry:
    return plain_entry(
        __name__, name, settings, architecture="msst-net", summary=summary, reference=REFERENCE,
        licence="code without a licence", tiling=_tiling,
        recipes={"paper": {"lr": 1e-3, "weight_decay": 2e-5, "ema": 0.0}},
    )  # fmt: skip


PUBLISHED = _entry("msst-net", MsstNetSettings(), "MSST-Net as published; needs a GPU to train")
LITE = _entry(
    "msst-net-lite",
    MsstNetSettings(
        features=16, blocks=1, spectral_width=8, patch_px=4, embed=32, layers=1, heads=2, window_px=8, base="estimate"
    ),
    "MSST-Net for two CPU cores, corrects a base estimate",
)
