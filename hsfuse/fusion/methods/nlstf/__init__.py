"""NLSTF: alike patches share dictionaries for rows, columns and spectrum; each is a sparse tensor product of those."""

from __future__ import annotations

from typing import Any

from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.registry import MethodEntry


def _create(**options: Any) -> FusionMethod:
    from hsfuse.fusion.methods.nlstf.method import Nlstf

    return Nlstf(**options)


METHOD = MethodEntry(
    name="nlstf",
    family="tensor factorisation",
    summary="non-local sparse tensor factorisation of clustered patches (Dian 2017, 2020)",
    reference="Dian et al., CVPR 2017; IEEE TNNLS 31 (2020)",
    licence="code for non-commercial research",
    create=_create,
    variants=(),
)
