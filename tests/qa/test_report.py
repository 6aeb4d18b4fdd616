from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from qa_builders import CENTRE_NM, WATER_WINDOWS, band, coregistration, patch_scene, product_info, spectrum
from rasterio.crs import CRS

from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.result import CoregistrationResult, TiePoints
from hsfuse.errors import OutputError, UsageError
from hsfuse.grid import Bounds, Grid
from hsfuse.outputs import marked_png
from hsfuse.qa import style
from hsfuse.qa.change import ChangeView, change_figures
from hsfuse.qa.compare_report import CompareData, MethodResult, score_rows, write_compare_report
from hsfuse.qa.coregistration import diagnose
from hsfuse.qa.coregistration_plots import vector_figure
from hsfuse.qa.dates import DatesView
from hsfuse.qa.figures import (
    FigureQueue,
    alignment_figures,
    band_figures,
    consistency_figures,
    coregistration_figures,
    detail_figures,
    make_figures,
    quicklook_figures,
    scale_bar,
    seam_figures,
    spectra_figures,
)
from hsfuse.qa.page import picture_folder
from hsfuse.qa.pixels import PurePixel
from hsfuse.qa.plain import to_plain, write_json
from hsfuse.qa.plots import MsiBandError, spectra_figure
from hsfuse.qa.quicklook import alignment_view, composites, detail_pairs
from hsfuse.qa.report import write_report
from hsfuse.qa.report_data import ReportData
from hsfuse.qa.scores import score_text
from hsfuse.qa.seams import measure_seams
from hsfuse.qa.sources import ArraySource
from hsfuse.qa.spectra import compare_pixels, compare_spectrum
from hsfuse.qa.surfaces import check_surfaces
from hsfuse.qa.verdict import judge
from hsfuse.readers.source_dates import SourceDate

HOSTILE = '"><script>alert(1)</script><img src="https://evil.example/x.png" onerror=alert(2)> $\\frac{ \' {{ 7*7 }} 方'


