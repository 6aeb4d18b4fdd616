"""The report of a comparison: several fusion methods on the same scene, with or without a reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import UsageError
from hsfuse.log import get_logger
from hsfuse.qa import plots, style
from hsfuse.qa.page import FigureFile, embed, render_page, write_files
from hsfuse.qa.quicklook import encode_png, stretch_limits, to_rgba
from hsfuse.qa.scores import score_text
from hsfuse.qa.spectra import band_runs, spectral_angle_deg

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

log = get_logger(__name__)

JSON_SCHEMA = "hsfuse-compare/1"
FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class MethodResult:
    """One method's outcome.

    Attributes
    ----------
    name, summary
        Name and one line about the method.
    scores
        Name -> value (``psnr``, ``sam_deg``, ``seconds``, ...; see :mod:`hsfuse.qa.scores`); None: not computed.
    band_psnr
        PSNR per band in dB, shape (band,).
    error_map
        Error per pixel, shape (row, col), NaN where there is none; may be decimated.
    picture
        Three bands for a picture, shape (3, row, col), NaN where there is no data.
    spectra
        Label of a pixel -> its fused spectrum, shape (band,).
    """

    name: str
    summary: str = ""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    band_psnr: FloatArray | None = None
    error_map: FloatArray | None = None
    picture: FloatArray | None = None
    spectra: Mapping[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True)
class CompareData:
    """A comparison.

    Attributes
    ----------
    title
        What was compared, on what.
    methods
        Outcomes in the order of the table.
    with_reference
        True when scores were computed against a reference (reduced resolution or simulation).
    facts
        Label -> value: scene, ratio, protocol, noise, device.
    centre_nm
        Band centres, ascending, shape (band,).
    dropped_nm
        Windows without bands.
    reference_picture, reference_spectra
        The reference (or, without one, the HSI) as in :class:`MethodResult`.
    reference_name
        What the reference is called in pictures and legends.
    error_label
        Name and unit of the error maps.
    band_label
        Name of the curves of ``band_psnr``.
    configuration, versions, notes
        As in the report of a run.
    created
        Time of the report (UTC); default: now.
    """

    title: str
    methods: Sequence[MethodResult]
    with_reference: bool = True
    facts: Mapping[str, Any] = field(default_factory=dict)
    centre_nm: Sequence[float] | FloatArray = ()
    dropped_nm: Sequence[tuple[float, float]] = ()
    reference_picture: FloatArray | None = None
    reference_spectra: Mapping[str, FloatArray] = field(default_factory=dict)
    reference_name: str = "reference"
    error_label: str = "RMSE over bands (reflectance)"
    band_label: str = "PSNR of each band"
    configuration: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    def to_json(self) -> dict[str, Any]:
        """Return the numbers (no pictures) as plain values, for :func:`hsfuse.qa.plain.write_json`."""
        return {
            "schema": JSON_SCHEMA,
            "title": self.title,
            "created": self.created,
            "with_reference": self.with_reference,
            "facts": self.facts,
            "centre_nm": self.centre_nm,
            "methods": [
                {
                    "name": method.name,
                    "summary": method.summary,
                    "scores": method.scores,
                    "band_psnr": method.band_psnr,
                    "spectra": method.spectra,
                }
                for method in self.methods
            ],
            "reference_spectra": self.reference_spectra,
            "configuration": self.configuration,
            "versions": self.versions,
            "notes": self.notes,
        }


def write_compare_report(path: Path, data: CompareData) -> Path:
    """Write a comparison as one HTML file, and its pictures as PNG files into ``<name>.qa/`` beside it.

    Raises
    ------
    UsageError
        There is no method to show.
    OutputError
        The files cannot be written.
    """
    if not data.methods:
        raise UsageError("A comparison needs at least one method.")
    figures = _figures(data)
    context = {
        "data": data,
        "created": data.created.strftime("%Y-%m-%d %H:%M UTC"),
        "columns": [(score_text(key), key) for key in _score_keys(data)],
        "rows": score_rows(data),
        "angles": _angle_rows(data),
        "figures": embed(figures),
        "configuration": [(str(key), str(value)) for key, value in data.configuration.items()],
    }
    write_files(path, render_page("compare.html", context), figures)
    log.info("Comparison: %s", path)
    return path


def _score_keys(data: CompareData) -> list[str]:
    return list(dict.fromkeys(key for method in data.methods for key in method.scores))


@dataclass(frozen=True)
class ScoreCell:
    """A score in the table, and whether it is the best of its column (as printed: equal texts are equally good)."""

    text: str
    best: bool


@dataclass(frozen=True)
class ScoreRow:
    """One method's row of the table."""

    name: str
    summary: str
    cells: tuple[ScoreCell, ...]


