"""EnMAP and DESIS products as the specifications of DLR describe them, small."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import Affine

from hsfuse.grid import Grid

ENMAP_SCENE = "ENMAP01-____L2A-DT0000001867_20220724T104526Z_008_V010302_20230628T165614Z"
DESIS_SCENE = "DESIS-HSI-L2A-DT0707652640_011-20220404T193259-V0220"
CORNERS = ("upper_left", "upper_right", "lower_right", "lower_left", "center")


def write_tif(path: Path, cube: Any, grid: Grid, nodata: float | None = None, **profile: Any) -> Path:
    """Write a GeoTIFF, shape (band, row, col)."""
    with rasterio.open(
        path, "w", driver="GTiff", height=cube.shape[1], width=cube.shape[2], count=len(cube), dtype=cube.dtype,
        crs=grid.crs, transform=Affine(*grid.transform[:6]), nodata=nodata, compress="lzw", **profile,
    ) as out:  # fmt: skip
        out.write(cube)
    return path


def enmap_bands(count: int = 224) -> dict[str, Any]:
    """Centres (VNIR to 999 nm, SWIR from 902 nm), widths, gains and offsets, ascending as in L1C and L2A."""
    vnir = np.linspace(418.24, 999.1, round(count * 91 / 224))
    swir = np.linspace(902.25, 2445.3, count - vnir.size)
    centre = np.concatenate([vnir, swir])
    order = np.argsort(centre, kind="stable")
    detector = np.array(["VNIR"] * vnir.size + ["SWIR"] * swir.size)[order]
    return {"centre": centre[order].round(3), "fwhm": np.linspace(6.9, 11.4, count).round(4), "detector": detector}


def _angle(name: str, centre: float) -> str:
    inner = "".join(f"<{corner}>{centre + i - 4:.6f}</{corner}>" for i, corner in enumerate(CORNERS))
    return f'<{name} unit="DEG">{inner}</{name}>'


def enmap_xml(bands: Mapping[str, Any], level: str, gain: Any, offset: Any, **changes: str) -> str:
    """Metadata of an EnMAP product with the elements of EN-PCV-ICD-2009-2 around those that are read."""
    entries = "".join(
        f'<bandID number="{i}"><wavelengthCenterOfBand>{c}</wavelengthCenterOfBand><FWHMOfBand>{f}</FWHMOfBand>'
        f"<GainOfBand>{g!r}</GainOfBand><OffsetOfBand>{o!r}</OffsetOfBand></bandID>"
        for i, (c, f, g, o) in enumerate(
            zip(bands["centre"], bands["fwhm"], gain.tolist(), offset.tolist(), strict=True), start=1
        )
    )
    channels = {
        name: ",".join(str(i + 1) for i in np.flatnonzero(bands["detector"] == name)) for name in ("VNIR", "SWIR")
    }
    quality = "".join(
        f"<{name.lower()}ProductQuality><expectedChannelsList>{listed}</expectedChannelsList>"
        f"<numChannelsExpected>{listed.count(',') + 1}</numChannelsExpected></{name.lower()}ProductQuality>"
        for name, listed in channels.items()
    )
    text = f"""<?xml version="1.0" encoding="UTF-8"?>
<level_X xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
 <metadata><schema><processingLevel>{level}</processingLevel><versionSchema>1.15.00</versionSchema></schema>
  <name>{ENMAP_SCENE.replace("L2A", level)}-METADATA.XML</name></metadata>
 <base><level>{level}</level><format>ENMAP_{level}</format><revision>V01.03.02</revision>
  <archivedVersion>01.02.00</archivedVersion>
  <temporalCoverage><startTime>2022-07-24T10:45:26.123456Z</startTime><stopTime>2022-07-24T10:45:30.5Z</stopTime>
  </temporalCoverage></base>
 <specific><code>{level}</code><backgroundValue>{-32768 if level == "L2A" else 0}</backgroundValue>
  <qualityFlag><cloudCover>7</cloudCover><cloudShadow>2</cloudShadow><hazeCover>1</hazeCover><cirrusCover>3</cirrusCover>
   <snowCover>0</snowCover><waterCover>12</waterCover></qualityFlag>
  {_angle("sunElevationAngle", 57.25)}{_angle("sunAzimuthAngle", 154.5)}{_angle("acrossOffNadirAngle", -12.5)}
  {_angle("viewingZenithAngle", 13.75)}{_angle("sceneAzimuthAngle", 13.0)}
  {quality}<bandCharacterisation>{entries}</bandCharacterisation></specific>
 <processing><productFormat>GeoTIFF+Metadata</productFormat><correctionType>Combined</correctionType></processing>
 <product><image><merge><name>{ENMAP_SCENE}-SPECTRAL_IMAGE.TIF</name><channels>{len(bands["centre"])}</channels></merge>
  </image><ortho><projection>UTM_Zone33_North</projection><resolution>30</resolution></ortho></product>
