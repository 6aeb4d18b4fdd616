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
    valid
        Where both images were measured.
    share
        Share of the ground that changed.
    days
        Days between the images; None: not known.
    pictures
        Both images in three bands (or one) of the guide, NaN where not measured, shape (image, band, row, col); any
        number of pixels.
    """

    change: NDArray[np.floating[Any]]
    expected_error: NDArray[np.floating[Any]]
    hsi_only: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    share: float
    days: float | None = None
    pictures: NDArray[np.floating[Any]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain values."""
        return {"share": self.share, "days": self.days, "hsi_only_share": self.hsi_only_share}

    @property
    def hsi_only_share(self) -> float:
        """Share of the valid pixels that follow the hyperspectral image alone."""
        return float(self.hsi_only[self.valid].mean()) if self.valid.any() else 0.0


def change_figures(view: ChangeView | None) -> list[FigureFile]:
    """A map of the change beside one of the expected error."""
    if view is None or not view.valid.any():
        return []
    apart = "" if view.days is None else f" The images were taken {view.days:.1f} days apart."
    caption = (
        f"{100 * view.share:.1f} % of the ground differs between the images.{apart} Dark on the left: the "
        "multispectral image shows other ground there (harvest, cloud, shadow); inside the blue lines the cube follows "
        "the hyperspectral image alone. White: no data."
    )
    if view.pictures is not None:
        caption += (
            " Above: both images in the same colours, changed ground outlined in both: compare what lies inside. "
            "Bright red is green vegetation where the near infrared is shown."
        )
    how = (
        "Where both images show the same ground, the cube takes its detail from the multispectral image. Where they do "
        "not, that detail would be wrong: it is replaced by what the surroundings suggest, or left out, and the cube "
        "is as blurred as the hyperspectral image there. The map on the right is an estimate of the error that is "
        "left; the file beside the cube (OUT.confidence.tif) holds both for a GIS."
    )
    figure = _change_figure(view)
    title = "Changes between both images"
    return [FigureFile("changes", "changes", title, caption, style.to_png(figure), how=how, drawing=figure)]


def _change_figure(view: ChangeView) -> Figure:
    height, width = view.change.shape
    with style.themed():
        rows = 1 if view.pictures is None else 2
        figure = style.new_figure(10.0, rows * min(max(4.8 * height / width + 0.7, 2.5), 9.0))
        drawn = figure.subplots(rows, 2, squeeze=False)
        left, right = drawn[-1]
        if view.pictures is not None:
            _draw_pictures(drawn[0], view, view.pictures)
        change = np.ma.masked_where(~view.valid, view.change)
        error = np.ma.masked_where(~view.valid, view.expected_error)
        shown = left.imshow(change, cmap="magma_r", vmin=0.0, vmax=1.0, interpolation="nearest")
        figure.colorbar(shown, ax=left, shrink=0.8)
        left.set_title("Probability of other ground")
        alone = view.hsi_only & view.valid
        if alone.any() and not alone[view.valid].all():
            left.contour(alone.astype(float), levels=[0.5], colors=[style.SKY], linewidths=0.8)
        top = float(np.quantile(view.expected_error[view.valid], 0.99))
        shown = right.imshow(error, cmap="viridis", vmin=0.0, vmax=max(top, 1e-6), interpolation="nearest")
        figure.colorbar(shown, ax=right, shrink=0.8)
        right.set_title("Expected error (reflectance)")
        for axes in drawn.flat:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(visible=False)
    return figure


def _draw_pictures(drawn: Sequence[Axes], view: ChangeView, pictures: NDArray[np.floating[Any]]) -> None:
    """Both images with the changed ground outlined, in the colours of the hyperspectral one."""
    limits = stretch_limits(pictures[0])
    height, width = view.change.shape
    place = (-0.5, width - 0.5, height - 0.5, -0.5)
    changed = ((view.change >= _CHANGED) & view.valid).astype(float)
    names = ("Hyperspectral image", "Multispectral image, as blurred")
    for axes, picture, name in zip(drawn, pictures, names, strict=True):
        axes.imshow(to_rgba(picture, limits), extent=place, interpolation="nearest")
        if 0.0 < changed.mean() < 1.0:
            axes.contour(changed, levels=[0.5], colors=[_OUTLINE], linewidths=0.9)
        axes.set_title(name)
