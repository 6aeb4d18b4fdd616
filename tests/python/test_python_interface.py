"""The Python face: names, typed settings, errors in Python's words, DataArrays, reports and progress in notebooks."""

from __future__ import annotations

import inspect
import json
import sys
import types
import typing

import numpy as np
import pytest
import xarray as xr

import hsfuse
from hsfuse.config import RunConfig
from hsfuse.errors import HsfuseError, InputError, UsageError
from hsfuse.progress import NotebookProgress, SilentProgress, Step, expect, progress_here
from hsfuse.workflows.python.settings import RunSettings
from hsfuse.workflows.python.words import in_python

NM = np.linspace(450.0, 2300.0, 30)


def test_the_module_lists_what_it_offers() -> None:
    assert {"open", "fuse", "fuse_scene", "report", "Resources", "HsfuseError"} <= set(dir(hsfuse))
    for name in dir(hsfuse):
        assert getattr(hsfuse, name).__doc__, name
        assert name.startswith("__") or f"``{name}``" in (hsfuse.__doc__ or "")


def test_settings_of_editors_are_those_of_a_run() -> None:
    hints = typing.get_type_hints(RunSettings)
    assert set(hints) == set(RunConfig.model_fields)
    parameters = inspect.signature(hsfuse.fuse_scene).parameters
    for name, field in RunConfig.model_fields.items():
        assert parameters[name].default == field.default
        assert f"\n{name} : " in (hsfuse.fuse_scene.__doc__ or "")
        missing = set(typing.get_args(field.annotation)) - set(typing.get_args(hints[name]))
        assert not missing or missing <= {field.annotation}, name


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Choose another name, or add --overwrite to replace it.", "add overwrite=True to replace"),
        ("or leave the report out with --no-report.", "with report=False."),
        ("Start anew without --resume.", "anew without resume."),
        ("or use --coregister off if the images are aligned.", 'use coregister="off" if'),
        ("Use --method glp, or give weights.", 'Use method="glp", or'),
        ("Use --max-memory or a smaller --tile.", "Use max_memory or a smaller tile."),
        ("--min-confidence needs --quality fast, standard or best", 'needs quality="fast", standard'),
        ("Say so with --aoi-crs EPSG:4326; the order", 'with aoi_crs="EPSG:4326"; the'),
        ("Use --bands FILE, a list", "Use bands=FILE, a list"),
        ("Option 'window-px': too small.", "Setting 'window_px': too small."),
        ("See `hsfuse run --help`; names with underscores.", "See help(hsfuse.fuse_scene)."),
        ("Say --tensorboard elsewhere.", "Say --tensorboard elsewhere."),
    ],
)  # fmt: skip
def test_hints_name_keyword_arguments(sentence: str, expected: str) -> None:
    assert expected in in_python(sentence)


def test_errors_show_their_hint_in_the_traceback(tmp_path) -> None:
    output = tmp_path / "o.tif"
    output.write_bytes(b"somebody's")
    with pytest.raises(HsfuseError) as caught:
        hsfuse.fuse_scene("a.he5", "b.SAFE", output)
    assert "overwrite=True" in caught.value.hint
    assert caught.value.__notes__ == [f"Hint: {caught.value.hint}"]
    with pytest.raises(UsageError, match="Setting 'overwritten'") as unknown:
        hsfuse.fuse_scene("a.he5", "b.SAFE", output, overwritten=True)
    assert "Did you mean 'overwrite'?" in unknown.value.hint
    with pytest.raises(UsageError, match="needs ratio"):
        hsfuse.fuse(np.ones((3, 4, 4)), np.ones((4, 12, 12)), wavelengths_nm=[1, 2, 3])


