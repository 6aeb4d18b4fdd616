"""The SSD scan of Mamba-2 by Triton kernels, with gradients."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from hsfuse.fusion.nets.gpu import ssd_backward, ssd_forward
from hsfuse.fusion.nets.running_sum import running_sum

TOKENS = 64
"""Tokens of a chunk; 64 x 64 products fill the tensor cores, and longer chunks do more work than they save."""
MANY_PROGRAMS = 1024
"""So many heads of sequences keep a card busy, one token after another: an H100 has 132 processors."""
_PASS_BLOCK = 1024
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether the kernels run under Triton's interpreter, on a CPU: it asks for this variable when it is imported."""


def scan(
    x: Tensor,
    dt: Tensor,
    bias: Tensor,
    decay: Tensor,
    b: Tensor,
    c: Tensor,
    skip: Tensor,
    *,
    chunked: bool | None = None,
) -> Tensor:
    """Scan sequences: ``h[t] = exp(s[t] A) h[t-1] + s[t] B[t] x[t]``, ``y[t] = C[t] h[t] + D x[t]``.

    Parameters
    ----------
    x
        Shape (sequence, token, head, channel); head and channel contiguous. float32, bfloat16 or float16.
    dt
        Shape (sequence, token, head), before bias and softplus, which give the step sizes ``s``.
    bias, decay, skip
        Bias of the step sizes, ``A`` (negative) and ``D``, float32, shape (head,).
    b, c
        Shape (sequence, token, state); state contiguous; of the type of ``x``.
    chunked
        Whether chunks run side by side; None: where there are few sequences.

    Returns
    -------
    torch.Tensor
        Shape and type of ``x``.
    """
    out: Tensor = _Scan.apply(x, dt, bias, decay, b, c, skip, chunked)
    return out


def _block(width: int) -> int:
    """Products want sides that are powers of two and at least 16."""
    return max(16, 1 << (width - 1).bit_length())


