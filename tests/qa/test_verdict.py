from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qa_builders import coregistration

from hsfuse.qa.verdict import THRESHOLDS, Threshold, judge, thresholds_for

GOOD = {
    "qnr": 0.93, "d_lambda": 0.03, "d_s": 0.04, "hsi_rmse": 0.004, "hsi_sam_deg": 0.8, "msi_rmse": 0.01,
    "pure_pixel_sam_deg": 0.7, "seam_ratio": 1.0,
}  # fmt: skip


def test_a_good_run_is_good_and_says_why():
    verdict = judge(GOOD, coregistration=coregistration(), coverage=0.8)
    assert verdict.level == "good"
    assert verdict.summary.startswith("All 12 checks")
    assert any("alignment was accepted" in reason for reason in verdict.reasons)


def test_the_worst_finding_decides_and_stands_first():
    verdict = judge(GOOD | {"hsi_rmse": 0.02, "qnr": 0.4}, coregistration=coregistration())
    assert verdict.level == "failed"
    assert verdict.findings[0].key == "qnr"
    assert verdict.summary == "Of 11 checks, 1 failed and 1 asked for care."
    assert len(verdict.reasons) == 2
    assert all("good is" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(
    ("verdict", "level"),
    [("accepted", "good"), ("global only", "usable with care"), ("off", "usable with care"), ("rejected", "failed")],
)
def test_the_co_registration_verdict_counts(verdict, level):
    assert judge(GOOD, coregistration=coregistration(verdict)).level == level


def test_a_rejected_alignment_is_not_judged_by_its_numbers():
    labels = [f.key for f in judge(GOOD, coregistration=coregistration("rejected")).findings]
    assert "coregistration_rmse_m" not in labels


def test_a_large_alignment_error_asks_for_care():
    result = coregistration()
    result.rmse_m = 9.0
    verdict = judge(GOOD, coregistration=result)
    assert verdict.level == "usable with care"
    assert "9.0 m" in verdict.reasons[0]


def test_missing_scores_are_not_judged_and_nan_asks_for_care():
    assert judge({"qnr": 0.9, "d_s": None}).level == "good"
    verdict = judge({"qnr": float("nan")})
    assert verdict.level == "usable with care"
    assert "could not be computed" in verdict.reasons[0]


def test_no_score_at_all_is_not_called_good():
    assert judge({}).level == "usable with care"
    assert judge({}, coverage=0.9).level == "usable with care"


def test_warnings_and_wishes():
    verdict = judge(GOOD, warnings=["The products are 3 years apart"])
    assert verdict.level == "usable with care"
    assert verdict.reasons == ("The products are 3 years apart.",)
    assert judge(GOOD, min_qnr=0.95).level == "failed"
    assert judge(GOOD, min_qnr=0.9).level == "good"
    assert judge({}, min_qnr=0.9).level == "failed"


def test_nothing_valid_is_a_failure():
    assert judge(GOOD, coverage=0.0).level == "failed"


def test_thresholds_are_data():
    strict = [replace(t, care=0.95) if t.key == "qnr" else t for t in THRESHOLDS]
    assert judge(GOOD, thresholds=strict).level == "usable with care"
    scaled = {t.key: t for t in thresholds_for(60.0)}
    plain = {t.key: t for t in THRESHOLDS}
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
