"""Figures of the co-registration: where the image was moved, and how well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.qa import style
from hsfuse.qa.coregistration import CoregistrationDiagnostics, PointSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]


def vector_figure(found: CoregistrationDiagnostics) -> Figure:
    """Draw the whole displacement beside its local part (what is left after one shift for the scene).

    Without an applied field only the measurements are drawn.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    with style.themed():
        figure = style.new_figure(10.0, 5.0)
        shift = found.shift_m
        left, *others = figure.subplots(1, 1 if shift is None else 2, sharex=True, sharey=True, squeeze=False)[0]
        _vectors(left, found, 0.0, 0.0)
        left.set_title("Displacement applied" if found.applied else "Displacement measured (nothing was moved)")
        left.set_ylabel("Northing (km)")
        for right in others:
            east, north = shift or (0.0, 0.0)
            _vectors(right, found, east, north)
            right.set_title(f"Local part (without the shift of {style.number(east)} m E, {style.number(north)} m N)")
        handles: list[Any] = [
            Line2D([], [], color=style.INK, linewidth=2, label=f"Tie points used: {len(found.used)}"),
            Line2D([], [], color=style.VERMILION, linewidth=2, label=f"Check points (held back): {len(found.check)}"),
            Line2D([], [], color=style.MUTED, linestyle="", marker="x", label=f"Rejected: {len(found.rejected)}"),
        ]
        share = found.extrapolated_share
        if share:
            handles.append(
                Patch(facecolor="none", edgecolor=style.MUTED, hatch="////", label=f"Extrapolated: {100 * share:.0f} %")
            )
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return figure


def _vectors(axes: Axes, found: CoregistrationDiagnostics, shift_x: float, shift_y: float) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    size = np.hypot(found.dx_m - shift_x, found.dy_m - shift_y)
    # Only the pale half of the map, so that dark arrows stay readable on it.
    pale = ListedColormap(colormaps["Blues"](np.linspace(0.02, 0.55, 128)))
    # Steps of a round size: easier to read against the colour bar, and a far smaller file.
    step = style.nice_length(max(float(np.ptp(size)), 0.1) / 5.0)
    levels = np.arange(np.floor(size.min() / step), np.ceil(size.max() / step + 1e-9) + 1.5) * step
    background = axes.contourf(found.x / 1000, found.y / 1000, size, levels=levels, cmap=pale)
    if found.extrapolated_share:
        # Hatched instead of grey: the field goes on there, only nothing has measured it.
        hatched = axes.contourf(
            found.x / 1000, found.y / 1000, 1.0 - found.supported, levels=[0.5, 1.5], colors="none", hatches=["////"]
        )  # fmt: skip
        hatched.set_edgecolor(style.MUTED)
        hatched.set_linewidth(0.0)
    bar = axes.figure.colorbar(background, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("Length of the field (m)")
    bar.outline.set_visible(False)
    lengths = np.concatenate([np.hypot(p.dx_m - shift_x, p.dy_m - shift_y) for p in (found.used, found.check)])
    typical = float(np.percentile(lengths, 95)) if lengths.size else 1.0
    extent_km = max(np.ptp(found.x), np.ptp(found.y)) / 1000
    # A typical arrow is a twelfth of the scene long.
    scale = max(typical, 1e-3) / max(extent_km / 12.0, 1e-9)
    options: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": scale, "zorder": 3}
    quiver = None
    for points, colour, width in ((found.used, style.INK, 0.0030), (found.check, style.VERMILION, 0.0045)):
        if len(points):
            quiver = axes.quiver(
                points.x / 1000, points.y / 1000, points.dx_m - shift_x, points.dy_m - shift_y,
                color=colour, width=width, **options,
            )  # fmt: skip
    axes.plot(found.rejected.x / 1000, found.rejected.y / 1000, "x", color=style.MUTED, markersize=4, zorder=2)
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


def error_figure(found: CoregistrationDiagnostics) -> Figure | None:
    """Draw residuals of the check points: scatter with CE90, histogram, and their mean across the scene.

    None when there are fewer than three check points, or when no field was applied that they could test.
    """
    points, result = found.check, found.result
    if len(points) < 3 or not found.applied:
        return None
    with style.themed():
        figure = style.new_figure(10.0, 3.5)
        scatter, histogram, profile = figure.subplots(1, 3, width_ratios=(1.0, 1.1, 1.3))
        _scatter(scatter, found, result.ce90_m)
        _histogram(histogram, points.residual_m, result.rmse_m, result.ce90_m, result.p95_m)
        _profile(profile, points)
    return figure


def _scatter(axes: Axes, found: CoregistrationDiagnostics, ce90_m: float) -> None:
    from matplotlib.patches import Circle

    for points, colour, size, label in (
        (found.used, style.MUTED, 6, "used"),
        (found.check, style.VERMILION, 14, "check"),
    ):
        axes.scatter(
            points.dx_m - points.field_dx_m, points.dy_m - points.field_dy_m,
            s=size, color=colour, alpha=0.75, linewidths=0, label=label, zorder=3,
        )  # fmt: skip
    largest = float(np.percentile(found.check.residual_m, 99.0))
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
