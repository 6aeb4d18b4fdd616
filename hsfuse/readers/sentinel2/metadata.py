"""What a Sentinel-2 product says about itself: the product XML and the tile XML of each granule.

Tags are matched by local name, because the name spaces carry the version of the product specification; where old
processors wrote another tag for the same thing, both are tried. Scale and offset come from these files only,
never from a date or a baseline number: reprocessed scenes carry the offset for dates long before it was invented.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from hsfuse.errors import HsfuseError, InputError
from hsfuse.grid import Grid
from hsfuse.readers.sentinel2.archive import SafeArchive
from hsfuse.readers.sentinel2.names import IMAGE_SUFFIXES, TILE_XML
from hsfuse.readers.xml import REDOWNLOAD, find_all, number_of, parse_xml, text_of, time_of
from hsfuse.sensors.sentinel2 import BAND_ORDER, RESOLUTION_M
from hsfuse.spectral import SpectralResponse

_LARGEST_DN = 65535
_LAYER = re.compile(r"_(B0[1-9]|B1[0-2]|B8A|SCL)(?=_|$)")
_PIXEL = re.compile(r"_(10|20|60)m$")


@dataclass(frozen=True)
class GranuleMetadata:
    """One tile of a product.

    Attributes
    ----------
    name
        Folder of the granule inside the product (POSIX, relative).
    tile_id
        MGRS tile such as ``T32TQM``, or the granule's name when it holds none.
    grids
        Grid of each pixel size (10, 20, 60 m).
    images
        (layer, pixel size in m) to the image's member name in the archive; only images that exist.
    masks
        Mask type (``MSK_CLASSI``, ``MSK_CLOUDS``) to its member name; only masks that exist.
    view_zenith_deg
        Mean view zenith of each band.
    """

    name: str
    tile_id: str
    sensing_time: datetime | None
    grids: Mapping[int, Grid]
    images: Mapping[tuple[str, int], str]
    masks: Mapping[str, str]
    sun_zenith_deg: float | None
    sun_azimuth_deg: float | None
    view_zenith_deg: Mapping[str, float]


@dataclass(frozen=True)
class SafeMetadata:
    """One product.

    Attributes
    ----------
    level
        ``L1C`` or ``L2A``.
    offsets
        Additive offset in DN of each band (0 where the product gives none).
    responses
        Spectral response of each band that the product describes.
    outline
        Corners (longitude, latitude) of the imaged area, counted once each; empty where the product gives none.
    warnings
        What had to be worked around while reading.
    """

    name: str
    level: str
    spacecraft: str
    baseline: str
    start: datetime | None
    quantification: float
    offsets: Mapping[str, float]
    nodata_dn: int
    saturated_dn: int
    responses: Mapping[str, SpectralResponse]
    cloud_percent: float | None
    relative_orbit: int | None
    granules: tuple[GranuleMetadata, ...]
    outline: tuple[tuple[float, float], ...] = ()
    warnings: tuple[str, ...] = field(default=())


def read_safe_metadata(archive: SafeArchive) -> SafeMetadata:
    """Read the metadata of a product.

    Raises
    ------
    InputError
        A metadata file is damaged, or lacks something that cannot be worked around.
    """
    xml_name = archive.product_xml
    root = _parse(archive, xml_name)
    warnings: list[str] = []
    level = "L1C" if "L1C" in xml_name else "L2A"
    offset_tag = "BOA_ADD_OFFSET" if level == "L2A" else "RADIO_ADD_OFFSET"
    special = _special_values(root)
    granules = tuple(_granule(archive, folder, images) for folder, images in _granules(archive, root, warnings))
    if not granules:
        raise InputError(f"{archive.name} lists no granule and has no GRANULE folder.", hint=REDOWNLOAD)
    return SafeMetadata(
        name=archive.name,
        level=level,
        spacecraft=_spacecraft(root, archive.name, warnings),
        baseline=text_of(root, "PROCESSING_BASELINE") or "",
        start=time_of(text_of(root, "PRODUCT_START_TIME")),
        quantification=_quantification(archive, root, level),
        offsets=_offsets(archive, root, offset_tag),
        nodata_dn=special.get("NODATA", 0),
        saturated_dn=special.get("SATURATED", 65535),
        responses=_responses(root, warnings),
        cloud_percent=number_of(text_of(root, "Cloud_Coverage_Assessment")),
        relative_orbit=_orbit(root),
        granules=granules,
        outline=_outline(root),
        warnings=tuple(warnings),
    )


def _parse(archive: SafeArchive, name: str) -> Element:
    return parse_xml(archive.read_bytes(name), f"{archive.name}/{name}")


def _orbit(root: Element) -> int | None:
    number = number_of(text_of(root, "SENSING_ORBIT_NUMBER"))
    return None if number is None else int(number)


def _outline(root: Element) -> tuple[tuple[float, float], ...]:
    """Corners of the product's footprint: pairs of latitude and longitude, in newer products with a height as well."""
    numbers = [number_of(part) for part in (text_of(root, "EXT_POS_LIST") or "").split()]
    values = [value for value in numbers if value is not None]
    if len(values) != len(numbers) or len(values) < 6:
        return ()
    # A closed ring repeats its first position at the end, which tells how many numbers a position has.
    step = 3 if len(values) % 3 == 0 and values[:3] == values[-3:] else 2
    if len(values) % step:
        return ()
    ring = tuple((values[i + 1], values[i]) for i in range(0, len(values), step))
    return ring[:-1] if ring[0] == ring[-1] else ring


