"""The tiler: every pixel exactly once, whatever the size, tile, overlap and halo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hsfuse.errors import UsageError
from hsfuse.grid import Slice2D
from hsfuse.inference.blending import TileBlender
from hsfuse.inference.layout import computed_pixels, tiles_around
from hsfuse.inference.tiling import Tile, TilePlan, ramp_weights

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
        # Windows of that size, counted from the origin, lie alike in every tiling.
        assert tile.read.row0 % plan.multiple == tile.read.col0 % plan.multiple == 0
        assert tile.read.row1 % plan.multiple == 0 or tile.read.row1 == plan.height
        assert tile.read.col1 % plan.multiple == 0 or tile.read.col1 == plan.width


def weights_of(tile: Tile, plan: TilePlan, ratio: int) -> np.ndarray:
    down, across = ramp_weights(tile, plan.overlap, ratio)
    return down[:, None] * across


def some_pixels(plan: TilePlan, seed: int) -> np.ndarray:
    """A mask as scenes have it: a footprint that lies askew, with holes; now and then nothing at all."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[: plan.height, : plan.width]
    slope, shift = rng.uniform(-1, 1), rng.uniform(-0.5, 1.0)
    inside = row * slope + col * (1 - abs(slope)) > shift * max(plan.height, plan.width) / 2
    return inside & (rng.random(inside.shape) > rng.uniform(0, 0.6))


def cut(plan: TilePlan, wanted: np.ndarray) -> list[list[Tile]]:
    rows = [plan.tile_at(row, 0).blend for row in range(plan.shape[0])]
    return [tiles_around(plan, row, wanted[block.row0 : block.row1]) for row, block in enumerate(rows)]


@settings(deadline=None)
@given(plans(), st.integers(1, 4))
def test_weights_are_a_partition_of_unity(plan: TilePlan, ratio: int) -> None:
    total = np.zeros((plan.height * ratio, plan.width * ratio))
    for tile in plan:
        total[tile.blend.scaled(ratio).slices] += weights_of(tile, plan, ratio)
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


@settings(deadline=None)
@given(plans(), st.integers(1, 3), st.integers(0, 10_000))
def test_weights_of_cut_tiles_are_a_partition_of_unity_where_pixels_are_wanted(
    plan: TilePlan, ratio: int, seed: int
) -> None:
    wanted = some_pixels(plan, seed)
    total = np.zeros((plan.height * ratio, plan.width * ratio))
    for tile in (tile for row in cut(plan, wanted) for tile in row):
        total[tile.blend.scaled(ratio).slices] += weights_of(tile, plan, ratio)
    np.testing.assert_allclose(total[wanted.repeat(ratio, 0).repeat(ratio, 1)], 1.0, atol=1e-6)


@settings(deadline=None)
@given(plans(), st.integers(0, 10_000))
def test_cut_tiles_have_their_context_and_compute_little_besides(plan: TilePlan, seed: int) -> None:
    wanted = some_pixels(plan, seed)
    read = 0
    for row, tiles in enumerate(cut(plan, wanted)):
        strip = plan.tile_at(row, 0).read
        for tile in tiles:
            halo = Slice2D(
                tile.blend.row0 - plan.halo, tile.blend.row1 + plan.halo,
                tile.blend.col0 - plan.halo, tile.blend.col1 + plan.halo,
            ).clipped(plan.height, plan.width)  # fmt: skip
            assert tile.read.intersect(halo) == halo
            assert min(tile.read.row0, tile.read.col0) >= 0
            assert tile.read.row1 <= plan.height
            assert tile.read.col1 <= plan.width
            assert max(plan.columns, 8, plan.overlap) + max(8, plan.overlap) > tile.core.shape[1]
            assert strip.row0 <= tile.read.row0 < tile.read.row1 <= strip.row1
            assert wanted[tile.blend.slices].any()
            read += tile.read.shape[0] * tile.read.shape[1]
    assert read == computed_pixels(plan, wanted)
    if not wanted.any():
        assert read == 0


def test_an_askew_footprint_is_computed_with_less_than_regular_tiles() -> None:
    plan = TilePlan(1200, 1200, 64, 4, 6, 1, 128)
    row, col = np.mgrid[:1200, :1200]
    wanted = (abs(row + 0.2 * col - 720) < 480) & (abs(col - 0.2 * row - 480) < 480)
    regular = sum(t.read.shape[0] * t.read.shape[1] for t in plan if wanted[t.blend.slices].any())
    assert computed_pixels(plan, wanted) < 0.95 * regular
    assert computed_pixels(plan, wanted) < 1.65 * wanted.sum()


