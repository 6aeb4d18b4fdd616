"""The gate: per pixel a weight for every expert, from what does not change when the spectral basis is turned.

Its inputs are norms of the experts' outputs and inner products with two of them, the number of components and the
strength of the strongest. For expert j it returns a_j and b_j; its weight on component k is
``2 tanh((a_j + b_j s_k) / 2)`` with the logarithmic signal-to-noise ratio s_k of the component. So corrections turn
with the spectral basis, and one network serves any bands, any MSI and any ratio; it cannot learn spectra by heart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.fusion.experts.bank import EXPERTS
from hsfuse.fusion.experts.weighing import seen_features, weighed_outputs
from hsfuse.fusion.methods.ssrfn.blocks import pool
from hsfuse.fusion.methods.ssrfn.config import SsrfnConfig
from hsfuse.fusion.methods.ssrfn.network import Ssrfn
from hsfuse.fusion.methods.ssrfn_gate.config import GateConfig

MOST_COMPONENTS = 10
_COMPARED = ("fine detail", "non-local", "fourier detail, mixed")
"""Experts whose inner products with all others the gate sees."""
_START = {
    "non-local": 0.4, "fourier detail, loose": 0.1, "fourier detail, mixed": 0.1, "guide's noise": 0.1,
    "reduced-resolution error, linear": 0.1, "prior x 0.25": -0.3, "prior x 4": 0.3, "guide error x 3": 0.3,
    "non-local, loose": 0.5,
}  # fmt: skip
"""Weights that an untrained gate gives everywhere: near the best constant ones."""
_DROPPED = 0.1
"""Share of the features that a training step leaves out."""
_MIDDLE_STRENGTH = 1.5
_ROWS = 48
"""That the backbone sees at a time."""
_CACHE_VALUES = 1 << 18
"""Experts' outputs that are looked at in one go."""
_PRESENT = 0.02
"""Components with less logarithmic strength count as absent."""


class PlainBackbone(nn.Module):
    """A few convolutions in residual pairs; ``reach_px`` is how far they look, fine pixels.

    Parameters
    ----------
    inputs, outputs
        Channels.
    config
        Width and depth.
    """

    def __init__(self, inputs: int, outputs: int, config: GateConfig) -> None:
        super().__init__()
        width = config.width
        self.enter = nn.Conv2d(inputs, width, 3, padding=1, padding_mode="replicate")
        self.first, self.second = (
            nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, padding_mode="replicate") for _ in range(config.blocks))
            for _ in range(2)
        )
        self.leave = nn.Conv2d(width, outputs, 3, padding=1, padding_mode="replicate")
        self.reach_px: int | None = 2 + 2 * config.blocks
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, ratio: int) -> Tensor:  # noqa: ARG002 - convolutions of the fine grid alone
        """Map (n, input, row, col) to (n, output, row, col)."""
        x = F.relu(self.enter(x))
        for first, second in zip(self.first, self.second, strict=True):
            x = x + second(F.relu(first(x)))
        left: Tensor = self.leave(F.relu(x))
        return left


