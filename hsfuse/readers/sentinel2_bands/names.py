"""Names of bands: ``..._Sentinel-2_L2A_B04_(Raw).tiff`` of the Copernicus Browser, ``B04.tif`` of Earth Search."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hsfuse.sensors.sentinel2 import BANDS_10M

_BROWSER = re.compile(r"^(?P<scene>.*Sentinel-2_L(?P<level>1C|2A))_(?P<band>B\d\d|B8A)_\(Raw\)\.tiff?$", re.IGNORECASE)
_COG = re.compile(r"^(?P<band>B\d\d|B8A|SCL)\.tiff?$", re.IGNORECASE)
_DATE = re.compile(r"(20\d\d)-(\d\d)-(\d\d)")


@dataclass(frozen=True)
class SetKey:
    """What the bands of one scene in a folder share.

    Attributes
    ----------
    kind
        ``browser`` or ``cog``.
    scene
        Beginning of the names; empty for a folder of its own.
    """

    kind: Literal["browser", "cog"]
    scene: str = ""

    @property
    def level(self) -> str:
        """``L2A`` or ``L1C`` where the names say it, else empty."""
        return f"L{self.scene[-2:].upper()}" if self.kind == "browser" else ""

    @property
    def date(self) -> str | None:
        """Day of the acquisition, as ``2024-06-23``, where the names say it."""
        found = _DATE.search(self.scene)
        return found[0] if found is not None else None


@dataclass(frozen=True)
class BandName:
    """A file that may be a band."""

    key: SetKey
    band: str


def match_band(path: Path) -> BandName | None:
    """Tell by its name which band of which scene a file is; None for other names."""
    if (found := _BROWSER.match(path.name)) is not None:
        return BandName(SetKey("browser", found["scene"]), found["band"].upper())
    if (found := _COG.match(path.name)) is not None:
        return BandName(SetKey("cog"), found["band"].upper())
    return None


def band_sets(folder: Path) -> dict[SetKey, dict[str, Path]]:
    """Scenes whose 10 m bands lie in a folder: band -> file."""
    sets: dict[SetKey, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if (found := match_band(path)) is not None:
            sets.setdefault(found.key, {})[found.band] = path
    return {key: files for key, files in sets.items() if len(files.keys() & set(BANDS_10M)) > 1}
