"""What a run returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunResult:
    """What a run made.

    Attributes
    ----------
    output
        The cube; None after a dry run.
    method, method_reason
        What made it and why.
    summary
        Everything that ``--json`` prints: inputs, grid, bands, co-registration, statistics, scores, times.
    report
        HTML report, when written.
    verdict
        ``good``, ``usable with care`` or ``failed``; None without quality assessment.
    """

    output: Path | None
    method: str
    method_reason: str
    summary: dict[str, Any] = field(default_factory=dict, repr=False)
    report: Path | None = None
    verdict: str | None = None
