"""Figures of bands, curves, seams and spectra (see :mod:`hsfuse.qa.coregistration_plots` for the alignment)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hsfuse.band_selection.selection import BandEvidence
from hsfuse.qa import style
from hsfuse.qa.pixels import LOW_PURITY
from hsfuse.qa.seams import SeamReport
from hsfuse.qa.spectra import SpectrumComparison, band_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

FloatArray = NDArray[np.float64]
Windows = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class BandRow:
    """One band of the product, kept or dropped.

    Attributes
    ----------
    name
        Name as the product or the reader gives it.
    centre_nm, fwhm_nm
        Centre wavelength and width.
    kept
        Whether it was fused.
    reason
        Why it was kept or dropped.
    detector
        ``VNIR``, ``SWIR`` or empty.
    snr
        Signal-to-noise ratio measured in the scene; None when not measured.
    """

    name: str
    centre_nm: float
    fwhm_nm: float
    kept: bool
    reason: str
    detector: str = ""
    snr: float | None = None

    @property
    def reason_group(self) -> str:
        """Reason without its numbers."""
        words = re.split(r"[:;,(\d]", self.reason, maxsplit=1)[0]
        return re.sub(r"\s+(in|at|of|by|below|above|over|under|than)?\s*$", "", f"{words} ").strip() or "other"


@dataclass(frozen=True)
class MsiBandError:
    """How far the cube, seen through the response of a multispectral band, is from what the MSI measured.

    Attributes
    ----------
    name
        Band name.
    centre_nm, low_nm, high_nm
        Centre and half-response limits of the band.
    rmse
        Root mean square difference, reflectance.
    """

    name: str
    centre_nm: float
    low_nm: float
    high_nm: float
    rmse: float


def band_rows(table: Iterable[BandEvidence]) -> tuple[BandRow, ...]:
    """Rows for figure and table, by wavelength; the name of a band is its slot in the product."""
    rows = (
        BandRow(
            str(band.slot), band.centre_nm, band.fwhm_nm, band.kept, band.reason, band.detector,
            float(band.snr) if np.isfinite(band.snr) else None,
        )
        for band in table
    )  # fmt: skip
    return tuple(sorted(rows, key=lambda row: row.centre_nm))


def band_figure(rows: Sequence[BandRow]) -> Figure:
    """Draw which bands were kept, why the others were dropped, and the SNR where it was measured."""
    with style.themed():
        with_snr = any(row.snr is not None for row in rows)
        if with_snr:
            figure = style.new_figure(10.0, 4.0)
            top, strip = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1.0))
            _snr(top, rows)
        else:
            figure = style.new_figure(10.0, 1.9)
            strip = figure.subplots(1, 1)
        _band_strip(strip, rows)
        handles, labels = strip.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)))
    return figure


def _snr(axes: Axes, rows: Sequence[BandRow]) -> None:
    for kept, colour, label in ((True, style.BLUE, "kept"), (False, style.MUTED, "dropped")):
        chosen = [row for row in rows if row.kept is kept and row.snr is not None]
        face = colour if kept else "none"
        axes.scatter(
            [row.centre_nm for row in chosen], [row.snr or 0.0 for row in chosen],
            s=12, facecolors=face, edgecolors=colour, linewidths=0.8, label=label, zorder=3,
        )  # fmt: skip
    axes.set_ylabel("SNR")
    axes.set_ylim(bottom=0.0)
    axes.set_title("Signal-to-noise ratio in the scene")
    style.add_legend(axes, loc="upper right", ncols=2, handletextpad=0.2)


def _band_strip(axes: Axes, rows: Sequence[BandRow]) -> None:
    from matplotlib.patches import Rectangle

    dropped = [row for row in rows if not row.kept]
    sizes: dict[str, int] = {}
    for row in dropped:
        sizes[row.reason_group] = sizes.get(row.reason_group, 0) + 1
    # The most frequent reasons get a colour of their own, the rest share one.
    named = sorted(sizes, key=lambda group: (-sizes[group], group))[:6]
    palette = (style.VERMILION, style.ORANGE, style.PURPLE, style.SKY, "#8C6D1F", style.GREEN)
    colours = dict(zip(named, palette, strict=False))
    others = sum(count for group, count in sizes.items() if group not in colours)
    kept = len(rows) - len(dropped)
    axes.plot([], [], "s", color=style.BLUE, label=f"kept: {kept}")
    for group in named:
        axes.plot([], [], "s", color=colours[group], label=f"{group}: {sizes[group]}")
    if others:
        axes.plot([], [], "s", color=style.MUTED, label=f"other: {others}")
    for row in rows:
        width = min(row.fwhm_nm, 8.0)
        colour = style.BLUE if row.kept else colours.get(row.reason_group, style.MUTED)
        bottom = 1.08 if row.kept else 0.0
        axes.add_patch(Rectangle((row.centre_nm - width / 2, bottom), width, 0.92, facecolor=colour, linewidth=0))
    axes.set_ylim(-0.1, 2.1)
    axes.set_yticks([0.46, 1.54], ["dropped", "kept"])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    centres = [row.centre_nm for row in rows]
    margin = 0.02 * (max(centres) - min(centres)) + 10.0
    axes.set_xlim(min(centres) - margin, max(centres) + margin)
    axes.set_xlabel("Wavelength (nm)")


def curve_figure(
    centre_nm: FloatArray,
    curves: Mapping[str, FloatArray],
    *,
    ylabel: str,
    title: str,
    dropped_nm: Windows = (),
    from_zero: bool = False,
    zero_line: bool = False,
    first_colour: int = 0,
    msi: Sequence[MsiBandError] = (),
) -> Figure:
    """Draw one or more per-band curves (consistency, PSNR, ...), interrupted where no bands are.

    Parameters
    ----------
    centre_nm
        Band centres, ascending, shape (band,).
    curves
        Label -> value per band; the label's mean is added to the legend.
    ylabel, title
        Texts.
    dropped_nm
        Windows that a line must not cross even if they are narrow.
    from_zero
        Start the vertical axis at zero.
    zero_line
        Draw a line at zero.
    first_colour
        Number of the first curve's colour.
    msi
        Values of multispectral bands, drawn over their width.
    """
    centre = np.asarray(centre_nm, dtype=np.float64)
    runs = band_runs(centre, dropped_nm)
    with style.themed():
        figure = style.new_figure(10.0, 3.2)
        axes = figure.subplots()
        style.shade_gaps(axes, centre, runs)
        for number, (label, values) in enumerate(curves.items(), start=first_colour):
            line = style.LINE_STYLES[number // len(style.SERIES) % len(style.LINE_STYLES)]
            colour = style.SERIES[number % len(style.SERIES)]
            data = np.asarray(values, dtype=np.float64)
            style.broken_line(axes, centre, data, runs, label=label, color=colour, linestyle=line)
        if msi:
            axes.errorbar(
                [band.centre_nm for band in msi], [band.rmse for band in msi],
                xerr=[[b.centre_nm - b.low_nm for b in msi], [b.high_nm - b.centre_nm for b in msi]], fmt="D",
                color=style.VERMILION, markersize=4.5, markerfacecolor="white", label="fused against MSI", zorder=4,
            )  # fmt: skip
        if from_zero:
            axes.set_ylim(bottom=0.0)
        if zero_line:
            axes.axhline(0.0, color=style.MUTED, linewidth=0.8)
        axes.set_xlabel("Wavelength (nm)")
        axes.set_ylabel(ylabel)
        axes.set_title(title)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def seam_figure(report: SeamReport) -> Figure | None:
    """Draw the step around tile borders and the ratio of every border; None when there is no border."""
    lines = [line for line in report.lines if np.isfinite(line.ratio)]
    if not lines:
        return None
    with style.themed():
        figure = style.new_figure(10.0, 2.9)
        left, right = figure.subplots(1, 2)
        reach = (report.profile.size - 1) // 2
        offset = np.arange(-reach, reach + 1)
        left.bar(offset, report.profile, width=0.8, color=np.where(offset == 0, style.VERMILION, style.SKY).tolist())
        left.axhline(1.0, color=style.INK, linewidth=0.8, linestyle="--")
        left.set_xlabel("Distance from the tile border (px)")
        left.set_ylabel("Relative step")
        left.set_title("Step between neighbouring pixels")
        for axis, colour, marker in (("row", style.BLUE, "o"), ("col", style.ORANGE, "s")):
            chosen = [line for line in lines if line.axis == axis]
            if not chosen:
                continue
            name = "horizontal borders" if axis == "row" else "vertical borders"
            right.plot([c.position for c in chosen], [c.ratio for c in chosen], marker, color=colour, ms=4, label=name)
        right.axhline(1.0, color=style.INK, linewidth=0.8, linestyle="--")
        right.set_xlabel("Row or column of the border (px)")
        right.set_ylabel("Step across / beside")
        right.set_title("Each border (1 = not visible)")
        style.add_legend(right, loc="best", handletextpad=0.2)
    return figure


def spectra_figure(comparisons: Sequence[SpectrumComparison], *, dropped_nm: Windows = ()) -> Figure | None:
    """Draw the spectrum of every pure pixel before and after fusion, with the difference below.

    None when there is no pixel to draw.
    """
    if not comparisons:
        return None
    columns = 2 if len(comparisons) > 1 else 1
    rows = -(-len(comparisons) // columns)
    with style.themed():
        figure = style.new_figure(10.0, 3.1 * rows)
        panels = figure.subfigures(rows, columns, squeeze=False, wspace=0.02, hspace=0.02)
        for panel, comparison in zip(panels.ravel(), comparisons, strict=False):
            _spectrum_panel(panel, comparison, dropped_nm)
    return figure


def _spectrum_panel(panel: SubFigure, comparison: SpectrumComparison, dropped_nm: Windows) -> None:
    curve, rest = panel.subplots(2, 1, sharex=True, height_ratios=(3.0, 1.0))
    centre = comparison.centre_nm
    runs = band_runs(centre, dropped_nm)
    colour = style.KIND_COLOURS.get(comparison.pixel.kind, style.SERIES[0])
    for axes in (curve, rest):
        style.shade_gaps(axes, centre, runs)
    for number, run in enumerate(runs):
        curve.fill_between(
            centre[run], comparison.fused_low[run], comparison.fused_high[run], color=colour, alpha=0.25, linewidth=0,
            label="fused, range" if number == 0 else None,
        )  # fmt: skip
    left_out = ~np.isin(comparison.product_nm, centre)
    if left_out.any():
        curve.plot(
            comparison.product_nm[left_out], comparison.product[left_out], ".", color=style.MUTED, markersize=2.2,
            alpha=0.7, zorder=1, label="HSI, bands left out",
        )  # fmt: skip
    # The measurement as dots, the fused curve as a line above them: both stay visible where they agree.
    style.broken_line(
        curve, centre, comparison.hsi, runs, label="HSI pixel", color=style.INK, linestyle="none", marker="o",
        markersize=2.6,
    )  # fmt: skip
    angle = style.number(comparison.spectral_angle_deg, 2)
    style.broken_line(curve, centre, comparison.fused_mean, runs, label=f"fused, mean (SAM {angle}°)", color=colour)
    if comparison.msi:
        points = comparison.msi
        curve.errorbar(
            [p.centre_nm for p in points], [p.reflectance for p in points],
            xerr=[[p.centre_nm - p.low_nm for p in points], [p.high_nm - p.centre_nm for p in points]],
            fmt="D", color=style.VERMILION, markersize=3.5, markerfacecolor="white", elinewidth=1.4, label="MSI bands",
            zorder=4,
        )  # fmt: skip
    top = np.nanmax([comparison.hsi, comparison.fused_high])
    bottom = min(0.0, float(np.nanmin([comparison.hsi, comparison.fused_low])))
    curve.set_ylim(bottom * 1.1, top + 0.42 * (top - bottom))
    curve.set_ylabel("Reflectance")
    pixel = comparison.pixel
    purity = f"{'low ' if pixel.purity < LOW_PURITY else ''}purity {pixel.purity:.2f}"
    curve.set_title(f"{comparison.label.capitalize()}  (HSI row {pixel.row}, col {pixel.col}; {purity})")
    style.add_legend(curve, loc="upper right", ncols=2, columnspacing=1.0, borderaxespad=0.1, labelspacing=0.3)
    rest.axhline(0.0, color=style.MUTED, linewidth=0.7)
    style.broken_line(rest, centre, 100.0 * comparison.difference, runs, color=colour, linewidth=1.1)
    # A difference of under half a percent of reflectance should look small.
    reach = max(0.5, 1.15 * float(np.nanmax(np.abs(100.0 * comparison.difference))))
    rest.set_ylim(-reach, reach)
    rest.set_ylabel("Diff. (10⁻²)")
    rest.set_xlabel("Wavelength (nm)")
