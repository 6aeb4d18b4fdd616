"""The causal depthwise convolution of a Mamba block with its SiLU, by Triton kernels, with gradients."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_TOKENS, _CHANNELS = 64, 64


@triton.jit
def _tap(base, rows, cols, stride, length, width):
    """One row per token, float32; zero outside the sequence."""
    mask = ((rows >= 0) & (rows < length))[:, None] & (cols < width)[None, :]
    return tl.load(base + rows[:, None] * stride + cols[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _before_activation(x, weight, bias, rows, cols, stride, length, width, taps: tl.constexpr):
    known = cols < width
    total = tl.zeros((rows.shape[0], cols.shape[0]), tl.float32)
    total += tl.load(bias + cols, mask=known, other=0.0).to(tl.float32)[None, :]
    for k in tl.static_range(taps):
        factor = tl.load(weight + cols * taps + k, mask=known, other=0.0).to(tl.float32)
        total += _tap(x, rows - (taps - 1) + k, cols, stride, length, width) * factor[None, :]
    return total


@triton.jit
def forward_kernel(
    x, weight, bias, y, length, width, x_seq, x_token, y_seq, y_token, n_block,
    taps: tl.constexpr, tokens: tl.constexpr, channels: tl.constexpr,
):  # fmt: skip
    """``y[t] = silu(bias + sum_k w[k] x[t - taps + 1 + k])``, one block of tokens and channels."""
    program = tl.program_id(0).to(tl.int64)
    seq, block = program // n_block, program % n_block
    rows = block * tokens + tl.arange(0, tokens)
    cols = tl.program_id(1) * channels + tl.arange(0, channels)
    out = _before_activation(x + seq * x_seq, weight, bias, rows, cols, x_token, length, width, taps)
    out = out * tl.sigmoid(out)
    mask = (rows < length)[:, None] & (cols < width)[None, :]
    tl.store(y + seq * y_seq + rows[:, None] * y_token + cols[None, :], out.to(y.dtype.element_ty), mask=mask)


@triton.jit
def activation_gradient_kernel(
    x, weight, bias, dy, inner, sums, length, width, x_seq, x_token, dy_seq, dy_token, n_block,
    taps: tl.constexpr, tokens: tl.constexpr, channels: tl.constexpr,
):  # fmt: skip
    """Gradient before the activation, and what the block adds to those of the bias and of every tap.

    ``inner`` has the shape (sequence, token, channel), ``sums`` (sequence * block, taps + 1, channel), both contiguous.
    """
    program = tl.program_id(0).to(tl.int64)
    seq, block = program // n_block, program % n_block
    rows = block * tokens + tl.arange(0, tokens)
    cols = tl.program_id(1) * channels + tl.arange(0, channels)
    x += seq * x_seq
    before = _before_activation(x, weight, bias, rows, cols, x_token, length, width, taps)
    gate = tl.sigmoid(before)
    gradient = _tap(dy + seq * dy_seq, rows, cols, dy_token, length, width) * gate * (1.0 + before * (1.0 - gate))
    known = cols < width
    mask = (rows < length)[:, None] & known[None, :]
    tl.store(inner + (seq * length + rows[:, None]) * width + cols[None, :], gradient, mask=mask)
    place = sums + program * (taps + 1) * width + cols
    tl.store(place, tl.sum(gradient, 0), mask=known)
    for k in tl.static_range(taps):
        own = tl.sum(gradient * _tap(x, rows - (taps - 1) + k, cols, x_token, length, width), 0)
        tl.store(place + (k + 1) * width, own, mask=known)


@triton.jit
def input_gradient_kernel(
    inner, weight, dx, length, width, n_block, taps: tl.constexpr, tokens: tl.constexpr, channels: tl.constexpr
):  # fmt: skip
    """``dx[t] = sum_k w[k] inner[t + taps - 1 - k]``."""
    program = tl.program_id(0).to(tl.int64)
    seq, block = program // n_block, program % n_block
    rows = block * tokens + tl.arange(0, tokens)
    cols = tl.program_id(1) * channels + tl.arange(0, channels)
    known = cols < width
    inner += seq * length * width
    total = tl.zeros((tokens, channels), tl.float32)
    for k in tl.static_range(taps):
        factor = tl.load(weight + cols * taps + k, mask=known, other=0.0).to(tl.float32)
        total += _tap(inner, rows + (taps - 1) - k, cols, width, length, width) * factor[None, :]
    mask = (rows < length)[:, None] & known[None, :]
    place = dx + seq * length * width + rows[:, None] * width + cols[None, :]
    tl.store(place, total.to(dx.dtype.element_ty), mask=mask)


def causal_conv_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Causal depthwise convolution, then SiLU.

    Parameters
    ----------
    x
        Shape (sequence, token, channel), channels contiguous.
    weight
        Shape (channel, tap); the last tap meets the token itself.
    bias
        Shape (channel,).

    Returns
    -------
    torch.Tensor
        Shape and type of ``x``, contiguous.
    """
    out: Tensor = _CausalConv.apply(x, weight, bias)
    return out


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x if x.stride(-1) == 1 else x.contiguous()
        weight = weight.contiguous()
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        grid, n_block = _grid(x)
        forward_kernel[grid](
            x, weight, bias, y, *x.shape[1:], *x.stride()[:2], *y.stride()[:2], n_block,
            taps=weight.shape[1], tokens=_TOKENS, channels=_CHANNELS,
        )  # fmt: skip
        ctx.save_for_backward(x, weight, bias)
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, ...]:
        x, weight, bias = ctx.saved_tensors
        dy = upstream[0] if upstream[0].stride(-1) == 1 else upstream[0].contiguous()
        grid, n_block = _grid(x)
        taps, (n_seq, length, width) = weight.shape[1], x.shape
        inner = torch.empty(x.shape, dtype=torch.float32, device=x.device)
        sums = torch.empty(n_seq * n_block, taps + 1, width, dtype=torch.float32, device=x.device)
        activation_gradient_kernel[grid](
            x, weight, bias, dy, inner, sums, length, width, *x.stride()[:2], *dy.stride()[:2], n_block,
            taps=taps, tokens=_TOKENS, channels=_CHANNELS,
        )  # fmt: skip
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        input_gradient_kernel[grid](
            inner, weight, dx, length, width, n_block, taps=taps, tokens=_TOKENS, channels=_CHANNELS
        )
        total = sums.sum(0)
        return dx, total[1:].t().to(weight.dtype), total[0].to(bias.dtype)


def _grid(x: Tensor) -> tuple[tuple[int, int], int]:
    n_block = -(-x.shape[1] // _TOKENS)
    return (x.shape[0] * n_block, -(-x.shape[2] // _CHANNELS)), n_block