class SsrfnBackbone(nn.Module):
    """The modules of SSRFN on what the gate sees: its first features at the HSI's resolution, and all of them.

    Scans look as far as there is anything: ``reach_px`` is None.

    Parameters
    ----------
    inputs, outputs
        Channels; at least as many inputs as outputs.
    config
        Width, depth and scans.
    """

    def __init__(self, inputs: int, outputs: int, config: GateConfig) -> None:
        super().__init__()
        self.network = Ssrfn(SsrfnConfig(
            n_bands=outputs, n_msi=inputs, width=config.width, mamba=config.mamba, dfe_blocks=config.blocks,
            cfe_cycles=2, scm_steps=2, refine_stages=1, headdim=2 * config.width, d_state=16, scan="lines",
            dfe_sharing="msi", scm_residual=True, volume="depthwise", ffm_projection="last",
        ))  # fmt: skip
        self.network.ffm.scale_output(0.0)
        self.reach_px: int | None = None
        self.outputs = outputs

    def forward(self, x: Tensor, ratio: int) -> Tensor:
        """Map (n, input, row, col) to (n, output, row, col)."""
        out: Tensor = self.network(pool(x[:, : self.outputs], ratio), x)
        return out


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
        count = len(EXPERTS)
        inputs = 1 + count + len(_COMPARED) * (1 + count) + 2
        make = PlainBackbone if config.backbone == "plain" else SsrfnBackbone
        self.backbone = make(inputs, 2 * count, config)
        self._compared = [EXPERTS.index(name) for name in _COMPARED]
        start = torch.zeros(2 * count)
        for name, value in _START.items():
            start[EXPERTS.index(name)] = value
        self.constant = nn.Parameter(start)
        self.drop = nn.Dropout2d(_DROPPED)

    def forward(self, state: Tensor, outputs: Tensor, log_strength: Tensor, ratio: int) -> Tensor:
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

        Returns
        -------
        torch.Tensor
            The correction, shape (n, component, row, col).
        """
        if torch.is_grad_enabled():
            return self._applied(self._found(self.features(state, outputs, log_strength), ratio), outputs, log_strength)
        compiled = self._compiled(state, outputs, log_strength, ratio)
        if compiled is not None:
            return compiled
        # Work on single pixels goes over few rows at a time, so that what it makes stays in the processor's cache.
        columns = state.shape[3]
        few = max(_CACHE_VALUES // (outputs.shape[1] * outputs.shape[2] * columns), 1)
        pieces = [slice(top, top + few) for top in range(0, state.shape[2], few)]
        features = [self.features(state[:, :, p], outputs[:, :, :, p], log_strength) for p in pieces]
        found = self._found_by_rows(torch.cat(features, dim=2), ratio)
        return torch.cat([self._applied(found[:, :, p], outputs[:, :, :, p], log_strength) for p in pieces], dim=2)

    def _compiled(self, state: Tensor, outputs: Tensor, log_strength: Tensor, ratio: int) -> Tensor | None:
        """The same with what works on single pixels compiled; None where that does not serve."""
        present = torch.nonzero(log_strength[0] > _PRESENT).flatten().tolist()
        features = seen_features(state, outputs, present, self._compared, constants=2)
        if features is None:
            return None
        features[:, -2] = log_strength.amax()
        features[:, -1] = len(present) / MOST_COMPONENTS
        found = self._found_by_rows(features, ratio)
        return weighed_outputs(found, outputs, _slope(log_strength)[0], float(self.config.most))

    def _found(self, features: Tensor, ratio: int) -> Tensor:
        """What the weights are made of, shape (n, 2 * expert, row, col)."""
        found: Tensor = self.backbone(self.drop(features), ratio) + self.constant[:, None, None]
        return found

    def _found_by_rows(self, features: Tensor, ratio: int) -> Tensor:
        """The same some rows at a time, where the backbone looks no farther than that."""
        margin, rows = self.backbone.reach_px, features.shape[2]
        if margin is None:
            return self._found(features, ratio)
        found = features.new_empty((len(features), 2 * len(EXPERTS), *features.shape[2:]))
        for top in range(0, rows, _ROWS):
            bottom = min(top + _ROWS, rows)
            first, last = max(top - margin, 0), min(bottom + margin, rows)
            part = self._found(features[:, :, first:last], ratio)
            found[:, :, top:bottom] = part[:, :, top - first : bottom - first]
        return found

    def _applied(self, found: Tensor, outputs: Tensor, log_strength: Tensor) -> Tensor:
        most = float(self.config.most)
        return (self._weights(found, log_strength) * torch.tanh(outputs * (1.0 / most))).sum(dim=1) * most

    def weights(self, state: Tensor, outputs: Tensor, log_strength: Tensor, ratio: int) -> Tensor:
        """Weight of every expert on every component, shape (n, expert, component, row, col)."""
        return self._weights(self._found(self.features(state, outputs, log_strength), ratio), log_strength)

    @staticmethod
    def _weights(found: Tensor, log_strength: Tensor) -> Tensor:
        common, sloped = (0.5 * found[:, :, None]).chunk(2, dim=1)
        return 2.0 * torch.tanh(torch.addcmul(common, sloped, _slope(log_strength)[:, None, :, None, None]))

    def features(self, state: Tensor, outputs: Tensor, log_strength: Tensor) -> Tensor:
        """What the gate sees: nothing that a rotation of the components would change much."""
        here = (log_strength > _PRESENT).to(outputs.dtype)[:, None, :, None, None]
        number = here.sum(dim=2).clamp(min=1.0)
        all_of_it = compressed(torch.cat([state[:, None], outputs], dim=1)) * here
        parts = [torch.log1p((all_of_it * all_of_it).sum(dim=2) / number)]
        parts += [
            compressed((all_of_it * all_of_it[:, index + 1 : index + 2]).sum(dim=2) / number)
            for index in self._compared
        ]
        size = (len(outputs), 1, *outputs.shape[-2:])
        parts.append(log_strength.amax(dim=1)[:, None, None, None].expand(size))
        parts.append((number[:, 0] / MOST_COMPONENTS)[:, :, None, None].reshape(-1, 1, 1, 1).expand(size))
        return torch.cat(parts, dim=1)


def _slope(log_strength: Tensor) -> Tensor:
    return (log_strength - _MIDDLE_STRENGTH) / _MIDDLE_STRENGTH


def compressed(x: Tensor) -> Tensor:
    """Inverse hyperbolic sine, to an absolute error of 1e-6: torch's own takes twice as long."""
    size = x.abs()
    return (x * x).add_(1.0).sqrt_().add_(size).log_().copysign_(x)


def build(config: GateConfig) -> Gate:
    """Make an untrained gate."""
    return Gate(config)
