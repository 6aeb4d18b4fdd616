"""The gate behind the interface of every fusion method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hsfuse.degrade import Window
from hsfuse.degrade.windows import finer, grown, inside, whole
from hsfuse.errors import HsfuseError, UsageError
from hsfuse.fusion.base import (
    CHANGE_IMAGES,
    ComponentFusion,
    FusionContext,
    FusionMethod,
    GuideFilter,
    LowResolutionStrip,
    ModelSpec,
    NetworkMethod,
    Precision,
    Quality,
)
from hsfuse.fusion.create import create_method
from hsfuse.fusion.diagnostics import CorrectionValidation, MethodDiagnostics
from hsfuse.fusion.experts.bank import TileState
from hsfuse.fusion.experts.outside import OutsideSubspace
from hsfuse.fusion.experts.tile import evaluate
from hsfuse.fusion.host import may_ask
from hsfuse.fusion.map.method import RefinedMethod, refined
from hsfuse.fusion.map.refinement import Refinement, nonlocal_halo_px
from hsfuse.fusion.methods.ssrfn.config import ARCHITECTURE, BASE, GateConfig
from hsfuse.fusion.methods.ssrfn.description import after_px, base_halo_px, describe, experts_px
from hsfuse.fusion.methods.ssrfn.guard import supported_shares
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.fusion.methods.ssrfn.scene import (
    DISPLACED_SHARE,
    GateScene,
    kind_of,
    refined_base,
    tile_state,
    tile_state_from,
)
from hsfuse.fusion.methods.ssrfn.streaming import TilePart
from hsfuse.fusion.mixing import mix
from hsfuse.fusion.moving import moved
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.weights import LoadedNetwork
from hsfuse.fusion.scene_model.model import SceneModel
from hsfuse.log import get_logger

MIN_BANDS = 8
"""With fewer bands there is next to nothing that the guide does not say."""
_Bands = Callable[[Tensor, Window, Window], Tensor]
"""From a change of the components, where it lies in them and in the tile, to bands."""
_log = get_logger(__name__)


class GateMethod(NetworkMethod):
    """A network that weighs the experts of a scene.

    Parameters
    ----------
    network
        With its weights.
    name
        Name on the command line.
    header, sha256
        Description that came with the weights, and the hash of their file.
    precision
        Type of the arithmetic; float32 only.
    quality
        ``best`` asks non-local Bayes too.
    validate
        Use as much of the gate's correction as gains most on the scene at reduced resolution, none where it loses, on
        scenes that are large enough to tell; none where HSI and guide are displaced locally.
    """

    architecture = ARCHITECTURE

    def __init__(
        self,
        network: Gate,
        *,
        name: str = "ssrfn-lite",
        header: NetworkHeader | None = None,
        sha256: str | None = None,
        precision: Precision = "fp32",
        quality: Quality = "standard",
        validate: bool = True,
    ) -> None:
        if precision != "fp32":
            raise UsageError(f"The gate does not run in precision '{precision}'.", hint="Choose fp32.")
        self._network = self._used = network.eval()
        self._name, self._header, self._sha256 = name, header, sha256
        self._quality, self._validate = quality, validate
        self._base: RefinedMethod | None = None
        self._scene: GateScene | None = None
        self._validation: CorrectionValidation | None = None
        self._ratio, self._share, self._filtered = 3, 1.0, False
        self._told_change = False
        self._inside: ComponentFusion | None = None

    @classmethod
    def from_loaded(cls, loaded: LoadedNetwork, **options: Any) -> GateMethod:
        """Take a network that was loaded with its weights."""
        if not isinstance(loaded.network, Gate):
            raise UsageError(f"The weights '{loaded.header.name}' are not those of a gate.")
        return cls(loaded.network, name=loaded.header.name, header=loaded.header, sha256=loaded.sha256, **options)

    @classmethod
    def untrained(cls, config: GateConfig | None = None, **options: Any) -> GateMethod:
        """Make a method with constant weights: for tests and benchmarks only, never for a product."""
        return cls(Gate(config or GateConfig()), **options)

    @property
    def network(self) -> Gate:
        """The network itself (for training)."""
        return self._network

    def at_quality(self, quality: Quality) -> FusionMethod:
        """``fast`` is the base method with the maximum a posteriori step, without a network."""
        if quality == "fast":
            return refined(create_method(BASE), "fast")
        return GateMethod(
            self._network, name=self._name, header=self._header, sha256=self._sha256, quality=quality,
            validate=self._validate,
        )  # fmt: skip

    @property
    def displaced(self) -> bool:
        """Whether the pair that it was fitted to is displaced locally."""
        if self._base is None or self._base.refinement is None or self._base.scene_model is None:
            return False
        return GateScene.displaced(self._base.refinement, self._base.scene_model)

    @property
    def scene_model(self) -> SceneModel | None:
        """What is known about the pair; None before the fit."""
        return None if self._base is None else self._base.scene_model

    @property
    def diagnostics(self) -> MethodDiagnostics:
        """Those of the estimate that the gate starts from, and the test of the gate."""
        found = MethodDiagnostics() if self._base is None else self._base.diagnostics
        return replace(found, validation=self._validation)

    @property
    def spec(self) -> ModelSpec:
        """Self-description; after the fit with the context that is needed then."""
        left_out = self._base is not None and self._validation is not None and self._scene is None
        return describe(
            self._network.config, self._network.blocks, name=self._name, sha256=self._sha256, quality=self._quality,
            ratio=self._ratio, filtered=self._filtered,
            estimate=self._base.spec if self._base is not None and left_out else None,
        )  # fmt: skip

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        """Fit the estimate and the experts, and test the gate at reduced resolution; all of it on the processor."""
        self._network.to("cpu")
        self._learn(replace(context, device="cpu"), list(strips))
        self._base, self._scene = moved((self._base, self._scene), context.device)
        self._network.to(context.device)
        if self._base is not None and self._scene is not None:
            step = self._scene.step
            self._inside = self._base.inner.components_of(step.mean, step.forward, step.back)

    def _learn(self, context: FusionContext, strips: Sequence[LowResolutionStrip]) -> None:
        self._ratio, self._scene, self._share, self._inside = context.ratio, None, 1.0, None
        self._used = self._network
        self._base = refined_base(create_method(BASE), context.ratio)
        self._base.fit(context, strips)
        reduced_fit, model = self._base.take_reduced_fit(), self._base.scene_model
        bands = context.centre_nm.size
        # A scene that cannot tell leaves it open; one without experts uses nothing of the gate.
        self._validation = None
        if reduced_fit is None or model is None or bands < MIN_BANDS:
            self._validation = CorrectionValidation.untested(bands)
            _log.warning("%s: the scene is too small or has too few bands for experts; the estimate stays.", self._name)
            return
        if self.displaced:
            # A training learns from displaced windows too.
            if self._network.displaced is None and self._validate:
                self._validation = CorrectionValidation.untested(bands)
                _log.warning("%s: HSI and guide are displaced locally, and there are no weights for such pairs; the "
                          "estimate stays.", self._name)  # fmt: skip
                return
            self._used = self._network.displaced or self._network
        kind = kind_of(self._base)
        scene = GateScene.fit(reduced_fit, model, kind, seed=context.seed, device=context.device)
        if self.displaced and self._validate:
            # One level down displacement is too small to tell anything.
            self._share, scene = DISPLACED_SHARE, replace(scene, last=None)
        elif self._validate and scene.testable(reduced_fit):
            self._share, gain = scene.reduced(reduced_fit, kind, seed=context.seed, device=context.device).best_share(
                reduced_fit, self._used, best=self._quality == "best"
            )
            shares = np.full(bands, self._share, np.float32)
            self._validation = CorrectionValidation(shares, gain, len(reduced_fit.windows))
            _log.info("%s: %.2f dB over the estimate at reduced resolution with %g of the correction.",
                      self._name, gain, self._share)  # fmt: skip
            if self._share == 0.0:
                return
        if self._validate and self._validation is None:
            scene = self._guarded(scene, strips)
        outside = OutsideSubspace.fit(
            strips, model, best=self._quality == "best", seed=context.seed, device=context.device
        )  # fmt: skip
        self._scene = replace(
            scene, outside=outside, last_pass=self._quality == "best" and not self.displaced
        )  # fmt: skip

    def _guarded(self, scene: GateScene, strips: Sequence[LowResolutionStrip]) -> GateScene:
        """Hold back what a scene that could not be tried at reduced resolution does not support."""
        if self._base is None:
            return scene
        trust = supported_shares(
            scene, self._base.inner, self._used, strips, best=self._quality == "best", share=self._share
        )
        if trust is not None:
            told = ", ".join(f"{share:.2f}" for share in trust.tolist())
            _log.info("%s: too small a scene to try the correction on; its components get these shares of it: %s.",
                      self._name, told)  # fmt: skip
        return replace(scene, trust=trust)

    def guide_filter(self) -> GuideFilter | None:
        """Return the cleaning of the guide, if there is one, and the method for a guide cleaned and as measured."""
        if self._base is None or self._scene is None:
            return None if self._base is None else self._base.guide_filter()
        step = self._scene.step
        if self._filtered or not step.cleans:
            return None
        rest = copy(self)
        rest._filtered = True
        return GuideFilter(step.clean, nonlocal_halo_px(self._ratio), rest, keeps_raw=True)

    def change_aware(self) -> FusionMethod | None:
        """Return the method for a guide with its change behind it, if the weights that are used know any."""
        if self._scene is None or self._used.change is None:
            return None
        rest = copy(self)
        rest._told_change = True
        return rest

    @torch.no_grad()
    def expert_outputs(self, hsi: Tensor, msi: Tensor) -> tuple[GateScene, TileState, Tensor, Tensor, Tensor] | None:
        """Return what a training needs of one tile; None where there are no experts.

        Returns
        -------
        scene, tile : GateScene, TileState
            What was learned from the scene, and the tile.
        base, state, outputs : Tensor
            Base estimate (1, band, row, col), and what :func:`~hsfuse.fusion.experts.tile.evaluate` returns.
        """
        if self._base is None or self._scene is None:
            return None
        step = self._scene.step
        guide = step.clean(msi.float())
        base = self._base.inner.fuse(hsi.float(), guide)
        tile = tile_state(step, hsi.float(), guide, msi.float(), base)
        state, outputs = evaluate(self._scene.bank, tile)
        return self._scene, tile, base, state, outputs

    def fuse(self, hsi: Tensor, msi: Tensor) -> Tensor:
        """Fuse (tile, band, row, col) with (tile, msi band, row * ratio, col * ratio)."""
        return self.fuse_window(hsi, msi, whole(hsi))

    @torch.no_grad()
    def fuse_window(self, hsi: Tensor, msi: Tensor, window: Window) -> Tensor:
        """As :meth:`fuse` for a part of the tile; the gate's own context is computed around it."""
        if self._base is None:
            raise HsfuseError("The fusion method was not fitted to the scene.", hint="Call fit() before fuse().")
        scene, evidence = self._scene, None
        if self._told_change:
            msi, evidence = msi[:, :-CHANGE_IMAGES], msi[:, -CHANGE_IMAGES:]
        if scene is None:
            return self._base.fuse_window(hsi, msi, window)
        part = self._part(window, (hsi.shape[2], hsi.shape[3]))
        # What a whole number of blocks reads beyond that is not needed.
        evidence = _changed(evidence, finer(part.given, self._ratio))
        seen = grown(part.given, base_halo_px(self._ratio, filtered=self._filtered), part.size)
        hsi, msi = hsi[..., *seen].float(), msi[..., *finer(seen, self._ratio)].float()
        guide, raw = msi.chunk(2, dim=1) if self._filtered else (scene.step.clean(msi), msi)
        wide, own = inside(part.given, seen), inside(window, seen)
        fine = finer(wide, self._ratio)
        shown, there = (finer(inside(window, outer), self._ratio) for outer in (part.wanted, part.given))
        results = []
        for number in range(len(hsi)):
            one = slice(number, number + 1)
            start, bands = self._started(hsi[one], guide[one], wide, scene.step)
            tile = tile_state_from(
                scene.step, hsi[one, :, *wide], guide[one, :, *fine], raw[one, :, *fine], start
            )  # fmt: skip
            change = scene.change(
                tile, self._used, best=self._quality == "best", share=self._share, part=part,
                evidence=None if evidence is None else evidence[one],
            )  # fmt: skip
            if scene.last_pass:
                here = finer(inside(part.wanted, part.given), self._ratio)
                change = scene.denoised(start[..., *here], change, shown)
            # The bands may be made in the place of the components.
            components = None if scene.outside is None else start[..., *there] + change[..., *shown]
            result = bands(change[..., *shown], there, own)
            if scene.outside is not None and components is not None:
                scene.outside.add_to(result, components)
            results.append(result)
        # One tile, as a processor is given, is not copied: with all bands it is the largest array of the fusion.
        return results[0] if len(results) == 1 else torch.cat(results)

    def _started(self, hsi: Tensor, guide: Tensor, wide: Window, step: Refinement) -> tuple[Tensor, _Bands]:
        """Components of the base estimate, and what makes bands of it and a change of a part of it."""
        if self._base is None:
            raise HsfuseError("The fusion method was not fitted to the scene.", hint="Call fit() before fuse().")
        if self._inside is None:
            base = self._base.inner.fuse_window(hsi, guide, wide).contiguous()
            start = mix(step.forward, base) - (step.forward @ step.mean)[:, None, None]
            return start, lambda change, shown, _: base[..., *shown] + mix(step.back, change.contiguous())
        inner = self._inside
        components, outside = inner.components(hsi, guide, wide)

        def bands(change: Tensor, shown: Window, window: Window) -> Tensor:
            part = components[..., *shown].contiguous()
            part[:, :-1] += change
            return inner.bands(part, outside, window)

        return components[:, :-1].contiguous(), bands

    def _part(self, window: Window, size: tuple[int, int]) -> TilePart:
        """Return what of a tile the experts work on for a window, and what the network is asked for."""
        blocks, experts = self._network.blocks, experts_px(self._quality, self._ratio)
        wanted = grown(window, after_px(self._quality, self._ratio), size)
        if blocks is None:
            shown = grown(wanted, -(-self._network.reach_px // self._ratio), size)
            return TilePart(size, grown(wanted, experts, size), wanted, shown)
        shown = blocks.needed(wanted, size)
        return TilePart(size, grown(shown, experts, size), wanted, shown)


def _changed(evidence: Tensor | None, part: Window) -> Tensor | None:
    """Cut out a part of what is known of the change; None where a processor sees that nothing changed."""
    if evidence is None:
        return None
    here = evidence[..., *part].float()
    return None if may_ask(here) and not bool(here.any()) else here