def images() -> tuple[xr.DataArray, xr.DataArray]:
    """An aligned pair of 24 x 24 and 72 x 72 pixels with coordinates."""
    rng = np.random.default_rng(0)
    fine = rng.random((4, 72, 72)).astype(np.float32)
    y, x = 5_000_000.0 - 10.0 * np.arange(72), 500_000.0 + 10.0 * np.arange(72)
    msi = xr.DataArray(
        fine, {"band": ["B02", "B03", "B04", "B08"], "y": y, "x": x, "spatial_ref": 0}, ("band", "y", "x")
    ).assign_coords(wavelength=("band", [490.0, 560.0, 665.0, 842.0]), fwhm=("band", [65.0, 35.0, 30.0, 106.0]))
    low = fine.reshape(4, 24, 3, 24, 3).mean(axis=(2, 4))
    cube = np.stack([low[i * 4 // NM.size] for i in range(NM.size)]) + 0.01 * rng.random((NM.size, 24, 24))
    hsi = xr.DataArray(
        cube.astype(np.float32), {"wavelength": NM, "y": y.reshape(24, 3).mean(1), "x": x.reshape(24, 3).mean(1)},
        ("wavelength", "y", "x"), attrs={"sensor": "PRISMA"},
    ).assign_coords(fwhm=("wavelength", np.full(NM.size, 10.0)))  # fmt: skip
    return hsi, msi


def test_data_arrays_tell_ratio_and_wavelengths_and_come_back() -> None:
    hsi, msi = images()
    fused = hsfuse.fuse(hsi.transpose("y", "x", "wavelength"), msi, method="gsa", quality="plain")
    assert isinstance(fused, xr.DataArray)
    assert fused.dims == ("wavelength", "y", "x")
    assert fused.shape == (NM.size, 72, 72)
    xr.testing.assert_equal(fused.x, msi.x)
    assert {"fwhm", "spatial_ref"} <= set(fused.coords)
    assert fused.attrs["sensor"] == "PRISMA"
    plain = hsfuse.fuse(hsi.values, msi.values, ratio=3, wavelengths_nm=NM, method="gsa", quality="plain")
    assert isinstance(plain, np.ndarray)
    np.testing.assert_allclose(fused.values, plain, atol=0.05)
    assert float(fused.sel(wavelength=850, method="nearest").mean()) > 0


def test_data_arrays_that_do_not_nest_are_refused() -> None:
    hsi, msi = images()
    with pytest.raises(UsageError, match="do not nest") as caught:
        hsfuse.fuse(hsi.assign_coords(x=hsi.x + 7.0), msi, method="gsa")
    assert "fuse_scene" in caught.value.hint
    with pytest.raises(UsageError, match="dimensions"):
        hsfuse.fuse(hsi.rename(y="lat"), msi, method="gsa")


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rioxarray", None)
    with pytest.raises(UsageError, match="needs xarray") as caught:
        hsfuse.open("prisma.he5")
    assert "hsfuse[xarray]" in caught.value.hint


def test_a_report_shows_itself_in_a_notebook(tmp_path) -> None:
    cube = tmp_path / "out.tif"
    (tmp_path / "out.report.html").write_text('<p class="a">It\'s & fine</p>', encoding="utf-8")
    with pytest.raises(InputError, match="no report"):
        hsfuse.report(cube)
    values = {"verdict": {"level": "good", "advice": "Use it."}, "scores": {"qnr": 0.9}}
    (tmp_path / "out.qa.json").write_text(json.dumps(values), encoding="utf-8")
    found = hsfuse.report(cube)
    assert (found.verdict, found.advice, found.scores) == ("good", "Use it.", {"qnr": 0.9})
    shown = found._repr_html_()
    assert shown.startswith("<iframe")
    assert "&lt;p class=&quot;a&quot;&gt;It&#x27;s &amp;amp; fine" in shown.replace("&amp; fine", "&amp;amp; fine")
    assert hsfuse.report(tmp_path / "out.report.html").path == found.path


def test_progress_shows_below_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def display(text: str, *, display_id: bool) -> types.SimpleNamespace:
        assert display_id
        shown.append(text)
        return types.SimpleNamespace(update=shown.append)

    shell = types.SimpleNamespace(kernel=object())
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    screen = types.ModuleType("IPython.display")
    screen.HTML, screen.display = str, display  # type: ignore[attr-defined]
    with progress_here(None) as nothing:
        assert isinstance(nothing, SilentProgress)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", screen)
    with progress_here(None) as bar:
        assert isinstance(bar, NotebookProgress)
        expect(bar, [Step("open", "read <headers>", 1.0), Step("fuse", "", 9.0)])
        with bar.stage("open") as stage:
            stage.advance()
    assert "1/2 open: read &lt;headers&gt;" in shown[0]
    assert "max='1'" in shown[-1]