def _spacecraft(root: Element, name: str, warnings: list[str]) -> str:
    named = text_of(root, "SPACECRAFT_NAME")
    if named:
        return named
    match = re.match(r"S2([A-Z])_", text_of(root, "PRODUCT_URI") or name)
    spacecraft = f"Sentinel-2{match[1]}" if match else "Sentinel-2"
    warnings.append(f"{name} does not name its spacecraft; taken for {spacecraft} by its name.")
    return spacecraft


def _special_values(root: Element) -> dict[str, int]:
    values = {}
    for special in find_all(root, "Special_Values"):
        key = text_of(special, "SPECIAL_VALUE_TEXT")
        number = number_of(text_of(special, "SPECIAL_VALUE_INDEX"))
        if key and number is not None:
            values[key.upper()] = int(number)
    return values


def _quantification(archive: SafeArchive, root: Element, level: str) -> float:
    # Sen2Cor before 2017 wrote the L2A tag with a prefix; its products repeat the L1C value beside it.
    tags = ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE") if level == "L2A" else ("QUANTIFICATION_VALUE",)
    value = number_of(text_of(root, *tags))
    if value is None or not 1.0 < value <= _LARGEST_DN:
        raise InputError(
            f"{archive.product_xml} of {archive.name} has no valid {tags[0]}, so its pixels cannot be scaled.",
            hint=REDOWNLOAD,
        )
    return value


def _offsets(archive: SafeArchive, root: Element, tag: str) -> dict[str, float]:
    offsets = dict.fromkeys(BAND_ORDER, 0.0)
    for element in find_all(root, tag):
        index, value = number_of(element.get("band_id") or element.get("bandId")), number_of(element.text)
        plausible = value is not None and abs(value) <= _LARGEST_DN
        if index is None or value is None or not plausible or not 0 <= index < len(BAND_ORDER):
            raise InputError(f"{archive.product_xml} of {archive.name} has a damaged {tag}.", hint=REDOWNLOAD)
        offsets[BAND_ORDER[int(index)]] = value
    return offsets


