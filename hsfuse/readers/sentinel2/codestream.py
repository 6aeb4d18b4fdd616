"""Whether a JPEG 2000 file is whole, by its structure: nothing is decoded.

A decoder fills what it cannot read, and complains only where damage breaks its syntax. Two kinds of damage that it may
pass over leave traces here. Compressed samples hardly hold two zero bytes in a row, so a long run of zeros is a hole:
a part that was never downloaded, or that a disk has lost. And behind each part of a tile lies the next one, or the end
of the image. Source: ISO/IEC 15444-1, annexes A (markers), B.6 to B.10 (precincts and packets), I (boxes).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

_SIGNATURE = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_SOC, _SIZ, _COD, _SOT, _EOC = b"\xff\x4f", b"\xff\x51", b"\xff\x52", b"\xff\x90", b"\xff\xd9"
_HOLE_BYTES = 4096
"""A sector of a disk; the shortest run of zeros that is taken for a hole."""
_PIECE = 1 << 20
_LARGEST_HEADER = 1 << 20


class _BrokenError(Exception):
    """The file ends, or goes on with something else, where a part of the image was to follow."""


@dataclass(frozen=True)
class _Layout:
    """What the main header says: number of tiles, and packets of one tile, each of which may be a zero byte."""

    tiles: int
    packets: int


class _Cursor:
    """Reads a stream from its start to its end, in pieces."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.place = 0

    def take(self, count: int) -> bytes:
        """Exactly so many bytes."""
        content = self._stream.read(count)
        self.place += len(content)
        if len(content) < count:
            raise _BrokenError(f"the file ends after {self.place} bytes")
        return content

    def skip(self, count: int, hole: bytes | None = None) -> None:
        """Pass over so many bytes (all that are left where negative), and look for a ``hole`` in them."""
        last = b""
        while count:
            piece = self._stream.read(min(_PIECE, count) if count > 0 else _PIECE)
            if not piece:
                if count > 0:
                    raise _BrokenError(f"the file ends after {self.place} bytes")
                return
            if hole is not None:
                seen = last + piece
                found = seen.find(hole)
                if found >= 0:
                    raise _BrokenError(f"it holds nothing but zeros from byte {self.place - len(last) + found} on")
                last = seen[-len(hole) + 1 :]
            self.place += len(piece)
            count -= len(piece) if count > 0 else 0


def damage_of(stream: BinaryIO) -> str | None:
    """Say what is wrong with a JPEG 2000 file; None where nothing is, or where it is of another kind.

    Parameters
    ----------
    stream
        The file, at its start; it is read to its end.

    Returns
    -------
    str or None
        A clause, such as "the file ends after 1000 bytes".
    """
    cursor = _Cursor(stream)
    try:
        if not _find_codestream(cursor):
            cursor.skip(-1)
            return None
        layout = _read_header(cursor)
        if layout is not None:
            _walk(cursor, layout)
        cursor.skip(-1)
    except _BrokenError as broken:
        return str(broken)
    return None


def _find_codestream(cursor: _Cursor) -> bool:
    """Go to the first byte behind the start of the codestream; False where this is no JPEG 2000 file."""
    try:
        start = cursor.take(len(_SIGNATURE))
    except _BrokenError:
        return False
    if start != _SIGNATURE:
        return False
    while True:
        size, kind = struct.unpack(">I4s", cursor.take(8))
        head = 8
        if size == 1:
            (size,) = struct.unpack(">Q", cursor.take(8))
            head = 16
        if kind == b"jp2c":
            return cursor.take(2) == _SOC
        if size < head:
            # To the end of the file, or nonsense: the decoder says what it thinks of it.
            return False
        cursor.skip(size - head)


def _read_header(cursor: _Cursor) -> _Layout | None:
    """Read the main header up to the first part of a tile; None where it cannot be understood."""
    found: dict[bytes, bytes] = {}
    start = cursor.place
    while (marker := cursor.take(2)) != _SOT:
        if marker[0] != 0xFF or cursor.place - start > _LARGEST_HEADER:
            return None
        (size,) = struct.unpack(">H", cursor.take(2))
        if size < 2:
            return None
        found.setdefault(marker, cursor.take(size - 2))
    try:
        return _layout(found[_SIZ], found[_COD])
    except (KeyError, IndexError, ZeroDivisionError, struct.error):
        return None


def _layout(siz: bytes, cod: bytes) -> _Layout:
    _, x1, y1, x0, y0, tile_x, tile_y, tile_x0, tile_y0, components = struct.unpack(">H8IH", siz[:36])
    across, down = -(-(x1 - tile_x0) // tile_x), -(-(y1 - tile_y0) // tile_y)
    own_precincts, layers, levels = cod[0] & 1, struct.unpack(">H", cod[2:4])[0], cod[5]
    precincts = 0
    for level in range(levels + 1):
        size = cod[10 + level] if own_precincts else 0xFF
        shrunk = 2 ** (levels - level)
        # One more on each side: precincts are cut where the reference grid says, not where the tile begins.
        wide = (min(tile_x, x1 - x0) / shrunk) // 2 ** (size & 15) + 2
        high = (min(tile_y, y1 - y0) / shrunk) // 2 ** (size >> 4) + 2
        precincts += int(wide * high)
    return _Layout(across * down, layers * components * precincts)


def _walk(cursor: _Cursor, layout: _Layout) -> None:
    """Go from part to part of the tiles; the first marker was read."""
    hole = bytes(max(_HOLE_BYTES, 2 * layout.packets))
    seen: set[int] = set()
    while True:
        start = cursor.place - 2
        _, tile, size, _, _ = struct.unpack(">HHIBB", cursor.take(10))
        seen.add(tile)
        if size == 0:
            # The last part, which goes on to the end of the image.
            cursor.skip(-1, hole)
            break
        if size < 14 and size != 12:
            raise _BrokenError(f"the part of a tile at byte {start} has an impossible length")
        cursor.skip(size - 12, hole)
        try:
            marker = cursor.take(2)
        except _BrokenError:
            # Some writers leave the end marker out.
            marker = _EOC
        if marker == _EOC:
            break
        if marker != _SOT:
            raise _BrokenError(f"no part of a tile follows at byte {cursor.place - 2}, where one belongs")
    missing = layout.tiles - len(seen)
    if missing > 0:
        raise _BrokenError(f"{missing} of {layout.tiles} tiles are missing")
