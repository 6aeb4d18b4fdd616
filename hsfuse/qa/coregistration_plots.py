"""Figures of the co-registration: where the image was moved, and how well.

They take any co-registration result with ``field.at(x, y)``, ``tie_points`` and ``check_points``; points are
objects with arrays ``x``, ``y``, ``dx_m``, ``dy_m`` (or sequences of points with those as numbers), and optionally
``used``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.grid import Bounds
from hsfuse.qa import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class PointSet:
    """Points with a measured displacement.

    Attributes
    ----------
    x, y
        Map coordinates (metres).
    dx_m, dy_m
        Measured displacement to be added to the claimed position, east and north.
    field_dx_m, field_dy_m
        What the fitted field says there.
    """

    x: FloatArray
    y: FloatArray
    dx_m: FloatArray
    dy_m: FloatArray
    field_dx_m: FloatArray
    field_dy_m: FloatArray

    @property
    def residual_m(self) -> FloatArray:
        """Length of what the field does not explain."""
        return np.hypot(self.dx_m - self.field_dx_m, self.dy_m - self.field_dy_m)

    def __len__(self) -> int:
        return int(self.x.size)

    def take(self, mask: NDArray[np.bool_]) -> PointSet:
        """Return some of the points."""
        names = ("x", "y", "dx_m", "dy_m", "field_dx_m", "field_dy_m")
        return PointSet(*(getattr(self, name)[mask] for name in names))


@dataclass(frozen=True)
class CoregistrationView:
    """What the figures need of a co-registration result.

    Attributes
    ----------
    used, rejected, check
        Tie points that carry the field, those thrown out, and those held back to test it.
    grid_x, grid_y
        Map coordinates of a regular sample of the scene, shape (row, col).
    grid_dx_m, grid_dy_m
        The field there.
    """

    used: PointSet
    rejected: PointSet
    check: PointSet
    grid_x: FloatArray
    grid_y: FloatArray
    grid_dx_m: FloatArray
    grid_dy_m: FloatArray


def view_coregistration(result: Any, bounds: Bounds | None = None, *, samples: int = 120) -> CoregistrationView | None:
    """Collect what the figures need; None when the result carries no points (``off``, or rejected early).

    Parameters
    ----------
    result
        Co-registration result (see the module's first lines).
    bounds
        Extent of the scene in the points' reference system; default: that of the points.
    samples
        Samples of the field along the longer side.
    """
    tie, tie_used = _points(result, getattr(result, "tie_points", None))
    check, _ = _points(result, getattr(result, "check_points", None))
    if len(tie) + len(check) == 0:
        return None
    all_x, all_y = np.concatenate([tie.x, check.x]), np.concatenate([tie.y, check.y])
    if bounds is None:
        bounds = Bounds(float(all_x.min()), float(all_y.min()), float(all_x.max()), float(all_y.max())).buffer(500.0)
    width, height = max(bounds.right - bounds.left, 1.0), max(bounds.top - bounds.bottom, 1.0)
    step = max(width, height) / samples
    columns, rows = max(2, round(width / step)), max(2, round(height / step))
    grid_x, grid_y = np.meshgrid(
        bounds.left + width * (np.arange(columns) + 0.5) / columns, bounds.top - height * (np.arange(rows) + 0.5) / rows
    )
    grid_dx, grid_dy = _field(result, grid_x, grid_y)
    return CoregistrationView(tie.take(tie_used), tie.take(~tie_used), check, grid_x, grid_y, grid_dx, grid_dy)


def _field(result: Any, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    field = getattr(result, "field", None)
    if field is None or x.size == 0:
        return np.zeros_like(x), np.zeros_like(y)
    dx, dy = field.at(x, y)
    return np.asarray(dx, dtype=np.float64), np.asarray(dy, dtype=np.float64)


def _points(result: Any, points: Any) -> tuple[PointSet, NDArray[np.bool_]]:
    """Read points given as arrays in one object or as a sequence of objects."""

    def column(name: str) -> FloatArray:
        values = getattr(points, name, None)
        if values is None:
            values = [] if points is None else [getattr(point, name) for point in points]
        return np.asarray(values, dtype=np.float64).ravel()

    x, y = column("x"), column("y")
    field_dx, field_dy = _field(result, x, y)
    found = PointSet(x, y, column("dx_m"), column("dy_m"), field_dx, field_dy)
    has_flag = hasattr(points, "used") or (not hasattr(points, "x") and x.size > 0 and hasattr(points[0], "used"))
    used = column("used").astype(bool) if has_flag else np.ones(x.size, dtype=bool)
    return found, used


def vector_figure(view: CoregistrationView) -> Figure:
    """Draw the whole displacement beside its local part (what is left after one shift for the scene)."""
    from matplotlib.lines import Line2D

    with style.themed():
        figure = style.new_figure(10.0, 5.0)
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        shift_x, shift_y = float(np.median(view.grid_dx_m)), float(np.median(view.grid_dy_m))
        _vectors(left, view, 0.0, 0.0)
        left.set_title("Displacement applied")
        _vectors(right, view, shift_x, shift_y)
        east, north = style.number(shift_x), style.number(shift_y)
        right.set_title(f"Local part (without the shift of {east} m E, {north} m N)")
        left.set_ylabel("Northing (km)")
        handles = [
            Line2D([], [], color=style.INK, linewidth=2, label=f"Tie points used: {len(view.used)}"),
            Line2D([], [], color=style.VERMILION, linewidth=2, label=f"Check points (held back): {len(view.check)}"),
            Line2D([], [], color=style.MUTED, linestyle="", marker="x", label=f"Rejected: {len(view.rejected)}"),
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _vectors(axes: Axes, view: CoregistrationView, shift_x: float, shift_y: float) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    size = np.hypot(view.grid_dx_m - shift_x, view.grid_dy_m - shift_y)
    # Only the pale half of the map, so that dark arrows stay readable on it.
    pale = ListedColormap(colormaps["Blues"](np.linspace(0.02, 0.55, 128)))
    # Steps of a round size: easier to read against the colour bar, and a far smaller file.
    step = style.nice_length(max(float(np.ptp(size)), 0.1) / 5.0)
    levels = np.arange(np.floor(size.min() / step), np.ceil(size.max() / step + 1e-9) + 1.5) * step
    background = axes.contourf(view.grid_x / 1000, view.grid_y / 1000, size, levels=levels, cmap=pale)
    bar = axes.figure.colorbar(background, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("Length of the field (m)")
    bar.outline.set_visible(False)
    lengths = np.concatenate([np.hypot(p.dx_m - shift_x, p.dy_m - shift_y) for p in (view.used, view.check)])
    typical = float(np.percentile(lengths, 95)) if lengths.size else 1.0
    extent_km = max(np.ptp(view.grid_x), np.ptp(view.grid_y)) / 1000
    # A typical arrow is a twelfth of the scene long.
    scale = max(typical, 1e-3) / max(extent_km / 12.0, 1e-9)
    options: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": scale, "zorder": 3}
    quiver = None
    for points, colour, width in ((view.used, style.INK, 0.0030), (view.check, style.VERMILION, 0.0045)):
        if len(points):
            quiver = axes.quiver(
                points.x / 1000, points.y / 1000, points.dx_m - shift_x, points.dy_m - shift_y,
                color=colour, width=width, **options,
            )  # fmt: skip
    axes.plot(view.rejected.x / 1000, view.rejected.y / 1000, "x", color=style.MUTED, markersize=4, zorder=2)
    if quiver is not None:
        key = style.nice_length(typical)
        box = Rectangle((0.70, 0.0), 0.30, 0.09, transform=axes.transAxes, facecolor="white", alpha=0.9, zorder=4)
        axes.add_patch(box)
        axes.quiverkey(
            quiver, 0.80, 0.045, key, f"{key:g} m", labelpos="E", coordinates="axes", color=style.INK, zorder=5
        )
    axes.set_aspect("equal")
    axes.set_xlabel("Easting (km)")
    axes.ticklabel_format(useOffset=False)
    axes.grid(visible=False)
    axes.locator_params(nbins=6)


def error_figure(view: CoregistrationView, *, rmse_m: float, ce90_m: float, p95_m: float) -> Figure | None:
    """Draw residuals of the check points: scatter with CE90, histogram, and their mean across the scene.

    None when there are fewer than three check points.
    """
    points = view.check
    if len(points) < 3:
        return None
    with style.themed():
        figure = style.new_figure(10.0, 3.5)
        scatter, histogram, profile = figure.subplots(1, 3, width_ratios=(1.0, 1.1, 1.3))
        _scatter(scatter, view, ce90_m)
        _histogram(histogram, points.residual_m, rmse_m, ce90_m, p95_m)
        _profile(profile, points)
    return figure


def _scatter(axes: Axes, view: CoregistrationView, ce90_m: float) -> None:
    from matplotlib.patches import Circle

    for points, colour, size, label in (
        (view.used, style.MUTED, 6, "used"),
        (view.check, style.VERMILION, 14, "check"),
    ):
        axes.scatter(
            points.dx_m - points.field_dx_m, points.dy_m - points.field_dy_m,
            s=size, color=colour, alpha=0.75, linewidths=0, label=label, zorder=3,
        )  # fmt: skip
    largest = float(np.percentile(view.check.residual_m, 99.0))
    reach = 1.25 * max(largest, ce90_m if np.isfinite(ce90_m) else 0.0, 0.5)
    if np.isfinite(ce90_m):
        axes.add_patch(Circle((0, 0), ce90_m, fill=False, color=style.BLUE, linewidth=1.2, zorder=4))
        axes.annotate(
            f"CE90 {ce90_m:.1f} m", (0, ce90_m), xytext=(0, 3), textcoords="offset points", ha="center",
            fontsize=8, color=style.BLUE, zorder=5,
        )  # fmt: skip
    axes.axhline(0, color=style.MUTED, linewidth=0.7)
    axes.axvline(0, color=style.MUTED, linewidth=0.7)
    axes.set(xlim=(-reach, reach), ylim=(-1.25 * reach, reach), aspect="equal", anchor="N")
    axes.set_xlabel("Residual east (m)")
    axes.set_ylabel("Residual north (m)")
    axes.set_title("Residuals")
    style.add_legend(
        axes, loc="lower left", ncols=2, handletextpad=0.1, columnspacing=0.8, frameon=True, framealpha=0.9
    )


def _histogram(axes: Axes, residual_m: FloatArray, rmse_m: float, ce90_m: float, p95_m: float) -> None:
    from matplotlib.ticker import MaxNLocator

    top = max(float(np.percentile(residual_m, 99.0)), p95_m if np.isfinite(p95_m) else 0.0) * 1.15
    bins = np.linspace(0.0, max(top, 1e-3), int(np.clip(np.sqrt(residual_m.size) * 1.5, 8, 30)) + 1)
    # The last bin also holds what lies beyond, so that no outlier is hidden by the axis.
    axes.hist(np.minimum(residual_m, bins[-1]), bins=list(bins), color=style.SKY, edgecolor="white", linewidth=0.6)
    for value, name, line in ((rmse_m, "RMSE", "-"), (ce90_m, "CE90", "--"), (p95_m, "p95", ":")):
        if np.isfinite(value):
            axes.axvline(value, color=style.INK, linestyle=line, linewidth=1.2, label=f"{name} {value:.1f} m")
    axes.set_xlabel("Residual length (m)")
    axes.set_ylabel("Check points")
    axes.set_title("Error histogram")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    style.add_legend(axes, loc="upper right", frameon=True, framealpha=0.9, edgecolor="white")


def _profile(axes: Axes, points: PointSet) -> None:
    """Mean residual in bins across the scene: a trend here means that the field is too stiff."""
    for position, residual, colour, line, label in (
        (points.x, points.dx_m - points.field_dx_m, style.BLUE, "-", "east, from west to east"),
        (points.y, points.dy_m - points.field_dy_m, style.ORANGE, "--", "north, from south to north"),
    ):
        span = np.ptp(position)
        if span == 0:
            continue
        share = (position - position.min()) / span
        bins = int(np.clip(len(points) // 8, 3, 12))
        index = np.minimum((share * bins).astype(int), bins - 1)
        filled = [i for i in range(bins) if (index == i).any()]
        means = [float(residual[index == i].mean()) for i in filled]
        spread = [float(residual[index == i].std() / np.sqrt((index == i).sum())) for i in filled]
        axes.errorbar(
            [(i + 0.5) / bins * 100 for i in filled], means, yerr=spread, color=colour, linestyle=line,
            marker="o", markersize=3.5, capsize=2, linewidth=1.2, label=label,
        )  # fmt: skip
    axes.axhline(0, color=style.MUTED, linewidth=0.7)
    axes.set_xlabel("Position across the scene (%)")
    axes.set_ylabel("Mean residual (m)")
    axes.set_title("Residual across the scene")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.3 * (high - low))
    style.add_legend(axes, loc="upper left")
