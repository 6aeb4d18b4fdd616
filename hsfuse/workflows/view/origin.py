"""Where a cube comes from, by its own metadata and the report beside it: products, displacement field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hsfuse.coregister.field import DisplacementField
from hsfuse.errors import HsfuseError
from hsfuse.workflows.steps.report_files import report_files
from hsfuse.writers.provenance import TAG_PREFIX


@dataclass(frozen=True)
class Origin:
    """What is known of a cube's making.

    Attributes
    ----------
    hsi, msi
        Products where they were found; None, and empty, where not.
    field
        Displacement of the hyperspectral product; None where nothing tells.
    coregistration
        Its record, as plain values.
    method
        What fused.
    numbers
        The report's, as plain values; empty without a report.
    """

    hsi: Path | None
    msi: tuple[Path, ...]
    field: DisplacementField | None
    coregistration: dict[str, Any]
    method: str
    numbers: dict[str, Any]


def origin_of(cube: Path) -> Origin:
    """Read what a cube and its report say; whatever they lack is left out."""
    numbers: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        numbers = dict(json.loads(report_files(cube).numbers.read_text(encoding="utf-8")))
    tags = _tags(cube)
    inputs = _inputs(tags)
    recorded = _json(tags.get(f"{TAG_PREFIX}COREGISTRATION")) or numbers.get("coregistration") or {}
    found = [path for path in (_find(cube, name, numbers) for name in inputs) if path is not None]
    first = inputs[0] if inputs else ""
    hsi = next((path for path in found if path.name == first), None)
    method = tags.get(f"{TAG_PREFIX}METHOD") or str(numbers.get("method", ""))
    return Origin(
        hsi, tuple(path for path in found if path != hsi), _field(recorded), dict(recorded), method, numbers
    )  # fmt: skip


def _tags(cube: Path) -> dict[str, str]:
    import rasterio
    from rasterio.errors import RasterioError

    from hsfuse.readers.gdal import gdal_name

    try:
        with rasterio.open(gdal_name(cube)) as dataset:
            return {str(key).upper(): str(value) for key, value in dataset.tags().items()}
    except (RasterioError, OSError):
        return {}


def _json(text: str | None) -> Any:
    with suppress(ValueError):
        return json.loads(text or "null")
    return None


def _inputs(tags: dict[str, str]) -> list[str]:
    """Names of the inputs, the hyperspectral product first."""
    listed = _json(tags.get(f"{TAG_PREFIX}INPUTS"))
    if not isinstance(listed, list):
        return []
    return [str(entry["name"]) for entry in listed if isinstance(entry, dict) and "name" in entry]


def _find(cube: Path, name: str, numbers: dict[str, Any]) -> Path | None:
    """Where a product lies: at the place that the report names, or near the cube."""
    if not name or Path(name).name != name:
        return None
    return next((path for path in _places(cube, name, numbers) if path.name == name and path.exists()), None)


def _places(cube: Path, name: str, numbers: dict[str, Any]) -> Iterator[Path]:
    for entry in dict(numbers.get("inputs", {})).values():
        with suppress(TypeError, KeyError):
            yield Path(str(entry["path"]))
    folder = cube.absolute().parent
    yield folder / name
    yield folder / "products" / name
    yield folder.parent / name
    yield Path.cwd() / name


def _field(recorded: Any) -> DisplacementField | None:
    try:
        return DisplacementField.from_json(recorded["field"])
    except (KeyError, TypeError, ValueError, HsfuseError):
        return None
