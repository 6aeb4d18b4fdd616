"""Whether an output may be written where it is to be: all that can be known before any work, but for its size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hsfuse.errors import OutputError
from hsfuse.outputs import check_paths, made_by_hsfuse, part_name, read_json, refuse_inputs
from hsfuse.writers.format import FormatEntry
from hsfuse.writers.journal import refuse_foreign
from hsfuse.writers.layers import KNOWN_LAYERS, is_layer
from hsfuse.writers.storage import probe

STALE_SUFFIXES = (".aux.xml", ".ovr", ".msk")
"""What GDAL and QGIS leave beside a raster; it describes the old pixels after an overwrite."""


@dataclass(frozen=True)
class ReportFiles:
    """Names of what is reported about a cube beside it.

    Attributes
    ----------
    page, numbers, pictures
        HTML page, JSON file, folder of pictures.
    picture_names
        Regular expression of the pictures' names; files of other names in that folder are nobody's business here.
    wanted
        Whether this run writes them. Those of an older cube of the same name go either way.
    """

    page: Path
    numbers: Path
    pictures: Path
    picture_names: str
    wanted: bool = True

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        """All names."""
        return self.page, self.numbers, self.pictures

    def check(self, product: str) -> None:
        """Make sure that nothing of somebody else's, or about another cube, is in the way.

        Raises
        ------
        OutputError
            It is.
        """
        about = read_json(self.numbers).get("product", product)
        if about != product and any(item.exists() for item in self.paths):
            raise OutputError(
                f"{self.page} is the report of {about}; the report of {product} would have the same name.",
                hint="Choose another name for the output, or leave the report out with --no-report.",
            )
        self._check_made_by_hsfuse((self.page, self.numbers))

    def check_beside(self) -> None:
        """The same for what goes with a page that the user named."""
        self._check_made_by_hsfuse((self.numbers,))

    def _check_made_by_hsfuse(self, items: Iterable[Path]) -> None:
        for item in (*items, *self._found_pictures()):
            if item.exists() and not made_by_hsfuse(item):
                raise OutputError(
                    f"{item} is in the way of the report and was not made by hsfuse.",
                    hint="Move it, choose another name for the output, or leave the report out with --no-report.",
                )

    def _found_pictures(self) -> list[Path]:
        if not self.pictures.is_dir():
            return [self.pictures]
        return sorted(item for item in self.pictures.iterdir() if re.fullmatch(self.picture_names, item.name))

    def of_product(self, product: str) -> list[Path]:
        """Files that are there, made by hsfuse, and about a cube of this name."""
        if read_json(self.numbers).get("product", product) != product:
            return []
        found = [item for item in (self.page, self.numbers) if item.is_file() and made_by_hsfuse(item)]
        if self.pictures.is_dir():
            pictures = [item for item in self._found_pictures() if made_by_hsfuse(item)]
            found += [*pictures, self.pictures] if pictures else []
        return found


def stale_files(path: Path, report: ReportFiles | None = None) -> list[Path]:
    """Files beside a product that tell of its older pixels, in the order in which they go when it is replaced."""
    stale = [path.with_name(path.name + suffix) for suffix in STALE_SUFFIXES]
    item = stac_path(path)
    stale += [item] if item.is_file() and made_by_hsfuse(item) else []
    stale += [layer.path(path) for layer in KNOWN_LAYERS if layer.is_at(layer.path(path))]
    return stale + (report.of_product(path.name) if report is not None else [])


def stac_path(path: Path) -> Path:
    """STAC item of an output."""
    return path.with_name(path.name + ".stac.json")


def check_place(
    path: Path,
    entry: FormatEntry,
    sidecars: Sequence[Path],
    *,
    journal: Path,
    replace: bool,
    inputs: Iterable[Path] = (),
    report: ReportFiles | None = None,
) -> None:
    """Check the place of an output and of all that will lie beside it.

    Parameters
    ----------
    path, entry, sidecars, journal
        The cube, its format, the files beside it, the folder of its unfinished work.
    replace
        An output that is there already is no error.
    inputs
        What must not be touched.
    report
        What is reported beside it.

    Raises
    ------
    OutputError
        A name cannot be written, something belongs to an input or to somebody else, the output exists, or its folder
        is missing or not writable.
    """
    beside = report.paths if report is not None and report.wanted else ()
    check_paths([path, *sidecars, journal, *beside, *(part_name(item) for item in beside)])
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"The folder of the output, {folder}, does not exist.", hint=f"Make it: mkdir -p {folder}")
    stale = [path.with_name(path.name + suffix) for suffix in STALE_SUFFIXES]
    refuse_inputs([path, *sidecars, journal, *beside, *stale], inputs)
    _check_kind(path, entry)
    _check_companions(path, entry, sidecars)
    refuse_foreign(journal)
    existing = [item for item in (path, *sidecars) if item.exists()]
    if report is not None:
        if report.wanted:
            report.check(path.name)
        existing += report.of_product(path.name)
    if existing and not replace:
        raise OutputError(
            f"The output {existing[0]} exists already.",
            hint="Choose another name, or add --overwrite to replace it.",
        )
    probe(folder)


def _check_kind(path: Path, entry: FormatEntry) -> None:
    """Refuse to put a file where a folder is, or the other way round."""
    if path.is_dir() and not entry.is_folder:
        raise OutputError(f"The output {path} is a folder.", hint="Give a file name, such as fused.tif, in it.")
    if path.exists() and entry.is_folder and not path.is_dir():
        raise OutputError(f"The output {path} is a file, but {entry.name} makes a folder.", hint="Give another name.")


def _check_companions(path: Path, entry: FormatEntry, sidecars: Sequence[Path]) -> None:
    users = entry.companion_users(path)
    if users:
        names = ", ".join(item.name for item in entry.companions(path).values())
        raise OutputError(
            f"The output {path} needs the file {names}, which {users[0]} uses.",
            hint="Choose another name for the output, without the same beginning.",
        )
    own = set(entry.companions(path).values()) if path.exists() else set()
    for item in sidecars:
        if item.exists() and item not in own and not (made_by_hsfuse(item) or is_layer(item)):
            raise OutputError(
                f"{item} is in the way of the output {path.name} and was not made by hsfuse.",
                hint="Move it, or choose another name for the output.",
            )
