"""The same numbers on every run: algorithms without atomic additions, and random numbers by seed and step."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from hsfuse.errors import UsageError

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_TWO_BUFFERS = ":4096:8"
"""Workspace with which cuBLAS gives the same sums every time (NVIDIA, cuBLAS, "Results reproducibility")."""
_NO_SUCH_FORM = "does not have a deterministic implementation"


@contextmanager
def deterministic_algorithms(on: bool = True) -> Iterator[None]:
    """Let PyTorch use deterministic algorithms only, and leave the process as it was.

    Without it, convolutions and additions into shared memory on a GPU may differ in the last digits from run to run.
    On a CPU training is deterministic anyway for one number of threads.

    Parameters
    ----------
    on
        False changes nothing.

    Raises
    ------
    UsageError
        Something in the block has no deterministic algorithm on its device.
    """
    if not on:
        yield
        return
    cudnn = torch.backends.cudnn
    mode, benchmark, exact = torch.get_deterministic_debug_mode(), cudnn.benchmark, cudnn.deterministic
    workspace = os.environ.get(_WORKSPACE)
    if workspace is None:
        os.environ[_WORKSPACE] = _TWO_BUFFERS
    cudnn.benchmark, cudnn.deterministic = False, True
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if _NO_SUCH_FORM not in text:
            raise
        raise UsageError(
            f"The network uses {text.split()[0]}, which has no deterministic form on this device.",
            hint="Leave out --deterministic.",
        ) from error
    finally:
        torch.set_deterministic_debug_mode(mode)
        cudnn.benchmark, cudnn.deterministic = benchmark, exact
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)


def step_seed(seed: int, step: int, group: int, rank: int) -> int:
    """Seed of what is random inside a network (dropout) in one step of one group in one process.

    A function of these four alone: an interrupted training goes on exactly, and no two processes drop the same.
    """
    return int(np.random.SeedSequence([seed, 13, step, group, rank]).generate_state(1, np.uint64)[0] >> 1)