class _Sizes:
    """Sizes of a scan, and the arguments that all kernels share."""

    def __init__(self, x: Tensor, b: Tensor) -> None:
        self.n_seq, self.length, self.n_head, self.channels = x.shape
        self.states = b.shape[-1]
        self.n_chunk = -(-self.length // TOKENS)
        self.block_p, self.block_n = _block(self.channels), _block(self.states)
        # TF32 keeps ten bits: products of float32 are taken at their word, as PyTorch does by default.
        precision = "ieee" if x.dtype == torch.float32 else "tf32"
        self.constants: dict[str, Any] = {
            "channels": self.channels, "states": self.states, "block_p": self.block_p, "block_n": self.block_n,
            "tokens": TOKENS, "precision": precision, "widen": INTERPRETED,
        }  # fmt: skip

    @property
    def programs(self) -> tuple[int]:
        return (self.n_seq * self.n_chunk * self.n_head,)

    def chunk_states(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Memory for a state and a log decay per chunk, float32."""
        shape = (self.n_seq, self.n_chunk, self.n_head)
        states = torch.empty(*shape, self.block_n, self.block_p, dtype=torch.float32, device=like.device)
        return states, torch.empty(shape, dtype=torch.float32, device=like.device)

    def pass_on(self, states: Tensor, totals: Tensor, *, backward: bool) -> None:
        wide = self.block_n * self.block_p
        block = min(wide, _PASS_BLOCK)
        ssd_forward.pass_states_kernel[(self.n_seq * self.n_head, -(-wide // block))](
            states, totals, self.n_chunk, self.n_head, wide=wide, block=block, backward=backward
        )


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for tensor in tensors for stride in tensor.stride()[:2]]


def _dense(tensor: Tensor, inner: int) -> Tensor:
    """Make sure that the last ``inner`` axes lie behind one another."""
    wanted = 1
    for axis in range(tensor.ndim - 1, tensor.ndim - 1 - inner, -1):
        if tensor.shape[axis] > 1 and tensor.stride(axis) != wanted:
            return tensor.contiguous()
        wanted *= tensor.shape[axis]
    return tensor


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, bias: Tensor, decay: Tensor, b: Tensor, c: Tensor, skip: Tensor,
        chunked: bool | None,
    ) -> Tensor:  # fmt: skip
        x, dt, b, c = _dense(x, 2), _dense(dt, 1), _dense(b, 1), _dense(c, 1)
        sizes = _Sizes(x, b)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        if chunked is None:
            chunked = sizes.n_chunk > 1 and sizes.n_seq * sizes.n_head < MANY_PROGRAMS
        if chunked:
            states = _states_before(sizes, x, dt, bias, decay, b)
            ssd_forward.chunk_outputs_kernel[sizes.programs](
                x, dt, bias, decay, b, c, skip, states, y, sizes.length, *_strides(x, dt, b, c, y),
                sizes.n_chunk, sizes.n_head, **sizes.constants,
            )  # fmt: skip
        else:
            ssd_forward.scan_sequences_kernel[(sizes.n_seq * sizes.n_head,)](
                x, dt, bias, decay, b, c, skip, y, sizes.length, *_strides(x, dt, b, c, y), sizes.n_head,
                **sizes.constants,
            )  # fmt: skip
        ctx.save_for_backward(x, dt, bias, decay, b, c, skip)
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, bias, decay, b, c, skip = ctx.saved_tensors
        dy = _dense(upstream[0].to(x.dtype), 2)
        sizes = _Sizes(x, b)
        before = _states_before(sizes, x, dt, bias, decay, b)
        after, totals = sizes.chunk_states(x)
        ssd_backward.state_gradients_kernel[sizes.programs](
            dy, dt, bias, decay, c, after, totals, sizes.length, *_strides(dy, dt, c), sizes.n_chunk, sizes.n_head,
            **sizes.constants,
        )  # fmt: skip
        sizes.pass_on(after, totals, backward=True)
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        d_step, d_sum, d_skip = (torch.empty(dt.shape, dtype=torch.float32, device=x.device) for _ in range(3))
        db, dc = (
            torch.empty(*dt.shape, sizes.states, dtype=torch.float32, device=x.device) for _ in range(2)
        )  # fmt: skip
        ssd_backward.chunk_gradients_kernel[sizes.programs](
            x, dy, dt, bias, decay, b, c, skip, before, after, dx, d_step, d_sum, d_skip, db, dc, sizes.length,
            *_strides(x, dy, dt, b, c), sizes.n_chunk, sizes.n_head, **sizes.constants,
        )  # fmt: skip
        raw = dt.float() + bias.float()
        step = torch.nn.functional.softplus(raw)
        d_log = running_sum(d_sum.flip(1), 1).flip(1)
        d_raw = (d_step + d_log * decay.float()) * torch.sigmoid(raw)
        return (
            dx, d_raw.to(dt.dtype), d_raw.sum((0, 1)).to(bias.dtype), (d_log * step).sum((0, 1)).to(decay.dtype),
            db.sum(2).to(b.dtype), dc.sum(2).to(c.dtype), d_skip.sum((0, 1)).to(skip.dtype), None,
        )  # fmt: skip


def _states_before(sizes: _Sizes, x: Tensor, dt: Tensor, bias: Tensor, decay: Tensor, b: Tensor) -> Tensor:
    """State before each chunk, shape (sequence, chunk, head, state, channel) with both padded to their blocks."""
    states, totals = sizes.chunk_states(x)
    ssd_forward.chunk_states_kernel[sizes.programs](
        x, dt, bias, decay, b, states, totals, sizes.length, *_strides(x, dt, b), sizes.n_chunk, sizes.n_head,
        **sizes.constants,
    )  # fmt: skip
    sizes.pass_on(states, totals, backward=False)
    return states
