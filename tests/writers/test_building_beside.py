"""A product that is built while its rows are made: the bytes of one built afterwards, whatever happens on the way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from kill_support import BANDS, GRID, content, cube

from hsfuse.errors import DiskFullError
from hsfuse.grid import Slice2D
from hsfuse.writers import CubeWriter, WriteOptions, cog, geotiff, journal, journal_folder
from hsfuse.writers.journal import RowsGivenUpError

_SPAWN = multiprocessing.get_context("forkserver")
FORMATS = [("out.tif", "gtiff"), ("out.tif", "cog"), ("out.img", "envi")]
_STRIP = 10


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several rows of tiles in a small cube."""
    use_small_tiles(monkeypatch.setattr)


def use_small_tiles(put: Callable[[Any, str, Any], None]) -> None:
    for module in (geotiff, cog):
        put(module, "TILE_PX", 16)


def start(path: Path, file_format: str, **options: Any) -> CubeWriter:
    return CubeWriter(
        path, GRID, BANDS, WriteOptions(format=file_format, **options), identity="run 1", provenance={}, threads=2
    )


def write_until(writer: CubeWriter, last: int) -> None:
    for row0 in range(writer.rows_done, last, _STRIP):
        writer.write_rows(row0, cube(1)[:, row0 : row0 + _STRIP])


def wait_for_rows_built(writer: CubeWriter, rows: int) -> None:
    """Wait until whole tiles of so many rows went into the product."""
    building = writer._building
    assert building is not None
    limit = time.monotonic() + 60.0
    while building._done < rows:
        assert time.monotonic() < limit
        time.sleep(0.005)


def made(path: Path, file_format: str, *, beside: bool) -> dict[str, bytes]:
    path.parent.mkdir(exist_ok=True)
    with start(path, file_format) as writer:
        if beside:
            writer.build_beside()
        write_until(writer, 60)
        writer.finish()
    return content(path.parent)


@pytest.mark.parametrize(("name", "file_format"), FORMATS)
def test_bytes_are_those_of_a_product_built_afterwards(tmp_path: Path, name: str, file_format: str) -> None:
    beside = made(tmp_path / "beside" / name, file_format, beside=True)
    assert beside == made(tmp_path / "after" / name, file_format, beside=False)
    with rasterio.open(tmp_path / "beside" / name) as dataset:
        stored = dataset.read(2)
        if file_format == "gtiff":
            # Statistics need the last rows, which are made after the first ones are compressed.
            assert float(dataset.tags(2)["STATISTICS_MAXIMUM"]) == stored.max()


@pytest.mark.parametrize(("name", "file_format"), FORMATS[:2])
def test_a_run_that_fails_on_the_way_goes_on(tmp_path: Path, name: str, file_format: str) -> None:
    whole = made(tmp_path / "whole" / name, file_format, beside=False)
    path = tmp_path / "cut" / name
    path.parent.mkdir()

    def fail() -> None:
        with start(path, file_format) as writer:
            writer.build_beside()
            write_until(writer, 40)
            wait_for_rows_built(writer, 32 if file_format == "gtiff" else 8)
            raise RuntimeError("a card is lost")

    with pytest.raises(RuntimeError, match="lost"):
        fail()
    assert not any(thread.name == "hsfuse-build" for thread in threading.enumerate())
    assert not path.exists()
    assert not (journal_folder(path) / "product").exists()
    with start(path, file_format, resume=True) as writer:
        assert writer.rows_done == 40
        writer.build_beside()
        write_until(writer, 60)
        writer.finish()
    assert content(path.parent) == whole


def _die_while_building(path: Path) -> None:
    use_small_tiles(setattr)
    with start(path, "gtiff") as writer:
        writer.build_beside()
        write_until(writer, 40)
        wait_for_rows_built(writer, 32)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_while_rows_are_compressed_loses_nothing_and_nothing_looks_finished(tmp_path: Path) -> None:
    whole = made(tmp_path / "whole" / "out.tif", "gtiff", beside=False)
    path = tmp_path / "cut" / "out.tif"
    path.parent.mkdir()
    process = _SPAWN.Process(target=_die_while_building, args=(path,))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert [item.name for item in path.parent.iterdir()] == ["out.tif.part"]
    assert (journal_folder(path) / "product" / "out.tif").stat().st_size > 0, "it was not killed in the middle"
    with start(path, "gtiff", resume=True) as writer:
        assert writer.rows_done == 40
        writer.build_beside()
        write_until(writer, 60)
        writer.finish()
    assert content(path.parent) == whole


@pytest.mark.parametrize("again", [False, True])
def test_a_disk_that_is_full_while_rows_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, again: bool
) -> None:
    """What was built goes, the rows stay; the product is built anew from them, or the run says how to go on."""
    whole = made(tmp_path / "whole" / "out.tif", "gtiff", beside=False)
    path = tmp_path / "cut" / "out.tif"
    path.parent.mkdir()
    write = rasterio.io.DatasetWriter.write

    def refuse(self: Any, samples: Any, *given: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    with start(path, "gtiff") as writer:
        monkeypatch.setattr(rasterio.io.DatasetWriter, "write", refuse)
        writer.build_beside()
        building = writer._building
        assert building is not None
        write_until(writer, 40)
        building._thread.join(60)
        assert not (journal_folder(path) / "product").exists(), "a broken product keeps the disk full"
        write_until(writer, 60)
        if again:
            with pytest.raises(DiskFullError):
                writer.finish()
            assert not path.exists()
        monkeypatch.setattr(rasterio.io.DatasetWriter, "write", write)
        if not again:
            writer.finish()
    assert "is built anew" in caplog.text
    if again:
        with start(path, "gtiff", resume=True) as writer:
            writer.finish()
    assert content(path.parent) == whole


def test_readers_wait_for_rows_and_are_told_when_none_come(tmp_path: Path) -> None:
    with start(tmp_path / "out.img", "envi") as writer:
        rows = writer.stored_rows()
        assert rows is not None
        threading.Timer(0.05, write_until, (writer, 30)).start()
        part = rows.read(Slice2D(12, 28, 3, 20), [4, 1])
        np.testing.assert_allclose(part, cube(1)[[4, 1], 12:28, 3:20], atol=1e-4)
        threading.Timer(0.05, writer.give_up).start()
        with pytest.raises(RowsGivenUpError):
            rows.read(Slice2D(29, 31, 0, 5), [0])
        rows.close()


def test_rows_are_read_while_those_after_them_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A strip of a whole scene takes half a second to get to the disk."""
    monkeypatch.setattr(journal, "_WRITE_BYTES", 1)
    with start(tmp_path / "out.img", "envi") as writer:
        rows, found, done = writer.stored_rows(), [], []
        assert rows is not None
        write = journal.write_all

        def written(handle: int, array: Any) -> None:
            write(handle, array)
            # Of the row before this one.
            if array.shape[0] == 1 and len(done) > 0:
                found.append(rows.read(Slice2D(len(done) - 1, len(done), 0, 5), [2]))
            done.append(writer.rows_done)

        monkeypatch.setattr(journal, "write_all", written)
        writer.write_rows(0, writer.encoding.encode(cube(1)[:, :_STRIP]))
        assert done == [0] * _STRIP
        np.testing.assert_allclose(np.concatenate(found, axis=1), cube(1)[[2], : _STRIP - 1, :5], atol=1e-4)
        rows.close()
