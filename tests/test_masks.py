"""Masks grow by discs, whatever the radius."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hsfuse.masks import dilate


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=30)), st.integers(0, 16))
def test_a_grown_mask_is_all_within_the_radius(mask: np.ndarray, radius: int) -> None:
    before = mask.copy()
    rows, cols = np.nonzero(mask)
    at_row, at_col = np.indices(mask.shape)
    distance = (at_row[..., None] - rows) ** 2 + (at_col[..., None] - cols) ** 2
    np.testing.assert_array_equal(dilate(mask, radius), (distance <= radius**2).any(axis=-1))
    np.testing.assert_array_equal(mask, before)
