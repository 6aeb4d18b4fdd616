"""Parts of a scene that its repair looks at."""

from __future__ import annotations

import numpy as np

from hsfuse.fusion.change.blocks import BLOCK_PX, CONTEXT_PX, blocks, places_around


def test_candidates_far_apart_have_places_of_their_own() -> None:
    candidates = np.zeros((130, 220), bool)
    candidates[40, 30] = candidates[44, 90] = candidates[100:103, 200] = True
    places = list(places_around(candidates))
    covered = np.zeros(candidates.shape, int)
    for read, part in places:
        assert candidates[read].any()
        covered[part] += 1
        around = np.zeros(candidates.shape, bool)
        around[read] = True
        # Nothing that a candidate may change is cut off from what its repair looks at.
        assert around[tuple(slice(max(p.start - CONTEXT_PX, 0), p.stop + CONTEXT_PX) for p in part)].all()
    assert covered.max() == 1
    for row, col in np.argwhere(candidates):
        assert covered[row - 6 : row + 7, col - 6 : col + 7].all()
    assert sum(np.prod([p.stop - p.start for p in read]) for read, _ in places) < candidates.size / 2


def test_many_candidates_are_looked_at_block_by_block() -> None:
    candidates = np.zeros((2 * BLOCK_PX, BLOCK_PX), bool)
    candidates[: BLOCK_PX // 2 : 20, ::20] = True
    assert list(places_around(candidates)) == [next(blocks(candidates.shape))]
