"""A verdict for each surface class: what the fusion did to its spectra, in the pixels that show it purely.

A mean over a scene hides a class that covers little of it; water, dark and small, is the usual one. Each class is
therefore judged by itself, and one that could not be judged is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from hsfuse.qa.pixels import KINDS, LOW_PURITY, SurfaceKind
from hsfuse.qa.spectra import SpectrumComparison

SurfaceLevel = Literal["good", "usable with care", "failed", "not made", "not in the scene"]

ANGLE_LIMITS_DEG: Mapping[SurfaceKind, tuple[float, float]] = {
    "vegetation": (2.0, 6.0),
    "soil": (2.0, 6.0),
    "water": (8.0, 30.0),
    "built-up": (2.0, 6.0),
}
"""Spectral angle up to which a class is good, and beyond which it failed.

Over water most bands hold little but noise, which alone makes several degrees.
"""
NEGATIVE = -0.002
"""A band is called negative below this reflectance, where the HSI's own value is not below zero."""
LEAST_SHARE = 0.005
"""A class that covers less of the scene than this is not in it."""


@dataclass(frozen=True)
class SurfaceCheck:
    """How a surface class came out.

    Attributes
    ----------
    kind
        The class.
    level
        Its grade; ``not made`` where it is (or may be) in the scene and no pixel could be judged.
    pixels
        Pure pixels that were judged.
    angle_deg
        Median spectral angle of their spectra before and after fusion; None without pixels.
    bias
        Median of the mean difference fused minus HSI, reflectance; None without pixels.
    negative_bands
        Most bands in which fusion made one of them negative.
    share
        Share of the scene that looks like the class, 0 to 1; None when the bands cannot tell.
    text
        One sentence.
    """

    kind: SurfaceKind
    level: SurfaceLevel
    pixels: int
    angle_deg: float | None
    bias: float | None
    negative_bands: int
    share: float | None
    text: str

    @property
    def limit(self) -> str:
        """The limit of "good" in words."""
        return f"at most {ANGLE_LIMITS_DEG[self.kind][0]:.2f}°"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def pure_pixel_sam_deg(spectra: Sequence[SpectrumComparison]) -> float | None:
    """Median spectral angle over pixels of sufficient purity; None without any.

    Water is left out: its angle is mostly noise, so that it has limits of its own (:func:`check_surfaces`).
    """
    judged = [s for s in spectra if s.pixel.kind != "water" and s.pixel.purity >= LOW_PURITY]
    angles = [s.spectral_angle_deg for s in judged if np.isfinite(s.spectral_angle_deg)]
    return float(np.median(angles)) if angles else None


def check_surfaces(
    spectra: Sequence[SpectrumComparison], shares: Mapping[SurfaceKind, float | None]
) -> tuple[SurfaceCheck, ...]:
    """Judge every surface class.

    Parameters
    ----------
    spectra
        Pure pixels before and after fusion.
    shares
        Share of the scene that looks like each class, None where the bands cannot tell
        (see :class:`hsfuse.qa.pixels.PurePixelSearch`).
    """
    return tuple(_check(kind, [s for s in spectra if s.pixel.kind == kind], shares.get(kind)) for kind in KINDS)


def _check(kind: SurfaceKind, spectra: Sequence[SpectrumComparison], share: float | None) -> SurfaceCheck:
    judged = [s for s in spectra if s.pixel.purity >= LOW_PURITY and np.isfinite(s.spectral_angle_deg)]
    if not judged:
        return _unjudged(kind, any_pixel=bool(spectra), share=share)
    angle = float(np.median([s.spectral_angle_deg for s in judged]))
    bias = float(np.median([s.bias for s in judged]))
    negative = max(int(np.sum((s.fused_mean < NEGATIVE) & (s.hsi >= 0.0))) for s in judged)
    care, fail = ANGLE_LIMITS_DEG[kind]
    level: SurfaceLevel = "failed" if angle > fail else "usable with care" if angle > care or negative else "good"
    facts = [f"spectral angle {angle:.2f}°" + ("" if angle <= care else f" (good is at most {care:.2f}°)")]
    if negative:
        facts.append(f"{negative} band{'s' if negative > 1 else ''} made negative")
    number = f"{len(judged)} pure pixel{'s' if len(judged) > 1 else ''}"
    text = f"{kind.capitalize()}: {', '.join(facts)}, in {number}."
    return SurfaceCheck(kind, level, len(judged), angle, bias, negative, share, text)


def _unjudged(kind: SurfaceKind, *, any_pixel: bool, share: float | None) -> SurfaceCheck:
    level: SurfaceLevel = "not made"
    if any_pixel:
        text = f"{kind.capitalize()}: not checked, because only pixels of low purity were found."
    elif share is None:
        text = f"{kind.capitalize()}: not checked, because the bands cannot tell it from other surfaces."
    elif share >= LEAST_SHARE:
        text = (
            f"{kind.capitalize()}: not checked, because none of it ({100 * share:.1f} % of the scene) is even enough."
        )
    else:
        level, text = "not in the scene", f"{kind.capitalize()}: not in the scene."
    return SurfaceCheck(kind, level, 0, None, None, 0, share, text)
