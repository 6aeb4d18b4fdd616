"""The state space duality of Mamba-2 for inference in plain PyTorch, with decays factored out of the products.

In a chunk of tokens the recurrence is a product with a lower triangular matrix: the weight of token s in the output
of token t is (C_t · B_s) exp(a_t - a_s), where a is the sum of the log decays up to a token. Taking the exponential of
the differences costs more than all products. Here the input is multiplied with exp(m - a_s) and the output with
exp(a_t - m) instead, for a middle m of the chunk: one triangular matrix then serves all heads, and no head has to be
brought into a matrix of its own. Chunks are so short that neither factor leaves the range of float32; only inputs
millions of times larger than usual do.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

_CHUNKS = (32, 24, 16, 12, 8, 6)
_WIDEST = 110.0
"""Sum of log decays over a chunk: half of it is the exponent of either factor, and the numbers end at exp(88)."""
_STEEPEST, _STEEPEST_HALF = -16.0, -9.0
"""A step that lets less of the state pass than this (1e-7, in half precision 1e-4) may as well let so much pass.

So many chunks are long enough: at least six steps fit one, in half precision twelve.
"""


class Chunks(NamedTuple):
    """Tokens in equally long chunks, as long as their decays allow; steps of zero fill the last one.

    Attributes
    ----------
    step
        Step sizes, float32, shape (sequence, chunk, token, head).
    summed
        Sums of log decays from the start of each chunk, the same shape.
    """

    step: Tensor
    summed: Tensor

    @property
    def length(self) -> int:
        """Tokens of a sequence, those that fill the last chunk included."""
        return int(self.step.shape[1] * self.step.shape[2])

    @classmethod
    def of(cls, dt: Tensor, decay: Tensor, kind: torch.dtype) -> Chunks:
        """Cut sequences into chunks.

        Parameters
        ----------
        dt
            Step sizes, positive, float32, shape (sequence, token, head).
        decay
            Negative, float32, shape (head,).
        kind
            Type of what will be scanned.
        """
        n_seq, length, n_head = dt.shape
        logs = (dt * decay).clamp_(min=_STEEPEST if kind == torch.float32 else _STEEPEST_HALF)
        for longest in _CHUNKS:
            count = -(-length // longest)
            size = -(-length // count)
            filled = F.pad(logs, (0, 0, 0, count * size - length))
            summed = filled.view(n_seq, count, size, n_head).cumsum(dim=2)
            if float(summed[:, :, -1].min()) >= -_WIDEST:
                break
        step = F.pad(dt, (0, 0, 0, count * size - length)).view(summed.shape)
        return cls(step, summed)


def factored_scan(
    x: Tensor, b: Tensor, c: Tensor, chunks: Chunks, state: Tensor | None = None
) -> tuple[Tensor, Tensor] | None:
    """The recurrence of :func:`hsfuse.fusion.nets.scans.ssd_scan`, without gradients.

    Parameters
    ----------
    x
        Input, shape (sequence, token, head * channel), as many tokens as ``chunks`` have: anything finite may stand
        in those that fill the last chunk.
    b, c
        Input and output projections of the state, shape (sequence, token, state).
    chunks
        Step sizes and decays.
    state
        State before the first token, float32, shape (sequence, head, channel, state); zero when omitted.

    Returns
    -------
    y
        Shape of ``x``, without the ``D x`` term.
    state
        State after the last token, float32, shape as before.

    None is returned instead where numbers left the range of their type.
    """
    step, summed = chunks
    n_seq, count, size, n_head = summed.shape
    kind, wide = x.dtype, x.shape[-1]
    n_channel = wide // n_head
    middle = 0.5 * summed[:, :, -1]
    before_it = torch.exp(middle[:, :, None] - summed).mul_(step)
    after_it = torch.exp(summed - middle[:, :, None])
    scaled = x.reshape(n_seq, count, size, wide) * _by_channel(before_it.to(kind), n_channel)
    scaled = scaled.view(n_seq * count, size, wide)
    b, c = (t.reshape(n_seq * count, size, -1) for t in (b, c))
    states = torch.bmm(b.transpose(1, 2), scaled).view(n_seq, count, -1, wide)
    state = _pass_on(states, middle, n_channel, state)
    inherited = torch.bmm(c, states.view(n_seq * count, -1, wide))
    y = inherited.baddbmm_(torch.bmm(c, b.transpose(1, 2)).tril_(), scaled)
    if not math.isfinite(float(y.sum())):
        return None
    y = y.view(n_seq, count, size, wide).mul_(_by_channel(after_it.to(kind), n_channel))
    return y.view(n_seq, count * size, wide), state


def _by_channel(factors: Tensor, n_channel: int) -> Tensor:
    """Repeat a factor for each channel of its head: long loops over numbers beat short ones over a repeated number."""
    return factors[..., None].expand(*factors.shape, n_channel).flatten(-2)


def _pass_on(states: Tensor, middle: Tensor, n_channel: int, state: Tensor | None) -> Tensor:
    """Turn what each chunk adds to the state into the state before each chunk; return the one after the last.

    A chunk adds to the state in the unit of its middle, and its outputs want the state in that unit: one factor for
    each half of a chunk serves all.

    Parameters
    ----------
    states
        What each chunk adds, shape (sequence, chunk, state, head * channel); the states before take its place.
    middle
        Half of the log decay over each chunk, shape (sequence, chunk, head).
    n_channel
        Channels of a head.
    state
        Shape (sequence, head, channel, state), or None for zero.
    """
    n_head = middle.shape[2]
    # Half a chunk at a time: the decay from one middle to the next may be below what float32 can say.
    halves = _by_channel(middle.exp().to(states.dtype), n_channel)[:, :, None]
    kept = _by_channel((2.0 * middle).exp(), n_channel)[:, :, None].unbind(1)
    running = middle.new_zeros(states.shape[0], *states.shape[2:])
    if state is not None:
        running.copy_(state.flatten(1, 2).transpose(1, 2))
    added = torch.empty_like(running)
    states.mul_(halves)
    for part, keeping in zip(states.unbind(1), kept, strict=True):
        # Sums in float32. Operations on two types, and such that allocate, take twice as long.
        added.copy_(part)
        part.copy_(running)
        torch.addcmul(added, running, keeping, out=running)
    states.mul_(halves)
    return running.transpose(1, 2).unflatten(1, (n_head, n_channel))