def _responses(root: Element, warnings: list[str]) -> dict[str, SpectralResponse]:
    responses = {}
    for entry in find_all(root, "Spectral_Information"):
        index = number_of(entry.get("bandId"))
        first, step = number_of(text_of(entry, "MIN")), number_of(text_of(entry, "STEP")) or 1.0
        listed = text_of(entry, "VALUES")
        if index is None or not 0 <= index < len(BAND_ORDER) or first is None or not listed:
            continue
        band = BAND_ORDER[int(index)]
        try:
            values: NDArray[np.float64] = np.array(listed.split(), dtype=np.float64)
        except ValueError:
            values = np.empty(0, dtype=np.float64)
        if values.size < 3 or not np.all(np.isfinite(values)) or values.max() <= 0:
            warnings.append(f"The spectral response of {band} in the metadata is not usable.")
            continue
        wavelength = first + step * np.arange(values.size, dtype=np.float64)
        responses[band] = SpectralResponse(band, wavelength, values.clip(0.0), "product metadata")
    return responses


def _granules(
    archive: SafeArchive, root: Element, warnings: list[str]
) -> Iterator[tuple[str, dict[tuple[str, int], str]]]:
    """Folder of each granule with its images: from the list in the XML, else from the files that are there."""
    found: dict[str, dict[tuple[str, int], str]] = {}
    folders = sorted({"/".join(name.split("/")[:2]) for name in archive.members if _in_granule(name)})
    missing = 0
    for granule in find_all(root, "Granule", "Granules"):
        identifier = granule.get("granuleIdentifier", "")
        for element in find_all(granule, "IMAGE_FILE", "IMAGE_ID", "IMAGE_FILE_2A", "IMAGE_ID_2A"):
            stem = (element.text or "").strip()
            key = image_key(stem)
            if key is None:
                continue
            member = archive.image(stem) if "/" in stem else _image_by_name(archive, identifier, stem)
            if member is None:
                missing += 1
            else:
                found.setdefault("/".join(member.split("/")[:2]), {})[key] = member
    for folder in folders:
        listed = found.get(folder, {})
        present = _images_in(archive, folder)
        extra = {key: member for key, member in present.items() if key not in listed}
        # The list is authoritative; files are looked for by name only where it fails.
        if extra and (missing or not listed):
            warnings.append(
                f"The image list in {archive.product_xml} is {'incomplete' if listed else 'missing or damaged'}; "
                "bands were found by their file names."
            )
            listed = listed | extra
        yield folder, listed


def _in_granule(name: str) -> bool:
    """Tell whether a member lies in a granule's folder, and is what granules hold."""
    parts = name.split("/")
    return len(parts) > 2 and parts[0] == "GRANULE" and (parts[2] == "IMG_DATA" or bool(TILE_XML.search(parts[2])))


def _image_by_name(archive: SafeArchive, identifier: str, stem: str) -> str | None:
    folder = f"GRANULE/{identifier}/IMG_DATA"
    for place in (folder, f"{folder}/R10m", f"{folder}/R20m", f"{folder}/R60m"):
        if member := archive.image(f"{place}/{stem}"):
            return member
    return None


def _images_in(archive: SafeArchive, folder: str) -> dict[tuple[str, int], str]:
    images: dict[tuple[str, int], str] = {}
    for name in archive.members:
        stem, dot, suffix = name.rpartition(".")
        if name.startswith(f"{folder}/IMG_DATA/") and f"{dot}{suffix}".lower() in IMAGE_SUFFIXES:
            key = image_key(stem)
            if key is not None:
                images.setdefault(key, name)
    return images


def image_key(stem: str) -> tuple[str, int] | None:
    """Layer and pixel size (m) of an image's name without extension; None for layers that are not used."""
    base = stem.rsplit("/", 1)[-1]
    layer = _LAYER.search(base)
    if layer is None:
        return None
    pixel = _PIXEL.search(base)
    return layer[1], int(pixel[1]) if pixel else RESOLUTION_M.get(layer[1], 20)


