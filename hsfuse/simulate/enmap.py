"""Writer of EnMAP products (L2A, L1C): names, images, quality layers and metadata as DLR delivers them.

Elements and their places follow the product specification EN-PCV-ICD-2009-2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import OutputError
from hsfuse.simulate.blocks import CubeBlock
from hsfuse.simulate.dlr_package import Marks, Numbers, PackageLayout, write_layer
from hsfuse.spectral import BandTable

_VNIR_BANDS, _BANDS = 91, 224
_QUALITY = ("CLOUD", "CLOUDSHADOW", "CIRRUS", "HAZE", "SNOW", "CLASSES", "TESTFLAGS_VNIR", "TESTFLAGS_SWIR")


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
    level, bands, scene = layout.level, layout.bands, scene_name(layout)
    entries = "".join(
        f'<bandID number="{i}"><wavelengthCenterOfBand>{float(centre)}</wavelengthCenterOfBand>'
        f"<FWHMOfBand>{float(width)}</FWHMOfBand><GainOfBand>{float(gain)!r}</GainOfBand>"
        f"<OffsetOfBand>{float(offset)!r}</OffsetOfBand></bandID>"
        for i, (centre, width, gain, offset) in enumerate(
            zip(bands.centre_nm, bands.fwhm_nm, layout.gains, layout.offsets, strict=True), start=1
        )
    )
    detector = np.array(bands.detector)
    quality = ""
    for name in ("VNIR", "SWIR"):
        listed = ",".join(str(i + 1) for i in np.flatnonzero(detector == name))
        quality += (
            f"<{name.lower()}ProductQuality><expectedChannelsList>{listed}</expectedChannelsList>"
            f"<numChannelsExpected>{listed.count(',') + 1}</numChannelsExpected></{name.lower()}ProductQuality>"
        )
    points = "".join(
        f"<point><frame>{name}</frame><longitude>{lon:.8f}</longitude><latitude>{lat:.8f}</latitude></point>"
        for name, lon, lat in layout.corners()
    )
    grid = layout.grid
    zone = (grid.crs.to_epsg() or 0) % 100
    half = "North" if (grid.crs.to_epsg() or 0) // 100 == 326 else "South"
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<level_X xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
 <metadata><schema><processingLevel>{level}</processingLevel><versionSchema>1.15.00</versionSchema></schema>
  <name>{scene}-METADATA.XML</name><comment>simulated</comment></metadata>
 <base><level>{level}</level><format>ENMAP_{level}</format><revision>V01.03.02</revision>
  <archivedVersion>01.02.00</archivedVersion>
  <temporalCoverage><startTime>{layout.start:%Y-%m-%dT%H:%M:%S.%f}Z</startTime>
   <stopTime>{layout.start:%Y-%m-%dT%H:%M:%S.%f}Z</stopTime></temporalCoverage>
  <spatialCoverage><boundingPolygon>{points}</boundingPolygon></spatialCoverage></base>
 <specific><code>{level}</code><backgroundValue>{layout.nodata}</backgroundValue>
  <qualityFlag><cloudCover>{layout.cover("cloud")}</cloudCover><cloudShadow>{layout.cover("shadow")}</cloudShadow>
   <hazeCover>{layout.cover("haze")}</hazeCover><cirrusCover>{layout.cover("cirrus")}</cirrusCover>
   <snowCover>{layout.cover("snow")}</snowCover><waterCover>{layout.cover("water")}</waterCover></qualityFlag>
  {_angle("sunElevationAngle", 90.0 - layout.sun_zenith_deg)}{_angle("sunAzimuthAngle", layout.sun_azimuth_deg)}
  {_angle("acrossOffNadirAngle", layout.across_deg)}{_angle("alongOffNadirAngle", 0.1)}
  {_angle("viewingZenithAngle", layout.view_zenith_deg)}{_angle("viewingAzimuthAngle", 281.0)}
  {_angle("sceneAzimuthAngle", 13.0)}
  {quality}<bandCharacterisation>{entries}</bandCharacterisation></specific>
 <processing><productFormat>GeoTIFF+Metadata</productFormat><correctionType>Combined</correctionType>
  <mapProjection>UTM_Zone{zone}_{half}</mapProjection></processing>
 <product><image><merge><name>{scene}-SPECTRAL_IMAGE{_suffix(layout)}</name><channels>{len(bands)}</channels>
   <dimension><rows>{grid.height}</rows><columns>{grid.width}</columns></dimension></merge>
  </image><ortho><projection>UTM_Zone{zone}_{half}</projection><resolution>{grid.pixel_m:g}</resolution></ortho></product>
</level_X>"""


def _angle(name: str, centre: float) -> str:
    corners = ("upper_left", "upper_right", "lower_right", "lower_left", "center")
    inner = "".join(f"<{corner}>{centre + 0.2 * (i - 4):.6f}</{corner}>" for i, corner in enumerate(corners))
    return f'<{name} unit="DEG">{inner}</{name}>'
