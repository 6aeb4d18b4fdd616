"""The report of one run: a single HTML file that opens offline and can be mailed, and the same numbers as JSON.

The page carries its pictures as data URIs and forbids itself every outside resource; the pictures also lie as PNG
files in a folder beside it. Whatever comes from products, file names or users is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, date, datetime
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from hsfuse.errors import OutputError
from hsfuse.grid import Bounds
from hsfuse.log import get_logger
from hsfuse.qa.page import FigureFile, embed, render_page, write_files
from hsfuse.qa.pixels import LOW_PURITY
from hsfuse.qa.plots import BandRow, band_rows
from hsfuse.qa.quicklook import AlignmentView, DetailPair, Picture
from hsfuse.qa.scores import score_text
from hsfuse.qa.seams import SeamReport
from hsfuse.qa.spectra import SpectrumComparison
from hsfuse.qa.verdict import Verdict

log = get_logger(__name__)

JSON_SCHEMA = "hsfuse-qa/1"


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows. All but the first three may be left out; the section is then missing.

    Attributes
    ----------
    product
        Name of the fused product (file name).
    verdict
        Verdict of the run.
    method, method_reason
        What made the cube, and why this method was used.
    facts
        Label -> value for the summary (size, pixel, reference system, bands, ...).
    inputs
        Role (``HSI``, ``MSI``) -> product information: a mapping or an object with ``name``, ``sensor``, ``level``,
        ``start``, ``path`` and perhaps ``sun_zenith_deg``, ``view_zenith_deg``, ``warnings``.
    coregistration
        Co-registration result (``verdict``, ``reason``, ``rmse_m``, ``p95_m``, ``ce90_m``, ``bias_m``, ``count``,
        ``tie_points``, ``check_points``, ``field``, ``global_shift_m``, ``peak_ratio``).
    bounds
        Extent of the scene in the reference system of the tie points.
    alignment
        A detail before and after co-registration.
    scores
        Name -> value; None means not computed.
    centre_nm
        Centre wavelengths of the fused bands, ascending, shape (band,).
    consistency
        Label -> value per fused band, such as the RMSE of the degraded cube against the HSI.
    spectra
        Pure pixels before and after fusion.
    quicklooks, details
        Composites of the fused cube, and close-ups before and after.
    bands
        Band table (see :func:`hsfuse.qa.plots.band_rows`).
    dropped_nm
        Wavelength windows without bands.
    seams
        Seam measurement.
    seconds
        Stage -> seconds.
    peak_memory_bytes, peak_vram_bytes
        Highest memory use.
    configuration
        Effective settings.
    versions
        Library -> version.
    notes
        Warnings and remarks of the run.
    created
        Time of the report (UTC); default: now.
    """

    product: str
    verdict: Verdict
    method: str
    method_reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    coregistration: Any = None
    bounds: Bounds | None = None
    alignment: AlignmentView | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    centre_nm: Sequence[float] | np.ndarray[Any, Any] = ()
    consistency: Mapping[str, Any] = field(default_factory=dict)
    spectra: Sequence[SpectrumComparison] = ()
    quicklooks: Sequence[Picture] = ()
    details: Sequence[DetailPair] = ()
    bands: Sequence[Any] = ()
    dropped_nm: Sequence[tuple[float, float]] = ()
    seams: SeamReport | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: float | None = None
    peak_vram_bytes: float | None = None
    configuration: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    def to_json(self) -> dict[str, Any]:
        """Return the numbers of the report (no pictures) as plain values."""
        return {
            "schema": JSON_SCHEMA,
            "product": self.product,
            "created": self.created,
            "verdict": self.verdict.to_json(),
            "method": {"name": self.method, "reason": self.method_reason},
            "facts": self.facts,
            "inputs": {role: _input_json(info) for role, info in self.inputs.items()},
            "coregistration": None if self.coregistration is None else _coregistration_json(self.coregistration),
            "scores": self.scores,
            "centre_nm": self.centre_nm,
            "consistency": self.consistency,
            "spectra": [comparison.to_json() for comparison in self.spectra],
            "bands": [vars(row) for row in band_rows(self.bands)],
            "seams": None if self.seams is None else self.seams.to_json(),
            "seconds": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "peak_vram_bytes": self.peak_vram_bytes,
            "configuration": self.configuration,
            "versions": self.versions,
            "notes": self.notes,
        }


def write_report(path: Path, report: ReportData, figures: Sequence[FigureFile] | None = None) -> Path:
    """Write the report as one HTML file, and its pictures as PNG files into ``<name>.qa/`` beside it.

    Parameters
    ----------
    path
        Where to write, usually ``<output>.report.html``; replaced when it exists.
    report
        What to show.
    figures
        Its pictures, where they are drawn already (see :class:`hsfuse.qa.figures.FigureDesk`).

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
        from hsfuse.qa.figures import make_figures

        figures = make_figures(report)
    page = render_page("report.html", _context(report) | {"figures": embed(figures)})
    write_files(path, page, figures)
    log.info("Report: %s", path)
    return path


def pure_pixel_sam_deg(spectra: Sequence[SpectrumComparison]) -> float | None:
    """Median spectral angle over pixels of purity 0.3 or more; None without any.

    Water is left out: its angle is mostly noise.
    """
    judged = [s for s in spectra if s.pixel.kind != "water" and s.pixel.purity >= LOW_PURITY]
    angles = [s.spectral_angle_deg for s in judged if np.isfinite(s.spectral_angle_deg)]
    return float(np.median(angles)) if angles else None


def write_qa_json(path: Path, data: ReportData | Mapping[str, Any]) -> Path:
    """Write the numbers of a report as strict JSON: NaN and infinities become null.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    content = data.to_json() if isinstance(data, ReportData) else data
    text = json.dumps(to_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror}.", hint="Check the folder and the disk."
        ) from error
    return path


