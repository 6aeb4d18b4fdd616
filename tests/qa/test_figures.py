from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from qa_builders import CENTRE_NM, ConstantField, coregistration

from hsfuse.grid import Bounds
from hsfuse.qa import style
from hsfuse.qa.coregistration_plots import error_figure, vector_figure, view_coregistration
from hsfuse.qa.plots import band_figure, band_rows, curve_figure

PNG = b"\x89PNG\r\n\x1a\n"


def band_table():
    return [
        {"slot": i, "centre_nm": nm, "fwhm_nm": 10.0, "kept": i % 3 > 0, "snr": 100.0 - i,
         "reason": "kept" if i % 3 > 0 else f"SNR {i} below 20", "detector": "VNIR" if nm < 950 else "SWIR"}
        for i, nm in enumerate(np.arange(410.0, 2490.0, 40.0))
    ]  # fmt: skip


def test_points_are_sorted_into_used_rejected_and_check():
    result = coregistration()
    view = view_coregistration(result)
    assert len(view.used) == int(result.tie_points.used.sum())
    assert len(view.rejected) == int((~result.tie_points.used).sum()) > 0
    assert len(view.check) == result.count
    assert np.median(view.rejected.residual_m) > 50 > np.median(view.used.residual_m)
    assert np.sqrt(np.mean(view.check.residual_m**2)) == pytest.approx(result.rmse_m)


def test_points_may_also_be_a_sequence_of_objects():
    result = coregistration()
    arrays = result.tie_points
    result.tie_points = [
        SimpleNamespace(x=x, y=y, dx_m=dx, dy_m=dy, used=used)
        for x, y, dx, dy, used in zip(arrays.x, arrays.y, arrays.dx_m, arrays.dy_m, arrays.used, strict=True)
    ]
    view = view_coregistration(result)
    assert len(view.used) == int(arrays.used.sum())
    assert len(view.rejected) == int((~arrays.used).sum())


def test_the_field_is_sampled_over_the_scene():
    bounds = Bounds(500_000, 4_990_000, 536_000, 4_999_000)
    view = view_coregistration(coregistration(), bounds, samples=40)
    assert view.grid_x.shape == (10, 40)
    assert view.grid_x.min() > bounds.left
    assert view.grid_y[0, 0] > view.grid_y[-1, 0]
    np.testing.assert_allclose(view.grid_dx_m, coregistration().field.at(view.grid_x, view.grid_y)[0])


@pytest.mark.parametrize("count", [0, 1])
def test_results_without_points_have_no_figure(count):
    result = coregistration(count=20)
    empty = SimpleNamespace(x=[], y=[], dx_m=[], dy_m=[])
    result.check_points = empty
    result.tie_points = empty if count else None
    assert view_coregistration(result) is None


def test_co_registration_figures_are_drawn_and_alike_every_time():
    result = coregistration()
    view = view_coregistration(result)
    first, second = (style.to_png(vector_figure(view)) for _ in range(2))
    assert first.startswith(PNG)
    assert first == second
    figure = error_figure(view, rmse_m=result.rmse_m, ce90_m=result.ce90_m, p95_m=result.p95_m)
    texts = [t.get_text() for axes in figure.axes for t in (*axes.texts, *(axes.get_legend().texts))]
    assert f"CE90 {result.ce90_m:.1f} m" in texts
    assert f"RMSE {result.rmse_m:.1f} m" in texts
    labels = " ".join(axes.get_xlabel() + axes.get_ylabel() for axes in figure.axes)
    assert labels.count("(m)") == 4


def test_a_constant_field_and_unknown_errors_can_be_drawn():
    view = view_coregistration(coregistration("global only", ConstantField()))
    assert style.to_png(vector_figure(view)).startswith(PNG)
    nan = float("nan")
    assert style.to_png(error_figure(view, rmse_m=nan, ce90_m=nan, p95_m=nan)).startswith(PNG)
    few = coregistration(count=6)
    assert error_figure(view_coregistration(few), rmse_m=1.0, ce90_m=2.0, p95_m=3.0) is None


def test_band_rows_from_mappings_and_objects_agree():
    table = band_table()
    objects = [SimpleNamespace(**{k: v for k, v in row.items() if k != "kept"}, selected=row["kept"]) for row in table]
    assert band_rows(table) == band_rows(objects)
    assert [row.centre_nm for row in band_rows(table[::-1])] == [row["centre_nm"] for row in table]
    assert band_rows([{"centre_nm": 500.0, "snr": np.nan}])[0].snr is None


@pytest.mark.parametrize(
    ("reason", "group"),
    [("SNR 12 below 20", "SNR"), ("absorption window (water)", "absorption window"), ("negative in 12 %", "negative"),
     ("stripes: energy 4.2", "stripes"), ("", "other"), ("12 nm", "other")],
)  # fmt: skip
def test_reasons_are_grouped_without_their_numbers(reason, group):
    assert band_rows([{"centre_nm": 500.0, "reason": reason}])[0].reason_group == group


@pytest.mark.parametrize("with_snr", [True, False])
def test_band_figure_counts_kept_and_dropped(with_snr):
    rows = band_rows([row if with_snr else row | {"snr": None} for row in band_table()])
    figure = band_figure(rows)
    texts = [text.get_text() for text in figure.legends[0].texts]
    kept = sum(row.kept for row in rows)
    assert texts == [f"kept: {kept}", f"SNR: {len(rows) - kept}"]
    assert len(figure.axes) == (2 if with_snr else 1)
    assert style.to_png(figure).startswith(PNG)


def test_many_reasons_share_a_colour():
    rows = band_rows([{"centre_nm": 500.0 + i, "kept": False, "reason": f"{'abcdefghij'[i]}x"} for i in range(10)])
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
