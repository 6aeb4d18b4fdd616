from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from qa_builders import CENTRE_NM, band, bending_field, coregistration

from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.result import CoregistrationResult
from hsfuse.grid import Bounds
from hsfuse.qa import style
from hsfuse.qa.coregistration import diagnose
from hsfuse.qa.coregistration_plots import error_figure, vector_figure
from hsfuse.qa.figures import coregistration_figures
from hsfuse.qa.plots import band_figure, band_rows, curve_figure

PNG = b"\x89PNG\r\n\x1a\n"


def band_table():
    return [
        band(nm, slot=i, kept=i % 3 > 0, snr=100.0 - i, reason="kept" if i % 3 > 0 else f"SNR {i} below 20",
             detector="VNIR" if nm < 950 else "SWIR")
        for i, nm in enumerate(np.arange(410.0, 2490.0, 40.0))
    ]  # fmt: skip


def test_points_are_sorted_into_used_rejected_and_check():
    result = coregistration()
    found = diagnose(result)
    assert len(found.used) == int(result.tie_points.used.sum())
    assert len(found.rejected) == int((~result.tie_points.used).sum()) > 0
    assert len(found.check) == result.count
    assert np.median(found.rejected.residual_m) > 50 > np.median(found.used.residual_m)
    assert np.sqrt(np.mean(found.check.residual_m**2)) == pytest.approx(result.rmse_m)


def test_the_field_is_sampled_over_the_scene():
    bounds = Bounds(500_000, 4_990_000, 536_000, 4_999_000)
    found = diagnose(coregistration(), bounds, samples=40)
    assert found.x.shape == (10, 40)
    assert found.x.min() > bounds.left
    assert found.y[0, 0] > found.y[-1, 0]
    np.testing.assert_allclose(found.dx_m, bending_field().at(found.x, found.y)[0])


def test_the_field_beyond_the_tie_points_is_extrapolated():
    bounds = Bounds(500_000, 4_990_000, 575_000, 5_020_000)
    found = diagnose(coregistration(), bounds)
    # The points cover the west; what lies up to three spacings (3.5 km) east of them still counts as measured.
    assert found.supported[:, found.x[0] < 529_000].all()
    assert not found.supported[:, found.x[0] > 545_000].any()
    assert 0.4 < found.extrapolated_share < 0.6
    texts = [text.get_text() for text in vector_figure(found).legends[0].texts]
    assert f"Extrapolated: {100 * found.extrapolated_share:.0f} %" in texts
    assert diagnose(coregistration("global only", DisplacementField.shift(1, 2)), bounds).extrapolated_share is None


def test_results_without_points_have_no_figure():
    found = diagnose(CoregistrationResult.off(), Bounds(0, 0, 100, 100))
    assert not found.has_points
    assert found.shift_m is None
    assert coregistration_figures(found) == coregistration_figures(None) == []


def test_a_rejected_alignment_shows_measurements_and_no_field():
    figure = vector_figure(found := diagnose(coregistration("rejected", DisplacementField.zero())))
    assert [axes.get_title("left") for axes in figure.axes if axes.get_title("left")] == [
        "Displacement measured (nothing was moved)"
    ]
    assert error_figure(found) is None
    assert [f.title for f in coregistration_figures(found)] == ["Measured displacement"]


def test_co_registration_figures_are_drawn_and_alike_every_time():
    result = coregistration()
    found = diagnose(result)
    first, second = (style.to_png(vector_figure(found)) for _ in range(2))
    assert first.startswith(PNG)
    assert first == second
    figure = error_figure(found)
    texts = [t.get_text() for axes in figure.axes for t in (*axes.texts, *(axes.get_legend().texts))]
    assert f"CE90 {result.ce90_m:.1f} m" in texts
    assert f"RMSE {result.rmse_m:.1f} m" in texts
    labels = " ".join(axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes)
    assert labels.count("(m)") == 4


def test_a_constant_field_and_unknown_errors_can_be_drawn():
    result = coregistration("global only", DisplacementField.shift(30.0, 0.0))
    assert style.to_png(vector_figure(diagnose(result))).startswith(PNG)
    nan = float("nan")
    unknown = replace(result, rmse_m=nan, ce90_m=nan, p95_m=nan)
    assert style.to_png(error_figure(diagnose(unknown))).startswith(PNG)
    assert error_figure(diagnose(coregistration(count=6))) is None


def test_band_rows_are_sorted_and_unmeasured_noise_is_left_out():
    table = band_table()
    assert [row.centre_nm for row in band_rows(table[::-1])] == [row.centre_nm for row in table]
    assert band_rows([band(500.0)])[0].snr is None


@pytest.mark.parametrize(
    ("reason", "group"),
    [("SNR 12 below 20", "SNR"), ("absorption window (water)", "absorption window"), ("negative in 12 %", "negative"),
     ("stripes: energy 4.2", "stripes"), ("", "other"), ("12 nm", "other")],
)  # fmt: skip
def test_reasons_are_grouped_without_their_numbers(reason, group):
    assert band_rows([band(500.0, reason=reason)])[0].reason_group == group


@pytest.mark.parametrize("with_snr", [True, False])
def test_band_figure_counts_kept_and_dropped(with_snr):
    rows = band_rows([row if with_snr else replace(row, snr=float("nan")) for row in band_table()])
    figure = band_figure(rows)
    texts = [text.get_text() for text in figure.legends[0].texts]
    kept = sum(row.kept for row in rows)
    assert texts == [f"kept: {kept}", f"SNR: {len(rows) - kept}"]
    assert len(figure.axes) == (2 if with_snr else 1)
    assert style.to_png(figure).startswith(PNG)


def test_many_reasons_share_a_colour():
    rows = band_rows([band(500.0 + i, kept=False, reason=f"{'abcdefghij'[i]}x") for i in range(10)])
    texts = [text.get_text() for text in band_figure(rows).legends[0].texts]
    assert texts[0] == "kept: 0"
    assert texts[-1] == "other: 4"


def test_curves_with_gaps_nan_and_odd_names():
    values = np.linspace(20, 40, CENTRE_NM.size)
    holed = values.copy()
    holed[3:6] = np.nan
    figure = curve_figure(CENTRE_NM, {"a $\\frac{": values, "方法": holed}, ylabel="PSNR (dB)", title="<b>")
    assert style.to_png(figure).startswith(PNG)


def test_figures_leave_no_trace_in_matplotlib(monkeypatch):
    monkeypatch.setitem(mpl.rcParams, "axes.facecolor", "red")
    before = dict(mpl.rcParams)
    figure = curve_figure(CENTRE_NM, {"a": CENTRE_NM}, ylabel="", title="")
    style.to_png(figure)
    assert dict(mpl.rcParams) == before
    assert figure.axes[0].get_facecolor() == (1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize(("value", "length"), [(0.0, 1.0), (1.0, 1.0), (4.9, 2.0), (70.0, 50.0), (0.03, 0.02)])
def test_arrow_keys_have_round_lengths(value, length):
    assert style.nice_length(value) == pytest.approx(length)


def test_importing_is_cheap_and_pyplot_never_loaded():
    code = (
        "import sys\n"
        "import hsfuse.qa.report, hsfuse.qa.compare_report, hsfuse.qa.figures\n"
        "assert not {'matplotlib', 'jinja2', 'torch'} & set(sys.modules)\n"
        "import numpy as np\n"
        "from hsfuse.qa import style\n"
        "from hsfuse.qa.plots import curve_figure\n"
        "style.to_png(curve_figure(np.array([500.0, 510.0]), {'a': np.ones(2)}, ylabel='', title=''))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
