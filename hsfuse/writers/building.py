"""Building a product beside the making of its rows: what is finished is compressed while the rest is still computed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hsfuse.log import get_logger
from hsfuse.writers.format import ignore
from hsfuse.writers.journal import Journal, RowsGivenUpError

_log = get_logger(__name__)

Advance = Callable[[float], None]


class RowsToCome:
    """The rows of a journal as what a product is built from: reading waits for those that are still to come.

    Parameters
    ----------
    journal
        Where another thread appends rows.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def shape(self) -> tuple[int, int, int]:
        """(band, row, col) of the whole cube."""
        return self._journal.shape

    @property
    def raw_file(self) -> Path | None:
        """File that holds the samples; None before all are there."""
        return self._journal.raw_file if self._journal.complete else None

    def read(self, row0: int, rows: int, band0: int = 0, band1: int | None = None) -> NDArray[Any]:
        """Stored samples of bands ``[band0, band1)``, shape (band, rows, col).

        Raises
        ------
        RowsGivenUpError
            The rows will not come.
        """
        self._journal.wait_for(row0 + rows)
        return self._journal.read(row0, rows, band0, band1)


class BuildingBeside:
    """A product that a thread builds while its rows are made.

    Parameters
    ----------
    build
        ``build(rows, advance)`` builds it; must leave nothing behind when it fails.
    journal
        Where the rows go.
    """

    def __init__(self, build: Callable[[RowsToCome, Advance], None], journal: Journal) -> None:
        self._journal, self._done = journal, 0.0
        self._shown: Advance = ignore
        self._lock = threading.Lock()
        self._result: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, args=(build,), name="hsfuse-build", daemon=True)
        self._thread.start()

    def _work(self, build: Callable[[RowsToCome, Advance], None]) -> None:
        try:
            build(RowsToCome(self._journal), self._advance)
        except BaseException as error:
            self._result.set_exception(error)
        else:
            self._result.set_result(None)

    def _advance(self, rows: float) -> None:
        with self._lock:
            self._done += rows
            self._shown(rows)

    def finish(self, advance: Advance) -> bool:
        """Wait for the product once all rows are there; False where it has to be built anew.

        What stopped it, such as a disk that was full for a moment, is met again by whoever builds it anew.
        """
        with self._lock:
            advance(self._done)
            self._shown = advance
        self._thread.join()
        error = self._result.exception()
        if error is not None:
            _log.warning("What was built while rows were made is lost (%s); it is built anew from them.", error)
            advance(-self._done)
        return error is None

    def give_up(self) -> None:
        """End without a product: no further rows come."""
        self._journal.give_up()
        self._thread.join()
        error = self._result.exception()
        if error is not None and not isinstance(error, RowsGivenUpError):
            _log.debug("the product that was being built was given up: %s", error)
