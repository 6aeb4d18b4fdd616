"""A STAC item beside the cube: footprint, grid, bands in micrometres, scale and origin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hsfuse._version import __version__
from hsfuse.grid import Grid
from hsfuse.writers.band_metadata import CubeMetadata
from hsfuse.writers.encoding import SampleEncoding
from hsfuse.writers.footprint import footprint
from hsfuse.writers.format import FormatEntry, stored_number
from hsfuse.writers.layers import LayerFile

_LAYER_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
_EARLIEST, _LATEST = "1960-01-01T00:00:00Z", "2100-01-01T00:00:00Z"
_EXTENSIONS = (
    "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
    "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.1.0/schema.json",
)


def stac_item(
    path: Path,
    metadata: CubeMetadata,
    grid: Grid,
    encoding: SampleEncoding,
    entry: FormatEntry,
    layers: Sequence[LayerFile] = (),
) -> dict[str, Any]:
    """Return the item of a cube that will lie at ``path``.

    The band list stands in the item's properties (where EnMAP-Box looks) and in the asset (where STAC clients
    look). Without an acquisition time ``datetime`` is null, and the interval that STAC asks for then is that of all
    satellite images.
    """
    outline = footprint(grid)
    eo_bands = _eo_bands(metadata)
    properties: dict[str, Any] = {
        **_time(metadata),
        "title": metadata.description or path.stem,
        "gsd": grid.pixel_m,
        "processing:level": "L4",
        "processing:software": {"hsfuse": __version__},
        "eo:bands": eo_bands,
        "envi:metadata": _envi_metadata(metadata),
        **_projection(grid),
        **{f"hsfuse:{key}": value for key, value in metadata.provenance.items()},
    }
    if metadata.sensor:
        properties["instruments"] = [metadata.sensor.lower()]
    if metadata.identity:
        properties["hsfuse:identity"] = metadata.identity
    asset: dict[str, Any] = {
        "href": f"./{path.name}",
        "type": entry.media_type,
        "title": "Fused hyperspectral cube",
        "roles": ["data"],
        "eo:bands": eo_bands,
        "raster:bands": [_raster_band(grid, encoding)] * len(metadata.bands),
    }
    assets = {"cube": asset}
    for role, companion in entry.companions(path).items():
        assets[role] = {"href": f"./{companion.name}", "title": f"{entry.name} {role}", "roles": ["metadata"]}
    for layer in layers:
        assets[layer.key] = {
            "href": f"./{layer.path(path).name}", "type": _LAYER_TYPE, "title": layer.title, "roles": ["metadata"],
        }  # fmt: skip
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": path.stem,
        "bbox": outline.bbox,
        "geometry": outline.geometry,
        "properties": properties,
        "links": [
            {"rel": "derived_from", "href": f"./{name}", "title": name} for name in _input_names(metadata.provenance)
        ],
        "assets": assets,
    }
    # An item without a place has no box at all.
    return {key: value for key, value in item.items() if key != "bbox" or value is not None}


def stac_text(item: dict[str, Any]) -> str:
    """JSON text of an item (not-a-number never occurs in it)."""
    return json.dumps(item, indent=1, allow_nan=False, default=str) + "\n"


def _input_names(provenance: Mapping[str, Any]) -> list[str]:
    """Names of the inputs, whether the record lists them or keeps them by role."""
    inputs = provenance.get("inputs", ())
    records = inputs.values() if isinstance(inputs, Mapping) else inputs
    return [str(item["name"]) for item in records if isinstance(item, Mapping) and "name" in item]


def _time(metadata: CubeMetadata) -> dict[str, Any]:
    if metadata.acquired is not None:
        return {"datetime": metadata.acquired_utc}
    return {"datetime": None, "start_datetime": _EARLIEST, "end_datetime": _LATEST}


def _projection(grid: Grid) -> dict[str, Any]:
    t = grid.transform
    code = grid.crs.to_epsg()
    facts: dict[str, Any] = {
        "proj:epsg": code,
        "proj:shape": [grid.height, grid.width],
        "proj:transform": [t.a, t.b, t.c, t.d, t.e, t.f, 0.0, 0.0, 1.0],
        "proj:bbox": list(grid.bounds),
    }
    if code is None:
        facts["proj:wkt2"] = grid.crs.to_wkt(version="WKT2_2018")
    return facts


def _eo_bands(metadata: CubeMetadata) -> list[dict[str, Any]]:
    bands = metadata.bands
    return [
        {
            "name": name,
            "center_wavelength": round(float(bands.centre_nm[i]) / 1000.0, 8),
            "full_width_half_max": round(float(bands.fwhm_nm[i]) / 1000.0, 8),
            "enmapbox:bad_band_multiplier": int(metadata.usable[i]),
        }
        for i, name in enumerate(bands.names())
    ]


def _raster_band(grid: Grid, encoding: SampleEncoding) -> dict[str, Any]:
    band: dict[str, Any] = {
        "data_type": encoding.dtype.name,
        "nodata": stored_number(encoding.nodata),
        "sampling": "area",
        "spatial_resolution": grid.pixel_m,
    }
    if encoding.is_integer:
        band |= {"scale": 1.0 / encoding.scale, "offset": 0.0}
    return band


def _envi_metadata(metadata: CubeMetadata) -> dict[str, Any]:
    bands = metadata.bands
    facts: dict[str, Any] = {
        "band_names": bands.names(),
        "wavelength": [round(float(v), 6) for v in bands.centre_nm],
        "wavelength_units": "Nanometers",
        "fwhm": [round(float(v), 6) for v in bands.fwhm_nm],
        "bbl": [int(v) for v in metadata.usable],
    }
    if metadata.acquired is not None:
        facts["acquisition_time"] = metadata.acquired_utc
    return facts
