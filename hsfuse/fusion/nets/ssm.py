"""Selective state space blocks in plain PyTorch: Mamba-2 (chunked SSD) and Mamba-1 (two-level scan).

Both blocks carry the parameter names, shapes and initial values of the ``mamba_ssm`` package, so one state dict
serves either implementation. The recurrences, for every head (Mamba-2) or channel (Mamba-1):

    h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] x[t],        y[t] = C[t] h[t] + D x[t]

Decays and states are kept in float32 whatever the input's type. Without gradients a long sequence is worked off
in segments with carried state, so memory does not grow with its length.

References
----------
T. Dao, A. Gu, Transformers are SSMs, ICML 2024 (Mamba-2: scalar decay per head, evaluated with matrix products).
A. Gu, T. Dao, Mamba: linear-time sequence modeling with selective state spaces, 2023 (Mamba-1).
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor, nn

from hsfuse.errors import UsageError
from hsfuse.fusion.nets.native import train as native_train
from hsfuse.fusion.nets.scans import selective_scan, ssd_scan
from hsfuse.fusion.nets.ssd import Chunks, factored_scan

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4
"""Range of the initial step sizes (log-uniform) and their floor."""
SEGMENT_ELEMENTS = 1 << 21
"""Projected values worked off at a time without gradients: they fit the last cache, and outweigh the calls."""


class Carry(NamedTuple):
    """What a segment hands to the next: the convolution's last inputs and the state."""

    tail: Tensor
    state: Tensor | None


class RMSNormGated(nn.Module):
    """Root mean square normalisation of ``x * silu(gate)`` (the gate comes first, as in Mamba-2)."""

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """Normalise over the last axis; statistics in float32."""
        gated = x.float() * F.silu(gate.float())
        scale = torch.rsqrt(gated.square().mean(dim=-1, keepdim=True) + self.eps)
        return (gated * scale * self.weight.float()).to(x.dtype)


