"""Where in the scene the tiles lie that a method is fusing: for random draws that belong to places.

A method's result must not depend on how a scene is cut, so methods are not told; but one that samples has to give
every pixel the same random numbers in any tiling. Whatever wraps a method hands whole tiles on, so the places are known
to the thread and need no argument through all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

Place = tuple[int, int]
"""(row, col) of a tile's first pixel in the scene, HSI pixels."""


@dataclass
class Places:
    """Places of the tiles of one call, and whether anybody ``asked`` for them."""

    known: tuple[Place, ...] = ()
    asked: bool = False


_PLACES: ContextVar[Places] = ContextVar("places")


@contextmanager
def at_places(places: Sequence[Place]) -> Iterator[Places]:
    """Fuse tiles that lie there, one place for each tile of the batch."""
    told = Places(tuple(places))
    token = _PLACES.set(told)
    try:
        yield told
    finally:
        _PLACES.reset(token)


def tile_places(count: int) -> tuple[Place, ...]:
    """Places of the ``count`` tiles that are being fused; the scene's origin where nobody says."""
    told = _PLACES.get(None)
    if told is None:
        return ((0, 0),) * count
    told.asked = True
    return told.known if len(told.known) == count else ((0, 0),) * count
