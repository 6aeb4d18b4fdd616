"""Paths as people give them: with ``~`` that no shell has replaced, and under the names that GDAL shows."""

from __future__ import annotations

import re
from pathlib import Path

_GDAL_NAME = re.compile(r"^SENTINEL2_L(?:1B|1C|1C_TILE|2A):(?P<path>.*?)(?::[0-9A-Z]+m?(?::EPSG_\d+)?)?$")
_IN_ZIP = re.compile(r"^/vsizip/+(?P<zip>.*?\.zip)(?:/.*)?$", re.IGNORECASE)


def given_path(path: Path | str) -> Path:
    """Return the file or folder that is meant.

    ``~`` and ``~name`` become home folders, ``SENTINEL2_L2A:/data/MTD_MSIL2A.xml:10m:EPSG_32632`` the XML, and
    ``/vsizip/data/product.zip/...`` the zip. Everything else stays as it is.
    """
    text = str(path)
    if (name := _GDAL_NAME.match(text)) is not None:
        text = name["path"].strip("\"'")
    if (packed := _IN_ZIP.match(text)) is not None:
        # "/vsizip//data/x.zip" is absolute, "/vsizip/x.zip" is not; a path object has made one slash of two.
        inside = Path(packed["zip"])
        text = str(inside if inside.exists() else Path("/") / inside)
    if text.startswith("~"):
        try:
            return Path(text).expanduser()
        except RuntimeError:
            return Path(text)
    return Path(text)
