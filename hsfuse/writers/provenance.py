"""Where a cube comes from: a record that is equal for equal runs, and the tags that carry it.

Nothing here reads a clock or a host name: two runs with the same settings and inputs must give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hsfuse._version import __version__
from hsfuse.errors import InputError

TAG_PREFIX = "HSFUSE_"
IDENTITY_TAG = "HSFUSE_IDENTITY"
_SAMPLE_BYTES = 2**20
_SAMPLES = 8


@dataclass(frozen=True)
class InputIdentity:
    """An input file or folder, told apart from others without reading gigabytes.

    Attributes
    ----------
    name
        Name without folder.
    bytes
        Total size.
    fingerprint
        Hash of names, sizes and sampled content (16 hexadecimal digits).
    """

    name: str
    bytes: int
    fingerprint: str


def input_identity(path: Path) -> InputIdentity:
    """Identify an input.

    A file is hashed at its start, its end and evenly between (1 MiB each); of a folder (a ``.SAFE``) the relative
    names and sizes of all files and the content of its XML files.

    Raises
    ------
    InputError
        The input cannot be read.
    """
    path = Path(path)
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            size = _hash_folder(path, digest)
        else:
            size = path.stat().st_size
            _hash_samples(path, size, digest)
    except OSError as error:
        raise InputError(f"The input {path} cannot be read: {error.strerror or error}.") from error
    return InputIdentity(path.resolve().name, size, digest.hexdigest()[:16])


def sampled_hash(path: Path) -> str:
    """Hash of a file's size and of content at its start, its end and evenly between (16 hexadecimal digits)."""
    digest = hashlib.sha256()
    _hash_samples(path, path.stat().st_size, digest)
    return digest.hexdigest()[:16]


def _hash_samples(path: Path, size: int, digest: hashlib._Hash) -> None:
    digest.update(f"{size}\n".encode())
    with path.open("rb") as stream:
        if size <= _SAMPLES * _SAMPLE_BYTES:
            digest.update(stream.read())
            return
        for sample in range(_SAMPLES):
            stream.seek((size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE_BYTES))


def _hash_folder(folder: Path, digest: hashlib._Hash) -> int:
    total = 0
    for item in sorted(folder.rglob("*")):
        if not item.is_file():
            continue
        size = item.stat().st_size
        total += size
        digest.update(f"{item.relative_to(folder).as_posix()}\n{size}\n".encode())
        if item.suffix.lower() == ".xml":
            digest.update(item.read_bytes())
    return total


def file_hash(path: Path) -> str:
    """SHA-256 of a whole file (for weights), hexadecimal.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"The file {path} cannot be read: {error.strerror or error}.") from error


def provenance_record(
    *,
    config: Mapping[str, Any],
    inputs: Iterable[InputIdentity],
    method: str,
    model: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Put the record together.

    Parameters
    ----------
    config
        The effective configuration, JSON-serialisable.
    inputs
        Identities of all inputs, the hyperspectral product first.
    method
        Fusion method that made the cube.
    model
        Name and hash of the weights of a network.
    more
        Further facts, such as the co-registration's verdict.
    """
    record: dict[str, Any] = {
        "version": __version__,
        "method": method,
        "inputs": [asdict(item) for item in inputs],
        "config": dict(config),
    }
    if model is not None:
        record["model"] = dict(model)
    return record | more


def run_identity(config_identity: str, inputs: Iterable[InputIdentity], *more: str) -> str:
    """Hash that two runs share when they must give the same bytes.

    The first part is of version, settings and inputs (16 digits), known before anything is computed; the second, behind
    a hyphen, of whatever else decides the bytes (8 digits), such as the method with its weights.
    """
    parts = [__version__, config_identity, *(f"{i.name}:{i.bytes}:{i.fingerprint}" for i in inputs)]
    settings = _digest(parts)[:16]
    return f"{settings}-{_digest(more)[:8]}" if more else settings


def settings_of(identity: str) -> str:
    """Return the part of an identity that settings and inputs decide."""
    return identity.partition("-")[0]


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def plain_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce a record to what strict JSON holds, keys sorted: equal records then give equal bytes.

    Numbers that are not finite become null, array scalars plain numbers, everything unknown its text.
    """
    return {str(key): _plain_value(record[key]) for key in sorted(record, key=str)}


def _plain_value(value: Any) -> Any:
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, Mapping):
        return plain_record(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [
            _plain_value(item) for item in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)
        ]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return _plain_value(value.tolist()) if hasattr(value, "tolist") else str(value)


def provenance_tags(provenance: Mapping[str, Any], identity: str) -> dict[str, str]:
    """Flatten a record to ``HSFUSE_*`` tags: text as it is, everything else as JSON with sorted keys."""
    tags = {IDENTITY_TAG: identity} if identity else {}
    for key, value in provenance.items():
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
        tags[TAG_PREFIX + key.upper().replace("-", "_")] = text
    return tags
