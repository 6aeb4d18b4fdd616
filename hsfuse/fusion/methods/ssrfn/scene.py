"""A scene as the gate works on it: maximum a posteriori estimate, experts, and what follows the gate's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.degrade import Window
from hsfuse.degrade.windows import finer, inside
from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.classical.statistics import FloatMatrix
from hsfuse.fusion.diagnostics import RefinementRecord
from hsfuse.fusion.experts.bank import ExpertBank, TileState
from hsfuse.fusion.experts.canonical import CanonicalComponents
from hsfuse.fusion.experts.outside import OutsideSubspace
from hsfuse.fusion.experts.reduced_error import ReducedErrorWindow
from hsfuse.fusion.experts.tile import TileExperts
from hsfuse.fusion.map.degraded import DegradedWindow, degraded_strip
from hsfuse.fusion.map.method import ReducedFit, RefinedMethod
from hsfuse.fusion.map.posterior import MapEstimator
from hsfuse.fusion.map.prior import squared_misses, validated_gain
from hsfuse.fusion.map.refinement import (
    Refinement,
    RefinementKind,
    denoise_result,
    guide_variance,
    reference_step,
)
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.fusion.methods.ssrfn.streaming import TilePart
from hsfuse.fusion.mixing import mix
from hsfuse.fusion.scene_model.model import SceneModel
from hsfuse.parallel import side_by_side, threads_for

AGAIN, AGAIN_GUIDE = 0.2, 10.0
"""Factors on prior and guide error of the estimate that follows the gate; chosen on the validation sites."""
DISPLACED_SHARE = 0.25
"""Of the correction that is used where HSI and guide are displaced locally, without the last estimate: that one
believes the HSI where it is misplaced (0.3 dB lost on the validation sites). On training windows a quarter gained
0.5 dB where two sensors' models made them, and lost at most 0.06 dB where something else looked like displacement; half
of it lost up to 0.2 dB there, all of it 0.8 dB."""
SHARES = (1.0, 0.75, 0.5, 0.25)
"""Of the gate's correction that are tried at reduced resolution; none where all lose."""
LEAST_REDUCED_PIXELS = 900
"""Degraded HSI pixels from which experts can learn: a scene of 90 x 90 HSI pixels at a ratio of 3."""
DISPLACED_DB, LITTLE_DISPLACED_DB, DISPLACED_PX = 0.5, 1.5, 0.02
"""From where on the weights for displaced pairs are used: what held-out bands gain by taking the HSI's error for a
local displacement instead of for noise, the same where the least one that is tried gains most, and the displacement
that the HSI's misfit along the scene's slopes shows, HSI pixels. Experts learn from the pair how detail follows from
the guide. On the training and validation sites held-out bands gain at least 1.0 dB (2.5 dB with the least displacement)
where two sensors' models made the pair and at most 0.25 dB where a Gaussian and white noise did, on a whole simulated
scene 0.8 dB (the least); without noise it may be 4 dB, but then nothing is seen along the slopes (0.004 HSI pixels at
most, 0.036 at least with two sensors)."""
_LITTLE_PX = 0.05


