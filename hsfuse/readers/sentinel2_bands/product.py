"""Sentinel-2 as single bands: what their numbers mean, by the kind of delivery.

The Copernicus Browser writes reflectance: as it is (32 bits), or times 65535 or 255, cut at 1. Folders of
cloud-optimised images hold the numbers of the products, whose scale and offset stand in the STAC item beside them, and
not always right: where an offset makes much of the image negative, it has been applied before (issues 66 and 71 of
Earth Search).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import RasterioError

from hsfuse.errors import InputError
from hsfuse.grid import Slice2D
from hsfuse.masks import SCL_CLOUD, in_classes
from hsfuse.readers.band_files import BandFile, BandFileImage, MaskFile
from hsfuse.readers.base import ProductInfo
from hsfuse.readers.entry import BandChoice
from hsfuse.readers.gdal import TIFF_DRIVERS, closed_world, gdal_name, open_image
from hsfuse.readers.sentinel2_bands.item import StacItem, read_item
from hsfuse.readers.sentinel2_bands.names import SetKey, band_sets
from hsfuse.sensors.sentinel2 import BANDS_10M, BANDS_ALL, SPACECRAFT, table_responses

_HINT = "Download the bands again, all of one scene and with the same settings."
_CHOICES: dict[BandChoice, tuple[str, ...]] = {"10m": BANDS_10M, "all": BANDS_ALL, "swir": ("B02", "B11", "B12")}
_BROWSER_SCALE = {"float32": 1.0, "uint16": 1.0 / 65535.0, "uint8": 1.0 / 255.0}
_SAMPLE_PX = 512
_BELOW, _SHARE = -0.02, 0.05
"""Reflectance below this in more than this share of an image: the offset was subtracted twice."""


def open_bands(folder: Path, key: SetKey | None, *, choice: BandChoice = "10m") -> BandFileImage:
    """Open the bands of one scene in a folder; ``key`` says which where there are several.

    Raises
    ------
    InputError
        There are several scenes, bands are missing or damaged, or nothing says what their numbers mean.
    """
    sets = band_sets(folder)
    if key is None and len(sets) == 1:
        key = next(iter(sets))
    if key is None or key not in sets:
        raise InputError(
            f"{folder} holds the bands of {len(sets)} scenes of Sentinel-2.",
            hint="Give one of the files to say which scene is meant.",
        )
    files = sets[key]
    wanted = [band for band in _CHOICES[choice] if band in files or band in BANDS_10M]
    missing = [band for band in wanted if band not in files]
    if missing:
        raise InputError(
            f"{folder}: the 10 m bands {', '.join(missing)} are not beside {files[min(files)].name}.", hint=_HINT
        )
    chosen = {band: files[band] for band in wanted}
    return _open_browser(folder, key, chosen) if key.kind == "browser" else _open_cog(folder, chosen, files.get("SCL"))


def _open_browser(folder: Path, key: SetKey, files: Mapping[str, Path]) -> BandFileImage:
    kinds = {_dtype(path) for path in files.values()}
    kind = next(iter(kinds))
    if len(kinds) > 1 or kind not in _BROWSER_SCALE:
        raise InputError(
            f"{folder}: the bands hold numbers of the type {' and '.join(sorted(kinds))}, which are no raw bands of "
            "one download.",
            hint="Download the raw bands as TIFF (32-bit float), in a UTM reference system.",
        )
    warnings = [
        "The Copernicus Browser names no spacecraft: the spectral responses are Sentinel-2A's.",
        "The bands come without a cloud mask: clouds in them are taken for ground.",
    ]
    if kind == "uint8":
        warnings.append("The bands have 8 bits, steps of 0.004 in reflectance: download them as TIFF (32-bit float).")
    scale = _BROWSER_SCALE[kind]
    # Integers end at reflectance 1: what is brighter was cut off.
    top = None if kind == "float32" else round(1.0 / scale)
    responses = table_responses(SPACECRAFT[0], list(files))
    bands = [
        BandFile(path, response, scale, saturated=top) for path, response in zip(files.values(), responses, strict=True)
    ]
    day = key.date
    info = ProductInfo(
        name=key.scene,
        sensor="Sentinel-2",
        level=key.level,
        path=folder,
        start=None if day is None else datetime.fromisoformat(day).replace(hour=12, tzinfo=UTC),
        attributes={"radiometry": "surface" if key.level == "L2A" else "top of atmosphere", "cloud_mask": None},
        warnings=tuple(warnings),
    )
    return BandFileImage(bands, None, lambda: info, hint=_HINT)


def _open_cog(folder: Path, files: Mapping[str, Path], classes: Path | None) -> BandFileImage:
    item = read_item(folder)
    warnings = list(item.warnings)
    responses = table_responses(item.spacecraft, list(files))
    scaled = [item.scaling(band) for band in files]
    if any(offset < 0 for _, offset in scaled) and _is_applied(files, dict(zip(files, scaled, strict=True))):
        scaled = [(scale, 0.0) for scale, _ in scaled]
        warnings.append(
            f"By its STAC item the numbers carry an offset, but with it much of {item.name} would have negative "
            "reflectance: it was taken as applied already, a known fault of such items."
        )
    bands = [
        BandFile(path, response, *scaling, saturated=65535.0)
        for path, response, scaling in zip(files.values(), responses, scaled, strict=True)
    ]
    mask = None
    if classes is not None:
        mask = MaskFile(classes, lambda codes: in_classes(codes, SCL_CLOUD), is_scl=True)
    else:
        warnings.append("The scene classification (SCL.tif) is missing: clouds are taken for ground.")
    info = _info(folder, item, "SCL" if mask is not None else None)
    return BandFileImage(bands, mask, lambda: replace(info, warnings=tuple(warnings)), hint=_HINT)


def _info(folder: Path, item: StacItem, mask: str | None) -> ProductInfo:
    return ProductInfo(
        name=item.name,
        sensor=item.spacecraft,
        level="L2A",
        path=folder,
        start=item.start,
        sun_zenith_deg=item.sun_zenith_deg,
        sun_azimuth_deg=item.sun_azimuth_deg,
        attributes={
            "processing_baseline": item.baseline, "cloud_percent": item.cloud_percent, "cloud_mask": mask,
            "radiometry": "surface",
        },
    )  # fmt: skip


def _dtype(path: Path) -> str:
    with _opened(path) as file:
        return str(file.dtypes[0])


def _opened(path: Path) -> rasterio.io.DatasetReader:
    try:
        with closed_world(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
            return open_image(gdal_name(path), TIFF_DRIVERS)
    except (RasterioError, OSError) as error:
        raise InputError(f"{path}: the image cannot be read ({' '.join(str(error).split())}).", hint=_HINT) from error


def _is_applied(files: Mapping[str, Path], scaling: Mapping[str, tuple[float, float]]) -> bool:
    """Whether the declared offset makes much of the red or blue band negative."""
    shares = []
    for band in ("B02", "B04"):
        if band not in files:
            continue
        with _opened(files[band]) as file:
            block = Slice2D(0, file.height, 0, file.width)
            size = min(file.height, _SAMPLE_PX), min(file.width, _SAMPLE_PX)
            try:
                numbers = file.read(1, window=block.window, out_shape=size).astype(np.float64)
            except (RasterioError, OSError) as error:
                raise InputError(f"{files[band]}: the image cannot be read ({error}).", hint=_HINT) from error
        scale, offset = scaling[band]
        known = numbers > 0
        shares.append(float((numbers[known] * scale + offset < _BELOW).mean()) if known.any() else 0.0)
    return max(shares, default=0.0) > _SHARE
