"""Triton kernels of non-local Bayes: the search for similar patches, and the filter of a group.

In plain PyTorch the search is six passes over the image for every place of its window, and a group's filter a chain of
batched products whose matrices are larger than the patches. Here distances stay in registers until the nearest are
known, and so does a group from its patches to what is added to the image. Both read the image alone, which the card's
cache holds.

Patches are 3 x 3 pixels. A value of a patch is counted by band, row and column.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def nearest_kernel(
    image, nearest, count, n_cols, step, bands, height, width, similar,
    reach: tl.constexpr, places: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Numbers of the ``similar`` places of a window whose patches are nearest to that of its middle, for some patches.

    ``nearest`` has the shape (reference, similar), int32; places are counted row by row. Of equal distances the first
    places count.
    """
    side: tl.constexpr = 2 * reach + 1
    index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    live = index < count
    row = tl.minimum((index // n_cols) * step, height - 3)[:, None]
    col = tl.minimum((index % n_cols) * step, width - 3)[:, None]
    place = tl.arange(0, places)[None, :]
    there_row, there_col = row + place // side - reach, col + place % side - reach
    inside = (there_row >= 0) & (there_row <= height - 3) & (there_col >= 0) & (there_col <= width - 3)
    known = inside & (place < side * side) & live[:, None]
    distance = tl.zeros((block, places), tl.float32)
    for _ in range(bands):
        for value in tl.static_range(9):
            at = (value // 3) * width + value % 3
            here = tl.load(image + row * width + col + at, mask=live[:, None], other=0.0)
            there = tl.load(image + there_row * width + there_col + at, mask=known, other=0.0)
            distance += (here - there) * (here - there)
        image += height * width
    # Of numbers that are not negative, bits lie as the numbers do: the last that too few lie below is found by halves.
    bits = tl.where(known & (distance == distance), distance, float("inf")).to(tl.int32, bitcast=True)
    low = tl.zeros((block,), tl.int32)
    high = tl.full((block,), 0x7F800000, tl.int32)
    for _ in range(31):
        middle = low + (high - low) // 2
        enough = tl.sum((bits <= middle[:, None]).to(tl.int32), 1) >= similar
        high = tl.where(enough, middle, high)
        low = tl.where(enough, low, middle + 1)
    below = (bits < high[:, None]).to(tl.int32)
    level = (bits == high[:, None]).to(tl.int32) * (place < side * side).to(tl.int32)
    missing = similar - tl.sum(below, 1)
    taken = below + level * (tl.cumsum(level, 1) <= missing[:, None]).to(tl.int32)
    to = nearest + index[:, None] * similar + tl.cumsum(taken, 1) - 1
    tl.store(to, place + tl.zeros((block, places), tl.int32), mask=(taken > 0) & live[:, None])


@triton.jit
def inverse(matrix, size, block: tl.constexpr):
    """Inverse of the leading part of a symmetric positive definite matrix; NaN where single precision finds it not so.

    Row by row by the sweep operator, which keeps the matrix symmetric (J. H. Goodnight, A tutorial on the SWEEP
    operator, The American Statistician 33, 1979).
    """
    row = tl.arange(0, block)[:, None]
    col = tl.arange(0, block)[None, :]
    for k in range(size):
        along = tl.sum(tl.where(row == k, matrix, 0.0), 0)
        pivot = tl.sum(tl.where(tl.arange(0, block) == k, along, 0.0), 0)
        scaled = along / tl.where(pivot > 0.0, pivot, float("nan"))
        cross = tl.where(row == k, scaled[None, :], scaled[:, None])
        swept = tl.where((row == k) & (col == k), -1.0 / pivot, cross)
        matrix = tl.where((row == k) | (col == k), swept, matrix - along[:, None] * scaled[None, :])
    return -matrix


@triton.jit
def group_kernel(
    image, basic, nearest, total, weight, n_cols, step, bands, height, width, similar, shrink,
    reach: tl.constexpr, members: tl.constexpr, block: tl.constexpr, second: tl.constexpr,
):  # fmt: skip
    """Filter the group of a reference patch, and add its patches to an image and to the number of patches there.

    The first pass (not ``second``) keeps the directions that stand out of the noise, the second filters by the
    covariance of ``basic``, the first one's result.
    """
    side: tl.constexpr = 2 * reach + 1
    group = tl.program_id(0).to(tl.int64)
    member = tl.arange(0, members)
    value = tl.arange(0, block)
    present = member < similar
    place = tl.load(nearest + group * similar + member, mask=present, other=0)
    row = tl.minimum((group // n_cols) * step, height - 3) + place // side - reach
    col = tl.minimum((group % n_cols) * step, width - 3) + place % side - reach
    # A window at the image's edge may hold fewer patches than a group has.
    row = tl.minimum(tl.maximum(row, 0), height - 3)
    col = tl.minimum(tl.maximum(col, 0), width - 3)
    band, inner = (value // 9).to(tl.int64), value % 9
    first = row * width + col
    at = first[:, None] + (band * height * width + inner // 3 * width + inner % 3)[None, :]
    known = present[:, None] & (value < 9 * bands)[None, :]
    patches = tl.load(image + at, mask=known, other=0.0)
    guide = patches
    if second:
        guide = tl.load(basic + at, mask=known, other=0.0)
    mean = (tl.sum(guide, 0) / similar)[None, :]
    centred = tl.where(known, guide - mean, 0.0)
    gram = tl.dot(centred, tl.trans(centred), input_precision="ieee")
    diagonal = (member[:, None] == member[None, :]).to(tl.float32)
    if second:
        load = diagonal * (similar - 1)
        inverted = inverse(gram + load, similar, members)
        others = tl.where(known, patches - mean, 0.0)
        alike = tl.dot(others, tl.trans(centred), input_precision="ieee")
        result = tl.dot(alike, tl.dot(inverted, centred, input_precision="ieee"), input_precision="ieee")
    else:
        inverted = inverse(gram / (similar - 1) + diagonal * shrink, similar, members)
        # The share of the structure, G (G + s)^-1 = 1 - s (G + s)^-1, twice.
        result = centred - shrink * tl.dot(inverted, centred, input_precision="ieee")
        result = result - shrink * tl.dot(inverted, result, input_precision="ieee")
    tl.atomic_add(total + at, result + mean, mask=known)
    tl.atomic_add(weight + at, tl.full((members, block), 1.0, tl.float32), mask=known & (value < 9)[None, :])
