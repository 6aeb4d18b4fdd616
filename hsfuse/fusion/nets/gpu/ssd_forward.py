"""Triton kernels of the SSD scan, forward: whole sequences one after another, or chunks side by side.

With ``l[t] = dt[t] A`` and ``a`` the sum of ``l`` from the start of a chunk, the output inside a chunk is
``y[t] = sum_s (C[t]·B[s]) exp(a[t] - a[s]) dt[s] x[s] + exp(a[t]) C[t] h + D x[t]`` with the state ``h`` before the
chunk (Dao and Gu, ICML 2024, section 6). Differences of ``a`` are taken before the exponential, all are negative, so
nothing overflows. Decays and states are float32 whatever the type of the input; products sum in float32.

Many sequences (the lines of an image) keep the state of a sequence in registers and pass over memory once. Few long
ones are cut into chunks that run side by side, which costs one more pass and memory for a state per chunk.

Every offset is computed in 64 bits, so no argument is too large.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def softplus(v):  # noqa: D103 - as torch's: linear where the exponential would overflow
    return tl.where(v > 20.0, v, tl.log(1.0 + tl.exp(tl.minimum(v, 20.0))))


@triton.jit
def product(left, right, precision: tl.constexpr, widen: tl.constexpr):
    """Matrix product, summed in float32; ``widen`` for Triton's interpreter, which multiplies bfloat16 as integers."""
    if widen:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, input_precision=precision)


@triton.jit
def load_steps(dt, bias, decay, head, rows, stride, live):
    """Step sizes of a chunk and their log decays, float32; both zero beyond the end, which keeps the state."""
    raw = tl.load(dt + rows * stride + head, mask=live, other=0.0).to(tl.float32)
    step = tl.where(live, softplus(raw + tl.load(bias + head).to(tl.float32)), 0.0)
    return step, step * tl.load(decay + head).to(tl.float32)


@triton.jit
def load_rows(base, rows, stride, live, width: tl.constexpr, block: tl.constexpr):
    """Rows of an argument, shape (token, block); zero beyond the end and beyond its width."""
    cols = tl.arange(0, block)
    mask = live[:, None] & (cols < width)[None, :]
    return tl.load(base + rows[:, None] * stride + cols[None, :], mask=mask, other=0.0)


@triton.jit
def decay_between(summed, tokens: tl.constexpr):
    """Decay from every token (second axis) to every later one (first axis); 0 for the future."""
    index = tl.arange(0, tokens)
    between = summed[:, None] - summed[None, :]
    return tl.where(index[:, None] >= index[None, :], tl.exp(tl.minimum(between, 0.0)), 0.0)


@triton.jit
def scan_sequences_kernel(
    x, dt, bias, decay, b, c, skip, y, length,
    x_seq, x_token, dt_seq, dt_token, b_seq, b_token, c_seq, c_token, y_seq, y_token,
    n_head, channels: tl.constexpr, states: tl.constexpr, block_p: tl.constexpr, block_n: tl.constexpr,
    tokens: tl.constexpr, precision: tl.constexpr, widen: tl.constexpr,
):  # fmt: skip
    """One program scans one head of one sequence from its first token to its last."""
    program = tl.program_id(0).to(tl.int64)
    seq, head = program // n_head, program % n_head
    x += seq * x_seq + head * channels
    y += seq * y_seq + head * channels
    dt += seq * dt_seq
    b += seq * b_seq
    c += seq * c_seq
    through = tl.load(skip + head).to(tl.float32)
    state = tl.zeros((block_n, block_p), tl.float32)
    for start in range(0, length, tokens):
        rows = (start + tl.arange(0, tokens)).to(tl.int64)
        live = rows < length
        step, logs = load_steps(dt, bias, decay, head, rows, dt_token, live)
        summed = tl.cumsum(logs, 0)
        total = tl.sum(logs, 0)
        value = load_rows(x, rows, x_token, live, channels, block_p)
        key = load_rows(b, rows, b_token, live, states, block_n)
        query = load_rows(c, rows, c_token, live, states, block_n)
        kind = value.dtype
        scores = product(query, tl.trans(key), precision, widen) * decay_between(summed, tokens) * step[None, :]
        out = product(scores.to(kind), value, precision, widen)
        out += product(query, state.to(kind), precision, widen) * tl.exp(summed)[:, None]
        out += through * value.to(tl.float32)
        weighted = value.to(tl.float32) * (step * tl.exp(total - summed))[:, None]
        state = state * tl.exp(total) + product(tl.trans(key), weighted.to(kind), precision, widen)
        cols = tl.arange(0, block_p)
        mask = live[:, None] & (cols < channels)[None, :]
        tl.store(y + rows[:, None] * y_token + cols[None, :], out.to(y.dtype.element_ty), mask=mask)


