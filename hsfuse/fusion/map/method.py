"""A fusion method with a maximum a posteriori step behind it, used where the scene itself shows that it gains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hsfuse.degrade import NO_OFFSET, Window
from hsfuse.errors import HsfuseError
from hsfuse.fusion.base import (
    ComponentFusion,
    FusionContext,
    FusionMethod,
    GuideFilter,
    LowResolutionStrip,
    ModelSpec,
    Quality,
)
from hsfuse.fusion.classical.statistics import FloatMatrix
from hsfuse.fusion.diagnostics import REFINEMENTS, Calibration, MethodDiagnostics, RefinementRecord
from hsfuse.fusion.map.component_statistics import component_power, slope_covariance, slope_covariance_low
from hsfuse.fusion.map.degraded import DegradedWindow, degraded_windows
from hsfuse.fusion.map.held_out import HeldOutBands
from hsfuse.fusion.map.posterior import HALO_PX
from hsfuse.fusion.map.prior import (
    ErrorPrior,
    error_prior,
    fresh_copy,
    fuse_windows,
    squared_misses,
    validated_gain,
)
from hsfuse.fusion.map.refinement import (
    NOISE_LEFT,
    Refinement,
    RefinementKind,
    component_halo_px,
    filter_halo_px,
    nonlocal_halo_px,
)
from hsfuse.fusion.scene_model.model import SceneModel, estimate_scene_model
from hsfuse.log import get_logger
from hsfuse.parallel import side_by_side, together

if TYPE_CHECKING:
    import torch

KINDS: dict[Quality, tuple[RefinementKind, ...]] = {
    "fast": ("map", "filter"), "standard": ("map", "clean"), "best": ("map", "clean", "nonlocal"),
}  # fmt: skip
"""What each quality tries; the one that gains most at reduced resolution is used."""
DISPLACEMENTS_PX = (0.0, 0.05, 0.1, 0.17, 0.3, 0.55)
"""Local displacements of the HSI that are tried, standard deviation in HSI pixels: what they would add to its noise is
what its response leaves unexplained."""
MIN_GAIN_DB, MIN_HELD_OUT_DB, MOST_LOSS_DB = 0.05, 0.02, 0.06
"""What the step must gain to be used, at reduced resolution and, where the HSI departs from its response, on MSI bands
that were held out; what it may lose on these where the HSI does not."""
_SHARE_OF_BEST = 0.3
"""Of the best gain on held-out bands, what a displacement gains there, at least, to be tried at reduced resolution."""
NONLOCAL_DB = 0.1
"""What non-local Bayes of the components must gain on the held-out bands beyond what the estimate on a cleaned guide
does, where the HSI departs from its response: there it lost up to 0.6 dB on validation sites."""
NONLOCAL_SHORT_DB = 0.1
"""What it may stay behind at reduced resolution where the HSI does not: patches are fewer there by the square of the
ratio. On 19 tuning cubes (35 dB) it gains 0.28 dB, at worst it loses 0.03; on nine of them, which gain as much, it was
refused by held-out bands or by less than this."""
_TILE_PX = 128
_log = get_logger(__name__)


@dataclass(frozen=True)
class ReducedFit:
    """What a fit tried at reduced resolution, for steps that go on from there.

    Attributes
    ----------
    strips
        The scene at low resolution, the MSI as blur and shift make it.
    windows, method, fused
        Degraded windows, the method that was fitted to them, and what it made of each, shape (1, band, row, col).
    prior, power
        Error of the method, and covariance of the HSI's components.
    hsi_error, low_hsi_error
        Covariance of what the HSI's response leaves unexplained, of the scene and of the degraded windows, shape
        (component, component).
    """

    strips: list[LowResolutionStrip]
    windows: list[DegradedWindow]
    method: FusionMethod
    fused: list[torch.Tensor]
    prior: ErrorPrior
    power: FloatMatrix
    hsi_error: FloatMatrix
    low_hsi_error: FloatMatrix


class RefinedMethod(FusionMethod):
    """A method whose result is brought closer to both measurements.

    Parameters
    ----------
    method
        What makes the base estimate; not yet fitted.
    quality
        How much is spent.
    ratio
        That of the scene, when it is known before the fit.
    keep_reduced_fit
        Keep what the fit tries at reduced resolution until :meth:`take_reduced_fit`; it is as large as the HSI.
    """

    def __init__(
        self, method: FusionMethod, quality: Quality = "standard", *, ratio: int = 2, keep_reduced_fit: bool = False
    ) -> None:
        self._method, self._quality, self._ratio = method, quality, ratio
        self._fitted = False
        self._refinement: Refinement | None = None
        self._record: RefinementRecord | None = None
        self._model: SceneModel | None = None
        self._keep = keep_reduced_fit
        self._reduced_fit: ReducedFit | None = None
        self._inside: ComponentFusion | None = None

    def take_reduced_fit(self) -> ReducedFit | None:
        """Hand over what the fit tried at reduced resolution, once; None where nothing could be tried."""
        reduced_fit, self._reduced_fit = self._reduced_fit, None
        return reduced_fit

    @property
    def step(self) -> Refinement | None:
        """What is done behind the method; None where it does not gain."""
        return self._refinement

    @property
    def inner(self) -> FusionMethod:
        """The method without the step."""
        return self._method

    def around(self, method: FusionMethod) -> RefinedMethod:
        """Return the same step behind another method, not yet fitted."""
        return RefinedMethod(method, self._quality, ratio=self._ratio)

    @property
    def scene_model(self) -> SceneModel | None:
        """What is known about the pair; None before the fit."""
        return self._model

    @property
    def diagnostics(self) -> MethodDiagnostics:
        """Those of the method."""
        found, model = self._method.diagnostics, self._model
        calibration = found.calibration
        if calibration is None and model is not None and model.alignment_source != "given":
            calibration = Calibration(model.psf, model.offset_px)
        return replace(found, calibration=calibration, refinement=self._record)

    @property
    def refinement(self) -> RefinementRecord | None:
        """What was decided on the scene; None before the fit."""
        return self._record

    @property
    def _halo_px(self) -> int:
        if self._fitted and self._record is not None:
            step = self._refinement
            return 0 if step is None else step.cleaning_halo_px + step.halo_px
        standard = HALO_PX + nonlocal_halo_px(self._ratio)
        best = standard + HALO_PX + component_halo_px(self._ratio)
        return {"fast": HALO_PX + filter_halo_px(self._ratio), "standard": standard, "best": best}[self._quality]

    @property
    def spec(self) -> ModelSpec:
        """The method's own description with the context and memory that the step needs."""
        inner = self._method.spec
        more = {"fast": 700, "standard": 900, "best": 1600}[self._quality]
        work = {"fast": 1.2e4, "standard": 2.8e4, "best": 2e5}[self._quality]
        on_host = inner.host_bytes_per_pixel
        return replace(
            inner,
            halo_px=inner.halo_px + self._halo_px,
            # The repaired guide and the confidence of the whole scene are in memory too: rows of smaller tiles.
            preferred_tile_px=min(inner.preferred_tile_px, _TILE_PX),
            bytes_per_pixel=inner.bytes_per_pixel + more,
            host_bytes_per_pixel=None if on_host is None else on_host + more,
            flop_per_pixel=inner.flop_per_pixel + work,
        )

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        """Fit the method, learn how wrong it is on this scene, and decide whether the step is used."""
        strips = list(strips)
        fresh = fresh_copy(self._method)
        self._ratio = context.ratio
        self._method.fit(context, strips)
        self._fitted = True
        found = self._method.diagnostics.calibration
        self._model, aligned = estimate_scene_model(strips, context, calibration=found)
        if found is None and self._model.alignment_source != "given" and self._method.spec.kind == "classical":
            # What the method could not find it is told.
            model = self._model
            context = replace(context, psf=model.psf, offset_px=model.offset_px, calibrate=False)
            self._method.fit(context, strips)
        self._refinement, self._record = self._decide(fresh, aligned, context, self._model)
        step = self._refinement
        if step is not None and step.kind != "map" and self._method.spec.kind == "classical":
            if found is not None and found.offset_px != NO_OFFSET:
                # Blur and shift need not be searched for once more.
                context = replace(context, psf=found.psf, offset_px=found.offset_px, calibrate=False)
            self._method.fit(replace(context, guide_noise_left=NOISE_LEFT[step.kind]), strips)
        if step is not None:
            self._inside = self._method.components_of(step.mean, step.forward, step.back)
        gain = self._record.gain_db.get(self._record.used)
        told = "" if gain is None else f"; {gain:+.2f} dB at reduced resolution"
        _log.info("Refinement: %s%s.", REFINEMENTS[self._record.used], told)

    def _decide(
        self, fresh: FusionMethod, strips: list[LowResolutionStrip], context: FusionContext, model: SceneModel
    ) -> tuple[Refinement | None, RefinementRecord]:
        if not model.noise_known:
            _log.warning("The scene is too small to measure the noise of both images: the result is not refined.")
            return None, RefinementRecord("none", {}, 0, None)
        threads = context.threads
        # What is tried at reduced resolution, and, beside that, what else the scene tells.
        facts = together(
            lambda: self._reduced(fresh, strips, context, model),
            lambda: HeldOutBands(strips, context, model),
            lambda: slope_covariance(strips, model, threads),
            lambda: component_power(strips, model, threads),
            threads=threads,
        )
        reduced = next(facts)
        if reduced is None:
            return None, RefinementRecord("none", {}, 0, None)
        windows, fused, prior = reduced
        held_out, slope, power = facts
        slope_low = slope_covariance_low(windows, model, threads)
        identity = np.eye(model.space.rank)
        before = list(side_by_side(lambda pair: squared_misses(*pair), zip(windows, fused, strict=True), threads))

        def reduced_gain(kind: RefinementKind, displacement: float) -> float:
            error = identity + displacement**2 * slope_low
            trial = Refinement.make(
                model, prior, power, kind=kind, hsi_error=error, device=context.device, aligned=True
            )  # fmt: skip
            beside = context.threads_here if fresh.spec.kind == "classical" else 1
            after = _trial_misses(trial, fresh, windows, fused, beside)
            return validated_gain(windows, before, after, model)

        if held_out:
            errors = [identity + px**2 * slope for px in DISPLACEMENTS_PX]
            tried = dict(zip(DISPLACEMENTS_PX, held_out.gains("map", errors, prior, power), strict=True))
            displacement, gain = _displacement(tried, partial(reduced_gain, "map"))
        else:
            tried = {px: reduced_gain("map", px) for px in DISPLACEMENTS_PX}
            displacement, gain = max(tried.items(), key=lambda found: found[1])
        error = identity + displacement**2 * slope
        if self._keep:
            low_error = identity + displacement**2 * slope_low
            self._reduced_fit = ReducedFit(strips, windows, fresh, fused, prior, power, error, low_error)
        kinds = KINDS[self._quality]
        others = [kind for kind in kinds if kind != "map"]
        pieces = [partial(reduced_gain, kind, displacement) for kind in others]
        if held_out:
            pieces += [partial(lambda kind: held_out.gains(kind, [error], prior, power)[0], kind) for kind in others]
        found = list(together(*pieces, threads=context.threads_here))
        gains = {"map": gain} | dict(zip(others, found, strict=False))
        held = {"map": tried[displacement]} | dict(zip(others, found[len(others) if held_out else 0 :], strict=True))
        gained = max(tried.values()) - tried[0.0]
        record = RefinementRecord("none", gains, len(windows), prior.error, held, displacement, gained)
        best = _best(kinds, gains, held, displacement, judged=bool(held_out))
        if best is None:
            return None, record
        chosen = Refinement.make(model, prior, power, kind=best, hsi_error=error, device=context.device)
        return chosen, replace(record, used=best)

    @staticmethod
    def _reduced(
        fresh: FusionMethod, strips: list[LowResolutionStrip], context: FusionContext, model: SceneModel
    ) -> tuple[list[DegradedWindow], list[torch.Tensor], ErrorPrior] | None:
        """Degrade the scene once more and fuse it there; None where that cannot be done."""
        windows = degraded_windows(strips, model, seed=context.seed, guide_noise=1.0, threads=context.threads)
        fused = fuse_windows(fresh, windows, context, model) if windows else None
        return (windows, fused, error_prior(windows, fused, model, threads=context.threads)) if fused else None

    def guide_filter(self) -> GuideFilter | None:
        """Return the cleaning of the guide, if the step has one, and the method for a cleaned guide."""
        step = self._refinement
        if step is None or not step.cleans:
            return None
        rest = copy(self)
        rest._refinement = replace(step, guide_noise=None)
        return GuideFilter(step.clean, step.cleaning_halo_px, rest)

    def fuse(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        """Fuse and refine (tile, band, row, col) with (tile, msi band, row * ratio, col * ratio)."""
        rows, cols = hsi.shape[-2:]
        return self.fuse_window(hsi, msi, (slice(0, rows), slice(0, cols)))

    def fuse_window(self, hsi: torch.Tensor, msi: torch.Tensor, window: Window) -> torch.Tensor:
        """As :meth:`fuse` for a part of the tile; the step's own context is computed around it."""
        if not self._fitted:
            raise HsfuseError("The fusion method was not fitted to the scene.", hint="Call fit() before fuse().")
        step = self._refinement
        if step is None:
            return self._method.fuse_window(hsi, msi, window)
        hsi, msi = hsi.float(), msi.float()
        guide = step.clean(msi)
        size = hsi.shape[-2:]
        wide = tuple(
            slice(max(part.start - step.halo_px, 0), min(part.stop + step.halo_px, length))
            for part, length in zip(window, size, strict=True)
        )
        ratio = self._ratio
        fine = tuple(slice(part.start * ratio, part.stop * ratio) for part in wide)
        low, high = hsi[..., wide[0], wide[1]], guide[..., fine[0], fine[1]]
        inside = tuple(
            slice((part.start - outer.start) * ratio, (part.stop - outer.start) * ratio)
            for part, outer in zip(window, wide, strict=True)
        )
        if self._inside is None:
            base = self._method.fuse_window(hsi, guide, (wide[0], wide[1])).contiguous()
            return step.apply(low, high, base)[..., inside[0], inside[1]]
        # What lies outside of the subspace has no component: only components are refined, and only what is wanted of
        # them becomes bands.
        components, outside = self._inside.components(hsi, guide, (wide[0], wide[1]))
        state = components[:, :-1]
        state += step.change(low, high, state.contiguous())
        return self._inside.bands(components[..., inside[0], inside[1]], outside, window)


def _displacement(held_out_db: dict[float, float], reduced_gain: Callable[[float], float]) -> tuple[float, float]:
    """Choose the HSI's local displacement; also return what the estimate gains with it at reduced resolution.

    Held-out bands tell nothing of the spectrum beyond them: an HSI that is trusted too much may gain a little on four
    of them while it loses in all others. One level down all bands are compared, but little of what makes the HSI depart
    from its response is there. So those that the bands put forward are judged there.
    """
    best, *others = sorted(held_out_db, key=held_out_db.__getitem__, reverse=True)
    most = held_out_db[best]
    worth = [px for px in others if most >= MIN_HELD_OUT_DB and held_out_db[px] >= _SHARE_OF_BEST * most]
    gains = {px: reduced_gain(px) for px in (best, *worth)}
    return max(gains.items(), key=lambda found: found[1])


def _best(
    kinds: Sequence[RefinementKind], gains: dict[str, float], held: dict[str, float], displacement_px: float, *,
    judged: bool,
) -> RefinementKind | None:  # fmt: skip
    """Choose what is done by its gains at reduced resolution and on held-out bands; None: nothing."""
    least = MIN_HELD_OUT_DB if displacement_px > 0 else -MOST_LOSS_DB
    usable = [kind for kind in kinds if gains[kind] >= MIN_GAIN_DB and held[kind] >= least]
    ranked = dict(gains)
    if judged and "nonlocal" in usable:
        if displacement_px == 0:
            ranked["nonlocal"] += NONLOCAL_SHORT_DB
        elif held["nonlocal"] < held.get("clean", 0.0) + NONLOCAL_DB:
            usable.remove("nonlocal")
    return max(usable, key=ranked.__getitem__, default=None)


def _trial_misses(
    trial: Refinement,
    fitted: FusionMethod,
    windows: list[DegradedWindow],
    fused: list[torch.Tensor],
    threads: int = 1,
) -> list[FloatMatrix]:
    """What a refinement misses in windows at reduced resolution, see :func:`squared_misses`."""
    import torch

    def refine(pair: tuple[DegradedWindow, torch.Tensor]) -> FloatMatrix:
        window, plain = pair
        low, guide = (torch.from_numpy(image)[None].to(plain.device) for image in (window.low, window.guide))
        cleaned = trial.clean(guide)
        # A copy in either case: what networks return in inference mode must not be changed in place outside it.
        base = (plain if cleaned is guide else fitted.fuse(low, cleaned).float()).clone().contiguous()
        return squared_misses(window, trial.apply(low, cleaned, base))

    return list(side_by_side(refine, zip(windows, fused, strict=True), threads))


def refined(method: FusionMethod, quality: Quality | None, *, ratio: int = 2) -> FusionMethod:
    """Put the step behind a method, or let it do its own; returns the method itself when ``quality`` is None."""
    if quality is None:
        return method
    own = method.at_quality(quality)
    return RefinedMethod(method, quality, ratio=ratio) if own is None else own


__all__ = ["ErrorPrior", "Quality", "RefinedMethod", "RefinementRecord", "refined"]
