"""The C structures of the kernels, as ctypes sees them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch

from hsfuse.errors import MemoryBudgetError

FLOAT_FIELDS = (
    "ln_weight", "ln_bias", "w_in", "w_out", "conv_weight", "conv_bias", "dt_bias", "decay", "skip", "rms_weight",
)  # fmt: skip
HALF_FIELDS = ("w_in_half", "w_out_half")
GRADIENT_FIELDS = ("conv_weight", "conv_bias", "dt_bias", "decay", "skip", "rms_weight")
TAPS = 4
"""Width of the causal convolution that the kernels know."""
ROWS = 8
"""Rows of the matrix products' largest block; a multiple of all others."""
MULTIPLE = 16
"""Widths must be multiples of the widest vector."""


class Block(ctypes.Structure):
    """Mirror of ``hsf_block``."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("width", "inner", "state", "headdim", "residual", "has_norm")),
        *((name, ctypes.c_float) for name in ("ln_eps", "rms_eps")),
        *((name, ctypes.c_void_p) for name in (*FLOAT_FIELDS, *HALF_FIELDS)),
    )


class Layout(ctypes.Structure):
    """Mirror of ``hsf_layout``."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("n_seq", "length", "in_seq", "in_token", "out_seq", "out_token")),
        ("half", ctypes.c_int32),
    )


class Gradients(ctypes.Structure):
    """Mirror of ``hsf_gradients``."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in GRADIENT_FIELDS)


def fits(d_model: int, headdim: int, d_state: int, d_conv: int) -> bool:
    """Whether the kernels know a block of these sizes."""
    return d_conv == TAPS and not any(n % MULTIPLE for n in (d_model, headdim, 2 * d_state))


def run_parallel(part: Callable[[int, int, int], int], count: int) -> None:
    """Call ``part(worker, first, last)`` for the shares of ``count`` sequences, one thread each.

    ctypes releases the interpreter's lock during a call, so plain threads run side by side.

    Raises
    ------
    MemoryBudgetError
        A call reports that there is no memory for its workspace.
    """
    threads = worker_count(count)
    bounds = [(worker, count * worker // threads, count * (worker + 1) // threads) for worker in range(threads)]
    if threads == 1:
        results = [part(*bounds[0])]
    else:
        results = list(_pool(os.getpid(), threads).map(lambda share: part(*share), bounds))
    if any(results):
        raise MemoryBudgetError("There is no memory left for the Mamba kernels.", hint="Use smaller tiles.")


def worker_count(count: int) -> int:
    """Threads that share ``count`` sequences."""
    return max(1, min(torch.get_num_threads(), count))


@lru_cache(maxsize=4)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:  # noqa: ARG001 - a forked process needs its own
    return ThreadPoolExecutor(threads, thread_name_prefix="hsfuse-mamba")
