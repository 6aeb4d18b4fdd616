"""The metadata files of a Sentinel-2 SAFE product: product XML, tile XML, manifest, cloud mask polygons.

Only what a product carries and readers use is written, under the tag names, nesting and name spaces of the
product specification (version 14, and version 13's granule list for the old naming).
"""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from rasterio import features

from hsfuse.grid import Grid
from hsfuse.masks import BoolArray
from hsfuse.sensors.sentinel2 import BAND_ID, BAND_ORDER, RESOLUTION_M
from hsfuse.spectral import SpectralResponse

_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_SCENE_CLASSES = (
    "SC_NODATA", "SC_SATURATED_DEFECTIVE", "SC_DARK_FEATURE_SHADOW", "SC_CLOUD_SHADOW", "SC_VEGETATION",
    "SC_NOT_VEGETATED", "SC_WATER", "SC_UNCLASSIFIED", "SC_CLOUD_MEDIUM_PROBA", "SC_CLOUD_HIGH_PROBA",
    "SC_THIN_CIRRUS", "SC_SNOW_ICE",
)  # fmt: skip


@dataclass(frozen=True)
class SafeFacts:
    """Everything about a simulated product that its metadata repeat."""

    level: str
    compact: bool
    spacecraft: str
    baseline: str
    start: datetime
    generated: datetime
    relative_orbit: int
    absolute_orbit: int
    tile_id: str
    product_uri: str
    granule: str
    quantification: int
    offset: int
    responses: Sequence[SpectralResponse]
    images: Sequence[str]
    masks: Mapping[str, str]
    grid: Grid
    sun_zenith_deg: float
    sun_azimuth_deg: float
    view_zenith_deg: float
    view_azimuth_deg: float
    cloud_percent: float
    nodata_percent: float

    @property
    def unit(self) -> str:
        """Short name of the spacecraft, such as ``S2A``."""
        return f"S2{self.spacecraft[-1]}"


def _add(parent: ET.Element, tag: str, text: object = None, **attributes: object) -> ET.Element:
    element = ET.SubElement(parent, tag, {key: str(value) for key, value in attributes.items()})
    if text is not None:
        element.text = str(text)
    return element


def _root(tag: str, schema: str) -> ET.Element:
    space = f"https://psd-14.sentinel2.eo.esa.int/PSD/{schema}"
    return ET.Element(f"n1:{tag}", {"xmlns:n1": space, "xmlns:xsi": _XSI, "xsi:schemaLocation": space})


def _bytes(root: ET.Element) -> bytes:
    ET.indent(root, "  ")
    return bytes(ET.tostring(root, encoding="UTF-8", xml_declaration=True))


def stamp(moment: datetime) -> str:
    """Write a time as product names do: ``20230625T234621``."""
    return moment.strftime("%Y%m%dT%H%M%S")


def iso(moment: datetime) -> str:
    """Write a time as the metadata do, with milliseconds and a Z."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def product_xml(facts: SafeFacts) -> bytes:
    """Return the product's main metadata file."""
    digit = facts.level[1:]  # "2A" of "L2A"
    root = _root(f"Level-{digit}_User_Product", f"User_Product_Level-{digit}.xsd")
    general = _add(root, "n1:General_Info")
    info = _add(general, "Product_Info")
    _add(info, "PRODUCT_START_TIME", iso(facts.start))
    _add(info, "PRODUCT_STOP_TIME", iso(facts.start))
    _add(info, "PRODUCT_URI", facts.product_uri)
    _add(info, "PROCESSING_LEVEL", f"Level-{digit}")
    _add(info, "PRODUCT_TYPE", f"S2MSI{digit}")
    _add(info, "PROCESSING_BASELINE", facts.baseline)
    _add(info, "GENERATION_TIME", iso(facts.generated))
    datatake = f"G{facts.unit}_{stamp(facts.start)}_{facts.absolute_orbit:06d}_N{facts.baseline}"
    take = _add(info, "Datatake", datatakeIdentifier=datatake)
    _add(take, "SPACECRAFT_NAME", facts.spacecraft)
    _add(take, "DATATAKE_TYPE", "INS-NOBS")
    _add(take, "DATATAKE_SENSING_START", iso(facts.start))
    _add(take, "SENSING_ORBIT_NUMBER", facts.relative_orbit)
    _add(take, "SENSING_ORBIT_DIRECTION", "DESCENDING")
    _add(_add(info, "Query_Options", completeSingleTile="true"), "PRODUCT_FORMAT", _product_format(facts))
    _granule_list(_add(info, "Product_Organisation"), facts)
    _image_characteristics(_add(general, "Product_Image_Characteristics"), facts)
    quality = _add(root, "n1:Quality_Indicators_Info")
    _add(quality, "Cloud_Coverage_Assessment", f"{facts.cloud_percent:.6f}")
    technical = _add(quality, "Technical_Quality_Assessment")
    _add(technical, "DEGRADED_ANC_DATA_PERCENTAGE", "0.0")
    _add(technical, "DEGRADED_MSI_DATA_PERCENTAGE", "0")
    if facts.level == "L2A":
        _add(_add(quality, "Image_Content_QI"), "NODATA_PIXEL_PERCENTAGE", f"{facts.nodata_percent:.6f}")
    return _bytes(root)