class Page(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.script = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.script += data
        elif self._inside != "style":
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def full_report() -> ReportData:
    coarse, _ = patch_scene()
    fine = np.repeat(np.repeat(coarse, 3, axis=1), 3, axis=2)
    truth = spectrum("soil")
    spectra = [compare_spectrum(PurePixel("soil", 5, 6, 0.9), CENTRE_NM, truth, truth[:, None, None] + 0.01)]
    scores = {"qnr": 0.92, "d_lambda": 0.03, "hsi_rmse": 0.004, "q2n": None, "d_s": float("nan"), "odd_score": 1.5}
    result = diagnose(coregistration())
    after = ArraySource(fine, CENTRE_NM)
    detail = fine[:3, :40, :40]
    return ReportData(
        product="out.tif", verdict=judge(scores, coregistration=result, coverage=0.9), method="glp",
        method_reason="No network was proven better.", facts={"Size": "180 x 192"},
        inputs={
            "HSI": product_info(
                start=datetime(2024, 4, 2, 10, 28, 37, tzinfo=UTC), sun_zenith_deg=49.3, warnings=("old calibration",)
            ),
            "MSI": product_info(
                "S2B.SAFE", sensor="Sentinel-2B", level="2A", start=datetime(2024, 4, 5, 22, 40, tzinfo=UTC)
            ),
        },
        coregistration=result, alignment=alignment_view(detail, detail, detail, caption="red"), scores=scores,
        centre_nm=CENTRE_NM, consistency={"RMSE": np.full(CENTRE_NM.size, 0.004)}, spectra=spectra,
        quicklooks=composites(after), details=detail_pairs(ArraySource(coarse, CENTRE_NM), after, 3, side_px=16),
        bands=[band(nm, kept=i % 2 == 0, reason="thinned" if i % 2 else "kept") for i, nm in enumerate(CENTRE_NM)],
        dropped_nm=WATER_WINDOWS,
        seams=measure_seams(lambda block: fine[:, *block.slices], fine.shape[1:], [90], [90], ratio=3),
        seconds={"open": 1.5, "fuse": 70.0}, peak_memory_bytes=1.5e9,
        configuration={"method": "auto", "tile": None, "clip": True}, versions={"hsfuse": "0.1"}, notes=["a note"],
    )  # fmt: skip


@pytest.mark.parametrize("processes", [0, 1])
def test_pictures_that_were_drawn_beside_other_work_are_the_same(tmp_path, processes):
    report = full_report()
    with FigureQueue(processes) as queue:
        queue.draw(band_figures, report.bands)
        queue.draw(coregistration_figures, report.coregistration)
        queue.draw(consistency_figures, report.centre_nm, report.consistency, (), report.dropped_nm)
        queue.draw(spectra_figures, report.spectra, report.dropped_nm)
        queue.draw(quicklook_figures, report.quicklooks)
        queue.draw(detail_figures, report.details)
        queue.draw(alignment_figures, report.alignment)
        queue.draw(seam_figures, report.seams)
        drawn = queue.finished()
    early = write_report(tmp_path / "early.report.html", report, drawn).read_text(encoding="utf-8")
    assert early == write_report(tmp_path / "late.report.html", report).read_text(encoding="utf-8")


@pytest.mark.parametrize("processes", [0, 1])
def test_a_picture_that_cannot_be_drawn_is_an_error_where_the_report_is_written(processes):
    with FigureQueue(processes) as queue:
        queue.draw(spectra_figures, [None])
        with pytest.raises(AttributeError):
            queue.finished()


def test_pictures_are_drawn_here_when_the_process_that_draws_them_dies(caplog):
    report = full_report()
    with FigureQueue(1) as queue:
        queue._started[0]._process.kill()
        queue.draw(band_figures, report.bands)
        queue.draw(consistency_figures, report.centre_nm, report.consistency, (), report.dropped_nm)
        assert [figure.key for figure in queue.finished()] == ["bands", "consistency"]
    assert caplog.text.count("has ended") == 1


def test_the_whole_report(tmp_path):
    path = tmp_path / "out.report.html"
    assert write_report(path, full_report()) == path
    page = Page(path.read_text(encoding="utf-8"))
    images = page.all("img")
    files = sorted((tmp_path / "out.qa").glob("*.png"))
    assert len(images) == len(files) >= 14
    embedded = {base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) for image in images}
    # Only the files carry a note of who made them.
    assert {marked_png(image) for image in embedded} == {file.read_bytes() for file in files}
    assert all(image["alt"] for image in images)
    words = " ".join(page.text.split())
    assert words.index("Usable with care") < words.index("Summary")
    for expected in (
        "Made with glp. No network was proven better.", "PRISMA 2D", "2024-04-02 10:28:37 UTC", "old calibration",
        "Co-registration: accepted", "Shift of the scene (median)", "check points that took no part",
        "not computable", "not computed", "odd_score", "soil", "thinned", "1 min 10 s",
        "1.50 GB", "not set", "a note",
    ):  # fmt: skip
        assert expected in words
    assert not list(tmp_path.rglob("*.part"))


def test_the_page_needs_and_allows_nothing_from_outside(tmp_path):
    text = write_report(tmp_path / "a.html", full_report()).read_text(encoding="utf-8")
    page = Page(text)
    assert not [t for t, _ in page.tags if t in ("link", "iframe", "object", "base", "form", "video", "audio")]
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/png;base64,", "#"))
    assert "http" not in re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+|http-equiv", "", text)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_hostile_names_stay_text(tmp_path):
    report = full_report()
    truth = spectrum("soil")
    hostile = replace(
        report, product=HOSTILE, method=HOSTILE, method_reason=HOSTILE, facts={HOSTILE: HOSTILE},
        inputs={HOSTILE: product_info(HOSTILE, path=HOSTILE, warnings=(HOSTILE,))},
        verdict=judge({"qnr": 0.9}, warnings=[HOSTILE]), scores={HOSTILE: 1.0},
        consistency={HOSTILE: np.ones(CENTRE_NM.size)}, notes=[HOSTILE], configuration={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE}, seconds={HOSTILE: 1.0},
        spectra=[compare_spectrum(PurePixel("soil", 5, 6, 0.9), CENTRE_NM, truth, truth[:, None, None], label=HOSTILE)],
        bands=[band(500.0, reason=HOSTILE, detector=HOSTILE, kept=False)],
    )  # fmt: skip
    page = Page(write_report(tmp_path / "h.html", hostile).read_text(encoding="utf-8"))
    assert len(page.all("script")) == 1
    assert "alert" not in page.script
    assert all(image["src"].startswith("data:image/png") for image in page.all("img"))
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert page.text.count(HOSTILE) >= 12


