"""Whether a product lies under the hyperspectral image."""

from __future__ import annotations

from collections.abc import Sequence

from hsfuse.errors import OverlapError
from hsfuse.grid import Grid


def touches(grid: Grid, target: Grid) -> bool:
    """Whether two grids share any area."""
    try:
        return target.bounds_in(grid.crs).intersect(grid.bounds) is not None
    except OverlapError:
        return False


def no_overlap(names: Sequence[str]) -> OverlapError:
    """Make the error for products that all lie elsewhere."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    verb = "does" if len(names) == 1 else "do"
    return OverlapError(
        f"{shown} {verb} not overlap the hyperspectral image.",
        hint="Check the tile of the Sentinel-2 product; `hsfuse info FILE` prints both footprints.",
    )
