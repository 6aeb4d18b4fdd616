"""Checksums of a product's files, as its ``manifest.safe`` lists them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

from hsfuse.errors import InputError
from hsfuse.log import get_logger
from hsfuse.readers.xml import find_all, parse_xml

_log = get_logger(__name__)

_ALGORITHMS = {"MD5": "md5", "SHA3-256": "sha3_256", "SHA-256": "sha256"}
_PIECE = 1 << 20


@dataclass(frozen=True)
class Checksum:
    """What a file should be.

    Attributes
    ----------
    algorithm
        As the manifest calls it.
    digest
        Lower-case hexadecimal.
    """

    algorithm: str
    digest: str

    def fits(self, stream: BinaryIO) -> bool:
        """Read a stream to its end and compare."""
        digest = hashlib.new(_ALGORITHMS[self.algorithm], usedforsecurity=False)
        while piece := stream.read(_PIECE):
            digest.update(piece)
        return digest.hexdigest() == self.digest


def read_checksums(content: bytes, name: str) -> Mapping[str, Checksum]:
    """Return the checksums of a manifest by member name; empty, with a word in the log, for a damaged one."""
    try:
        root = parse_xml(content, name)
    except InputError as error:
        _log.warning("%s The images cannot be compared with their checksums.", error.message)
        return {}
    found = {}
    for stream in find_all(root, "byteStream"):
        place = next(find_all(stream, "fileLocation"), None)
        checksum = next(find_all(stream, "checksum"), None)
        if place is None or checksum is None or not checksum.text:
            continue
        algorithm = checksum.get("checksumName", "").upper()
        if algorithm in _ALGORITHMS:
            member = place.get("href", "").replace("\\", "/").removeprefix("./")
            found[member] = Checksum(algorithm, checksum.text.strip().lower())
    return found