@triton.jit
def chunk_states_kernel(
    x, dt, bias, decay, b, added, totals, length,
    x_seq, x_token, dt_seq, dt_token, b_seq, b_token,
    n_chunk, n_head, channels: tl.constexpr, states: tl.constexpr, block_p: tl.constexpr, block_n: tl.constexpr,
    tokens: tl.constexpr, precision: tl.constexpr, widen: tl.constexpr,
):  # fmt: skip
    """What a chunk adds to the state by its end, shape (state, channel), and the log decay over it."""
    program = tl.program_id(0).to(tl.int64)
    head, chunk, seq = program % n_head, (program // n_head) % n_chunk, program // (n_head * n_chunk)
    rows = chunk * tokens + tl.arange(0, tokens)
    live = rows < length
    step, logs = load_steps(dt + seq * dt_seq, bias, decay, head, rows, dt_token, live)
    summed = tl.cumsum(logs, 0)
    total = tl.sum(logs, 0)
    value = load_rows(x + seq * x_seq + head * channels, rows, x_token, live, channels, block_p)
    key = load_rows(b + seq * b_seq, rows, b_token, live, states, block_n)
    weighted = (value.to(tl.float32) * (step * tl.exp(total - summed))[:, None]).to(value.dtype)
    state = product(tl.trans(key), weighted, precision, widen)
    n, p = tl.arange(0, block_n), tl.arange(0, block_p)
    tl.store(added + program * (block_n * block_p) + n[:, None] * block_p + p[None, :], state)
    tl.store(totals + program, total)


@triton.jit
def pass_states_kernel(
    added, totals, n_chunk, n_head, wide: tl.constexpr, block: tl.constexpr, backward: tl.constexpr
):  # fmt: skip
    """Turn what each chunk adds into the state before each chunk (``backward``: the gradient after each chunk)."""
    head_of_seq = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1) * block + tl.arange(0, block)
    seq, head = head_of_seq // n_head, head_of_seq % n_head
    running = tl.zeros((block,), tl.float32)
    for index in range(0, n_chunk):
        chunk = n_chunk - 1 - index if backward else index
        row = (seq * n_chunk + chunk) * n_head + head
        place = added + row * wide + part
        own = tl.load(place, mask=part < wide, other=0.0)
        tl.store(place, running, mask=part < wide)
        running = running * tl.exp(tl.load(totals + row)) + own


@triton.jit
def chunk_outputs_kernel(
    x, dt, bias, decay, b, c, skip, before, y, length,
    x_seq, x_token, dt_seq, dt_token, b_seq, b_token, c_seq, c_token, y_seq, y_token,
    n_chunk, n_head, channels: tl.constexpr, states: tl.constexpr, block_p: tl.constexpr, block_n: tl.constexpr,
    tokens: tl.constexpr, precision: tl.constexpr, widen: tl.constexpr,
):  # fmt: skip
    """Outputs of a chunk from its own tokens and from the state before it."""
    program = tl.program_id(0).to(tl.int64)
    head, chunk, seq = program % n_head, (program // n_head) % n_chunk, program // (n_head * n_chunk)
    rows = chunk * tokens + tl.arange(0, tokens)
    live = rows < length
    step, logs = load_steps(dt + seq * dt_seq, bias, decay, head, rows, dt_token, live)
    summed = tl.cumsum(logs, 0)
    value = load_rows(x + seq * x_seq + head * channels, rows, x_token, live, channels, block_p)
    key = load_rows(b + seq * b_seq, rows, b_token, live, states, block_n)
    query = load_rows(c + seq * c_seq, rows, c_token, live, states, block_n)
    kind = value.dtype
    n, p = tl.arange(0, block_n), tl.arange(0, block_p)
    state = tl.load(before + program * (block_n * block_p) + n[:, None] * block_p + p[None, :])
    scores = product(query, tl.trans(key), precision, widen) * decay_between(summed, tokens) * step[None, :]
    out = product(scores.to(kind), value, precision, widen)
    out += product(query, state.to(kind), precision, widen) * tl.exp(summed)[:, None]
    out += tl.load(skip + head).to(tl.float32) * value.to(tl.float32)
    mask = live[:, None] & (p < channels)[None, :]
    place = y + seq * y_seq + head * channels + rows[:, None] * y_token + p[None, :]
    tl.store(place, out.to(y.dtype.element_ty), mask=mask)
