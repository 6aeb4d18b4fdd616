"""Which reader a path belongs to: every reader is asked, the most confident one is taken."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from hsfuse.errors import HsfuseError, InputError
from hsfuse.log import get_logger
from hsfuse.readers.entry import LIKELY, READERS, ReaderEntry, Role

_log = get_logger(__name__)

_ROLE_NAME: dict[Role, str] = {
    "hsi": "hyperspectral product",
    "msi": "multispectral image",
    "pan": "panchromatic image",
}
_LOOKED_INTO = 200
"""Entries of a folder that are looked at for a hint."""


def check_exists(path: Path) -> None:
    """Raise unless a path is a file or a folder.

    Raises
    ------
    InputError
        There is nothing, or something that cannot be read twice (a pipe, a device).
    """
    try:
        if path.is_file() or path.is_dir():
            return
        exists = path.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: the path cannot be followed ({error}).", hint="Check the path.") from error
    if exists:
        raise InputError(
            f"{path}: this is neither a file nor a folder.", hint="Pipes and devices cannot be read; save a file."
        )
    raise InputError(f"{path}: there is no such file.", hint="Check the path.")


def choose_reader(path: Path, role: Role) -> ReaderEntry:
    """Return the reader that is most confident of a path.

    Parameters
    ----------
    path
        File or folder.
    role
        What the path is to serve as.

    Raises
    ------
    InputError
        There is no such file, it cannot be read, no reader knows it, or it can only serve as something else.
    """
    check_exists(path)
    scores = _confidences(path)
    best, confidence = _best(scores, role)
    other = max((score for entry, score in scores if role not in entry.roles), default=0.0)
    if other >= LIKELY and other > confidence:
        known = max((pair for pair in scores if role not in pair[0].roles), key=lambda pair: pair[1])[0]
        place = "second" if "msi" in known.roles else "first"
        raise InputError(
            f"{path}: this is no {_ROLE_NAME[role]} but a {known.summary}.",
            hint=f"Give it in the {place} place: hsfuse run HSI MSI... -o OUT.",
        )
    if best is None:
        raise _unknown(path, role)
    return best


def likely_role(path: Path) -> Role:
    """Return what a path would most likely serve as, ``hsi`` or ``msi``.

    Raises
    ------
    InputError
        As :func:`choose_reader`, when no reader of either role knows the path.
    """
    check_exists(path)
    scores = _confidences(path)
    hsi, msi = _best(scores, "hsi"), _best(scores, "msi")
    best = hsi[0] if hsi[1] >= msi[1] else msi[0]
    if best is None:
        raise _unknown(path, "hsi")
    if {"hsi", "msi"} <= best.roles and best.role_of is not None:
        return best.role_of(path)
    return "hsi" if "hsi" in best.roles else "msi"


def _confidences(path: Path) -> list[tuple[ReaderEntry, float]]:
    scores = []
    for name, entry in READERS.entries():
        try:
            scores.append((entry, float(entry.probe(path))))
        except OSError as error:
            reason = error.strerror or str(error)
            raise InputError(f"{path}: the file cannot be read ({reason}).", hint="Check its permissions.") from error
        except HsfuseError as error:
            _log.debug("the reader '%s' stumbles over %s: %s", name, path, error.message)
        except Exception as error:
            # One bad reader of another package must not keep the others from their files.
            _log.warning("The reader '%s' failed to look at %s (%s).", name, path, error)
    if not scores and not READERS.names():
        raise InputError(
            f"{path}: no reader is installed, so nothing can be opened.",
            hint="The installation has no entry points of hsfuse: install it again (pip install -e . in a checkout).",
        )
    return scores


def _best(scores: list[tuple[ReaderEntry, float]], role: Role) -> tuple[ReaderEntry | None, float]:
    mine = [(entry, score) for entry, score in scores if role in entry.roles and score > 0]
    # The first of equals: the package's own readers come before others.
    return max(mine, key=lambda pair: pair[1]) if mine else (None, 0.0)


def _unknown(path: Path, role: Role) -> InputError:
    if path.is_dir():
        inside = _inside(path, role)
        hint = f"Pass the file, for example {inside}." if inside else f"hsfuse reads: {_summaries(role)}."
        return InputError(f"{path}: this is a folder, not a {_ROLE_NAME[role]}.", hint=hint)
    return InputError(f"{path}: no reader knows this file.", hint=f"hsfuse reads: {_summaries(role)}.")


def _inside(folder: Path, role: Role) -> Path | None:
    """Something in a folder that a reader is sure of."""
    for path in sorted(islice(folder.iterdir(), _LOOKED_INTO)):
        if path.is_file() and any(role in entry.roles and score >= LIKELY for entry, score in _confidences(path)):
            return path
    return None


def _summaries(role: Role) -> str:
    return "; ".join(entry.summary for _, entry in READERS.entries() if role in entry.roles)
