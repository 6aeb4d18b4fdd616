"""UHNTC: an unsupervised network that learns on the scene itself, from what both sensors would see of its cube."""

from __future__ import annotations

from typing import Any

from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.registry import MethodEntry


def _create(**options: Any) -> FusionMethod:
    from hsfuse.fusion.methods.uhntc.method import Uhntc

    return Uhntc(**options)


METHOD = MethodEntry(
    name="uhntc",
    family="unsupervised network",
    summary="unsupervised hybrid network, learns on every scene anew (Cao 2024); minutes, no weights",
    reference="Cao et al., UHNTC, IEEE TGRS 62 (2024)",
    licence="MIT",
    create=_create,
    variants=(),
)
