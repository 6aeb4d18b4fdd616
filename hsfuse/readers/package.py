"""A product as it is delivered: a folder, one of its files, or a zip; files are found by the end of their names."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from hsfuse.errors import InputError
from hsfuse.readers.entry import CERTAIN, LIKELY, POSSIBLE
from hsfuse.readers.gdal import FolderAlias
from hsfuse.readers.zip_files import DAMAGED_ZIP, stored_part

MAX_TEXT_BYTES = 64 << 20
MAX_IMAGE_BYTES = 8 << 30
"""Several times the largest image of the missions that come in such packages."""

_PART = re.compile(
    r"^(?:(?P<scene>.+)-)?(?P<part>METADATA|SPECTRAL_IMAGE|QL_[A-Z_0-9-]+?)(_COG)?\.(?P<suffix>xml(?:\.xml)?|tiff?)$",
    re.I,
)
"""Catalogues deliver some products with ``.XML.XML``, and some without the scene's name before their parts."""
_PEEK_BYTES = 4096
_DAMAGED = LIKELY - 0.1
"""Confidence in a package whose metadata are missing or damaged."""


class ProductPackage:
    """Files of one scene, whose names share a beginning: ``SCENE-METADATA.XML``, ``SCENE-SPECTRAL_IMAGE.TIF`` ...

    Parameters
    ----------
    path
        Folder, any of the files, or zip.
    mission
        What messages call the product.

    Raises
    ------
    InputError
        There is no scene, or there are several.
    """

    def __init__(self, path: Path, mission: str) -> None:
        self.path, self.mission = path, mission
        self._zip: zipfile.ZipFile | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._infos: Mapping[str, zipfile.ZipInfo] = {}
        self._folder = path if path.is_dir() else path.parent
        if path.is_file() and zipfile.is_zipfile(path):
            names = self._open_zip()
        else:
            names = _names_below(self._folder)
        self._alias = FolderAlias(self._folder)
        self.scene, self._parts = self._choose(names)

    def _open_zip(self) -> list[str]:
        try:
            self._zip = zipfile.ZipFile(self.path)
            self._infos = {info.filename.replace("\\", "/"): info for info in self._zip.infolist()}
        except DAMAGED_ZIP as error:
            raise InputError(
                f"{self.path.name} is not a readable zip file: {error}.", hint="The download may be incomplete."
            ) from error
        return list(self._infos)

    def _choose(self, names: list[str]) -> tuple[str, dict[str, str]]:
        scenes: dict[str, dict[str, str]] = {}
        for name in sorted(names):
            if (match := _PART.match(PurePosixPath(name).name)) is not None:
                scenes.setdefault(match["scene"] or "", {}).setdefault(match["part"].upper(), name)
        own = _PART.match(self.path.name) if self.path.is_file() else None
        if own is not None:
            scenes = {scene: parts for scene, parts in scenes.items() if scene == (own["scene"] or "")}
        scenes = {scene: parts for scene, parts in scenes.items() if "METADATA" in parts or len(scenes) == 1}
        if len(scenes) != 1:
            self.close()
            found = "no scene" if not scenes else f"{len(scenes)} scenes"
            raise InputError(
                f"{self.path} holds {found} of {self.mission} instead of one.",
                hint="Pass the *-METADATA.XML of the scene, with its other files beside it.",
            )
        scene, parts = next(iter(scenes.items()))
        return scene or (self.path.stem if self.path.is_file() and own is None else self._folder.name), parts

    def has(self, part: str) -> bool:
        """Tell whether a part (``QL_QUALITY_CLOUD``) was delivered."""
        return part in self._parts

    def read_metadata(self) -> bytes:
        """Content of the metadata file.

        Raises
        ------
        InputError
            It is missing, cannot be read, or is larger than any.
        """
        name = self._part("METADATA")
        try:
            if self._zip is None:
                with (self._folder / name).open("rb") as file:
                    content = file.read(MAX_TEXT_BYTES + 1)
            else:
                with self._zip.open(self._infos[name]) as member:
                    content = member.read(MAX_TEXT_BYTES + 1)
        except DAMAGED_ZIP as error:
            raise InputError(f"{self.path}: {name} cannot be read ({error}).", hint=self._hint()) from error
        if len(content) > MAX_TEXT_BYTES:
            raise InputError(f"{self.path}: {name} is larger than any metadata file.", hint=self._hint())
        return content

    def gdal_path(self, part: str) -> str:
        """Name under which GDAL opens an image; a compressed one is unpacked first.

        Raises
        ------
        InputError
            It is missing or damaged, or there is no room to unpack it.
        """
        name = self._part(part)
        if self._zip is None:
            return self._alias.name(name)
        info = self._infos[name]
        if max(info.file_size, info.compress_size) > MAX_IMAGE_BYTES:
            raise InputError(f"{self.path}: {name} claims {info.file_size / 1e9:.1f} GB.", hint=self._hint())
        if info.compress_type == zipfile.ZIP_STORED:
            return stored_part(self.path, info, self._alias.name(self.path.name))
        try:
            if self._scratch is None:
                self._scratch = tempfile.TemporaryDirectory(prefix="hsfuse-package-", ignore_cleanup_errors=True)
            target = Path(self._scratch.name) / f"{part}.tif"
            if not target.exists():
                with self._zip.open(info) as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
        except DAMAGED_ZIP as error:
            raise InputError(
                f"{self.path}: {name} cannot be unpacked ({error}).",
                hint="Check the download, and the free space of the temporary folder (TMPDIR).",
            ) from error
        return str(target)

    def _part(self, part: str) -> str:
        if part not in self._parts:
            raise InputError(
                f"{self.path}: the {self.mission} product has no file '*-{part}'.",
                hint="Keep all files of the product in one folder, or pass the zip as delivered.",
            )
        return self._parts[part]

    def _hint(self) -> str:
        return f"Download the {self.mission} product again."

    def close(self) -> None:
        """Close the zip and remove what was unpacked."""
        if self._zip is not None:
            self._zip.close()
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None
        self._alias.close() if hasattr(self, "_alias") else None


