"""Outputs that cannot be: each gets one sentence, a hint, exit code 7 or 2, and no half-written file."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import textwrap
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from writers_support import Cube, WriteCube

from hsfuse.errors import HsfuseError, OutputError, UsageError
from hsfuse.grid import Grid
from hsfuse.spectral import BandTable
from hsfuse.writers import CubeWriter, WriteOptions, check_output, journal_folder, resolve_format


def _fails(kind: type[HsfuseError], path: Path, grid: Grid, **options: Any) -> HsfuseError:
    with pytest.raises(kind) as caught:
        check_output(path, grid, 8, WriteOptions(**options))
    assert caught.value.hint
    assert str(path.name) in caught.value.message or str(path.parent) in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("name", "wanted", "expected"),
    [
        ("a.tif", "auto", "gtiff"), ("a.TIFF", "auto", "gtiff"), ("a.img", "auto", "envi"), ("a.bil", "auto", "envi"),
        ("a.tif", "cog", "cog"), ("a", "envi", "envi"), ("a.fused", "envi", "envi"),
    ],
)  # fmt: skip
def test_format_follows_name_and_option(name: str, wanted: Any, expected: str) -> None:
    assert resolve_format(Path(name), wanted).name == expected


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("a.png", "auto"), ("a", "auto"), ("a.hdr", "auto"), ("a.hdr", "envi"), ("a.tif", "envi"), ("a.bsq", "envi"),
     ("a.img", "cog"), ("a", "gtiff")],
)  # fmt: skip
def test_contradicting_names_are_usage_errors(tmp_path: Path, grid: Grid, name: str, wanted: str) -> None:
    assert _fails(UsageError, tmp_path / name, grid, format=wanted).exit_code == 2


def test_missing_folder(tmp_path: Path, grid: Grid) -> None:
    error = _fails(OutputError, tmp_path / "no" / "o.tif", grid)
    assert error.exit_code == 7
    assert "mkdir" in error.hint


def test_output_is_a_folder(tmp_path: Path, grid: Grid) -> None:
    (tmp_path / "o.tif").mkdir()
    _fails(OutputError, tmp_path / "o.tif", grid)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that not even root can write")
def test_unwritable_folder(grid: Grid) -> None:
    assert "not writable" in _fails(OutputError, Path("/proc/o.tif"), grid).message


@pytest.mark.parametrize("existing", ["o.tif"])
def test_existing_files_need_overwrite(tmp_path: Path, grid: Grid, existing: str) -> None:
    (tmp_path / existing).write_text("precious")
    error = _fails(OutputError, tmp_path / "o.tif", grid)
    assert existing in error.message
    assert "--overwrite" in error.hint
    assert (tmp_path / existing).read_text() == "precious"
    check_output(tmp_path / "o.tif", grid, 8, WriteOptions(overwrite=True))


def test_small_disk_states_the_need(tmp_path: Path, grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10**12, 0, 10**6))
    error = _fails(OutputError, tmp_path / "o.tif", grid)
    assert "1.0 MB free" in error.message
    assert "2.6 MB" in error.message  # 300 x 290 x 8 int16 in the journal, 85 % of it again in the product


def test_plan_counts_journal_and_product(tmp_path: Path, grid: Grid) -> None:
    raw = 300 * 290 * 8 * 2
    envi = check_output(tmp_path / "o.img", grid, 8, WriteOptions())
    assert (envi.needed_bytes, envi.product_bytes) == (raw, raw)
    assert check_output(tmp_path / "o.tif", grid, 8, WriteOptions(format="cog")).needed_bytes > 2 * raw
    plain = check_output(tmp_path / "o.tif", grid, 8, WriteOptions(compress="none"))
    assert plain.product_bytes == 512 * 512 * 8 * 2  # whole tiles of 256 pixels
    assert [p.name for p in envi.sidecars] == ["o.hdr", "o.img.stac.json"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"compress": "lerc", "dtype": "int16"}, {"format": "netcdf"}])
def test_contradicting_options(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        WriteOptions(**options)


def test_overwrite_replaces_only_when_done(tmp_path: Path, grid: Grid, cube: Cube, write_cube: WriteCube) -> None:
    path = tmp_path / "out.tif"
    for name in ("out.tif", "out.tif.aux.xml", "out.tif.ovr"):
        (tmp_path / name).write_text("old")
    bands = BandTable.make([500.0, 600.0])
    with CubeWriter(path, grid, bands, WriteOptions(overwrite=True), identity="a", provenance={}) as writer:
        writer.write_rows(0, cube[:2])
    assert path.read_text() == "old"
    product = write_cube(path, overwrite=True)
    assert product.bytes > 1000
    # Statistics and overviews of the old pixels would be shown with the new ones.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.tif", "out.tif.stac.json"]


def test_full_disk_while_rows_are_written(
    tmp_path: Path, grid: Grid, bands: BandTable, cube: Cube, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "o.tif"
    with CubeWriter(path, grid, bands, WriteOptions(), identity="a", provenance={}) as writer:
        writer.write_rows(0, cube[:, :100])

        def full(handle: int, data: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr("hsfuse.writers.journal.os.write", full)
        with pytest.raises(OutputError, match="disk is full") as caught:
            writer.write_rows(100, cube[:, 100:])
        monkeypatch.undo()
        assert "--resume" in caught.value.hint
    assert not path.exists()
    with CubeWriter(path, grid, bands, WriteOptions(resume=True), identity="a", provenance={}) as writer:
        assert writer.rows_done == 100


STARVED = textwrap.dedent(
    """
    import resource, signal, sys
    from pathlib import Path
    import numpy as np
    from rasterio.crs import CRS
    from hsfuse.errors import OutputError
    from hsfuse.grid import Grid
    from hsfuse.spectral import BandTable
    from hsfuse.writers import CubeWriter, WriteOptions

    # A limit on the size of files refuses writes as a full disk does, inside GDAL too.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    grid = Grid.from_origin(CRS.from_epsg(32632), 500000.0, 5000000.0, 10.0, 300, 280)
    bands = BandTable.make(np.linspace(450, 2200, 6), np.full(6, 10.0))
    cube = np.random.default_rng(3).uniform(0, 0.5, (6, 300, 280)).astype(np.float32)
    options = WriteOptions(format=sys.argv[2], dtype=sys.argv[3], compress=sys.argv[4])
    with CubeWriter(Path(sys.argv[1]), grid, bands, options, identity="x", provenance={}) as writer:
        writer.write_rows(0, cube)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[5]),) * 2)
        try:
            writer.finish()
        except OutputError as error:
            print(error.message)
    """
)


@pytest.mark.parametrize(
    ("file_format", "dtype", "compress", "limit"),
    [("gtiff", "int16", "zstd", 300_000), ("gtiff", "int16", "zstd", 900_000), ("gtiff", "float32", "none", 900_000),
     ("cog", "int16", "deflate", 600_000)],
)  # fmt: skip
def test_full_disk_while_the_product_is_built(
    tmp_path: Path, file_format: str, dtype: str, compress: str, limit: int
) -> None:
    path = tmp_path / "o.tif"
    run = subprocess.run(
        [sys.executable, "-c", STARVED, str(path), file_format, dtype, compress, str(limit)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "complete" in run.stdout or "could not be written" in run.stdout or "disk is full" in run.stdout
    assert not path.exists(), "a half-written file looks finished"
    folder = journal_folder(path)
    assert (folder / "rows.bil").stat().st_size == 6 * 300 * 280 * (2 if dtype == "int16" else 4)
    assert not (folder / "product").exists(), "a broken product keeps the disk full"
