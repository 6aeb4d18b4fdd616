"""Giving a product's files their final names as one step that survives a kill.

A product is a cube with its companions and its STAC item. All are built in a folder inside the journal; then a marker
in the journal says which files go where and which old ones go away. From that moment the product counts as finished:
whoever finds the marker, this process or a later one, does what is left of it. The old cube goes first and the new one
comes last, so that no new header ever lies beside an old cube: whoever looks meanwhile finds no cube.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hsfuse.errors import OutputError
from hsfuse.log import get_logger
from hsfuse.writers.journal import remove_journal
from hsfuse.writers.lock import lock_folder, unlock
from hsfuse.writers.storage import discard, reached, remove, storage_errors, sync_folder, sync_tree, write_durably

_log = get_logger(__name__)

MARKER_NAME = "publish.json"
STAGE_NAME = "product"
"""Folder inside the journal in which the product is built."""
SCHEMA = "hsfuse-publication/1"


@dataclass(frozen=True)
class Publication:
    """Files on their way to their final names.

    Attributes
    ----------
    journal
        Folder of the journal, which lies beside the output.
    names
        Names of the product's files or folders, the cube last; equal in the stage and beside the journal.
    stale
        Files that tell of the cube that is replaced, and folders that go when they are empty then; relative to the
        output's folder, in the order in which they go.
    """

    journal: Path
    names: tuple[str, ...]
    stale: tuple[str, ...] = ()

    def begin(self) -> None:
        """Decide: from here on the product is finished."""
        for name in self.names:
            sync_tree(self.stage / name)
        sync_folder(self.stage)
        content = {"schema": SCHEMA, "names": list(self.names), "stale": list(self.stale)}
        write_durably(self.journal / MARKER_NAME, json.dumps(content) + "\n")
        reached("publication marked")

    def complete(self) -> None:
        """Do what is left to do; may be repeated."""
        folder, cube = self.journal.parent, self.names[-1]
        if (self.stage / cube).exists():
            remove(folder / cube)
            reached("old cube removed")
        for name in self.stale:
            discard(folder / name)
        reached("stale files removed")
        for name in self.names:
            staged = self.stage / name
            if staged.exists():
                if staged.is_dir():
                    remove(folder / name)
                staged.replace(folder / name)
                reached(f"moved {'cube' if name == cube else 'companion'}")
        sync_folder(folder)

    @property
    def stage(self) -> Path:
        """Where the files were built."""
        return self.journal / STAGE_NAME

    @classmethod
    def interrupted(cls, journal: Path) -> Publication | None:
        """Return the publication that was begun in a journal, if any.

        Raises
        ------
        OutputError
            The marker is damaged.
        """
        marker = journal / MARKER_NAME
        try:
            content = json.loads(marker.read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                raise ValueError(content["schema"])
            return cls(journal, _names(content["names"], 1), _names(content["stale"], 2))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise OutputError(
                f"{marker} is damaged, so a product that was being put in place cannot be completed.",
                hint=f"Move the files in {journal / STAGE_NAME} by hand, then delete {journal}.",
            ) from error


def _names(names: Sequence[str], parts: int) -> tuple[str, ...]:
    """Names beside the journal only: a marker that somebody else wrote must not reach further."""
    for name in names:
        pieces = PurePosixPath(name).parts
        if not 1 <= len(pieces) <= parts or name.startswith("/") or ".." in pieces:
            raise ValueError(name)
    return tuple(names)


def publish(journal: Path, names: Iterable[str], stale: Iterable[str] = ()) -> None:
    """Publish what was built in the stage of a journal; see :class:`Publication`."""
    moved = tuple(names)
    # What is replaced anyway must not be deleted: by a repetition it would be the new file.
    publication = Publication(journal, moved, tuple(name for name in stale if name not in moved))
    publication.begin()
    publication.complete()


def complete_interrupted(journal: Path) -> bool:
    """Complete a publication that was cut off, and remove its journal; return whether there was one.

    Raises
    ------
    OutputError
        Another process is at it, or the disk refuses.
    """
    if not (journal / MARKER_NAME).is_file():
        return False
    with storage_errors(journal):
        lock = lock_folder(journal)
        try:
            publication = Publication.interrupted(journal)
            if publication is None:
                return False
            publication.complete()
        finally:
            unlock(lock)
        remove_journal(journal)
    _log.info("%s: completed what an interrupted run had begun to put in place", publication.names[-1])
    return True
