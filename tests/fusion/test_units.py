"""Images in other units than reflectance: what is found and repaired is the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from pair_support import make_pair, patchy_season, repaired_guide


def _parcels_and_haze(clean: NDArray[np.float32]) -> NDArray[np.float32]:
    changed = 0.8 * clean + 0.03
    changed[:, 30:48, 36:60] = clean[:, 30:48, 36:60][:, ::-1, ::-1]
    return np.asarray(changed, np.float32)


def _season(clean: NDArray[np.float32]) -> NDArray[np.float32]:
    return patchy_season(clean, 0.5, -0.3)


@pytest.mark.parametrize("change", [None, _season, _parcels_and_haze])
@pytest.mark.parametrize("power", [-7, 13])
def test_a_repair_does_not_depend_on_the_unit(change: object, power: int) -> None:
    # Powers of two: rounding is the same.
    factor = np.float32(2.0**power)
    pair = make_pair((40, 44), change=change)
    other = replace(pair, hsi=pair.hsi * factor, msi=pair.msi * factor)
    one, scaled = repaired_guide(pair), repaired_guide(other)
    assert scaled.evidence.corrections == one.evidence.corrections
    np.testing.assert_allclose(scaled.change, one.change, atol=0.02)
    np.testing.assert_allclose(scaled.msi / factor, one.msi, atol=0.002)
