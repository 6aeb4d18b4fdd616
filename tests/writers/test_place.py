"""Nothing of somebody else's is deleted or replaced, and nothing old stays beside a new cube."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rasterio
from writers_support import PNG, WriteCube

from hsfuse.errors import OutputError
from hsfuse.grid import Grid
from hsfuse.outputs import GENERATOR, marked_png
from hsfuse.writers import CubeWriter, ReportFiles, WriteOptions, check_destination, journal_folder


def _report(folder: Path, stem: str = "out", *, wanted: bool = True) -> ReportFiles:
    return ReportFiles(
        folder / f"{stem}.report.html", folder / f"{stem}.qa.json", folder / f"{stem}.qa", r"[a-h]\w*\.png", wanted
    )  # fmt: skip


def _own_report(folder: Path, product: str) -> ReportFiles:
    files = _report(folder)
    files.page.write_bytes(GENERATOR)
    files.numbers.write_text(json.dumps({"schema": "hsfuse-qa/2", "product": product}))
    files.pictures.mkdir()
    (files.pictures / "a.png").write_bytes(marked_png(PNG))
    return files


def _refused(path: Path, match: str, **options: object) -> OutputError:
    with pytest.raises(OutputError, match=match) as caught:
        check_destination(path, WriteOptions(**options))  # type: ignore[arg-type]
    assert caught.value.exit_code == 7
    return caught.value


@pytest.mark.parametrize("overwrite", [False, True])
def test_foreign_files_beside_an_output_are_refused(tmp_path: Path, overwrite: bool) -> None:
    for name in ("out.report.html", "out.qa.json", "out.tif.stac.json"):
        item = tmp_path / name
        item.write_text("{}")
        error = _refused(tmp_path / "out.tif", name, overwrite=overwrite, report=_report(tmp_path))
        assert "--overwrite" not in error.hint
        item.unlink()
    (tmp_path / "out.qa").mkdir()
    (tmp_path / "out.qa" / "holiday.png").write_bytes(PNG)
    _refused(tmp_path / "out.tif", "out.qa", overwrite=overwrite, report=_report(tmp_path))
    check_destination(tmp_path / "out.tif", WriteOptions(report=_report(tmp_path, wanted=False)))


def test_the_report_of_another_cube_is_refused(tmp_path: Path) -> None:
    _own_report(tmp_path, "out.img")
    error = _refused(tmp_path / "out.tif", r"report of out\.img", overwrite=True, report=_report(tmp_path))
    assert "--no-report" in error.hint
    # Without a report there is nothing to mix up.
    check_destination(tmp_path / "out.tif", WriteOptions(report=_report(tmp_path, wanted=False)))


@pytest.mark.parametrize("wanted", [True, False])
def test_an_old_report_goes_with_its_cube(tmp_path: Path, write_cube: WriteCube, wanted: bool) -> None:
    write_cube(tmp_path / "out.tif")
    files = _own_report(tmp_path, "out.tif")
    (files.pictures / "mine.png").write_bytes(PNG)
    _refused(tmp_path / "out.tif", "exists already", report=_report(tmp_path, wanted=wanted))
    write_cube(tmp_path / "out.tif", overwrite=True, report=_report(tmp_path, wanted=wanted))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.qa", "out.tif", "out.tif.stac.json"]
    assert [p.name for p in files.pictures.iterdir()] == ["mine.png"], "other people's pictures stay"
    (files.pictures / "a.png").write_bytes(PNG)
    if wanted:
        _refused(tmp_path / "out.tif", r"a\.png", overwrite=True, report=_report(tmp_path))


def test_a_report_left_alone_counts_as_existing_output(tmp_path: Path) -> None:
    _own_report(tmp_path, "out.tif")
    error = _refused(tmp_path / "out.tif", "exists already", report=_report(tmp_path))
    assert "--overwrite" in error.hint


def test_the_header_of_another_raster_is_refused(tmp_path: Path, write_cube: WriteCube) -> None:
    first = write_cube(tmp_path / "x.img")
    header = (tmp_path / "x.hdr").read_bytes()
    for overwrite in (False, True):
        error = _refused(tmp_path / "x.dat", r"x\.hdr.*x\.img", overwrite=overwrite)
        assert "--overwrite" not in error.hint
    # A TIFF needs no header, so the two can lie side by side.
    write_cube(tmp_path / "x.tif")
    assert (tmp_path / "x.hdr").read_bytes() == header
    with rasterio.open(first.path) as dataset:
        assert dataset.driver == "ENVI"
    write_cube(tmp_path / "x.img", overwrite=True)


def test_a_foreign_header_without_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.hdr").write_text("ENVI\nsamples = 3\n")
    _refused(tmp_path / "x.img", r"x\.hdr is in the way", overwrite=True)
    (tmp_path / "x.TIF").write_text("a TIFF that ENVI has written a header for")
    _refused(tmp_path / "x.img", r"x\.hdr, which .*x\.TIF uses", overwrite=True)


def test_foreign_files_in_the_working_folder_stay(tmp_path: Path, grid: Grid, write_cube: WriteCube) -> None:
    folder = journal_folder(tmp_path / "out.tif")
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    for options in ({}, {"overwrite": True}, {"resume": True}):
        _refused(tmp_path / "out.tif", "not made by hsfuse", **options)
    # Beside a journal's own files they are left where they are.
    (folder / "thesis.txt").rename(tmp_path / "thesis.txt")
    folder.rmdir()
    write_cube_part(tmp_path / "out.tif", grid)
    (tmp_path / "thesis.txt").rename(folder / "thesis.txt")
    write_cube(tmp_path / "out.tif", overwrite=True)
    assert [p.name for p in folder.iterdir()] == ["thesis.txt"]


def test_a_file_in_place_of_the_working_folder_is_refused(tmp_path: Path) -> None:
    journal_folder(tmp_path / "out.tif").write_text("mine")
    _refused(tmp_path / "out.tif", "not made by hsfuse", overwrite=True)


@pytest.mark.parametrize("name", ["a" * 242 + ".tif", "a" * 250 + ".img"])
def test_names_that_leave_no_room_for_sidecars(tmp_path: Path, name: str) -> None:
    _refused(tmp_path / name, "too long")


def test_an_input_is_refused_whatever_the_options(tmp_path: Path, write_cube: WriteCube) -> None:
    cube = write_cube(tmp_path / "in.img")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for name, options in (("in.img", {}), ("in.img", {"overwrite": True}), ("in.dat", {"overwrite": True})):
        error = _refused(tmp_path / name, "input", inputs=(cube.path,), **options)
        assert "--overwrite" not in error.hint
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def write_cube_part(path: Path, grid: Grid) -> None:
    """Leave the journal of an interrupted run."""
    import numpy as np

    from hsfuse.spectral import BandTable

    with CubeWriter(path, grid, BandTable.make([500.0]), WriteOptions(), identity="a", provenance={}) as writer:
        writer.write_rows(0, np.zeros((1, 5, grid.width), np.float32))
