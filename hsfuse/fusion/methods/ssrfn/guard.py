"""How much of what the gate changes is used, component by component: what the scene's own evidence supports.

On a small scene nothing can be tried at reduced resolution, and a gate may err: where one sensor's displacement was not
found, where the guide is a single band, where noise was told wrong. Then its change of the leading components is large
beside what the estimate leaves unexplained of the HSI, or follows just that, which holds the HSI's noise and
displacement. A logistic regression of eight such facts says which share of its change each component gets; the leading
ones, which the guide tells well, get less: they hold next to nothing of the mean gain and most of the losses.

Its coefficients come from ``benchmarks/fit_guard.py``: small scenes of the training and validation sites.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion
from torch import Tensor

from hsfuse.degrade import upsample_array
from hsfuse.fusion.base import FusionMethod, LowResolutionStrip
from hsfuse.fusion.methods.ssrfn.scene import GateScene, tile_state
from hsfuse.fusion.mixing import mix

if TYPE_CHECKING:
    from hsfuse.fusion.experts.bank import TileState
    from hsfuse.fusion.methods.ssrfn.network import Gate

_MOST_PIXELS = 16_000
"""HSI pixels that are looked at; scenes with more of them are tried at reduced resolution instead."""
LIMIT = 2.5
"""Standard deviations of the scenes of the fit that a fact may be off."""


class _Fact(NamedTuple):
    """Mean and deviation of a fact over the components of the fit's scenes, and its coefficient."""

    mean: float
    deviation: float
    coefficient: float


FACTS = {
    "strongest component": _Fact(0.1287, 0.3349, -0.3854),
    "second component": _Fact(0.1287, 0.3349, -0.378),
    "log of the strength": _Fact(1.7164, 1.2022, -0.2661),
    "log of the change": _Fact(-2.765, 1.3826, -0.5242),
    "correlation with what is unexplained": _Fact(0.0237, 0.4134, -0.313),
    "log of the change that the HSI sees": _Fact(-4.7773, 1.3834, -0.4799),
    "log of what is unexplained": _Fact(-0.7934, 1.1399, 0.3992),
    "log of the number of MSI bands": _Fact(1.2523, 0.4939, 0.4328),
}
CONSTANT = 3.3
"""The fit gives 2.67; weights of 2026-11-29 lose less, and on such scenes more of what they change gains."""


@dataclass(frozen=True)
class GuardEvidence:
    """Sums over the pixels of a scene by canonical component, shape (component,), and how many pixels these are.

    Attributes
    ----------
    change
        Squares of what the gate and the estimate behind it change, fine pixels.
    seen
        Squares of that as the HSI sees it, HSI pixels.
    agreed
        Its products with what the estimate leaves unexplained of the HSI.
    unexplained
        Squares of what is unexplained.
    fine_pixels, pixels
        Of both grids.
    """

    change: Tensor
    seen: Tensor
    agreed: Tensor
    unexplained: Tensor
    fine_pixels: int
    pixels: int

    @classmethod
    def of(cls, scene: GateScene, tile: TileState, change: Tensor, valid: Tensor | None = None) -> GuardEvidence:
        """Compare what a gate makes of a tile, see :meth:`GateScene.change`, with the estimate.

        What stands in for HSI pixels that are not ``valid``, shape (row, col), does not count; None: all are.
        """
        into = scene.bank.canonical.into
        more = change - (tile.estimate - tile.start)
        misfit = scene.bank.plain.misfit(tile.seen, tile.guide, tile.estimate)
        seen, unexplained = mix(into, misfit.blur.apply(more)), mix(into, misfit.hsi)

        shown = torch.ones_like(seen[0, 0]) if valid is None else valid.to(seen)
        ratio = scene.bank.model.ratio
        fine = shown.repeat_interleave(ratio, 0).repeat_interleave(ratio, 1)

        def total(x: Tensor, counted: Tensor) -> Tensor:
            return (x * counted).double().sum(dim=(0, 2, 3))

        pixels = len(seen) * int(shown.sum())
        return cls(
            total(mix(into, more).square(), fine), total(seen.square(), shown), total(seen * unexplained, shown),
            total(unexplained.square(), shown), pixels * ratio**2, pixels,
        )  # fmt: skip

    def __add__(self, other: GuardEvidence) -> GuardEvidence:
        return GuardEvidence(*(one + vars(other)[name] for name, one in vars(self).items()))

    def of_scene(self, scene: GateScene) -> Tensor:
        """As :meth:`facts`."""
        return self.facts(scene.bank.canonical.log_strength, len(scene.bank.model.guide_noise))

    def facts(self, log_strength: Tensor, msi_bands: int) -> Tensor:
        """Return the facts of every component in the order of :data:`FACTS`, shape (component, fact)."""
        strength = log_strength.double()
        change = self.change / self.fine_pixels
        seen, agreed, unexplained = (x / self.pixels for x in (self.seen, self.agreed, self.unexplained))
        place = torch.arange(len(strength), device=strength.device)
        return torch.stack([
            (place == 0).double(), (place == 1).double(), strength, (change + 1e-4).log(),
            (agreed / (seen * unexplained + 1e-12).sqrt()).clamp(-1.0, 1.0), (seen + 1e-5).log(),
            (unexplained + 1e-4).log(), torch.full_like(strength, float(np.log(msi_bands))),
        ], dim=1)  # fmt: skip


