"""Where both images show different ground, and where the cube is less certain, as pictures for a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.qa import style
from hsfuse.qa.page import FigureFile
from hsfuse.qa.quicklook import stretch_limits, to_rgba

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CHANGED = 0.5
_OUTLINE = "#ffd60a"


@dataclass(frozen=True)
class ChangeView:
    """What is drawn; all images of one shape (row, col).

    Attributes
    ----------
    change
        Probability that the multispectral image shows other ground, 0 to 1.
    expected_error
        Expected root mean square error, reflectance.
    hsi_only
        Where the cube follows the hyperspectral image alone.
    seen
        Where both images were measured: where the cube has data.
    share
        Share of the ground that changed.
    days
        Days between the images; None: not known.
    pictures
        Both images in three bands (or one) of the guide, NaN where not measured, shape (image, band, row, col); any
        number of pixels.
    bounds
        Left, bottom, right and top of what is drawn, metres east and north; None: not known.
    """

    change: NDArray[np.floating[Any]]
    expected_error: NDArray[np.floating[Any]]
    hsi_only: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    share: float
    days: float | None = None
    pictures: NDArray[np.floating[Any]] | None = None
    bounds: tuple[float, float, float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        return {"share": self.share, "days": self.days, "hsi_only_share": self.hsi_only_share}

    @property
    def hsi_only_share(self) -> float:
        """Share of the seen pixels that follow the hyperspectral image alone."""
        return float(self.hsi_only[self.seen].mean()) if self.seen.any() else 0.0


def change_figures(view: ChangeView | None) -> list[FigureFile]:
    """A map of the change beside one of the expected error."""
    if view is None or not view.seen.any():
        return []
    apart = "" if view.days is None else f" The images were taken {view.days:.1f} days apart."
    caption = f"{100 * view.share:.1f} % of the ground differs between the images.{apart} "
    if view.pictures is not None:
        caption += (
            "Above: both images at the same sharpness; haze and season are taken out of the multispectral one. "
            "Outlined: changed ground; compare what lies inside. Bright red is green vegetation where the near "
            "infrared is shown. "
        )
    where = "on the left" if view.pictures is None else "below"
    caption += (
        f"Dark {where}: the multispectral image shows other ground there (harvest, cloud, shadow); inside the blue "
        "lines the cube follows the hyperspectral image alone. White: no data."
    )
    how = (
        "Where both images show the same ground, the cube takes its detail from the multispectral image. Where they do "
        "not, that detail would be wrong: it is replaced by what the surroundings suggest, or left out, and the cube "
        "is as blurred as the hyperspectral image there. The map of the expected error is an estimate of what is "
        "left; the file beside the cube (OUT.confidence.tif) holds both for a GIS."
    )
    figure = _change_figure(view)
    title = "Changes between both images"
    return [FigureFile("changes", "changes", title, caption, style.to_png(figure), how=how, drawing=figure)]


def _change_figure(view: ChangeView) -> Figure:
    height, width = view.change.shape
    rows = 1 if view.pictures is None else 2
    with style.themed():
        tall = min(4.5 * height / width, 9.0)
        figure = style.new_figure(10.0, rows * max(tall + 0.35, 2.5) + 1.0)
        # Without the gaps that maps of a fixed shape leave otherwise.
        figure.set_layout_engine("compressed")
        drawn = figure.subplots(rows, 2, squeeze=False, sharex=True, sharey=True)
        left, right = drawn[-1]
        if view.pictures is not None:
            _draw_pictures(drawn[0], view, view.pictures)
        _draw_map(left, view, view.change, "magma_r", 1.0)
        left.set_title("Probability of other ground")
        alone = view.hsi_only & view.seen
        if alone.any() and not alone[view.seen].all():
            _outline(left, view, alone, style.SKY)
        top = float(np.quantile(view.expected_error[view.seen], 0.99))
        _draw_map(right, view, view.expected_error, "viridis", max(top, 1e-6))
        right.set_title("Expected error (reflectance)")
        for axes in drawn.flat:
            axes.grid(visible=False)
        _label_axes(drawn, view)
    return figure


def _draw_map(axes: Axes, view: ChangeView, image: NDArray[np.floating[Any]], colours: str, top: float) -> None:
    shown = axes.imshow(
        np.ma.masked_where(~view.seen, image), cmap=colours, vmin=0.0, vmax=top, extent=_extent(view),
        interpolation="nearest",
    )  # fmt: skip
    bar = axes.figure.colorbar(shown, ax=axes, location="bottom", shrink=0.8, aspect=35, pad=0.02)
    bar.ax.locator_params(nbins=6)


def _draw_pictures(drawn: Sequence[Axes], view: ChangeView, pictures: NDArray[np.floating[Any]]) -> None:
    """Both images with the changed ground outlined, in the colours of the hyperspectral one."""
    limits = stretch_limits(pictures[0])
    changed = (view.change >= _CHANGED) & view.seen
    names = ("Hyperspectral image", "Multispectral image, as blurred")
    for axes, picture, name in zip(drawn, pictures, names, strict=True):
        axes.imshow(to_rgba(picture, limits), extent=_extent(view), interpolation="nearest")
        if changed.any() and not changed.all():
            _outline(axes, view, changed, _OUTLINE)
        axes.set_title(name)


def _outline(axes: Axes, view: ChangeView, where: NDArray[np.bool_], colour: str) -> None:
    axes.contour(
        where.astype(float), levels=[0.5], colors=[colour], linewidths=0.9, origin="upper", extent=_extent(view)
    )


def _extent(view: ChangeView) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of the maps: km where the place is known, else pixels."""
    if view.bounds is None:
        height, width = view.change.shape
        return -0.5, width - 0.5, height - 0.5, -0.5
    left, bottom, right, top = view.bounds
    return left / 1000, right / 1000, bottom / 1000, top / 1000


def _label_axes(drawn: NDArray[Any], view: ChangeView) -> None:
    """Kilometres beside the maps, so that a changed field is found in a GIS; nothing where the place is not known."""
    for axes in drawn.flat:
        if view.bounds is None:
            axes.set_xticks([])
            axes.set_yticks([])
            continue
        axes.ticklabel_format(useOffset=False)
        axes.locator_params(nbins=6)
    if view.bounds is not None:
        for axes in drawn[-1]:
            axes.set_xlabel("Easting (km)")
        for axes in drawn[:, 0]:
            axes.set_ylabel("Northing (km)")
