"""Building blocks of the networks: convolutions on image features and Mamba blocks that scan images.

Feature maps are (n, channel, row, col) tensors in channels-last memory, so that turning them into the token
sequences of a Mamba block costs nothing and convolutions run at full speed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hsfuse.errors import UsageError
from hsfuse.fusion.nets.choices import Activation, MambaKind, Scan, Volume, Wrap
from hsfuse.fusion.nets.native import elementwise
from hsfuse.fusion.nets.native import run as native
from hsfuse.fusion.nets.ssm import Mamba1, Mamba2

_LARGEST_SQUARE = 1e38
CHANNEL_GROUP = 32
"""Channels that make one token when a Mamba block scans the channel axis."""


class _Silu(nn.SiLU):
    """SiLU of a layer's fresh output: without gradients it takes that output's place."""

    def forward(self, x: Tensor) -> Tensor:
        done = elementwise.silu_(x)
        return F.silu(x, inplace=not torch.is_grad_enabled()) if done is None else done


def activation(name: Activation) -> nn.Module:
    """Return the activation called ``name``; it may overwrite what it is given."""
    return {"silu": _Silu, "gelu": nn.GELU, "none": nn.Identity}[name]()


def plus(fresh: Tensor, other: Tensor) -> Tensor:
    """Return the sum; without gradients it takes the place of ``fresh``, a layer's output that nothing else needs."""
    return fresh + other if torch.is_grad_enabled() else fresh.add_(other)


def activated(act: nn.Module, fresh: Tensor, other: Tensor) -> Tensor:
    """Return ``act(fresh + other)``; as :func:`plus`, and in one pass where the activation is SiLU."""
    done = elementwise.silu_(fresh, other) if isinstance(act, _Silu) else None
    out: Tensor = act(plus(fresh, other)) if done is None else done
    return out


class SpatialConv(nn.Conv2d):
    """3x3 convolution that keeps the size, zero outside, and what often follows it: a sum and an activation."""

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)

    def forward(self, x: Tensor, other: Tensor | None = None, act: nn.Module | None = None) -> Tensor:
        """Return act(conv(x) + other) for (n, channel, row, col); the sum and SiLU in one pass."""
        out = super().forward(x)
        if other is None:
            return out if act is None else act(out)
        return plus(out, other) if act is None else activated(act, out, other)


def conv3x3(in_channels: int, out_channels: int, *, bias: bool = True) -> SpatialConv:
    """3x3 convolution that keeps the size."""
    return SpatialConv(in_channels, out_channels, bias=bias)


