"""All pictures of a report, from its data."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from hsfuse.band_selection.selection import BandEvidence
from hsfuse.grid import Grid
from hsfuse.log import get_logger
from hsfuse.qa import coregistration_plots, plots, style
from hsfuse.qa.change import change_figures
from hsfuse.qa.coregistration import CoregistrationDiagnostics
from hsfuse.qa.dates import date_figures
from hsfuse.qa.draw_process import DrawProcess, DrawProcessError, started_processes, wanted_processes
from hsfuse.qa.page import FigureFile
from hsfuse.qa.quicklook import AlignmentView, DetailPair, Picture, encode_png
from hsfuse.qa.report_data import ReportData
from hsfuse.qa.seams import SeamReport
from hsfuse.qa.spectra import SpectrumComparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = get_logger(__name__)

DETAIL_SIDE_PX = 432
"""Close-ups are enlarged by a whole number towards this side."""


def make_figures(report: ReportData) -> list[FigureFile]:
    """Draw every picture that the report has data for."""
    return [
        *quicklook_figures(report.quicklooks, report.grid),
        *detail_figures(report.details, report.grid),
        *alignment_figures(report.alignment, of_target="target" in report.inputs),
        *coregistration_figures(report.coregistration),
        *consistency_figures(report.centre_nm, report.consistency, report.msi_consistency, report.dropped_nm),
        *seam_figures(report.seams),
        *spectra_figures(report.spectra, report.dropped_nm),
        *date_figures(report.dates),
        *change_figures(report.changes),
        *band_figures(report.bands),
    ]


class FigureQueue:
    """Draws pictures of a report beside other work, as soon as what they show is known.

    The order in which they are asked for is their order in the report, section by section. They are drawn by processes
    of their own where there are cores for them, else one after the other by a thread of this one.

    Parameters
    ----------
    processes
        Processes that draw; 0: a thread of this one, whose pictures hold the drawings that they were made of. None: as
        many as suit this machine.
    """

    def __init__(self, processes: int | None = None) -> None:
        count = wanted_processes() if processes is None else processes
        self._processes: SimpleQueue[DrawProcess | None] = SimpleQueue()
        self._started = started_processes(count)
        for process in self._started:
            self._processes.put(process)
        # Matplotlib's settings are global: never two pictures at a time in one process.
        self._worker = ThreadPoolExecutor(max(len(self._started), 1), thread_name_prefix="hsfuse-draw")
        self._here = threading.Lock()
        self._drawn: list[Future[list[FigureFile]]] = []

    def draw(self, figures: Callable[..., list[FigureFile]], *data: Any) -> None:
        """Ask for the pictures that one of this module's functions makes of some data."""
        self._drawn.append(self._worker.submit(self._draw, figures, data))

    def _draw(self, figures: Callable[..., list[FigureFile]], data: Sequence[Any]) -> list[FigureFile]:
        process = self._processes.get() if self._started else None
        try:
            if process is not None:
                return process.draw(figures, data)
        except DrawProcessError as error:
            _log.warning("A process that draws pictures has ended (%s); they are drawn by this one.", error)
            process = None
        finally:
            if self._started:
                self._processes.put(process)
        with self._here:
            return figures(*data)

    def finished(self) -> list[FigureFile]:
        """Wait for all pictures that were asked for; raises what drawing them raised."""
        return [figure for drawn in self._drawn for figure in drawn.result()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._worker.shutdown(wait=True, cancel_futures=True)
        for process in self._started:
            process.close()


def quicklook_figures(pictures: Sequence[Picture], grid: Grid | None = None) -> list[FigureFile]:
    """Pictures of the whole cube, with a scale bar where its grid is known."""
    width_m = None if grid is None else grid.width * grid.pixel_m
    return [_quicklook(picture, width_m) for picture in pictures]


def detail_figures(pairs: Sequence[DetailPair], grid: Grid | None = None) -> list[FigureFile]:
    """Close-ups before and after fusion; ``grid`` is that of the cube."""
    return [figure for number, pair in enumerate(pairs, start=1) for figure in _detail(number, pair, grid)]


def band_figures(bands: Iterable[BandEvidence]) -> list[FigureFile]:
    """Which bands were kept (see :func:`hsfuse.qa.plots.band_rows`)."""
    rows = plots.band_rows(bands)
    if not rows:
        return []
    caption = "Blue: kept. Other colours: dropped, and why."
    how = (
        "Each stroke is a band of the hyperspectral product, as wide as the band. The atmosphere absorbs nearly all "
        "light around 1400 and 1900 nm, so that bands there hold noise only. The signal-to-noise ratio says how many "
        "times larger the signal is than its noise."
    )
    return [_drawn("bands", "bands", "Bands", caption, how, plots.band_figure(rows))]


def _drawn(key: str, section: str, title: str, caption: str, how: str, figure: Figure) -> FigureFile:
    return FigureFile(key, section, title, caption, style.to_png(figure), how=how, drawing=figure)


def _wavelengths(bands_nm: tuple[float, ...]) -> str:
    return "RGB = " + ", ".join(f"{nm:.0f}" for nm in bands_nm) + " nm"


def scale_bar(width_m: float | None) -> tuple[float, str] | None:
    """Length of a scale bar as a share of a picture's width, and in words; None where the width is not known."""
    if width_m is None or not width_m > 0:
        return None
    length = style.nice_length(width_m / 4.0)
    return length / width_m, f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"


def _quicklook(picture: Picture, width_m: float | None) -> FigureFile:
    top = ", ".join(f"{high:.2f}" for _, high in picture.limits)
    caption = f"{picture.caption} {_wavelengths(picture.bands_nm)}; full colour at reflectance {top}."
    return FigureFile(
        f"quicklook_{picture.key}", "quicklooks", picture.title, caption, encode_png(picture.rgba), picture.caption,
        "quicklooks", scale=scale_bar(width_m),
    )  # fmt: skip


def _detail(number: int, pair: DetailPair, grid: Grid | None) -> list[FigureFile]:
    enlarge = max(1, round(DETAIL_SIDE_PX / max(pair.after.shape[:2])))
    where = f"HSI rows {pair.block.row0}–{pair.block.row1}, columns {pair.block.col0}–{pair.block.col1}"
    group = f"detail_{number}"
    colours = _wavelengths(pair.bands_nm)
    scale = scale_bar(None if grid is None else pair.after.shape[1] * grid.pixel_m)
    return [
        FigureFile(
            f"detail_{number}_before", "details", f"{pair.title}: HSI", f"{where}; {colours}.",
            encode_png(pair.before, enlarge=enlarge), f"{pair.title} before fusion", group, scale=scale,
        ),
        FigureFile(
            f"detail_{number}_after", "details", f"{pair.title}: fused", "Same place, same colours.",
            encode_png(pair.after, enlarge=enlarge), f"{pair.title} after fusion", group, scale=scale,
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
    how = (
        "An arrow points from where the product says a piece of ground lies to where it was found in the other image. "
        "Arrows that are all alike mean one shift; arrows that turn or grow across the scene mean distortion."
    )
    if len(found.check):
        how += " Orange arrows were held back from the fit: where they agree with the background, the field is right."
    figure = coregistration_plots.vector_figure(found)
    figures = [_drawn("coregistration_vectors", "coregistration", title, caption, how, figure)]
    errors = coregistration_plots.error_figure(found)
    if errors is not None:
        caption = (
            "Residuals at check points, which the field has not seen; they hold the check points' own noise on top of "
            "the field's error, which the lines and the circle (90 %) state. Right: mean residual with its standard "
            "error; a trend would mean that the field is too stiff."
        )
        how = (
            "Left: one dot per point, a perfect alignment would put all of them in the middle. A cloud that sits off "
            "the middle is a bias. Centre: how often an error of each length occurs. Right: both lines should stay "
            "around zero from one side of the scene to the other."
        )
        figures.append(_drawn("coregistration_errors", "coregistration", "Residual error", caption, how, errors))
    return figures


def consistency_figures(
    centre_nm: NDArray[Any],
    consistency: Mapping[str, NDArray[Any]],
    msi: Sequence[plots.MsiBandError] = (),
    dropped_nm: plots.Windows = (),
) -> list[FigureFile]:
    """Values per fused band, and per multispectral band."""
    if not consistency and not msi:
        return []
    figure = plots.curve_figure(
        np.asarray(centre_nm, dtype=np.float64), consistency, ylabel="RMSE (reflectance)",
        title="Consistency of each band", dropped_nm=dropped_nm, from_zero=True, msi=msi,
    )  # fmt: skip
    caption = (
        "Line: the fused cube, degraded to the HSI's resolution, against the HSI, band by band. "
        + ("Diamonds: the cube, weighted with the MSI's spectral responses, against the MSI." if msi else "")
    ).strip()
    how = (
        "A fused cube that is blurred again should be the hyperspectral image that it came from; seen through the "
        "multispectral bands it should be the multispectral image. Errors near the noise of the images are as good as "
        "can be. Diamonds also hold what changed on the ground between the two days."
    )
    return [_drawn("consistency", "scores", "Consistency", caption, how, figure)]


def seam_figures(report: SeamReport | None) -> list[FigureFile]:
    """Steps at the borders of tiles."""
    seams = None if report is None else plots.seam_figure(report)
    if seams is None:
        return []
    caption = (
        "Left: typical step between neighbouring pixels around tile borders (border in orange). Right: each border; 1 "
        "means that it cannot be distinguished from its surroundings."
    )
    how = (
        "A scene is computed in tiles. If their borders could be seen, neighbouring pixels across a border would "
        "differ more than neighbours elsewhere: the orange bar would stand out."
    )
    return [_drawn("seams", "scores", "Seams", caption, how, seams)]


def spectra_figures(spectra: Sequence[SpectrumComparison], dropped_nm: plots.Windows = ()) -> list[FigureFile]:
    """Pure pixels before and after fusion."""
    figure = plots.spectra_figure(spectra, dropped_nm=dropped_nm)
    if figure is None:
        return []
    caption = (
        "Dots: the HSI pixel (grey: bands that were left out). Line and band: mean and range of the fused pixels "
        "inside it, at full resolution. Diamonds: MSI bands with their width. Shaded: wavelengths without bands; "
        "nothing is drawn across them. Below each: fused mean minus HSI, in hundredths of reflectance."
    )
    how = (
        "Over an even surface, the mean of the fused pixels inside a hyperspectral pixel should be its spectrum: the "
        "line should run through the dots, the lower curve along zero. A lower curve that is level but not zero is a "
        "change of brightness; one that bends is a change of colour. Purity says how typical of its kind and how even "
        "a pixel and its surroundings are; where it is low, the HSI sees neighbours that the fused pixels do not."
    )
    return [_drawn("spectra", "spectra", "Spectra of pure pixels", caption, how, figure)]