</level_X>"""
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


def make_enmap(
    folder: Path, dn: Any, grid: Grid, *, level: str = "L2A", cog: bool = False, **more: Any
) -> dict[str, Any]:
    """Write an EnMAP product; returns its bands, gains and offsets."""
    folder.mkdir(parents=True, exist_ok=True)
    bands = enmap_bands(len(dn))
    gain = more.get("gain", np.full(len(dn), 1e-4))
    offset = more.get("offset", np.zeros(len(dn)))
    scene, end = ENMAP_SCENE.replace("L2A", level), "_COG.TIF" if cog else ".TIF"
    nodata = -32768 if level == "L2A" else 0
    write_tif(folder / f"{scene}-SPECTRAL_IMAGE{end}", dn, grid, nodata)
    for part, layer in more.get("layers", {}).items():
        write_tif(folder / f"{scene}-{part}{end}", layer, grid)
    (folder / f"{scene}-METADATA.XML").write_text(enmap_xml(bands, level, gain, offset, **more.get("changes", {})))
    (folder / f"{scene}-HISTORY.XML").write_text("<history/>")
    return {**bands, "gain": gain, "offset": offset}


def make_desis(folder: Path, dn: Any, grid: Grid, *, level: str = "L2A", **more: Any) -> dict[str, Any]:
    """Write a DESIS product; returns its bands, gains and offsets."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(dn)
    centre = (401.9 + 2.553 * 235 / count * np.arange(count)).round(3)
    fwhm = np.full(count, 3.5)
    gain, offset = more.get("gain", np.full(count, 1e-4)), more.get("offset", np.zeros(count))
    entries = (
        "".join(
            f"<band><bandNumber>{i + 1}</bandNumber><wavelengthCenterOfBand>{centre[i]}</wavelengthCenterOfBand>"
            f"<wavelengthWidthOfBand>{fwhm[i]}</wavelengthWidthOfBand><response>0.1,1,0.1</response>"
            f"<wavelengths>{centre[i] - 2},{centre[i]},{centre[i] + 2}</wavelengths>"
            f"<gainOfBand>{gain[i]!r}</gainOfBand><offsetOfBand>{offset[i]!r}</offsetOfBand></band>"
            for i in range(count)
        )
        .replace("np.float64(", "")
        .replace(")</gain", "</gain")
        .replace(")</offset", "</offset")
    )
    scene = DESIS_SCENE.replace("L2A", level)
    (folder / f"{scene}-METADATA.xml").write_text(f"""<?xml version="1.0" encoding="UTF-8"?>
<hsi_doc xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
 <metadata><name>{scene}-METADATA.xml</name><schema><versionSchema>1.0</versionSchema></schema></metadata>
 <base><format>HSI_{level}</format><revision>02.20</revision><altitudeCoverage>412000</altitudeCoverage>
  <temporalCoverage><startTime>2022-04-04T19:32:59.123Z</startTime><stopTime>2022-04-04T19:33:03Z</stopTime>
  </temporalCoverage></base>
 <specific><sunZenithAngle>36.5</sunZenithAngle><sunAzimuthAngle>140.25</sunAzimuthAngle>
  <sceneAzimuthAngle>221.0</sceneAzimuthAngle><sceneIncidenceAngle>4.5</sceneIncidenceAngle>
  <cloudCoverage>11</cloudCoverage><tilingTileID>11</tilingTileID>
  <bandCharacterisation>{entries}</bandCharacterisation></specific></hsi_doc>""")
    write_tif(folder / f"{scene}-SPECTRAL_IMAGE.tif", dn, grid, -32768, interleave="pixel")
    for part, layer in more.get("layers", {}).items():
        write_tif(folder / f"{scene}-{part}.tif", layer, grid)
    return {"centre": centre, "fwhm": fwhm, "gain": gain, "offset": offset}


def pack(folder: Path, target: Path, compression: int, inside: str = "") -> Path:
    """Pack the files of a folder."""
    with zipfile.ZipFile(target, "w", compression) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, inside + file.name)
    return target
