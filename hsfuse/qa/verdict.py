"""The verdict of a run: good, usable with care, or failed, each with its reasons in plain words.

Every threshold is data (:data:`THRESHOLDS`), so a user can read them in the report and replace them. A score that
was not computed is not judged, and the report says so; a score that could not be computed (NaN) asks for care.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Level = Literal["good", "usable with care", "failed"]
_TELLING = ("coregistration", "coregistration_rmse_m", "hsi_rmse", "pure_pixel_sam_deg", "qnr")
_ORDER: tuple[Level, ...] = ("good", "usable with care", "failed")


@dataclass(frozen=True)
class Threshold:
    """What a number must reach.

    Attributes
    ----------
    key
        Name of the score.
    label
        Name in the report.
    better
        Whether small or large values are good.
    care, fail
        Beyond ``care`` the product asks for care, beyond ``fail`` it failed; None: never.
    unit
        Unit as printed after the number.
    plain
        What a bad value means to somebody who has to decide whether to use the cube.
    decimals
        Decimals in print.
    """

    key: str
    label: str
    better: Literal["lower", "higher"]
    care: float | None
    fail: float | None
    plain: str
    unit: str = ""
    decimals: int = 3

    def grade(self, value: float) -> Level:
        """Grade one value; NaN asks for care."""
        if math.isnan(value):
            return "usable with care"
        sign = 1.0 if self.better == "lower" else -1.0
        if self.fail is not None and sign * value > sign * self.fail:
            return "failed"
        if self.care is not None and sign * value > sign * self.care:
            return "usable with care"
        return "good"

    def show(self, value: float) -> str:
        """Return the value with its unit."""
        return "not computable" if math.isnan(value) else f"{value:.{self.decimals}f}{self.unit}"

    def limit(self) -> str:
        """Return the limit of "good" in words."""
        if self.care is None:
            return ""
        return f"{'at most' if self.better == 'lower' else 'at least'} {self.care:.{self.decimals}f}{self.unit}"


THRESHOLDS: tuple[Threshold, ...] = (
    Threshold(
        "coverage", "Valid share of the output", "higher", 0.30, 0.001,
        "much of the area is nodata (outside a footprint or under cloud)", "", 3,
    ),
    Threshold(
        "coregistration_rmse_m", "Co-registration error (hold-out RMSE)", "lower", 7.5, 20.0,
        "the two images are not aligned well enough for spectra and edges to belong together", " m", 1,
    ),
    Threshold(
        "coregistration_count", "Co-registration check points", "higher", 8, None,
        "few independent points stand behind the stated alignment error", "", 0,
    ),
    Threshold(
        "hsi_rmse", "Consistency with the HSI (RMSE)", "lower", 0.010, 0.040,
        "the cube, degraded to the HSI's resolution, is not what the HSI measured", " reflectance", 4,
    ),
    Threshold(
        "hsi_sam_deg", "Consistency with the HSI (spectral angle)", "lower", 2.0, 6.0,
        "the shape of the spectra changed against the HSI", "°", 2,
    ),
    Threshold(
        "msi_rmse", "Consistency with the MSI (RMSE)", "lower", 0.020, 0.060,
        "the cube, seen through the MSI's bands, is not what the MSI measured", " reflectance", 4,
    ),
    Threshold(
        "qnr", "QNR", "higher", 0.85, 0.60,
        "spectral or spatial relations between the bands were distorted", "", 3,
    ),
    Threshold(
        "d_lambda", "Spectral distortion D_lambda", "lower", 0.08, 0.25,
        "the relations between bands changed", "", 3,
    ),
    Threshold(
        "d_s", "Spatial distortion D_s", "lower", 0.12, 0.30,
        "the detail does not follow the MSI's detail", "", 3,
    ),
    Threshold(
        "pure_pixel_sam_deg", "Pure-pixel spectra (median angle)", "lower", 2.0, 6.0,
        "spectra of even surfaces changed by the fusion", "°", 2,
    ),
    Threshold(
        "seam_ratio", "Seams between tiles", "lower", 1.25, 2.00,
        "tile borders can be seen in the cube", "", 3,
    ),
)  # fmt: skip


def thresholds_for(hsi_pixel_m: float) -> tuple[Threshold, ...]:
    """Return :data:`THRESHOLDS` for another pixel size than PRISMA's 30 m: the alignment is judged in pixels."""
    scale = hsi_pixel_m / 30.0
    return tuple(
        replace(t, care=scale * t.care, fail=scale * t.fail)
        if t.unit == " m" and t.care is not None and t.fail is not None
        else t
        for t in THRESHOLDS
    )


