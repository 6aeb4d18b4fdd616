"""The journal of an unfinished output: rows on disk that survive a kill.

``<output>.part/`` holds the rows that are done, band interleaved by line and already in their final type, and a
manifest that says how many of them are safe. A strip counts only after its bytes *and then* the manifest have
been flushed to the disk, so whatever is beyond the manifest's count is cut off on the next start.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hsfuse.array_io import read_at, write_all
from hsfuse.errors import OutputError
from hsfuse.grid import Slice2D
from hsfuse.log import get_logger
from hsfuse.writers.encoding import SampleEncoding
from hsfuse.writers.lock import LOCK_NAME, lock_folder, unlock
from hsfuse.writers.storage import reached, remove, write_durably

_log = get_logger(__name__)

SCHEMA = "hsfuse-journal/1"
ROWS_NAME = "rows.bil"
MANIFEST_NAME = "manifest.json"
OWN_NAMES = (MANIFEST_NAME, f"{MANIFEST_NAME}.tmp", ROWS_NAME, "product", "publish.json", "publish.json.tmp", LOCK_NAME)
"""All that a journal consists of, in the order in which it is deleted."""
_ENCODE_BYTES = 3 * 2**20
"""Size of the pieces in which rows are encoded: temporary arrays that stay in the processor's cache."""
_WRITE_BYTES = 32 << 20
"""Of stored rows that are written before whoever waits for them is told."""


class RowsGivenUpError(OutputError):
    """Rows that somebody waits for will not be written: the run that makes them ends early."""


class StoredRows:
    """Reads reflectance from the rows of an output while they are made and its product is built; close it after use.

    Parameters
    ----------
    handle
        Open file of the rows, which becomes this object's.
    shape
        (band, row, col) of the whole cube.
    encoding
        Type and scale of the stored samples.
    wait
        Waits until so many rows are there.
    """

    def __init__(
        self, handle: int, shape: tuple[int, int, int], encoding: SampleEncoding, wait: Callable[[int], None]
    ) -> None:
        self._handle, self.shape, self._encoding, self._wait = handle, shape, encoding, wait

    def read(self, block: Slice2D, bands: Sequence[int]) -> NDArray[np.float32]:
        """Reflectance of some bands of a block, shape (band, row, col), NaN where there is no data.

        Waits for rows that are still to come.

        Raises
        ------
        RowsGivenUpError
            They will not come.
        """
        self._wait(block.row1)
        count, _, width = self.shape
        size = self._encoding.dtype.itemsize
        stored = np.empty((len(bands), *block.shape), self._encoding.dtype)
        for row in range(block.shape[0]):
            line = (block.row0 + row) * count
            for index, band in enumerate(bands):
                _read_all(self._handle, stored[index, row], ((line + band) * width + block.col0) * size)
        return self._encoding.decode(stored)

    def close(self) -> None:
        """Release the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def refuse_foreign(folder: Path) -> None:
    """Make sure that what lies where a journal is to be is one, or nothing.

    Files that somebody put beside those of a journal are left where they are.

    Raises
    ------
    OutputError
        It is something else.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_dir() and not folder.is_symlink():
        names = sorted(item.name for item in folder.iterdir())
        if MANIFEST_NAME in names or all(name in OWN_NAMES for name in names):
            return
    raise OutputError(
        f"{folder} is in the way and was not made by hsfuse.", hint="Move it, or choose another name for the output."
    )


def has_rows(folder: Path) -> bool:
    """Whether a journal of an interrupted run lies there."""
    return (folder / MANIFEST_NAME).is_file()


def remove_journal(folder: Path) -> None:
    """Delete a journal's own files and, unless somebody put more into it, its folder."""
    for name in OWN_NAMES:
        remove(folder / name)
    # Whatever else lies there is not the journal's to delete.
    with contextlib.suppress(OSError):
        folder.rmdir()


