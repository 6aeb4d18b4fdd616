"""Images of several dates as one: which dates are wanted, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Slice2D

BoolArray = NDArray[np.bool_]

USUAL_DAYS = 60.0
"""Without a limit of the user's, no date further away fills the gaps of the one that fits best."""


@dataclass(frozen=True)
class DateWish:
    """What the hyperspectral image and the user want of the dates in an archive.

    Attributes
    ----------
    start
        Time (UTC) of the hyperspectral image when known.
    sun_zenith_deg, sun_azimuth_deg
        Its sun when known.
    surface
        Whether it holds surface reflectance; None: not known.
    only
        Days (UTC) that may be used; empty: all.
    max_days
        Largest time between the images in days; None: any for the date that fits best, and for those of a folder that
        fill its gaps :data:`USUAL_DAYS` (or a month more than that date).
    thorough
        Look at every date, for those who want to know what each would bring; else no further than can matter.
    partners
        How many further dates are wanted that show what the date that fits best shows.
    imaged
        Tells which pixels of a block of the hyperspectral image's grid were imaged; None: all.
    """

    start: datetime | None = None
    sun_zenith_deg: float | None = None
    sun_azimuth_deg: float | None = None
    surface: bool | None = None
    only: tuple[date, ...] = ()
    max_days: float | None = None
    thorough: bool = False
    partners: int = 0
    imaged: Callable[[Slice2D], BoolArray] | None = None

    def days(self, start: datetime | None) -> float | None:
        """Days from the hyperspectral image to another, negative for an earlier one; None where a time is not known."""
        if self.start is None or start is None:
            return None
        return (start - self.start).total_seconds() / 86_400.0


@dataclass(frozen=True)
class SourceDate:
    """One date of a composed image; shares are those of the hyperspectral image's footprint.

    Attributes
    ----------
    start
        Acquisition time (UTC) when known.
    sensor
        For instance ``Sentinel-2A``.
    products
        Names of its products.
    days_apart
        Days from the hyperspectral image, negative for an earlier date; None: not known.
    sun_zenith_deg
        Its sun when known.
    covered, cloudy, clear
        Shares with data, hidden by cloud or cloud shadow, and clear (0 to 1).
    used
        Share that comes from this date in the composed image; 0: the date is not needed.
    gain, offset
        What its reflectance is multiplied with, and what is added then, to join it to the date that fits best, by band;
        empty where the image was not read yet, or the date is not used.
    partner
        Whether it is combined with the date that fits best where both are clear.
    joined_cells
        Places on which gain and offset were found; 0: none, and they are 1 and 0.
    """

    start: datetime | None
    sensor: str
    products: tuple[str, ...]
    days_apart: float | None
    sun_zenith_deg: float | None
    covered: float
    cloudy: float
    clear: float
    used: float
    gain: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    joined_cells: int | None = None
    partner: bool = False

    @property
    def label(self) -> str:
        """Day of the date, or the name of its first product."""
        return f"{self.start:%Y-%m-%d}" if self.start is not None else self.products[0]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        plain = asdict(self)
        plain["start"] = self.start.isoformat() if self.start is not None else None
        plain["products"] = list(self.products)
        for name in ("covered", "cloudy", "clear", "used"):
            plain[name] = round(plain[name], 4)
        if self.days_apart is not None:
            plain["days_apart"] = round(self.days_apart, 2)
        for name in ("gain", "offset"):
            plain[name] = [round(value, 5) for value in plain[name]]
        return plain


def dates_text(dates: Sequence[SourceDate]) -> str:
    """One line about the dates that are used: ``2: 2024-06-23 (71 %), 2024-06-28 (29 %)``."""
    used = [source for source in dates if source.used > 0]
    return f"{len(used)}: " + ", ".join(f"{source.label} ({100 * source.used:.0f} %)" for source in used)
