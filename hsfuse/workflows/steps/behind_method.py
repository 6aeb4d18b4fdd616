"""What stands behind the method that fuses the scene: a refinement, and guards of fidelity, as settings want them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hsfuse.config import CompareConfig, RunConfig
from hsfuse.fusion.base import FusionMethod, Quality
from hsfuse.fusion.fidelity import FidelityOptions, GuardedMethod, guarded
from hsfuse.fusion.two_step import TwoStepMethod
from hsfuse.inference.scene import FusionScene


def may_calibrate(config: RunConfig | CompareConfig) -> bool:
    """Whether methods may find blur and residual shift: a PSF or positions that were given are taken at their word."""
    return config.psf_fwhm == "auto" and config.coregister != "off"


def guard_options(config: RunConfig) -> FidelityOptions:
    """Fidelity guards as the settings have them; the engine clips (and counts what it clips)."""
    return FidelityOptions(config.back_projection, config.back_projection_weight, config.srf_weight)


def guard_text(config: Mapping[str, Any]) -> str:
    """Name the guards that are on; empty for none."""
    steps, share, srf = (config[name] for name in ("back_projection", "back_projection_weight", "srf_weight"))
    parts = [f"back-projection onto the HSI, {steps} steps of {100 * share:g} %"] if steps else []
    parts += [f"consistency with the MSI, {100 * srf:g} %"] if srf else []
    return "; ".join(parts)


def refinement_quality(config: RunConfig | CompareConfig) -> Quality | None:
    """How much is spent behind the method; None: nothing."""
    return None if config.quality == "plain" else config.quality


def with_refinement_and_guards(method: FusionMethod, config: RunConfig, scene: FusionScene) -> FusionMethod:
    """Put the wanted refinement and fidelity guards behind the method; the scene's PSF decides their halo."""
    quality = refinement_quality(config)
    if quality is not None:
        from hsfuse.fusion.map.method import refined

        method = refined(method, quality, ratio=scene.ratio)
    return guarded(method, guard_options(config), ratio=scene.ratio, psf=scene.psf)


def in_place_of(method: FusionMethod, spare: FusionMethod, config: RunConfig, ratio: int) -> FusionMethod:
    """Put another method where a network was, with the guards, the refinement or the second step behind it."""
    from hsfuse.fusion.map.method import RefinedMethod, refined

    quality = refinement_quality(config)
    stands = method.inner if isinstance(method, GuardedMethod) else method
    if quality is not None and not isinstance(stands, RefinedMethod | TwoStepMethod):
        # The network refined its result itself.
        spare = refined(spare, quality, ratio=ratio)
    return method.around(spare) if isinstance(method, GuardedMethod | RefinedMethod | TwoStepMethod) else spare
