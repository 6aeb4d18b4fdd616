"""What this process may use of the processor."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Cores that this process may use: fewer than there are where it was bound to some of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
