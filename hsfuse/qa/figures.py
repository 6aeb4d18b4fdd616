"""All pictures of a report, from its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hsfuse.qa import coregistration_plots, plots, style
from hsfuse.qa.page import FigureFile
from hsfuse.qa.quicklook import DetailPair, Picture, encode_png

if TYPE_CHECKING:
    from hsfuse.qa.report import ReportData

DETAIL_SIDE_PX = 432
"""Close-ups are enlarged by a whole number towards this side."""


def make_figures(report: ReportData) -> list[FigureFile]:
    """Draw every picture that the report has data for."""
    figures = [_quicklook(picture) for picture in report.quicklooks]
    for number, pair in enumerate(report.details, start=1):
        figures.extend(_detail(number, pair))
    figures.extend(_alignment(report))
    figures.extend(_coregistration(report))
    figures.extend(_curves(report))
    figures.extend(_spectra(report))
    rows = plots.band_rows(report.bands)
    if rows:
        caption = "Blue: kept. Other colours: dropped, and why."
        figures.append(FigureFile("bands", "bands", "Bands", caption, style.to_png(plots.band_figure(rows))))
    return figures


def _wavelengths(bands_nm: tuple[float, ...]) -> str:
    return "RGB = " + ", ".join(f"{nm:.0f}" for nm in bands_nm) + " nm"


def _quicklook(picture: Picture) -> FigureFile:
    top = ", ".join(f"{high:.2f}" for _, high in picture.limits)
    caption = f"{picture.caption} {_wavelengths(picture.bands_nm)}; full colour at reflectance {top}."
    key = f"quicklook_{picture.key}"
    return FigureFile(
        key, "quicklooks", picture.title, caption, encode_png(picture.rgba), picture.caption, "quicklooks"
    )


def _detail(number: int, pair: DetailPair) -> list[FigureFile]:
    enlarge = max(1, round(DETAIL_SIDE_PX / max(pair.after.shape[:2])))
    where = f"HSI rows {pair.block.row0}–{pair.block.row1}, columns {pair.block.col0}–{pair.block.col1}"
    group = f"detail_{number}"
    colours = _wavelengths(pair.bands_nm)
    return [
        FigureFile(
            f"detail_{number}_before", "details", f"{pair.title}: HSI", f"{where}; {colours}.",
            encode_png(pair.before, enlarge=enlarge), f"{pair.title} before fusion", group,
        ),
        FigureFile(
            f"detail_{number}_after", "details", f"{pair.title}: fused", "Same place, same colours.",
            encode_png(pair.after, enlarge=enlarge), f"{pair.title} after fusion", group,
        ),
    ]  # fmt: skip


def _alignment(report: ReportData) -> list[FigureFile]:
    view = report.alignment
    if view is None:
        return []
    enlarge = max(1, round(DETAIL_SIDE_PX / max(view.reference.shape[:2])))
    moved, fixed = ("Target", "Reference") if "target" in report.inputs else ("HSI", "MSI (reference)")
    parts = (
        ("reference", fixed, view.reference),
        ("before", f"{moved} as delivered", view.before),
        ("after", f"{moved} co-registered", view.after),
    )
    return [
        FigureFile(
            f"alignment_{key}", "alignment", title, view.caption if key == "reference" else "",
            encode_png(rgba, enlarge=enlarge), title, "alignment",
        )
        for key, title, rgba in parts
    ]  # fmt: skip


def _coregistration(report: ReportData) -> list[FigureFile]:
    result = report.coregistration
    view = None if result is None else coregistration_plots.view_coregistration(result, report.bounds)
    if view is None:
        return []
    caption = (
        "Left: the displacement that was added to the claimed positions. Right: the same without the shift of the "
        "whole scene, so that distortions inside the scene show. Arrows are measurements, the background is the field."
    )
    vectors = style.to_png(coregistration_plots.vector_figure(view))
    figures = [FigureFile("coregistration_vectors", "coregistration", "Displacement", caption, vectors)]
    rmse, ce90, p95 = (float(getattr(result, name, np.nan)) for name in ("rmse_m", "ce90_m", "p95_m"))
    errors = coregistration_plots.error_figure(view, rmse_m=rmse, ce90_m=ce90, p95_m=p95)
    if errors is not None:
        caption = (
            "Residuals at check points, which the field has not seen. The circle holds 90 % of the position errors. "
            "Right: mean residual with its standard error; a trend would mean that the field is too stiff."
        )
        figures.append(
            FigureFile("coregistration_errors", "coregistration", "Residual error", caption, style.to_png(errors))
        )
    return figures


def _curves(report: ReportData) -> list[FigureFile]:
    figures = []
    if report.consistency:
        figure = plots.curve_figure(
            np.asarray(report.centre_nm, dtype=np.float64), report.consistency, ylabel="RMSE (reflectance)",
            title="Consistency of each band", dropped_nm=report.dropped_nm, from_zero=True,
        )  # fmt: skip
        caption = "The fused cube, degraded to the HSI's resolution, against the HSI, band by band."
        figures.append(FigureFile("consistency", "scores", "Consistency", caption, style.to_png(figure)))
    seams = None if report.seams is None else plots.seam_figure(report.seams)
    if seams is not None:
        caption = (
            "Left: typical step between neighbouring pixels around tile borders (border in orange). Right: each "
            "border; 1 means that it cannot be told from its surroundings."
        )
        figures.append(FigureFile("seams", "scores", "Seams", caption, style.to_png(seams)))
    return figures


def _spectra(report: ReportData) -> list[FigureFile]:
    figure = plots.spectra_figure(report.spectra, dropped_nm=report.dropped_nm)
    if figure is None:
        return []
    caption = (
        "Dots: the HSI pixel. Line and band: mean and range of the fused pixels inside it, at full resolution. "
        "Diamonds: MSI bands with their width. Grey: wavelengths without bands; nothing is drawn across them. "
        "Below each: fused mean minus HSI, in hundredths of reflectance. Purity says how typical of its kind and how "
        "even a pixel and its surroundings are; where it is low, the HSI sees neighbours that the fused pixels do not."
    )
    return [FigureFile("spectra", "spectra", "Spectra of pure pixels", caption, style.to_png(figure))]
