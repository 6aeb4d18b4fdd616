"""What makes the gate's weights of what it sees: plain convolutions, or the modules of SSRFN."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.fusion.methods.ssrfn.config import BLOCKS, GateConfig
from hsfuse.fusion.methods.ssrfn_paper.blocks import pool
from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn


class PlainBackbone(nn.Module):
    """A few convolutions in residual pairs; ``reach_px`` is how far they look, fine pixels.

    They need no blocks: a tile with its context gives what the whole image gives.

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
        self.reach_px = 2 + 2 * config.blocks
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, ratio: int) -> Tensor:  # noqa: ARG002 - convolutions of the fine grid alone
        """Map (n, input, row, col) to (n, output, row, col)."""
        x = F.relu(self.enter(x))
        for first, second in zip(self.first, self.second, strict=True):
            x = x + second(F.relu(first(x)))
        left: Tensor = self.leave(F.relu(x))
        return left

    def of_bordered(self, x: Tensor) -> Tensor:
        """As :meth:`forward` in the type of ``x``, which has a border of one pixel already.

        Much faster in channels-last memory, where borders are narrow and the arithmetic is not turned around.
        """
        x = F.relu_(_convolved(self.enter, x))
        for first, second in zip(self.first, self.second, strict=True):
            x = x + _convolved(second, _with_border(F.relu_(_convolved(first, _with_border(x)))))
        return _convolved(self.leave, _with_border(F.relu_(x)))


def _convolved(layer: nn.Module, x: Tensor) -> Tensor:
    """Convolve an image that has a border, in its own type."""
    weight, bias = (values.to(x.dtype) for values in layer.parameters())
    return F.conv2d(x, weight.contiguous(memory_format=torch.channels_last), bias)


def _with_border(x: Tensor) -> Tensor:
    return F.pad(x, (1, 1, 1, 1), mode="replicate")


class SsrfnBackbone(nn.Module):
    """The modules of SSRFN on what the gate sees: its first features at the HSI's resolution, and all of them.

    Scans look as far as there is anything, so it runs in blocks fixed in the scene, ``blocks``.

    Parameters
    ----------
    inputs, outputs
        Channels; at least as many inputs as outputs.
    config
        Width, depth and scans.
    """

    def __init__(self, inputs: int, outputs: int, config: GateConfig) -> None:
        super().__init__()
        self.network = Ssrfn(config.modules(inputs, outputs))
        self.network.ffm.scale_output(0.0)
        self.blocks = BLOCKS
        self.outputs = outputs

    def forward(self, x: Tensor, ratio: int) -> Tensor:
        """Map (n, input, row, col) to (n, output, row, col)."""
        out: Tensor = self.network(pool(x[:, : self.outputs], ratio), x)
        return out
