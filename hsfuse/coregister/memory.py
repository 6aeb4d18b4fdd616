"""Giving freed memory back between stages: what one has freed is of the wrong sizes for the next."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from functools import cache
from typing import Any


def give_back() -> None:
    """Return freed memory to the system, where the C library keeps it (glibc)."""
    trim = _malloc_trim()
    if trim is not None:
        trim(ctypes.c_size_t(0))


@cache
def _malloc_trim() -> Callable[..., Any] | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    try:
        found: Callable[..., Any] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None
    return found