class PointConv(nn.Conv2d):
    """1x1 convolution, computed as a matrix product over pixels.

    In channels-last memory that is what it is; PyTorch's CPU convolution would leave that layout for it.
    """

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102 - as its base
        return pointwise(x, self.weight.flatten(1), self.bias)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a (output, input) matrix to the channels of (n, channel, row, col); channels-last in and out."""
    return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def conv1x1(in_channels: int, out_channels: int, *, bias: bool = True) -> nn.Conv2d:
    """1x1 convolution."""
    return PointConv(in_channels, out_channels, 1, bias=bias)


def channels_last(x: Tensor) -> Tensor:
    """Put a feature map into channels-last memory (no copy when it is there)."""
    return x.contiguous(memory_format=torch.channels_last)


class FeatureUpsample(nn.Module):
    """Bring features from the HSI grid to the MSI grid.

    Parameters
    ----------
    width
        Channels.
    shuffle_ratio
        None: bilinear, for any ratio. A number: learned, by sub-pixel convolution, for that ratio only.
    """

    def __init__(self, width: int, shuffle_ratio: int | None) -> None:
        super().__init__()
        self.ratio = shuffle_ratio
        self.expand = None if shuffle_ratio is None else conv1x1(width, width * shuffle_ratio**2)

    def forward(self, x: Tensor, ratio: int) -> Tensor:
        """Upsample (n, channel, row, col) by ``ratio``; centres of coarse pixels keep their place.

        Raises
        ------
        UsageError
            The learned upsampling was made for another ratio.
        """
        if self.expand is None:
            return channels_last(F.interpolate(x, scale_factor=ratio, mode="bilinear", align_corners=False))
        if ratio != self.ratio:
            raise UsageError(
                f"This network upsamples by {self.ratio}, the scene needs {ratio}.",
                hint="Use a network with bilinear upsampling, which serves any ratio.",
            )
        return channels_last(F.pixel_shuffle(self.expand(x), ratio))


class VolumeConv(nn.Module):
    """A 3-D convolution with a 3x3x1 or 1x1x3 kernel over (row, col, channel), without ever calling one.

    A stack of feature maps is read as a volume with one value per voxel. The 3x3x1 kernel then is a depthwise 3x3
    convolution, the 1x1x3 kernel a tridiagonal 1x1 convolution; both are one to two orders of magnitude faster
    than the 3-D form and equal to it.

    Parameters
    ----------
    channels
        Depth of the volume.
    axis
        ``spatial`` for 3x3x1, ``spectral`` for 1x1x3.
    volume
        ``shared``: the same few weights at every depth, as a 3-D convolution has them; ``depthwise``: own weights
        at every depth; ``full``: an ordinary 3x3 (or 1x1) convolution across all channels.
    step
        Channels from one depth of the spectral kernel to the next (its dilation).
    """

    def __init__(self, channels: int, axis: Literal["spatial", "spectral"], volume: Volume, step: int = 1) -> None:
        super().__init__()
        self.channels, self.axis, self.volume, self.step = channels, axis, volume, step
        if volume == "full":
            self.full = conv3x3(channels, channels) if axis == "spatial" else conv1x1(channels, channels)
            return
        rows = 1 if volume == "shared" else channels
        taps = 9 if axis == "spatial" else 3
        bound = taps**-0.5
        self.weight = nn.Parameter(torch.empty(rows, taps).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(rows).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (n, channel, row, col); zero outside."""
        if self.volume == "full":
            return self.full(x)
        weight = self.weight.expand(self.channels, -1)
        bias = self.bias.expand(self.channels)
        if self.axis == "spatial":
            kernel = channels_last(weight.reshape(self.channels, 1, 3, 3))
            return F.conv2d(x, kernel, bias, padding=1, groups=self.channels)
        step = self.step
        below, above = torch.diag_embed(weight[step:, 0], -step), torch.diag_embed(weight[:-step, 2], step)
        band = below + torch.diag_embed(weight[:, 1]) + above
        return pointwise(x, band, bias)


