"""A SAFE product as a list of files, whether it is a folder or lies inside a zip file.

Image members of a zip that are stored without compression are read in place, as a part of the zip file; deflated
ones would be slow to jump in, so each is unpacked once, when it is first needed, to a temporary folder that
``close`` removes. What GDAL is given is always a local file, or a part of one.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from hsfuse.errors import InputError
from hsfuse.readers.gdal import FolderAlias
from hsfuse.readers.sentinel2.checksums import Checksum, read_checksums
from hsfuse.readers.sentinel2.codestream import damage_of
from hsfuse.readers.sentinel2.names import (
    IMAGE_SUFFIXES,
    PRODUCT_XML,
    TILE_XML,
    is_stranger,
    product_roots,
    zip_members,
)
from hsfuse.readers.zip_files import DAMAGED_ZIP, stored_part

MAX_TEXT_BYTES = 64 << 20
"""Metadata files are at most some megabytes."""
MAX_IMAGE_BYTES = 1 << 30
"""Five times a band of a full tile without any compression."""


class SafeArchive:
    """The files of one product.

    Parameters
    ----------
    path
        SAFE folder, zip file, or an XML file of the product (main or tile metadata).

    Raises
    ------
    InputError
        The path does not exist, or is no (single) Sentinel-2 product.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise InputError(f"{self.path} does not exist.", hint="Check the path of the Sentinel-2 product.")
        self._zip: zipfile.ZipFile | None = None
        self._infos: Mapping[str, zipfile.ZipInfo] = {}
        self._alias: FolderAlias | None = None
        self._scratch: Path | None = None
        self._unpacked: dict[str, Path] = {}
        self._lock = threading.Lock()
        self._checksums: Mapping[str, Checksum] | None = None
        if self.path.is_file() and self.path.suffix.lower() == ".zip":
            self._open_zip()
        else:
            self._open_folder()
        self._known = frozenset(self.members)

    def _open_folder(self) -> None:
        path = self.path
        if path.is_file():
            # Tile metadata lie in GRANULE/<id>/ below the product's folder, every other file at its top.
            self.root = path.parents[2] if TILE_XML.search(path.name) and len(path.parents) > 2 else path.parent
            if "" not in product_roots(self.root):
                raise self._no_product()
        else:
            self.root = path / self._only_root(path)
        self.name = self.root.resolve().name
        self._prefix = ""
        self.members = tuple(sorted(_walk(self.root)))
        self._alias = FolderAlias(self.root)

    def _open_zip(self) -> None:
        try:
            self._zip = zipfile.ZipFile(self.path)
            self._infos = zip_members(self._zip)
            root = self._only_root(self.path)
        except DAMAGED_ZIP as error:
            raise InputError(
                f"{self.path.name} is not a readable zip file: {error}.",
                hint="The download may be incomplete; fetch it again.",
            ) from error
        self.root = self.path
        self._prefix = f"{root}/" if root else ""
        self.name = PurePosixPath(root).name or self.path.stem
        cut = len(self._prefix)
        self.members = tuple(sorted(name[cut:] for name in self._infos if name.startswith(self._prefix)))
        self._alias = FolderAlias(self.path.parent)

    def _only_root(self, path: Path) -> str:
        roots = product_roots(path)
        if not roots:
            raise self._no_product()
        # The shortest path is the product; the same XML may lie a second time further down.
        depth = min(len(PurePosixPath(root).parts) for root in roots)
        nearest = [root for root in roots if len(PurePosixPath(root).parts) == depth]
        if len(nearest) > 1:
            raise InputError(
                f"{self.path} holds {len(nearest)} Sentinel-2 products where one was expected.",
                hint="Unpack it and give the products one by one, or the folder that holds them.",
            )
        return nearest[0]

    def _no_product(self) -> InputError:
        return InputError(
            f"{self.path} is not a Sentinel-2 product: there is no MTD_MSIL1C.xml or MTD_MSIL2A.xml.",
            hint="Give the .SAFE folder, its MTD_MSIL2A.xml, or the .zip as downloaded.",
        )

    @property
    def product_xml(self) -> str:
        """Member name of the product's main metadata file."""
        found = next((name for name in self.members if "/" not in name and PRODUCT_XML.match(name)), None)
        if found is None:
            raise self._no_product()
        return found

    def tile_xml(self, folder: str) -> str | None:
        """Member name of a granule folder's metadata file."""
        depth = folder.count("/") + 1
        for name in self.members:
            inside = name.startswith(f"{folder}/") and name.count("/") == depth
            if inside and TILE_XML.search(name.rsplit("/", 1)[-1]):
                return name
        return None

    def image(self, stem: str) -> str | None:
        """Member name of an image given without its extension (or with it)."""
        for suffix in ("", *IMAGE_SUFFIXES, *(suffix.upper() for suffix in IMAGE_SUFFIXES)):
            if (name := stem + suffix) in self._known and name.lower().endswith(IMAGE_SUFFIXES):
                return name
        return None

    def read_bytes(self, name: str) -> bytes:
        """Content of a (small) member.

        Raises
        ------
        InputError
            It cannot be read, or is larger than any metadata file.
        """
        try:
            with self._lock, self._stream(name) as stream:
                content = stream.read(MAX_TEXT_BYTES + 1)
        except (*DAMAGED_ZIP, KeyError) as error:
            raise InputError(
                f"{name} of {self.name} cannot be read: {error}.", hint="Download or unpack the product again."
            ) from error
        if len(content) > MAX_TEXT_BYTES:
            raise InputError(
                f"{name} of {self.name} is larger than {MAX_TEXT_BYTES >> 20} MB, which no metadata file is.",
                hint="The product was altered; download it again.",
            )
        return content

    @contextmanager
    def _stream(self, name: str) -> Iterator[BinaryIO]:
        if self._zip is None:
            with (self.root / name).open("rb") as file:
                yield file
        else:
            with self._zip.open(self._infos[self._prefix + name]) as member:
                yield cast(BinaryIO, member)

    def check_image(self, name: str, what: str, *, verify: bool) -> None:
        """Make sure that an image is the one that the producer delivered, or whole at least.

        It is compared with its checksum in the product's manifest. Where that lists none, or this is not wanted, its
        structure is looked through for holes.

        Parameters
        ----------
        name
            Member.
        what
            What messages call it.
        verify
            Compare checksums.

        Raises
        ------
        InputError
            It is damaged.
        """
        checksum = self._checksum(name) if verify else None
        try:
            # A second handle: other threads read the first.
            with self._own_stream(name) as stream:
                if checksum is None:
                    damage, remedy = damage_of(stream), "download the product again."
                else:
                    wrong = f"its {checksum.algorithm} checksum is not that of the product's manifest"
                    damage = None if checksum.fits(stream) else wrong
                    remedy = "download the product again. If it was altered on purpose, add --no-verify."
        except (*DAMAGED_ZIP, KeyError) as error:
            raise InputError(
                f"The image of {what} in {self.name} cannot be read: {error}.", hint="Download the product again."
            ) from error
        if damage is not None:
            raise InputError(
                f"The image of {what} in {self.name} cannot be read: {damage} ({PurePosixPath(name).name}).",
                hint=f"The file is damaged: {remedy}",
            )

    def altered(self, names: Iterable[str]) -> list[str]:
        """Compare metadata files with their checksums in the product's manifest; return a remark on each that differs.

        Mirrors and editors leave such files behind that say the same in other bytes, so this is no error.
        """
        remarks = []
        for name in names:
            checksum = self._checksum(name)
            if checksum is not None and not checksum.fits(BytesIO(self.read_bytes(name))):
                remarks.append(
                    f"{PurePosixPath(name).name} of {self.name} is not the file that the product's manifest lists (its "
                    f"{checksum.algorithm} checksum differs): it was altered or is damaged."
                )
        return remarks

    def _checksum(self, name: str) -> Checksum | None:
        """Checksum of a member in the product's manifest; None where that lists none."""
        with self._lock:
            if self._checksums is None:
                listed = "manifest.safe" in self._known
                content = self._read_manifest() if listed else None
                self._checksums = {} if content is None else read_checksums(content, f"{self.name}/manifest.safe")
            return self._checksums.get(name)

    def _read_manifest(self) -> bytes | None:
        try:
            with self._stream("manifest.safe") as stream:
                content = stream.read(MAX_TEXT_BYTES + 1)
        except DAMAGED_ZIP:
            return None
        return content if len(content) <= MAX_TEXT_BYTES else None

    @contextmanager
    def _own_stream(self, name: str) -> Iterator[BinaryIO]:
        if self._zip is None:
            with (self.root / name).open("rb") as file:
                yield file
        elif name in self._unpacked:
            with self._unpacked[name].open("rb") as file:
                yield file
        else:
            with zipfile.ZipFile(self.path) as archive, archive.open(self._infos[self._prefix + name]) as member:
                yield cast(BinaryIO, member)

    def gdal_path(self, name: str) -> str:
        """Path under which GDAL can open an image member; unpacks it first when it is compressed.

        Raises
        ------
        InputError
            The member is damaged or larger than any image, or there is no room to unpack it.
        """
        if self._alias is None:
            raise InputError(f"{self.name} was closed.")
        if self._zip is None:
            return self._alias.name(name)
        info = self._infos[self._prefix + name]
        if max(info.file_size, info.compress_size) > MAX_IMAGE_BYTES:
            raise InputError(
                f"{info.filename} in {self.path.name} claims {info.file_size / 1e9:.1f} GB, more than any image of "
                "Sentinel-2.",
                hint="The archive was altered; download the product again.",
            )
        if info.compress_type == zipfile.ZIP_STORED:
            return stored_part(self.path, info, self._alias.name(self.path.name))
        with self._lock:
            if name not in self._unpacked:
                self._unpacked[name] = self._unpack(info)
            return str(self._unpacked[name])

    def _unpack(self, info: zipfile.ZipInfo) -> Path:
        try:
            if self._scratch is None:
                self._scratch = Path(tempfile.mkdtemp(prefix="hsfuse-safe-"))
            # Own flat names: a member's name is never trusted as a path to write to.
            target = self._scratch / f"{len(self._unpacked):03d}{PurePosixPath(info.filename).suffix[:8]}"
            if self._zip is None:
                raise InputError(f"{self.name} was closed.")
            with self._zip.open(info) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
        except DAMAGED_ZIP as error:
            raise InputError(
                f"{info.filename} cannot be unpacked from {self.path.name}: {error}.",
                hint="Check the download, and the free space of the temporary folder (TMPDIR).",
            ) from error
        return target

    def close(self) -> None:
        """Close the zip and remove what was unpacked from it."""
        if self._zip is not None:
            self._zip.close()
        if self._alias is not None:
            self._alias.close()
            self._alias = None
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None


def _walk(root: Path) -> Iterator[str]:
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if not is_stranger(name) and path.is_file():
            yield name
