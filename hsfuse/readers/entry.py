"""What a reader is to the rest of hsfuse: one entry object that tells whether it reads a path, and opens it.

A reader is one folder (or module) that exports a :class:`ReaderEntry`, declared as an entry point in the group
``hsfuse.readers``; the package's own are declared in the same way as those of other distributions. The module of the
entry imports nothing heavy: libraries that read files are imported by what ``open`` calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from hsfuse.grid import Grid
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct
from hsfuse.readers.declarations import NOTHING, Declarations
from hsfuse.readers.overlap import DEFAULT_CUT_NM
from hsfuse.readers.product_header import ProductHeader
from hsfuse.readers.source_dates import DateWish
from hsfuse.registry import Registry

Role = Literal["hsi", "msi", "pan"]
"""What a product can serve as: hyperspectral image, multispectral image, panchromatic image."""

BandChoice = Literal["10m", "all", "swir"]
"""Which bands of a multispectral product: the finest, those of 20 m too, or B02 and the SWIR bands."""

CERTAIN = 1.0
"""Confidence of a reader that has recognised the content."""
LIKELY = 0.6
"""Confidence of a reader that goes by a name, so that a damaged file is refused with the sentence that fits."""
POSSIBLE = 0.2
"""Confidence of a reader that takes whatever nobody else knows."""


@dataclass(frozen=True)
class OpenOptions:
    """How a product is to be opened.

    Attributes
    ----------
    role
        What it is to serve as; a reader with one role may ignore it.
    cut_nm
        Where two detectors deliver the same wavelength, the one for shorter waves is used up to here.
    bands
        Bands of a multispectral product.
    target
        Grid of the hyperspectral image that a multispectral product is wanted for; None when there is none.
    verify
        Compare files with the checksums that the product brings.
    threads
        Threads that may decode images; None: one for each core that the process may use.
    declared
        What the user says of a raster; given to readers only that take it.
    dates
        Which dates are wanted where there are several.
    """

    role: Role = "hsi"
    cut_nm: float = DEFAULT_CUT_NM
    bands: BandChoice = "10m"
    target: Grid | None = None
    verify: bool = True
    threads: int | None = None
    declared: Declarations = NOTHING
    dates: DateWish = field(default_factory=DateWish)


@dataclass(frozen=True)
class ReaderEntry:
    """A reader.

    Attributes
    ----------
    name
        Short name, that of the entry point.
    summary
        What it reads, as it stands in messages: ``Sentinel-2 product (.SAFE folder or .zip)``.
    roles
        What its products can serve as.
    probe
        Tells how sure the reader is that a path (an existing file or folder) is its own: 0 for no, else up to 1
        (see :data:`CERTAIN`, :data:`LIKELY`, :data:`POSSIBLE`). Quick, and without an error for foreign or damaged
        files.
    open
        Opens a path. Raises :class:`~hsfuse.errors.InputError` when it cannot be read, and
        :class:`~hsfuse.errors.OverlapError` when nothing of it lies under ``options.target``.
    open_several
        Joins several paths, or a folder of products, into one multispectral product; None when the reader cannot.
    role_of
        For a reader of both roles: which one a path is for when nobody says.
    header
        Reads place, time and cloud cover of a path without opening images; None: the product is opened for that.
    is_folder_product
        For products that are folders: tells whether a folder is one itself, not one that holds some.
    takes_declarations
        Whether its files may leave out what :class:`~hsfuse.readers.declarations.Declarations` says.
    """

    name: str
    summary: str
    roles: frozenset[Role]
    probe: Callable[[Path], float]
    open: Callable[[Path, OpenOptions], HyperspectralProduct | MultispectralProduct]
    open_several: Callable[[Sequence[Path], OpenOptions], MultispectralProduct] | None = None
    role_of: Callable[[Path], Role] | None = None
    header: Callable[[Path], ProductHeader] | None = None
    is_folder_product: Callable[[Path], bool] | None = None
    takes_declarations: bool = False


READERS: Registry[ReaderEntry] = Registry("hsfuse.readers", ReaderEntry, "reader")
"""All readers that are installed."""
