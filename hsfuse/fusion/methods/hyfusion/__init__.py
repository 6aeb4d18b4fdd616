"""HyFusion: two coupled branches of shifted-window attention with dense connections.

No code of the network is public; this follows the abstract, its figure, and the dense attention groups that the same
authors describe elsewhere (DRCT).
"""

from __future__ import annotations

from hsfuse.fusion.methods.hyfusion.config import HyfusionSettings
from hsfuse.fusion.methods.plain_entry import Tiling, plain_entry
from hsfuse.fusion.nets.settings import NetworkSettings
from hsfuse.fusion.registry import MethodEntry

REFERENCE = "Hsu et al., HyFusion, IGARSS 2025, arXiv 2501.04665"


def _tiling(settings: NetworkSettings) -> Tiling:
    window = settings.window_px if isinstance(settings, HyfusionSettings) else 8
    return Tiling(halo_px=2 * window, window_px=window, bytes_per_pixel=9000)


def _entry(name: str, settings: HyfusionSettings, summary: str) -> MethodEntry:
    return plain_entry(
        __name__, name, settings, architecture="hyfusion", summary=summary, reference=REFERENCE,
        licence="MIT, without the network's code", tiling=_tiling,
        recipes={"paper": {"lr": 2e-4, "ema": 0.0}},
    )  # fmt: skip


PUBLISHED = _entry("hyfusion", HyfusionSettings(), "HyFusion in the authors' early width; needs a GPU to train")
LITE = _entry(
    "hyfusion-lite",
    HyfusionSettings(width=24, growth=8, groups=1, heads=2, base="estimate"),
    "HyFusion for two CPU cores, corrects a base estimate",
)
