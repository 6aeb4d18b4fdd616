"""SSRFN as published behind the interface of every fusion method."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from hsfuse.errors import UsageError
from hsfuse.fusion.base import ModelSpec, Precision
from hsfuse.fusion.methods.ssrfn_paper.config import REFERENCE
from hsfuse.fusion.methods.ssrfn_paper.cost import bytes_per_pixel, flop_per_pixel, host_bytes_per_pixel, reach_px
from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn
from hsfuse.fusion.nets.native.build import native_library
from hsfuse.fusion.nets.plain_network import PlainNetworkMethod
from hsfuse.fusion.nets.weights import LoadedNetwork

_OVERLAP_PX, _TILE_PX = 2, 128
_SAMPLE_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2}


class SsrfnMethod(PlainNetworkMethod):
    """SSRFN on a scene; its raster scan carries what it saw from row to row of a tile.

    Parameters
    ----------
    loaded
        The network with its weights.
    precision
        Type of its arithmetic.
    **options
        Of :class:`hsfuse.fusion.nets.plain_network.PlainNetworkMethod`.

    Raises
    ------
    UsageError
        The weights are not those of an SSRFN.
    """

    def __init__(self, loaded: LoadedNetwork, *, precision: Precision = "fp32", **options: Any) -> None:
        if not isinstance(loaded.network, Ssrfn):
            raise UsageError(f"The weights '{loaded.header.name}' are not those of an SSRFN.")
        self._config, self._sample_bytes = loaded.network.config, _SAMPLE_BYTES[precision]
        super().__init__(
            loaded, statistics=True, halo_px=reach_px(self._config), overlap_px=_OVERLAP_PX, preferred_tile_px=_TILE_PX,
            bytes_per_pixel=bytes_per_pixel(self._config, self._sample_bytes), reference=REFERENCE,
            precision=precision, **options,
        )  # fmt: skip

    @property
    def spec(self) -> ModelSpec:
        """Self-description."""
        held = host_bytes_per_pixel(self._config, self._sample_bytes, compiled=native_library() is not None)
        return replace(super().spec, host_bytes_per_pixel=held)

    @cached_property
    def _flop_per_pixel(self) -> float:
        """Operations per fine pixel; a call to count them would take seconds."""
        return flop_per_pixel(self._config, (self._header.ratios or (3,))[0])
