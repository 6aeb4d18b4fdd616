"""Triton kernels of what the gate does with single pixels on a card: what it sees of experts, and their weighed sum.

In plain PyTorch both are dozens of passes over all that the experts say, the largest arrays of the fusion; here each
reads it once.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def compressed(x):
    """Inverse hyperbolic sine."""
    size = tl.abs(x)
    y = tl.log(size + tl.sqrt(x * x + 1.0))
    return tl.where(x < 0.0, -y, y)


@triton.jit
def tangent(x):
    """Hyperbolic tangent, to an absolute error of 1e-7."""
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def asks(flag, live):
    """For pixels that are live, whether an expert says something."""
    return (tl.load(flag) + tl.zeros(live.shape, tl.int32) > 0) & live


@triton.jit
def see(
    own, to, outputs, others, asked, at, counted, live, share, pixels, experts, components, n_others: tl.constexpr
):  # fmt: skip
    """Store the norm of compressed components (component, pixel), and their products with those of other experts."""
    tl.store(to, tl.log(1.0 + tl.sum(own * own, 0) * share), mask=live)
    for number in tl.static_range(n_others):
        other = tl.load(others + number)
        place = outputs + tl.cast(other, tl.int64) * components * pixels
        compared = compressed(tl.load(place + at, mask=counted & asks(asked + other, live)[None, :], other=0.0))
        product = compressed(tl.sum(own * compared, 0) * share)
        tl.store(to + (number + 1) * (experts + 1) * pixels, product, mask=live)


@triton.jit
def features_kernel(
    state, outputs, present, others, asked, constants, out, pixels, experts, components,
    n_others: tl.constexpr, n_constants: tl.constexpr, wide: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """What the gate sees of a block of pixels, shape (feature, pixel).

    ``state`` has the shape (component, pixel), ``outputs`` (expert, component, pixel), all contiguous. Components count
    where ``present`` is 1, experts say something where ``asked`` is. Planes of ``constants`` follow.
    """
    pixel = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    live = pixel < pixels
    component = tl.arange(0, wide)
    here = tl.load(present + component, mask=component < components, other=0.0) > 0.0
    share = 1.0 / tl.maximum(tl.sum(here.to(tl.float32), 0), 1.0)
    counted = here[:, None] & live[None, :]
    at = component.to(tl.int64)[:, None] * pixels + pixel[None, :]
    own = compressed(tl.load(state + at, mask=counted, other=0.0))
    to = out + pixel
    see(own, to, outputs, others, asked, at, counted, live, share, pixels, experts, components, n_others)
    for expert in range(0, experts):
        place = outputs + tl.cast(expert, tl.int64) * components * pixels
        own = compressed(tl.load(place + at, mask=counted & asks(asked + expert, live)[None, :], other=0.0))
        to += pixels
        see(own, to, outputs, others, asked, at, counted, live, share, pixels, experts, components, n_others)
    for number in tl.static_range(n_constants):
        value = tl.load(constants + number) + tl.zeros((block,), tl.float32)
        tl.store(out + ((n_others + 1) * (experts + 1) + number) * pixels + pixel, value, mask=live)


@triton.jit
def weighed_kernel(
    found, outputs, slope, asked, out, pixels, experts, components, most, wide: tl.constexpr, block: tl.constexpr
):
    """Sum over the experts of ``2 tanh((a + b slope) / 2) most tanh(output / most)``, shape (component, pixel).

    ``found`` holds a of every expert, then b, shape (2 * expert, pixel).
    """
    pixel = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    live = pixel < pixels
    component = tl.arange(0, wide)
    known = component < components
    steep = tl.load(slope + component, mask=known, other=0.0)[:, None]
    at = component.to(tl.int64)[:, None] * pixels + pixel[None, :]
    total = tl.zeros((wide, block), tl.float32)
    for expert in range(0, experts):
        said = asks(asked + expert, live)
        common = tl.load(found + tl.cast(expert, tl.int64) * pixels + pixel, mask=said, other=0.0)
        sloped = tl.load(found + tl.cast(experts + expert, tl.int64) * pixels + pixel, mask=said, other=0.0)
        place = outputs + tl.cast(expert, tl.int64) * components * pixels
        limited = tangent(tl.load(place + at, mask=known[:, None] & said[None, :], other=0.0) / most)
        total += tangent(0.5 * (common[None, :] + sloped[None, :] * steep)) * limited
    tl.store(out + at, 2.0 * most * total, mask=known[:, None] & live[None, :])
