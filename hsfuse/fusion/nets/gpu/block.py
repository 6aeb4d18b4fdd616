"""A Mamba-2 block on a GPU by this package's Triton kernels, and whether they can serve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hsfuse.fusion.gpu.choice import kernels_of

if TYPE_CHECKING:
    from hsfuse.fusion.nets.interfaces import Mamba2Block as Mamba2

WIDEST_NORM = 8192
"""Channels that one program of the normalisation holds; wider blocks take the plain path."""


def available() -> bool:
    """Whether Triton is installed and can be imported (the log says why not, once)."""
    return kernels_of("hsfuse.fusion.nets.gpu.ssd") is not None


def usable(block: Mamba2, u: Tensor) -> bool:
    """Whether the kernels can serve a block for an input on a GPU."""
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    return u.dtype in kinds and block.d_inner <= WIDEST_NORM and available()


def mamba2_forward(block: Mamba2, u: Tensor) -> Tensor:
    """Run a Mamba-2 block, with gradients where they are wanted.

    Parameters
    ----------
    block
        Holds the parameters.
    u
        Shape (sequence, token, d_model).

    Returns
    -------
    torch.Tensor
        The same shape and type.
    """
    from hsfuse.fusion.nets.gpu.convolution import causal_conv_silu
    from hsfuse.fusion.nets.gpu.gated_norm import gated_rms_norm
    from hsfuse.fusion.nets.gpu.ssd import scan

    z, xbc, dt = block.in_proj(u).split([block.d_inner, block.d_inner + 2 * block.d_state, block.nheads], dim=-1)
    bias = block.conv1d.bias
    if bias is None:
        bias = xbc.new_zeros(xbc.shape[-1])
    xbc = causal_conv_silu(xbc, block.conv1d.weight.squeeze(1), bias)
    x, b, c = xbc.split([block.d_inner, block.d_state, block.d_state], dim=-1)
    decay = -block.A_log.float().exp()
    y = scan(x.unflatten(-1, (block.nheads, block.headdim)), dt, block.dt_bias.float(), decay, b, c, block.D.float())
    out: Tensor = block.out_proj(gated_rms_norm(y.flatten(-2), z, block.norm.weight, block.norm.eps))
    return out
