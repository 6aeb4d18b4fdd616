"""Errors that a user can act on: one sentence, one hint, one exit code.

Every error that hsfuse raises on purpose derives from :class:`HsfuseError`. The command line turns it into
``error: <message>`` and ``hint: <hint>`` on stderr and exits with its code; a traceback appears only with
``--verbose``.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from hsfuse.address_space import was_used_up


class HsfuseError(Exception):
    """Base of every deliberate error.

    Parameters
    ----------
    message
        One sentence that names the file or option and says what is wrong with it.
    hint
        What the user can do about it; may be empty.
    """

    exit_code: int = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``Did you mean 'x'? `` with the nearest of the known names; empty where none is near."""
    from difflib import get_close_matches

    found = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"Did you mean '{found[0]}'? " if found else ""


class UsageError(HsfuseError):
    """Bad option, bad configuration file or options that contradict each other."""

    exit_code = 2


class InputError(HsfuseError):
    """An input is unreadable, damaged, or not the product that is needed."""

    exit_code = 3


class OverlapError(HsfuseError):
    """The inputs share no usable area (no overlap, all nodata, all cloud)."""

    exit_code = 4


class DisplacedPairError(OverlapError):
    """Both images are displaced locally, by more than what learns from their detail can bear."""


class CoregistrationError(HsfuseError):
    """The co-registration was rejected: no trustworthy alignment was found."""

    exit_code = 5


class MemoryBudgetError(HsfuseError):
    """The job does not fit in the memory that it may use, even with the smallest tiles."""

    exit_code = 6


class OutputError(HsfuseError):
    """The output exists, cannot be written, or the disk is full."""

    exit_code = 7


class DiskFullError(OutputError):
    """The disk has no room, or too little, for the output."""


class QualityError(HsfuseError):
    """The product was written but misses the quality thresholds that were asked for."""

    exit_code = 8


class BatchError(HsfuseError):
    """Some scenes of a batch failed."""

    exit_code = 9


class TrainingDivergedError(HsfuseError):
    """The loss of a training became infinite or grew without bounds."""

    exit_code = 10


class DeviceError(HsfuseError):
    """A GPU that was asked for is missing or cannot be used, or a GPU failed in the middle of its work."""

    exit_code = 11


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
_SHORT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE})
_NO_MEMORY = ("can't allocate memory", "out of memory", "std::bad_alloc")
_FROM_GPU = (
    "CUDA error",
    "CUDA out of memory",
    "CUDA driver error",
    "cuDNN error",
    "CUBLAS_STATUS_",
    "CUFFT_",
    "cuFFT error",
)
"""Of PyTorch's messages."""
_NO_GPU_MEMORY = ("out of memory", "_ALLOC_FAILED")
_NO_ROOM_FOR_LIBRARIES = ("failed to map segment", "llocate memory", "cannot map")
"""Of the system's loader."""


def explained(error: Exception) -> HsfuseError:
    """Return what a user can be told about any exception; what nobody expected is called a bug."""
    if isinstance(error, HsfuseError):
        return error
    text = str(error)
    if isinstance(error, RuntimeError) and any(t in text for t in _FROM_GPU):
        return _explained_gpu_error(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(t in text for t in _NO_MEMORY)):
        return MemoryBudgetError("The computer ran out of memory.", hint="Use --max-memory or a smaller --tile.")
    if isinstance(error, RuntimeError) and "can't start new thread" in text:
        return MemoryBudgetError(
            "The system allows no further threads.",
            hint="Use a smaller --threads, or raise the limits (ulimit -u, ulimit -v).",
        )
    if isinstance(error, ImportError) and any(t in text for t in _NO_ROOM_FOR_LIBRARIES):
        return MemoryBudgetError(
            "There is too little memory to load the libraries that this command needs.",
            hint="Raise the limit (ulimit -v), or free some memory.",
        )
    if isinstance(error, OSError):
        return _explained_os_error(error)
    if was_used_up():
        # Compiled parts of libraries do not look at every request for memory that is refused.
        return MemoryBudgetError(
            f"There is too little room in the address space ({type(error).__name__}: {text}).",
            hint="Raise the limit (ulimit -v), or use --max-memory or a smaller --tile.",
        )
    return HsfuseError(
        f"Unexpected error: {type(error).__name__}: {text}",
        hint="This is a bug in hsfuse; run again with --verbose and report the traceback.",
    )


def short_of_gpu_memory(error: BaseException) -> bool:
    """Tell whether PyTorch says by an error that the memory of a GPU was too small."""
    text = str(error)
    return (
        isinstance(error, RuntimeError) and any(t in text for t in _FROM_GPU) and any(t in text for t in _NO_GPU_MEMORY)
    )


def _explained_gpu_error(error: RuntimeError) -> HsfuseError:
    if short_of_gpu_memory(error):
        return MemoryBudgetError(
            "The GPU ran out of memory.",
            hint="Use --max-vram or a smaller --tile, end what else uses it, or --device cpu.",
        )
    first = str(error).splitlines()[0].rstrip(".")
    return DeviceError(
        f"The GPU failed: {first}.",
        hint="Rows that are done are kept: go on with --resume, on another --device (such as cpu) if need be.",
    )


def _explained_os_error(error: OSError) -> HsfuseError:
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    sentence = (error.strerror or str(error)).rstrip(".") + (f": {names[0]}" if names else "")
    if error.errno in _FULL:
        if error.errno == errno.ENOSPC:
            return DiskFullError("The disk is full.", hint="Free some space and use --resume.")
        return OutputError(f"{sentence}.", hint="Free some space, or write elsewhere; then use --resume.")
    if error.errno in _SHORT_OF_FILES:
        return MemoryBudgetError(
            "The system allows too few open files.", hint="Raise the limit, for instance with ulimit -n 1024."
        )
    if error.errno == errno.ENOMEM:
        return MemoryBudgetError("The computer ran out of memory.", hint="Use --max-memory or a smaller --tile.")
    return InputError(f"{sentence}.", hint="Check the path and the rights; --verbose shows where it happened.")


EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "unexpected error",
    2: "bad usage or configuration",
    3: "input unreadable or wrong product",
    4: "no usable overlap",
    5: "co-registration rejected",
    6: "out of memory after back-off, or of what the system allows",
    7: "output exists or is not writable",
    8: "quality thresholds failed (product written)",
    9: "batch: some scenes failed",
    10: "training diverged",
    11: "GPU missing, unusable or lost",
    129: "stopped by SIGHUP",
    130: "interrupted",
    143: "stopped by SIGTERM",
}
