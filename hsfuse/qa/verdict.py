"""The verdict of a run: good, usable with care, or failed, each with its reasons in plain words.

Every threshold is data (:data:`THRESHOLDS` and the limits of the metrics), so a user can read them in the report and
replace them. A check that was to be made and could not be is ``not made``: it is shown as such and keeps the verdict
from ``good``. Surface classes are judged one by one (:mod:`hsfuse.qa.surfaces`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from hsfuse.metrics import all_metrics
from hsfuse.qa.coregistration import CoregistrationDiagnostics
from hsfuse.qa.seams import USUAL_RATIO
from hsfuse.qa.surfaces import SurfaceCheck

Level = Literal["good", "usable with care", "failed"]
CheckLevel = Literal["good", "usable with care", "failed", "not made"]
_TELLING = ("coregistration", "coregistration_rmse_m", "hsi_rmse", "qnr")
_ORDER: tuple[CheckLevel, ...] = ("good", "not made", "usable with care", "failed")


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
    scale
        Number in print over the value: 100 for shares in per cent.
    """

    key: str
    label: str
    better: Literal["lower", "higher"]
    care: float | None
    fail: float | None
    plain: str
    unit: str = ""
    decimals: int = 3
    scale: float = 1.0

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
        return "not computable" if math.isnan(value) else f"{self.scale * value:.{self.decimals}f}{self.unit}"

    def limit(self) -> str:
        """Return the limit of "good" in words."""
        if self.care is None:
            return ""
        bound = "at most" if self.better == "lower" else "at least"
        return f"{bound} {self.scale * self.care:.{self.decimals}f}{self.unit}"


THRESHOLDS: tuple[Threshold, ...] = (
    Threshold(
        "coverage", "Valid share of the output", "higher", 0.30, 0.001,
        "much of the area is nodata (outside a footprint or under cloud)", " %", 1, 100.0,
    ),
    Threshold(
        "coregistration_rmse_m", "Co-registration error (RMSE)", "lower", 7.5, 20.0,
        "the two images are not aligned well enough for spectra and edges to belong together", " m", 1,
    ),
    Threshold(
        "coregistration_count", "Co-registration check points", "higher", 8, None,
        "few independent points stand behind the stated alignment error", "", 0,
    ),
    Threshold(
        "coregistration_extrapolated", "Share of the scene beyond the tie points", "lower", 0.30, None,
        "the displacement there is extrapolated, not measured", " %", 1, 100.0,
    ),
    Threshold(
        "change_share", "Share of the ground that differs between the images", "lower", 0.10, None,
        "there the cube follows the HSI alone; the confidence layer says where", " %", 1, 100.0,
    ),
    Threshold(
        "seam_ratio", "Seams between tiles", "lower", USUAL_RATIO, 2.00,
        "tile borders can be seen in the cube", "", 3,
    ),
)  # fmt: skip


def metric_thresholds() -> tuple[Threshold, ...]:
    """Return what the metrics themselves ask of a good cube."""
    return tuple(
        Threshold(
            metric.key, metric.text.label, "higher" if metric.direction > 0 else "lower", metric.limits.care,
            metric.limits.fail, metric.limits.plain, metric.text.unit, metric.text.decimals,
        )
        for metric in all_metrics()
        if metric.limits is not None and metric.direction
    )  # fmt: skip


def thresholds_for(hsi_pixel_m: float = 30.0) -> tuple[Threshold, ...]:
    """Return all thresholds for an HSI of a pixel size: the alignment is judged in pixels, 30 m being PRISMA's."""
    scale = hsi_pixel_m / 30.0
    run = tuple(
        replace(t, care=scale * t.care, fail=scale * t.fail)
        if t.unit == " m" and t.care is not None and t.fail is not None
        else t
        for t in THRESHOLDS
    )
    return (*run, *metric_thresholds())


