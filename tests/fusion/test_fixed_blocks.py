"""A network that looks as far as there is anything gives the same in every tiling, when it runs on fixed blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hsfuse.degrade.windows import finer
from hsfuse.fusion.nets.fixed_blocks import FixedBlocks
from hsfuse.inference.tiling import TilePlan

RATIO = 2


def far(image: torch.Tensor) -> torch.Tensor:
    """Sums over all that lies before: no context is enough."""
    return image.cumsum(-1) + image.flip(-2).cumsum(-2).flip(-2)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(5, 40), st.integers(5, 40), st.integers(3, 20), st.integers(3, 9), st.sampled_from([0, 2]),
    st.integers(0, 3),
)  # fmt: skip
def test_tiles_are_equal_to_the_whole(
    height: int, width: int, tile: int, side: int, overlap: int, context: int
) -> None:
    blocks = FixedBlocks(side, overlap, context)
    image = torch.rand(1, 2, height * RATIO, width * RATIO, generator=torch.Generator().manual_seed(side))

    def fused(part: torch.Tensor, window: tuple[slice, slice]) -> torch.Tensor:
        shape = part.shape[-2] // RATIO, part.shape[-1] // RATIO

        def run(parts: Sequence[tuple[slice, slice]], shown: tuple[slice, slice]) -> torch.Tensor:
            return torch.cat([far(part[..., *finer(near, RATIO)])[..., *finer(shown, RATIO)] for near in parts])

        return blocks.apply(run, window, shape, RATIO, together)

    together = 1
    whole = fused(image, (slice(0, height), slice(0, width)))
    for one in TilePlan(height, width, tile, 0, blocks.margin_px, side, padded=False):
        part = fused(image[..., *one.read.scaled(RATIO).slices], one.inner.slices)
        torch.testing.assert_close(part, whole[..., *one.blend.scaled(RATIO).slices], rtol=0, atol=0)
    # As on a card: several blocks a call, whose sums are in another order.
    together = 4
    torch.testing.assert_close(fused(image, (slice(0, height), slice(0, width))), whole)


def test_blended_blocks_leave_what_is_alike_as_it_is() -> None:
    image = torch.rand(1, 2, 46, 38)
    made = FixedBlocks(5, 2, 1).apply(
        lambda parts, shown: image[..., *finer(parts[0], RATIO)][..., *finer(shown, RATIO)],
        (slice(3, 20), slice(0, 19)), (23, 19), RATIO,
    )  # fmt: skip
    torch.testing.assert_close(made, image[..., 6:40, :])
