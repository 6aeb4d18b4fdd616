"""Gram-Schmidt adaptive component substitution."""

from __future__ import annotations

from typing import Any

from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.registry import MethodEntry


def _create(**options: Any) -> FusionMethod:
    from hsfuse.fusion.methods.gsa.method import Gsa

    return Gsa(**options)


METHOD = MethodEntry(
    name="gsa",
    family="component substitution",
    summary="Gram-Schmidt adaptive, by groups of bands (Aiazzi 2007)",
    reference="Aiazzi 2007; Yokoya 2017",
    create=_create,
)