@dataclass(frozen=True)
class Finding:
    """One check and how it came out.

    Attributes
    ----------
    level
        Its grade; ``not made`` where the check was to be made and could not be.
    label
        What was checked.
    text
        One sentence.
    value, limit
        As printed; empty where the check is not a number.
    key
        Name of the score, ``surface:KIND`` for a surface class, empty where there is none.
    """

    level: CheckLevel
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
    """The worst finding decides; one surface class alone never makes a whole cube fail.

    Attributes
    ----------
    level
        ``good``, ``usable with care`` or ``failed``.
    findings
        All checks, worst first.
    surfaces
        Verdict for each surface class; empty where classes were not to be judged.
    """

    level: Level
    findings: tuple[Finding, ...]
    surfaces: tuple[SurfaceCheck, ...] = ()

    @property
    def summary(self) -> str:
        """One sentence that says how many checks came out how."""
        total = len(self.findings)
        levels = [finding.level for finding in self.findings]
        if levels.count("good") == total:
            return f"All {total} checks are good." if total > 1 else "The one check made is good."
        wording: tuple[tuple[CheckLevel, str], ...] = (
            ("failed", "failed"), ("usable with care", "asked for care"), ("not made", "could not be made"),
        )  # fmt: skip
        parts = [f"{levels.count(level)} {words}" for level, words in wording if level in levels]
        listed = " and ".join(", ".join(parts).rsplit(", ", 1))
        return f"Of {total} check{'s' if total > 1 else ''}, {listed}."

    @property
    def advice(self) -> str:
        """May the cube be used, and over which surfaces."""
        if self.level == "failed":
            return "Do not use this cube for measurements."
        by_level = {level: [s.kind for s in self.surfaces if s.level == level] for level in _SURFACE_WORDS}
        known = f" over {_listed(by_level['good'])}" if by_level["good"] else ""
        start = "This cube can be used" + (known if self.level == "good" else f"{known}, with care")
        rest = [words.format(_listed(by_level[level])) for level, words in _SURFACE_WORDS.items()
                if level != "good" and by_level[level]]  # fmt: skip
        return "; ".join([start, *rest]) + "."

    @property
    def reasons(self) -> tuple[str, ...]:
        """Sentences of the findings that are not good; of the most telling ones when everything is."""
        bad = tuple(finding.text for finding in self.findings if finding.level != "good")
        return bad or tuple(finding.text for finding in self.findings if finding.key in _TELLING)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "level": self.level,
            "advice": self.advice,
            "summary": self.summary,
            "reasons": list(self.reasons),
            "findings": [finding.to_json() for finding in self.findings],
            "surfaces": [surface.to_json() for surface in self.surfaces],
        }


_SURFACE_WORDS = {
    "good": "",
    "usable with care": "spectra over {} changed and need a look first",
    "failed": "do not use it over {}",
    "not made": "nothing is known over {}",
}


def _listed(words: Sequence[str]) -> str:
    return " and ".join(", ".join(words).rsplit(", ", 1))


def judge(
    scores: Mapping[str, float | None],
    *,
    coregistration: CoregistrationDiagnostics | None = None,
    coverage: float | None = None,
    change_share: float | None = None,
    surfaces: Sequence[SurfaceCheck] | None = None,
    not_made: Mapping[str, str] | None = None,
    warnings: Iterable[str] = (),
    thresholds: Sequence[Threshold] | None = None,
    min_qnr: float | None = None,
) -> Verdict:
    """Judge a run.

    Parameters
    ----------
    scores
        Name -> value. None means that the check was to be made and could not be; a score that does not apply is
        left out. Names without a threshold are not judged.
    coregistration
        How the images were aligned; None when the inputs were aligned already.
    coverage
        Valid share of the output, 0 to 1.
    change_share
        Share of the ground that differs between the images, 0 to 1; None where nobody looked.
    surfaces
        Verdict for each surface class; None where classes are not to be judged.
    not_made
        Name of a score -> why it could not be computed, the end of a sentence that begins with "because".
    warnings
        Sentences about the inputs or the run that ask for care (years apart, bands re-admitted, ...).
    thresholds
        What the numbers must reach; None: :func:`thresholds_for` PRISMA.
    min_qnr
        The user's own limit: below it the run failed.

    Returns
    -------
    Verdict
    """
    numbers: dict[str, float | None] = dict(scores)
    if coverage is not None:
        numbers["coverage"] = coverage
    if change_share is not None:
        numbers["change_share"] = change_share
    findings = list(_judge_coregistration(coregistration, numbers))
    findings.extend(
        _judge_number(threshold, numbers[threshold.key], (not_made or {}).get(threshold.key, ""))
        for threshold in (thresholds_for() if thresholds is None else thresholds)
        if threshold.key in numbers
    )
    if min_qnr is not None:
        findings.append(_judge_user_limit(numbers.get("qnr"), min_qnr))
    findings.extend(Finding("usable with care", "Note", _sentence(text)) for text in warnings)
    by_surface = list(_judge_surfaces(surfaces)) if surfaces is not None else []
    made = [
        f for f in (*findings, *by_surface) if f.key not in ("", "coverage", "change_share") and f.level != "not made"
    ]
    if not made:
        text = "No quality score was computed, so nothing speaks for or against the cube."
        findings.append(Finding("not made", "Scores", text))
    level = _overall(findings, by_surface)
    everything = sorted((*findings, *by_surface), key=lambda finding: -_ORDER.index(finding.level))
    return Verdict(level, tuple(everything), tuple(surfaces or ()))


