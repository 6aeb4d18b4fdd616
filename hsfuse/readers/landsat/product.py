"""Landsat Collection 2 Level 2: surface reflectance of the seven 30 m bands, clouds of the quality layer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import InputError
from hsfuse.readers.band_files import BandFile, BandFileImage, MaskFile
from hsfuse.readers.base import BoolArray, ProductInfo
from hsfuse.readers.landsat.names import BAND, match_name, scenes_in
from hsfuse.readers.xml import local_name, number_of, parse_xml, time_of
from hsfuse.sensors.landsat import oli_response

_HINT = "Download the product again; hsfuse needs the SR_B*.TIF files of a Collection 2 Level 2 scene in one folder."
_SCALE, _OFFSET = 2.75e-5, -0.2
"""Of surface reflectance in Collection 2, as its product guide fixes them."""
_HIDDEN = 0b11110
"""Bits of QA_PIXEL: dilated cloud, cirrus, cloud, cloud shadow."""
_LARGEST_TEXT = 4 << 20
_GROUP = "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS"

Facts = Mapping[str, Mapping[str, str]]


def open_landsat(path: Path) -> BandFileImage:
    """Open the scene of a folder, of its metadata file or of one of its bands.

    Raises
    ------
    InputError
        It is another mission, level or collection, bands are missing or damaged, or the folder holds several scenes.
    """
    scene, parts = _scene_of(path)
    found = match_name(next(iter(parts.values())))
    if found is None or scene[:4].upper() not in ("LC08", "LC09", "LO08", "LO09"):
        raise InputError(f"{path}: {scene} is of another Landsat than 8 or 9.", hint="Their bands differ; give 8 or 9.")
    if scene[5:7].upper() != "L2" or found["collection"] != "02":
        raise InputError(
            f"{path}: {scene} is no Collection 2 Level 2 product, so it holds no surface reflectance.",
            hint="Order the Level 2 (L2SP) product of the same scene.",
        )
    bands = {f"B{band[1]}": file for part, file in parts.items() if (band := BAND.match(part)) is not None}
    missing = [name for name in ("B2", "B3", "B4", "B5") if name not in bands]
    if missing:
        raise InputError(f"{path}: {scene} has no band {', '.join(missing)}.", hint=_HINT)
    facts, warnings = _facts(parts)
    files = []
    for name in sorted(bands):
        scale, offset = _scaling(facts, name, scene)
        files.append(BandFile(bands[name], oli_response(name), scale, offset))
    mask = MaskFile(parts["QA_PIXEL"], _hidden) if "QA_PIXEL" in parts else None
    if mask is None:
        warnings.append("The quality layer (QA_PIXEL.TIF) is missing: clouds are taken for ground.")
    return BandFileImage(files, mask, lambda: _describe(scene, path, facts, found["date"], warnings), hint=_HINT)


def _scene_of(path: Path) -> tuple[str, dict[str, Path]]:
    folder = path if path.is_dir() else path.parent
    scenes = scenes_in(folder)
    own = match_name(path) if not path.is_dir() else None
    if own is not None:
        scenes = {scene: parts for scene, parts in scenes.items() if scene == own["scene"]}
    if len(scenes) != 1:
        found = "no bands of a Landsat scene" if not scenes else f"{len(scenes)} Landsat scenes"
        raise InputError(
            f"{folder} holds {found}.", hint="Give the folder of one scene, or one of its files to say which."
        )
    return next(iter(scenes.items()))


def _hidden(codes: NDArray[Any]) -> BoolArray:
    return np.asarray((codes & _HIDDEN) != 0, dtype=np.bool_)


def _facts(parts: Mapping[str, Path]) -> tuple[Facts, list[str]]:
    """Metadata by group; none, and a remark, where the file is not there."""
    readers = {"MTL.json": _json, "MTL.xml": _xml, "MTL.txt": _text}
    for name, read in readers.items():
        if name in parts:
            path = parts[name]
            try:
                with path.open("rb") as file:
                    content = file.read(_LARGEST_TEXT)
                return read(content, path.name), []
            except (OSError, ValueError, AttributeError, TypeError) as error:
                raise InputError(f"{path}: the metadata cannot be read ({error}).", hint=_HINT) from error
    return {}, ["The metadata (*_MTL) are missing: scale and offset are those of Collection 2, the time is not known."]


def _json(content: bytes, name: str) -> Facts:  # noqa: ARG001 - as the others
    groups = next(iter(json.loads(content).values()))
    return {group: {key: str(value) for key, value in entries.items()} for group, entries in groups.items()}


def _xml(content: bytes, name: str) -> Facts:
    root = parse_xml(content, name)
    return {local_name(group): {local_name(item): (item.text or "") for item in group} for group in root}


def _text(content: bytes, name: str) -> Facts:  # noqa: ARG001 - as the others
    groups: dict[str, dict[str, str]] = {}
    group = ""
    for line in content.decode("utf-8", "replace").splitlines():
        key, equals, value = (part.strip().strip('"') for part in line.partition("="))
        if key == "GROUP":
            group = value
        elif equals and key != "END_GROUP":
            groups.setdefault(group, {})[key] = value
    return groups


def _scaling(facts: Facts, name: str, scene: str) -> tuple[float, float]:
    if _GROUP not in facts:
        if facts:
            raise InputError(f"{scene}: the metadata have no group {_GROUP}.", hint=_HINT)
        return _SCALE, _OFFSET
    number = name.removeprefix("B")
    scale, offset = (number_of(facts[_GROUP].get(f"REFLECTANCE_{kind}_BAND_{number}")) for kind in ("MULT", "ADD"))
    if scale is None or offset is None or not 1e-6 < scale < 1e-2 or abs(offset) > 1:
        raise InputError(f"{scene}: scale and offset of band {number} cannot be meant ({scale}, {offset}).", hint=_HINT)
    return scale, offset


def _describe(scene: str, path: Path, facts: Facts, date: str, warnings: list[str]) -> ProductInfo:
    flat = {
        key: value for group in ("IMAGE_ATTRIBUTES", "PRODUCT_CONTENTS") for key, value in facts.get(group, {}).items()
    }
    moment = (
        time_of(f"{flat['DATE_ACQUIRED']}T{_seconds(flat['SCENE_CENTER_TIME'])}") if flat.keys() >= _TIMES else None
    )
    elevation = number_of(flat.get("SUN_ELEVATION"))
    return ProductInfo(
        name=scene,
        sensor=f"Landsat {int(scene[2:4])} OLI",
        level=flat.get("PROCESSING_LEVEL", scene[5:9]),
        path=path,
        start=moment or datetime.strptime(date, "%Y%m%d").replace(tzinfo=UTC),
        sun_zenith_deg=None if elevation is None else 90.0 - elevation,
        sun_azimuth_deg=number_of(flat.get("SUN_AZIMUTH")),
        attributes={"cloud_percent": number_of(flat.get("CLOUD_COVER")), "radiometry": "surface"},
        warnings=tuple(warnings),
    )


_TIMES = {"DATE_ACQUIRED", "SCENE_CENTER_TIME"}


def _seconds(text: str) -> str:
    """Time with microseconds at most: the metadata give seven digits."""
    return re.sub(r"(\.\d{6})\d+", r"\1", text.replace("Z", "")) + "+00:00"
