"""Coupled non-negative matrix factorisation."""

from __future__ import annotations

from typing import Any

from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.registry import MethodEntry


def _create(**options: Any) -> FusionMethod:
    from hsfuse.fusion.methods.cnmf.method import Cnmf

    return Cnmf(**options)


METHOD = MethodEntry(
    name="cnmf",
    family="matrix factorisation",
    summary="coupled non-negative matrix factorisation (Yokoya 2012)",
    reference="Yokoya 2012",
    create=_create,
)