def score_rows(data: CompareData) -> list[ScoreRow]:
    """Return the table: one row per method."""
    keys = _score_keys(data)
    best = {key: _best_text(key, data) for key in keys}
    rows = []
    for method in data.methods:
        texts = [(key, score_text(key).show(method.scores.get(key))) for key in keys]
        cells = tuple(ScoreCell(text, text == best[key]) for key, text in texts)
        rows.append(ScoreRow(method.name, method.summary, cells))
    return rows


def _best_text(key: str, data: CompareData) -> str | None:
    """The best value as printed; None where all are printed alike, or where neither direction is better."""
    text = score_text(key)
    values = [method.scores.get(key) for method in data.methods]
    known = [float(value) for value in values if value is not None and np.isfinite(value)]
    if not text.direction or len({text.show(value) for value in known}) < 2:
        return None
    return text.show(max(known) if text.direction > 0 else min(known))


def _figures(data: CompareData) -> list[FigureFile]:
    centre = np.asarray(data.centre_nm, dtype=np.float64)
    figures = _pictures(data)
    curves = {m.name: np.asarray(m.band_psnr, dtype=np.float64) for m in data.methods if m.band_psnr is not None}
    if curves:
        chart, caption = _band_figure(data, curves, centre)
        figures.append(FigureFile("band_psnr", "curves", data.band_label, caption, style.to_png(chart)))
    maps = {m.name: np.asarray(m.error_map, dtype=np.float64) for m in data.methods if m.error_map is not None}
    if maps:
        chart = error_map_figure(maps, data.error_label)
        caption = "One scale for all methods; the mean over the scene stands above each."
        figures.append(FigureFile("error_maps", "maps", "Error maps", caption, style.to_png(chart)))
    labels = list(dict.fromkeys(label for m in data.methods for label in m.spectra))
    if labels:
        chart = _spectra_figure(data, labels, centre)
        caption = (
            f"Above: dots are the {data.reference_name}, lines the methods. Below: each method minus the "
            f"{data.reference_name}, in hundredths of reflectance; a line at zero changed nothing."
        )
        figures.append(FigureFile("spectra", "spectra", "Spectra", caption, style.to_png(chart)))
    return figures


def _band_figure(
    data: CompareData, curves: Mapping[str, NDArray[np.float64]], centre: NDArray[np.float64]
) -> tuple[Figure, str]:
    """PSNR of each band; of several methods their gain over the first, because ten curves lie on each other."""
    first = next(iter(curves))
    if len(curves) == 1:
        chart = plots.curve_figure(
            centre, curves, ylabel="PSNR (dB)", title=data.band_label, dropped_nm=data.dropped_nm
        )  # fmt: skip
        return chart, "Higher is better."
    gains = {name: curve - curves[first] for name, curve in curves.items() if name != first}
    chart = plots.curve_figure(
        centre, gains, ylabel=f"PSNR over {first} (dB)", title=f"{data.band_label}: gain over {first}",
        dropped_nm=data.dropped_nm, zero_line=True, first_colour=1,
    )  # fmt: skip
    known = curves[first][np.isfinite(curves[first])]
    level = f" {first} itself has {known.mean():.1f} dB on average." if known.size else ""
    return chart, f"Above zero: better than {first} in that band.{level}"


