from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qa_builders import CENTRE_NM, coregistration, spectrum

from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.result import CoregistrationResult
from hsfuse.grid import Bounds
from hsfuse.qa.coregistration import diagnose
from hsfuse.qa.pixels import KINDS, PurePixel
from hsfuse.qa.spectra import compare_spectrum
from hsfuse.qa.surfaces import check_surfaces
from hsfuse.qa.verdict import Threshold, judge, thresholds_for

GOOD = {
    "qnr": 0.93, "d_lambda": 0.03, "d_s": 0.04, "hsi_rmse": 0.004, "hsi_sam_deg": 0.8, "msi_rmse": 0.01,
    "seam_ratio": 1.0,
}  # fmt: skip


EVERYWHERE = dict.fromkeys(KINDS, 0.25)
NOWHERE = dict.fromkeys(KINDS, 0.0)


def pixel(kind, change=0.0, purity=0.8, offset=0.0):
    """A pure pixel whose fused spectrum is tilted by ``change`` and moved by ``offset``."""
    hsi = spectrum(kind)
    tilt = 1.0 + change * np.linspace(-1, 1, CENTRE_NM.size)
    return compare_spectrum(PurePixel(kind, 1, 1, purity), CENTRE_NM, hsi, (hsi * tilt + offset)[:, None, None])


def good_surfaces():
    return check_surfaces([pixel(kind, 0.01) for kind in KINDS], EVERYWHERE)


def test_a_good_run_is_good_and_says_why():
    verdict = judge(GOOD, coregistration=diagnose(coregistration()), coverage=0.8, surfaces=good_surfaces())
    assert verdict.level == "good"
    assert verdict.summary == "All 16 checks are good."
    assert verdict.advice == "This cube can be used over vegetation, soil, water and built-up."
    assert any("alignment was accepted" in reason for reason in verdict.reasons)


def test_the_worst_finding_decides_and_stands_first():
    verdict = judge(GOOD | {"hsi_rmse": 0.02, "qnr": 0.4}, coregistration=diagnose(coregistration()))
    assert verdict.level == "failed"
    assert verdict.findings[0].key == "qnr"
    assert verdict.summary == "Of 11 checks, 1 failed and 1 asked for care."
    assert verdict.advice == "Do not use this cube for measurements."
    assert len(verdict.reasons) == 2
    assert all("good is" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("verdict", "level"),
    [("accepted", "good"), ("global only", "usable with care"), ("off", "usable with care"), ("rejected", "failed")],
)
def test_the_co_registration_verdict_counts(verdict, level):
    assert judge(GOOD, coregistration=diagnose(coregistration(verdict))).level == level


def test_a_rejected_alignment_is_not_judged_by_its_numbers():
    labels = [f.key for f in judge(GOOD, coregistration=diagnose(coregistration("rejected"))).findings]
    assert "coregistration_rmse_m" not in labels


def test_a_large_alignment_error_asks_for_care():
    verdict = judge(GOOD, coregistration=diagnose(replace(coregistration(), rmse_m=9.0)))
    assert verdict.level == "usable with care"
    assert "9.0 m" in verdict.reasons[0]


def test_an_alignment_without_check_points_was_not_tested():
    verdict = judge(GOOD, coregistration=diagnose(replace(coregistration(), count=0)))
    assert verdict.level == "usable with care"
    (finding,) = [f for f in verdict.findings if f.level == "not made"]
    assert finding.key == "coregistration_count"
    assert "not tested on check points" in finding.text


def test_an_alignment_that_was_not_checked_is_shown_as_not_made():
    verdict = judge(GOOD, coregistration=diagnose(CoregistrationResult.off()))
    assert verdict.level == "usable with care"
    assert verdict.findings[0].level == "not made"
    assert verdict.findings[0].label == "Co-registration"


def test_a_field_that_is_mostly_extrapolated_asks_for_care():
    wide = diagnose(coregistration(), Bounds(500_000, 4_990_000, 600_000, 5_020_000))
    verdict = judge(GOOD, coregistration=wide)
    assert verdict.level == "usable with care"
    assert "extrapolated, not measured" in verdict.reasons[0]
    shift = diagnose(coregistration("global only", DisplacementField.shift(3, 4)), Bounds(0, 0, 1e6, 6e6))
    assert "coregistration_extrapolated" not in [f.key for f in judge(GOOD, coregistration=shift).findings]


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_check_that_could_not_be_made_is_shown_and_keeps_the_verdict_from_good(value):
    verdict = judge(GOOD | {"msi_rmse": value}, not_made={"msi_rmse": "the responses are not known"})
    assert verdict.level == "usable with care"
    assert verdict.summary == "Of 7 checks, 1 could not be made."
    assert verdict.reasons == (
        "Consistency with the MSI (RMSE): not checked, because the responses are not known.",
    )  # fmt: skip
    assert verdict.findings[0].level == "not made"
    assert "seam_ratio" not in [f.key for f in judge({"qnr": 0.9}).findings]


