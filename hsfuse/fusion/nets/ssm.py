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
from hsfuse.fusion.nets.ssd import Chunks, factored_scan

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4
"""Range of the initial step sizes (log-uniform) and their floor."""
SEGMENT_ELEMENTS = 1 << 21
"""Projected values worked off at a time without gradients: they fit the last cache, and outweigh the calls."""


def ssd_scan(
    x: Tensor,
    dt: Tensor,
    decay: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    chunk: int = 64,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """State space duality: the recurrence of Mamba-2 as matrix products over chunks.

    Parameters
    ----------
    x
        Input, shape (sequence, token, head, channel).
    dt
        Step sizes, positive, float32, shape (sequence, token, head).
    decay
        ``A`` of the recurrence, negative, float32, shape (head,).
    b, c
        Input and output projections of the state, shape (sequence, token, state).
    chunk
        Longest chunk. Chunks are made equal, so a sequence of 96 tokens becomes two chunks of 48, not 64 + 32.
    state
        State before the first token, float32, shape (sequence, head, channel, state); zero when omitted.

    Returns
    -------
    y
        Shape of ``x``, without the ``D x`` term.
    state
        State after the last token, float32.
    """
    n_seq, length, n_head, n_channel = x.shape
    n_state = b.shape[-1]
    count = -(-length // chunk)
    size = -(-length // count)
    if count * size > length:  # dt = 0 keeps the state as it is, so padding is exact
        fill = count * size - length
        x, dt = F.pad(x, (0, 0, 0, 0, 0, fill)), F.pad(dt, (0, 0, 0, fill))
        b, c = F.pad(b, (0, 0, 0, fill)), F.pad(c, (0, 0, 0, fill))

    x = x.reshape(n_seq, count, size, n_head, n_channel).transpose(2, 3)  # sequence, chunk, head, token, channel
    b = b.reshape(n_seq, count, 1, size, n_state)
    c = c.reshape(n_seq, count, 1, size, n_state)
    dt = dt.reshape(n_seq, count, size, n_head).transpose(2, 3)
    summed = torch.cumsum((dt * decay[:, None]).double(), dim=-1)  # log decay from the chunk's start to each token
    log_decay = summed.to(torch.promote_types(x.dtype, torch.float32))
    total = log_decay[..., -1]
    x_dt = x * dt.to(x.dtype)[..., None]

    # Inside a chunk: attention-like product under a decay mask.
    mask = _decay_between(summed, log_decay)
    y = ((c @ b.transpose(-1, -2)) * mask.to(x.dtype)) @ x_dt

    # What each chunk adds to the state by its end, then the state at the start of each chunk.
    to_end = torch.exp(total[..., None] - log_decay)
    added = ((x_dt * to_end.to(x.dtype)[..., None]).transpose(-1, -2) @ b).to(log_decay.dtype)
    before, state = _pass_states(added, total, state)
    y = y + (c @ before.to(x.dtype).transpose(-1, -2)) * torch.exp(log_decay).to(x.dtype)[..., None]
    return y.transpose(2, 3).reshape(n_seq, count * size, n_head, n_channel)[:, :length], state


def _decay_between(summed: Tensor, rounded: Tensor) -> Tensor:
    """Decay from every earlier position (last axis) to every later one (second last axis); 0 for the future.

    Differences of long sums lose digits in float32, so what rounding took from the float64 sums is added back to
    the differences.
    """
    size = summed.shape[-1]
    rest = (summed - rounded.double()).detach().to(rounded.dtype)
    between = rounded[..., :, None] - rounded[..., None, :]
    between += rest[..., :, None]
    between -= rest[..., None, :]
    future = torch.ones(size, size, dtype=torch.bool, device=summed.device).triu(1)
    return between.masked_fill_(future, -math.inf).exp_()


def _pass_states(added: Tensor, total: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """States before each chunk and after the last one: a small recurrence over chunks, as one matrix product.

    Parameters
    ----------
    added
        Shape (sequence, chunk, head, channel, state).
    total
        Log decay over each chunk, shape (sequence, chunk, head).
    state
        Shape (sequence, head, channel, state), or None for zero.
    """
    n_seq, count, n_head, n_channel, n_state = added.shape
    if state is None:
        state = added.new_zeros(n_seq, n_head, n_channel, n_state)
    if count == 1:
        return state[:, None], state * torch.exp(total[:, 0])[..., None, None] + added[:, 0]
    sources = torch.cat([state[:, None], added], dim=1)  # source k is complete at boundary k
    passed = torch.cumsum(F.pad(total.transpose(1, 2), (1, 0)).double(), dim=-1)  # log decay up to boundary k
    mask = _decay_between(passed, passed.to(added.dtype))
    flat = sources.transpose(1, 2).reshape(n_seq, n_head, count + 1, n_channel * n_state)
    states = (mask @ flat).reshape(n_seq, n_head, count + 1, n_channel, n_state).transpose(1, 2)
    return states[:, :-1], states[:, -1]


def selective_scan(
    x: Tensor, dt: Tensor, decay: Tensor, b: Tensor, c: Tensor, *, chunk: int = 32, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mamba-1's recurrence (a decay per channel and state) in two levels.

    All chunks step through their tokens side by side from a zero state; a second, short recurrence over chunks
    then adds what each chunk inherits. Every exponent is negative, so nothing overflows.

    Parameters
    ----------
    x, dt
        Input and step sizes, float32, shape (sequence, token, channel).
    decay
        Negative, float32, shape (channel, state).
    b, c
        Shape (sequence, token, state), float32.
    chunk
        Tokens per chunk.
    state
        State before the first token, shape (sequence, channel, state).

    Returns
    -------
    y
        Shape of ``x``, without the ``D x`` term.
    state
        State after the last token.
    """
    n_seq, length, n_channel = x.shape
    n_state = b.shape[-1]
    count = -(-length // chunk)
    size = -(-length // count)
    if count * size > length:
        fill = (0, 0, 0, count * size - length)
        x, dt, b, c = F.pad(x, fill), F.pad(dt, fill), F.pad(b, fill), F.pad(c, fill)
    x, dt = (t.reshape(n_seq, count, size, n_channel) for t in (x, dt))
    b, c = (t.reshape(n_seq, count, size, n_state) for t in (b, c))

    running = x.new_zeros(n_seq, count, n_channel, n_state)
    rows = []
    for t in range(size):
        step = torch.exp(dt[:, :, t, :, None] * decay)
        running = step * running + (dt[:, :, t] * x[:, :, t])[..., None] * b[:, :, t, None, :]
        rows.append(torch.einsum("kgen,kgn->kge", running, c[:, :, t]))
    y = torch.stack(rows, dim=2)

    elapsed = torch.cumsum(dt, dim=2)
    state = x.new_zeros(n_seq, n_channel, n_state) if state is None else state
    before = []
    for k in range(count):
        before.append(state)
        state = torch.exp(elapsed[:, k, -1, :, None] * decay) * state + running[:, k]
    inherited = torch.stack(before, dim=1)
    late = [
        torch.einsum("kgen,kgn->kge", torch.exp(elapsed[:, :, t, :, None] * decay) * inherited, c[:, :, t])
        for t in range(size)
    ]
    y = y + torch.stack(late, dim=2)
    return y.reshape(n_seq, count * size, n_channel)[:, :length], state


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
        self.dt_bias = nn.Parameter(_inverse_softplus(_initial_steps(self.nheads)))
        self.A_log = nn.Parameter(torch.empty(self.nheads).uniform_(1.0, 16.0).log())
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
            self.dt_proj.bias.copy_(_inverse_softplus(_initial_steps(self.d_inner)))
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


def _initial_steps(count: int) -> Tensor:
    """Log-uniform step sizes between DT_MIN and DT_MAX."""
    steps = torch.exp(torch.rand(count) * (math.log(DT_MAX) - math.log(DT_MIN)) + math.log(DT_MIN))
    return steps.clamp(min=DT_FLOOR)


def _inverse_softplus(x: Tensor) -> Tensor:
    return x + torch.log(-torch.expm1(-x))
