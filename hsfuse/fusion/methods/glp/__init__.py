"""Generalised Laplacian pyramid with all MSI bands."""

from __future__ import annotations

from typing import Any

from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.registry import MethodEntry


def _create(**options: Any) -> FusionMethod:
    from hsfuse.fusion.methods.glp.method import Glp

    return Glp(**options)


METHOD = MethodEntry(
    name="glp",
    family="multiresolution analysis",
    summary="generalised Laplacian pyramid with all MSI bands (GLP-HS)",
    reference="Aiazzi 2006; Selva 2015",
    create=_create,
    auto_rank=0,
    variants=("adaptive=false", ""),
)
