"""Interrupted runs: whatever happens, the final bytes are those of a run that was left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from writers_support import Cube, WriteCube

from hsfuse.errors import OutputError
from hsfuse.grid import Grid
from hsfuse.spectral import BandTable
from hsfuse.writers import CubeWriter, WriteOptions, WrittenProduct, journal_folder
from hsfuse.writers.journal import Journal, has_rows
from hsfuse.writers.lock import claimed

FORMATS = [("out.tif", "gtiff"), ("out.tif", "cog"), ("out.img", "envi")]


def _contents(product: WrittenProduct) -> dict[str, bytes]:
    return {item.name: item.read_bytes() for item in (product.path, *product.sidecars)}


@pytest.mark.parametrize(("name", "file_format"), FORMATS)
def test_bytes_do_not_depend_on_strips_threads_or_cache(
    tmp_path: Path, write_cube: WriteCube, name: str, file_format: str
) -> None:
    results = []
    for number, (rows, threads, cache) in enumerate([(300, 1, 64), (17, 4, 1), (64, 2, 512), (17, 4, 64)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        with rasterio.Env(GDAL_CACHEMAX=cache):
            results.append(_contents(write_cube(folder / name, rows=rows, threads=threads, format=file_format)))
    assert all(result == results[0] for result in results[1:])


def test_a_plan_that_was_changed_on_the_way_is_what_a_later_run_keeps_to(
    tmp_path: Path, grid: Grid, bands: BandTable, cube: Cube
) -> None:
    def start(tile: int, *, resume: bool = False) -> CubeWriter:
        return CubeWriter(
            tmp_path / "out.tif", grid, bands, WriteOptions(resume=resume), identity="1234abcd", provenance={},
            plan={"tile": tile},
        )  # fmt: skip

    with start(96) as writer:
        writer.write_rows(0, cube[:, :30])
        writer.change_plan({"tile": 48})  # a GPU was too small
        writer.write_rows(30, cube[:, 30:60])
    with start(96, resume=True) as writer:
        assert (writer.rows_done, writer.plan_to_keep) == (60, {"tile": 48})


@pytest.mark.parametrize(("name", "file_format"), FORMATS)
def test_an_exception_keeps_the_rows_and_resume_goes_on(
    tmp_path: Path, grid: Grid, bands: BandTable, cube: Cube, write_cube: WriteCube, name: str, file_format: str
) -> None:
    (tmp_path / "whole").mkdir()
    whole = write_cube(tmp_path / "whole" / name, format=file_format)
    path = tmp_path / name

    def start(**options: bool) -> CubeWriter:
        return CubeWriter(
            path, grid, bands, WriteOptions(format=file_format, **options),  # type: ignore[arg-type]
            identity="1234abcd", provenance={},
        )  # fmt: skip

    def fail_after_90_rows() -> None:
        with start() as writer:
            writer.write_rows(0, cube[:, :90])
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail_after_90_rows()
    assert not path.exists()
    assert (journal_folder(path) / "manifest.json").exists()
    with start(resume=True) as writer:
        assert writer.rows_done == 90
        np.testing.assert_allclose(writer.read_rows(80, 10, [1, 3]), cube[[1, 3], 80:90], atol=1e-4)
        writer.write_rows(90, cube[:, 90:])
        resumed = writer.finish()
    with rasterio.open(whole.path) as a, rasterio.open(resumed.path) as b:
        np.testing.assert_array_equal(a.read(), b.read())
    assert not journal_folder(path).exists()


KILLED = textwrap.dedent(
    """
    import os, signal, sys
    from contextlib import contextmanager
    from pathlib import Path
    import numpy as np
    from rasterio.crs import CRS
    from hsfuse.grid import Grid
    from hsfuse.spectral import BandTable
    from hsfuse.writers import CubeWriter, WriteOptions
    import hsfuse.writers.journal as journal

    path, file_format, moment, resume = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "resume"
    die = lambda *a: os.kill(os.getpid(), signal.SIGKILL)

    class Deadly:
        @contextmanager
        def stage(self, name, total=1.0):
            yield self
        def advance(self, amount=1.0):
            if moment == "finish":
                die()

    cube = np.random.default_rng(3).uniform(0, 0.5, (6, 300, 280)).astype(np.float32)
    cube[:, :20] = np.nan
    grid = Grid.from_origin(CRS.from_epsg(32632), 500000.0, 5000000.0, 10.0, 300, 280)
    bands = BandTable.make(np.linspace(450, 2200, 6), np.full(6, 10.0))
    options = WriteOptions(format=file_format, resume=resume)
    with CubeWriter(path, grid, bands, options, identity="x", provenance={"resume": resume}) as writer:
        print(writer.rows_done, flush=True)
        for row0 in range(writer.rows_done, 300, 50):
            if moment == "rows" and row0 == 200:
                # After the bytes, before the manifest: the strip must not count.
                journal.write_durably = die
            writer.write_rows(row0, cube[:, row0 : row0 + 50])
        writer.finish(Deadly())
    """
)


def _run(path: Path, file_format: str, moment: str, resume: str = "fresh") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", KILLED, str(path), file_format, moment, resume],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "file_format", "moment"), [("out.tif", "gtiff", "rows"), *((*item, "finish") for item in FORMATS)]
)
def test_sigkill_then_resume_gives_equal_bytes(tmp_path: Path, name: str, file_format: str, moment: str) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    assert _run(whole / name, file_format, "never").returncode == 0
    killed = _run(broken / name, file_format, moment)
    assert killed.returncode == -signal.SIGKILL
    assert not (broken / name).exists(), "a half-written file looks finished"
    resumed = _run(broken / name, file_format, "never", "resume")
    assert resumed.returncode == 0, resumed.stderr
    assert int(resumed.stdout) == (200 if moment == "rows" else 300)
    assert {p.name: p.read_bytes() for p in whole.iterdir()} == {p.name: p.read_bytes() for p in broken.iterdir()}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 39), max_size=6, unique=True), stop=st.integers(0, 6))
def test_any_cut_into_strips_and_any_stop_gives_the_same_rows(tmp_path: Path, cuts: list[int], stop: int) -> None:
    grid = Grid.from_origin(CRS.from_epsg(32632), 500000.0, 5000000.0, 10.0, 40, 13)
    bands = BandTable.make([500.0, 600.0, 700.0])
    data = np.random.default_rng(0).uniform(-0.1, 1.2, (3, 40, 13)).astype(np.float32)
    path = tmp_path / "o.img"
    for old in tmp_path.iterdir():
        old.unlink()
    edges = [0, *sorted(cuts), 40]
    strips = list(pairwise(edges))
    with CubeWriter(path, grid, bands, WriteOptions(), identity="i", provenance={}) as writer:
        for row0, row1 in strips[:stop]:
            writer.write_rows(row0, data[:, row0:row1])
    with CubeWriter(path, grid, bands, WriteOptions(resume=True), identity="i", provenance={}) as writer:
        assert writer.rows_done == ([0] + [row1 for _, row1 in strips])[min(stop, len(strips))]
        writer.write_rows(writer.rows_done, data[:, writer.rows_done :])
        product = writer.finish()
    np.testing.assert_array_equal(
        np.fromfile(product.path, "<i2").reshape(40, 3, 13),
        np.rint(data.astype(np.float64) * 10000.0).astype("<i2").transpose(1, 0, 2),
    )


def _stop_after(path: Path, grid: Grid, bands: BandTable, cube: Cube, rows: int, identity: str = "a") -> None:
    with CubeWriter(path, grid, bands, WriteOptions(), identity=identity, provenance={}) as writer:
        writer.write_rows(0, cube[:, :rows])


@pytest.mark.parametrize("change", ["identity", "bands", "grid", "dtype"])
def test_resume_refuses_another_run(tmp_path: Path, grid: Grid, bands: BandTable, cube: Cube, change: str) -> None:
    path = tmp_path / "o.tif"
    _stop_after(path, grid, bands, cube, 50)
    other_grid = Grid.from_origin(grid.crs, 0.0, 0.0, 10.0, *grid.shape) if change == "grid" else grid
    other_bands = BandTable.make(bands.centre_nm + 1.0, bands.fwhm_nm) if change == "bands" else bands
    options = WriteOptions(resume=True, dtype="uint16" if change == "dtype" else "int16")
    with pytest.raises(OutputError, match=change) as caught:
        CubeWriter(path, other_grid, other_bands, options, identity="b" if change == "identity" else "a", provenance={})
    assert caught.value.exit_code == 7
    # Nothing is lost: the right run can still go on.
    with CubeWriter(path, grid, bands, WriteOptions(resume=True), identity="a", provenance={}) as writer:
        assert writer.rows_done == 50


def test_damaged_journals_are_refused(tmp_path: Path, grid: Grid, bands: BandTable, cube: Cube) -> None:
    path = tmp_path / "o.tif"
    _stop_after(path, grid, bands, cube, 50)
    rows = journal_folder(path) / "rows.bil"
    os.truncate(rows, rows.stat().st_size - 1)
    with pytest.raises(OutputError, match="damaged"):
        CubeWriter(path, grid, bands, WriteOptions(resume=True), identity="a", provenance={})
    (journal_folder(path) / "manifest.json").write_text("{")
    with pytest.raises(OutputError, match="damaged"):
        CubeWriter(path, grid, bands, WriteOptions(resume=True), identity="a", provenance={})


def test_a_fresh_run_discards_an_interrupted_one(
    tmp_path: Path, grid: Grid, bands: BandTable, cube: Cube, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "o.tif"
    _stop_after(path, grid, bands, cube, 50, identity="old")
    with CubeWriter(path, grid, bands, WriteOptions(), identity="new", provenance={}) as writer:
        assert writer.rows_done == 0
    assert "--resume" in caplog.text
    assert not journal_folder(path).exists(), "a run without rows leaves nothing behind"


def test_resume_of_a_finished_run_has_nothing_to_do(
    tmp_path: Path, grid: Grid, bands: BandTable, write_cube: WriteCube
) -> None:
    product = write_cube(tmp_path / "out.tif")
    before = product.path.stat().st_mtime_ns
    again = write_cube(tmp_path / "out.tif", resume=True)
    assert (again.path, again.bytes) == (product.path, product.bytes)
    assert product.path.stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="another run"):
        CubeWriter(product.path, grid, bands, WriteOptions(resume=True), identity="other", provenance={})


def test_two_runs_cannot_write_the_same_output(tmp_path: Path, grid: Grid, bands: BandTable, cube: Cube) -> None:
    path = tmp_path / "o.tif"
    with CubeWriter(path, grid, bands, WriteOptions(), identity="a", provenance={}) as writer:
        writer.write_rows(0, cube[:, :10])
        with pytest.raises(OutputError, match="Another run"):
            CubeWriter(path, grid, bands, WriteOptions(), identity="a", provenance={})
        assert writer.rows_done == 10


def test_a_claim_is_shared_with_the_own_journal_and_held_until_the_product_is_there(
    tmp_path: Path, grid: Grid, bands: BandTable, cube: Cube
) -> None:
    path, folder = tmp_path / "o.tif", tmp_path / "o.tif.part"

    def refused() -> None:
        with pytest.raises(OutputError, match="Another run"), claimed(folder):
            pass

    with claimed(folder):
        refused()
        with CubeWriter(path, grid, bands, WriteOptions(), identity="a", provenance={}) as writer:
            writer.write_rows(0, cube[:, :10])
            refused()
        refused()
    assert has_rows(folder), "rows to go on with stay"
    with claimed(folder):
        with CubeWriter(path, grid, bands, WriteOptions(resume=True), identity="a", provenance={}) as writer:
            assert writer.rows_done == 10
            writer.write_rows(10, cube[:, 10:])
            writer.finish()
        # Somebody else's from here on.
        with claimed(folder):
            pass
    assert not folder.exists()


def test_rows_must_come_in_order_and_complete(tmp_path: Path, grid: Grid, bands: BandTable, cube: Cube) -> None:
    with CubeWriter(tmp_path / "o.tif", grid, bands, WriteOptions(), identity="a", provenance={}) as writer:
        writer.write_rows(0, cube[:, :10])
        with pytest.raises(OutputError, match="cannot follow"):
            writer.write_rows(20, cube[:, 20:30])
        with pytest.raises(OutputError, match="do not fit"):
            writer.write_rows(10, cube[:3, 10:20])
        with pytest.raises(OutputError, match="not written yet"):
            writer.read_rows(5, 10)
        with pytest.raises(OutputError, match="10 of 300 rows"):
            writer.finish()
        writer.write_rows(10, cube[:, 10:])
        writer.finish()
        with pytest.raises(OutputError, match="finished"):
            writer.write_rows(0, cube[:, :10])


def test_manifest_counts_only_rows_that_are_safe(
    tmp_path: Path, grid: Grid, bands: BandTable, cube: Cube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row count on disk never runs ahead of the bytes that were flushed."""
    order: list[str] = []
    flush = os.fsync
    rename = Path.replace
    path = tmp_path / "o.tif"
    with CubeWriter(path, grid, bands, WriteOptions(), identity="a", provenance={}) as writer:
        rows = journal_folder(path) / "rows.bil"

        def fsync(handle: int) -> None:
            same = os.fstat(handle).st_ino == rows.stat().st_ino
            order.append("rows" if same else "other")
            flush(handle)

        def replace(self: Path, target: Path) -> Path:
            order.append("manifest")
            return rename(self, target)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Path, "replace", replace)
        writer.write_rows(0, cube[:, :30])
        monkeypatch.undo()
        assert order.index("rows") < order.index("manifest")
        assert json.loads((journal_folder(path) / "manifest.json").read_text())["rows_done"] == 30


def test_foreign_folder_is_left_alone(tmp_path: Path, grid: Grid, bands: BandTable) -> None:
    folder = journal_folder(tmp_path / "o.tif")
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="not made by hsfuse"):
        CubeWriter(tmp_path / "o.tif", grid, bands, WriteOptions(), identity="a", provenance={})
    assert [item.name for item in folder.iterdir()] == ["thesis.txt"]


def test_journal_reads_any_band_range(tmp_path: Path) -> None:
    from hsfuse.writers import SampleEncoding

    data = np.random.default_rng(1).uniform(0, 1, (5, 9, 4)).astype(np.float32)
    encoding = SampleEncoding.of("float32")
    with Journal(tmp_path / "j", (5, 9, 4), encoding, {}, record={}, resume=False) as journal:
        journal.append(0, data[:, :7])
        np.testing.assert_array_equal(journal.read(2, 4), data[:, 2:6])
        np.testing.assert_array_equal(journal.read(2, 4, 1, 3), data[1:3, 2:6])
        np.testing.assert_array_equal(journal.read(0, 7, 4), data[4:, :7])