def _product_format(facts: SafeFacts) -> str:
    return "SAFE_COMPACT" if facts.compact else "SAFE"


def _granule_list(parent: ET.Element, facts: SafeFacts) -> None:
    listed = _add(parent, "Granule_List")
    tile = f"{facts.unit}_OPER_MSI_{facts.level}_TL_VGS4_{stamp(facts.generated)}_A{facts.absolute_orbit:06d}"
    identifier = f"{tile}_{facts.tile_id}_N{facts.baseline}" if facts.compact else facts.granule
    strip = f"{facts.unit}_OPER_MSI_{facts.level}_DS_VGS4_{stamp(facts.generated)}_S{stamp(facts.start)}"
    # The old format lists bare file names under another tag; the compact one paths from the product's folder.
    granule = _add(
        listed,
        "Granule" if facts.compact else "Granules",
        datastripIdentifier=f"{strip}_N{facts.baseline}",
        granuleIdentifier=identifier,
        imageFormat="JPEG2000",
    )
    for image in facts.images:
        if facts.compact:
            _add(granule, "IMAGE_FILE", image)
        else:
            _add(granule, "IMAGE_ID", image.rsplit("/", 1)[-1])


def _image_characteristics(parent: ET.Element, facts: SafeFacts) -> None:
    for text, value in (("NODATA", 0), ("SATURATED", 65535)):
        special = _add(parent, "Special_Values")
        _add(special, "SPECIAL_VALUE_TEXT", text)
        _add(special, "SPECIAL_VALUE_INDEX", value)
    display = _add(parent, "Image_Display_Order")
    for channel, band in (("RED", 3), ("GREEN", 2), ("BLUE", 1)):
        _add(display, f"{channel}_CHANNEL", band)
    if facts.level == "L2A":
        values = _add(parent, "QUANTIFICATION_VALUES_LIST")
        _add(values, "BOA_QUANTIFICATION_VALUE", facts.quantification, unit="none")
        _add(values, "AOT_QUANTIFICATION_VALUE", "1000.0", unit="none")
        _add(values, "WVP_QUANTIFICATION_VALUE", "1000.0", unit="cm")
        offsets, tag = "BOA_ADD_OFFSET_VALUES_LIST", "BOA_ADD_OFFSET"
    else:
        _add(parent, "QUANTIFICATION_VALUE", facts.quantification, unit="none")
        offsets, tag = "Radiometric_Offset_List", "RADIO_ADD_OFFSET"
    if facts.offset:
        listed = _add(parent, offsets)
        for band_id in range(len(BAND_ORDER)):
            _add(listed, tag, facts.offset, band_id=band_id)
    if facts.responses:
        _spectral_information(_add(parent, "Spectral_Information_List"), facts.responses)
    if facts.level == "L2A":
        classes = _add(parent, "Scene_Classification_List")
        for index, text in enumerate(_SCENE_CLASSES):
            entry = _add(classes, "Scene_Classification_ID")
            _add(entry, "SCENE_CLASSIFICATION_TEXT", text)
            _add(entry, "SCENE_CLASSIFICATION_INDEX", index)


