"""The compiled kernels of the Mamba-2 block, see :mod:`hsfuse.native.build`."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from hsfuse.native.build import OVERRIDE, KernelSource, NativeLibrary, load_kernels

__all__ = ["OVERRIDE", "NativeLibrary", "native_library", "native_status"]

_FILES = ("mamba2_train.c", "mamba2.c", "elementwise.c", "draft.c")
SOURCE = KernelSource("mamba2", tuple(Path(__file__).with_name(name) for name in _FILES))


def native_library() -> NativeLibrary | None:
    """Return the kernels, building them on first use; None where that is not possible."""
    return _cached(os.environ.get(OVERRIDE, ""))[0]


def native_status() -> str:
    """One line for ``hsfuse doctor``: which path the Mamba blocks take on the CPU, and why."""
    library, reason = _cached(os.environ.get(OVERRIDE, ""))
    return f"compiled ({library.isa}, {library.path})" if library else f"plain PyTorch ({reason})"


@lru_cache(maxsize=8)
def _cached(override: str) -> tuple[NativeLibrary | None, str]:
    return load_kernels(SOURCE, override)
