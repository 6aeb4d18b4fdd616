"""Files that a run writes beside its cube under a name that follows from the cube's: their place is checked first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hsfuse.errors import OutputError
from hsfuse.outputs import check_paths, part_name, refuse_inputs
from hsfuse.writers import WriteOptions


def check_companion(what: str, paths: Sequence[Path], options: WriteOptions, is_one: Callable[[Path], bool]) -> None:
    """Check the place of such a file before any work.

    Parameters
    ----------
    what
        What messages call the file.
    paths
        Its name, and others that it has until its cube is finished.
    options
        Inputs, and whether what exists may be replaced.
    is_one
        Whether an existing file is one that a run has written.

    Raises
    ------
    OutputError
        It exists already, or an input or another file is in its place.
    """
    check_paths([paths[0], part_name(paths[-1])])
    refuse_inputs(paths, options.inputs)
    if paths[0].exists() and not (options.overwrite or options.resume):
        raise OutputError(f"The {what} {paths[0]} exists already.", hint="Use --overwrite to replace it.")
    for found in filter(Path.exists, paths):
        if not is_one(found):
            raise OutputError(
                f"{found} is in the way of the {what} and is none.", hint="Move it, or choose another output."
            )
