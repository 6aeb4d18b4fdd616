"""Set-up of a process that belongs to hsfuse: that of the command line, and workers that it starts.

Importing hsfuse or calling its functions does none of this: a process that is somebody else's stays as it is.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hsfuse import allocator
from hsfuse.thread_start import raise_where_threads_cannot_start

_FOREIGN = ("PROJ_DATA", "PROJ_LIB", "GDAL_DATA", "GDAL_DRIVER_PATH")
_GDAL_CACHE_MB = "128"
_PRIMITIVES = "128"
_OPEN_FILES = 1024
_GDAL_LOGGER = "rasterio._env"
"""Where rasterio sends GDAL's messages."""
_PRIMITIVE_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
OPENBLAS_THREADS = "OPENBLAS_NUM_THREADS"
BLAS_THREADS = (OPENBLAS_THREADS, "MKL_NUM_THREADS", "BLIS_NUM_THREADS")

dropped_variables: dict[str, str] = {}
"""Variables of another GDAL or PROJ (an activated QGIS or conda shell) that were taken out of this process."""
_own = False


def is_own() -> bool:
    """Tell whether this process belongs to hsfuse."""
    return _own


def own_process(*, keep_freed_memory: bool = False, one_blas_thread: bool = False) -> None:
    """Set up this process for hsfuse alone; to be called before rasterio and torch are imported.

    Foreign PROJ and GDAL data folders are dropped: rasterio's wheels bring their own data, and a variable that points
    at another version's database makes every reference system fail. Where rasterio uses the system's libraries
    (conda) the variables are right and stay. GDAL's block cache is bounded, none of its messages is lost, idle threads
    sleep, NumPy and SciPy multiply with one thread, and threads that cannot start say so.

    Parameters
    ----------
    keep_freed_memory
        Large arrays come and go: use freed memory again (see :mod:`hsfuse.allocator`).
    one_blas_thread
        All matrix libraries work with one thread, torch's too: then they start no others either.
    """
    global _own

    _own = True
    if _bundles_proj():
        for name in _FOREIGN:
            value = os.environ.pop(name, None)
            if value is not None:
                dropped_variables[name] = value
    # GDAL's default is 5 % of the memory, for each process: a hidden user of gigabytes on large machines.
    os.environ.setdefault("GDAL_CACHEMAX", _GDAL_CACHE_MB)
    # oneDNN, and PyTorch's door to it once more, keep what they have prepared for 1024 shapes. Tiles are cut to what is
    # valid, so that hardly one shape comes twice: over a whole scene that grew to half a gigabyte. One tile needs about
    # a hundred, a step of training some dozens.
    for cache in _PRIMITIVE_CACHES:
        os.environ.setdefault(cache, _PRIMITIVES)
    # Threads that wait for each other by spinning become many times slower as soon as another process wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Those of OpenBLAS do nothing else, whatever the policy. Products of NumPy and SciPy are small here, and hsfuse
    # works on several of them side by side.
    os.environ.setdefault(OPENBLAS_THREADS, "1")
    _allow_open_files()
    raise_where_threads_cannot_start()
    sys.unraisablehook = undecodable_messages_to_log(sys.unraisablehook)
    if one_blas_thread:
        os.environ.update(dict.fromkeys(BLAS_THREADS, "1"))
    if keep_freed_memory:
        allocator.keep_freed_memory()


@contextmanager
def bounded_block_cache() -> Iterator[None]:
    """Inside somebody's program, bound GDAL's cache of decoded blocks for a while, unless they have done so."""
    if _own or "GDAL_CACHEMAX" in os.environ:
        yield
        return
    import rasterio

    with rasterio.Env(GDAL_CACHEMAX=int(_GDAL_CACHE_MB) << 20):
        yield


def undecodable_messages_to_log(others: Callable[[Any], object]) -> Callable[[Any], object]:
    """Return a hook for exceptions that nobody can catch, which passes on GDAL's messages that are not UTF-8.

    GDAL repeats names out of damaged files in its messages, and rasterio decodes each message inside a function that
    GDAL calls: what fails there cannot be caught, Python prints it as "Exception ignored", and the message is lost. It
    may be the only word of a damaged image, so it goes where all others go.

    Parameters
    ----------
    others
        What takes all other exceptions, such as the present ``sys.unraisablehook``.
    """

    def hook(unraisable: Any) -> None:
        error = unraisable.exc_value
        if isinstance(error, UnicodeDecodeError) and str(unraisable.object).startswith(_GDAL_LOGGER):
            text = error.object.decode("utf-8", "backslashreplace")
            logging.getLogger(_GDAL_LOGGER).warning("%s", text)
        else:
            others(unraisable)

    return hook


def has_one_blas_thread() -> bool:
    """Tell whether matrix libraries that are loaded from now on work with one thread."""
    return all(os.environ.get(name) == "1" for name in BLAS_THREADS)


def _allow_open_files() -> None:
    """Raise the limit of open files where it is low and may be raised."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < enough:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def _bundles_proj() -> bool:
    spec = importlib.util.find_spec("rasterio")
    return bool(spec and spec.origin and (Path(spec.origin).parent / "proj_data" / "proj.db").is_file())
