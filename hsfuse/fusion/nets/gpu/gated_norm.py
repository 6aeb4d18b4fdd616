"""The gate and RMS normalisation at the end of a Mamba-2 block, fused, by Triton kernels, with gradients."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 16


@triton.jit
def forward_kernel(
    y, z, weight, out, count, length, width, y_seq, y_token, z_seq, z_token, eps,
    rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """``out = g w / rms(g)`` with ``g = y silu(z)``; rows are tokens."""
    index = (tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)).to(tl.int64)
    cols = tl.arange(0, block)
    mask = (index < count)[:, None] & (cols < width)[None, :]
    seq, token = index // length, index % length
    value = tl.load(y + (seq * y_seq + token * y_token)[:, None] + cols[None, :], mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(z + (seq * z_seq + token * z_token)[:, None] + cols[None, :], mask=mask, other=0.0).to(tl.float32)
    gated = value * gate * tl.sigmoid(gate)
    scale = 1.0 / tl.sqrt(tl.sum(gated * gated, 1) / width + eps)
    factor = tl.load(weight + cols, mask=cols < width, other=0.0).to(tl.float32)
    result = gated * scale[:, None] * factor[None, :]
    tl.store(out + index[:, None] * width + cols[None, :], result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def backward_kernel(
    y, z, weight, upstream, dy, dz, sums, count, length, width, y_seq, y_token, z_seq, z_token, eps,
    rows: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of rows; ``sums`` (program, channel) is its part of the gradient of the weight."""
    program = tl.program_id(0).to(tl.int64)
    index = program * rows + tl.arange(0, rows)
    cols = tl.arange(0, block)
    known = cols < width
    mask = (index < count)[:, None] & known[None, :]
    seq, token = index // length, index % length
    value = tl.load(y + (seq * y_seq + token * y_token)[:, None] + cols[None, :], mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(z + (seq * z_seq + token * z_token)[:, None] + cols[None, :], mask=mask, other=0.0).to(tl.float32)
    flat = index[:, None] * width + cols[None, :]
    arriving = tl.load(upstream + flat, mask=mask, other=0.0).to(tl.float32)
    factor = tl.load(weight + cols, mask=known, other=0.0).to(tl.float32)
    share = tl.sigmoid(gate)
    gated = value * gate * share
    scale = 1.0 / tl.sqrt(tl.sum(gated * gated, 1) / width + eps)
    weighted = arriving * factor[None, :]
    along = tl.sum(gated * weighted, 1) * scale * scale * scale / width
    d_gated = weighted * scale[:, None] - gated * along[:, None]
    tl.store(dy + flat, (d_gated * gate * share).to(dy.dtype.element_ty), mask=mask)
    d_gate = d_gated * value * share * (1.0 + gate * (1.0 - share))
    tl.store(dz + flat, d_gate.to(dz.dtype.element_ty), mask=mask)
    tl.store(sums + program * width + cols, tl.sum(arriving * gated * scale[:, None], 0), mask=known)


def gated_rms_norm(y: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``g w / sqrt(mean(g^2) + eps)`` with ``g = y silu(z)``.

    Parameters
    ----------
    y, z
        Values and gate, shape (sequence, token, channel), channels contiguous.
    weight
        Shape (channel,).
    eps
        Added to the mean square.

    Returns
    -------
    torch.Tensor
        Shape and type of ``y``, contiguous.
    """
    out: Tensor = _GatedNorm.apply(y, z, weight, eps)
    return out


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, z = (t if t.stride(-1) == 1 else t.contiguous() for t in (y, z))
        out = torch.empty(y.shape, dtype=y.dtype, device=y.device)
        sizes = _Sizes(y)
        forward_kernel[(sizes.programs,)](
            y, z, weight, out, sizes.count, *y.shape[1:], *y.stride()[:2], *z.stride()[:2], eps,
            rows=_ROWS, block=sizes.block,
        )  # fmt: skip
        ctx.save_for_backward(y, z, weight)
        ctx.eps = eps
        return out

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        y, z, weight = ctx.saved_tensors
        sizes = _Sizes(y)
        dy, dz = (torch.empty(y.shape, dtype=t.dtype, device=y.device) for t in (y, z))
        sums = torch.empty(sizes.programs, y.shape[2], dtype=torch.float32, device=y.device)
        backward_kernel[(sizes.programs,)](
            y, z, weight, upstream[0].contiguous(), dy, dz, sums, sizes.count, *y.shape[1:], *y.stride()[:2],
            *z.stride()[:2], ctx.eps, rows=_ROWS, block=sizes.block,
        )  # fmt: skip
        return dy, dz, sums.sum(0).to(weight.dtype), None


class _Sizes:
    def __init__(self, y: Tensor) -> None:
        self.count = y.shape[0] * y.shape[1]
        self.programs = -(-self.count // _ROWS)
        self.block = 1 << (y.shape[2] - 1).bit_length()
