"""What every output format shares: options, checks before any work, the finished product, storage errors."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hsfuse.config import Compression, OutputDtype, OutputFormat
from hsfuse.errors import OutputError, UsageError
from hsfuse.grid import Grid
from hsfuse.writers.encoding import SampleEncoding, read_rows

FileFormat = Literal["gtiff", "cog", "envi"]

TIFF_SUFFIXES = (".tif", ".tiff")
ENVI_SUFFIXES = (".img", ".dat", ".bil", ".raw", ".envi")

TILE_PX = 256
COG_TILE_PX = 512

_EXPECTED_SHARE: dict[Compression, float] = {"zstd": 0.85, "deflate": 0.85, "lerc": 0.6}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_BELOW = 2**20
_OVERVIEW_SHARE = 1.34
"""A pyramid of halved images adds a third."""


@dataclass(frozen=True)
class WriteOptions:
    """How a cube is stored.

    Attributes
    ----------
    format
        ``auto`` decides from the file name.
    dtype
        ``int16`` and ``uint16`` hold reflectance x 10000, ``float32`` reflectance.
    compress
        Compression of GeoTIFF and COG; ENVI files are never compressed.
    overwrite, resume
        Replace an existing output; go on with an interrupted one.
    """

    format: OutputFormat = "auto"
    dtype: OutputDtype = "int16"
    compress: Compression = "zstd"
    overwrite: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        if self.overwrite and self.resume:
            raise UsageError("The options --overwrite and --resume exclude each other.")
        if self.compress == "lerc" and self.dtype != "float32":
            raise UsageError(
                f"LERC compression does not fit {self.dtype} output.",
                hint="Use --dtype float32 with --compress lerc, or --compress zstd.",
            )


def ignore(amount: float) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class OutputPlan:
    """Where an output will lie and what it will cost.

    Attributes
    ----------
    path, format
        Final file and its format.
    sidecars
        Files that will be written beside it.
    product_bytes
        Expected size of the final file (an upper estimate for compressed formats).
    needed_bytes
        Free disk space that the run needs at its peak, unfinished rows included.
    free_bytes
        Free disk space now.
    """

    path: Path
    format: FileFormat
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
        The cube.
    sidecars
        ``.hdr`` and ``.stac.json`` beside it.
    bytes
        Size of the cube's file.
    format
        ``gtiff``, ``cog`` or ``envi``.
    """

    path: Path
    sidecars: tuple[Path, ...]
    bytes: int
    format: FileFormat

    def read_rows(self, row0: int, rows: int, bands: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Reflectance of some rows, see :func:`read_rows`."""
        return read_rows(self.path, row0, rows, bands)


def resolve_format(path: Path, wanted: OutputFormat = "auto") -> FileFormat:
    """Decide the file format from the option and the file name.

    Raises
    ------
    UsageError
        The name and the format contradict each other, or the suffix is unknown.
    """
    suffix = path.suffix.lower()
    if suffix == ".hdr":
        raise UsageError(
            f"The output {path.name} names an ENVI header.",
            hint=f"Name the data file, such as {path.with_suffix('.img').name}; the header is written beside it.",
        )
    if wanted == "auto":
        if suffix in TIFF_SUFFIXES:
            return "gtiff"
        if suffix in ENVI_SUFFIXES:
            return "envi"
        raise UsageError(
            f"The suffix '{suffix}' of the output {path.name} is not known.",
            hint="Use .tif for GeoTIFF or COG (--format cog), .img for ENVI.",
        )
    is_tiff = suffix in TIFF_SUFFIXES
    if wanted == "envi" and (is_tiff or suffix in (".bsq", ".bip")):
        raise UsageError(
            f"The output {path.name} does not look like a band-interleaved-by-line ENVI file.",
            hint="Use a suffix such as .img or .bil with --format envi.",
        )
    if wanted != "envi" and not is_tiff:
        raise UsageError(
            f"The output {path.name} does not end in .tif, but the format is {wanted}.",
            hint="Use a .tif name, or --format envi.",
        )
    return wanted


def journal_folder(path: Path) -> Path:
    """Folder of the unfinished work of an output."""
    return path.with_name(path.name + ".part")


def sidecar_paths(path: Path) -> tuple[Path, Path]:
    """ENVI header and STAC item that are written beside an output."""
    return path.with_suffix(".hdr"), path.with_name(path.name + ".stac.json")


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
    file_format = resolve_format(path, options.format)
    sidecars = sidecar_paths(path)
    folder = path.parent
    if not folder.is_dir():
        raise OutputError(f"The folder of the output, {folder}, does not exist.", hint=f"Make it: mkdir -p {folder}")
    if path.is_dir():
        raise OutputError(f"The output {path} is a folder.", hint="Give a file name, such as fused.tif, in it.")
    existing = [item for item in (path, *sidecars) if item.exists()]
    if existing and not (options.overwrite or options.resume):
        raise OutputError(
            f"The output {existing[0]} exists already.",
            hint="Choose another name, or add --overwrite to replace it.",
        )
    _probe(folder)
    raw = grid.height * grid.width * n_bands * SampleEncoding.of(options.dtype).dtype.itemsize
    product, needed = _disk_need(raw, grid, file_format, options.compress)
    partial = journal_folder(path) / "rows.bil"
    done = partial.stat().st_size if partial.is_file() else 0
    free = shutil.disk_usage(folder).free
    needed = max(needed - done, 0)
    if needed > free and not (options.resume and path.exists()):
        raise OutputError(
            f"The disk of {folder} has {_size(free)} free, but the output needs up to {_size(needed)}.",
            hint="Free space, choose another disk, fewer bands (--bands) or a smaller area (--aoi).",
        )
    return OutputPlan(path, file_format, sidecars, product, needed, free)


def _disk_need(raw: int, grid: Grid, file_format: FileFormat, compress: Compression) -> tuple[int, int]:
    """Bytes of the product and bytes at the peak, for ``raw`` bytes of samples."""
    if file_format == "envi":
        return raw, raw
    share = _OVERVIEW_SHARE if file_format == "cog" else 1.0
    tile = COG_TILE_PX if file_format == "cog" else TILE_PX
    # Tiles at the right and lower edge are stored whole; only compression makes their empty part vanish.
    plain = int(raw * share * _padded(grid.height, tile) * _padded(grid.width, tile))
    product = plain if compress == "none" else int(raw * share * _EXPECTED_SHARE[compress])
    return product, raw + product + (plain if file_format == "cog" else 0)


def _padded(length: int, tile: int) -> float:
    return -(-length // tile) * tile / length


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _probe(folder: Path) -> None:
    # Asking for permission bits is not enough: root, read-only mounts and quotas answer differently when tried.
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"The folder {folder} is not writable ({error.strerror or error}).",
            hint="Check its permissions and free space, or choose another folder.",
        ) from error


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    return chain


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn failures of storage into an OutputError that names the output.

    Covers Python's own writes and GDAL's, whose errors carry no error number.
    """
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    try:
        yield
    except (OSError, RasterioError, CPLE_BaseError) as error:
        causes = _causes(error)
        full = any(getattr(cause, "errno", None) in _FULL for cause in causes)
        # GDAL reports a refused write as text only, and sometimes without its reason.
        full = full or any(text in str(cause) for cause in causes for text in ("No space left", "File too large"))
        if full or shutil.disk_usage(path.parent).free < _FULL_BELOW:
            raise OutputError(
                f"The disk is full: {path} could not be written.",
                hint="Free some space, then run the same command with --resume.",
            ) from error
        reason = (getattr(error, "strerror", None) or str(causes[-1])).rstrip(".")
        raise OutputError(
            f"The output {path} could not be written: {reason}.",
            hint="Check the disk's space and quota, then run the same command with --resume.",
        ) from error
