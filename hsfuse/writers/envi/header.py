"""The text of an ENVI header."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hsfuse.grid import Grid
from hsfuse.writers.band_metadata import CubeMetadata, braces, envi_fields, number, plain
from hsfuse.writers.encoding import SampleEncoding

FINGERPRINT_FIELD = "hsfuse data fingerprint"
_ENVI_TYPE = {"i2": 2, "u2": 12, "f4": 4}
_TYPE_BYTES = {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 6: 8, 9: 16, 12: 2, 13: 4, 14: 8, 15: 8}
_NUMBER = re.compile(r"^[ \t]*(samples|lines|bands|header offset|data type)[ \t]*=[ \t]*(\d+)[ \t]*$", re.M | re.I)
_NO_DATA_FILES = frozenset(
    {".hdr", ".json", ".html", ".xml", ".ovr", ".msk", ".prj", ".txt", ".csv", ".toml", ".png", ".jpg", ".log", ".zip"}
)
_HEADER_BYTES = 2**24


def header_text(metadata: CubeMetadata, grid: Grid, encoding: SampleEncoding, fingerprint: str = "") -> str:
    """Text of the ``.hdr`` file of a raw file, band interleaved by line.

    Integers say their scale twice: ``reflectance scale factor`` for ENVI and Spectral Python, ``data gain values``
    for GDAL and what is built on it. No reader of either applies both. ``fingerprint`` ties the header to its data.
    """
    bands = metadata.bands
    fields: dict[str, str] = {
        "description": "{" + plain(metadata.description or "hsfuse cube") + "}",
        "samples": str(grid.width),
        "lines": str(grid.height),
        "bands": str(len(bands)),
        "header offset": "0",
        "file type": "ENVI Standard",
        "data type": str(_ENVI_TYPE[encoding.dtype.str[1:]]),
        "interleave": "bil",
        "byte order": "0",
        "map info": map_info(grid),
        "coordinate system string": "{" + _esri_wkt(grid) + "}",
        "data ignore value": "nan" if np.isnan(encoding.nodata) else number(encoding.nodata),
        "band names": braces(bands.names()),
    }
    fields["reflectance scale factor"] = number(encoding.scale)
    if encoding.is_integer:
        fields["data gain values"] = braces([number(1.0 / encoding.scale)] * len(bands))
    fields |= envi_fields(metadata)
    fields |= _plain_provenance(metadata.provenance)
    if metadata.identity:
        fields["hsfuse identity"] = metadata.identity
    if fingerprint:
        fields[FINGERPRINT_FIELD] = fingerprint
    return "ENVI\n" + "".join(f"{key} = {value}\n" for key, value in fields.items())


def map_info(grid: Grid) -> str:
    """The ``map info`` field: reference pixel (1, 1) is the outer upper-left corner of the first pixel."""
    t = grid.transform
    place = ["1", "1", repr(float(t.c)), repr(float(t.f)), repr(float(t.a)), repr(float(-t.e))]
    definition = grid.crs.to_dict()
    datum = "WGS-84" if definition.get("datum") == "WGS84" else _datum(grid)
    if grid.crs.is_geographic:
        return braces(["Geographic Lat/Lon", *place, datum, "units=Degrees"])
    zone = _utm_zone(grid)
    if zone is not None:
        return braces(["UTM", *place, str(zone[0]), zone[1], datum, "units=Meters"])
    name = grid.crs.to_wkt().split('"')[1] if grid.crs.to_wkt() else "Arbitrary"
    return braces([plain(name).replace(",", " "), *place, datum, "units=Meters"])


def _utm_zone(grid: Grid) -> tuple[int, str] | None:
    # The EPSG code first: to_dict() of some UTM systems says "tmerc" instead of "utm".
    code = grid.crs.to_epsg() or 0
    if code // 100 in (326, 327) and 1 <= code % 100 <= 60:
        return code % 100, "North" if code // 100 == 326 else "South"
    definition = grid.crs.to_dict()
    if definition.get("proj") == "utm":
        return int(definition["zone"]), "South" if definition.get("south") else "North"
    return None


def _datum(grid: Grid) -> str:
    wkt = grid.crs.to_wkt()
    start = wkt.find('DATUM["')
    name = wkt[start + 7 :].split('"')[0] if start >= 0 else "Unknown"
    return "WGS-84" if name in ("WGS_1984", "World Geodetic System 1984") else plain(name).replace(",", " ")


def _esri_wkt(grid: Grid) -> str:
    return str(grid.crs.to_wkt(version="WKT1_ESRI"))


def _plain_provenance(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Scalar facts only: nested ones cannot be written in a header without breaking its parsers."""
    return {
        f"hsfuse {key.replace('_', ' ')}": plain(str(value))
        for key, value in provenance.items()
        if isinstance(value, str | int | float | bool)
    }


def other_users(header: Path, path: Path) -> list[Path]:
    """Files beside a header, other than ``path``, that may be what it describes.

    A header whose sizes fit ``path`` is that file's own. A TIFF counts too: ENVI writes such headers beside one.
    """
    if not header.is_file() or _fits(header, path):
        return []
    return sorted(
        item
        for item in header.parent.iterdir()
        if item != path
        and item.is_file()
        and (item.stem == header.stem or item.name == header.stem)
        and item.suffix.lower() not in _NO_DATA_FILES
    )


def _fits(header: Path, path: Path) -> bool:
    """Whether a raw file has the size that a header names."""
    try:
        with header.open(encoding="latin-1") as stream:
            values = {key.lower(): int(value) for key, value in _NUMBER.findall(stream.read(_HEADER_BYTES))}
        size = path.stat().st_size
        samples = values["samples"] * values["lines"] * values["bands"]
        return size == samples * _TYPE_BYTES[values["data type"]] + values.get("header offset", 0)
    except (OSError, KeyError, ValueError):
        return False
