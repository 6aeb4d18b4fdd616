"""The gate: per pixel a weight for every expert, from what does not change when the spectral basis is turned.

Its inputs are norms of the experts' outputs and inner products with two of them, the number of components and the
strength of the strongest. For expert j it returns a_j and b_j; its weight on component k is
``2 tanh((a_j + b_j s_k) / 2)`` with the logarithmic signal-to-noise ratio s_k of the component. So corrections turn
with the spectral basis, and one network serves any bands, any MSI and any ratio; it cannot learn spectra by heart.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from hsfuse.degrade import Window
from hsfuse.degrade.windows import finer, inside
from hsfuse.fusion.experts.bank import EXPERTS
from hsfuse.fusion.gpu.choice import kernels_on_card
from hsfuse.fusion.host import may_ask
from hsfuse.fusion.methods.ssrfn.backbones import PlainBackbone, SsrfnBackbone
from hsfuse.fusion.methods.ssrfn.change_head import ChangeHead
from hsfuse.fusion.methods.ssrfn.config import MOST_COMPONENTS, PRESENT, GateConfig
from hsfuse.fusion.methods.ssrfn.pixelwise import compressed
from hsfuse.fusion.methods.ssrfn.streaming import (
    AskedExperts,
    GivenOutputs,
    TilePart,
    all_of,
    slopes,
    wanted_of,
    weighed_by_rows,
)
from hsfuse.fusion.nets.fixed_blocks import FixedBlocks

_COMPARED = ("fine detail", "non-local", "fourier detail, mixed")
"""Experts whose inner products with all others the gate sees."""
INPUTS, OUTPUTS = 1 + len(EXPERTS) + len(_COMPARED) * (1 + len(EXPERTS)) + 2, 2 * len(EXPERTS)
"""Features that the gate sees, and what it makes of them."""
_START = {
    "non-local": 0.4, "fourier detail, loose": 0.1, "fourier detail, mixed": 0.1, "guide's noise": 0.1,
    "reduced-resolution error, linear": 0.1, "prior x 0.25": -0.3, "prior x 4": 0.3, "guide error x 3": 0.3,
    "non-local, loose": 0.5,
}  # fmt: skip
"""Weights that an untrained gate gives everywhere: near the best constant ones."""
_DROPPED = 0.1
"""Share of the features that a training step leaves out."""
_ROWS = 48
"""That a backbone of bounded reach sees at a time."""
_BLOCKS_AT_ONCE = 4
"""That a processor is given in one call: PyTorch convolves single small images in a slower way."""
_PIXELS_AT_ONCE = 1 << 18
"""Fine pixels that a card is given in one call of a backbone with blocks."""
_CACHE_VALUES, _CARD_VALUES = 1 << 18, 1 << 27
"""Experts' outputs that are looked at in one go, by a processor and by a card."""
_KERNELS = "hsfuse.fusion.methods.ssrfn.card"