def to_plain(value: Any) -> Any:
    """Turn numbers, arrays, dates, paths, dataclasses and containers into what strict JSON can hold."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Enum):
        return to_plain(value.value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(entry) for entry in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    if hasattr(value, "to_json"):
        return to_plain(value.to_json())
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: to_plain(getattr(value, entry.name)) for entry in fields(value)}
    return str(value)


def _read(source: Any, name: str) -> Any:
    return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)


_INPUT_FIELDS = ("name", "sensor", "level", "start", "path", "sun_zenith_deg", "sun_azimuth_deg", "view_zenith_deg")


def _input_json(info: Any) -> dict[str, Any]:
    return {name: _read(info, name) for name in (*_INPUT_FIELDS, "warnings")}


def _coregistration_json(result: Any) -> Any:
    if hasattr(result, "to_json"):
        return result.to_json()
    names = ("verdict", "reason", "rmse_m", "p95_m", "ce90_m", "bias_m", "count", "global_shift_m", "peak_ratio")
    return {name: getattr(result, name, None) for name in names}


def _context(report: ReportData) -> dict[str, Any]:
    """Turn the report into texts for the template."""
    return {
        "report": report,
        "created": report.created.strftime("%Y-%m-%d %H:%M UTC"),
        "inputs": [_input_rows(role, info) for role, info in report.inputs.items()],
        "coregistration": _coregistration_rows(report.coregistration),
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


def _input_rows(role: str, info: Any) -> dict[str, Any]:
    start = _read(info, "start")
    when = start.strftime("%Y-%m-%d %H:%M:%S UTC") if isinstance(start, datetime) else (start or "")
    sensor = " ".join(str(v) for v in (_read(info, "sensor"), _read(info, "level")) if v)
    rows = [("Product", _read(info, "name")), ("Sensor and level", sensor), ("Acquired", when)]
    for name, label in (("sun_zenith_deg", "Sun zenith"), ("view_zenith_deg", "View zenith")):
        angle = _read(info, name)
        if angle is not None and np.isfinite(angle):
            rows.append((label, f"{angle:.1f}°"))
    rows.append(("File", _read(info, "path")))
    return {
        "role": role,
        "rows": [(label, str(value)) for label, value in rows if value],
        "warnings": [str(text) for text in _read(info, "warnings") or ()],
    }


def _coregistration_rows(result: Any) -> dict[str, Any] | None:
    if result is None:
        return None
    metres = [
        ("Hold-out RMSE", "rmse_m"),
        ("CE90", "ce90_m"),
        ("95th percentile", "p95_m"),
        ("Bias", "bias_m"),
    ]
    rows = []
    for label, name in metres:
        value = np.hypot.reduce(np.atleast_1d(np.asarray(getattr(result, name, np.nan), dtype=np.float64)))
        if np.isfinite(value):
            rows.append((label, f"{value:.1f} m"))
    shift = getattr(result, "global_shift_m", None)
    if shift is not None and getattr(result, "verdict", "") != "off":
        east, north = (f"{v:.1f}".replace("-", "−") for v in shift)
        rows.append(("Shift of the scene", f"{east} m east, {north} m north"))
    for label, points in (("Check points", "check_points"), ("Tie points", "tie_points")):
        x = getattr(getattr(result, points, None), "x", None)
        if x is not None and len(x):
            used = getattr(getattr(result, points), "used", None)
            share = f", {int(np.sum(used))} used" if points == "tie_points" and used is not None else ""
            rows.append((label, f"{len(x)}{share}"))
    swir = getattr(result, "swir", None)
    if swir is not None:
        east, north = (f"{v:.1f}".replace("-", "−") for v in (swir.dx_m, swir.dy_m))
        rows.append(("SWIR onto VNIR", f"{east} m east, {north} m north, standard error {swir.sigma_m:.1f} m"))
        state = "SWIR bands moved" if swir.corrected else "not moved" if swir.significant else "within its error"
        rows.append(("SWIR compared with", f"{swir.reference} ({swir.windows} windows); {state}"))
    for label, name in (("Correlation", "correlation"), ("Peak over next peak", "peak_ratio")):
        value = getattr(result, name, None)
        if value is not None and np.isfinite(value):
            rows.append((label, f"{value:.2f}"))
    return {"verdict": str(getattr(result, "verdict", "")), "reason": str(getattr(result, "reason", "")), "rows": rows}


def _score_rows(report: ReportData) -> list[dict[str, str]]:
    levels = {finding.key: finding.level for finding in report.verdict.findings if finding.key}
    limits = {finding.key: finding.limit for finding in report.verdict.findings if finding.key}
    rows = []
    for key, value in report.scores.items():
        text = score_text(key)
        rows.append(
            {
                "label": text.label,
                "value": text.show(value),
                "better": text.better,
                "meaning": text.meaning,
                "level": levels.get(key, ""),
                "limit": limits.get(key, ""),
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


def _setting(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
