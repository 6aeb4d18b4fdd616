"""The recurrences of both Mamba blocks as matrix products and two-level scans, with gradients."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from hsfuse.fusion.nets.running_sum import running_sum


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
    summed = running_sum((dt * decay[:, None]).double(), -1)  # log decay from the chunk's start to each token
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
    passed = running_sum(F.pad(total.transpose(1, 2), (1, 0)).double(), -1)  # log decay up to boundary k
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

    elapsed = running_sum(dt, 2)
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


_STEEPEST = -5.0
_SHORT_CHUNK = 16


def windowed_selective_scan(x: Tensor, dt: Tensor, decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """As :func:`selective_scan` from a zero state, in few large steps: for many sequences of a few hundred tokens.

    In a chunk the state is ``exp(a[t]) * cumsum(exp(-a[s]) dt[s] B[s] x[s])``, where a is the sum of log decays: a
    cumulative sum instead of a loop over tokens. Chunks are short, and a step lets at least exp(-5) of the state pass,
    so that the exponentials stay in the range of float32.

    Parameters
    ----------
    x, dt, decay, b, c
        See :func:`selective_scan`.

    Returns
    -------
    torch.Tensor
        Shape of ``x``, without the ``D x`` term.
    """
    n_seq, length, n_channel = x.shape
    count = -(-length // _SHORT_CHUNK)
    fill = (0, 0, 0, count * _SHORT_CHUNK - length)
    x, dt, b, c = (F.pad(t, fill).reshape(n_seq, count, _SHORT_CHUNK, -1) for t in (x, dt, b, c))
    log_decay = running_sum((dt[..., None] * decay).clamp(min=_STEEPEST), 2)  # sequence, chunk, token, channel, state
    taken = (dt * x)[..., None] * b[..., None, :]
    states = torch.exp(log_decay) * running_sum(torch.exp(-log_decay) * taken, 2)

    # What each chunk inherits: the sum over earlier chunks of what they left, less what decayed in between.
    total = log_decay[:, :, -1]
    reached = F.pad(running_sum(total, 1), (0, 0, 0, 0, 1, 0))  # up to the start of each chunk
    between = reached[:, :-1, None] - reached[:, None, 1:]  # from the end of one (third axis) to the start of another
    earlier = torch.ones(count, count, dtype=torch.bool, device=x.device).tril(-1)[:, :, None, None]
    passed = between.masked_fill(~earlier, -math.inf).exp()
    inherited = torch.einsum("kijen,kjen->kien", passed, states[:, :, -1])
    states = states + torch.exp(log_decay) * inherited[:, :, None]
    y = torch.einsum("kgten,kgtn->kgte", states, c)
    return y.reshape(n_seq, count * _SHORT_CHUNK, n_channel)[:, :length]
