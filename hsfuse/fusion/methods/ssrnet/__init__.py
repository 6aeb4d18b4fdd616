"""SSR-NET: spatial-spectral reconstruction network, three convolutions."""

from __future__ import annotations

from hsfuse.fusion.methods.plain_entry import Tiling, plain_entry
from hsfuse.fusion.methods.ssrnet.config import SsrnetSettings
from hsfuse.fusion.registry import MethodEntry

REFERENCE = "Zhang et al., SSR-NET, IEEE TGRS 59 (2021)"


def _entry(name: str, settings: SsrnetSettings, summary: str) -> MethodEntry:
    return plain_entry(
        __name__, name, settings, architecture="ssrnet", summary=summary, reference=REFERENCE,
        licence="code without a licence",
        tiling=lambda _: Tiling(halo_px=5, bytes_per_pixel=1600), recipes={"paper": {"lr": 1e-4, "optimizer": "adam"}},
    )  # fmt: skip


PUBLISHED = _entry("ssrnet", SsrnetSettings(), "SSR-NET as published: cross-mode insertion, three convolutions")
LITE = _entry("ssrnet-lite", SsrnetSettings(base="estimate"), "SSR-NET that corrects a base estimate")