class _StateSpaceBlock(nn.Module):
    """What both blocks share: sizes, the causal depthwise convolution and working off long inputs in segments."""

    in_proj: nn.Linear
    out_proj: nn.Linear
    conv1d: nn.Conv1d
    segment_tokens: int

    def __init__(self, d_model: int, d_state: int, d_conv: int, expand: int) -> None:
        super().__init__()
        if min(d_model, d_state, d_conv, expand) < 1:
            raise UsageError("The sizes of a state space block must be positive.")
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = expand * d_model

    def _make_conv(self, channels: int) -> nn.Conv1d:
        return nn.Conv1d(channels, channels, self.d_conv, groups=channels, padding=self.d_conv - 1)

    def _causal_conv(self, x: Tensor, tail: Tensor, *, fill: int = 0) -> tuple[Tensor, Tensor]:
        """SiLU of the causal convolution of (sequence, token, channel), and the inputs the next segment needs.

        So many tokens as ``fill`` says are appended to the result, of no meaning.
        """
        behind = [x.new_zeros(x.shape[0], fill, x.shape[2])] if fill else []
        joined = torch.cat([tail, x, *behind], dim=1)
        weight, bias = self.conv1d.weight.to(x.dtype), self.conv1d.bias
        bias = None if bias is None else bias.to(x.dtype)
        # As an image of one row in channels-last memory: nothing is copied, and the result is laid out like the input.
        kernel = weight[:, :, None].contiguous(memory_format=torch.channels_last)
        out = F.conv2d(joined[:, None].permute(0, 3, 1, 2), kernel, bias, groups=weight.shape[0])
        out = out.permute(0, 2, 3, 1)[:, 0]
        return F.silu(out, inplace=not torch.is_grad_enabled()), joined[:, x.shape[1] : x.shape[1] + self.d_conv - 1]

    def _start(self, u: Tensor) -> Carry:
        return Carry(u.new_zeros(u.shape[0], self.d_conv - 1, self.conv1d.in_channels), None)

    def _segment(self, u: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        raise NotImplementedError

    def forward(self, u: Tensor) -> Tensor:
        """Run the block over sequences.

        Parameters
        ----------
        u
            Shape (sequence, token, d_model); float32, bfloat16 or float16.

        Returns
        -------
        torch.Tensor
            The same shape and type.
        """
        n_seq, length, _ = u.shape
        if torch.is_grad_enabled() or n_seq * length <= self.segment_tokens:
            return self._segment(u, self._start(u))[0]
        out = torch.empty_like(u, memory_format=torch.contiguous_format)
        together = max(1, self.segment_tokens // length)
        step = max(1, self.segment_tokens // min(together, n_seq))
        for first in range(0, n_seq, together):
            rows = slice(first, first + together)
            carry = self._start(u[rows])
            for token in range(0, length, step):
                out[rows, token : token + step], carry = self._segment(u[rows, token : token + step], carry)
        return out


class Mamba2(_StateSpaceBlock):
    """Mamba-2 block: projection, causal convolution, SSD, gated normalisation, projection.

    Parameters
    ----------
    d_model
        Width of the input; ``expand * d_model`` must be a multiple of ``headdim``.
    d_state
        State expansion (64 in SSRFN).
    d_conv
        Width of the causal convolution (4).
    expand
        Inner width over ``d_model`` (2).
    headdim
        Channels per head; a head has one decay.
    chunk_size
        Longest chunk of the SSD; 32 to 128 cost the same.

    Raises
    ------
    UsageError
        The inner width is not a multiple of ``headdim``.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int = 64,
        *,
        chunk_size: int = 64,
    ) -> None:
        super().__init__(d_model, d_state, d_conv, expand)
        if self.d_inner % headdim:
            raise UsageError(
                f"The inner width {self.d_inner} of a Mamba-2 block is not a multiple of its head width {headdim}.",
                hint="Choose a width that is a multiple of headdim / 2, or a smaller headdim.",
            )
        self.headdim, self.nheads, self.chunk_size = headdim, self.d_inner // headdim, chunk_size
        conv_channels = self.d_inner + 2 * d_state
        self.in_proj = nn.Linear(d_model, self.d_inner + conv_channels + self.nheads, bias=False)
        self.segment_tokens = max(1, SEGMENT_ELEMENTS // self.in_proj.out_features)
        self.conv1d = self._make_conv(conv_channels)
        self.dt_bias = nn.Parameter(inverse_softplus(initial_steps(self.nheads)))
        self.A_log = nn.Parameter(_log_rates(self.nheads))
        self.D = nn.Parameter(torch.ones(self.nheads))
        self.norm = RMSNormGated(self.d_inner)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        """Run the block over sequences (n, token, d_model); on CUDA by the fastest kernels that there are."""
        if u.is_cuda:
            from hsfuse.fusion.nets.gpu.choice import kernels_for

            kernels = kernels_for(self, u)
            if kernels is not None:
                return kernels(self, u)
        elif torch.is_grad_enabled() and native_train.usable(self, u):
            return self.out_proj(native_train.core(self, self.in_proj(u)))
        return super().forward(u)

    def _segment(self, u: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        if not torch.is_grad_enabled() and not u.is_cuda:
            found = self._factored_segment(u, carry)
            if found is not None:
                return found
        z, xbc, dt = self.in_proj(u).split([self.d_inner, self.d_inner + 2 * self.d_state, self.nheads], dim=-1)
        xbc, tail = self._causal_conv(xbc, carry.tail)
        x, b, c = xbc.split([self.d_inner, self.d_state, self.d_state], dim=-1)
        x = x.unflatten(-1, (self.nheads, self.headdim))
        with _full_precision(u):
            step, decay = self._steps(dt)
            y, state = ssd_scan(x, step, decay, b, c, chunk=self.chunk_size, state=carry.state)
            y = y + x * self.D.to(x.dtype)[:, None]
        return self.out_proj(self.norm(y.flatten(-2), z)), Carry(tail, state)

    def _steps(self, dt: Tensor) -> tuple[Tensor, Tensor]:
        """Step sizes and the heads' decays, float32."""
        return F.softplus(dt.float() + self.dt_bias.float()), -self.A_log.float().exp()

    def _factored_segment(self, u: Tensor, carry: Carry) -> tuple[Tensor, Carry] | None:
        """The same as :meth:`_segment` in fewer passes over memory; None where it leaves the range of numbers."""
        # The gate is computed last: what lies between stays in the caches.
        gate_weight, weight = self.in_proj.weight.tensor_split([self.d_inner])
        xbc, dt = F.linear(u, weight).split([self.d_inner + 2 * self.d_state, self.nheads], dim=-1)
        if xbc.dtype == torch.float16:  # its numbers end at exp(11)
            return None
        with _full_precision(u):
            chunks = Chunks.of(*self._steps(dt), xbc.dtype)
        length = u.shape[1]
        xbc, tail = self._causal_conv(xbc, carry.tail, fill=chunks.length - length)
        x, b, c = xbc.split([self.d_inner, self.d_state, self.d_state], dim=-1)
        with _full_precision(u):
            found = factored_scan(x, b, c, chunks, carry.state)
        if found is None:
            return None
        y = found[0].addcmul_(x, self.D.to(x.dtype).repeat_interleave(self.headdim))[:, :length]
        return self._project(y, F.linear(u, gate_weight)), Carry(tail, found[1])

    def _project(self, y: Tensor, gate: Tensor) -> Tensor:
        """Gated normalisation and projection; the norm's scale is applied behind the projection, to fewer channels."""
        gated = F.silu(gate, inplace=True).mul_(y)
        norm = torch.linalg.vector_norm(gated, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.rsqrt(norm.square_().div_(self.d_inner).add_(self.norm.eps))
        weight = (self.out_proj.weight * self.norm.weight).to(gated.dtype)
        return F.linear(gated, weight).mul_(scale.to(gated.dtype))


class Mamba1(_StateSpaceBlock):
    """Mamba-1 block: like :class:`Mamba2` but with a decay per channel and state, which costs about four times more.

    Parameters
    ----------
    d_model, d_state, d_conv, expand
        See :class:`Mamba2`.
    """

    def __init__(self, d_model: int, d_state: int = 64, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__(d_model, d_state, d_conv, expand)
        self.dt_rank = -(-d_model // 16)
        self.segment_tokens = max(
            64, 4 * SEGMENT_ELEMENTS // (self.d_inner * d_state)
        )  # (token, channel, state) arrays
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = self._make_conv(self.d_inner)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(inverse_softplus(initial_steps(self.d_inner)))
        ladder = torch.arange(1, d_state + 1, dtype=torch.float32)
        self.A_log = nn.Parameter(ladder.log().repeat(self.d_inner, 1))
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)

    def _segment(self, u: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x, tail = self._causal_conv(x, carry.tail)
        dt, b, c = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        dt = F.linear(dt, self.dt_proj.weight)
        with _full_precision(u):
            wide = x.float()
            step = F.softplus(dt.float() + self.dt_proj.bias.float())
            y, state = selective_scan(wide, step, -self.A_log.float().exp(), b.float(), c.float(), state=carry.state)
            y = ((y + wide * self.D.float()) * F.silu(z.float())).to(x.dtype)
        return self.out_proj(y), Carry(tail, state)


def _full_precision(u: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off where it is on: it would put the states into half precision."""
    return nullcontext() if u.is_meta else torch.autocast(u.device.type, enabled=False)


def _log_rates(count: int) -> Tensor:
    """Logarithms of decay rates between 1 and 16."""
    drawn = torch.empty(count).uniform_(1.0, 16.0)
    return drawn if drawn.is_meta else drawn.log()


def initial_steps(count: int) -> Tensor:
    """Log-uniform step sizes between DT_MIN and DT_MAX."""
    drawn = torch.empty(count).uniform_()
    if drawn.is_meta:  # a network that is loaded: values come later, and arithmetic without any imports a compiler
        return drawn
    steps = torch.exp(drawn * (math.log(DT_MAX) - math.log(DT_MIN)) + math.log(DT_MIN))
    return steps.clamp(min=DT_FLOOR)


def inverse_softplus(x: Tensor) -> Tensor:
    """Return what softplus turns into ``x``."""
    return x if x.is_meta else x + torch.log(-torch.expm1(-x))