def _names_below(folder: Path) -> list[str]:
    """Files of a folder and of the folders in it, relative; unpackers like to add one."""
    found = [path for pattern in ("*", "*/*") for path in folder.glob(pattern) if _PART.match(path.name)]
    return [path.relative_to(folder).as_posix() for path in found if path.is_file()]


def package_confidence(path: Path, mark: bytes, mission: str) -> float:
    """How sure a path is a package of a mission: by the beginning of its metadata, in a zip by its names.

    Parameters
    ----------
    path
        Folder, file or zip.
    mark
        What stands in the first kilobytes of the metadata file.
    mission
        What the names of its files begin with.

    Returns
    -------
    float
        As :attr:`~hsfuse.readers.entry.ReaderEntry.probe` does: less for parts that stand for the whole, so that a
        search finds each product once, and for products without their metadata, which is worth being told.
    """
    if path.is_dir():
        names = _names_below(path)
        if any(_peek(path / name, mark) for name in names):
            return CERTAIN
        return _DAMAGED if any(_is_part(name, mission) for name in names) else 0.0
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                infos = {info.filename.replace("\\", "/"): info for info in archive.infolist()}
                whole = any(_is_metadata(name) and _is_marked(archive, infos[name], mark) for name in infos)
        except DAMAGED_ZIP:
            return 0.0
        return CERTAIN if whole else _DAMAGED if any(_is_part(name, mission) for name in infos) else 0.0
    match = _PART.match(path.name)
    if match is None:
        return 0.0
    if match["part"].upper() == "METADATA":
        return CERTAIN if _peek(path, mark) else _DAMAGED if _is_part(path.name, mission) else 0.0
    scene = (match["scene"] or "").lower()
    beside = [file for file in path.parent.iterdir() if file.name.lower().startswith(scene)]
    if any(_peek(file, mark) for file in beside):
        return LIKELY - 0.05
    # An image that was given a header of its own is a raster like any other.
    alone = not any(file.suffix.lower() == ".hdr" for file in beside)
    return POSSIBLE if alone and _is_part(path.name, mission) else 0.0


def _is_part(name: str, mission: str) -> bool:
    """Whether a name is that of a mission's file."""
    base = PurePosixPath(name).name
    return base.upper().startswith(mission.upper()) and _PART.match(base) is not None


def is_package_folder(folder: Path, mark: bytes) -> bool:
    """Tell whether a folder itself holds one scene of a mission."""
    return sum(_peek(file, mark) for file in folder.glob("*")) == 1


def _is_metadata(name: str) -> bool:
    match = _PART.match(PurePosixPath(name).name)
    return match is not None and match["part"].upper() == "METADATA"


def _is_marked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, mark: bytes) -> bool:
    with archive.open(info) as member:
        return mark in member.read(_PEEK_BYTES)


def _peek(file: Path, mark: bytes) -> bool:
    if not _is_metadata(file.name) or not file.is_file():
        return False
    with file.open("rb") as stream:
        return mark in stream.read(_PEEK_BYTES)
