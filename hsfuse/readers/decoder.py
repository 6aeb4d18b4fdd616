"""What GDAL complains of in passing: a damaged image may still come out, with wrong pixels or without its metadata."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_HARMLESS = ("Empty SOT marker",)
"""Complaints that images of the official processor earn though nothing is wrong."""


class DecoderError(Exception):
    """The decoder warned of damage."""


class _Collector(logging.Handler):
    """Keeps GDAL's warnings of the present thread, as rasterio logs them."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._own = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        heard: list[str] | None = getattr(self._own, "heard", None)
        if heard is not None:
            heard.append(record.getMessage())

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        outer = getattr(self._own, "heard", None)
        heard: list[str] = []
        self._own.heard = heard
        try:
            yield heard
        finally:
            self._own.heard = outer


_COLLECTOR = _Collector()
_GDAL = logging.getLogger("rasterio._env")


@contextmanager
def gdal_warnings() -> Iterator[list[str]]:
    """Collect what GDAL warns of in this thread, inside a :class:`rasterio.Env`; harmless remarks are left out."""
    if _COLLECTOR not in _GDAL.handlers:
        _GDAL.addHandler(_COLLECTOR)
    serious: list[str] = []
    with _COLLECTOR.listening() as heard:
        yield serious
    serious += dict.fromkeys(text for text in heard if not any(known in text for known in _HARMLESS))


@contextmanager
def decoder_warnings_are_errors() -> Iterator[None]:
    """Raise at the end of the body when GDAL warned of anything in this thread.

    Raises
    ------
    DecoderError
        With the first warning.
    """
    with gdal_warnings() as serious:
        yield
    if serious:
        raise DecoderError(serious[0])