def _granule(archive: SafeArchive, folder: str, images: dict[tuple[str, int], str]) -> GranuleMetadata:
    xml_name = archive.tile_xml(folder)
    if xml_name is None:
        raise InputError(f"{archive.name} has no MTD_TL.xml in {folder}.", hint=REDOWNLOAD)
    root = _parse(archive, xml_name)
    sun = next(find_all(root, "Mean_Sun_Angle"), None)
    views = {}
    for view in find_all(root, "Mean_Viewing_Incidence_Angle"):
        index, zenith = number_of(view.get("bandId")), number_of(text_of(view, "ZENITH_ANGLE"))
        if index is not None and zenith is not None and 0 <= index < len(BAND_ORDER):
            views[BAND_ORDER[int(index)]] = zenith
    match = re.search(r"_(T\d{2}[A-Z]{3})(?=_|$)", f"{folder}_{text_of(root, 'TILE_ID') or ''}")
    return GranuleMetadata(
        name=folder,
        tile_id=match[1] if match else folder.rsplit("/", 1)[-1],
        sensing_time=time_of(text_of(root, "SENSING_TIME")),
        grids=_grids(root, f"{archive.name}/{xml_name}"),
        images=images,
        masks=_masks(archive, folder),
        sun_zenith_deg=number_of(text_of(sun, "ZENITH_ANGLE")) if sun is not None else None,
        sun_azimuth_deg=number_of(text_of(sun, "AZIMUTH_ANGLE")) if sun is not None else None,
        view_zenith_deg=views,
    )


def _masks(archive: SafeArchive, folder: str) -> dict[str, str]:
    masks = {}
    for name in archive.members:
        if name.startswith(f"{folder}/QI_DATA/"):
            base = name.rsplit("/", 1)[-1]
            if "MSK_CLASSI" in base and base.lower().endswith(IMAGE_SUFFIXES):
                masks["MSK_CLASSI"] = name
            elif "MSK_CLOUDS" in base and base.endswith(".gml"):
                masks["MSK_CLOUDS"] = name
    return masks


def _crs_of(code: str, name: str) -> CRS:
    """Return the reference system of an EPSG code; nothing else is looked up, for it might lead to a server."""
    match = re.fullmatch(r"(?:EPSG:)?(\d{4,6})", code, re.IGNORECASE)
    try:
        if match is not None:
            return CRS.from_epsg(int(match[1]))
    except CRSError:
        pass
    raise InputError(f"{name} names an unknown reference system '{code[:80]}'.", hint=REDOWNLOAD)


def _grids(root: Element, name: str) -> dict[int, Grid]:
    code = text_of(root, "HORIZONTAL_CS_CODE")
    if code is None:
        raise InputError(f"{name} has no HORIZONTAL_CS_CODE, so the tile cannot be placed.", hint=REDOWNLOAD)
    crs = _crs_of(code, name)
    sizes = {size.get("resolution"): size for size in find_all(root, "Size")}
    grids = {}
    for position in find_all(root, "Geoposition"):
        resolution = position.get("resolution")
        size = sizes.get(resolution)
        numbers = [number_of(text_of(position, tag)) for tag in ("ULX", "ULY", "XDIM", "YDIM")]
        shape = [number_of(text_of(size, tag)) if size is not None else None for tag in ("NROWS", "NCOLS")]
        if resolution not in ("10", "20", "60") or any(value is None for value in (*numbers, *shape)):
            continue
        left, top, x_step, _ = (float(value or 0.0) for value in numbers)
        rows, cols = (int(value or 0) for value in shape)
        try:
            # ULX and ULY are the outer corner of the tile for every resolution.
            grids[int(resolution)] = Grid.from_origin(crs, left, top, x_step, rows, cols)
        except HsfuseError as error:
            raise InputError(f"{name} describes an impossible grid: {error.message}", hint=REDOWNLOAD) from error
    if 10 not in grids:
        raise InputError(f"{name} has no Size and Geoposition of the 10 m pixels.", hint=REDOWNLOAD)
    return grids