class SequenceMixer(nn.Module):
    """A Mamba block on a feature map: normalisation, scan, residual.

    Parameters
    ----------
    width
        Channels.
    kind
        Which state space block; ``none`` makes this an identity (``residual``) or zero-cost pass-through.
    scan
        How pixels become sequences. ``raster``: one sequence, row after row. ``bidirectional``: that and its
        reverse, averaged, with the same weights. ``cross``: both along rows and along columns. ``lines``: every
        row (or column) is a sequence of its own; ``direction`` says which way. ``channels``: every pixel is a
        sequence, its tokens are groups of 32 neighbouring channels.
    direction
        For ``lines``: 0 left to right, 1 right to left, 2 downwards, 3 upwards; taken modulo 4.
    wrap
        ``residual``: x + Mamba(LayerNorm(x)); ``prenorm``: Mamba(LayerNorm(x)); ``bare``: Mamba(x).
    d_state, d_conv, expand, headdim
        Of the block.
    """

    def __init__(
        self,
        width: int,
        *,
        kind: MambaKind = "mamba2",
        scan: Scan = "raster",
        direction: int = 0,
        wrap: Wrap = "residual",
        d_state: int = 64,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int = 64,
    ) -> None:
        super().__init__()
        self.scan, self.direction, self.wrap, self.recompute = scan, direction % 4, wrap, False
        if scan == "channels" and width % CHANNEL_GROUP:
            raise UsageError(f"A scan of the channel axis needs a width that is a multiple of {CHANNEL_GROUP}.")
        inner = CHANNEL_GROUP if scan == "channels" else width
        self.norm: nn.Module = nn.Identity() if wrap == "bare" else nn.LayerNorm(inner)
        self.mamba: nn.Module
        if kind == "mamba2":
            self.mamba = Mamba2(inner, d_state, d_conv, expand, min(headdim, expand * inner))
        elif kind == "mamba1":
            self.mamba = Mamba1(inner, d_state, d_conv, expand)
        else:
            self.norm, self.mamba = nn.Identity(), nn.Identity()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """Mix (n, channel, row, col); same shape, channels-last memory."""
        if self.kind == "none":
            return x
        if self.recompute and torch.is_grad_enabled():
            mixed: Tensor = checkpoint(self._mix, x, use_reentrant=False)
            return mixed
        return self._mix(x)

    def _mix(self, x: Tensor) -> Tensor:
        tokens = x.permute(0, 2, 3, 1)
        if self.scan == "lines":
            out = self._by_lines(tokens)
        elif self.scan == "channels":
            out = self._by_groups(
                tokens.reshape(-1, x.shape[1] // CHANNEL_GROUP, CHANNEL_GROUP), self._run, self._budget(tokens)
            ).reshape(tokens.shape)
        else:
            out = self._by_raster(tokens)
        return out.permute(0, 3, 1, 2)

    def _budget(self, tokens: Tensor) -> int:
        """Tokens worked off at a time without gradients: what fits the cache on a CPU, everything on a GPU."""
        return int(self.mamba.segment_tokens) if tokens.device.type == "cpu" else tokens.shape[:3].numel()  # type: ignore[arg-type]

    def _run(self, sequences: Tensor, *, backwards: bool = False) -> Tensor:
        """Norm, block and residual on (sequence, token, channel)."""
        if not backwards and sequences.shape[1] >= native.MIN_LENGTH and native.usable(self, sequences):
            sequences = sequences.contiguous()
            out = torch.empty_like(sequences)
            native.run_sequences(self, sequences, out)
            return out
        mixed = self._mixed(sequences, backwards=backwards)
        return sequences + mixed if self.wrap == "residual" else mixed

    def _mixed(self, sequences: Tensor, *, backwards: bool) -> Tensor:
        """Norm and block, from the last token to the first if ``backwards``."""
        normed = self.norm(sequences)
        mixed: Tensor = self.mamba(normed.flip(1) if backwards else normed)
        return mixed.flip(1) if backwards else mixed

    @staticmethod
    def _by_groups(sequences: Tensor, run: Callable[[Tensor], Tensor], budget: int) -> Tensor:
        """Apply ``run`` to all sequences; without gradients to a few at a time, so that they stay in the cache."""
        count, length = sequences.shape[:2]
        together = max(1, budget // length)
        if torch.is_grad_enabled() or together >= count:
            return run(sequences)
        out = torch.empty_like(sequences, memory_format=torch.contiguous_format)
        for first in range(0, count, together):
            out[first : first + together] = run(sequences[first : first + together])
        return out

    def _by_lines(self, tokens: Tensor) -> Tensor:
        backwards = self.direction in (1, 3)
        along = tokens if self.direction < 2 else tokens.transpose(1, 2)
        if torch.is_grad_enabled() or tokens.device.type != "cpu":
            mixed = self._run(along.flatten(0, 1), backwards=backwards).reshape(along.shape)
            return mixed if self.direction < 2 else mixed.transpose(1, 2)
        out = torch.empty(tokens.shape, dtype=tokens.dtype, device=tokens.device)
        if native.usable(self, tokens):
            tokens = tokens.contiguous()
            native.run_lines(self, tokens, out, columns=self.direction >= 2, backwards=backwards)
            return out
        target = out if self.direction < 2 else out.transpose(1, 2)
        count = along.shape[1]
        groups = -(-count // max(1, self._budget(tokens) // along.shape[2]))
        together = -(-count // groups)
        for image in range(along.shape[0]):
            for first in range(0, count, together):
                lines = slice(first, first + together)
                self._run_into(along[image, lines], target[image, lines], backwards=backwards)
        return out

    def _run_into(self, lines: Tensor, out: Tensor, *, backwards: bool) -> None:
        """As :meth:`_run`, without gradients and without an array between."""
        mixed = self._mixed(lines, backwards=backwards)
        if self.wrap == "residual":
            torch.add(lines, mixed, out=out)
        else:
            out.copy_(mixed)

    def _by_raster(self, tokens: Tensor) -> Tensor:
        rows = tokens.flatten(1, 2)
        if self.scan == "raster":
            return self._run(rows).reshape(tokens.shape)
        results = [self._run(rows), self._run(rows.flip(1)).flip(1)]
        results = [r.reshape(tokens.shape) for r in results]
        if self.scan == "cross":
            swapped = tokens.transpose(1, 2)
            columns = swapped.flatten(1, 2)
            for result in (self._run(columns), self._run(columns.flip(1)).flip(1)):
                results.append(result.reshape(swapped.shape).transpose(1, 2))
        return torch.stack(results).mean(dim=0)
