"""Products that are HDF5 files: opened (also out of a zip), with errors that name what is missing or led elsewhere."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import InputError, OutputError
from hsfuse.log import get_logger
from hsfuse.readers.file_kind import ZIP_SIGNATURE, is_hdf5, zip_members_ending

MAX_UNPACKED_BYTES = 10_000_000_000
"""Four times a large product (1.6 to 2.5 GB): what claims more is none."""

SURE_BYTES, MAX_COMPRESSION = 1 << 28, 100.0
"""Products shrink to a third or half when they are packed; small files may be empty enough to shrink more."""

DAMAGED = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)
"""What h5py raises for files with flipped bits, besides what it documents."""

_log = get_logger(__name__)


class Hdf5File:
    """An open HDF5 file with checked access to attributes and datasets.

    Parameters
    ----------
    path
        A file, or a .zip that holds exactly one: it is unpacked to a temporary folder (``TMPDIR``) that
        :meth:`close` removes.
    mission
        What messages call the product.
    suffix
        How the names of its files end, for zips.
    hint
        What to do about a damaged file.

    Attributes
    ----------
    hint
        The same.

    Raises
    ------
    InputError
        The file does not exist, is not HDF5, is truncated, or the zip does not hold exactly one product.
    OutputError
        There is no room to unpack the zip.
    """

    def __init__(self, path: Path, *, mission: str, suffix: str, hint: str) -> None:
        self.path, self.mission, self.hint = path, mission, hint
        self._suffix = suffix
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if not path.is_file():
            raise InputError(f"{path}: there is no such file.", hint="Check the path.")
        try:
            with path.open("rb") as file:
                head = file.read(len(ZIP_SIGNATURE))
        except OSError as error:
            raise InputError(
                f"{path}: the file cannot be read ({error.strerror}).", hint="Check its permissions."
            ) from None
        try:
            self._h5 = self._open(self._unpack() if head == ZIP_SIGNATURE else path)
        except BaseException:
            self._clean()
            raise

    def _open(self, path: Path) -> h5py.File:
        if not is_hdf5(path):
            raise InputError(f"{self.path}: this is not an HDF5 file.", hint=self.hint)
        try:
            # Locks fail on many network drives, and nobody writes to a delivered product.
            return h5py.File(path, "r", locking=False)
        except DAMAGED as error:
            detail = "it is truncated" if "truncated" in str(error) else "it is damaged"
            raise InputError(
                f"{self.path}: the HDF5 file cannot be opened because {detail}.",
                hint="Download the product again and compare its size with the catalogue's.",
            ) from error

    def _unpack(self) -> Path:
        members = zip_members_ending(self.path, self._suffix)
        if len(members) != 1:
            found = f"no {self._suffix} file" if not members else f"{len(members)} {self._suffix} files"
            raise InputError(
                f"{self.path}: the zip holds {found} instead of exactly one.",
                hint=f"Unpack it by hand and pass the {self._suffix} file.",
            )
        member = members[0]
        packed = max(1, member.compress_size)
        bomb = member.file_size > SURE_BYTES and member.file_size / packed > MAX_COMPRESSION
        if member.file_size > MAX_UNPACKED_BYTES or bomb:
            raise InputError(
                f"{self.path}: '{member.filename}' claims {member.file_size / 1e9:.2f} GB, packed into "
                f"{packed / 1e9:.2f} GB, which no {self.mission} product is.",
                hint="The archive was altered; order the product again.",
            )
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="hsfuse-hdf5-", ignore_cleanup_errors=True)
        except OSError as error:
            raise OutputError(
                f"{self.path}: no temporary folder to unpack to ({error.strerror or error}).",
                hint="Set TMPDIR to a writable folder.",
            ) from error
        free = shutil.disk_usage(self._folder.name).free
        if member.file_size > free:
            raise OutputError(
                f"{self.path}: unpacking needs {member.file_size / 1e9:.2f} GB, but {tempfile.gettempdir()} has only "
                f"{free / 1e9:.2f} GB left.",
                hint="Set TMPDIR to a folder on a larger disk, or unpack the zip by hand.",
            )
        _log.info("unpacking %s (%.2f GB)", member.filename, member.file_size / 1e9)
        unpacked = Path(self._folder.name) / f"product{self._suffix}"
        try:
            with unpacked.open("wb") as sink:
                for piece in self._pieces(member):
                    sink.write(piece)
        except OSError as error:
            raise OutputError(
                f"{self.path}: unpacking to {tempfile.gettempdir()} failed ({error.strerror or error}).",
                hint="Set TMPDIR to a folder with more room.",
            ) from error
        return unpacked

    def _pieces(self, member: zipfile.ZipInfo) -> Iterator[bytes]:
        """Content of a member of the zip; whatever is wrong with the archive is an error of the input."""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(member) as source:
                while piece := source.read(16 << 20):
                    yield piece
        except (*DAMAGED, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            # RuntimeError: encrypted member; NotImplementedError: unknown compression.
            raise InputError(f"{self.path}: the zip cannot be unpacked ({_short(error)}).", hint=self.hint) from error

    def close(self) -> None:
        """Close the file and remove what was unpacked."""
        self._h5.close()
        self._clean()

    def _clean(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def has(self, name: str) -> bool:
        """Tell whether a dataset or group exists."""
        return self._node(name) is not None

    def groups(self, name: str) -> list[str]:
        """Names inside a group (none when it does not exist)."""
        node = self._node(name)
        try:
            return [str(key) for key in node] if isinstance(node, h5py.Group) else []
        except DAMAGED as error:
            raise self._unreadable(f"the group '{name}'", error) from error

    def _node(self, name: str) -> h5py.Group | h5py.Dataset | None:
        """Follow a path link by link; None where it ends.

        Raises
        ------
        InputError
            A link leads elsewhere: to another file, or to another place of this one. Products have none, and they
            could make hsfuse read what it was never given.
        """
        node: Any = self._h5
        try:
            for part in name.split("/"):
                if not isinstance(node, h5py.Group) or part not in set(node.keys()):
                    return None
                if not isinstance(node.get(part, getlink=True), h5py.HardLink):
                    raise InputError(
                        f"{self.path}: '{name}' is a link to elsewhere, which no {self.mission} product has.",
                        hint=self.hint,
                    )
                node = node[part]
        except DAMAGED as error:
            raise self._unreadable(f"'{name}'", error) from error
        return cast("h5py.Group | h5py.Dataset", node)

    def _unreadable(self, what: str, error: Exception) -> InputError:
        return InputError(f"{self.path}: {what} cannot be read, the file is damaged ({_short(error)}).", hint=self.hint)

    def dataset(self, name: str, *, ndim: int) -> h5py.Dataset:
        """Return a dataset.

        Raises
        ------
        InputError
            It does not exist or does not have ``ndim`` axes.
        """
        node = self._node(name)
        if not isinstance(node, h5py.Dataset):
            raise InputError(f"{self.path}: the dataset '{name}' is missing.", hint=self.hint)
        try:
            axes, kind, elsewhere = node.ndim, node.dtype.kind, bool(node.external) or node.is_virtual
        except DAMAGED as error:
            raise self._unreadable(f"the dataset '{name}'", error) from error
        if elsewhere:
            raise InputError(
                f"{self.path}: the dataset '{name}' keeps its numbers in another file, which no {self.mission} product "
                "does.",
                hint=self.hint,
            )
        if axes != ndim:
            raise InputError(f"{self.path}: the dataset '{name}' has {axes} axes instead of {ndim}.", hint=self.hint)
        if kind not in "biuf":
            raise InputError(f"{self.path}: the dataset '{name}' does not hold numbers.", hint=self.hint)
        return node

    def read(self, dataset: h5py.Dataset, selection: Any) -> NDArray[Any]:
        """Read part of a dataset.

        Raises
        ------
        InputError
            The stored bytes cannot be read (damaged file).
        """
        try:
            return np.asarray(dataset[selection])
        except DAMAGED as error:
            raise self.damaged(dataset, error) from error

    def damaged(self, dataset: h5py.Dataset, error: Exception) -> InputError:
        """Make the error for a dataset whose bytes cannot be read."""
        return InputError(
            f"{self.path}: reading '{dataset.name}' failed, the file is damaged ({_short(error)}).",
            hint=self.hint,
        )

    def has_attribute(self, name: str) -> bool:
        """Tell whether a global attribute exists."""
        try:
            return name in self._h5.attrs
        except DAMAGED as error:
            raise self._unreadable("the list of global attributes", error) from error

    def attribute(self, name: str) -> Any:
        """Return a global attribute; bytes become text, arrays of one element become scalars.

        Raises
        ------
        InputError
            It is missing.
        """
        if not self.has_attribute(name):
            raise InputError(f"{self.path}: the global attribute '{name}' is missing.", hint=self.hint)
        try:
            value = self._h5.attrs[name]
        except DAMAGED as error:
            raise self._unreadable(f"the global attribute '{name}'", error) from error
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.reshape(-1)[0]
        if isinstance(value, np.generic):
            value = value.item()
        return value.decode("utf-8", "replace").strip("\x00 ") if isinstance(value, bytes) else value

    def number(self, name: str) -> float:
        """Return a global attribute as a finite number.

        Raises
        ------
        InputError
            It is missing or not a finite number.
        """
        value = self.attribute(name)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not np.isfinite(number):
            raise InputError(f"{self.path}: the global attribute '{name}' is not a number ({value}).", hint=self.hint)
        return number

    def optional_number(self, name: str) -> float | None:
        """Return a global attribute as a number, None when it is missing or unusable."""
        try:
            return self.number(name)
        except InputError:
            return None

    def optional_text(self, name: str) -> str | None:
        """Return a global attribute as text, None when it is missing."""
        return str(self.attribute(name)) if self.has_attribute(name) else None

    def vector(self, name: str) -> NDArray[np.float64]:
        """Return a global attribute as a list of numbers (an array, or text with blanks between the numbers).

        Raises
        ------
        InputError
            It is missing or not a list of numbers.
        """
        value = self.attribute(name)
        try:
            return np.asarray(value.split() if isinstance(value, str) else value, dtype=np.float64).ravel()
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{self.path}: the global attribute '{name}' is not a list of numbers.", hint=self.hint
            ) from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