def _overall(findings: Sequence[Finding], by_surface: Sequence[Finding]) -> Level:
    levels = {finding.level for finding in findings}
    surface_levels = {finding.level for finding in by_surface}
    if "failed" in levels or (surface_levels and surface_levels <= {"failed"}):
        return "failed"
    return "good" if levels | surface_levels <= {"good"} else "usable with care"


def _judge_surfaces(surfaces: Sequence[SurfaceCheck]) -> Iterable[Finding]:
    found = [surface for surface in surfaces if surface.level != "not in the scene"]
    if not found:
        text = "Spectra were not checked: the scene shows no surface that is even enough."
        yield Finding("not made", "Spectra of pure pixels", text, key="surfaces")
    for surface in found:
        level: CheckLevel = "not made" if surface.level == "not in the scene" else surface.level
        value = "" if surface.angle_deg is None else f"{surface.angle_deg:.2f}°"
        label = f"Spectra over {surface.kind} (median angle)"
        yield Finding(level, label, surface.text, value, surface.limit if value else "", f"surface:{surface.kind}")


def _judge_number(threshold: Threshold, value: float | None, why: str) -> Finding:
    because = f", because {why.rstrip('.')}" if why else ""
    if value is None or math.isnan(value):
        text = f"{threshold.label}: not checked{because or ', because it could not be computed'}."
        return Finding("not made", threshold.label, text, "not computed", threshold.limit(), threshold.key)
    level, shown, limit = threshold.grade(value), threshold.show(value), threshold.limit()
    if level != "good" and shown in limit:
        # 0.8496 is not 0.850: rounded alike, value and limit would contradict the grade.
        finer = replace(threshold, decimals=threshold.decimals + 2)
        shown, limit = finer.show(value), finer.limit()
    if level == "good":
        text = f"{threshold.label}: {shown}" + (f" (good is {limit})." if limit else ".")
    else:
        text = f"{threshold.label}: {shown}, good is {limit}; {threshold.plain}."
    return Finding(level, threshold.label, text, shown, limit, threshold.key)


def _judge_user_limit(qnr: float | None, min_qnr: float) -> Finding:
    label, limit = "QNR asked for", f"at least {min_qnr:.3f}"
    if qnr is None or math.isnan(qnr):
        return Finding("failed", label, f"QNR was to be {limit} but could not be computed.", "", limit, "min_quality")
    level: CheckLevel = "good" if qnr >= min_qnr else "failed"
    relation = "reaches" if level == "good" else "misses"
    text = f"QNR {qnr:.3f} {relation} the {min_qnr:.3f} that were asked for."
    return Finding(level, label, text, f"{qnr:.3f}", limit, "min_quality")


def _judge_coregistration(
    diagnostics: CoregistrationDiagnostics | None, numbers: dict[str, float | None]
) -> Iterable[Finding]:
    """Judge the verdict in words and hand its numbers to the thresholds."""
    if diagnostics is None:
        return
    result = diagnostics.result
    because = f": {result.reason.rstrip('.')}" if result.reason else ""
    label, key = "Co-registration", "coregistration"
    if diagnostics.applied:
        numbers["coregistration_rmse_m"] = result.rmse_m
        if diagnostics.extrapolated_share is not None:
            numbers["coregistration_extrapolated"] = diagnostics.extrapolated_share
        if result.count:
            numbers["coregistration_count"] = float(result.count)
        else:
            text = (
                "The alignment was not tested on check points of its own, because the scene has too few; its error is "
                "what the fit itself states."
            )
            yield Finding("not made", "Co-registration check points", text, key="coregistration_count")
    if result.verdict == "accepted":
        yield Finding("good", label, f"The images were aligned and the alignment was accepted{because}.", key=key)
    elif result.verdict == "global only":
        text = f"Only one shift for the whole scene could be trusted; distortions inside the scene remain{because}."
        yield Finding("usable with care", label, text, key=key)
    elif result.verdict == "off":
        yield Finding("not made", label, f"The alignment of the two images was not checked{because}.", key=key)
    else:
        yield Finding("failed", label, f"No trustworthy alignment of the two images was found{because}.", key=key)


def _sentence(text: str) -> str:
    text = text.strip()
    return text if not text or text[-1] in ".!?" else f"{text}."
