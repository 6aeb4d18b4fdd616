"""Where results may be written: never over an input, never over what somebody else made, under names that exist.

Used by every command before any work. Files are told apart by device and inode, so links and other spellings of a
path are seen through.
"""

from __future__ import annotations

import html
import json
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hsfuse.errors import OutputError

GENERATOR = b'<meta name="generator" content="hsfuse">'
"""Stands in the head of every page that hsfuse writes."""
_COMPANION_SUFFIXES = (".hdr", ".aux.xml", ".ovr", ".msk", ".aux", ".prj", ".tfw", ".wld", ".rpc", ".rrd", ".xml")
_HEADER_SUFFIX = ".hdr"
_PNG_HEAD = b"\x89PNG\r\n\x1a\n"
_PNG_IHDR_END = 33
"""Signature and the first chunk, whose length is fixed."""
_PNG_MARK = b"Software\x00hsfuse"
_PDF_MARK, _SVG_MARK = b"/Creator (hsfuse)", b"<dc:title>hsfuse<"
_HEADER_MARK = b"\nhsfuse "
_LOOK_BYTES = 4096
_JSON_BYTES = 2**26
_VRT_SOURCE = re.compile(r"<(?:SourceFilename|SourceDataset)\b[^>]*>([^<]+)<")
_LOG_LINE = re.compile(rb"\d\d:\d\d:\d\d [A-Z] |\{\"time\": ")
_NAME_BYTES, _PATH_BYTES = 255, 4095


def check_new_files(outputs: Sequence[Path], inputs: Iterable[Path], *, overwrite: bool) -> None:
    """Check the places of files that a command writes, before any work.

    Raises
    ------
    OutputError
        A name cannot be written or stands for two outputs, a folder does not exist, an output touches an input, or
        it exists already and ``overwrite`` is not set.
    """
    check_paths([*outputs, *(part_name(path) for path in outputs)])
    for path in outputs:
        if not path.parent.is_dir():
            raise OutputError(f"The folder {path.parent} does not exist.", hint=f"Make it: mkdir -p {path.parent}")
    refuse_same(outputs)
    refuse_inputs(outputs, inputs)
    for path in outputs:
        if path.is_dir():
            raise OutputError(f"The output {path} is a folder.", hint="Give a file name in it.")
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already.", hint="Use --overwrite to replace it, or another name.")


def check_log_file(path: Path) -> None:
    """Make sure that lines are only ever added to a log of hsfuse's.

    Raises
    ------
    OutputError
        There is another file.
    """
    try:
        # A pipe would be waited for.
        if not path.is_file():
            return
        with path.open("rb") as stream:
            line = stream.readline(_LOOK_BYTES)
    except OSError:
        # That it cannot be read is no harm; that it cannot be written is said when it is opened.
        return
    if line and not _LOG_LINE.match(line):
        raise OutputError(
            f"The log file {path} exists and is no log of hsfuse's.", hint="Choose another name for --log-file."
        )


def check_paths(paths: Iterable[Path]) -> None:
    """Make sure that names can be written at all.

    Raises
    ------
    OutputError
        A name is too long for the file system, or no text that libraries can pass on.
    """
    for path in paths:
        try:
            os.fsencode(path.absolute()).decode("utf-8")
        except UnicodeDecodeError as error:
            raise OutputError(
                f"The path of the output, {os.fsencode(path)!r}, is not valid UTF-8, which GDAL needs.",
                hint="Choose a folder and a name in UTF-8; inputs may lie where they are.",
            ) from error
        name, size = os.fsencode(path.name), len(os.fsencode(path.absolute()))
        longest = _longest_name(path.parent)
        if len(name) > longest or size > _PATH_BYTES:
            raise OutputError(
                f"The name {path.name[:40]}... is too long: {len(name)} bytes, where {longest} are possible.",
                hint="Choose a shorter name for the output; files beside it add up to 20 bytes to it.",
            )


def _longest_name(folder: Path) -> int:
    try:
        return int(os.pathconf(folder, "PC_NAME_MAX"))
    except (OSError, ValueError, AttributeError):
        return _NAME_BYTES