class Gate(nn.Module):
    """The network.

    Parameters
    ----------
    config
        Its shape.
    """

    def __init__(self, config: GateConfig) -> None:
        super().__init__()
        self.config = config
        make = PlainBackbone if config.backbone == "plain" else SsrfnBackbone
        self.backbone: PlainBackbone | SsrfnBackbone = make(INPUTS, OUTPUTS, config)
        self.compared = [EXPERTS.index(name) for name in _COMPARED]
        self.register_buffer("_others", torch.tensor(self.compared, dtype=torch.int32), persistent=False)
        start = torch.zeros(OUTPUTS)
        for name, value in _START.items():
            start[EXPERTS.index(name)] = value
        self.constant = nn.Parameter(start)
        self.drop = nn.Dropout2d(_DROPPED)
        # Experts that learned from what is displaced err in other ways: few weights cannot serve both.
        self.displaced = Gate(config.of_displaced) if config.displaced else None
        self.change = ChangeHead(OUTPUTS) if config.change else None

    @property
    def blocks(self) -> FixedBlocks | None:
        """Blocks of the scene that the backbone runs in; None where a bounded context is enough."""
        return self.backbone.blocks if isinstance(self.backbone, SsrfnBackbone) else None

    @property
    def reach_px(self) -> int:
        """How far a backbone without blocks looks, fine pixels."""
        return self.backbone.reach_px if isinstance(self.backbone, PlainBackbone) else 0

    def forward(
        self, state: Tensor, outputs: Tensor, log_strength: Tensor, ratio: int, part: TilePart | None = None,
        asked: Sequence[int] | None = None, evidence: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Weigh the experts' outputs.

        Parameters
        ----------
        state
            Canonical components of the estimate, shape (n, component, row, col).
        outputs
            What the experts would add, shape (n, expert, component, row, col).
        log_strength
            Logarithm of one plus the signal-to-noise ratio of the components, shape (n or 1, component).
        ratio
            Fine pixels per HSI pixel.
        part
            Which part of a tile all that is, and what is wanted of it; None: all is given, and all is wanted.
        asked
            Experts that say something, of those of a whole tile; the outputs of others are 0. None: all.
        evidence
            What is known of the guide's change, shape (n, image, row, col); None: nothing changed.

        Returns
        -------
        torch.Tensor
            The correction of the wanted part, shape (n, component, row, col).
        """
        if torch.is_grad_enabled():
            found = self.found(self.features(state, outputs, log_strength), ratio)
            return self._applied(self.with_change(found, evidence), outputs, log_strength)
        part = part or all_of(state, ratio)
        made = self.ask(GivenOutputs(state, outputs, ratio), log_strength, ratio, part, evidence)
        if made is not None:
            return made
        those = tuple(asked) if asked is not None else tuple(range(len(EXPERTS)))
        found = self._found_of(self._features_at_once(state, outputs, log_strength, those), ratio, part)
        found = self.with_change(found, None if evidence is None else wanted_of(evidence, ratio, part))
        return self._applied_at_once(found, wanted_of(outputs, ratio, part), log_strength, those)

    def _features_at_once(
        self, state: Tensor, outputs: Tensor, log_strength: Tensor, asked: tuple[int, ...]
    ) -> Tensor:  # fmt: skip
        """As :meth:`features`: by a kernel on a card, else some rows at a time."""

        def by_kernel(kernels: Any) -> Tensor:
            present = (log_strength[0] > PRESENT).to(state.dtype)
            constants = torch.stack([log_strength.amax(), present.sum().clamp(min=1.0) / MOST_COMPONENTS])
            said = _flags(asked, state.device)
            seen: Tensor = kernels.features_operation(state[0], outputs[0], present, self._others, said, constants)
            return seen[None]

        made = kernels_on_card(_KERNELS, state, (outputs.shape[2],), by_kernel) if len(state) == 1 else None
        if made is not None:
            return made
        parts = [self.features(state[:, :, p], outputs[:, :, :, p], log_strength) for p in _pieces(state, outputs)]
        return torch.cat(parts, dim=2)

    def _applied_at_once(
        self, found: Tensor, outputs: Tensor, log_strength: Tensor, asked: tuple[int, ...]
    ) -> Tensor:  # fmt: skip
        """As :meth:`_applied`: by a kernel on a card, else some rows at a time."""

        def by_kernel(kernels: Any) -> Tensor:
            slope, said = slopes(log_strength)[0], _flags(asked, found.device)
            summed: Tensor = kernels.weighed_operation(found[0], outputs[0], slope, said, float(self.config.most))
            return summed[None]

        made = kernels_on_card(_KERNELS, found, (outputs.shape[2],), by_kernel) if len(found) == 1 else None
        if made is not None:
            return made
        parts = [self._applied(found[:, :, p], outputs[:, :, :, p], log_strength) for p in _pieces(found, outputs)]
        return torch.cat(parts, dim=2)

    def ask(
        self, experts: AskedExperts, log_strength: Tensor, ratio: int, part: TilePart | None = None,
        evidence: Tensor | None = None,
    ) -> Tensor | None:  # fmt: skip
        """Ask experts of a tile and weigh what they say, with what works on single pixels compiled.

        Returns
        -------
        torch.Tensor
            As of :meth:`forward`, which serves where there is None: on a card, and without kernels.
        """
        part = part or all_of(experts.state, ratio)
        return weighed_by_rows(self, experts, log_strength, ratio, part, evidence)

    def with_change(self, found: Tensor, evidence: Tensor | None) -> Tensor:
        """What the weights are made of on changed ground; ``found`` and ``evidence`` show the same pixels."""
        return found if self.change is None or evidence is None else found + self.change(evidence)

    def weighed(self, found: Tensor, evidence: Tensor, outputs: Tensor, log_strength: Tensor) -> Tensor:
        """Weigh with what was :meth:`found`, for a training of the head that sees the change."""
        return self._applied(self.with_change(found, evidence), outputs, log_strength)

    def found(self, features: Tensor, ratio: int) -> Tensor:
        """What the weights are made of, shape (n, 2 * expert, row, col)."""
        found: Tensor = self.backbone(self.drop(features), ratio) + self.constant[:, None, None]
        return found

    def found_of_bordered(self, features: Tensor) -> Tensor:
        """As :meth:`found` for a plain backbone and features with a border of one pixel, in float32."""
        if not isinstance(self.backbone, PlainBackbone):
            raise TypeError("the backbone runs in blocks")
        return self.backbone.of_bordered(features).float() + self.constant[:, None, None]

    def _found_of(self, features: Tensor, ratio: int, part: TilePart) -> Tensor:
        """The same of the wanted part: a plain backbone some rows at a time, one with scans block by block."""
        backbone = self.backbone
        if isinstance(backbone, PlainBackbone):
            return wanted_of(self._found_by_rows(features, ratio, backbone.reach_px), ratio, part)
        return self.found_by_blocks(backbone.blocks, features, ratio, part)

    def _found_by_rows(self, features: Tensor, ratio: int, reach_px: int) -> Tensor:
        rows = features.shape[2]
        if not may_ask(features):
            return self.found(features, ratio)
        found = features.new_empty((len(features), OUTPUTS, *features.shape[2:]))
        for top in range(0, rows, _ROWS):
            bottom = min(top + _ROWS, rows)
            first, last = max(top - reach_px, 0), min(bottom + reach_px, rows)
            part = self.found(features[:, :, first:last], ratio)
            found[:, :, top:bottom] = part[:, :, top - first : bottom - first]
        return found

    def found_by_blocks(self, blocks: FixedBlocks, features: Tensor, ratio: int, part: TilePart) -> Tensor:
        """As :meth:`found` of the wanted part of a tile, block by block."""
        beside = features.permute(0, 2, 3, 1)

        def run(parts: Sequence[Window], shown: Window) -> Tensor:
            # By pixels: joined images keep the memory that they have, that of convolutions.
            near = [beside[:, *finer(inside(one, part.given), ratio)] for one in parts]
            return self.found(torch.cat(near).permute(0, 3, 1, 2), ratio)[..., *finer(shown, ratio)]

        pixels = len(features) * (blocks.given_px * ratio) ** 2
        together = _BLOCKS_AT_ONCE if features.device.type == "cpu" else max(_PIXELS_AT_ONCE // pixels, 1)
        return blocks.apply(run, part.wanted, part.size, ratio, together)

    def _applied(self, found: Tensor, outputs: Tensor, log_strength: Tensor) -> Tensor:
        most = float(self.config.most)
        return (self._weights(found, log_strength) * torch.tanh(outputs * (1.0 / most))).sum(dim=1) * most

    def weights(self, state: Tensor, outputs: Tensor, log_strength: Tensor, ratio: int) -> Tensor:
        """Weight of every expert on every component, shape (n, expert, component, row, col)."""
        return self._weights(self.found(self.features(state, outputs, log_strength), ratio), log_strength)

    @staticmethod
    def _weights(found: Tensor, log_strength: Tensor) -> Tensor:
        common, sloped = (0.5 * found[:, :, None]).chunk(2, dim=1)
        return 2.0 * torch.tanh(torch.addcmul(common, sloped, slopes(log_strength)[:, None, :, None, None]))

    def features(self, state: Tensor, outputs: Tensor, log_strength: Tensor) -> Tensor:
        """What the gate sees: nothing that a rotation of the components would change much."""
        here = (log_strength > PRESENT).to(outputs.dtype)[:, None, :, None, None]
        number = here.sum(dim=2).clamp(min=1.0)
        all_of_it = compressed(torch.cat([state[:, None], outputs], dim=1)) * here
        parts = [torch.log1p((all_of_it * all_of_it).sum(dim=2) / number)]
        parts += [
            compressed((all_of_it * all_of_it[:, index + 1 : index + 2]).sum(dim=2) / number) for index in self.compared
        ]
        size = (len(outputs), 1, *outputs.shape[-2:])
        parts.append(log_strength.amax(dim=1)[:, None, None, None].expand(size))
        parts.append((number[:, 0] / MOST_COMPONENTS)[:, :, None, None].reshape(-1, 1, 1, 1).expand(size))
        return torch.cat(parts, dim=1)


def _pieces(image: Tensor, outputs: Tensor) -> list[slice]:
    """Cut rows so that what single pixels make of them stays in a processor's cache, or in bounds on a card."""
    values = _CACHE_VALUES if may_ask(image) else _CARD_VALUES
    few = max(values // (outputs.shape[1] * outputs.shape[2] * image.shape[3]), 1)
    return [slice(top, top + few) for top in range(0, image.shape[2], few)]


@lru_cache(maxsize=16)
def _flags(asked: tuple[int, ...], device: torch.device) -> Tensor:
    """1 for experts that say something, else 0, where the images lie, copied there once."""
    flags = [int(number in asked) for number in range(len(EXPERTS))]
    with torch.inference_mode(False):
        return torch.tensor(flags, dtype=torch.int32, device=device)
