"""The report of one run: a single HTML file that opens offline and can be mailed, and the same numbers as JSON.

The page carries its pictures as data URIs and forbids itself every outside resource; the pictures also lie as PNG
files in a folder beside it. Whatever comes from products, file names or users is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.crs import CRS

from hsfuse.grid import Grid, reproject_xy
from hsfuse.log import get_logger
from hsfuse.qa.coregistration import CoregistrationDiagnostics
from hsfuse.qa.figures import make_figures
from hsfuse.qa.page import FigureFile, embed, render_page, write_files
from hsfuse.qa.plots import BandRow, band_rows
from hsfuse.qa.quicklook import COMPOSITES
from hsfuse.qa.report_data import ReportData, acquisition_gap_days, methods_paragraph
from hsfuse.qa.scores import score_text
from hsfuse.readers.base import ProductInfo

log = get_logger(__name__)

TEMPLATE = "report.html"


def write_report(
    path: Path, report: ReportData, figures: Sequence[FigureFile] | None = None, formats: Sequence[str] = ("png",)
) -> Path:
    """Write the report as one HTML file, and its pictures as PNG files into ``<name>.qa/`` beside it.

    Parameters
    ----------
    path
        Where to write, usually ``<output>.report.html``; replaced when it exists.
    report
        What to show.
    figures
        Its pictures, where they are drawn already (see :class:`hsfuse.qa.figures.FigureQueue`).

    formats
        Of the drawings beside it: ``png`` always, ``svg`` and ``pdf`` where asked for.

    Returns
    -------
    pathlib.Path
        ``path``.

    Raises
    ------
    OutputError
        The files cannot be written.
    """
    if figures is None:
        figures = make_figures(report)
    page = render_page(TEMPLATE, _context(report) | {"figures": embed(figures)})
    write_files(path, page, figures, formats)
    log.info("Report: %s", path)
    return path


def _context(report: ReportData) -> dict[str, Any]:
    """Turn the report into texts for the template."""
    return {
        "report": report,
        "summary_facts": _summary_facts(report),
        "methods": methods_paragraph(report),
        "extent": _extent(report.grid),
        "missing_pictures": _missing_pictures(report),
        "created": report.created.strftime("%Y-%m-%d %H:%M UTC"),
        "inputs": [_input_rows(role, info) for role, info in report.inputs.items()],
        "coregistration": _coregistration_texts(report.coregistration),
        "scores": _score_rows(report),
        "bands": _band_texts(band_rows(report.bands)),
        "timings": _timing_rows(report.seconds),
        "memory": [
            (name, f"{size / 1e9:.2f} GB")
            for name, size in (("Memory", report.peak_memory_bytes), ("GPU memory", report.peak_vram_bytes))
            if size is not None
        ],
        "configuration": [(str(key), _setting(value)) for key, value in report.configuration.items()],
    }


def _summary_facts(report: ReportData) -> list[tuple[str, str]]:
    days = acquisition_gap_days(report.inputs)
    gap = [] if days is None else [("Days between the images", f"{days:.1f}")]
    return [*report.facts.items(), *gap]


def _extent(grid: Grid | None) -> str:
    """Corners of the cube in map coordinates and in degrees."""
    if grid is None:
        return ""
    box = grid.bounds
    x, y = np.array([box.left, box.right]), np.array([box.top, box.bottom])
    corners = [f"{east:.5g}, {north:.5g}" for east, north in zip(x, y, strict=True)]
    if not grid.crs.is_geographic:
        lon, lat = reproject_xy(grid.crs, CRS.from_epsg(4326), x, y)
        degrees = [_degrees(*place) for place in zip(lat, lon, strict=True)]
        corners = [f"{east:.0f} m E, {north:.0f} m N ({text})" for east, north, text in zip(x, y, degrees, strict=True)]
    return f"Upper left: {corners[0]}; lower right: {corners[1]}; {grid.crs.to_string()}. North is up."


def _degrees(lat: float, lon: float) -> str:
    return f"{abs(lat):.4f}° {'N' if lat >= 0 else 'S'}, {abs(lon):.4f}° {'E' if lon >= 0 else 'W'}"


def _missing_pictures(report: ReportData) -> list[str]:
    """Why a composite is not shown."""
    if not len(report.centre_nm) or not report.quicklooks:
        return []
    shown = {picture.key for picture in report.quicklooks}
    return [
        f"No picture “{composite.title}”: the cube has no bands near "
        f"{', '.join(f'{nm:.0f}' for nm in composite.wanted_nm)} nm."
        for composite in COMPOSITES
        if composite.key not in shown
    ]


def _input_rows(role: str, info: ProductInfo) -> dict[str, Any]:
    when = "" if info.start is None else info.start.strftime("%Y-%m-%d %H:%M:%S UTC")
    rows = [("Product", info.name), ("Sensor and level", f"{info.sensor} {info.level}".strip()), ("Acquired", when)]
    for angle, label in (
        (info.sun_zenith_deg, "Sun zenith"),
        (info.sun_azimuth_deg, "Sun azimuth"),
        (info.view_zenith_deg, "View zenith"),
    ):
        if angle is not None and np.isfinite(angle):
            rows.append((label, f"{angle:.1f}°"))
    rows.append(("File", str(info.path)))
    return {"role": role, "rows": [(label, value) for label, value in rows if value], "warnings": info.warnings}


def _coregistration_texts(found: CoregistrationDiagnostics | None) -> dict[str, Any] | None:
    if found is None:
        return None
    result = found.result
    return {
        "verdict": result.verdict,
        "reason": result.reason,
        "rows": [] if result.verdict == "off" else _coregistration_rows(found),
        "basis": _error_basis(found),
    }


def _coregistration_rows(found: CoregistrationDiagnostics) -> list[tuple[str, str]]:
    result = found.result
    rows = []
    for label, value in (("RMSE", result.rmse_m), ("CE90", result.ce90_m), ("95th percentile", result.p95_m)):
        if np.isfinite(value):
            rows.append((label, f"{value:.1f} m"))
    if result.count:
        rows.append(("Bias at check points", f"{result.bias_m:.1f} m"))
    if found.shift_m is not None:
        rows.append(("Shift of the scene (median)", _east_north(*found.shift_m)))
    if found.extrapolated_share is not None:
        rows.append(("Beyond the tie points", f"{100 * found.extrapolated_share:.0f} % of the scene (extrapolated)"))
    if found.has_points:
        rows.append(("Tie points", f"{result.tie_points.size}, {len(found.used)} used"))
        rows.append(("Check points", str(result.count)))
    swir = result.swir
    if swir is not None:
        rows.append(
            ("SWIR onto VNIR", f"{_east_north(swir.dx_m, swir.dy_m)}, standard error {swir.sigma_m:.1f} m")
        )  # fmt: skip
        state = "SWIR bands moved" if swir.corrected else "not moved" if swir.significant else "within its error"
        rows.append(("SWIR compared with", f"{swir.reference} ({swir.windows} windows); {state}"))
    for label, value in (("Correlation", result.correlation), ("Peak over next peak", result.peak_ratio)):
        if np.isfinite(value):
            rows.append((label, f"{value:.2f}"))
    return rows


def _east_north(east: float, north: float) -> str:
    return f"{east:.1f} m east, {north:.1f} m north".replace("-", "−")


def _error_basis(found: CoregistrationDiagnostics) -> str:
    """What the stated error stands on."""
    result = found.result
    if result.verdict == "off" or not np.isfinite(result.rmse_m):
        return ""
    stated = "of the fit that was rejected" if not found.applied else "of the field over the scene"
    start = f"Errors are distances on the ground {stated}, as the fit's own uncertainty states them; "
    if result.count:
        return (
            f"{start}{result.count} check points that took no part in the fit were used to test them. 90 % of the "
            "errors are below CE90, 95 % below the 95th percentile; the bias is the length of the mean error."
        )
    return (
        f"{start}the scene has too few check points to test them. 90 % of the errors are below CE90, 95 % below the "
        "95th percentile."
    )


def _score_rows(report: ReportData) -> list[dict[str, str]]:
    findings = {finding.key: finding for finding in report.verdict.findings if finding.key}
    rows = []
    for key, value in report.scores.items():
        text, finding = score_text(key), findings.get(key)
        shown = text.show(value)
        if finding is not None and finding.level != "not made":
            # As the checks print it: near a limit they need more decimals.
            shown = finding.value
        rows.append(
            {
                "label": text.label,
                "value": shown,
                "better": text.better,
                "meaning": text.meaning,
                "level": "" if finding is None else finding.level,
            }
        )
    return rows


def _band_texts(rows: Sequence[BandRow]) -> dict[str, Any]:
    kept = [row for row in rows if row.kept]
    table = [
        {
            "number": number,
            "name": row.name,
            "detector": row.detector,
            "centre": f"{row.centre_nm:.1f}",
            "fwhm": f"{row.fwhm_nm:.1f}",
            "snr": "" if row.snr is None else f"{row.snr:.0f}",
            "kept": row.kept,
            "reason": row.reason,
        }
        for number, row in enumerate(rows, start=1)
    ]
    return {"table": table, "kept": len(kept), "total": len(rows), "has_snr": any(row["snr"] for row in table)}


def _timing_rows(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    from hsfuse.progress import format_seconds

    total = sum(seconds.values())
    rows = [
        {
            "stage": stage,
            "time": f"{value:.1f} s" if value < 10 else format_seconds(value),
            "share": 100.0 * value / total if total else 0.0,
        }
        for stage, value in seconds.items()
    ]
    if len(rows) > 1:
        rows.append({"stage": "total", "time": format_seconds(total), "share": None})
    return rows


def _setting(value: object) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
