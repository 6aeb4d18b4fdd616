"""Writer of DESIS products (L2A, L1C): names, image, quality layers and metadata as DLR delivers them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import OutputError
from hsfuse.simulate.blocks import CubeBlock
from hsfuse.simulate.dlr_package import Marks, Numbers, PackageLayout, write_layer
from hsfuse.spectral import BandTable

_BANDS, _FIRST_NM, _STEP_NM, _FWHM_NM = 235, 401.9, 2.553, 3.5
_QUALITY_LAYERS = 10
_SHADOW, _LAND, _CLOUD_OVER_LAND = 0, 1, 5
"""Layers of ``QL_QUALITY-2``, from 0."""


def desis_bands(count: int = _BANDS) -> BandTable:
    """Return bands from 402 to 1000 nm; fewer than 235 are as wide a step apart as in binned products."""
    centre = (_FIRST_NM + _STEP_NM * _BANDS / count * np.arange(count)).round(3)
    return BandTable.make(centre, np.full(count, _FWHM_NM), detector="VNIR")


def scene_name(layout: PackageLayout) -> str:
    """Name that the files of a product begin with."""
    return f"DESIS-HSI-{layout.level}-DT0707652640_011-{layout.start:%Y%m%dT%H%M%S}-V0220"


def write_desis(folder: Path, layout: PackageLayout, blocks: Iterable[CubeBlock]) -> Path:
    """Write an L2A product of observed blocks; see :func:`hsfuse.simulate.enmap.write_enmap`."""
    marks = Marks(layout.grid.shape)
    product = folder / scene_name(layout)
    quality = np.zeros((_QUALITY_LAYERS, *layout.grid.shape), np.uint8)
    write_desis_numbers(product, layout, layout.encode(blocks, marks), {})
    quality[_SHADOW], quality[_CLOUD_OVER_LAND] = marks.shadow[0], marks.cloud[0]
    quality[_LAND] = 1 - np.maximum(quality[_SHADOW], quality[_CLOUD_OVER_LAND])
    path = product / f"{scene_name(layout)}-QL_QUALITY-2.tif"
    write_layer(path, [(0, quality)], layout.grid, _QUALITY_LAYERS, "uint8")
    return product


def write_desis_numbers(
    product: Path, layout: PackageLayout, numbers: Iterable[Numbers], layers: Mapping[str, NDArray[np.uint8]]
) -> Path:
    """Write a product of stored numbers and quality layers, shape (band, row, col), by the names of their parts."""
    scene = scene_name(layout)
    try:
        product.mkdir(parents=True, exist_ok=True)
        (product / f"{scene}-METADATA.xml").write_text(metadata_xml(layout), encoding="utf-8")
        image = product / f"{scene}-SPECTRAL_IMAGE.tif"
        write_layer(
            image, numbers, layout.grid, len(layout.bands), "int16", nodata=layout.nodata, interleave="pixel"
        )  # fmt: skip
        for part, values in layers.items():
            write_layer(product / f"{scene}-{part}.tif", [(0, values)], layout.grid, len(values), "uint8")
    except OSError as error:
        raise OutputError(f"{product}: the simulated product could not be written ({error}).") from error
    return product


def metadata_xml(layout: PackageLayout) -> str:
    """Metadata of a product."""
    bands, level, scene = layout.bands, layout.level, scene_name(layout)
    entries = "".join(
        f"<band><bandNumber>{i}</bandNumber><wavelengthCenterOfBand>{float(centre)}</wavelengthCenterOfBand>"
        f"<wavelengthWidthOfBand>{float(width)}</wavelengthWidthOfBand><response>0.1,1,0.1</response>"
        f"<wavelengths>{centre - 2:.3f},{centre:.3f},{centre + 2:.3f}</wavelengths>"
        f"<gainOfBand>{float(gain)!r}</gainOfBand><offsetOfBand>{float(offset)!r}</offsetOfBand></band>"
        for i, (centre, width, gain, offset) in enumerate(
            zip(bands.centre_nm, bands.fwhm_nm, layout.gains, layout.offsets, strict=True), start=1
        )
    )
    points = "".join(
        f"<point><frame>{name}</frame><latitude>{lat:.8f}</latitude><longitude>{lon:.8f}</longitude></point>"
        for name, lon, lat in layout.corners()
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<hsi_doc xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
 <metadata><name>{scene}-METADATA.xml</name><schema><versionSchema>1.0</versionSchema></schema></metadata>
 <base><format>HSI_{level}</format><revision>02.20</revision><altitudeCoverage>412000</altitudeCoverage>
  <temporalCoverage><startTime>{layout.start:%Y-%m-%dT%H:%M:%S.%f}Z</startTime>
   <endTime>{layout.start:%Y-%m-%dT%H:%M:%S.%f}Z</endTime></temporalCoverage>
  <spatialCoverage><boundingPolygon>{points}</boundingPolygon></spatialCoverage></base>
 <specific><mission>MUSES</mission><sensor>DESIS</sensor><numberOfBands>{len(bands)}</numberOfBands>
  <sunZenithAngle>{layout.sun_zenith_deg}</sunZenithAngle><sunAzimuthAngle>{layout.sun_azimuth_deg}</sunAzimuthAngle>
  <sceneAzimuthAngle>221.0</sceneAzimuthAngle><sceneIncidenceAngle>{layout.view_zenith_deg}</sceneIncidenceAngle>
  <cloudCoverage>{layout.cover("cloud")}</cloudCoverage><tilingTileID>11</tilingTileID>
  <bandCharacterisation>{entries}</bandCharacterisation></specific></hsi_doc>"""
