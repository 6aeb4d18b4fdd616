"""From many good bands to exactly as many as wanted, without opening holes in the spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GUIDE_RANGE_NM = (440.0, 900.0)
"""Where the multispectral image sees the ground at full resolution; bands there are thinned last."""
MAX_GAP_NM = 30.0
_WIDEN = 1.25


@dataclass(frozen=True)
class Thinning:
    """Outcome of :func:`thin`.

    Attributes
    ----------
    kept
        Positions that stay, ascending.
    gap_nm
        For each dropped position: distance between its neighbours when it was dropped.
    max_gap_nm
        Largest gap that was allowed in the end.
    guide_range_thinned
        Whether bands in the multispectral image's range had to go too.
    """

    kept: NDArray[np.int64]
    gap_nm: dict[int, float]
    max_gap_nm: float
    guide_range_thinned: bool


def thin(
    centre_nm: NDArray[np.float64],
    score: NDArray[np.float64],
    count: int,
    *,
    max_gap_nm: float = MAX_GAP_NM,
    guide_range_nm: tuple[float, float] = GUIDE_RANGE_NM,
) -> Thinning:
    """Drop bands one by one until ``count`` are left, always the one whose loss costs least.

    The cost is the band's score (0 to 1) plus the gap that it would leave as a share of the largest allowed gap.
    Bands outside the guide's range go first; when none of them can go without opening a larger gap, those inside
    may; when none of these can, the allowed gap grows by a quarter. The first and the last band stay.

    Parameters
    ----------
    centre_nm
        Ascending centre wavelengths.
    score
        Quality of each band, higher is better.
    count
        Bands to keep, at least 2.
    max_gap_nm
        Largest distance between the two neighbours of a dropped band.
    guide_range_nm
        Range that is thinned last.
    """
    remaining = list(range(centre_nm.size))
    guide = (centre_nm >= guide_range_nm[0]) & (centre_nm <= guide_range_nm[1])
    limit, spare_guide = max_gap_nm, True
    gaps: dict[int, float] = {}
    while len(remaining) > max(count, 2):
        current = np.array(remaining)
        gap = centre_nm[current[2:]] - centre_nm[current[:-2]]
        inner = current[1:-1]
        allowed = gap <= limit
        if spare_guide:
            allowed &= ~guide[inner]
        if not allowed.any():
            if spare_guide:
                spare_guide = False
            else:
                limit *= _WIDEN
            continue
        cost = np.where(allowed, score[inner] + gap / limit, np.inf)
        worst = int(cost.argmin())
        gaps[int(inner[worst])] = float(gap[worst])
        remaining.pop(worst + 1)
    return Thinning(np.array(remaining, dtype=np.int64), gaps, limit, any(bool(guide[band]) for band in gaps))
