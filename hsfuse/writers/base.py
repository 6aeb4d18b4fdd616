"""What every output shares: options, checks before any work, the finished product."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsfuse.config import Compression, OutputDtype
from hsfuse.errors import DiskFullError, UsageError
from hsfuse.grid import Grid
from hsfuse.writers.encoding import SampleEncoding
from hsfuse.writers.format import FORMATS, FormatEntry, resolve_format, rows_of
from hsfuse.writers.journal import ROWS_NAME
from hsfuse.writers.layers import LayerFile
from hsfuse.writers.place import ReportFiles, check_place, stac_path
from hsfuse.writers.storage import size_text


@dataclass(frozen=True)
class WriteOptions:
    """How a cube is stored.

    Attributes
    ----------
    format
        Name of an output format; ``auto`` decides from the file name.
    dtype
        ``int16`` and ``uint16`` hold reflectance x 10000, ``float32`` reflectance.
    compress
        Compression; formats that are never compressed pass it over.
    overwrite, resume
        Replace an existing output; go on with an interrupted run. Both: go on with an interrupted replacement.
    inputs
        Files and folders that the output must not touch.
    report
        What is reported beside the cube; what tells of an older cube goes when this one is published.
    layers
        Rasters that belong to the cube and lie beside it.
    stale
        Further files that tell of an older cube of the same name, in the same folder.
    beside
        Files that were made for the cube before it, in the same folder: where each lies until then, and the name that
        it gets together with the cube.

    Raises
    ------
    UsageError
        There is no such format, or the options contradict each other.
    """

    format: str = "auto"
    dtype: OutputDtype = "int16"
    compress: Compression = "zstd"
    overwrite: bool = False
    resume: bool = False
    inputs: tuple[Path, ...] = ()
    report: ReportFiles | None = None
    layers: tuple[LayerFile, ...] = ()
    stale: tuple[Path, ...] = ()
    beside: tuple[tuple[Path, Path], ...] = ()

    def __post_init__(self) -> None:
        if self.format != "auto":
            FORMATS.get(self.format)
        if self.compress == "lerc" and self.dtype != "float32":
            raise UsageError(
                f"LERC compression does not fit {self.dtype} output.",
                hint="Use --dtype float32 with --compress lerc, or --compress zstd.",
            )


@dataclass(frozen=True)
class OutputPlan:
    """Where an output will lie and what it will cost.

    Attributes
    ----------
    path, format
        Final name and format.
    sidecars
        Files that will be written beside it: companions of the format, layers, then the STAC item.
    product_bytes
        Expected size of the product (an upper estimate for compressed formats).
    needed_bytes
        Free disk space that the run needs at its peak, unfinished rows included.
    free_bytes
        Free disk space now.
    """

    path: Path
    format: FormatEntry
    sidecars: tuple[Path, ...]
    product_bytes: int
    needed_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class WrittenProduct:
    """A finished cube on disk.

    Attributes
    ----------
    path
        The cube, a file or a folder.
    sidecars
        What lies beside it: companions of the format, layers and the STAC item.
    bytes
        Size of the cube, without sidecars.
    format
        Its format.
    """

    path: Path
    sidecars: tuple[Path, ...]
    bytes: int
    format: FormatEntry

    def read_rows(self, row0: int, rows: int, bands: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Reflectance of some rows: float32 (band, rows, col), NaN = no data.

        Raises
        ------
        OutputError
            The product cannot be read.
        """
        with self.format.open(self.path) as reader:
            return rows_of(reader, row0, rows, bands)


def journal_folder(path: Path) -> Path:
    """Folder of the unfinished work of an output."""
    return path.with_name(path.name + ".part")


def sidecar_paths(path: Path, entry: FormatEntry, layers: Sequence[LayerFile] = ()) -> tuple[Path, ...]:
    """Files that are written beside an output: companions of its format, layers, its STAC item."""
    return (*entry.companions(path).values(), *(layer.path(path) for layer in layers), stac_path(path))


def check_output(path: Path, grid: Grid, n_bands: int, options: WriteOptions) -> OutputPlan:
    """Check all that can be known before work starts.

    An output that is there already and ``options.resume`` is no error here: :class:`CubeWriter` finds out whether
    it is the same run's finished product.

    Returns
    -------
    OutputPlan
        Format, files and disk space.

    Raises
    ------
    UsageError, OutputError
        See :func:`check_destination`; the disk is too small.
    """
    entry, sidecars = check_destination(path, options)
    folder = path.parent
    raw = grid.height * grid.width * n_bands * SampleEncoding.of(options.dtype).dtype.itemsize
    need = entry.disk_need(raw, grid, options.compress)
    partial = journal_folder(path) / ROWS_NAME
    done = partial.stat().st_size if partial.is_file() else 0
    free = shutil.disk_usage(folder).free
    # Rows that are the product's file already are not written twice.
    needed = max((raw if entry.keeps_rows else raw + need.building) - done, 0)
    if needed > free and not (options.resume and path.exists()):
        raise DiskFullError(
            f"The disk of {folder} has {size_text(free)} free, but the output needs up to {size_text(needed)}.",
            hint="Free space, choose another disk, fewer bands (--bands) or a smaller area (--aoi).",
        )
    return OutputPlan(path, entry, sidecars, need.product, needed, free)


def check_destination(path: Path, options: WriteOptions) -> tuple[FormatEntry, tuple[Path, ...]]:
    """Check all about an output that does not depend on its size; return its format and the files beside it.

    Raises
    ------
    UsageError
        The name and the format contradict each other.
    OutputError
        See :func:`hsfuse.writers.place.check_place`.
    """
    entry = resolve_format(path, options.format)
    if entry.compressions and options.compress not in entry.compressions:
        raise UsageError(
            f"The format {entry.name} has no {options.compress} compression.",
            hint=f"Use --compress {' or '.join(entry.compressions)}.",
        )
    sidecars = sidecar_paths(path, entry, options.layers)
    check_place(
        path, entry, sidecars, journal=journal_folder(path), replace=options.overwrite or options.resume,
        inputs=options.inputs, report=options.report,
    )  # fmt: skip
    return entry, sidecars
