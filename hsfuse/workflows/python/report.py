"""``hsfuse.report``: the report of a cube, in a notebook below the cell."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsfuse.errors import InputError
from hsfuse.workflows.python.words import speaks_python
from hsfuse.workflows.steps.report_files import report_files

if TYPE_CHECKING:
    from hsfuse.workflows.run import RunResult

_HEIGHT_PX = 640


@dataclass(frozen=True)
class Report:
    """The report of a cube; a notebook shows it as it is.

    Attributes
    ----------
    path
        The HTML page; it needs nothing but itself.
    verdict
        ``good``, ``usable with care`` or ``failed``.
    advice
        One sentence: may the cube be used, and where not.
    scores
        Name -> value; None for what could not be made.
    numbers
        Everything in the report, as plain values.
    """

    path: Path
    verdict: str
    advice: str
    scores: dict[str, float | None]
    numbers: dict[str, Any] = field(repr=False)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that neither style touches the other."""
        page = html.escape(self.path.read_text(encoding="utf-8"), quote=True)
        frame = f"width:100%;height:{_HEIGHT_PX}px;border:1px solid #ccc"
        title = html.escape(self.path.name)
        return f'<iframe title="{title}" sandbox="allow-scripts" style="{frame}" srcdoc="{page}"></iframe>'


@speaks_python
def report(cube: str | Path | RunResult) -> Report:
    """Read the report of a cube.

    Parameters
    ----------
    cube
        The cube, its report, or what :func:`hsfuse.fuse_scene` returned.

    Returns
    -------
    Report
        As the last line of a notebook's cell it shows the page.

    Raises
    ------
    InputError
        There is no report.

    Examples
    --------
    >>> import hsfuse
    >>> hsfuse.report("first.tif").verdict in ("good", "usable with care", "failed")
    True
    """
    page, numbers = _files(cube)
    try:
        values = json.loads(numbers.read_text(encoding="utf-8"))
        verdict = values["verdict"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"There is no report of {getattr(cube, 'output', None) or cube}: {numbers} cannot be read.",
            hint="Runs write it unless report=False; hsfuse.fuse_scene(..., overwrite=True) makes it anew.",
        ) from error
    if not page.is_file():
        raise InputError(f"There is no report {page}.", hint="It was moved or deleted.")
    return Report(page, str(verdict["level"]), str(verdict.get("advice", "")), dict(values.get("scores", {})), values)


def _files(cube: str | Path | RunResult) -> tuple[Path, Path]:
    given = cube if isinstance(cube, str | Path) else (cube.report or cube.output)
    if given is None:
        raise InputError("A dry run has no report.", hint="Run it with dry_run=False.")
    path = Path(given)
    suffix = ".report.html"
    if path.name.endswith(suffix):
        return path, path.with_name(path.name.removesuffix(suffix) + ".qa.json")
    files = report_files(path)
    return files.page, files.numbers