def shares(facts: Tensor) -> Tensor:
    """Return which share of its change every component gets, shape (component,), from facts (component, fact)."""
    mean, deviation, coefficient = (facts.new_tensor(column) for column in zip(*FACTS.values(), strict=True))
    standard = ((facts - mean) / deviation).clamp(-LIMIT, LIMIT)
    return torch.sigmoid(standard @ coefficient + CONSTANT).float()


@torch.no_grad()
def supported_shares(
    scene: GateScene, base: FusionMethod, network: Gate, strips: Iterable[LowResolutionStrip], *, best: bool,
    share: float,
) -> Tensor | None:  # fmt: skip
    """Look at the scene and say how much of the gate's change is used.

    Parameters
    ----------
    scene
        As it is fused.
    base
        Method of the base estimate, fitted to the scene.
    network
        The gate.
    strips
        The scene at low resolution with its guide.
    best, share
        As in :meth:`GateScene.change`.

    Returns
    -------
    torch.Tensor
        Shape (component,); None where no strip has its guide.
    """
    found: GuardEvidence | None = None
    for strip in strips:
        fine = strip.below(scene.bank.model.ratio)
        if fine is None or (found is not None and found.pixels >= _MOST_PIXELS):
            continue
        tile = _tile_of(scene, base, strip, fine)
        change = scene.change(tile, network, best=best, share=share)
        # What is blurred with a stand-in is no evidence either.
        valid = binary_erosion(strip.valid, np.ones((3, 3), bool), border_value=1)
        one = GuardEvidence.of(scene, tile, change, torch.from_numpy(valid))
        found = one if found is None else found + one
    return None if found is None or not found.pixels else shares(found.of_scene(scene))


def _tile_of(
    scene: GateScene, base: FusionMethod, strip: LowResolutionStrip, fine: NDArray[np.float32]
) -> TileState:  # fmt: skip
    # What must not be used is what the HSI's grid holds there: no strip has a hole.
    whole = np.where(np.isfinite(fine), fine, upsample_array(strip.msi, scene.bank.model.ratio)).astype(np.float32)
    device = scene.step.forward.device
    hsi, msi = (torch.from_numpy(np.ascontiguousarray(image))[None].to(device) for image in (strip.hsi, whole))
    guide = scene.step.clean(msi)
    return tile_state(scene.step, hsi, guide, msi, base.fuse(hsi, guide).float())
