"""S3RNet: four branches, weighted in space and by channel with few weights above zero.

The authors' release is that of CSAKD with another text; what is published beside it is the abstract. Branches and dense
blocks are therefore the same, the weights are a reading of the abstract.
"""

from __future__ import annotations

from hsfuse.fusion.methods.plain_entry import Tiling, plain_entry
from hsfuse.fusion.methods.s3rnet.config import S3rnetSettings
from hsfuse.fusion.nets.settings import NetworkSettings
from hsfuse.fusion.registry import MethodEntry

REFERENCE = "Hsu et al., S3RNet, IGARSS 2025, arXiv 2501.07953"


def _tiling(settings: NetworkSettings) -> Tiling:
    window = settings.window_px if isinstance(settings, S3rnetSettings) else 16
    return Tiling(halo_px=16, window_px=window, bytes_per_pixel=6000)


def _entry(name: str, settings: S3rnetSettings, summary: str) -> MethodEntry:
    return plain_entry(
        __name__, name, settings, architecture="s3rnet", summary=summary, reference=REFERENCE,
        licence="MIT", tiling=_tiling,
        recipes={"paper": {"lr": 1e-4, "weight_decay": 0.0, "ema": 0.0}},
    )  # fmt: skip


PUBLISHED = _entry("s3rnet", S3rnetSettings(), "S3RNet, 26.8 M parameters at 172 bands; needs a GPU to train")
LITE = _entry(
    "s3rnet-lite",
    S3rnetSettings(width=24, growth=12, depth_high=1, depth_low=1, depth_hsi=1, depth_msi=1, base="estimate"),
    "S3RNet for two CPU cores, corrects a base estimate",
)