def _spectral_information(parent: ET.Element, responses: Sequence[SpectralResponse]) -> None:
    for response in responses:
        first, last = round(response.wavelength_nm[0]), round(response.wavelength_nm[-1])
        # The format holds whole nanometres only: first, last, and one value a step.
        values = response.at(np.arange(first, last + 1, dtype=np.float64))
        physical = response.name.replace("B0", "B")
        entry = _add(parent, "Spectral_Information", bandId=BAND_ID[response.name], physicalBand=physical)
        _add(entry, "RESOLUTION", RESOLUTION_M[response.name])
        wavelength = _add(entry, "Wavelength")
        _add(wavelength, "MIN", first, unit="nm")
        _add(wavelength, "MAX", last, unit="nm")
        _add(wavelength, "CENTRAL", f"{response.centre_nm:.1f}", unit="nm")
        curve = _add(entry, "Spectral_Response")
        _add(curve, "STEP", 1, unit="nm")
        _add(curve, "VALUES", " ".join(f"{value:.8g}" for value in values))


def tile_xml(facts: SafeFacts) -> bytes:
    """Return the granule's metadata file: place, size, angles, masks."""
    digit = facts.level[1:]
    root = _root(f"Level-{digit}_Tile_ID", f"S2_PDI_Level-{digit}_Tile_Metadata.xsd")
    general = _add(root, "n1:General_Info")
    tile = f"{facts.unit}_OPER_MSI_{facts.level}_TL_VGS4_{stamp(facts.generated)}_A{facts.absolute_orbit:06d}"
    _add(general, "TILE_ID", f"{tile}_{facts.tile_id}_N{facts.baseline}", metadataLevel="Brief")
    _add(general, "SENSING_TIME", iso(facts.start), metadataLevel="Standard")
    geometric = _add(root, "n1:Geometric_Info")
    geocoding = _add(geometric, "Tile_Geocoding", metadataLevel="Brief")
    epsg = facts.grid.crs.to_epsg()
    zone = f"{epsg % 100}{'N' if epsg // 100 == 326 else 'S'}"
    _add(geocoding, "HORIZONTAL_CS_NAME", f"WGS84 / UTM zone {zone}")
    _add(geocoding, "HORIZONTAL_CS_CODE", f"EPSG:{epsg}")
    for resolution in (10, 20, 60):
        size = _add(geocoding, "Size", resolution=resolution)
        rows, cols = coarse_shape(facts.grid, resolution)
        _add(size, "NROWS", rows)
        _add(size, "NCOLS", cols)
    for resolution in (10, 20, 60):
        position = _add(geocoding, "Geoposition", resolution=resolution)
        _add(position, "ULX", _number(facts.grid.bounds.left))
        _add(position, "ULY", _number(facts.grid.bounds.top))
        _add(position, "XDIM", resolution)
        _add(position, "YDIM", -resolution)
    _tile_angles(_add(geometric, "Tile_Angles", metadataLevel="Standard"), facts)
    quality = _add(root, "n1:Quality_Indicators_Info", metadataLevel="Standard")
    content = _add(quality, "Image_Content_QI")
    _add(content, "CLOUDY_PIXEL_PERCENTAGE", f"{facts.cloud_percent:.6f}")
    _add(content, "DEGRADED_MSI_DATA_PERCENTAGE", 0)
    if facts.level == "L2A":
        _add(content, "NODATA_PIXEL_PERCENTAGE", f"{facts.nodata_percent:.6f}")
    pixel_level = _add(quality, "Pixel_Level_QI", geometry="FULL_RESOLUTION")
    for kind, name in facts.masks.items():
        _add(pixel_level, "MASK_FILENAME", name, type=kind)
    return _bytes(root)


def _number(value: float) -> str:
    return str(round(value)) if float(value).is_integer() else repr(float(value))


