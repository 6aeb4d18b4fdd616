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

import torch
from torch import Tensor

_CHUNKS = (32, 16, 8, 6)
_WIDEST = 110.0
"""Sum of log decays over a chunk: half of it is the exponent of either factor, and the numbers end at exp(88)."""
_STEEPEST = -16.0
"""A step that lets less of the state pass than this (1e-7) may as well let so much pass; six fit a chunk."""


def factored_scan(
    x: Tensor, dt: Tensor, decay: Tensor, b: Tensor, c: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor] | None:
    """The recurrence of :func:`hsfuse.fusion.nets.ssm.ssd_scan`, without gradients.

    Parameters
    ----------
    x
        Input, shape (sequence, token, head, channel).
    dt
        Step sizes, positive, float32, shape (sequence, token, head).
    decay
        Negative, float32, shape (head,).
    b, c
        Input and output projections of the state, shape (sequence, token, state).
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
    n_seq, length, n_head, n_channel = x.shape
    logs = (dt * decay).clamp_(min=_STEEPEST)
    summed, count, size = _chunked(logs)
    fill = count * size - length
    if fill:  # a step of zero keeps the state as it is
        x, dt, b, c = (torch.nn.functional.pad(t, (0, 0) * (t.dim() - 2) + (0, fill)) for t in (x, dt, b, c))
    total = summed[:, :, -1]
    middle = 0.5 * total
    kind = x.dtype
    before_it = torch.exp(middle[:, :, None] - summed).mul_(dt.reshape(summed.shape)).to(kind)
    after_it = torch.exp(summed - middle[:, :, None]).to(kind)
    scaled = x.reshape(n_seq, count, size, n_head, n_channel) * before_it[..., None]
    scaled = scaled.reshape(n_seq * count, size, n_head * n_channel)
    b, c = (t.reshape(n_seq * count, size, -1) for t in (b, c))
    added = torch.bmm(b.transpose(1, 2), scaled).view(n_seq, count, -1, n_head, n_channel)
    before, state = _passed(added, total, middle, state)
    inherited = torch.bmm(c, before.to(kind).view(n_seq * count, -1, n_head * n_channel))
    y = inherited.baddbmm_(torch.bmm(c, b.transpose(1, 2)).tril_(), scaled)
    if not math.isfinite(float(y.sum(dtype=torch.float32))):
        return None
    y = y.view(n_seq, count, size, n_head, n_channel).mul_(after_it[..., None])
    return y.reshape(n_seq, count * size, n_head, n_channel)[:, :length], state


def _chunked(logs: Tensor) -> tuple[Tensor, int, int]:
    """Sums of log decays from the start of each chunk, shape (sequence, chunk, token, head); number and length.

    Chunks are equally long, and as long as their decays allow.
    """
    n_seq, length, n_head = logs.shape
    for longest in _CHUNKS:
        count = -(-length // longest)
        size = -(-length // count)
        filled = torch.nn.functional.pad(logs, (0, 0, 0, count * size - length))
        summed = filled.view(n_seq, count, size, n_head).cumsum(dim=2)
        if float(summed[:, :, -1].min()) >= -_WIDEST:
            break
    return summed, count, size


def _passed(added: Tensor, total: Tensor, middle: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """States before each chunk, times the factor that its outputs lack, and the state after the last one."""
    n_seq, count, n_state, n_head, n_channel = added.shape
    wide = n_head * n_channel
    added = added.view(n_seq, count, n_state, wide).float()
    # One factor for each channel of a head: long loops over equal strides beat short ones over a repeated number.
    factors = torch.stack([total, middle, total - middle]).exp_().repeat_interleave(n_channel, dim=-1)[:, :, :, None]
    kept, lacking, gained = factors.unbind(0)
    running = added.new_zeros(n_seq, n_state, wide)
    if state is not None:
        running.copy_(state.flatten(1, 2).transpose(1, 2))
    before = torch.empty_like(added)
    for chunk in range(count):
        torch.mul(running, lacking[:, chunk], out=before[:, chunk])
        running.mul_(kept[:, chunk]).addcmul_(added[:, chunk], gained[:, chunk])
    return before, running.transpose(1, 2).unflatten(1, (n_head, n_channel))
