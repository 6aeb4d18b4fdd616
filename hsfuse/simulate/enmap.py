"""Writer of EnMAP products (L2A, L1C): names, images, quality layers and metadata as DLR delivers them.

Elements and their places follow the product specification EN-PCV-ICD-2009-2: all those that SNAP's, EnPT's and
EnMAP-Box's readers look for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import OutputError
from hsfuse.simulate.blocks import CubeBlock
from hsfuse.simulate.dlr_package import Marks, Numbers, PackageLayout, tag, tags, write_layer
from hsfuse.spectral import BandTable

_VNIR_BANDS, _BANDS = 91, 224
_QUALITY = ("CLOUD", "CLOUDSHADOW", "CIRRUS", "HAZE", "SNOW", "CLASSES", "TESTFLAGS")
_LAND = 1
"""Class of land in ``QL_QUALITY_CLASSES``."""


def enmap_bands(count: int = _BANDS) -> BandTable:
    """Return bands from 418 to 2445 nm, ascending, the detectors overlapping between 902 and 999 nm."""
    vnir = np.linspace(418.24, 999.1, round(count * _VNIR_BANDS / _BANDS))
    swir = np.linspace(902.25, 2445.3, count - vnir.size)
    centre = np.concatenate([vnir, swir])
    order = np.argsort(centre, kind="stable")
    detector = np.array(["VNIR"] * vnir.size + ["SWIR"] * swir.size)[order]
    return BandTable.make(centre[order].round(3), np.linspace(6.9, 11.4, count).round(4), detector=detector.tolist())


def scene_name(layout: PackageLayout) -> str:
    """Name that the files of a product begin with."""
    made = f"{layout.start:%Y%m%dT%H%M%S}Z"
    return f"ENMAP01-____{layout.level}-DT0000001867_{made}_008_V010302_20240628T165614Z"


def write_enmap(folder: Path, layout: PackageLayout, blocks: Iterable[CubeBlock]) -> Path:
    """Write an L2A product of observed blocks, with the quality layers of what they hold.

    Parameters
    ----------
    folder
        Gets a folder with the scene's name.
    layout
        Grid, bands, time and angles.
    blocks
        Blocks of whole rows, in any order.

    Returns
    -------
    pathlib.Path
        The product's folder.

    Raises
    ------
    UsageError
        A block does not fit the layout.
    OutputError
        The product cannot be written.
    """
    marks = Marks(layout.grid.shape)
    product = folder / scene_name(layout)
    layers: dict[str, NDArray[np.uint8]] = {f"QL_QUALITY_{name}": np.zeros_like(marks.cloud) for name in _QUALITY}
    layers |= {"QL_QUALITY_CLOUD": marks.cloud, "QL_QUALITY_CLOUDSHADOW": marks.shadow}
    layers["QL_QUALITY_CLASSES"][:] = _LAND
    write_enmap_numbers(product, layout, layout.encode(blocks, marks), layers)
    end = _suffix(layout)
    path, bands = product / f"{scene_name(layout)}-QL_PIXELMASK{end}", len(layout.bands)
    write_layer(path, marks.defect_rows(bands), layout.grid, bands, "uint8")
    return product


def write_enmap_numbers(
    product: Path, layout: PackageLayout, numbers: Iterable[Numbers], layers: Mapping[str, NDArray[np.uint8]]
) -> Path:
    """Write a product of stored numbers and quality layers, shape (band, row, col), by the names of their parts."""
    try:
        product.mkdir(parents=True, exist_ok=True)
        scene, end = scene_name(layout), _suffix(layout)
        dtype = "int16" if layout.level == "L2A" else "uint16"
        image = product / f"{scene}-SPECTRAL_IMAGE{end}"
        write_layer(image, numbers, layout.grid, len(layout.bands), dtype, nodata=layout.nodata)
        for part, values in layers.items():
            write_layer(product / f"{scene}-{part}{end}", [(0, values)], layout.grid, len(values), "uint8")
        (product / f"{scene}-METADATA.XML").write_text(metadata_xml(layout), encoding="utf-8")
        (product / f"{scene}-HISTORY.XML").write_text("<history/>", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{product}: the simulated product could not be written ({error}).") from error
    return product


def _suffix(layout: PackageLayout) -> str:
    return "_COG.TIF" if layout.cog else ".TIF"


def metadata_xml(layout: PackageLayout) -> str:
    """Metadata of a product."""
    level, scene = layout.level, scene_name(layout)
    parts = (
        tag("metadata", tag("schema", tags(processingLevel=level, versionSchema="1.15.00")),
            tags(name=f"{scene}-METADATA.XML", comment="simulated")),
        tag("processing", tags(
            terrainCorrection="Yes", ozoneValue=330, season="summer", productFormat="GeoTIFF+Metadata",
            mapProjection="UTM_Zone_of_Scene_Center", DEMDBVersion="NA", correctionType="Combined",
            cirrusHazeRemoval="No", bandInterpolation="No", waterType="Clear")),
        tag("base", tags(level=level, format=f"ENMAP_{level}"), tag("size", "NA", unit="Kbyte"),
            tags(revision="V01.03.02", archivedVersion="01.02.00"),
            tag("temporalCoverage", tags(startTime=_time(layout), stopTime=_time(layout))),
            tag("spatialCoverage", _polygon(layout)), tags(altitudeCoverage=653000)),
        tag("specific", *_specific(layout)),
        tag("product", *_files(layout)),
    )  # fmt: skip
    head = '<?xml version="1.0" encoding="UTF-8"?>\n<level_X xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
    return "\n".join([head, *parts, "</level_X>\n"])


def _time(layout: PackageLayout) -> str:
    return f"{layout.start:%Y-%m-%dT%H:%M:%S.%f}Z"


def _polygon(layout: PackageLayout) -> str:
    points = (
        tag("point", tags(frame=name, latitude=f"{lat:.8f}", longitude=f"{lon:.8f}"))
        for name, lon, lat in layout.corners()
    )
    return tag("boundingPolygon", *points)


def _specific(layout: PackageLayout) -> list[str]:
    """Facts of the scene, the angles, the detectors and the bands."""
    grid, bands = layout.grid, layout.bands
    detector = np.array(bands.detector)
    listed = {name: np.flatnonzero(detector == name) + 1 for name in ("VNIR", "SWIR")}
    quality = [
        tag(f"{name.lower()}ProductQuality",
            tags(expectedChannelsList=",".join(map(str, numbers)), numChannelsExpected=numbers.size))
        for name, numbers in listed.items()
    ]  # fmt: skip
    entries = (
        tag("bandID", tags(wavelengthCenterOfBand=float(centre), FWHMOfBand=float(width), GainOfBand=float(gain),
                           OffsetOfBand=float(offset)), number=str(number))
        for number, (centre, width, gain, offset) in enumerate(
            zip(bands.centre_nm, bands.fwhm_nm, layout.gains, layout.offsets, strict=True), start=1)
    )  # fmt: skip
    size = {"width": grid.width, "height": grid.height}
    return [
        tags(code=layout.level, mission="EnMAP", satelliteID="EN01", sensor="HSI", datatakeID=1867, tileID=8,
             datatakeStart=_time(layout), datatakeStop=_time(layout)),
        tag("spatialCoverageOfDatatake", _polygon(layout)),
        tag("spatialCoverageOfOrthoScene", _polygon(layout)),
        tags(**{f"{side}Of{what}": number for what in ("Scene", "OrthoScene") for side, number in size.items()}),
        tags(pixelSize=f"{grid.pixel_m:g}", pixelSizeOfOrthoScene=f"{grid.pixel_m:g}", orthoRMSE=0.3, orthoRMSE_x=0.2,
             orthoRMSE_y=0.2, meanGroundElevation=50, backgroundValue=layout.nodata),
        tag("qualityFlag", tags(
            cloudCover=layout.cover("cloud"), cloudShadow=layout.cover("shadow"), hazeCover=layout.cover("haze"),
            cirrusCover=layout.cover("cirrus"), snowCover=layout.cover("snow"), waterCover=layout.cover("water"),
            deadPixelsVNIR=0, deadPixelsSWIR=0, sceneSZA=round(layout.sun_zenith_deg), sceneAOT=100, sceneWV=1500)),
        _angle("sunElevationAngle", 90.0 - layout.sun_zenith_deg),
        _angle("sunAzimuthAngle", layout.sun_azimuth_deg),
        _angle("acrossOffNadirAngle", layout.across_deg),
        _angle("alongOffNadirAngle", 0.1),
        _angle("viewingZenithAngle", layout.view_zenith_deg),
        _angle("viewingAzimuthAngle", 281.0),
        _angle("sceneAzimuthAngle", 13.0),
        tags(numberOfVNIRBands=listed["VNIR"].size, numberOfSWIRBands=listed["SWIR"].size, SWIRAOrSWIRBSelected="B"),
        *quality,
        tag("bandCharacterisation", *entries),
    ]  # fmt: skip


def _files(layout: PackageLayout) -> list[str]:
    """Files of the product, its image and its projection."""
    scene, end, grid = scene_name(layout), _suffix(layout), layout.grid
    parts = ["SPECTRAL_IMAGE", *(f"QL_QUALITY_{name}" for name in _QUALITY), "QL_PIXELMASK"]
    names = {f"{scene}-{part}{end}": "binary" for part in parts} | {f"{scene}-METADATA.XML": "xml"}
    files = (
        tag("file", tags(name=name), tag("size", "NA", unit="Kbyte"), tags(version="01.03.02", format=kind))
        for name, kind in names.items()
    )
    epsg = grid.crs.to_epsg() or 0
    projection = f"UTM_Zone{epsg % 100}_{'North' if epsg // 100 == 326 else 'South'}"
    image = tag("merge", tags(name=f"{scene}-SPECTRAL_IMAGE{end}", channels=len(layout.bands)),
                tag("dimension", tags(rows=grid.height, columns=grid.width)))  # fmt: skip
    return [
        tag("productFileInformation", *files),
        tag("image", image),
        tag("ortho", tags(projection=projection, resolution=f"{grid.pixel_m:g}")),
    ]


def _angle(name: str, centre: float) -> str:
    corners = ("upper_left", "upper_right", "lower_left", "lower_right", "center")
    return tag(name, tags(**{corner: f"{centre + 0.2 * (i - 4):.6f}" for i, corner in enumerate(corners)}), unit="DEG")