def _angle_rows(data: CompareData) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Pixels, and for each method its spectral angles to the reference there."""
    labels = [label for label in dict.fromkeys(label for m in data.methods for label in m.spectra)
              if label in data.reference_spectra]  # fmt: skip
    rows = []
    for method in data.methods:
        angles = [
            spectral_angle_deg(np.asarray(method.spectra[label]), np.asarray(data.reference_spectra[label]))
            if label in method.spectra
            else float("nan")
            for label in labels
        ]
        rows.append((method.name, ["" if np.isnan(angle) else f"{angle:.2f}°" for angle in angles]))
    return labels, rows


def _pictures(data: CompareData) -> list[FigureFile]:
    """Pictures of all methods in the colours of the first (the reference where there is one)."""
    named = [(data.reference_name, data.reference_picture)] + [(m.name, m.picture) for m in data.methods]
    shown = [(name, picture) for name, picture in named if picture is not None]
    if not shown:
        return []
    limits = stretch_limits(shown[0][1])
    side = max(shown[0][1].shape[1:])
    return [
        FigureFile(
            f"picture_{number}", "pictures", name, "",
            encode_png(to_rgba(picture, limits), enlarge=max(1, 360 // side)), name, "pictures",
        )
        for number, (name, picture) in enumerate(shown)
    ]  # fmt: skip


def error_map_figure(maps: Mapping[str, NDArray[np.float64]], label: str) -> Figure:
    """Draw error maps (row, col) side by side on one scale, from zero to the 99th percentile of all."""
    columns = min(4, len(maps))
    rows = -(-len(maps) // columns)
    known = np.concatenate([m[np.isfinite(m)] for m in maps.values()])
    top = float(np.percentile(known, 99.0)) if known.size else 1.0
    height, width = next(iter(maps.values())).shape
    with style.themed():
        figure = style.new_figure(10.0, max(1.8, rows * (8.6 / columns * height / width + 0.4)))
        panels = figure.subplots(rows, columns, squeeze=False)
        image = None
        for axes in panels.ravel():
            axes.set_axis_off()
        for axes, (name, values) in zip(panels.ravel(), maps.items(), strict=False):
            image = axes.imshow(values, cmap="cividis", vmin=0.0, vmax=top or 1.0, interpolation="nearest")
            valid = values[np.isfinite(values)]
            mean = f"{valid.mean():.4g}" if valid.size else "no data"
            axes.set_title(f"{name}: {mean}")
        if image is not None:
            bar = figure.colorbar(image, ax=panels, shrink=0.85, pad=0.015, extend="max")
            bar.set_label(label)
    return figure


def _spectra_figure(data: CompareData, labels: Sequence[str], centre: NDArray[np.float64]) -> Figure:
    """Spectra of each pixel above, and what each method makes of the reference below, where lines stay apart."""
    columns = 2 if len(labels) > 1 else 1
    rows = -(-len(labels) // columns)
    with style.themed():
        figure = style.new_figure(10.0, 4.2 * rows)
        panels = figure.subfigures(rows, columns, squeeze=False, wspace=0.02, hspace=0.02).ravel()
        for panel, label in zip(panels, labels, strict=False):
            _spectrum_panel(panel, data, label, centre)
        handles, names = panels[0].axes[-1].get_legend_handles_labels()
        # The last panel stays empty where the number of pixels is odd: there is room for the legend.
        where = panels[-1] if len(labels) < len(panels) else figure
        where.legend(
            handles, names, loc="center" if where is not figure else "outside lower center",
            ncols=1 if where is not figure else min(4, len(names)), fontsize=8,
        )  # fmt: skip
    return figure


def _spectrum_panel(panel: SubFigure, data: CompareData, label: str, centre: NDArray[np.float64]) -> None:
    runs = band_runs(centre, data.dropped_nm)
    curve, rest = panel.subplots(2, 1, sharex=True, height_ratios=(1.2, 1.0))
    reference = data.reference_spectra.get(label)
    for axes in (curve, rest):
        style.shade_gaps(axes, centre, runs)
    for number, method in enumerate(data.methods):
        if label not in method.spectra:
            continue
        values = np.asarray(method.spectra[label], dtype=np.float64)
        look: dict[str, Any] = {
            "color": style.SERIES[number % len(style.SERIES)],
            "linestyle": style.LINE_STYLES[number // len(style.SERIES) % len(style.LINE_STYLES)],
        }
        style.broken_line(curve, centre, values, runs, linewidth=0.8, **look)
        difference = values if reference is None else 100.0 * (values - np.asarray(reference, dtype=np.float64))
        style.broken_line(rest, centre, difference, runs, label=method.name, linewidth=1.1, **look)
    if reference is not None:
        values = np.asarray(reference, dtype=np.float64)
        style.broken_line(
            curve, centre, values, runs, label=data.reference_name, color=style.INK, linestyle="none", marker="o",
            markersize=2.4, zorder=5,
        )  # fmt: skip
        rest.axhline(0.0, color=style.MUTED, linewidth=0.7)
    curve.set_ylim(min(curve.get_ylim()[0], 0.0))
    curve.set_title(label)
    curve.set_ylabel("Reflectance")
    rest.set_ylabel("Reflectance" if reference is None else f"Minus {data.reference_name} (10⁻²)")
    rest.set_xlabel("Wavelength (nm)")
    style.add_legend(curve, loc="upper right", fontsize=7)