@dataclass(frozen=True)
class GateScene:
    """What was learned from a scene, or from its degraded windows.

    Attributes
    ----------
    step
        Cleans the guide and makes the estimate.
    last
        The estimate that follows the gate; None: nothing follows.
    bank
        Experts.
    trust
        Share of what gate and last estimate change that a canonical component gets, shape (component,); None: all.
    outside
        What follows outside of the signal subspace from the result; None: that stays as the base method made it.
    last_pass
        Whether what noise the last estimate leaves is taken out of it, by :meth:`denoised`.
    """

    step: Refinement
    last: MapEstimator | None
    bank: ExpertBank
    trust: Tensor | None = None
    outside: OutsideSubspace | None = None
    last_pass: bool = False

    @classmethod
    def fit(
        cls, reduced_fit: ReducedFit, model: SceneModel, kind: RefinementKind, *, seed: int, device: str
    ) -> GateScene:
        """Learn from the scene; ``kind`` says whether the guide is cleaned."""
        return cls._make(reduced_fit, model, kind, seed=seed, device=device, reduced=None)

    def reduced(self, reduced_fit: ReducedFit, kind: RefinementKind, *, seed: int, device: str) -> GateScene:
        """Return the same for the degraded windows, with experts that learn from those."""
        return self._make(reduced_fit, self.bank.model, kind, seed=seed, device=device, reduced=self.bank.canonical)

    @classmethod
    def _make(
        cls, reduced_fit: ReducedFit, model: SceneModel, kind: RefinementKind, *, seed: int, device: str,
        reduced: CanonicalComponents | None,
    ) -> GateScene:  # fmt: skip
        prior, power = reduced_fit.prior, reduced_fit.power
        covariance, variance = prior.covariance, guide_variance(model, kind)
        aligned = reduced is not None

        def error(is_aligned: bool) -> FloatMatrix:
            return reduced_fit.low_hsi_error if is_aligned else reduced_fit.hsi_error

        def make(is_aligned: bool) -> Refinement:
            return Refinement.make(
                model, prior, power, kind=kind, hsi_error=error(is_aligned), device=device, aligned=is_aligned
            )  # fmt: skip

        step, trial = make(aligned), make(True)
        last = MapEstimator.make(
            model, AGAIN * covariance, AGAIN_GUIDE * variance, hsi_error=error(aligned), device=device, aligned=aligned
        )  # fmt: skip
        canonical = reduced or CanonicalComponents.make(model, step.first, power)
        strips = reduced_fit.strips
        learned: Sequence[ReducedErrorWindow] = ()
        if aligned:
            strips = [degraded_strip(window, model.ratio, model.psf) for window in reduced_fit.windows]
        else:
            learned = list(
                side_by_side(
                    lambda pair: _error_window(trial, canonical, reduced_fit.method, *pair),
                    zip(reduced_fit.windows, reduced_fit.fused, strict=True), threads_for(len(reduced_fit.windows)),
                )
            )  # fmt: skip
        bank = ExpertBank.fit(
            strips, model, covariance, variance, power, reduced_windows=learned, canonical=canonical, aligned=aligned,
            hsi_error=error(aligned), seed=seed, device=device,
        )  # fmt: skip
        return cls(step, last, bank)

    @classmethod
    def of_windows(
        cls, reduced_fit: ReducedFit, model: SceneModel, kind: RefinementKind, *, seed: int, device: str
    ) -> GateScene:
        """Return what :meth:`reduced` does, without learning from the scene itself."""
        step = Refinement.make(
            model, reduced_fit.prior, reduced_fit.power, kind=kind, hsi_error=reduced_fit.hsi_error, device=device
        )  # fmt: skip
        canonical = CanonicalComponents.make(model, step.first, reduced_fit.power)
        return cls._make(reduced_fit, model, kind, seed=seed, device=device, reduced=canonical)

    @staticmethod
    def displaced(record: RefinementRecord, model: SceneModel) -> bool:
        """Whether HSI and guide are displaced locally by more than the weights for other pairs bear."""
        least = DISPLACED_DB if record.displacement_px > _LITTLE_PX else LITTLE_DISPLACED_DB
        return record.displacement_gain_db > least and model.synthesis.jitter_px > DISPLACED_PX

    @staticmethod
    def testable(reduced_fit: ReducedFit) -> bool:
        """Whether experts can learn from the degraded windows."""
        return sum(window.low[0].size for window in reduced_fit.windows) >= LEAST_REDUCED_PIXELS

    def change(
        self, tile: TileState, network: Gate, *, best: bool, share: float = 1.0, part: TilePart | None = None,
        evidence: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Return what to add to the base estimate's components, shape (n, component, row, col).

        Parameters
        ----------
        tile
            A tile with its context.
        network
            The gate.
        best
            With non-local Bayes and other costly experts.
        share
            Of the correction that is used.
        part
            See :meth:`hsfuse.fusion.methods.ssrfn.network.Gate.forward`; the change is that of the wanted part.
        evidence
            What is known of the guide's change before the tile, see there.
        """
        correction = share * self._correction(tile, network, best, part, evidence)
        if part is not None and part.wanted != part.given:
            tile = _cut(tile, inside(part.wanted, part.given), self.bank.model.ratio)
        return self.held_back(tile, self.followed(tile, correction))

    def held_back(self, tile: TileState, change: Tensor) -> Tensor:
        """Keep the trusted share of what gate and last estimate change beyond the estimate; as of :meth:`change`."""
        if self.trust is None:
            return change
        canonical = self.bank.canonical
        more = mix(canonical.into, change - (tile.estimate - tile.start))
        return change - mix(canonical.out, (1.0 - self.trust)[:, None, None] * more)

    def _correction(
        self, tile: TileState, network: Gate, best: bool, part: TilePart | None = None, evidence: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        """What the network adds to the estimate, in canonical components."""
        shown = None if part is None or part.shown is None else inside(part.shown, part.given)
        asked = TileExperts(self.bank, tile, best=best, shown=shown)
        strength = self.bank.canonical.log_strength[None]
        made = network.ask(asked, strength, self.bank.model.ratio, part, evidence)
        if made is not None:
            return made
        result: Tensor = network(
            asked.state, asked.whole(), strength, self.bank.model.ratio, part, asked.asked, evidence
        )  # fmt: skip
        return result

    def followed(self, tile: TileState, correction: Tensor) -> Tensor:
        """Make the last estimate from a correction in canonical components; what to add as of :meth:`change`."""
        better = tile.estimate + mix(self.bank.canonical.out, correction)
        if self.last is not None:
            better = better + self.last.solve(tile.seen, tile.guide, better)
        return better - tile.start

    def denoised(self, start: Tensor, change: Tensor, shown: Window) -> Tensor:
        """Take what noise is left out of a result; as of :meth:`change` for a part of the tile, elsewhere as it was.

        Parameters
        ----------
        start, change
            Components of the base estimate and what is added to them, shape (n, component, row, col).
        shown
            The part, fine pixels.
        """
        canonical, (rows, cols) = self.bank.canonical, shown
        wanted = np.zeros(change.shape[2:], bool)
        wanted[rows, cols] = True
        x = mix(canonical.into, start + change)
        step = reference_step(self.bank.model.ratio)
        cleaned = torch.stack([denoise_result(image, step, wanted=wanted) for image in x])
        result = change.clone()
        result[..., rows, cols] += mix(canonical.out, (cleaned - x)[..., rows, cols])
        return result

    def best_share(self, reduced_fit: ReducedFit, network: Gate, *, best: bool) -> tuple[float, float]:
        """Choose how much of the gate's correction is used, on the degraded windows; of a :meth:`reduced` scene.

        Returns
        -------
        share : float
            Of :data:`SHARES`, or 0 where none gains over the estimate without a gate.
        gain : float
            Over that estimate, dB, mean over the bands; 0 without the gate.
        """

        # What no gradient is kept for is a matter of each thread.
        @torch.no_grad()
        def tried(pair: tuple[DegradedWindow, Tensor]) -> list[FloatMatrix]:
            """Return the squared misses of the estimate, then those with each share of the correction."""
            window, _ = pair
            tile, base = state_of(self.step, reduced_fit.method, *pair)
            correction = self._correction(tile, network, best)
            changes = [tile.estimate - tile.start, *(self.followed(tile, share * correction) for share in SHARES)]
            return [squared_misses(window, base + mix(self.step.back, change)) for change in changes]

        pairs = zip(reduced_fit.windows, reduced_fit.fused, strict=True)
        before, *after = zip(*side_by_side(tried, pairs, threads_for(len(reduced_fit.windows))), strict=True)
        gains = [validated_gain(reduced_fit.windows, before, one, self.bank.model) for one in after]
        chosen = int(np.argmax(gains))
        return (SHARES[chosen], gains[chosen]) if gains[chosen] > 0.0 else (0.0, 0.0)


def tile_state(step: Refinement, hsi: Tensor, guide: Tensor, raw_guide: Tensor, base: Tensor) -> TileState:
    """Make the maximum a posteriori estimate of a tile.

    Parameters
    ----------
    step
        Of the scene.
    hsi
        Shape (n, band, row, col).
    guide, raw_guide
        As cleaned and as measured, shape (n, msi band, row * ratio, col * ratio).
    base
        What the base method made of it, shape (n, band, row * ratio, col * ratio).
    """
    start = mix(step.forward, base) - (step.forward @ step.mean)[:, None, None]
    return tile_state_from(step, hsi, guide, raw_guide, start)


def tile_state_from(step: Refinement, hsi: Tensor, guide: Tensor, raw_guide: Tensor, start: Tensor) -> TileState:
    """As :func:`tile_state` from the base estimate's components, shape (n, component, row * ratio, col * ratio)."""
    seen = mix(step.forward, hsi) - (step.forward @ step.mean)[:, None, None]
    return TileState(seen, guide, raw_guide, start, start + step.first.solve(seen, guide, start))


def _cut(tile: TileState, window: Window, ratio: int) -> TileState:
    """Return a part of a tile, HSI pixels."""
    fine = finer(window, ratio)
    return TileState(
        tile.seen[..., *window], *(image[..., *fine].contiguous() for image in (tile.guide, tile.raw_guide)),
        *(image[..., *fine].contiguous() for image in (tile.start, tile.estimate)),
    )  # fmt: skip


def state_of(step: Refinement, method: FusionMethod, window: DegradedWindow, fused: Tensor) -> tuple[TileState, Tensor]:
    """State of a degraded window, and what the base method made of it."""
    low, raw = (
        torch.from_numpy(np.ascontiguousarray(image))[None].to(fused.device) for image in (window.low, window.guide)
    )
    guide = step.clean(raw)
    base = fused if guide is raw else method.fuse(low, guide).float()
    return tile_state(step, low, guide, raw, base), base


def _error_window(
    step: Refinement, canonical: CanonicalComponents, method: FusionMethod, window: DegradedWindow, fused: Tensor
) -> ReducedErrorWindow:
    tile, _ = state_of(step, method, window, fused)
    truth = torch.from_numpy(window.truth)[None].to(fused.device)
    estimate = mix(canonical.into, tile.estimate)
    missed = mix(canonical.into, mix(step.forward, truth) - (step.forward @ step.mean)[:, None, None]) - estimate
    counted: NDArray[np.bool_] = window.counted
    return ReducedErrorWindow(estimate, missed, counted)


def kind_of(base: RefinedMethod) -> RefinementKind:
    """How the guide is used: as the fitted estimate uses it, cleaned where the estimate is not used."""
    if base.step is not None:
        return "map" if base.step.guide_noise is None else "clean"
    model = base.scene_model
    return "clean" if model is not None and bool((model.guide_noise > 0).all()) else "map"


def refined_base(base: FusionMethod, ratio: int) -> RefinedMethod:
    """Return the base method with the step that the gate starts from, not yet fitted."""
    return RefinedMethod(base, "standard", ratio=ratio, keep_reduced_fit=True)
