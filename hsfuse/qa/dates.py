"""Which date of the multispectral archive each pixel shows, as a picture for a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.qa import style
from hsfuse.qa.page import FigureFile
from hsfuse.readers.source_dates import SourceDate, dates_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class DatesView:
    """What is drawn and listed.

    Attributes
    ----------
    numbers
        Number of the date, counted from 1, of each pixel of the picture, shape (row, col); 0: none is clear there.
    dates
        All dates, the used ones first.
    refused
        Days from the hyperspectral image of partners that were not combined with the first date.
    """

    numbers: NDArray[np.uint8]
    dates: Sequence[SourceDate]
    refused: tuple[float, ...] = ()

    @property
    def used(self) -> tuple[SourceDate, ...]:
        """Dates that the image is composed of."""
        return tuple(source for source in self.dates if source.used > 0)

    def to_json(self) -> list[dict[str, Any]]:
        """Return what is known about the dates as plain values."""
        return [source.to_json() for source in self.dates]

    def rows(self) -> list[dict[str, str]]:
        """Return the dates as texts for a table."""
        return [
            {
                "label": source.label,
                "sensor": source.sensor,
                "days": "" if source.days_apart is None else f"{source.days_apart:+.1f}".replace("-", "−"),
                "cloud": f"{100 * source.cloudy:.1f} %",
                "clear": f"{100 * source.clear:.1f} %",
                "used": self._use(source),
                "gain": _span(source.gain, "{:.3f}") if source.joined_cells else "",
                "offset": _span(source.offset, "{:+.4f}").replace("-", "−") if source.joined_cells else "",
            }
            for source in self.dates
        ]

    def _use(self, source: SourceDate) -> str:
        shown = f"{100 * source.used:.1f} %" if source.used else ""
        refused = source.days_apart is not None and round(source.days_apart, 2) in self.refused
        partner = ("partner, refused" if refused else "partner") if source.partner else ""
        return ", ".join(filter(None, (shown, partner))) or "not needed"


def _span(values: Sequence[float], form: str) -> str:
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low} to {high}"


def date_figures(view: DatesView | None) -> list[FigureFile]:
    """A map of the dates."""
    if view is None or not view.numbers.any():
        return []
    caption = f"Dates of the multispectral image, {dates_text(view.dates)}. White: clear on none of them."
    how = (
        "The date that fits the hyperspectral image best is shown where it is clear; others fill what its clouds and "
        "its edge leave open. Each is brought to the brightness of the dates before it by one gain and offset per "
        "band, and the dates fade into each other over 200 m. The file beside the cube (OUT.dates.tif) holds the map "
        "for a GIS."
    )
    figure = _map(view)
    return [
        FigureFile(
            "dates", "dates", "Date of each pixel", caption, style.to_png(figure), how=how, drawing=figure
        )
    ]  # fmt: skip


def _map(view: DatesView) -> Figure:
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    count = max(len(view.used), int(view.numbers.max()))
    colours = [style.SERIES[i % len(style.SERIES)] for i in range(count)]
    height, width = view.numbers.shape
    with style.themed():
        figure = style.new_figure(7.5, min(max(5.0 * height / width + 0.4, 2.5), 9.0))
        axes = figure.subplots()
        shown = np.ma.masked_equal(view.numbers, 0)
        norm = BoundaryNorm(np.arange(0.5, count + 1.5), max(count, 1))
        axes.imshow(shown, cmap=ListedColormap(colours), norm=norm, interpolation="nearest")
        handles = [Patch(color=colours[i], label=source.label) for i, source in enumerate(view.used)]
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0))
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
    return figure
