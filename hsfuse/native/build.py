"""Build C kernels once into the user's cache, for the instruction set of this processor, and load them.

No compiler, no cache folder or a failing build are no errors: the plain twin of each kernel serves then, and the
reason is kept for ``hsfuse doctor``. ``HSFUSE_NATIVE`` overrides the choice: ``off``, or an instruction set
(``avx512_bf16``, ``avx512``, ``avx2``, ``baseline``).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsfuse.log import get_logger

if TYPE_CHECKING:
    from numpy.typing import NDArray

OVERRIDE = "HSFUSE_NATIVE"
_COMMON_FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
_AVX512 = ("-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mavx2", "-mfma", "-mprefer-vector-width=512")
ISA_FLAGS = {
    "avx512_bf16": (*_AVX512, "-mavx512bf16"),
    "avx512": _AVX512,
    "avx2": ("-mavx2", "-mfma"),
    "baseline": ("-Wno-psabi",),
}
_NEEDED = {
    "avx512_bf16": {"avx512f", "avx512vl", "avx512bw", "avx512dq", "avx2", "fma", "avx512_bf16"},
    "avx512": {"avx512f", "avx512vl", "avx512bw", "avx512dq", "avx2", "fma"},
    "avx2": {"avx2", "fma"},
}
_LANES = {"avx512_bf16": 16, "avx512": 16, "avx2": 8, "baseline": 4}
_BUILD_SECONDS = 120
_LOCK = threading.Lock()
_log = get_logger(__name__)


@dataclass(frozen=True)
class KernelSource:
    """A C file to compile, and what it includes.

    Attributes
    ----------
    name
        Start of the shared object's name.
    files
        The file to compile first; changes of the others cause a new build too.
    """

    name: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class NativeLibrary:
    """Loaded kernels.

    Attributes
    ----------
    library
        The functions.
    isa
        Instruction set that it was built for.
    path
        The shared object.
    """

    library: ctypes.CDLL
    isa: str
    path: Path


def plane_kernels(name: str, *headers: str) -> KernelSource:
    """Return the source of kernels for image planes that lies beside this module, with headers of its own."""
    here = Path(__file__)
    return KernelSource(name, tuple(here.with_name(file) for file in (f"{name}.c", "planes.h", *headers)))


class _UnavailableError(Exception):
    """Why there is no compiled path."""


def pointer(array: NDArray[Any] | None) -> ctypes.c_void_p:
    """Address of an array's first element for a kernel, which keeps the array; none for no array.

    Without that a call with an array made on the spot would be given memory that was freed before it began.
    """
    if array is None:
        return ctypes.c_void_p(None)
    address: ctypes.c_void_p = array.ctypes.data_as(ctypes.c_void_p)
    return address


@dataclass(frozen=True)
class Kernels:
    """Kernels that are loaded, and built, when they are first asked for.

    Attributes
    ----------
    source
        What to build.
    plain
        What serves where they cannot be had, for reports.
    """

    source: KernelSource
    plain: str

    def loaded(self) -> NativeLibrary | None:
        """Return the kernels; None where there is no compiled path."""
        return _loaded(self.source, os.environ.get(OVERRIDE, ""))[0]

    def library(self) -> ctypes.CDLL | None:
        """Return the functions; None where there is no compiled path."""
        found = self.loaded()
        return found.library if found else None

    def status(self) -> str:
        """One line for ``hsfuse doctor``: which path is taken on the CPU, and why."""
        found, reason = _loaded(self.source, os.environ.get(OVERRIDE, ""))
        return f"compiled ({found.isa}, {found.path})" if found else f"{self.plain} ({reason})"

    @staticmethod
    def forget() -> None:
        """Look for kernels anew when they are next asked for: the compiler or the cache's place has changed."""
        _loaded.cache_clear()


@lru_cache(maxsize=32)
def _loaded(source: KernelSource, override: str) -> tuple[NativeLibrary | None, str]:
    """Load kernels, building them on first use: the library and an empty text, or None and the reason."""
    with _LOCK:
        try:
            return _load(source, override), ""
        except (_UnavailableError, OSError, RuntimeError) as error:
            _log.debug("No compiled %s kernels: %s", source.name, error)
            return None, str(error)


def cache_folder() -> Path:
    """Where builds are kept: ``$XDG_CACHE_HOME/hsfuse/native``, by default under ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root else Path.home() / ".cache") / "hsfuse" / "native"


def _load(source: KernelSource, override: str) -> NativeLibrary:
    if override.lower() in ("off", "0", "no", "false"):
        raise _UnavailableError(f"switched off by {OVERRIDE}")
    compiler = _find_compiler()
    isa = override.lower() if override.lower() in ISA_FLAGS else best_isa()
    path = _path(source, isa, compiler)
    if not path.is_file():
        try:
            _build(source, compiler, isa, path)
        except _UnavailableError:
            if isa != "avx512_bf16":
                raise
            isa = "avx512"  # a compiler from before 2019
            path = _path(source, isa, compiler)
            if not path.is_file():
                _build(source, compiler, isa, path)
    if hasattr(os, "getuid") and path.stat().st_uid not in (os.getuid(), 0):
        raise _UnavailableError(f"{path} belongs to another user")
    library = ctypes.CDLL(str(path))
    if library.hsf_lanes() != _LANES[isa]:
        raise _UnavailableError(f"{path} was built for another instruction set")
    return NativeLibrary(library, isa, path)


def best_isa() -> str:
    """Return the richest instruction set of this processor that there are flags for."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return "baseline"
    flags = _processor_flags()
    return next((isa for isa, needed in _NEEDED.items() if needed <= flags), "baseline")


def multiplies_half() -> bool:
    """Whether this processor has units that multiply bfloat16 (AMX), and no other instruction set was asked for."""
    return not os.environ.get(OVERRIDE) and "amx_bf16" in _processor_flags()


@lru_cache(maxsize=1)
def _processor_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


def _find_compiler() -> list[str]:
    named = os.environ.get("CC", "")
    candidates = [shlex.split(named)] if named else []
    candidates += [["gcc"], ["clang"], ["cc"]]
    for command in candidates:
        if command and shutil.which(command[0]):
            return command
    raise _UnavailableError("no C compiler found; install gcc or clang for about twice the speed")


def _path(source: KernelSource, isa: str, compiler: list[str]) -> Path:
    """Where a build lies: the name is a key of source, flags, compiler and machine."""
    texts = [path.read_text(encoding="utf-8") for path in source.files]
    content = [*texts, *_COMMON_FLAGS, *ISA_FLAGS[isa], *compiler, platform.machine()]
    key = hashlib.sha256("\0".join(content).encode()).hexdigest()[:16]
    return cache_folder() / f"{source.name}-{isa}-{key}.so"


def _build(source: KernelSource, compiler: list[str], isa: str, path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Other processes may build at the same time: each writes its own file, the last rename wins.
    handle, part = tempfile.mkstemp(suffix=".so", prefix=".build-", dir=path.parent)
    os.close(handle)
    try:
        command = [*compiler, *_COMMON_FLAGS, *ISA_FLAGS[isa], "-o", part, str(source.files[0]), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
        if done.returncode != 0:
            raise _UnavailableError(f"{compiler[0]} failed: {done.stderr.strip().splitlines()[:1]}")
        Path(part).replace(path)
    except subprocess.TimeoutExpired as error:
        raise _UnavailableError(f"{compiler[0]} did not finish in {_BUILD_SECONDS} s") from error
    finally:
        Path(part).unlink(missing_ok=True)
    _log.debug("Built %s", path)
