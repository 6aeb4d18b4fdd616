"""What is known of the run that a resumed one goes on with, before anything is computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from hsfuse.errors import OutputError
from hsfuse.writers.base import journal_folder
from hsfuse.writers.format import read_identity, resolve_format
from hsfuse.writers.journal import MANIFEST_NAME, another_interrupted_run
from hsfuse.writers.provenance import settings_of

if TYPE_CHECKING:
    from hsfuse.writers.base import WriteOptions


def earlier_identity(output: Path, file_format: str) -> str | None:
    """Return the identity of the run that made a cube, or began to; None where there is none.

    What is wrong with a damaged record or product is said by those that go on with it.
    """
    manifest = journal_folder(output) / MANIFEST_NAME
    try:
        if manifest.exists():
            found = json.loads(manifest.read_text(encoding="utf-8"))["facts"]["identity"]
            return found if isinstance(found, str) else None
        return read_identity(output, resolve_format(output, file_format)) if output.exists() else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def check_resumable(output: Path, options: WriteOptions, identity: str) -> None:
    """Refuse to go on with a run of other inputs or settings, before hours are spent on it.

    Parameters
    ----------
    output
        The cube.
    options
        How it is written; nothing is checked without ``resume``.
    identity
        Of this run, as far as inputs and settings decide it (:func:`~hsfuse.writers.provenance.run_identity` without
        the method: which one it is to be may turn out late).

    Raises
    ------
    OutputError
        The interrupted run, or the finished cube that is not to be replaced, is another one.
    """
    if not options.resume:
        return
    begun = (journal_folder(output) / MANIFEST_NAME).exists()
    if not begun and options.overwrite:
        return
    earlier = earlier_identity(output, options.format)
    if not earlier or settings_of(earlier) == settings_of(identity):
        return
    if begun:
        raise another_interrupted_run(journal_folder(output), "inputs or settings")
    raise another_finished_run(output)


def another_finished_run(output: Path) -> OutputError:
    """Return the error of a cube that is there and that another run made."""
    return OutputError(
        f"The output {output} exists already and comes from another run.",
        hint="Choose another name, or add --overwrite (with --resume: go on with an interrupted replacement).",
    )
