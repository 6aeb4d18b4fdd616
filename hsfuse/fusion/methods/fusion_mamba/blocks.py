"""State space blocks that scan an image in several directions, alone or steered by another stream."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.fusion.nets.scans import windowed_selective_scan
from hsfuse.fusion.nets.ssm import initial_steps, inverse_softplus

_TAPS = 4


class ScanDirection(nn.Module):
    """One direction of a scan: causal convolution, projections and decays of its own."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.rank, self.states = -(-width // 16), states
        self.conv = nn.Conv1d(width, width, _TAPS, groups=width, padding=_TAPS - 1)
        self.project = nn.Linear(width, self.rank + 2 * states, bias=False)
        self.step = nn.Linear(self.rank, width)
        nn.init.uniform_(self.step.weight, -(self.rank**-0.5), self.rank**-0.5)
        with torch.no_grad():
            self.step.bias.copy_(inverse_softplus(initial_steps(width)))
        ladder = torch.arange(1, states + 1, dtype=torch.float32)
        self.log_decay = nn.Parameter(ladder.log().repeat(width, 1))
        self.direct = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Scan (sequence, token, width); the guide, where there is one, says what the state takes in and gives out."""
        length = x.shape[1]
        wide = F.silu(self.conv(x.transpose(1, 2))[..., :length].transpose(1, 2))
        told = self.project(wide if guide is None else guide)
        rank, b, c = told.float().split([self.rank, self.states, self.states], dim=-1)
        step = F.softplus(F.linear(rank, self.step.weight.float(), self.step.bias.float()))
        scanned = wide.float()
        y = windowed_selective_scan(scanned, step, -self.log_decay.float().exp(), b, c)
        return (y + scanned * self.direct.float()).to(x.dtype)


class ScanBlock(nn.Module):
    """A state space block on a window: norm, gate, scans in two or four directions, norm, projection, residual.

    Parameters
    ----------
    width
        Channels.
    states
        States of each channel.
    directions
        4: along rows and columns, both ways; 2: along rows only.
    guided
        Whether another stream steers the scan.
    """

    def __init__(self, width: int, states: int, *, directions: int = 4, guided: bool = False) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(width), nn.LayerNorm(width)
        self.enter = nn.Linear(width, 2 * width, bias=False)
        self.steer = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width, bias=False)) if guided else None
        self.directions = nn.ModuleList([ScanDirection(width, states) for _ in range(directions)])
        self.leave = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Tensor, guide: Tensor | None = None) -> Tensor:
        """Mix (n, row, col, width)."""
        x, gate = self.enter(self.norm(tokens)).chunk(2, dim=-1)
        steering = None if self.steer is None or guide is None else self.steer(guide)
        total = torch.zeros_like(x)
        for number, direction in enumerate(self.directions):
            columns, backwards = number >= 2, number % 2 == 1
            sequence = _as_sequence(x, columns=columns, backwards=backwards)
            told = None if steering is None else _as_sequence(steering, columns=columns, backwards=backwards)
            scanned = direction(sequence, told)
            total = total + _as_image(scanned, x, columns=columns, backwards=backwards)
        mixed = self.inner(total / len(self.directions)) * F.silu(gate)
        out: Tensor = tokens + self.leave(mixed)
        return out


def _as_sequence(x: Tensor, *, columns: bool, backwards: bool) -> Tensor:
    flat = (x.transpose(1, 2) if columns else x).flatten(1, 2)
    return flat.flip(1) if backwards else flat


def _as_image(flat: Tensor, like: Tensor, *, columns: bool, backwards: bool) -> Tensor:
    rows, cols = like.shape[1:3]
    forwards = flat.flip(1) if backwards else flat
    return forwards.unflatten(1, (cols, rows)).transpose(1, 2) if columns else forwards.unflatten(1, (rows, cols))


class FusionBlock(nn.Module):
    """Each stream is scanned by itself, then steered by the other; the mean of both is the fusion.

    Parameters
    ----------
    width, states
        Of the scans.
    shared
        Both streams pass the same weights.
    """

    def __init__(self, width: int, states: int, *, shared: bool) -> None:
        super().__init__()
        count = 1 if shared else 2
        self.alone = nn.ModuleList([ScanBlock(width, states) for _ in range(count)])
        self.steered = nn.ModuleList([ScanBlock(width, states, guided=True) for _ in range(count)])
        self.join = nn.Linear(width, width)

    def forward(self, hsi: Tensor, msi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return both streams and their fusion, (n, row, col, width) each."""
        hsi, msi = self.alone[0](hsi), self.alone[-1](msi)
        fusion = self.join(0.5 * (self.steered[0](hsi, msi) + self.steered[-1](msi, hsi)))
        return 0.5 * (hsi + fusion), 0.5 * (msi + fusion), fusion
