"""A GDAL raster opened for windowed reading: map grid, scaling to reflectance, nodata."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from hsfuse.errors import InputError
from hsfuse.grid import Slice2D
from hsfuse.log import get_logger
from hsfuse.readers.base import BoolArray, FloatCube, ProductInfo
from hsfuse.readers.blocks import check_block
from hsfuse.readers.declarations import NOTHING, Declarations, read_wavelength_file
from hsfuse.readers.decoder import DecoderError, decoder_warnings_are_errors, gdal_warnings
from hsfuse.readers.gdal import RASTER_DRIVERS, FolderAlias, closed_world, open_image
from hsfuse.readers.map_grid import OrientedPixels, read_grid, seen_from_grid
from hsfuse.readers.raster.envi_header import check_numbers, check_size, data_file, header_of
from hsfuse.readers.raster.metadata import BandMetadata, normalised, read_band_metadata, reflectance_scale_factor
from hsfuse.readers.raster.tags import descriptions, tags
from hsfuse.readers.raster.values import (
    BEYOND_REFLECTANCE,
    HUGE,
    LOWEST_REFLECTANCE,
    Declared,
    read_meaning,
    take_sample,
)
from hsfuse.readers.stored import StoredAs

_log = get_logger(__name__)

_MASK_SHARE = 0.9
"""Share of the numbers above 0 that are one in a mask: the rest are soft edges."""
PROBES = 8


class RasterFile:
    """What hyperspectral and multispectral rasters share: opening, grid, scaling, nodata, windows.

    Parameters
    ----------
    path
        Anything that GDAL reads; an ENVI ``.hdr`` stands for its data file.
    strict
        Refuse numbers that no usual scale explains.
    declared
        What the user says of the file, over what it says itself.
    any_grid
        Accept pixels that are rotated, south-up, in degrees or not square.

    Attributes
    ----------
    shape
        (rows, cols) as they are stored.
    grid
        Map grid.
    pixels
        How the stored pixels lie there, where they are not those of ``grid``.
    indexes
        1-based numbers of the image bands (an alpha band is none).
    warnings
        Guesses that the user should know of.

    Raises
    ------
    InputError
        The file does not exist, cannot be read, has no north-up metric map grid, or numbers that cannot be meant.
    """

    def __init__(
        self, path: Path, *, strict: bool = False, declared: Declarations = NOTHING, any_grid: bool = False
    ) -> None:
        self.path = data_file(path)
        self._strict, self._user, self._any_grid = strict, declared, any_grid
        self._fill: tuple[float, ...] = ()
        self._told_of_fill = False
        self.warnings: list[str] = []
        self._lock = threading.Lock()
        self._alias = FolderAlias(self.path.parent)
        try:
            with warnings.catch_warnings():
                # A missing georeference is reported below, as an error with a hint.
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                with closed_world(), gdal_warnings() as said:
                    self._dataset = open_image(self._alias.name(self.path.name), RASTER_DRIVERS)
        except (RasterioError, OSError) as error:
            self._alias.close()
            raise InputError(
                f"{path}: GDAL cannot open this file ({_one_line(error)}).",
                hint="Pass a PRISMA .he5, a GeoTIFF or an ENVI cube.",
            ) from error
        try:
            with self._telling():
                self._open()
        except BaseException:
            self.close()
            raise
        self._tell(said)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Let GDAL's warnings of the body be warnings of this file: a damaged tag is passed over, for instance."""
        with closed_world(), gdal_warnings() as said:
            yield
        self._tell(said)

    def _tell(self, said: list[str]) -> None:
        known = set(self.warnings)
        texts = (f"GDAL complains of {self.path.name}: {text}" for text in said)
        self.warnings += [text for text in texts if text not in known]

    def _open(self) -> None:
        dataset = self._dataset
        shape = dataset.count, dataset.height, dataset.width
        self.header = header_of(self.path, tuple(Path(name) for name in dataset.files), shape)
        self.warnings += self.header.notes
        if dataset.driver == "ENVI":
            check_numbers(self.header, self.path)
        if dataset.driver == "ENVI" and (note := check_size(self.header, self.path)) is not None:
            self.warnings.append(note)
        if any(np.dtype(kind).kind == "c" for kind in dataset.dtypes):
            raise InputError(f"{self.path}: the image holds complex numbers.", hint="Give an image of reflectance.")
        self.shape = (dataset.height, dataset.width)
        colours = zip(dataset.indexes, dataset.colorinterp, strict=True)
        alpha = [index for index, colour in colours if colour == ColorInterp.alpha]
        self._alpha = [i for i in alpha if self._is_mask(i)]
        self.indexes = [i for i in dataset.indexes if i not in self._alpha]
        if not self.indexes:
            raise InputError(
                f"{self.path}: the file holds no raster bands (a container with subdatasets?).",
                hint="Convert the image inside to GeoTIFF first.",
            )
        self.pixels: OrientedPixels | None = None
        if self._any_grid:
            self.grid, self.pixels = seen_from_grid(dataset, self.path)
        else:
            self.grid = read_grid(dataset, self.path)
        mask_flags = {flag for flags in dataset.mask_flag_enums for flag in flags}
        self._has_mask = MaskFlags.per_dataset in mask_flags and not alpha
        self.probes = [self.indexes[i] for i in _spread(len(self.indexes), PROBES)]
        self._read_values()

    def _is_mask(self, index: int) -> bool:
        """Whether an alpha band is one: four bands of bytes are declared as red, green, blue and alpha by default."""
        values = take_sample(lambda block: self._raw([index], block).astype(np.float64), self.shape, [index - 1]).values
        seen = values[np.isfinite(values) & (values != 0)]
        if seen.size == 0 or float((seen == np.median(seen)).mean()) > _MASK_SHARE:
            return True
        self.warnings.append(
            f"Band {index} of {self.path.name} is declared as transparency (alpha); it was taken as the image it holds."
        )
        return False

    def _read_values(self) -> None:
        """Find out how stored numbers become reflectance, and which of them are fill."""
        dataset = self._dataset
        scale, offset = np.array(dataset.scales), np.array(dataset.offsets)
        has_scale = bool(np.any(scale != 1) or np.any(offset != 0))
        factor = reflectance_scale_factor(dataset, self.header)
        by_user = self._user.scale is not None or self._user.offset is not None
        if by_user:
            factor, has_scale = None, True
            if self._user.scale is not None:
                scale = np.full(scale.shape, self._user.scale)
                # The file's offset belonged to the scale that it is replaced with.
                offset = np.zeros(offset.shape)
            if self._user.offset is not None:
                offset = np.full(offset.shape, self._user.offset)
        if has_scale and factor not in (None, 1.0):
            # Products that say the same in the words of two readers contradict nothing.
            if not np.allclose(scale * factor, 1.0, rtol=1e-6):
                self.warnings.append("Scale and 'reflectance scale factor' are both given; only the scale was applied.")
        elif factor is not None:
            scale, has_scale = scale / factor, True
        # With nodata values or a mask the producer says what is fill; otherwise all-zero pixels are taken for it.
        self._nodata = [self._user.nodata] * dataset.count if self._user.nodata is not None else dataset.nodatavals
        no_nodata = all(self._nodata[i - 1] is None for i in self.indexes)
        has_fill = not no_nodata or self._has_mask or bool(self._alpha)
        declared = Declared(scale, offset, has_scale, dataset.dtypes, has_fill, by_user)

        def stored(block: Slice2D) -> NDArray[np.float64]:
            raw = self._raw(self.probes, block)
            values = raw.astype(np.float64)
            values[~self._declared_data(raw, self.probes)] = np.nan
            return values

        sample = take_sample(stored, self.shape, [index - 1 for index in self.probes])
        meaning = read_meaning(declared, sample, str(self.path), strict=self._strict)
        self._scale, self._offset, self._zero_is_fill = meaning.scale, meaning.offset, meaning.zero_is_fill
        self._fill = meaning.fill
        self._told_of_fill = bool(meaning.fill)
        self.warnings += meaning.warnings

    def _raw(self, indexes: list[int], block: Slice2D) -> NDArray[Any]:
        try:
            # One handle serves all threads, one at a time: GDAL datasets are not thread-safe.
            with self._lock, closed_world(), decoder_warnings_are_errors():
                raw: NDArray[Any] = self._dataset.read(indexes, window=block.window)
        except (RasterioError, OSError, DecoderError) as error:
            raise InputError(
                f"{self.path}: reading the image failed, the file is damaged ({_one_line(error)}).",
                hint="Copy or download the file again.",
            ) from error
        return raw

    def _has_data(self, raw: NDArray[Any], indexes: list[int]) -> BoolArray:
        """Samples that are neither declared nor known fill, nor absurd; shape of ``raw``."""
        has_data = self._declared_data(raw, indexes)
        if np.issubdtype(raw.dtype, np.floating):
            has_data &= np.abs(raw) < HUGE
        for number in self._fill:
            has_data &= raw != number
        return has_data

    def _declared_data(self, raw: NDArray[Any], indexes: list[int]) -> BoolArray:
        """Samples that the file itself does not mark as nodata, shape of ``raw``."""
        has_data = np.ones(raw.shape, dtype=np.bool_)
        if np.issubdtype(raw.dtype, np.floating):
            np.isfinite(raw, out=has_data)
        for place, index in enumerate(indexes):
            nodata = self._nodata[index - 1]
            if nodata is not None and not np.isnan(nodata):
                has_data[place] &= raw[place] != nodata
        return has_data

    def read(self, places: NDArray[np.int64], block: Slice2D) -> FloatCube:
        """Read reflectance of some bands (places in ``indexes``), float32 (band, row, col), NaN without data."""
        check_block(block, self.shape)
        indexes = [self.indexes[place] for place in places]
        if not indexes:
            return np.empty((0, *block.shape), dtype=np.float32)
        raw = self._raw(indexes, block)
        empty = ~self._has_data(raw, indexes)
        bands = np.array(indexes) - 1
        in_place = raw if raw.dtype == np.float32 else None
        out: FloatCube = np.multiply(raw, self._scale[bands, None, None], out=in_place, dtype=np.float32)
        if self._offset[bands].any():
            out += self._offset[bands, None, None]
        beyond = (out < LOWEST_REFLECTANCE) | (out > BEYOND_REFLECTANCE)
        beyond &= ~empty
        if beyond.any():
            self._tell_of_fill(int(beyond.sum()))
            empty |= beyond
        np.copyto(out, np.float32(np.nan), where=empty)
        if self._has_mask or self._alpha or self._zero_is_fill:
            out[:, ~self.valid(block)] = np.nan
        return out

    def _tell_of_fill(self, count: int) -> None:
        """Say once that samples were left out which no reflectance can be, and which the sample did not hold."""
        with self._lock:
            told, self._told_of_fill = self._told_of_fill, True
        if not told:
            _log.warning(
                "%s holds numbers far outside of reflectance (%d in the part that is being read) that it does not "
                "declare as nodata: they are left out.", self.path.name, count,
            )  # fmt: skip

    def valid(self, block: Slice2D) -> BoolArray:
        """Pixels with data, shape (row, col), judged by up to eight bands spread over the file."""
        check_block(block, self.shape)
        raw = self._raw(self.probes, block)
        bands = np.array(self.probes) - 1
        has_data = self._has_data(raw, self.probes)
        scaled = raw * self._scale[bands, None, None] + self._offset[bands, None, None]
        has_data &= (scaled >= LOWEST_REFLECTANCE) & (scaled <= BEYOND_REFLECTANCE)
        if self._zero_is_fill:
            has_data &= raw != 0
        valid = np.asarray(has_data.any(axis=0), dtype=np.bool_)
        if self._alpha:
            # GDAL turns alpha into a mask only in images of two or four bands.
            valid &= self._raw(self._alpha, block).min(axis=0) > 0
        if self._has_mask:
            with self._lock, closed_world():
                valid &= self._dataset.dataset_mask(window=block.window) > 0
        return valid

    def metadata(self) -> BandMetadata:
        """Spectral metadata of the bands in ``indexes``."""
        with self._telling():
            found = read_band_metadata(self._dataset, self.indexes, self.header)
        if self._user.wavelengths is None:
            return found
        centre, fwhm = read_wavelength_file(self._user.wavelengths)
        if centre.size != len(self.indexes):
            raise InputError(
                f"{self.path}: {self._user.wavelengths} lists {centre.size} wavelengths for {len(self.indexes)} bands.",
                hint="Give a line for each band of the file, in its order; 0 leaves a band out.",
            )
        return replace(found, centre_nm=centre, fwhm_nm=fwhm, source=self._user.wavelengths.name, problems=())

    def names(self) -> tuple[str, ...]:
        """Band descriptions, ``B1`` and so on where there are none."""
        texts = descriptions(self._dataset)
        listed = [name.strip() for name in self.header.entries.get("band names", "").strip("{}").split(",")]
        if not any(texts) and len(listed) == len(texts):
            texts = tuple(listed)
        return tuple(texts[index - 1] or f"B{index}" for index in self.indexes)

    def info(self, attributes: Mapping[str, Any]) -> ProductInfo:
        """Facts about the file."""
        facts = normalised(self.header.entries) | normalised(tags(self._dataset, ns="ENVI"))
        return ProductInfo(
            name=self.path.name,
            sensor=facts.get("sensor_type", "unknown"),
            level="",
            path=self.path,
            start=_time(facts.get("acquisition_time")),
            attributes={
                "driver": self._dataset.driver,
                "epsg": self.grid.crs.to_epsg(),
                **self._made_by(),
                **attributes,
            },
            warnings=tuple(self.warnings),
        )

    def _made_by(self) -> dict[str, str]:
        """What a cube of this program says of its making: version and method; nothing for other files."""
        items = normalised(self.header.entries) | normalised(tags(self._dataset))
        return {f"hsfuse_{key}": items[f"hsfuse_{key}"] for key in ("version", "method") if f"hsfuse_{key}" in items}

    def stored(self) -> StoredAs:
        """How the numbers of the bands in ``indexes`` are stored."""
        dataset, bands = self._dataset, np.array(self.indexes) - 1
        dtype = np.result_type(*(np.dtype(dataset.dtypes[band]) for band in bands))
        nodata = next((self._nodata[band] for band in bands if self._nodata[band] is not None), None)
        if nodata is None and self._fill:
            nodata = self._fill[0]
        if nodata is None:
            nodata = float("nan") if dtype.kind == "f" else float(np.iinfo(dtype).min)

        def plain(items: Mapping[str, str]) -> dict[str, str]:
            return {k: v for k, v in items.items() if not k.startswith("STATISTICS_") and k != "AREA_OR_POINT"}

        return StoredAs(
            dtype=dtype,
            nodata=float(nodata),
            scale=self._scale[bands],
            offset=self._offset[bands],
            tag_scale=tuple(float(dataset.scales[band]) for band in bands),
            tag_offset=tuple(float(dataset.offsets[band]) for band in bands),
            tags=plain(tags(dataset)),
            band_tags=tuple(plain(tags(dataset, index)) for index in self.indexes),
        )

    def close(self) -> None:
        """Close the file."""
        self._dataset.close()
        self._alias.close()


def _spread(count: int, wanted: int) -> list[int]:
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, wanted)).round()})


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
