"""What the gate minimises, and how it is judged.

It minimises the error of a pair in canonical components, measured as the mean over the bands of the square error
relative to that of the estimate it starts from: a training its logarithm, an adaptation to one scene the error itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.fusion.experts.bank import EXPERTS
from hsfuse.fusion.methods.ssrfn.augmentation import (
    CAP,
    DISPLACED,
    METRIC,
    OUTPUTS,
    STATE,
    STRENGTH,
    WEIGHT,
    as_standard,
)
from hsfuse.fusion.methods.ssrfn.config import MOST_COMPONENTS
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.fusion.methods.ssrfn.scene import GateScene
from hsfuse.fusion.mixing import mix
from hsfuse.training.distributed import Team
from hsfuse.training.pairs import Batch, ReducedPair

TARGET = "target"
COLUMNS = ("gain_db", "worst_gain_db", "gain_without_db")
_CAP_PERCENTILE = 99.0
"""Of pixel errors; beyond, they count with their root: a few saturated pixels would hold half the error."""
_MOST_SORTED = 1 << 23
_ENOUGH = 0.95
"""Share of the estimate's error above which a patch counts as lost: the mean hides patches that a gate makes worse."""
_NOTHING = 0.05
"""Of the estimate's error in a window: what is below in a patch counts no more, see :func:`logarithms`."""
_DARKEST, _MOST_WEIGHT = 0.02, 8.0
"""Power over a window's mean that is added to that of every pixel, and the largest weight, see :func:`dark_weights`."""
_LEAST_PART = 0.1
"""Of the measured error that counts as the estimate's own at least."""


