"""Stage 2: super-resolution in steps, each with mutual-guided Mamba blocks over HSI, guide and prior.

The ratio is cut into its prime factors, and the same weights make every step, so any ratio can be asked for. Scans run
inside windows that are counted from the image's origin: a result is the same in every tiling aligned with them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.errors import UsageError
from hsfuse.fusion.methods.mpsrnet_diff.config import MpsrnetSettings
from hsfuse.fusion.nets.layers import conv1x1, conv3x3
from hsfuse.fusion.nets.pair_network import MIN_STD, PairNetwork, ScaledPair, in_windows, padded_to, resized, zeroed
from hsfuse.fusion.nets.scans import ssd_scan
from hsfuse.fusion.nets.scene_statistics import SceneStatistics

_DIRECTIONS = 4
_SHARE = 0.1
"""Share of the prior in what a step starts from, before it is learned for every band."""


class MutualBlock(nn.Module):
    """Every stream is scanned with input and output projections of every stream, its own among them.

    A quarter of the channels is scanned in each of four directions. What a stream's own projections make of it is its
    self scan; what the others' make is how they guide it.
    """

    def __init__(self, width: int, streams: int, state: int) -> None:
        super().__init__()
        self.streams, self.width, self.state = streams, width, state
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(streams)])
        self.enter = nn.ModuleList([nn.Linear(width, 2 * width, bias=False) for _ in range(streams)])
        self.guide = nn.ModuleList([nn.Linear(width, 2 * state + _DIRECTIONS, bias=False) for _ in range(streams)])
        self.local = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1, groups=width) for _ in range(streams)])
        self.leave = nn.ModuleList([nn.Linear(width, width, bias=False) for _ in range(streams)])
        self.rate = nn.Parameter(torch.linspace(0.0, 1.5, _DIRECTIONS))
        self.step = nn.Parameter(torch.full((_DIRECTIONS,), -3.0))
        self.direct = nn.Parameter(torch.ones(width))

    def forward(self, stack: Tensor, side: int) -> Tensor:
        """Mix (n, stream * width, row, col) in windows of ``side`` pixels."""
        return in_windows(stack, side, self._mix)

    def _mix(self, stack: Tensor) -> Tensor:
        n = stack.shape[0]
        streams = stack.unflatten(1, (self.streams, self.width)).unbind(1)
        values, gates, bs, cs, steps = [], [], [], [], []
        for number, stream in enumerate(streams):
            tokens = self.norms[number](stream.permute(0, 2, 3, 1))
            value, gate = self.enter[number](tokens).chunk(2, dim=-1)
            values.append(F.silu(self.local[number](value.permute(0, 3, 1, 2))).permute(0, 2, 3, 1))
            gates.append(gate)
            b, c, step = self.guide[number](tokens).split([self.state, self.state, _DIRECTIONS], dim=-1)
            bs.append(b)
            cs.append(c)
            steps.append(F.softplus(step.float() + self.step))
        # Pairs (target, guide) as further sequences of one scan.
        x = torch.stack(values, dim=1).repeat_interleave(self.streams, dim=1).flatten(0, 1)
        guides = [torch.stack(part, dim=1).repeat(1, self.streams, 1, 1, 1).flatten(0, 1) for part in (bs, cs, steps)]
        scanned = self._scan(x, *guides).unflatten(0, (n, self.streams, self.streams)).mean(dim=2)
        out = []
        for number, stream in enumerate(streams):
            mixed = (scanned[:, number] + values[number] * self.direct) * F.silu(gates[number])
            out.append(stream + self.leave[number](mixed).permute(0, 3, 1, 2))
        return torch.cat(out, dim=1)

    def _scan(self, x: Tensor, b: Tensor, c: Tensor, step: Tensor) -> Tensor:
        """Scan (sequence, row, col, width): a quarter of the channels along rows, back, along columns, back."""
        quarter, parts = self.width // _DIRECTIONS, []
        for direction in range(_DIRECTIONS):
            part = slice(direction * quarter, (direction + 1) * quarter)
            inputs = [_ordered(t, direction) for t in (x[..., part], b, c, step[..., direction : direction + 1])]
            y, _ = ssd_scan(inputs[0][:, :, None], inputs[3], -self.rate[direction : direction + 1].exp(), *inputs[1:3])
            parts.append(_restored(y[:, :, 0], direction, x.shape[1:3]))
        return torch.cat(parts, dim=-1)


def _ordered(x: Tensor, direction: int) -> Tensor:
    """Turn (sequence, row, col, channel) into tokens in the order of a direction."""
    tokens = (x if direction < 2 else x.transpose(1, 2)).flatten(1, 2)
    return tokens.flip(1) if direction % 2 else tokens


def _restored(tokens: Tensor, direction: int, size: torch.Size) -> Tensor:
    tokens = tokens.flip(1) if direction % 2 else tokens
    rows, cols = size
    return tokens.unflatten(1, (rows, cols)) if direction < 2 else tokens.unflatten(1, (cols, rows)).transpose(1, 2)


class Mpsrnet(PairNetwork):
    """See :class:`~hsfuse.fusion.methods.mpsrnet_diff.config.MpsrnetSettings`.

    Attributes
    ----------
    made
        Cubes of all steps of the last call in training mode, reflectance.
    """

    def __init__(self, settings: MpsrnetSettings) -> None:
        super().__init__(settings.base)
        self.settings = settings
        width, bands, fold = settings.width, settings.n_bands, settings.fold
        if width % _DIRECTIONS or settings.window_px % fold:
            raise UsageError(
                f"The width {width} has to be a multiple of {_DIRECTIONS}, and windows of {settings.window_px} pixels"
                f" one of the fold {fold}."
            )
        streams = 3 if settings.use_prior else 2
        self.hsi_stem = conv3x3(bands, width)
        self.guide_stem = conv3x3(settings.n_msi * fold**2, width)
        self.prior_stem = conv1x1(bands * fold**2, width) if settings.use_prior else None
        self.share = nn.Parameter(torch.full((bands,), _SHARE)) if settings.use_prior else None
        self.blocks = nn.ModuleList([MutualBlock(width, streams, settings.state) for _ in range(settings.blocks)])
        self.head = zeroed(conv1x1(streams * width, bands * fold**2))
        self.made: list[Tensor] = []

    def forward(
        self, hsi: Tensor, msi: Tensor, scene: SceneStatistics | None = None, estimate: Tensor | None = None,
        prior: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Fuse reflectance with the help of a prior cube, shape (n, band, row * ratio, col * ratio).

        Without one, what the network starts from stands in for it.

        Raises
        ------
        UsageError
            The images do not nest, or a base estimate is missing.
        """
        pair, start = self.scaled(hsi, msi, scene, estimate)
        mean, std = (v.float()[:, :, None, None] for v in pair.scene[:2])
        std = std.clamp(min=MIN_STD)
        ahead = pair.fine if prior is None else ((prior.float() - mean) / std).to(pair.fine.dtype)
        cubes, correction = self._steps(pair, ahead)
        self.made = [cube.float() * std + mean for cube in cubes] if self.training else []
        out = correction.float() if self.base != "none" else cubes[-1].float()
        return start + self._unit(pair.scene) * out

    def body(self, pair: ScaledPair) -> Tensor:
        """Fuse scaled images without a prior."""
        cubes, correction = self._steps(pair, pair.fine)
        return cubes[-1] if self.base == "none" else correction

    def _steps(self, pair: ScaledPair, ahead: Tensor) -> tuple[list[Tensor], Tensor]:
        """Scaled cubes of all steps, and what the last one added, in units of the output."""
        cube, side, made = pair.hsi, self.settings.window_px, []
        unit = (self._unit(pair.scene) / pair.scene.std.float().clamp(min=MIN_STD)[:, :, None, None]).to(cube.dtype)
        correction = cube
        for factor in factors(pair.ratio):
            side *= factor
            size = torch.Size([cube.shape[-2] * factor, cube.shape[-1] * factor])
            start = resized(pair.fine, size)
            here = resized(ahead, size)
            correction = self._step(cube, resized(pair.msi, size), here, side)
            if self.share is not None:
                correction = correction + self.share[:, None, None] * (here - start) / unit
            cube = start + unit * correction
            made.append(cube)
        return made, correction

    def _step(self, cube: Tensor, seen: Tensor, ahead: Tensor, side: int) -> Tensor:
        """What is added to what a step starts from; scans run over blocks of ``fold`` x ``fold`` pixels."""
        fold, size = self.settings.fold, seen.shape[-2:]
        folded = [-(-length // fold) for length in size]
        own = F.interpolate(self.hsi_stem(cube), size=folded, mode="bilinear", align_corners=False)
        streams = [own, self.guide_stem(_folded(seen, fold))]
        if self.prior_stem is not None:
            streams.append(self.prior_stem(_folded(ahead, fold)))
        stack = torch.cat(streams, dim=1)
        for block in self.blocks:
            stack = block(stack, side // fold)
        return F.pixel_shuffle(self.head(stack), fold)[..., : size[0], : size[1]]


def _folded(x: Tensor, fold: int) -> Tensor:
    """Turn blocks of pixels into channels; edges are repeated up to whole blocks."""
    return F.pixel_unshuffle(padded_to(x, fold), fold)


def factors(ratio: int) -> list[int]:
    """Prime factors of a ratio, ascending: the steps in which it is reached."""
    found, divisor = [], 2
    while ratio > 1:
        while ratio % divisor == 0:
            found.append(divisor)
            ratio //= divisor
        divisor += 1
    return found


def build(settings: MpsrnetSettings) -> Mpsrnet:
    """Make the untrained network."""
    return Mpsrnet(settings)
