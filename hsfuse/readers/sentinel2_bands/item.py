"""The STAC item beside a folder of cloud-optimised Sentinel-2 images: which numbers are reflectance, and when."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hsfuse.errors import InputError
from hsfuse.readers.xml import time_of
from hsfuse.sensors.sentinel2 import SPACECRAFT

_LARGEST = 8 << 20
_HINT = "Save the scene's STAC item (JSON) from Earth Search into the folder of its bands."
_STEP = 1e-4
_SINCE_OFFSET = 4.0
"""Processing baseline from which on numbers carry an offset of -1000."""
_OFFSET = -0.1


@dataclass(frozen=True)
class StacItem:
    """What an item says.

    Attributes
    ----------
    name, spacecraft, start, baseline, cloud_percent, sun_zenith_deg, sun_azimuth_deg
        Facts about the scene.
    scales
        Scale and offset by the names of images.
    applied
        Whether the offset has been taken off the numbers already; None where the item does not say.
    warnings
        What was assumed.
    """

    name: str
    spacecraft: str
    start: datetime | None
    baseline: str
    cloud_percent: float | None
    sun_zenith_deg: float | None
    sun_azimuth_deg: float | None
    scales: Mapping[str, tuple[float, float]]
    applied: bool | None
    warnings: tuple[str, ...] = ()

    def scaling(self, band: str) -> tuple[float, float]:
        """Return scale and offset of a band.

        Raises
        ------
        InputError
            Nothing says them.
        """
        if self.applied:
            return self.scales.get(band, (_STEP, 0.0))[0], 0.0
        if band in self.scales:
            return self.scales[band]
        try:
            version = float(self.baseline)
        except ValueError:
            raise InputError(
                f"{self.name}: its STAC item says neither scale and offset of {band} nor the processing baseline.",
                hint=_HINT,
            ) from None
        return _STEP, _OFFSET if version >= _SINCE_OFFSET else 0.0


def read_item(folder: Path) -> StacItem:
    """Read the STAC item in a folder.

    Raises
    ------
    InputError
        There is none, or several.
    """
    found = [(path, content) for path in sorted(folder.glob("*.json")) if (content := _load(path)) is not None]
    if len(found) != 1:
        held = "no STAC item" if not found else f"{len(found)} STAC items"
        raise InputError(
            f"{folder} holds {held} beside the bands, so scale and offset of their numbers are not known.", hint=_HINT
        )
    path, content = found[0]
    try:
        return _parse(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: this STAC item cannot be understood ({error!r}).", hint=_HINT) from error


def _load(path: Path) -> dict[str, Any] | None:
    """Content of a STAC item; None for other files."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_LARGEST))
    except (OSError, ValueError, RecursionError):
        return None
    is_item = isinstance(content, dict) and {"stac_version", "properties", "assets"} <= content.keys()
    return content if is_item else None


def _parse(content: Mapping[str, Any]) -> StacItem:
    facts: Mapping[str, Any] = content["properties"]
    platform = str(facts.get("platform", "")).lower()
    spacecraft = next((name for name in SPACECRAFT if name.lower() == platform), None)
    warnings = () if spacecraft else (f"The spacecraft '{platform}' is not known: the responses are Sentinel-2A's.",)
    elevation = _number(facts.get("view:sun_elevation"))
    applied = facts.get("earthsearch:boa_offset_applied", facts.get("sentinel:boa_offset_applied"))
    return StacItem(
        name=str(content.get("id", "Sentinel-2 scene")),
        spacecraft=spacecraft or SPACECRAFT[0],
        start=time_of(str(facts["datetime"]).replace("Z", "+00:00")) if facts.get("datetime") else None,
        baseline=str(facts.get("s2:processing_baseline", facts.get("sentinel2:processing_baseline", ""))),
        cloud_percent=_number(facts.get("eo:cloud_cover")),
        sun_zenith_deg=None if elevation is None else 90.0 - elevation,
        sun_azimuth_deg=_number(facts.get("view:sun_azimuth")),
        scales=dict(filter(None, (_scaling(asset) for asset in content["assets"].values()))),
        applied=applied if isinstance(applied, bool) else None,
        warnings=warnings,
    )


def _scaling(asset: Mapping[str, Any]) -> tuple[str, tuple[float, float]] | None:
    """Name of an image without its suffix, and its scale and offset; None where the asset does not say them."""
    entry = next(iter(asset.get("raster:bands") or asset.get("bands") or [asset]))
    scale, offset = (_number(entry.get(key, entry.get(f"raster:{key}"))) for key in ("scale", "offset"))
    if scale is None or not 1e-7 < scale < 1.0 or abs(offset or 0.0) > 1.0:
        return None
    return str(asset.get("href", "")).rsplit("/", 1)[-1].split(".")[0].upper(), (scale, offset or 0.0)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
