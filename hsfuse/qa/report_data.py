"""Everything that the report of a run shows, as one immutable value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.band_selection.selection import BandEvidence
from hsfuse.grid import Grid
from hsfuse.qa.change import ChangeView
from hsfuse.qa.coregistration import CoregistrationDiagnostics
from hsfuse.qa.dates import DatesView
from hsfuse.qa.plots import MsiBandError, band_rows
from hsfuse.qa.quicklook import AlignmentView, DetailPair, Picture
from hsfuse.qa.seams import SeamReport
from hsfuse.qa.spectra import SpectrumComparison
from hsfuse.qa.verdict import Verdict
from hsfuse.readers.base import ProductInfo

FloatArray = NDArray[np.floating[Any]]

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
    method, method_reason, method_reference
        What made the cube, why this method was used, and where it is described.
    method_sentences
        What was done around the method, for a paper.
    fused
        Whether the images were fused; else one was aligned to the other.
    grid
        Grid of the cube.
    psf
        Width of the HSI's point spread function and where it comes from.
    facts
        Label -> value for the summary (size, pixel, reference system, bands, ...).
    inputs
        Role (``HSI``, ``MSI``) -> facts about the product.
    coregistration
        How the images were aligned; None when that was not part of the run.
    alignment
        A detail before and after co-registration.
    scores
        Name -> value; None means not computed.
    centre_nm
        Centre wavelengths of the fused bands, ascending, shape (band,).
    consistency
        Label -> value per fused band, such as the RMSE of the degraded cube against the HSI.
    msi_consistency
        The same against each multispectral band.
    dates
        Which date of the multispectral archive each pixel shows; None for one date.
    changes
        Where both images show different ground; None where nobody looked.
    spectra
        Pure pixels before and after fusion.
    quicklooks, details
        Composites of the fused cube, and close-ups before and after.
    bands
        Evidence for every band of the product.
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
    method_reference: str = ""
    method_sentences: Sequence[str] = ()
    fused: bool = True
    grid: Grid | None = None
    psf: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, ProductInfo] = field(default_factory=dict)
    coregistration: CoregistrationDiagnostics | None = None
    alignment: AlignmentView | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    centre_nm: FloatArray = field(default_factory=lambda: np.zeros(0))
    consistency: Mapping[str, FloatArray] = field(default_factory=dict)
    msi_consistency: Sequence[MsiBandError] = ()
    dates: DatesView | None = None
    changes: ChangeView | None = None
    spectra: Sequence[SpectrumComparison] = ()
    quicklooks: Sequence[Picture] = ()
    details: Sequence[DetailPair] = ()
    bands: Sequence[BandEvidence] = ()
    dropped_nm: Sequence[tuple[float, float]] = ()
    seams: SeamReport | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: float | None = None
    peak_vram_bytes: float | None = None
    configuration: Mapping[str, object] = field(default_factory=dict)
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
            "method": {"name": self.method, "reason": self.method_reason, "reference": self.method_reference},
            "methods_paragraph": methods_paragraph(self),
            "facts": self.facts,
            "inputs": {role: _input_json(info) for role, info in self.inputs.items()},
            "coregistration": None if self.coregistration is None else self.coregistration.to_json(),
            "scores": self.scores,
            "centre_nm": self.centre_nm,
            "consistency": self.consistency,
            "msi_consistency": [asdict(band) for band in self.msi_consistency],
            "dates": None if self.dates is None else self.dates.to_json(),
            "changes": None if self.changes is None else self.changes.to_json(),
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


def _input_json(info: ProductInfo) -> dict[str, Any]:
    return {
        "name": info.name, "sensor": info.sensor, "level": info.level, "start": info.start, "path": info.path,
        "sun_zenith_deg": info.sun_zenith_deg, "sun_azimuth_deg": info.sun_azimuth_deg,
        "view_zenith_deg": info.view_zenith_deg, "warnings": info.warnings,
    }  # fmt: skip


def acquisition_gap_days(inputs: Mapping[str, ProductInfo]) -> float | None:
    """Days between the acquisitions of the first two products; None when a time is not known."""
    times = [info.start for info in inputs.values()][:2]
    if len(times) < 2 or times[0] is None or times[1] is None:
        return None
    return abs((times[0] - times[1]).total_seconds()) / 86400.0


def methods_paragraph(report: ReportData) -> str:
    """What was done, in the words of a paper's methods section; empty without two products."""
    inputs = list(report.inputs.values())
    if len(inputs) < 2:
        return ""
    hsi, msi = inputs[0], inputs[1]
    done = "fused with" if report.fused else "aligned to"
    sentences = [f"{_product(hsi)} was {done} {_product(msi)}{_gap(report.inputs)}."]
    if report.dates is not None and len(report.dates.used) > 1:
        sentences.append(
            f"The multispectral image was composed of the clear pixels of {len(report.dates.used)} dates ("
            + ", ".join(f"{source.label}: {100 * source.used:.0f} %" for source in report.dates.used)
            + "), joined by a robust gain and offset for each band."
        )
    found = report.coregistration
    if found is not None and found.applied:
        result = found.result
        tested = f"tested on {result.count} check points" if result.count else "as the fit's uncertainty states it"
        sentences.append(
            f"The images were co-registered by masked correlation of {result.tie_points.size} windows and a "
            f"{result.field.model} field fitted to {len(found.used)} of them (RMSE {result.rmse_m:.1f} m, CE90 "
            f"{result.ce90_m:.1f} m, {tested})."
        )
    elif found is not None:
        sentences.append("The images were not co-registered.")
    if report.bands:
        kept = [band.centre_nm for band in report.bands if band.kept]
        sentences.append(
            f"{len(kept)} of {len(report.bands)} bands between {min(kept):.0f} and {max(kept):.0f} nm were kept."
        )
    if report.psf:
        sentences.append(f"The point spread function of the hyperspectral image was {report.psf}.")
    reference = f" ({report.method_reference})" if report.method_reference else ""
    version = report.versions.get("hsfuse", "")
    if not report.fused:
        return " ".join([*sentences, f"This was done with hsfuse {version}".rstrip() + "."])
    size = "" if report.grid is None else f" to a pixel size of {report.grid.pixel_m:g} m"
    sentences.append(
        f"Fusion{size} was done with the method {report.method}{reference} of hsfuse {version}".rstrip() + "."
    )
    sentences += report.method_sentences
    return " ".join(sentences)


def _product(info: ProductInfo) -> str:
    when = f" of {info.start:%Y-%m-%d %H:%M} UTC" if info.start is not None else ""
    return f"{info.sensor} {info.level}{when} ({info.name})".strip()


def _gap(inputs: Mapping[str, ProductInfo]) -> str:
    days = acquisition_gap_days(inputs)
    return "" if days is None else f", acquired {days:.1f} days apart"
