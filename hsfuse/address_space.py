"""Limits of the address space (``ulimit -v``), looked at before libraries are loaded that do not survive one.

Where it has no room left, OpenBLAS asks for its buffers for ever, the system's loader ends the process, and modules
with compiled parts fail in ways that look like bugs. Other systems than Linux do not hold processes to this limit.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_MB = 1 << 20
_ARRAYS = 260 * _MB
"""What NumPy, SciPy, rasterio and h5py take with one thread for matrices (measured: 233 MB)."""
_TORCH_MODULES = 60 * _MB
"""What the modules that come with torch take besides its libraries (measured: 56 MB)."""
_WORK = 64 * _MB
"""Stacks of a few threads and the first small arrays."""
_FUSION = 236 * _MB
"""What fusing a small product takes besides (measured with the pair of ``hsfuse demo``: 290 MB).

OpenBLAS ends the process, with exit code 1, where it gets no buffer for its work.
"""
_BLAS_THREAD = 48 * _MB
"""Stack and buffers of one more thread for matrices, in each of the two copies of OpenBLAS (measured: 40 MB)."""


def limit() -> int | None:
    """Bytes that this process may map; None where nobody limits that."""
    if sys.platform != "linux":
        return None
    import resource

    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if soft == resource.RLIM_INFINITY else int(soft)


def needed(*, with_torch: bool, fuses: bool = False) -> int:
    """Bytes that this process maps once the libraries of a command are loaded, and a few threads have started.

    Parameters
    ----------
    with_torch
        Whether torch is among the libraries.
    fuses
        Whether the command fuses or trains: what the smallest scene takes is counted too.
    """
    return _mapped("VmSize") + _still_to_load(with_torch=with_torch) + _WORK + (_FUSION if fuses else 0)


def is_tight(cores: int) -> bool:
    """Tell whether threads for matrices, one for each core, would take a good part of what the process may map."""
    allowed = limit()
    return allowed is not None and allowed < 2048 * _MB + 4 * cores * _BLAS_THREAD


def was_used_up() -> bool:
    """Tell whether this process has come near the limit at some time: what fails then, fails for want of room."""
    allowed = limit()
    return allowed is not None and _mapped("VmPeak") > 0.75 * allowed


def _still_to_load(*, with_torch: bool) -> int:
    arrays = 0 if "scipy" in sys.modules else _ARRAYS
    if not with_torch or "torch" in sys.modules:
        return arrays
    spec = importlib.util.find_spec("torch")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    libraries = sum(
        path.stat().st_size for folder in folders for path in (Path(folder) / "lib").glob("lib*.so*") if path.is_file()
    )
    return arrays + _TORCH_MODULES + libraries


def _mapped(name: str) -> int:
    """Bytes that the process has mapped (``VmSize``), or had at most (``VmPeak``)."""
    for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 0