@dataclass(frozen=True)
class GateScores:
    """Means over the validation windows.

    Attributes
    ----------
    gain_db
        Fall of the error relative to the estimate that the gate starts from.
    worst_gain_db
        In the window where it is smallest.
    gain_without_db
        The same as ``gain_db`` without the experts that ``best`` alone asks.
    """

    gain_db: float
    worst_gain_db: float
    gain_without_db: float

    @property
    def quality(self) -> float:
        """Both uses count."""
        return 0.5 * (self.gain_db + self.gain_without_db)

    @property
    def text(self) -> str:
        """For the log."""
        return (
            f"{self.gain_db:+.3f} dB over the estimate (worst {self.worst_gain_db:+.3f}), {self.gain_without_db:+.3f} "
            "dB with those of standard"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


class WeighedWindow(NamedTuple):
    """A window whose experts were asked, in canonical components.

    Attributes
    ----------
    state, outputs
        As of :meth:`hsfuse.fusion.experts.bank.ExpertBank.evaluate`.
    miss
        What should be added to the estimate, shape (1, component, row, col).
    square
        Mean square error of the estimate by band, shape (band,).
    counted
        Pixels that count, shape (row, col), bool.
    """

    state: Tensor
    outputs: Tensor
    miss: Tensor
    square: Tensor
    counted: Tensor

    @classmethod
    def of(
        cls, scene: GateScene, asked: tuple[Tensor, Tensor], estimate: Tensor, truth: Tensor, counted: Tensor
    ) -> WeighedWindow:
        """Compare an estimate with the truth, both of shape (1, band, row, col)."""
        step, into = scene.step, scene.bank.canonical.into
        state, outputs = asked
        constant = (step.forward @ step.mean)[:, None, None]
        miss = mix(into, mix(step.forward, truth) - constant) - state
        square = (estimate - truth)[0][:, counted].square().mean(dim=1)
        return cls(state, outputs, miss, square, counted)


def as_tensors(
    windows: Sequence[WeighedWindow], scene: GateScene, *, noise: Tensor | None = None, displaced: bool = False
) -> list[dict[str, Tensor]]:
    """Turn windows of one scene into what a step learns from, padded to :data:`MOST_COMPONENTS`.

    Parameters
    ----------
    windows, scene
        The windows count with one metric.
    noise
        Of the truth, standard deviation by band, shape (band,); None: it has none.
    displaced
        Whether the scene is displaced locally.
    """
    canonical = scene.bank.canonical
    out = scene.step.back @ canonical.out
    count = torch.stack([window.counted.sum() for window in windows]).to(out.dtype)
    square = (torch.stack([window.square for window in windows]) * count[:, None]).sum(dim=0) / count.sum()
    if noise is not None:
        square = torch.maximum(square - noise.square(), _LEAST_PART * square)
    metric = out.T @ (out / square.clamp_min(1e-12)[:, None])
    errors = torch.cat([
        torch.einsum("khw,kl,lhw->hw", window.miss[0], metric, window.miss[0])[window.counted] for window in windows
    ])  # fmt: skip
    level = errors.mean().clamp_min(1e-12)
    cap = torch.quantile((errors / level)[:_MOST_SORTED], _CAP_PERCENTILE / 100.0)
    more, pad = MOST_COMPONENTS - canonical.count, torch.nn.functional.pad
    return [
        {
            OUTPUTS: pad(window.outputs[0], (0, 0, 0, 0, 0, more)).flatten(0, 1).half(),
            STATE: pad(window.state[0], (0, 0, 0, 0, 0, more)).half(),
            TARGET: pad(window.miss[0], (0, 0, 0, 0, 0, more)).float(),
            STRENGTH: pad(canonical.log_strength, (0, more))[None].clone(),
            METRIC: pad(metric / level, (0, more, 0, more))[None].clone(),
            CAP: cap[None].clone(),
            DISPLACED: torch.tensor([float(displaced)]),
        }
        for window in windows
    ]


def with_tensors(pair: ReducedPair, tensors: dict[str, Tensor], device: str) -> ReducedPair:
    """Put what :func:`as_tensors` made in the place of a pair's images."""
    # What follows needs neither image but their sizes; patches of them would only be copied.
    return replace(
        pair, hsi=pair.hsi[:0], msi=pair.msi[:0], target=tensors[TARGET].to(device),
        images={
            WEIGHT: dark_weights(pair.target, pair.valid)[None], **{k: tensors[k].to(device) for k in (OUTPUTS, STATE)}
        },
        values={name: tensors[name].to(device) for name in (STRENGTH, METRIC, CAP, DISPLACED)},
    )  # fmt: skip


def dark_weights(truth: Tensor, valid: Tensor) -> Tensor:
    """Weights by which square errors count as squares of spectral angles do: as the inverse of a pixel's power.

    Parameters
    ----------
    truth
        Shape (band, row, col).
    valid
        Pixels that count, shape (row, col).

    Returns
    -------
    torch.Tensor
        With a mean of 1 over the pixels that count before the largest are cut, shape (row, col).
    """

    def mean(x: Tensor) -> Tensor:
        return (x * valid).sum() / valid.sum().clamp_min(1.0)

    power = truth.square().mean(dim=0)
    inverse = 1.0 / (power + _DARKEST * mean(power)).clamp_min(1e-12)
    return (inverse / mean(inverse)).clamp(max=_MOST_WEIGHT)


def logarithms(network: Gate, batch: Batch) -> Tensor:
    """Return the logarithm of the error that is left, shape (n,): gains of a training are means of decibels too.

    Errors count as the spectral angles that they make.
    """
    cap = batch.values[CAP][:, None]
    left = _left(network, batch) * batch.images[WEIGHT].flatten(1)
    return torch.log1p(_huber(left, cap).mean(dim=1) / _NOTHING)


def losses(network: Gate, batch: Batch) -> Tensor:
    """Return the error that is left, relative to the estimate's, shape (n,); what a patch loses counts twice."""
    return relative_loss(_energy(batch.target, batch), _left(network, batch), batch.values[CAP][:, None])


def relative_loss(before: Tensor, left: Tensor, cap: Tensor) -> Tensor:
    """As :func:`losses` from the errors of the estimate and of the gate by pixel (n, pixel), and their cap (n, 1)."""
    before, left = (_huber(errors, cap).mean(dim=1) for errors in (before, left))
    return (left + torch.relu(left - _ENOUGH * before)) / (0.5 * before + 0.5)


def errors_left(miss: Tensor, metric: Tensor) -> Tensor:
    """Square error by pixel, shape (n, row, col), of what is missing (n, component, row, col)."""
    return torch.einsum("nkhw,nkl,nlhw->nhw", miss, metric, miss)


def _left(network: Gate, batch: Batch) -> Tensor:
    """Error by pixel, shape (n, pixel)."""
    correction, other = torch.empty_like(batch.target), batch.values[DISPLACED] > 0
    for weights, chosen in ((network, ~other), (network.displaced or network, other)):
        if bool(chosen.any()):
            outputs = batch.images[OUTPUTS][chosen].float().unflatten(1, (len(EXPERTS), -1))
            correction[chosen] = weights(
                batch.images[STATE][chosen].float(), outputs, batch.values[STRENGTH][chosen], batch.ratio
            )
    return _energy(batch.target - correction, batch)


@torch.no_grad()
def judged(network: Gate, pairs: Sequence[ReducedPair], team: Team, device: str) -> GateScores:
    """Compare with the estimate on windows that validate; the processes of a team share them."""
    table = torch.zeros(len(pairs), 2, dtype=torch.float64)
    for number in range(team.rank, len(table), team.size):
        batch = pairs[number].batch()
        before = float(_energy(batch.target, batch).mean())
        for column, one in enumerate((batch, as_standard(batch))):
            left = float(_left(network, one).mean())
            table[number, column] = 10.0 * np.log10(before / max(left, 1e-12))
    shared = table.to(device)
    team.add([shared])
    gains: NDArray[np.float64] = shared.cpu().numpy()
    return GateScores(float(gains[:, 0].mean()), float(gains[:, 0].min()), float(gains[:, 1].mean()))


def _energy(x: Tensor, batch: Batch) -> Tensor:
    """Square error by pixel of what is missing in canonical components, shape (n, pixel)."""
    return (errors_left(x, batch.values[METRIC]) * batch.valid).flatten(1)


def _huber(energy: Tensor, cap: Tensor) -> Tensor:
    return torch.where(energy < cap, energy, 2.0 * torch.sqrt(cap * energy.clamp_min(1e-9)) - cap)
