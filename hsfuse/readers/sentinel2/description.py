"""What a Sentinel-2 tile says of itself: facts for reports, spectral responses, warnings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hsfuse.readers.base import ProductInfo
from hsfuse.readers.sentinel2.metadata import GranuleMetadata, SafeMetadata
from hsfuse.sensors.sentinel2 import SPACECRAFT, table_responses
from hsfuse.spectral import SpectralResponse


def choose_responses(metadata: SafeMetadata, bands: Sequence[str], warnings: list[str]) -> tuple[SpectralResponse, ...]:
    """Return the product's own spectral responses; those of the built-in table, with a warning, where it has none."""
    own, spacecraft = metadata.responses, metadata.spacecraft
    missing = [band for band in bands if band not in own]
    if missing:
        unknown = "" if spacecraft in SPACECRAFT else f" (of Sentinel-2A, as {spacecraft} is unknown)"
        warnings.append(
            f"{metadata.name} carries no spectral response of {', '.join(missing)}; "
            f"the built-in table{unknown} was used."
        )
    table = dict(zip(missing, table_responses(spacecraft, missing), strict=True))
    return tuple(own.get(band) or table[band] for band in bands)


def describe(
    path: Path,
    metadata: SafeMetadata,
    tile: GranuleMetadata,
    responses: Sequence[SpectralResponse],
    cloud_mask: str | None,
    warnings: list[str],
) -> ProductInfo:
    """Gather the facts about a tile that was opened with the bands of ``responses``."""
    if cloud_mask is None:
        warnings.append(f"{metadata.name} has no cloud mask: clouds in it are taken for ground.")
    bands = [response.name for response in responses]
    views = [tile.view_zenith_deg[band] for band in bands if band in tile.view_zenith_deg]
    return ProductInfo(
        name=metadata.name,
        sensor=metadata.spacecraft,
        level=metadata.level,
        path=path,
        start=tile.sensing_time or metadata.start,
        sun_zenith_deg=tile.sun_zenith_deg,
        sun_azimuth_deg=tile.sun_azimuth_deg,
        view_zenith_deg=float(np.mean(views)) if views else None,
        attributes={
            "processing_baseline": metadata.baseline,
            "tile_id": tile.tile_id,
            "relative_orbit": metadata.relative_orbit,
            "cloud_percent": metadata.cloud_percent,
            "quantification": metadata.quantification,
            "offset_dn": {band: metadata.offsets[band] for band in bands},
            "view_zenith_deg": {band: round(angle, 3) for band, angle in tile.view_zenith_deg.items()},
            "response_source": {r.name: r.source for r in responses},
            "cloud_mask": cloud_mask,
            "radiometry": "surface" if metadata.level == "L2A" else "top of atmosphere",
        },
        warnings=tuple(dict.fromkeys(warnings)),
    )
