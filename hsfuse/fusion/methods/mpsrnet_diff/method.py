"""MPSRNet-Diff behind the interface of every fusion method: sample the prior, then enlarge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from hsfuse.degrade import Window
from hsfuse.errors import HsfuseError
from hsfuse.fusion.base import FusionContext, LowResolutionStrip, ModelSpec, Precision
from hsfuse.fusion.classical.statistics import gather
from hsfuse.fusion.methods.mpsrnet_diff.config import MpsrnetSettings
from hsfuse.fusion.methods.mpsrnet_diff.low_rank import LowRankModel
from hsfuse.fusion.methods.mpsrnet_diff.sampling import MARGIN_PX, PriorSampler
from hsfuse.fusion.nets.diffusion.files import load_prior
from hsfuse.fusion.nets.diffusion.unet import PatchPrior
from hsfuse.fusion.nets.plain_network import PlainNetworkMethod
from hsfuse.fusion.nets.scene_statistics import SceneStatistics
from hsfuse.fusion.nets.weights import LoadedNetwork
from hsfuse.fusion.place import tile_places

RINGS = 2
"""Windows around a tile that are computed with it: what goes wrong in the outermost reaches the next, not the tile."""
_BYTES_PER_PIXEL = 12_000


class MpsrnetMethod(PlainNetworkMethod):
    """The network with its prior.

    Parameters
    ----------
    loaded
        The network.
    prior
        Weights of the diffusion prior; None: the one that comes with hsfuse.
    steps
        Steps in which it is sampled; None: as the network's settings say.
    reference
        Paper.
    precision
        Type of the arithmetic; float32 is the only one.
    validate
        Test the correction of a base estimate on the scene; False uses all of it.

    Raises
    ------
    UsageError
        The prior has another number of bands than the network needs, or cannot be sampled in so many steps.
    InputError
        It cannot be read.
    """

    def __init__(
        self, loaded: LoadedNetwork, *, prior: str | Path | None = None, steps: int | None = None, reference: str = "",
        precision: Precision = "fp32", validate: bool = True,
    ) -> None:  # fmt: skip
        self._settings = MpsrnetSettings.from_dict(loaded.header.config)
        side = self._settings.window_px
        super().__init__(
            loaded, statistics=True, halo_px=RINGS * side, multiple_px=side, preferred_tile_px=96,
            bytes_per_pixel=_BYTES_PER_PIXEL, reference=reference, precision=precision, validate=validate,
        )  # fmt: skip
        self._steps = steps or self._settings.prior_steps
        self._prior: PatchPrior | None = None
        if self._settings.use_prior:
            found = load_prior(None if prior is None else Path(prior), n_bands=self._settings.rank)
            self._prior = found.network
        self._sampler: PriorSampler | None = None

    @property
    def spec(self) -> ModelSpec:
        """The network's own, with what the prior costs."""
        spec = super().spec
        if self._prior is None:
            return replace(spec, precisions=("fp32",))
        weights = sum(p.numel() for p in self._prior.parameters())
        side = self._settings.window_px
        context = (1.0 + 2.0 * MARGIN_PX / side) ** 2
        # About a quarter of the weights works at every pixel of the first level, whose pixels are blocks.
        each = 0.25 * 2.0 * weights / self._prior.settings.fold**2
        return replace(spec, flop_per_pixel=spec.flop_per_pixel + self._steps * context * each, precisions=("fp32",))

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        """Check the scene, take its statistics and its low-rank model; test the correction on the scene.

        Raises
        ------
        UsageError
            Bands or ratio are not those that the network was trained for.
        """
        strips = list(strips)
        if self._prior is not None:
            model = LowRankModel.of(gather(strips), self._settings.rank, context.device)
            self._sampler = PriorSampler(
                self._prior.to(context.device), model, context.psf, context.ratio, self._settings.window_px,
                self._steps, context.seed,
            )  # fmt: skip
        super().fit(context, strips)
        found = None if self._base is None else self._base.diagnostics.calibration
        if self._sampler is not None and found is not None:
            self._sampler = replace(self._sampler, psf=found.psf)

    def fuse(self, hsi: Tensor, msi: Tensor) -> Tensor:
        """Fuse (tile, band, row, col) with (tile, guide band, row * ratio, col * ratio)."""
        return self.fuse_window(hsi, msi, (slice(0, hsi.shape[-2]), slice(0, hsi.shape[-1])))

    @torch.inference_mode()
    def fuse_window(self, hsi: Tensor, msi: Tensor, window: Window) -> Tensor:
        """As :meth:`fuse`; the prior is sampled where the wanted part needs it."""
        if self._scene is None:
            raise HsfuseError("The fusion method was not fitted to the scene.", hint="Call fit() before fuse().")
        hsi, msi = hsi.float(), msi.float()
        ratio = msi.shape[-1] // hsi.shape[-1]
        rows, cols = (slice(part.start * ratio, part.stop * ratio) for part in window)
        if self._base is None:
            made: Tensor = self._network(hsi, msi, self._scene, None, self._prior_cube(hsi, msi, window, self._steps))
            return made[..., rows, cols]
        estimate = self._base.fuse(hsi, msi).float()
        if self._validation is not None and not self._validation.share.any():
            return estimate[..., rows, cols]
        prior = self._prior_cube(hsi, msi, window, self._steps)
        change = (self._network(hsi, msi, self._scene, estimate, prior) - estimate)[..., rows, cols]
        return estimate[..., rows, cols] + (change if self._share is None else self._share * change)

    def _call(self, hsi: Tensor, msi: Tensor, scene: SceneStatistics, estimate: Tensor | None) -> Tensor:
        """Call the network on windows that lie nowhere in the scene: to count its work, and to test its correction."""
        whole = slice(0, hsi.shape[-2]), slice(0, hsi.shape[-1])
        prior = self._prior_cube(hsi, msi, whole, self._settings.training_steps)
        out: Tensor = self._network(hsi, msi, scene, estimate, prior)
        return out

    def _prior_cube(self, hsi: Tensor, msi: Tensor, window: Window, steps: int) -> Tensor | None:
        """Prior cubes of tiles, sampled in the window and one ring of sampling windows around it."""
        if self._sampler is None:
            return None
        sampler, side = replace(self._sampler, steps=steps), self._settings.window_px
        rows, cols = (
            slice(max(part.start - side, 0), min(part.stop + side, size))
            for part, size in zip(window, hsi.shape[-2:], strict=True)
        )
        return torch.stack([
            sampler.cube(low, guide, place, rows, cols)
            for low, guide, place in zip(hsi, msi, tile_places(len(hsi)), strict=True)
        ])  # fmt: skip
