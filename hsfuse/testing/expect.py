"""Checks that hold under ``python -O`` too."""

from __future__ import annotations


def expect(condition: object, message: str) -> None:
    """Raise AssertionError with a sentence unless a condition holds."""
    if not condition:
        raise AssertionError(message)
