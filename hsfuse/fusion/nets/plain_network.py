"""Networks that turn HSI and MSI into the cube in one call, behind the interface of every fusion method."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hsfuse.errors import HsfuseError, UsageError
from hsfuse.fusion.base import FusionContext, LowResolutionStrip, ModelSpec, NetworkMethod, Precision
from hsfuse.fusion.classical.statistics import gather
from hsfuse.fusion.nets.scene_check import check_scene
from hsfuse.fusion.nets.scene_statistics import SceneStatistics
from hsfuse.fusion.nets.weights import LoadedNetwork

TYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
_COUNTED_PX = 16
"""Side of the HSI for which operations are counted; a multiple of usual windows."""


class PlainNetworkMethod(NetworkMethod):
    """A network without a base estimate.

    Parameters
    ----------
    loaded
        The network with its weights. It is called as ``network(hsi, msi)`` with reflectance, shapes
        (n, band, row, col) and (n, msi band, row * ratio, col * ratio), and returns the cube, (n, band, row * ratio,
        col * ratio).
    statistics
        Call it as ``network(hsi, msi, statistics)`` with :class:`SceneStatistics` of the whole scene: a network that
        scaled every tile by its own statistics would leave seams.
    halo_px
        How far it looks around a pixel, HSI pixels; weights may say otherwise.
    overlap_px, multiple_px, preferred_tile_px, bytes_per_pixel
        See :class:`hsfuse.fusion.base.ModelSpec`.
    reference
        Paper or source.
    precision
        Type of its arithmetic.
    """

    def __init__(
        self,
        loaded: LoadedNetwork,
        *,
        statistics: bool = False,
        halo_px: int = 4,
        overlap_px: int = 0,
        multiple_px: int = 1,
        preferred_tile_px: int = 64,
        bytes_per_pixel: int = 4000,
        reference: str = "",
        precision: Precision = "fp32",
    ) -> None:
        self._network, self._header, self._sha256 = loaded.network.eval(), loaded.header, loaded.sha256
        self.architecture = loaded.header.architecture
        self._takes_statistics = statistics
        self._tiling = (loaded.header.halo_px or halo_px, loaded.header.overlap_px or overlap_px, multiple_px)
        self._tile, self._bytes = preferred_tile_px, bytes_per_pixel
        self._reference, self._precision = reference, precision
        self._scene: SceneStatistics | None = None

    @property
    def network(self) -> nn.Module:
        """The network itself."""
        return self._network

    @property
    def spec(self) -> ModelSpec:
        """Self-description."""
        halo, overlap, multiple = self._tiling
        header = self._header
        return ModelSpec(
            name=header.name,
            kind="network",
            halo_px=halo,
            overlap_px=overlap,
            multiple_px=multiple,
            preferred_tile_px=self._tile,
            bytes_per_pixel=self._bytes,
            flop_per_pixel=self._flop_per_pixel,
            centre_nm=header.centre_nm or None,
            ratios=header.ratios or None,
            n_msi=header.n_msi or None,
            precisions=tuple(TYPES),
            precision=self._precision,
            reference=self._reference,
            weights_sha256=self._sha256,
        )

    @cached_property
    def _flop_per_pixel(self) -> float:
        """Operations per fine pixel, counted in one call."""
        header = self._header
        ratio, bands = (header.ratios or (3,))[0], len(header.centre_nm) or 100
        weight = next(self._network.parameters())
        side = -(-_COUNTED_PX // self._tiling[2]) * self._tiling[2]
        hsi = torch.zeros(1, bands, side, side, dtype=weight.dtype, device=weight.device)
        msi = hsi.new_zeros(1, header.n_msi or 4, side * ratio, side * ratio)
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), counter:
            self._call(hsi, msi, SceneStatistics.of(hsi, msi))
        return float(counter.get_total_flops()) / (side * ratio) ** 2

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        """Check the scene and take its statistics.

        Raises
        ------
        UsageError
            Bands or ratio are not those that the network was trained for.
        """
        check_scene(self._header, context)
        self._scene = SceneStatistics.of_pair(gather(strips), context.device)
        self._network.to(device=context.device, dtype=TYPES[self._precision])

    @torch.inference_mode()
    def fuse(self, hsi: Tensor, msi: Tensor) -> Tensor:
        """Fuse (tile, band, row, col) with (tile, msi band, row * ratio, col * ratio)."""
        if self._scene is None:
            raise HsfuseError("The fusion method was not fitted to the scene.", hint="Call fit() before fuse().")
        kind = TYPES[self._precision]
        fused = self._call(hsi.to(kind), msi.to(kind), self._scene).float()
        expected = (*hsi.shape[:2], *msi.shape[2:])
        if fused.shape != expected:
            raise UsageError(f"The network '{self._header.name}' returned {tuple(fused.shape)} instead of {expected}.")
        return fused

    def _call(self, hsi: Tensor, msi: Tensor, scene: SceneStatistics) -> Tensor:
        out: Tensor = self._network(hsi, msi, scene) if self._takes_statistics else self._network(hsi, msi)
        return out
