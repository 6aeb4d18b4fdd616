"""What every output shares: options, checks before any work, the finished product."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsfuse.config import Compression, OutputDtype
from hsfuse.errors import DiskFullError, OutputError, UsageError
from hsfuse.grid import Grid
from hsfuse.writers.encoding import SampleEncoding
from hsfuse.writers.format import FORMATS, FormatEntry, resolve_format, rows_of
from hsfuse.writers.storage import probe, size_text


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
        Replace an existing output; go on with an interrupted one.

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

    def __post_init__(self) -> None:
        if self.format != "auto":
            FORMATS.get(self.format)
        if self.overwrite and self.resume:
            raise UsageError("The options --overwrite and --resume exclude each other.")
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
        Files that will be written beside it: companions of the format, then the STAC item.
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
        What lies beside it: companions of the format and the STAC item.
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


def stac_path(path: Path) -> Path:
    """STAC item of an output."""
    return path.with_name(path.name + ".stac.json")


def sidecar_paths(path: Path, entry: FormatEntry) -> tuple[Path, ...]:
    """Files that are written beside an output: companions of its format and its STAC item."""
    return (*entry.companions(path).values(), stac_path(path))


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
    UsageError
        The name and the format contradict each other.
    OutputError
        The output exists, its folder is missing or not writable, or the disk is too small.
    """
    path = Path(path)
    entry = resolve_format(path, options.format)
    if entry.compressions and options.compress not in entry.compressions:
        raise UsageError(
            f"The format {entry.name} has no {options.compress} compression.",
            hint=f"Use --compress {' or '.join(entry.compressions)}.",
        )
    sidecars = sidecar_paths(path, entry)
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"The folder of the output, {folder}, does not exist.", hint=f"Make it: mkdir -p {folder}")
    _check_kind(path, entry)
    existing = [item for item in (path, *sidecars) if item.exists()]
    if existing and not (options.overwrite or options.resume):
        raise OutputError(
            f"The output {existing[0]} exists already.",
            hint="Choose another name, or add --overwrite to replace it.",
        )
    probe(folder)
    raw = grid.height * grid.width * n_bands * SampleEncoding.of(options.dtype).dtype.itemsize
    need = entry.disk_need(raw, grid, options.compress)
    partial = journal_folder(path) / "rows.bil"
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


def _check_kind(path: Path, entry: FormatEntry) -> None:
    """Refuse to put a file where a folder is, or the other way round."""
    if path.is_dir() and not entry.is_folder:
        raise DiskFullError(f"The output {path} is a folder.", hint="Give a file name, such as fused.tif, in it.")
    if path.exists() and entry.is_folder and not path.is_dir():
        raise DiskFullError(f"The output {path} is a file, but {entry.name} makes a folder.", hint="Give another name.")
