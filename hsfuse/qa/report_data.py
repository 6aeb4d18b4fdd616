"""Everything that the report of a run shows, as one immutable value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.band_selection.selection import BandEvidence
from hsfuse.qa.coregistration import CoregistrationDiagnostics
from hsfuse.qa.plots import band_rows
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
    method, method_reason
        What made the cube, and why this method was used.
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
    facts: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, ProductInfo] = field(default_factory=dict)
    coregistration: CoregistrationDiagnostics | None = None
    alignment: AlignmentView | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    centre_nm: FloatArray = field(default_factory=lambda: np.zeros(0))
    consistency: Mapping[str, FloatArray] = field(default_factory=dict)
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
            "method": {"name": self.method, "reason": self.method_reason},
            "facts": self.facts,
            "inputs": {role: _input_json(info) for role, info in self.inputs.items()},
            "coregistration": None if self.coregistration is None else self.coregistration.to_json(),
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


def _input_json(info: ProductInfo) -> dict[str, Any]:
    return {
        "name": info.name, "sensor": info.sensor, "level": info.level, "start": info.start, "path": info.path,
        "sun_zenith_deg": info.sun_zenith_deg, "sun_azimuth_deg": info.sun_azimuth_deg,
        "view_zenith_deg": info.view_zenith_deg, "warnings": info.warnings,
    }  # fmt: skip
