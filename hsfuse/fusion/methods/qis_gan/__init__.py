"""QIS-GAN: implicit query steps from the HSI's grid to the MSI's, trained against a discriminator."""

from __future__ import annotations

from hsfuse.fusion.methods.plain_entry import Tiling, plain_entry
from hsfuse.fusion.methods.qis_gan.config import QisGanSettings
from hsfuse.fusion.registry import MethodEntry

REFERENCE = "Zhu et al., QIS-GAN, IEEE TGRS 61 (2023)"


def _entry(name: str, settings: QisGanSettings, summary: str) -> MethodEntry:
    return plain_entry(
        __name__, name, settings, architecture="qis-gan", summary=summary, reference=REFERENCE,
        licence="code without a licence",
        tiling=lambda _: Tiling(halo_px=6, bytes_per_pixel=9000),
        recipes={"paper": {"lr": 1e-4, "optimizer": "adam", "ema": 0.0}},
    )  # fmt: skip


PUBLISHED = _entry("qis-gan", QisGanSettings(), "QIS-GAN's generator as published, 0.26 M parameters")
LITE = _entry(
    "qis-gan-lite",
    QisGanSettings(width=24, hidden=48, passed=16, base="estimate"),
    "QIS-GAN for two CPU cores, corrects a base estimate",
)