def test_water_with_seventeen_degrees_is_not_good():
    """The mean over other surfaces used to hide it."""
    surfaces = check_surfaces([*[pixel(kind, 0.01) for kind in KINDS], pixel("water", 0.95)], EVERYWHERE)
    water = next(s for s in surfaces if s.kind == "water")
    assert water.angle_deg > 8.0
    verdict = judge(GOOD, surfaces=surfaces)
    assert verdict.level == "usable with care"
    assert "spectra over water changed" in verdict.advice
    assert verdict.findings[0].key == "surface:water"


def test_negative_reflectance_is_not_good_even_where_the_angle_is():
    surfaces = check_surfaces([pixel("water", 0.01, offset=-0.0065)], NOWHERE)
    water = next(s for s in surfaces if s.kind == "water")
    assert water.negative_bands > 10
    assert water.level == "usable with care"
    assert "made negative" in water.text


def test_one_failed_surface_does_not_make_the_cube_fail_and_all_do():
    some = check_surfaces([pixel("soil", 0.01), pixel("vegetation", 0.9)], EVERYWHERE)
    verdict = judge(GOOD, surfaces=some)
    assert verdict.level == "usable with care"
    assert "do not use it over vegetation" in verdict.advice
    assert "nothing is known over water and built-up" in verdict.advice
    every = check_surfaces([pixel("vegetation", 0.9)], NOWHERE)
    assert judge(GOOD, surfaces=every).level == "failed"


def test_without_pure_pixels_nothing_is_called_good():
    for shares in (EVERYWHERE, NOWHERE, dict.fromkeys(KINDS)):
        verdict = judge(GOOD, surfaces=check_surfaces([], shares))
        assert verdict.level == "usable with care"
        assert "All" not in verdict.summary
        assert any(f.level == "not made" for f in verdict.findings)


@pytest.mark.parametrize(
    ("spectra", "share", "level", "text"),
    [
        ([], 0.0, "not in the scene", "not in the scene"),
        ([], 0.2, "not made", "20.0 % of the scene"),
        ([], None, "not made", "bands cannot tell"),
        ([pixel("soil", purity=0.2)], 0.2, "not made", "low purity"),
        ([pixel("soil", 0.001)], 0.2, "good", "1 pure pixel."),
    ],
)
def test_why_a_surface_was_not_judged(spectra, share, level, text):
    soil = next(s for s in check_surfaces(spectra, {"soil": share}) if s.kind == "soil")
    assert soil.level == level
    assert text in soil.text


def test_no_score_at_all_is_not_called_good():
    assert judge({}).level == "usable with care"
    assert judge({}, coverage=0.9).level == "usable with care"


def test_warnings_and_the_users_own_limit():
    verdict = judge(GOOD, warnings=["The products are 3 years apart"])
    assert verdict.level == "usable with care"
    assert verdict.reasons == ("The products are 3 years apart.",)
    assert judge(GOOD, min_qnr=0.95).level == "failed"
    assert judge(GOOD, min_qnr=0.9).level == "good"
    assert judge({}, min_qnr=0.9).level == "failed"


def test_nothing_valid_is_a_failure():
    assert judge(GOOD, coverage=0.0).level == "failed"


def test_thresholds_are_data():
    strict = [replace(t, care=0.95) if t.key == "qnr" else t for t in thresholds_for()]
    assert judge(GOOD, thresholds=strict).level == "usable with care"
    scaled = {t.key: t for t in thresholds_for(60.0)}
    plain = {t.key: t for t in thresholds_for()}
    assert scaled["coregistration_rmse_m"].care == 2 * plain["coregistration_rmse_m"].care
    assert scaled["qnr"] == plain["qnr"]


@given(a=st.floats(-10, 10), b=st.floats(-10, 10))
def test_a_better_value_never_grades_worse(a, b):
    order = ["good", "usable with care", "failed"]
    low, high = min(a, b), max(a, b)
    lower = Threshold("x", "x", "lower", 1.0, 2.0, "")
    higher = Threshold("x", "x", "higher", 1.0, -1.0, "")
    assert order.index(lower.grade(low)) <= order.index(lower.grade(high))
    assert order.index(higher.grade(high)) <= order.index(higher.grade(low))


def test_a_value_just_beyond_its_limit_is_not_printed_as_the_limit():
    (finding,) = [f for f in judge(GOOD | {"qnr": 0.84996}).findings if f.key == "qnr"]
    assert finding.level == "usable with care"
    assert (finding.value, finding.limit) == ("0.84996", "at least 0.85000")