def refuse_inputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Make sure that no output is an input, belongs to one or lies inside one; links are seen through.

    Raises
    ------
    OutputError
        One does. There is no option that would allow it.
    """
    known: dict[tuple[int, int], Path] = {}
    roots: dict[Path, Path] = {}
    for given in inputs:
        for item in _files_of(given):
            key = _file_key(item)
            if key is not None:
                known.setdefault(key, given)
        root = product_root(given)
        if root is not None:
            roots[root.resolve()] = given
    for output in outputs:
        key = _file_key(output)
        owner = known.get(key) if key is not None else None
        if owner is not None:
            same = _file_key(owner) == key
            raise OutputError(
                f"The output {output} {'is' if same else 'belongs to'} the input {owner}.",
                hint="Choose another name for the output; an input is never replaced.",
            )
        inside = _inside(output, roots)
        if inside is not None:
            raise OutputError(
                f"The output {output} lies inside the input {inside}.", hint="Choose another folder for the output."
            )


def refuse_same(outputs: Iterable[Path]) -> None:
    """Make sure that no two outputs are one file.

    Raises
    ------
    OutputError
        Two are.
    """
    seen: dict[object, Path] = {}
    for output in outputs:
        for key in filter(None, (_file_key(output), output.parent.resolve() / output.name)):
            if key in seen:
                raise OutputError(
                    f"Two outputs would be one file: {seen[key]} and {output}.", hint="Give each its own name."
                )
        seen |= {key: output for key in (_file_key(output), output.parent.resolve() / output.name) if key is not None}


def product_root(path: Path) -> Path | None:
    """Return the folder that is a product as a whole: the input itself, or the one around its metadata file."""
    if path.is_dir():
        return path
    safe = next((folder for folder in path.absolute().parents if folder.suffix.upper() == ".SAFE"), None)
    if safe is not None:
        return safe
    return path.absolute().parent if path.name.upper().startswith("MTD_") else None


def _inside(path: Path, roots: dict[Path, Path]) -> Path | None:
    real = path.resolve()
    return next((given for root, given in roots.items() if root == real or root in real.parents), None)


def _file_key(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _files_of(path: Path) -> Iterator[Path]:
    """Yield all files that an input consists of or that belong to it."""
    root = product_root(path)
    if root is not None:
        yield root
        for folder, _, names in os.walk(root):
            yield from (Path(folder) / name for name in names)
    yield path
    if path.is_dir():
        return
    for real in {path, Path(os.path.realpath(path))}:
        for suffix in _COMPANION_SUFFIXES:
            for spelled in (suffix, suffix.upper()):
                yield real.with_name(real.name + spelled)
                yield real.with_suffix(spelled)
        if real.suffix.lower() == _HEADER_SUFFIX:
            # A header stands for its data file, whose suffix may be any.
            yield from (item for item in _siblings(real) if item.stem == real.stem or item.name == real.stem)
    if path.suffix.lower() == ".vrt":
        yield from _sources_of(path)


def _siblings(path: Path) -> list[Path]:
    try:
        return [item for item in path.parent.iterdir() if item != path]
    except OSError:
        return []


def _sources_of(path: Path) -> list[Path]:
    """Files that a virtual raster is made of."""
    try:
        if path.stat().st_size > _JSON_BYTES:
            return []
        names = _VRT_SOURCE.findall(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []
    return [path.parent / html.unescape(name) for name in names]


def made_by_hsfuse(path: Path) -> bool:
    """Whether a page, a JSON file, an ENVI header, a picture or a folder of pictures was written by hsfuse."""
    try:
        if path.is_dir():
            return all(item.is_file() and made_by_hsfuse(item) for item in path.iterdir())
        with path.open("rb") as stream:
            head = stream.read(_LOOK_BYTES)
    except OSError:
        return False
    if head.startswith(_PNG_HEAD):
        return _PNG_MARK in head
    if head.startswith(b"%PDF"):
        return _PDF_MARK in path.read_bytes()
    if head.startswith(b"ENVI"):
        return _HEADER_MARK in path.read_bytes()
    return GENERATOR in head or _SVG_MARK in head or bool(schema_of(path))


def schema_of(path: Path) -> str:
    """Name of the schema of a JSON file of hsfuse's, ``stac`` for a STAC item; empty for anything else."""
    content = read_json(path)
    schema = content.get("schema")
    if isinstance(schema, str) and schema.startswith("hsfuse-"):
        return schema
    properties = content.get("properties")
    software = properties.get("processing:software") if isinstance(properties, dict) else None
    return "stac" if isinstance(software, dict) and "hsfuse" in software else ""


def read_json(path: Path) -> dict[str, object]:
    """Content of a JSON file that holds an object, empty for anything else."""
    try:
        if path.stat().st_size > _JSON_BYTES:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def marked_png(png: bytes) -> bytes:
    """Return a picture with a note of who made it, so that it can be told from other people's."""
    if not png.startswith(_PNG_HEAD) or _PNG_MARK in png[:_LOOK_BYTES]:
        return png
    chunk = b"tEXt" + _PNG_MARK
    length, check = struct.pack(">I", len(chunk) - 4), struct.pack(">I", zlib.crc32(chunk))
    return png[:_PNG_IHDR_END] + length + chunk + check + png[_PNG_IHDR_END:]


def part_name(path: Path) -> Path:
    """Return the name of a file while it is written: hidden, beside it, and nobody else's.

    It is the same each time, so that what a kill leaves behind is replaced by the next run.
    """
    return path.with_name(f".{path.name}.hsfuse-part{path.suffix}")


def replace_file(path: Path, content: bytes) -> None:
    """Write a small file so that a reader sees the old or the new content, never a part.

    Raises
    ------
    OSError
        It cannot be written; nothing is left behind.
    """
    part = part_name(path)
    try:
        # Never through a link that lies there.
        part.unlink(missing_ok=True)
        with part.open("xb") as stream:
            stream.write(content)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
