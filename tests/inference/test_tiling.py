"""The tiler: every pixel exactly once, whatever the size, tile, overlap and halo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsfuse.errors import UsageError
from hsfuse.inference.blending import RollingStrip
from hsfuse.inference.tiling import TilePlan, ramp_weights

sizes = st.integers(1, 70)


@st.composite
def plans(draw: st.DrawFn) -> TilePlan:
    tile = draw(st.integers(2, 30))
    overlap = 2 * draw(st.integers(0, tile // 2))
    return TilePlan(
        draw(sizes),
        draw(sizes),
        tile,
        overlap,
        draw(st.integers(0, 6)),
        draw(st.integers(1, 8)),
        draw(st.one_of(st.none(), st.integers(tile, 40))),
    )


@settings(deadline=None)
@given(plans())
def test_cores_cover_every_pixel_exactly_once(plan: TilePlan) -> None:
    hits = np.zeros((plan.height, plan.width), int)
    for tile in plan:
        hits[tile.core.slices] += 1
    assert (hits == 1).all()


@settings(deadline=None)
@given(plans())
def test_blocks_nest_and_stay_inside(plan: TilePlan) -> None:
    for tile in plan:
        for outer, inner in ((tile.blend, tile.core), (tile.read, tile.blend)):
            assert outer.row0 <= inner.row0 < inner.row1 <= outer.row1
            assert outer.col0 <= inner.col0 < inner.col1 <= outer.col1
        assert tile.read.row0 >= 0
        assert tile.read.row1 <= plan.height
        assert tile.read.col1 <= plan.width
        if plan.height >= tile.read.shape[0] + plan.multiple:
            assert tile.read.shape[0] % plan.multiple == 0


@settings(deadline=None)
@given(plans(), st.integers(1, 4))
def test_weights_are_a_partition_of_unity(plan: TilePlan, ratio: int) -> None:
    shape = (plan.height * ratio, plan.width * ratio)
    total = np.zeros(shape)
    for tile in plan:
        block = tile.blend.scaled(ratio)
        total[block.slices] += ramp_weights(block, tile.core.scaled(ratio), plan.overlap * ratio, shape)
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


@given(plans(), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_identity_through_the_rolling_strip_reproduces_the_image(plan: TilePlan, ratio: int) -> None:
    image = np.random.default_rng(1).random((2, plan.height * ratio, plan.width * ratio), dtype=np.float32)
    rows = []
    strip = RollingStrip(plan, 2, ratio)
    for tile_row in range(plan.shape[0]):
        for tile in plan.row_of_tiles(tile_row):
            strip.add(tile, image[(slice(None), *tile.blend.scaled(ratio).slices)])
        row0, data = strip.finished(tile_row)
        assert row0 == sum(part.shape[1] for part in rows)
        rows.append(data.copy())
        strip.advance(tile_row)
    np.testing.assert_allclose(np.concatenate(rows, axis=1), image, atol=3e-7)


@given(plans(), st.integers(1, 3), st.data())
@settings(max_examples=60, deadline=None)
def test_resumed_strip_gives_the_same_bits(plan: TilePlan, ratio: int, data: st.DataObject) -> None:
    image = np.random.default_rng(2).random((1, plan.height * ratio, plan.width * ratio), dtype=np.float32)

    def run(first: int) -> np.ndarray:
        start = max(first - 1, 0)
        strip = RollingStrip(plan, 1, ratio, start)
        parts = []
        for tile_row in range(start, plan.shape[0]):
            for tile in plan.row_of_tiles(tile_row):
                strip.add(tile, image[(slice(None), *tile.blend.scaled(ratio).slices)])
            if tile_row >= first:
                parts.append(strip.finished(tile_row)[1].copy())
            strip.advance(tile_row)
        return np.concatenate(parts, axis=1)

    whole = run(0)
    first = data.draw(st.integers(0, plan.shape[0] - 1))
    rest = run(first)
    np.testing.assert_array_equal(rest, whole[:, whole.shape[1] - rest.shape[1] :])


def test_bad_plans_are_refused() -> None:
    with pytest.raises(UsageError, match="larger than the tile"):
        TilePlan(50, 50, 8, 10)
    with pytest.raises(UsageError, match="even"):
        TilePlan(50, 50, 8, 3)
