"""Names of Landsat 8 and 9 files: ``LC08_L2SP_193030_20240623_20240701_02_T1_SR_B4.TIF``."""

from __future__ import annotations

import re
from pathlib import Path

_FILE = re.compile(
    r"^(?P<scene>L[COTEM]\d\d_L[12]\w\w_\d{6}_(?P<date>\d{8})_\d{8}_(?P<collection>\d\d)_\w\w)_(?P<part>\w+)"
    r"\.(?P<suffix>tif|xml|json|txt)$",
    re.IGNORECASE,
)
BAND = re.compile(r"^SR_B([1-7])$")


def match_name(path: Path) -> re.Match[str] | None:
    """Parts of the name of a Landsat file: ``scene``, ``date``, ``collection``, ``part`` and ``suffix``; else None."""
    return _FILE.match(path.name)


def is_landsat_file(path: Path) -> bool:
    """Whether a file is a band or the metadata of a Landsat scene, of whatever level."""
    found = match_name(path)
    return found is not None and bool(re.match(r"^(SR_B\d+|B\d+|MTL|QA_PIXEL)$", found["part"].upper()))


def scenes_in(folder: Path) -> dict[str, dict[str, Path]]:
    """Scenes whose bands lie in a folder: name -> part -> file."""
    scenes: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if (found := match_name(path)) is not None:
            key = found["part"].upper() + ("" if found["suffix"].lower() == "tif" else f".{found['suffix'].lower()}")
            scenes.setdefault(found["scene"], {})[key] = path
    return {scene: parts for scene, parts in scenes.items() if any(re.match(r"^(SR_)?B\d+$", part) for part in parts)}
