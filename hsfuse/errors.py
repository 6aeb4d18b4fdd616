"""Errors that a user can act on: one sentence, one hint, one exit code.

Every error that hsfuse raises on purpose derives from :class:`HsfuseError`. The command line turns it into
``error: <message>`` and ``hint: <hint>`` on stderr and exits with its code; a traceback appears only with
``--verbose``.
"""

from __future__ import annotations


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


class UsageError(HsfuseError):
    """Bad option, bad configuration file or options that contradict each other."""

    exit_code = 2


class InputError(HsfuseError):
    """An input is unreadable, damaged, or not the product that is needed."""

    exit_code = 3


class OverlapError(HsfuseError):
    """The inputs share no usable area (no overlap, all nodata, all cloud)."""

    exit_code = 4


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


EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "unexpected error",
    2: "bad usage or configuration",
    3: "input unreadable or wrong product",
    4: "no usable overlap",
    5: "co-registration rejected",
    6: "out of memory after back-off",
    7: "output exists or is not writable",
    8: "quality thresholds failed (product written)",
    9: "batch: some scenes failed",
    10: "training diverged",
    130: "interrupted",
}
