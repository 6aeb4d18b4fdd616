"""Triton kernels of the SSD scan, backward: two kernels over chunks around the recurrence over chunks.

With ``v[t] = dt[t] x[t]``, ``a`` the sums of log decays from the start of a chunk, ``G`` the gradient with respect to
the state after the chunk and ``h`` the state before it:

    dv[s] = sum_t exp(a[t] - a[s]) (C[t]·B[s]) dy[t] + exp(total - a[s]) G B[s]
    dB[s] = sum_t exp(a[t] - a[s]) (dy[t]·v[s]) C[t] + exp(total - a[s]) v[s] G
    dC[t] = sum_s exp(a[t] - a[s]) (dy[t]·v[s]) B[s] + exp(a[t]) dy[t] h
    da[t] = y[t]·dy[t] - v[t]·dv[t]        (y without D x, over the whole sequence)

The last line follows from every term of the output holding ``exp(a[t] - a[s])``; the gradient of a log decay is the
sum of ``da`` from its token to the end of the sequence.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hsfuse.fusion.nets.gpu.ssd_forward import decay_between, load_rows, load_steps, product


@triton.jit
def state_gradients_kernel(
    dy, dt, bias, decay, c, added, totals, length,
    dy_seq, dy_token, dt_seq, dt_token, c_seq, c_token,
    n_chunk, n_head, channels: tl.constexpr, states: tl.constexpr, block_p: tl.constexpr, block_n: tl.constexpr,
    tokens: tl.constexpr, precision: tl.constexpr, widen: tl.constexpr,
):  # fmt: skip
    """What the outputs of a chunk add to the gradient with respect to the state before it."""
    program = tl.program_id(0).to(tl.int64)
    head, chunk, seq = program % n_head, (program // n_head) % n_chunk, program // (n_head * n_chunk)
    rows = chunk * tokens + tl.arange(0, tokens)
    live = rows < length
    _, logs = load_steps(dt + seq * dt_seq, bias, decay, head, rows, dt_token, live)
    summed = tl.cumsum(logs, 0)
    upstream = load_rows(dy + seq * dy_seq + head * channels, rows, dy_token, live, channels, block_p)
    query = load_rows(c + seq * c_seq, rows, c_token, live, states, block_n)
    weighted = (upstream.to(tl.float32) * tl.exp(summed)[:, None]).to(upstream.dtype)
    gradient = product(tl.trans(query), weighted, precision, widen)
    n, p = tl.arange(0, block_n), tl.arange(0, block_p)
    tl.store(added + program * (block_n * block_p) + n[:, None] * block_p + p[None, :], gradient)
    tl.store(totals + program, tl.sum(logs, 0))


@triton.jit
def chunk_gradients_kernel(
    x, dy, dt, bias, decay, b, c, skip, before, after, dx, d_step, d_sum, d_skip, db, dc, length,
    x_seq, x_token, dy_seq, dy_token, dt_seq, dt_token, b_seq, b_token, c_seq, c_token,
    n_chunk, n_head, channels: tl.constexpr, states: tl.constexpr, block_p: tl.constexpr, block_n: tl.constexpr,
    tokens: tl.constexpr, precision: tl.constexpr, widen: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk; those of ``b`` and ``c`` for one head, to be summed over heads.

    ``dx`` has the shape (sequence, token, head, channel), ``d_step``, ``d_sum`` and ``d_skip`` (sequence, token, head),
    ``db`` and ``dc`` (sequence, token, head, state), all contiguous.
    """
    program = tl.program_id(0).to(tl.int64)
    head, chunk, seq = program % n_head, (program // n_head) % n_chunk, program // (n_head * n_chunk)
    rows = chunk * tokens + tl.arange(0, tokens)
    live = rows < length
    step, logs = load_steps(dt + seq * dt_seq, bias, decay, head, rows, dt_token, live)
    summed = tl.cumsum(logs, 0)
    total = tl.sum(logs, 0)
    value = load_rows(x + seq * x_seq + head * channels, rows, x_token, live, channels, block_p)
    upstream = load_rows(dy + seq * dy_seq + head * channels, rows, dy_token, live, channels, block_p)
    key = load_rows(b + seq * b_seq, rows, b_token, live, states, block_n)
    query = load_rows(c + seq * c_seq, rows, c_token, live, states, block_n)
    kind = value.dtype
    n, p = tl.arange(0, block_n), tl.arange(0, block_p)
    place = program * (block_n * block_p) + n[:, None] * block_p + p[None, :]
    state, gradient = tl.load(before + place).to(kind), tl.load(after + place).to(kind)

    wide, wide_up = value.to(tl.float32), upstream.to(tl.float32)
    through = tl.load(skip + head).to(tl.float32)
    passing = decay_between(summed, tokens)
    from_start, to_end = tl.exp(summed), tl.exp(total - summed)
    stepped = (wide * step[:, None]).to(kind)
    scores = product(query, tl.trans(key), precision, widen) * passing  # later token, earlier token
    alike = product(upstream, tl.trans(stepped), precision, widen)
    likeness = alike * passing

    from_after = product(key, gradient, precision, widen) * to_end[:, None]
    d_stepped = product(tl.trans(scores).to(kind), upstream, precision, widen) + from_after
    d_key = product(tl.trans(likeness).to(kind), query, precision, widen)
    d_key += product(stepped, tl.trans(gradient), precision, widen) * to_end[:, None]
    inherited = product(upstream, tl.trans(state), precision, widen) * from_start[:, None]
    d_query = product(likeness.to(kind), key, precision, widen) + inherited
    # y·dy: the chunk's own tokens through both products, what was inherited through the gradient of C.
    out_likeness = tl.sum(scores * alike, 1)
    out_likeness += tl.sum(query.to(tl.float32) * inherited, 1)
    d_wide = tl.sum(wide * d_stepped, 1)

    flat = (seq * length + rows) * n_head + head
    d_value = d_stepped * step[:, None] + through * wide_up
    mask_p = live[:, None] & (p < channels)[None, :]
    tl.store(dx + flat[:, None] * channels + p[None, :], d_value.to(dx.dtype.element_ty), mask=mask_p)
    mask_n = live[:, None] & (n < states)[None, :]
    tl.store(db + flat[:, None] * states + n[None, :], d_key, mask=mask_n)
    tl.store(dc + flat[:, None] * states + n[None, :], d_query, mask=mask_n)
    tl.store(d_step + flat, d_wide, mask=live)
    tl.store(d_sum + flat, out_likeness - step * d_wide, mask=live)
    tl.store(d_skip + flat, tl.sum(wide * wide_up, 1), mask=live)