def blended(
    plan: TilePlan, ratio: int, image: np.ndarray, rows: list[list[Tile]], first: int = 0, *, backwards: bool = False
) -> np.ndarray:
    """An image through the blender, from row ``first`` of tiles on; NaN where nothing arrived."""
    start = max(first - 1, 0)
    blender = TileBlender(plan, image.shape[0], ratio, start)
    parts = []
    for tile_row in range(start, plan.shape[0]):
        top, stop = blender.rows
        out = np.full((image.shape[0], stop - top, image.shape[2]), np.nan, np.float32)
        tiles = rows[tile_row][::-1] if backwards else rows[tile_row]
        for tile in tiles:
            for done in blender.add(tile, image[(slice(None), *tile.blend.scaled(ratio).slices)]):
                out[(slice(None), *done.block.slices)] = done.data
        for done in blender.shared():
            out[(slice(None), *done.block.slices)] = done.data
        if tile_row >= first:
            parts.append(out)
        assert stop == plan.finished_rows(tile_row) * ratio
        blender.advance(tile_row)
    return np.concatenate(parts, axis=1)


@given(plans(), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_identity_through_the_blender_reproduces_the_image(plan: TilePlan, ratio: int) -> None:
    image = np.random.default_rng(1).random((2, plan.height * ratio, plan.width * ratio), dtype=np.float32)
    rows = [list(plan.row_of_tiles(row)) for row in range(plan.shape[0])]
    np.testing.assert_allclose(blended(plan, ratio, image, rows), image, atol=3e-7)


@given(plans(), st.integers(1, 3), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_cut_tiles_reproduce_every_wanted_pixel_in_any_order(plan: TilePlan, ratio: int, seed: int) -> None:
    image = np.random.default_rng(2).random((1, plan.height * ratio, plan.width * ratio), dtype=np.float32)
    wanted = some_pixels(plan, seed)
    fine = wanted.repeat(ratio, 0).repeat(ratio, 1)
    rows = cut(plan, wanted)
    out = blended(plan, ratio, image, rows)
    np.testing.assert_allclose(out[:, fine], image[:, fine], atol=3e-7)
    np.testing.assert_array_equal(blended(plan, ratio, image, rows, backwards=True), out)


@given(plans(), st.integers(1, 3), st.data())
@settings(max_examples=60, deadline=None)
def test_resumed_blending_gives_the_same_bits(plan: TilePlan, ratio: int, data: st.DataObject) -> None:
    image = np.random.default_rng(2).random((1, plan.height * ratio, plan.width * ratio), dtype=np.float32)
    rows = cut(plan, some_pixels(plan, data.draw(st.integers(0, 10_000))))
    whole = blended(plan, ratio, image, rows)
    rest = blended(plan, ratio, image, rows, data.draw(st.integers(0, plan.shape[0] - 1)))
    np.testing.assert_array_equal(rest, whole[:, whole.shape[1] - rest.shape[1] :])


def test_bad_plans_are_refused() -> None:
    with pytest.raises(UsageError, match="larger than the tile"):
        TilePlan(50, 50, 8, 10)
    with pytest.raises(UsageError, match="even"):
        TilePlan(50, 50, 8, 3)


def test_borders_of_tiles_in_whole_blocks_lie_where_reading_needs_no_more() -> None:
    plan = TilePlan(1199, 345, 56, 0, 24, 16, 112, padded=False)
    for edges, most in ((plan.row_edges, 48), (plan.col_edges, 112)):
        assert (edges[1:-1] % 16 == 8).all()
        assert np.diff(edges).max() <= most
    for tile in plan:
        inner = tile.core.row0 > 24 and tile.core.row1 < plan.height - 24
        assert not inner or tile.read.shape[0] == tile.core.shape[0] + 48
    below = plan.below(int(plan.row_edges[3]))
    assert (below.row_edges[1:-1] % 16 == 8).all()
    assert below.row_edges[0] == plan.row_edges[3]
    assert plan.alignment == (16, 8)
    assert TilePlan(100, 100, 40, 0, 24, 16).alignment is None
