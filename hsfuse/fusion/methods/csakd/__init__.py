"""CSAKD: dual streams, cross self-attention, and a student that learns from a teacher."""

from __future__ import annotations

from hsfuse.fusion.methods.csakd.config import CsakdSettings
from hsfuse.fusion.methods.plain_entry import Tiling, plain_entry
from hsfuse.fusion.nets.settings import NetworkSettings
from hsfuse.fusion.registry import MethodEntry

REFERENCE = "Hsu et al., CSAKD, arXiv 2406.19666 (2024)"
_RECIPE = {"lr": 1e-4, "weight_decay": 0.0, "ema": 0.0}


def _tiling(settings: NetworkSettings) -> Tiling:
    window = settings.window_px if isinstance(settings, CsakdSettings) else 16
    return Tiling(halo_px=16, window_px=window, bytes_per_pixel=6000)


def _entry(name: str, settings: CsakdSettings, summary: str) -> MethodEntry:
    return plain_entry(
        __name__, name, settings, architecture="csakd", summary=summary, reference=REFERENCE,
        licence="MIT", tiling=_tiling,
        recipes={"paper": _RECIPE},
    )  # fmt: skip


TEACHER = _entry("csakd-teacher", CsakdSettings(), "CSAKD's teacher as published; needs a GPU")
STUDENT = _entry(
    "csakd",
    CsakdSettings(depth_high=1, depth_low=4, depth_hsi=4, depth_msi=1, grouped=True, distil=True),
    "CSAKD's student as published, learns from its teacher; needs a GPU to train",
)
LITE = _entry(
    "csakd-lite",
    CsakdSettings(
        width=24, growth=12, depth_high=1, depth_low=1, depth_hsi=1, depth_msi=1, grouped=True, base="estimate",
        distil=True, teacher_high=2, teacher_low=2, teacher_hsi=1, teacher_msi=1,
    ),
    "CSAKD's student for two CPU cores, corrects a base estimate",
)  # fmt: skip
