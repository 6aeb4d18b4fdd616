"""A SAFE product as a list of files, whether it is a folder or lies inside a zip file.

Image members of a zip that are stored without compression are read in place through GDAL's ``/vsizip/``; deflated
ones would be slow to jump in, so each is unpacked once, when it is first needed, to a temporary folder that
``close`` removes.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from hsfuse.errors import InputError

_PRODUCT_XML = re.compile(r"^(MTD_MSIL(1C|2A)|S2._\w{4}_MTD_SAFL(1C|2A)_\w+)\.xml$")
_TILE_XML = re.compile(r"(^MTD_TL\.xml$|_MTD_L(1C|2A)_TL_\w+\.xml$)")
IMAGE_SUFFIXES = (".jp2", ".tif", ".tiff")


def product_roots(path: Path) -> list[str]:
    """Folders inside a folder or zip (POSIX, relative, ``""`` for the top) that hold a product's main XML.

    Looks at the top and two levels below: a SAFE folder itself, a folder or zip with SAFE folders in it, and the
    doubled folder that some unpackers make. Returns an empty list for anything else, also for a broken zip.
    """
    roots: set[str] = set()
    if path.is_dir():
        for pattern in ("*.xml", "*/*.xml", "*/*/*.xml"):
            for file in path.glob(pattern):
                if _PRODUCT_XML.match(file.name):
                    roots.add(file.parent.relative_to(path).as_posix())
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in map(PurePosixPath, archive.namelist()):
                if len(member.parts) <= 3 and _PRODUCT_XML.match(member.name):
                    roots.add(member.parent.as_posix())
    return sorted("" if root == "." else root for root in roots)


def is_product_folder(folder: Path) -> bool:
    """Tell whether a folder is a product itself."""
    return any(_PRODUCT_XML.match(file.name) for file in folder.glob("*.xml"))


def holds_products(folder: Path) -> bool:
    """Tell whether a folder is a product, or holds products, packed ones included."""
    return bool(product_roots(folder)) or any(product_roots(archive) for archive in folder.glob("*.zip"))


def is_band_image(path: Path) -> bool:
    """Tell whether a file is an image inside a product's GRANULE folder."""
    return path.suffix.lower() == ".jp2" and "GRANULE" in path.parts


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
        self._scratch: Path | None = None
        self._unpacked: dict[str, Path] = {}
        self._lock = threading.Lock()
        if self.path.is_file() and self.path.suffix.lower() == ".zip":
            self._open_zip()
        else:
            self._open_folder()
        self._known = frozenset(self.members)

    def _open_folder(self) -> None:
        path = self.path
        if path.is_file():
            # Tile metadata lie in GRANULE/<id>/ below the product's folder, every other file at its top.
            self.root = path.parents[2] if _TILE_XML.search(path.name) and len(path.parents) > 2 else path.parent
            if "" not in product_roots(self.root):
                raise self._no_product()
        else:
            self.root = path / self._only_root(path)
        self.name = self.root.resolve().name
        self._prefix = ""
        self.members = tuple(sorted(_walk(self.root)))

    def _open_zip(self) -> None:
        try:
            self._zip = zipfile.ZipFile(self.path)
            names = [info.filename for info in self._zip.infolist() if not info.is_dir()]
            root = self._only_root(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise InputError(
                f"{self.path.name} is not a readable zip file: {error}.",
                hint="The download may be incomplete; fetch it again.",
            ) from error
        self.root = self.path
        self._prefix = f"{root}/" if root else ""
        self.name = PurePosixPath(root).name or self.path.stem
        cut = len(self._prefix)
        self.members = tuple(sorted(name[cut:] for name in names if name.startswith(self._prefix)))

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
        return next(name for name in self.members if "/" not in name and _PRODUCT_XML.match(name))

    def tile_xml(self, folder: str) -> str | None:
        """Member name of a granule folder's metadata file."""
        depth = folder.count("/") + 1
        for name in self.members:
            inside = name.startswith(f"{folder}/") and name.count("/") == depth
            if inside and _TILE_XML.search(name.rsplit("/", 1)[-1]):
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
            It cannot be read.
        """
        try:
            if self._zip is None:
                return (self.root / name).read_bytes()
            with self._lock:
                return self._zip.read(self._prefix + name)
        except (OSError, zipfile.BadZipFile, KeyError, RuntimeError) as error:
            raise InputError(f"{name} of {self.name} cannot be read: {error}.") from error

    def gdal_path(self, name: str) -> str:
        """Path under which GDAL can open an image member; unpacks it first when it is compressed.

        Raises
        ------
        InputError
            The member is damaged, or there is no room to unpack it.
        """
        if self._zip is None:
            return str(self.root / name)
        info = self._zip.getinfo(self._prefix + name)
        if info.compress_type == zipfile.ZIP_STORED:
            return f"/vsizip/{{{self.path.resolve()}}}/{info.filename}"
        with self._lock:
            if name not in self._unpacked:
                self._unpacked[name] = self._unpack(info)
            return str(self._unpacked[name])

    def _unpack(self, info: zipfile.ZipInfo) -> Path:
        try:
            if self._scratch is None:
                self._scratch = Path(tempfile.mkdtemp(prefix="hsfuse-safe-"))
            # Own flat names: a member's name is never trusted as a path to write to.
            target = self._scratch / f"{len(self._unpacked):03d}_{PurePosixPath(info.filename).name}"
            if self._zip is None:
                raise InputError(f"{self.name} was closed.")
            with self._zip.open(info) as source, target.open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
        except (OSError, zipfile.BadZipFile, RuntimeError) as error:
            raise InputError(
                f"{info.filename} cannot be unpacked from {self.path.name}: {error}.",
                hint="Check the download, and the free space of the temporary folder (TMPDIR).",
            ) from error
        return target

    def close(self) -> None:
        """Close the zip and remove what was unpacked from it."""
        if self._zip is not None:
            self._zip.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None


def _walk(root: Path) -> Iterator[str]:
    for path in root.rglob("*"):
        if path.is_file():
            yield path.relative_to(root).as_posix()