class Journal:
    """Rows of one output on their way to the disk.

    Parameters
    ----------
    folder
        ``<output>.part``; made when missing.
    shape
        (band, row, col) of the whole cube.
    encoding
        Type and scale of the stored samples.
    facts
        JSON-serialisable facts that two runs must share for one to go on with the other's rows.
    record
        JSON-serialisable record of the run, not compared; a continued run finds the first run's in
        :attr:`record`, so that both give the same product.
    resume
        Keep the rows of an interrupted run with the same facts.
    plan
        JSON-serialisable way of working that depends on the machine, such as tiles; not compared. A continued run
        finds the first run's in :attr:`plan` and keeps to it.

    Raises
    ------
    OutputError
        Another process writes to the folder, the folder holds foreign files, or (``resume``) the interrupted run
        had other facts.
    """

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, int, int],
        encoding: SampleEncoding,
        facts: Mapping[str, Any],
        *,
        record: Mapping[str, Any],
        resume: bool,
        plan: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.shape = shape
        self.encoding = encoding
        self._header: dict[str, Any] = json.loads(
            json.dumps({"schema": SCHEMA, "shape": list(shape), "dtype": encoding.dtype.str, "facts": dict(facts)})
        )
        self._row_bytes = shape[0] * shape[2] * encoding.dtype.itemsize
        self.record = dict(record)
        self.plan: dict[str, Any] = dict(plan or {})
        self.rows_done = 0
        self._readable, self._grown, self._given_up = 0, threading.Condition(), False
        refuse_foreign(folder)
        folder.mkdir(exist_ok=True)
        self._lock = lock_folder(folder)
        try:
            self.rows_done = self._recorded_rows() if resume else 0
            if self.rows_done == 0:
                self._discard_old(expected=resume)
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
            self._handle = os.open(self.rows_path, flags, 0o666)
            os.ftruncate(self._handle, self.rows_done * self._row_bytes)
            self._readable = self.rows_done
            self._save()
        except BaseException:
            unlock(self._lock)
            raise

    @property
    def rows_path(self) -> Path:
        """File with the stored rows."""
        return self.folder / ROWS_NAME

    @property
    def raw_file(self) -> Path:
        """The same file, as what a product may be built from."""
        return self.rows_path

    @property
    def complete(self) -> bool:
        """Whether all rows are there."""
        return self.rows_done == self.shape[1]

    def append(self, row0: int, data: NDArray[Any]) -> None:
        """Encode and store rows ``[row0, row0 + rows)``; they are safe on return.

        Parameters
        ----------
        row0
            Must be :attr:`rows_done`.
        data
            Reflectance, float32, or samples that are stored integers already; shape (band, rows, col).

        Raises
        ------
        OutputError
            The rows do not follow, or do not fit the cube.
        OSError
            The disk refuses them.
        """
        bands, height, width = self.shape
        if data.ndim != 3 or data.shape[0] != bands or data.shape[2] != width:
            raise OutputError(f"Rows of shape {data.shape} do not fit a cube of {bands} bands and {width} columns.")
        if row0 != self.rows_done or row0 + data.shape[1] > height:
            raise OutputError(
                f"Rows {row0} to {row0 + data.shape[1]} cannot follow the {self.rows_done} of {height} done rows."
            )
        is_stored = self.encoding.is_integer and data.dtype == self.encoding.dtype
        step = max(1, _WRITE_BYTES // self._row_bytes if is_stored else _ENCODE_BYTES // (bands * width * 8))
        os.lseek(self._handle, row0 * self._row_bytes, os.SEEK_SET)
        for first in range(0, data.shape[1], step):
            part = data[:, first : first + step]
            stored = part if is_stored else self.encoding.encode(part)
            write_all(self._handle, np.ascontiguousarray(stored.transpose(1, 0, 2)))
            # What is built of them, or judged, need not wait until they are safe: without them it is made anew.
            self._tell(row0 + first + part.shape[1])
        os.fsync(self._handle)
        reached("rows stored")
        self.rows_done = row0 + data.shape[1]
        self._save()
        reached("rows counted")

    def _tell(self, rows: int) -> None:
        with self._grown:
            self._readable = rows
            self._grown.notify_all()

    def wait_for(self, rows: int) -> None:
        """Wait until the first ``rows`` rows can be read; another thread appends them.

        Raises
        ------
        RowsGivenUpError
            They will not come.
        """
        with self._grown:
            self._grown.wait_for(lambda: self._readable >= rows or self._given_up)
            if self._readable < rows:
                raise RowsGivenUpError(f"Only {self._readable} of {rows} wanted rows were written.")

    def give_up(self) -> None:
        """Say that no further rows come: whoever waits for them is told."""
        with self._grown:
            self._given_up = True
            self._grown.notify_all()

    def read(self, row0: int, rows: int, band0: int = 0, band1: int | None = None) -> NDArray[Any]:
        """Stored samples of rows that are written, bands ``[band0, band1)``, shape (band, rows, col)."""
        bands, _, width = self.shape
        last = bands if band1 is None else band1
        if row0 < 0 or row0 + rows > self._readable:
            raise OutputError(f"Rows {row0} to {row0 + rows} are not written yet ({self._readable} are).")
        lines = np.empty((rows, last - band0, width), dtype=self.encoding.dtype)
        start = band0 * width * self.encoding.dtype.itemsize
        if last - band0 == bands:
            _read_all(self._handle, lines, row0 * self._row_bytes)
        else:
            for line in range(rows):
                _read_all(self._handle, lines[line], (row0 + line) * self._row_bytes + start)
        return np.ascontiguousarray(lines.transpose(1, 0, 2))

    def view(self) -> StoredRows:
        """Return a reader of the rows, also of those to come; it stays valid when the journal is closed or removed."""
        return StoredRows(os.dup(self._handle), self.shape, self.encoding, self.wait_for)

    def close(self) -> None:
        """Release the files and the lock; the rows stay."""
        self.give_up()
        for handle in (self._handle, self._lock):
            with contextlib.suppress(OSError):
                os.close(handle)
        self._handle = self._lock = -1

    def remove(self) -> None:
        """Close, and delete the folder with everything that belongs to the journal."""
        self.close()
        remove_journal(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _recorded_rows(self) -> int:
        """Rows of an interrupted run that can be kept."""
        path = self.folder / MANIFEST_NAME
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            rows = int(manifest.pop("rows_done"))
            record = dict(manifest.pop("record"))
            plan = dict(manifest.pop("plan", {}))
        except FileNotFoundError:
            return 0
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(
                f"The record of the interrupted run, {path}, is damaged.", hint="Start anew without --resume."
            ) from error
        if manifest != self._header:
            names = ", ".join(_differences(manifest, self._header)) or "everything"
            raise another_interrupted_run(self.folder, names)
        size = self.rows_path.stat().st_size if self.rows_path.is_file() else 0
        if not 0 <= rows <= self.shape[1] or size < rows * self._row_bytes:
            raise OutputError(
                f"The rows of the interrupted run, {self.rows_path}, are damaged ({size} bytes for {rows} rows).",
                hint="Start anew without --resume.",
            )
        if rows:
            self.record, self.plan = record, plan
        return rows

    def _discard_old(self, *, expected: bool) -> None:
        leftovers = [name for name in OWN_NAMES if name != LOCK_NAME and (self.folder / name).exists()]
        if leftovers and not expected:
            _log.warning("discarding the interrupted run in %s (--resume would have gone on with it)", self.folder)
        for name in leftovers:
            remove(self.folder / name)

    def _save(self) -> None:
        content = json.dumps(
            self._header | {"record": self.record, "plan": self.plan, "rows_done": self.rows_done},
            sort_keys=True,
        )
        write_durably(self.folder / MANIFEST_NAME, content + "\n")


def another_interrupted_run(folder: Path, names: str) -> OutputError:
    """Return the error of a journal whose run differs in what ``names`` tell from the one that would go on with it."""
    return OutputError(
        f"The interrupted run in {folder} was another one (it differs in: {names}).",
        hint="Repeat it with the same settings and inputs, or start anew without --resume.",
    )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    names = [key for key in new if key != "facts" and old.get(key) != new[key]]
    facts_old, facts_new = old.get("facts", {}), new["facts"]
    return names + [key for key in facts_new if not isinstance(facts_old, dict) or facts_old.get(key) != facts_new[key]]


def _read_all(handle: int, array: NDArray[Any], offset: int) -> None:
    if not read_at(handle, array, offset):
        raise OutputError("The rows of the unfinished output end too early.", hint="Start anew without --resume.")
