"""Place, time and cloud cover of a product: what choosing among many needs, read without opening images."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hsfuse.grid import Grid


@dataclass(frozen=True)
class ProductHeader:
    """A product as those see it who choose among many.

    Attributes
    ----------
    path, name
        The product.
    grids
        Finest grid of each of its tiles.
    start
        Acquisition time (UTC) when known.
    cloud_percent
        Cloud cover of the whole product when known.
    level, baseline
        Processing level, and version of the processing as text that sorts by age; empty when unknown.
    acquisition
        What products of one overflight share, which may then be mosaicked; empty when unknown.
    outline
        Corners (longitude, latitude) of the imaged area where it is smaller than the tiles; empty: the tiles.
    """

    path: Path
    name: str
    grids: tuple[Grid, ...]
    start: datetime | None = None
    cloud_percent: float | None = None
    level: str = ""
    baseline: str = ""
    acquisition: str = ""
    outline: tuple[tuple[float, float], ...] = ()
