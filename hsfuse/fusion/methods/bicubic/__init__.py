"""Cubic interpolation of the HSI alone."""

from __future__ import annotations

from typing import Any

from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.registry import MethodEntry


def _create(**options: Any) -> FusionMethod:
    from hsfuse.fusion.methods.bicubic.method import Bicubic

    return Bicubic(**options)


METHOD = MethodEntry(
    name="bicubic",
    family="interpolation",
    summary="cubic interpolation of the HSI alone: the baseline of every comparison",
    reference="Keys 1981",
    create=_create,
    uses_guide=False,
)
