"""No page contradicts itself: a number that stands in two places is the same, a check is made or shown as not made."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qa_builders import CENTRE_NM, coregistration, spectrum
from test_report import full_report, words_of

from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.result import CoregistrationResult, TiePoints
from hsfuse.grid import Bounds
from hsfuse.qa.coregistration import CoregistrationDiagnostics, diagnose
from hsfuse.qa.pixels import KINDS, PurePixel
from hsfuse.qa.plain import write_json
from hsfuse.qa.report import write_report
from hsfuse.qa.report_data import ReportData
from hsfuse.qa.scores import score_text
from hsfuse.qa.spectra import SpectrumComparison, compare_spectrum
from hsfuse.qa.surfaces import check_surfaces
from hsfuse.qa.verdict import THRESHOLDS, judge

SCORES = {"qnr": 0.93, "d_lambda": 0.03, "d_s": 0.04, "hsi_rmse": 0.004, "hsi_sam_deg": 0.8, "msi_rmse": 0.01,
          "pure_pixel_sam_deg": 0.7}  # fmt: skip


def pure(kind, change=0.01) -> SpectrumComparison:
    hsi = spectrum(kind)
    fused = hsi * (1 + change * np.linspace(-1, 1, CENTRE_NM.size))
    return compare_spectrum(PurePixel(kind, 3, 4, 0.9), CENTRE_NM, hsi, fused[:, None, None])


def report(
    found: CoregistrationDiagnostics, scores: dict, spectra: list, share: float | None, not_made: dict | None = None
) -> ReportData:
    surfaces = check_surfaces(spectra, dict.fromkeys(KINDS, share))
    verdict = judge(scores, coregistration=found, coverage=0.9, surfaces=surfaces, not_made=not_made)
    return replace(full_report(), verdict=verdict, coregistration=found, scores=scores, spectra=spectra)


def cases() -> dict[str, ReportData]:
    good = diagnose(coregistration())
    untested = replace(coregistration(), count=0, check_points=TiePoints.empty())
    off = CoregistrationResult.off()
    every = [pure(kind) for kind in KINDS]
    few = SCORES | {"msi_rmse": None, "pure_pixel_sam_deg": None}
    wide = diagnose(coregistration(), Bounds(500_000, 4_990_000, 600_000, 5_020_000))
    rejected = replace(coregistration("rejected"), field=DisplacementField.zero(), reason="nothing agrees.")
    return {
        "good": report(good, SCORES, every, 0.2),
        "changed pair": report(wide, SCORES | {"msi_rmse": 0.09}, [*every, pure("water", 0.99)], 0.2),
        "few bands": report(diagnose(untested), few, [], None, {"msi_rmse": "too few bands lie under the MSI's"}),
        "no pure pixels": report(good, SCORES | {"pure_pixel_sam_deg": None}, [], 0.0),
        "not co-registered": report(diagnose(off), SCORES, every, 0.2),
        "rejected": report(diagnose(rejected), SCORES, every, 0.2),
    }


@pytest.fixture(scope="module", params=list(cases()))
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ReportData, str, dict]:
    folder: Path = tmp_path_factory.mktemp("report")
    data = cases()[request.param]
    page = words_of(write_report(folder / "r.html", data, []))
    return data, page, json.loads(write_json(folder / "r.json", data).read_text())


def test_numbers_of_the_verdict_are_those_of_the_tables_and_of_the_json(written) -> None:
    data, page, numbers = written
    for finding in data.verdict.findings:
        assert finding.text in page or finding.value in page
        if finding.key in data.scores:
            shown = score_text(finding.key).show(data.scores[finding.key])
            assert finding.value.removesuffix(" reflectance") in shown or finding.level == "not made"
            assert numbers["scores"][finding.key] == data.scores[finding.key]
    assert numbers["verdict"]["level"] == data.verdict.level
    assert numbers["verdict"]["advice"] in page


def test_each_error_of_the_alignment_is_one_number(written) -> None:
    data, page, numbers = written
    result = data.coregistration.result
    for pattern, value in ((r"RMSE\s?(\d+\.\d) m", result.rmse_m), (r"CE90\s?(\d+\.\d) m", result.ce90_m)):
        assert {float(found) for found in re.findall(pattern, page)} <= {round(value, 1)}
    assert numbers["coregistration"]["check_points"] == result.count
    assert ("took no part in the fit" in page) is (result.count > 0 and result.verdict != "off")
    shift = data.coregistration.shift_m
    assert ("Shift of the scene" in page) is (shift is not None)


def test_every_check_is_made_or_shown_as_not_made(written) -> None:
    data, page, _ = written
    keys = {finding.key: finding for finding in data.verdict.findings}
    for threshold in THRESHOLDS:
        if threshold.key in data.scores:
            assert (data.scores[threshold.key] is None) is (keys[threshold.key].level == "not made")
    unmade = [finding for finding in data.verdict.findings if finding.level == "not made"]
    assert not (unmade and data.verdict.level == "good")
    assert ("All" in data.verdict.summary) is all(f.level == "good" for f in data.verdict.findings)
    assert page.count("? not made") >= len(unmade)
    for surface in data.verdict.surfaces:
        assert surface.text in page


def test_the_five_verdicts() -> None:
    levels = {name: data.verdict.level for name, data in cases().items()}
    care = "usable with care"
    assert levels == {
        "good": "good", "changed pair": "failed", "few bands": care, "no pure pixels": care, "not co-registered": care,
        "rejected": "failed",
    }  # fmt: skip
