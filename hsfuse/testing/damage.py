"""Ways to damage a file, for whoever tries how a reader bears it: equal random numbers, equal damage."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Damage = Callable[[bytes, random.Random], bytes]
WORDS = (
    b"nan", b"inf", b"-1", b"0", b"1e30", b"1e-30", b"", b"{", b"[[[[", b"true", b"9" * 20, b"\xff\xfe", b"a" * 5000,
    b"-9999", b"\0", b"../../../etc/passwd",
)  # fmt: skip
"""What is put where a number or a name was."""
_WORD = re.compile(rb"[0-9.]+|[A-Za-z_]{3,}")
_TEXT_BYTES = 200_000
_HEAD_BYTES = 6000
"""Structures lie mostly at the start of a file: most flipped bits do."""


def _words(raw: bytes, rng: random.Random) -> bytes:
    changed = bytearray(raw)
    spots = [match.span() for match in _WORD.finditer(raw[:_TEXT_BYTES])]
    for first, last in sorted(rng.sample(spots, min(len(spots), rng.choice((1, 2, 4)))), reverse=True):
        changed[first:last] = rng.choice(WORDS)
    return bytes(changed)


def _flip(raw: bytes, rng: random.Random) -> bytes:
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 5, 30))):
        changed[rng.randrange(min(_HEAD_BYTES, len(raw)) if rng.random() < 0.6 else len(raw))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.randrange(len(raw))]


def _hole(raw: bytes, rng: random.Random) -> bytes:
    first = rng.randrange(len(raw))
    length = min(rng.choice((4, 100, 5000)), len(raw) - first)
    return raw[:first] + bytes(length) + raw[first + length :]


def _insert(raw: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(raw))
    return raw[:place] + rng.choice([raw[place : place + 200], *WORDS]) + raw[place:]


DAMAGES: dict[str, Damage] = {"flip": _flip, "cut": _cut, "hole": _hole, "insert": _insert, "words": _words}
"""Flipped bits, a file that ends early, zeros, something put in between, and other numbers and names in a text."""