def test_a_report_with_nothing_but_a_verdict(tmp_path):
    report = ReportData(product="x.tif", verdict=judge({}), method="bicubic")
    page = Page(write_report(tmp_path / "x.report.html", report).read_text(encoding="utf-8"))
    assert "Usable with care" in page.text
    assert not page.all("img")
    write_json(tmp_path / "x.qa.json", report)


@pytest.mark.parametrize("verdict", ["off", "rejected", "global only"])
def test_every_co_registration_verdict_can_be_shown(tmp_path, verdict):
    result = diagnose(CoregistrationResult(verdict, "Because of clouds", DisplacementField.zero()))
    report = ReportData(
        product="x", verdict=judge({"qnr": 0.9}, coregistration=result), method="glp", coregistration=result
    )
    page = Page(write_report(tmp_path / "x.html", report).read_text(encoding="utf-8"))
    assert f"Co-registration: {verdict}" in page.text
    assert "nan" not in page.text.replace("resonance", "")


def test_json_is_strict_and_holds_the_same_numbers(tmp_path):
    report = full_report()
    path = write_json(tmp_path / "out.qa.json", report)

    def forbidden(name):
        raise AssertionError(name)

    data = json.loads(path.read_text(encoding="utf-8"), parse_constant=forbidden)
    assert data["schema"] == "hsfuse-qa/1"
    assert data["verdict"]["level"] == report.verdict.level
    assert data["scores"]["qnr"] == 0.92
    assert data["scores"]["d_s"] is None
    assert data["coregistration"]["rmse_m"] == pytest.approx(report.coregistration.result.rmse_m, abs=1e-4)
    assert data["spectra"][0]["spectral_angle_deg"] == pytest.approx(report.spectra[0].spectral_angle_deg)
    assert len(data["bands"]) == CENTRE_NM.size
    assert data["inputs"]["HSI"]["path"] == "/data/a.he5"
    assert data["inputs"]["HSI"]["start"].startswith("2024-04-02T10:28:37")
    assert data["seconds"]["fuse"] == 70.0


def test_plain_values():
    value = {1: np.float32("inf"), "a": (np.int16(3), np.bool_(True), Path("b")), "c": np.array([1.0, np.nan])}
    assert to_plain(value) == {"1": None, "a": [3, True, "b"], "c": [1.0, None]}