def coarse_shape(grid: Grid, resolution_m: int) -> tuple[int, int]:
    """Shape (row, col) of a layer of ``resolution_m`` pixels that covers a 10 m grid altogether."""
    ratio = resolution_m // 10
    return -(-grid.height // ratio), -(-grid.width // ratio)


def _tile_angles(parent: ET.Element, facts: SafeFacts) -> None:
    sun = _add(parent, "Mean_Sun_Angle")
    _add(sun, "ZENITH_ANGLE", facts.sun_zenith_deg, unit="deg")
    _add(sun, "AZIMUTH_ANGLE", facts.sun_azimuth_deg, unit="deg")
    views = _add(parent, "Mean_Viewing_Incidence_Angle_List")
    for band_id in range(len(BAND_ORDER)):
        view = _add(views, "Mean_Viewing_Incidence_Angle", bandId=band_id)
        _add(view, "ZENITH_ANGLE", facts.view_zenith_deg, unit="deg")
        _add(view, "AZIMUTH_ANGLE", facts.view_azimuth_deg, unit="deg")


def cloud_gml(opaque: BoolArray, cirrus: BoolArray, grid: Grid) -> bytes:
    """Return the polygon mask of the baselines before 04.00: one feature per connected cloud.

    Parameters
    ----------
    opaque, cirrus
        Masks on ``grid``, shape (row, col).
    grid
        Their grid.
    """
    gml, eop = "http://www.opengis.net/gml/3.2", "http://www.opengis.net/eop/2.0"
    root = ET.Element("eop:Mask", {"xmlns:eop": eop, "xmlns:gml": gml, "gml:id": "S2_OPER_MSK_CLOUDS_B00"})
    name = f"urn:ogc:def:crs:EPSG:8.7.1:{grid.crs.to_epsg()}"
    envelope = ET.SubElement(ET.SubElement(root, "gml:boundedBy"), "gml:Envelope", srsName=name)
    box = grid.bounds
    _add(envelope, "gml:lowerCorner", f"{box.left:.0f} {box.bottom:.0f}")
    _add(envelope, "gml:upperCorner", f"{box.right:.0f} {box.top:.0f}")
    members = ET.SubElement(root, "eop:maskMembers")
    for kind, mask in (("OPAQUE", opaque), ("CIRRUS", cirrus)):
        found = features.shapes(mask.astype(np.uint8), mask=mask, transform=grid.transform)
        for number, (shape, _) in enumerate(found):
            feature = ET.SubElement(members, "eop:MaskFeature", {"gml:id": f"{kind}.{number}"})
            _add(feature, "eop:maskType", kind, codeSpace="urn:gs2:S2PDGS:maskType")
            polygon = ET.SubElement(
                ET.SubElement(feature, "eop:extentOf"), "gml:Polygon", {"gml:id": f"{kind}.{number}_Polygon"}
            )
            for index, ring in enumerate(shape["coordinates"]):
                side = ET.SubElement(polygon, "gml:interior" if index else "gml:exterior")
                positions = " ".join(f"{x:.0f} {y:.0f}" for x, y in ring)
                _add(ET.SubElement(side, "gml:LinearRing"), "gml:posList", positions, srsDimension=2)
    return _bytes(root)


def manifest_xml(facts: SafeFacts, root_folder: Path, files: Iterable[Path]) -> bytes:
    """Return the manifest: every file with its size and checksum."""
    xfdu = "urn:ccsds:schema:xfdu:1"
    root = ET.Element(
        "xfdu:XFDU",
        {
            "xmlns:xfdu": xfdu,
            "version": f"esa/safe/sentinel/1.1/sentinel-2/msi/archive_{facts.level.lower()}_user_product",
        },
    )
    package = _add(root, "informationPackageMap")
    text = f"SENTINEL-2 MSI Level-{facts.level[1:]} User Product"
    unit = _add(package, "xfdu:contentUnit", textInfo=text, unitType=f"Product_Level-{facts.level[1:]}")
    section = _add(root, "dataObjectSection")
    for number, path in enumerate(sorted(files)):
        relative = path.relative_to(root_folder).as_posix()
        identifier = f"Object_{number}"
        _add(_add(unit, "xfdu:contentUnit", unitType="Data Unit"), "dataObjectPointer", dataObjectID=identifier)
        mime = "text/xml" if path.suffix == ".xml" else "application/octet-stream"
        stream = _add(_add(section, "dataObject", ID=identifier), "byteStream", mimeType=mime, size=path.stat().st_size)
        _add(stream, "fileLocation", href=f"./{relative}", locatorType="URL")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha3_256").hexdigest().upper()
        _add(stream, "checksum", digest, checksumName="SHA3-256")
    return _bytes(root)
