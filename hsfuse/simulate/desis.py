"""Writer of DESIS products (L2A, L1C): names, image, quality layers and metadata as DLR delivers them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import OutputError
from hsfuse.simulate.blocks import CubeBlock
from hsfuse.simulate.dlr_package import Marks, Numbers, PackageLayout, tag, tags, write_layer
from hsfuse.spectral import BandTable

_BANDS, _FIRST_NM, _STEP_NM, _FWHM_NM = 235, 401.9, 2.553, 3.5
_QUALITY_LAYERS = 10
_SHADOW, _LAND, _CLOUD_OVER_LAND = 0, 1, 5
"""Layers of ``QL_QUALITY-2``, from 0."""
_FRAMES = {
    "upper_left": "point_1", "lower_left": "point_2", "lower_right": "point_3", "upper_right": "point_4",
    "center": "center",
}  # fmt: skip


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
    """Metadata of a product: all elements that SISTER's, acolite's and other public readers look for."""
    level, scene = layout.level, scene_name(layout)
    time = f"{layout.start:%Y-%m-%dT%H:%M:%S.%f}Z"
    points = (
        tag("point", tags(frame=_FRAMES[name], latitude=f"{lat:.8f}", longitude=f"{lon:.8f}"))
        for name, lon, lat in layout.corners()
    )
    parts = (
        tag("metadata", tags(name=f"{scene}-METADATA.xml"), tag("schema", tags(versionSchema="1.0"))),
        tag("processing", tags(terrainCorrection="Yes", ozoneValue=330, productFormat="GeoTIFF+Metadata")),
        tag("base", tags(format=f"HSI_{level}", level=level, revision="02.20", altitudeCoverage=412000),
            tag("temporalCoverage", tags(startTime=time, endTime=time)),
            tag("spatialCoverage", tag("boundingPolygon", *points))),
        tag("specific", *_specific(layout, time)),
    )  # fmt: skip
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<hsi_doc xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
    return "\n".join([head, *parts, "</hsi_doc>\n"])


def _specific(layout: PackageLayout, time: str) -> list[str]:
    """Facts of the scene, the orbit, and the bands, which are listed twice: by geometry and by spectrum."""
    grid, bands = layout.grid, layout.bands
    entries = (
        tag("band", tags(
            bandNumber=i, wavelengthCenterOfBand=float(centre), wavelengthWidthOfBand=float(width),
            response="0.1,1,0.1", wavelengths=f"{centre - 2:.3f},{centre:.3f},{centre + 2:.3f}",
            gainOfBand=float(gain), offsetOfBand=float(offset), deadPixels=0, suspiciousPixel=0))
        for i, (centre, width, gain, offset) in enumerate(
            zip(bands.centre_nm, bands.fwhm_nm, layout.gains, layout.offsets, strict=True), start=1)
    )  # fmt: skip
    orbit = tag("point", tags(timeUTC=time), tag("location", tags(X=4074000.0, Y=1080000.0, Z=5270000.0)))
    return [
        tags(mission="MUSES", satelliteID="ISS", sensor="DESIS", productType=layout.level, numberOfBands=len(bands),
             widthOfScene=grid.width, heightOfScene=grid.height, pixelSize=f"{grid.pixel_m:g}",
             sunZenithAngle=layout.sun_zenith_deg, sunAzimuthAngle=layout.sun_azimuth_deg, sceneAzimuthAngle=221.0,
             sceneIncidenceAngle=layout.view_zenith_deg, pointingMirrorAngle=0.5, backgroundValue=layout.nodata,
             matchingMethod="automatic", orthoRMSE_x=0.4, orthoRMSE_y=0.4, tilingTileID=11),
        tag("terrain", tags(meanGroundElevation=50, meanSlope=2)),
        tag("waterVapour", tags(meanWaterVapour=1.5)),
        tags(meanAerosolOpticalThickness=0.1),
        tag("haze", tags(percentageHaze=layout.cover("haze"))),
        tag("clouds", tags(percentageClouds=layout.cover("cloud"))),
        tag("cloudShadow", tags(percentageCloudShadow=layout.cover("shadow"))),
        tag("topoShadow", tags(percentageTopoShadow=0)),
        tag("orbit", orbit),
        tag("interiorOrientation", *(tag("band", tags(bandNumber=i)) for i in range(1, len(bands) + 1))),
        tag("bandCharacterisation", *entries),
    ]  # fmt: skip
