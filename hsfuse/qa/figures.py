"""All pictures of a report, from its data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hsfuse.band_selection.selection import BandEvidence
from hsfuse.qa import coregistration_plots, plots, style
from hsfuse.qa.coregistration import CoregistrationDiagnostics
from hsfuse.qa.page import FigureFile
from hsfuse.qa.quicklook import AlignmentView, DetailPair, Picture, encode_png
from hsfuse.qa.report_data import ReportData
from hsfuse.qa.seams import SeamReport
from hsfuse.qa.spectra import SpectrumComparison

DETAIL_SIDE_PX = 432
"""Close-ups are enlarged by a whole number towards this side."""


def make_figures(report: ReportData) -> list[FigureFile]:
    """Draw every picture that the report has data for."""
    return [
        *quicklook_figures(report.quicklooks),
        *detail_figures(report.details),
        *alignment_figures(report.alignment, of_target="target" in report.inputs),
        *coregistration_figures(report.coregistration),
        *consistency_figures(report.centre_nm, report.consistency, report.dropped_nm),
        *seam_figures(report.seams),
        *spectra_figures(report.spectra, report.dropped_nm),
        *band_figures(report.bands),
    ]


class FigureQueue:
    """Draws pictures of a report beside other work, one after the other, as soon as what they show is known.

    The order in which they are asked for is their order in the report, section by section.
    """

    def __init__(self) -> None:
        # Matplotlib's settings are global: never two pictures at a time.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="hsfuse-draw")
        self._drawn: list[Future[list[FigureFile]]] = []

    def draw(self, figures: Callable[..., list[FigureFile]], *data: Any) -> None:
        """Ask for the pictures that one of this module's functions makes of some data."""
        self._drawn.append(self._worker.submit(figures, *data))

    def finished(self) -> list[FigureFile]:
        """Wait for all pictures that were asked for; raises what drawing them raised."""
        return [figure for drawn in self._drawn for figure in drawn.result()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)


def quicklook_figures(pictures: Sequence[Picture]) -> list[FigureFile]:
    """Pictures of the whole cube."""
    return [_quicklook(picture) for picture in pictures]


def detail_figures(pairs: Sequence[DetailPair]) -> list[FigureFile]:
    """Close-ups before and after fusion."""
    return [figure for number, pair in enumerate(pairs, start=1) for figure in _detail(number, pair)]


def band_figures(bands: Iterable[BandEvidence]) -> list[FigureFile]:
    """Which bands were kept (see :func:`hsfuse.qa.plots.band_rows`)."""
    rows = plots.band_rows(bands)
    if not rows:
        return []
    caption = "Blue: kept. Other colours: dropped, and why."
    return [FigureFile("bands", "bands", "Bands", caption, style.to_png(plots.band_figure(rows)))]


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


def alignment_figures(view: AlignmentView | None, *, of_target: bool = False) -> list[FigureFile]:
    """A detail before and after co-registration; ``of_target``: of any image, not of a hyperspectral one."""
    if view is None:
        return []
    enlarge = max(1, round(DETAIL_SIDE_PX / max(view.reference.shape[:2])))
    moved, fixed = ("Target", "Reference") if of_target else ("HSI", "MSI (reference)")
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


def coregistration_figures(found: CoregistrationDiagnostics | None) -> list[FigureFile]:
    """Displacements, and errors at check points."""
    if found is None or not found.has_points:
        return []
    if found.applied:
        caption = (
            "Left: the displacement that was added to the claimed positions. Right: the same without the shift of the "
            "whole scene, so that distortions inside the scene show. Arrows are measurements, the background is the "
            "field; hatched: no tie point lies near, the field is extrapolated."
        )
        title = "Displacement"
    else:
        caption = "Arrows are measurements. They do not agree, or too little, so that nothing was moved."
        title = "Measured displacement"
    vectors = style.to_png(coregistration_plots.vector_figure(found))
    figures = [FigureFile("coregistration_vectors", "coregistration", title, caption, vectors)]
    errors = coregistration_plots.error_figure(found)
    if errors is not None:
        caption = (
            "Residuals at check points, which the field has not seen; they hold the check points' own noise on top of "
            "the field's error, which the lines and the circle (90 %) state. "
            "Right: mean residual with its standard error; a trend would mean that the field is too stiff."
        )
        figures.append(
            FigureFile("coregistration_errors", "coregistration", "Residual error", caption, style.to_png(errors))
        )
    return figures


def consistency_figures(
    centre_nm: NDArray[Any], consistency: Mapping[str, NDArray[Any]], dropped_nm: plots.Windows = ()
) -> list[FigureFile]:
    """Values per fused band."""
    if not consistency:
        return []
    figure = plots.curve_figure(
        np.asarray(centre_nm, dtype=np.float64), consistency, ylabel="RMSE (reflectance)",
        title="Consistency of each band", dropped_nm=dropped_nm, from_zero=True,
    )  # fmt: skip
    caption = "The fused cube, degraded to the HSI's resolution, against the HSI, band by band."
    return [FigureFile("consistency", "scores", "Consistency", caption, style.to_png(figure))]


def seam_figures(report: SeamReport | None) -> list[FigureFile]:
    """Steps at the borders of tiles."""
    seams = None if report is None else plots.seam_figure(report)
    if seams is None:
        return []
    caption = (
        "Left: typical step between neighbouring pixels around tile borders (border in orange). Right: each "
        "border; 1 means that it cannot be told from its surroundings."
    )
    return [FigureFile("seams", "scores", "Seams", caption, style.to_png(seams))]


def spectra_figures(spectra: Sequence[SpectrumComparison], dropped_nm: plots.Windows = ()) -> list[FigureFile]:
    """Pure pixels before and after fusion."""
    figure = plots.spectra_figure(spectra, dropped_nm=dropped_nm)
    if figure is None:
        return []
    caption = (
        "Dots: the HSI pixel. Line and band: mean and range of the fused pixels inside it, at full resolution. "
        "Diamonds: MSI bands with their width. Grey: wavelengths without bands; nothing is drawn across them. "
        "Below each: fused mean minus HSI, in hundredths of reflectance. Purity says how typical of its kind and how "
        "even a pixel and its surroundings are; where it is low, the HSI sees neighbours that the fused pixels do not."
    )
    return [FigureFile("spectra", "spectra", "Spectra of pure pixels", caption, style.to_png(figure))]