def test_unwritable_places_are_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    report = ReportData(product="x", verdict=judge({}), method="glp")
    with pytest.raises(OutputError, match="cannot be written"):
        write_report(blocked / "x.report.html", report)
    with pytest.raises(OutputError, match="cannot be written"):
        write_json(blocked / "x.qa.json", report)


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
    path = tmp_path / "x.report.html"
    path.write_text("old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="No space left"):
        write_report(path, ReportData(product="x", verdict=judge({}), method="glp"))
    assert path.read_text() == "old"


@pytest.mark.parametrize(
    ("name", "folder"), [("out.report.html", "out.qa"), ("a.b.html", "a.b.qa"), ("plain", "plain.qa")]
)
def test_pictures_lie_in_a_folder_of_the_reports_name(name, folder):
    assert picture_folder(Path("/x") / name) == Path("/x") / folder


def comparison() -> CompareData:
    rng = np.random.default_rng(0)
    truth = spectrum("vegetation")

    def method(name, error, seconds):
        return MethodResult(
            name, f"{name} does it", {"psnr": 40 - 100 * error, "sam_deg": 50 * error, "seconds": seconds, "q2n": None},
            band_psnr=np.full(CENTRE_NM.size, 30.0), error_map=np.abs(rng.normal(0, error, (20, 30))),
            picture=rng.uniform(0, 0.4, (3, 20, 30)), spectra={"a field": truth * (1 + error)},
        )  # fmt: skip

    return CompareData(
        HOSTILE, [method("bicubic", 0.1, 0.1), method("glp", 0.02, 1.0), method(HOSTILE, 0.05, 9.0)],
        facts={"Ratio": 3}, centre_nm=CENTRE_NM, reference_picture=rng.uniform(0, 0.4, (3, 20, 30)),
        reference_spectra={"a field": truth}, notes=["quiet machine"],
    )  # fmt: skip


def test_a_comparison_marks_the_best_of_each_score():
    rows = {row.name: [cell.best for cell in row.cells] for row in score_rows(comparison())}
    assert rows["glp"] == [True, True, False, False]
    assert rows["bicubic"] == [False, False, True, False]


def test_scores_that_are_printed_alike_are_equally_good():
    """Once of two methods with 38.00 dB only the one with the better fifth digit was bold."""
    methods = [MethodResult(name, scores={"psnr": value}) for name, value in
               (("a", 38.001), ("b", 38.004), ("c", 30.0))]  # fmt: skip
    assert [row.cells[0].best for row in score_rows(CompareData("t", methods))] == [True, True, False]
    assert not any(row.cells[0].best for row in score_rows(CompareData("t", methods[:2])))


def test_scores_are_known_under_their_usual_names():
    assert score_text("PSNR") == score_text("psnr_db") == score_text("psnr")
    assert score_text("SAM").show(1.23456) == "1.235°"
    assert score_text("home_made").label == "home_made"
    assert score_text("PSNR").show(float("inf")) == "infinite"


def test_the_comparison_report(tmp_path):
    path = write_compare_report(tmp_path / "c.html", comparison())
    page = Page(path.read_text(encoding="utf-8"))
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == len(list((tmp_path / "c.qa").glob("*.png"))) == 7
    assert "38.00 dB" in page.text
    assert "Against a reference" in page.text
    data = json.loads(write_json(tmp_path / "c.json", comparison()).read_text())
    assert data["schema"] == "hsfuse-compare/1"
    assert data["methods"][1]["scores"]["psnr"] == pytest.approx(38.0)


def test_an_empty_comparison_is_refused_and_a_bare_one_shown(tmp_path):
    with pytest.raises(UsageError, match="at least one method"):
        write_compare_report(tmp_path / "c.html", CompareData("t", []))
    bare = CompareData("t", [MethodResult("glp", scores={"psnr": float("nan")})], with_reference=False)
    page = Page(write_compare_report(tmp_path / "c.html", bare).read_text(encoding="utf-8"))
    assert "Without a reference" in page.text


def small_report(result: CoregistrationResult, **values) -> ReportData:
    found = diagnose(result)
    return ReportData(
        product="x", verdict=judge({"qnr": 0.9}, coregistration=found), method="glp", coregistration=found, **values
    )


def words_of(path: Path) -> str:
    return " ".join(Page(path.read_text(encoding="utf-8")).text.split())


def test_no_check_points_are_claimed_where_there_are_none(tmp_path):
    """Once the page said "check points: 0" and "measured at check points that took no part in the fit" at once."""
    result = replace(coregistration(), count=0, check_points=TiePoints.empty())
    words = words_of(write_report(tmp_path / "x.html", small_report(result)))
    assert "took no part in the fit" not in words
    assert "too few check points to test them" in words
    assert "not tested on check points of its own" in words
    assert "Bias" not in words
    words = words_of(write_report(tmp_path / "y.html", small_report(coregistration())))
    assert f"{coregistration().count} check points that took no part in the fit" in words


def test_the_shift_in_table_figure_and_json_is_one_number(tmp_path):
    """Once the table showed the first guess of the matching and the figure the median of the field."""
    report = small_report(coregistration())
    east, north = report.coregistration.shift_m
    assert (round(east), round(north)) != tuple(map(round, report.coregistration.result.global_shift_m))
    page = words_of(write_report(tmp_path / "x.html", report))
    assert f"{east:.1f} m east, {north:.1f} m north".replace("-", "−") in page
    title = vector_figure(report.coregistration).axes[1].get_title("left")
    assert f"{style.number(east)} m E, {style.number(north)} m N" in title
    data = json.loads(write_json(tmp_path / "x.json", report).read_text())
    assert data["coregistration"]["shift_m"] == [pytest.approx(east), pytest.approx(north)]


def test_every_surface_stands_on_the_page_with_its_own_verdict(tmp_path):
    truth = spectrum("water")
    dark = compare_spectrum(PurePixel("water", 5, 6, 0.9), CENTRE_NM, truth, (truth - 0.0065)[:, None, None])
    surfaces = check_surfaces([dark], {"vegetation": 0.0, "soil": 0.3, "water": 0.1})
    verdict = judge({"qnr": 0.9}, surfaces=surfaces)
    report = ReportData(product="x", verdict=verdict, method="glp", spectra=[dark])
    words = words_of(write_report(tmp_path / "x.html", report))
    for surface in surfaces:
        assert surface.text in words
        assert surface.level in words
    assert verdict.advice in words
    # The angle of the verdict is the one of the table of pixels.
    assert words.count(f"{dark.spectral_angle_deg:.2f}°") >= 3


def test_extrapolated_parts_are_stated(tmp_path):
    found = diagnose(coregistration(), Bounds(500_000, 4_990_000, 575_000, 5_020_000))
    report = replace(small_report(coregistration()), coregistration=found)
    words = words_of(write_report(tmp_path / "x.html", report))
    assert f"{100 * found.extrapolated_share:.0f} % of the scene (extrapolated)" in words


def test_every_figure_says_how_to_read_it(tmp_path):
    figures = make_figures(full_report())
    assert all(figure.how and figure.drawing is not None for figure in figures if figure.section not in PHOTOGRAPHS)
    page = words_of(write_report(tmp_path / "x.html", full_report(), figures))
    assert page.count("How to read this") == len([f for f in figures if f.how])


PHOTOGRAPHS = ("quicklooks", "details", "alignment")


def test_drawings_are_written_in_other_formats_and_alike_every_time(tmp_path):
    figures = band_figures(full_report().bands)
    for name in ("a", "b"):
        write_report(tmp_path / f"{name}.html", full_report(), figures, ("png", "svg", "pdf"))
    for suffix in ("svg", "pdf"):
        first, second = ((tmp_path / f"{name}.qa" / f"bands.{suffix}").read_bytes() for name in "ab")
        assert first == second
        assert first.startswith(b"<?xml" if suffix == "svg" else b"%PDF")


def test_pictures_of_an_earlier_report_go_and_files_of_others_stay(tmp_path):
    report = full_report()
    write_report(tmp_path / "x.html", report, make_figures(report))
    (tmp_path / "x.qa" / "notes.png").write_text("mine")
    write_report(tmp_path / "x.html", report, band_figures(report.bands))
    assert sorted(path.name for path in (tmp_path / "x.qa").iterdir()) == ["bands.png", "notes.png"]


def test_the_methods_paragraph_holds_what_a_paper_needs(tmp_path):
    report = replace(
        full_report(), method_reference="Aiazzi 2006", psf="1.20 HSI pixels wide (FWHM), estimated",
        method_sentences=("The result was refined: in closed form.",),
    )  # fmt: skip
    words = words_of(write_report(tmp_path / "x.html", report, []))
    result = report.coregistration.result
    for expected in (
        "PRISMA 2D of 2024-04-02 10:28 UTC (PRS_L2D.he5) was fused with Sentinel-2B 2A", "acquired 3.5 days apart",
        f"RMSE {result.rmse_m:.1f} m, CE90 {result.ce90_m:.1f} m, tested on {result.count} check points",
        "bands between 430 and", "1.20 HSI pixels wide (FWHM), estimated", "glp (Aiazzi 2006) of hsfuse 0.1.",
        "The result was refined: in closed form.",
    ):  # fmt: skip
        assert expected in words
    assert "Days between the images3.5" in words


def test_pictures_have_a_scale_and_corners_and_missing_ones_are_explained(tmp_path):
    grid = Grid.from_origin(CRS.from_epsg(32632), 500_000.0, 5_000_000.0, 10.0, 180, 192)
    report = full_report()
    report = replace(report, grid=grid, quicklooks=[p for p in report.quicklooks if p.key != "swir"])
    words = words_of(write_report(tmp_path / "x.html", report, quicklook_figures(report.quicklooks, grid)))
    assert "200 m" in words
    assert "Upper left: 500000 m E, 5000000 m N (45.1535° N, 9.0000° E)" in words
    assert "No picture “Shortwave infrared”: the cube has no bands near 2200, 1610, 850 nm." in words
    assert scale_bar(1920.0) == (pytest.approx(200 / 1920), "200 m")
    assert scale_bar(30_000.0) == (pytest.approx(5 / 30), "5 km")
    assert scale_bar(None) is None


def test_multispectral_bands_stand_in_the_consistency_figure(tmp_path):
    bands = (MsiBandError("B04", 665.0, 650.0, 680.0, 0.01), MsiBandError("B08", 835.0, 780.0, 890.0, 0.02))
    report = replace(full_report(), msi_consistency=bands)
    (figure,) = consistency_figures(report.centre_nm, report.consistency, bands)
    assert "Diamonds" in figure.caption
    data = json.loads(write_json(tmp_path / "x.json", report).read_text())
    assert [band["rmse"] for band in data["msi_consistency"]] == [0.01, 0.02]


def test_spectra_show_all_bands_of_the_product():
    """Also those that were not fused: once a cube of 20 bands hid what the sensor saw."""
    centre, wide = np.array([500.0, 600.0, 700.0]), np.array([700.0, 400.0, 500.0, 600.0])
    (found,) = compare_pixels(
        [PurePixel("soil", 0, 0, 0.9)], centre, ratio=1,
        read_hsi=lambda _: np.full((3, 1, 1), 0.2), read_fused=lambda _: np.full((3, 1, 1), 0.21),
        read_product=lambda _: np.array([0.4, 0.1, 0.2, 0.3])[:, None, None], product_nm=wide,
    )  # fmt: skip
    np.testing.assert_array_equal(found.product_nm, [400.0, 500.0, 600.0, 700.0])
    np.testing.assert_array_equal(found.product, [0.1, 0.2, 0.3, 0.4])
    (panel,) = spectra_figure([found]).subfigs
    labels = panel.axes[0].get_legend_handles_labels()[1]
    assert "HSI, bands left out" in labels


def test_changes_between_the_images_are_mapped_and_judged(tmp_path):
    change = np.zeros((20, 30))
    change[5:15, 5:25] = 1.0
    pictures = np.full((2, 3, 10, 15), 0.1)
    pictures[:, :, :3] = np.nan
    view = ChangeView(change, np.full((20, 30), 0.01), change > 0.5, np.ones((20, 30), bool), 1 / 3, 12.4, pictures)
    verdict = judge({"qnr": 0.9}, change_share=view.share)
    assert verdict.level == "usable with care"
    assert "differs between the images: 33.3 %, good is at most 10.0 %" in verdict.reasons[0]
    report = replace(full_report(), changes=view, verdict=verdict)
    before = dict(mpl.rcParams)
    (figure,) = change_figures(view)
    assert dict(mpl.rcParams) == before
    words = words_of(write_report(tmp_path / "x.html", report, [figure]))
    assert "33.3 % of the ground differs between the images. The images were taken 12.4 days apart." in words
    assert "both images at the same sharpness; haze and season are taken out" in words
    assert "Outlined: changed ground" in words
    titles = [axes.get_title(loc="left") for axes in figure.drawing.axes]
    assert titles[:2] == ["Hyperspectral image", "Multispectral image, as blurred"]
    (alone,) = change_figures(replace(view, pictures=None))
    assert "Outlined" not in alone.caption
    (placed,) = change_figures(replace(view, bounds=(723900.0, 4963920.0, 724200.0, 4964120.0)))
    for axes in placed.drawing.axes[:4]:
        assert (*axes.get_xlim(), *axes.get_ylim()) == pytest.approx((723.9, 724.2, 4963.92, 4964.12))
    assert placed.drawing.axes[2].get_xlabel() == "Easting (km)"
    assert placed.drawing.axes[0].get_ylabel() == "Northing (km)"
    # The changed ground lies where it is: rows are counted from the north.
    (outline,) = placed.drawing.axes[0].collections
    east, north = outline.get_paths()[0].vertices.T
    assert (east.min(), east.max()) == pytest.approx((723.945, 724.155), abs=0.006)
    assert (north.min(), north.max()) == pytest.approx((4963.965, 4964.075), abs=0.006)
    data = json.loads(write_json(tmp_path / "x.json", report).read_text())
    assert data["changes"] == {"share": pytest.approx(1 / 3), "days": 12.4, "hsi_only_share": pytest.approx(1 / 3)}
    assert "changes" in {f.key for f in make_figures(report)}
    assert change_figures(None) == []


def test_a_partner_that_was_refused_is_no_partner_in_the_table_of_dates():
    def date(days, used, partner):
        start = datetime(2024, 6, 21, tzinfo=UTC) + timedelta(days=days)
        return SourceDate(
            start, "Sentinel-2A", (f"S2_{days}",), days_apart=float(days), sun_zenith_deg=None,
            covered=1.0, cloudy=0.0, clear=1.0, used=used, partner=partner,
        )  # fmt: skip

    dates = (date(1, 1.0, False), date(4, 0.0, True), date(9, 0.0, True), date(30, 0.0, False))
    view = DatesView(np.ones((4, 5), np.uint8), dates, (9.0,))
    assert [row["used"] for row in view.rows()] == ["100.0 %", "partner", "partner, refused", "not needed"]
