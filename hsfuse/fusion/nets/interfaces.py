"""What kernels need to know of the layers that they stand in for; the layers themselves import the kernels."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class GatedNorm(Protocol):
    """A root-mean-square norm behind a gate."""

    weight: nn.Parameter
    eps: float

    def __call__(self, x: Tensor, gate: Tensor) -> Tensor:
        """Normalise x, multiplied with SiLU of the gate."""
        ...


class Mamba2Block(Protocol):
    """A Mamba-2 block, see :class:`hsfuse.fusion.nets.ssm.Mamba2`."""

    d_model: int
    d_inner: int
    d_state: int
    d_conv: int
    headdim: int
    nheads: int
    in_proj: nn.Linear
    out_proj: nn.Linear
    conv1d: nn.Conv1d
    dt_bias: nn.Parameter
    A_log: nn.Parameter
    D: nn.Parameter

    @property
    def norm(self) -> GatedNorm:
        """Of the scan's result, with the gate."""
        ...


class Mixer(Protocol):
    """Norm, block and residual over sequences, see :class:`hsfuse.fusion.nets.layers.SequenceMixer`."""

    norm: nn.Module
    mamba: nn.Module

    @property
    def kind(self) -> str:
        """Which block it holds: ``mamba2``, ``mamba1`` or ``none``."""
        ...

    @property
    def wrap(self) -> str:
        """How norm and residual stand around the block."""
        ...