@dataclass(frozen=True)
class Finding:
    """One check and how it came out.

    Attributes
    ----------
    level
        Its grade.
    label
        What was checked.
    text
        One sentence.
    value, limit
        As printed; empty where the check is not a number.
    key
        Name of the score, empty where there is none.
    """

    level: Level
    label: str
    text: str
    value: str = ""
    limit: str = ""
    key: str = ""

    def to_json(self) -> dict[str, str]:
        """Return plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Verdict:
    """The worst finding decides.

    Attributes
    ----------
    level
        ``good``, ``usable with care`` or ``failed``.
    findings
        All checks, worst first.
    """

    level: Level
    findings: tuple[Finding, ...]

    @property
    def summary(self) -> str:
        """One sentence that says how many checks came out how."""
        total = len(self.findings)
        bad: list[str] = [finding.level for finding in self.findings if finding.level != "good"]
        if not bad:
            return f"All {total} checks are good." if total > 1 else "The one check made is good."
        parts = []
        wording: tuple[tuple[Level, str], ...] = (("failed", "failed"), ("usable with care", "asked for care"))
        for level, words in wording:
            count = bad.count(level)
            if count:
                parts.append(f"{count} {words}")
        return f"Of {total} check{'s' if total > 1 else ''}, {' and '.join(parts)}."

    @property
    def reasons(self) -> tuple[str, ...]:
        """Sentences of the findings that are not good; of the most telling ones when everything is."""
        bad = tuple(finding.text for finding in self.findings if finding.level != "good")
        return bad or tuple(finding.text for finding in self.findings if finding.key in _TELLING)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "level": self.level,
            "summary": self.summary,
            "reasons": list(self.reasons),
            "findings": [finding.to_json() for finding in self.findings],
        }


def judge(
    scores: Mapping[str, float | None],
    *,
    coregistration: Any = None,
    coverage: float | None = None,
    warnings: Iterable[str] = (),
    thresholds: Sequence[Threshold] = THRESHOLDS,
    min_qnr: float | None = None,
) -> Verdict:
    """Judge a run.

    Parameters
    ----------
    scores
        Name -> value; None means not computed. Names without a threshold are not judged.
    coregistration
        Anything with ``verdict``, ``reason``, ``rmse_m`` and ``count`` (see the co-registration result); None when
        the inputs were aligned already.
    coverage
        Valid share of the output, 0 to 1.
    warnings
        Sentences about the inputs or the run that ask for care (years apart, bands re-admitted, ...).
    thresholds
        What the numbers must reach.
    min_qnr
        The user's own limit: below it the run failed.

    Returns
    -------
    Verdict
    """
    numbers: dict[str, float | None] = dict(scores)
    if coverage is not None:
        numbers["coverage"] = coverage
    findings = list(_judge_coregistration(coregistration, numbers))
    for threshold in thresholds:
        value = numbers.get(threshold.key)
        if value is not None:
            findings.append(_judge_number(threshold, float(value)))
    if min_qnr is not None:
        findings.append(_judge_wish(numbers.get("qnr"), min_qnr))
    findings.extend(Finding("usable with care", "Note", _sentence(text)) for text in warnings)
    if not any(finding.key not in ("", "coverage") for finding in findings):
        text = "No quality score was computed, so nothing speaks for or against the cube."
        findings.append(Finding("usable with care", "Scores", text))
    findings.sort(key=lambda finding: -_ORDER.index(finding.level))
    return Verdict(findings[0].level, tuple(findings))


def _judge_number(threshold: Threshold, value: float) -> Finding:
    level, shown, limit = threshold.grade(value), threshold.show(value), threshold.limit()
    if math.isnan(value):
        text = f"{threshold.label} could not be computed."
    elif level == "good":
        text = f"{threshold.label}: {shown}" + (f" (good is {limit})." if limit else ".")
    else:
        text = f"{threshold.label}: {shown}, good is {limit}; {threshold.plain}."
    return Finding(level, threshold.label, text, shown, limit, threshold.key)


def _judge_wish(qnr: float | None, min_qnr: float) -> Finding:
    label, limit = "QNR asked for", f"at least {min_qnr:.3f}"
    if qnr is None or math.isnan(qnr):
        return Finding("failed", label, f"QNR was to be {limit} but could not be computed.", "", limit, "min_quality")
    level: Level = "good" if qnr >= min_qnr else "failed"
    relation = "reaches" if level == "good" else "misses"
    text = f"QNR {qnr:.3f} {relation} the {min_qnr:.3f} that were asked for."
    return Finding(level, label, text, f"{qnr:.3f}", limit, "min_quality")


def _judge_coregistration(result: Any, numbers: dict[str, float | None]) -> Iterable[Finding]:
    """Judge the verdict in words and hand its numbers to the thresholds."""
    if result is None:
        return
    verdict, reason = str(getattr(result, "verdict", "")), str(getattr(result, "reason", "") or "")
    because = f": {reason.rstrip('.')}" if reason else ""
    label, key = "Co-registration", "coregistration"
    if verdict in ("accepted", "global only"):
        for name in ("rmse_m", "count"):
            value = getattr(result, name, None)
            if value is not None:
                numbers.setdefault(f"coregistration_{name}", float(value))
    if verdict == "accepted":
        yield Finding("good", label, f"The images were aligned and the alignment was accepted{because}.", key=key)
    elif verdict == "global only":
        text = f"Only one shift for the whole scene could be trusted; distortions inside the scene remain{because}."
        yield Finding("usable with care", label, text, key=key)
    elif verdict == "off":
        text = f"The alignment of the two images was not checked{because}."
        yield Finding("usable with care", label, text, key=key)
    else:
        yield Finding("failed", label, f"No trustworthy alignment of the two images was found{because}.", key=key)


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text or text[-1] in ".!?" else f"{text}."
