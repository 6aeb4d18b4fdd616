"""PRISMA L2D products (and L2C, L2B and L1, geocoded): lazy windows of reflectance on a north-up grid.

The level comes from the product's attribute, bands and scales from its lists, and the grid from the corner
attributes, which name the centres of the corner pixels. Nothing is taken from the file name or from a fixed band
index, so products of any processor version (233, 234 or 238 bands) and renamed files work alike.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import InputError, OverlapError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.base import (
    ERROR_INVALID_L1,
    BoolArray,
    FloatCube,
    HyperspectralProduct,
    MultispectralProduct,
    PixelSource,
    ProductInfo,
)
from hsfuse.readers.blocks import BandIndex, band_index, check_block
from hsfuse.readers.geolocate import StoredSwath, SwathGeocoder
from hsfuse.readers.overlap import DEFAULT_CUT_NM, OverlapReport
from hsfuse.readers.prisma import header
from hsfuse.readers.prisma.cubes import PrismaCubes
from hsfuse.readers.prisma.file import ORDER_HINT, He5File
from hsfuse.readers.prisma.levels import encoding_of, level_warnings, radiometry_of
from hsfuse.readers.prisma.pan import PrismaPan
from hsfuse.readers.prisma.smile import NOTABLE_NM, read_smile
from hsfuse.spectral import BandTable

__all__ = ["OverlapReport", "PrismaProduct"]

FAR_M = 1000.0
"""Beyond this distance two statements about one position are a fault, not an inaccuracy."""

_NO_CORNERS = "The map position could not be checked: the product has no latitude and longitude at its corners."


class PrismaProduct(HyperspectralProduct):
    """A PRISMA product of a level from L1 to L2D.

    Parameters
    ----------
    path
        ``.he5`` file, or a ``.zip`` that holds exactly one.
    cut_nm
        Where both detectors deliver a wavelength, VNIR is used up to here and SWIR above.

    Raises
    ------
    InputError
        Not a PRISMA product, damaged, of a level that is not read, or something is missing.
    OverlapError
        The product holds nothing but fill.
    OutputError
        No room to unpack a zip.

    Notes
    -----
    L2D is read as stored. Images of the other levels are resampled once (cubic convolution) to a 30 m UTM grid through
    the product's latitude and longitude arrays, without terrain correction; ``info.warnings`` says so.
    """

    def __init__(self, path: Path | str, *, cut_nm: float = DEFAULT_CUT_NM) -> None:
        self._file = He5File(Path(path))
        try:
            self._open(cut_nm)
        except BaseException:
            self._file.close()
            raise

    def _open(self, cut_nm: float) -> None:
        file = self._file
        self.level = header.read_level(file)
        group = f"{header.SWATHS}/PRS_L{self.level}_HCO"
        self._pan_group = f"{header.SWATHS}/PRS_L{self.level}_PCO"
        self._bands = header.read_bands(file, cut_nm)
        self._cubes = PrismaCubes(file, group, self._bands.bands, encoding_of(file, self.level, self._bands.bands))
        self._clouds = self._read_clouds(f"{group}/Data Fields/Cloud_Mask")
        self._geocoder: SwathGeocoder | None = None
        warnings = list(self._bands.warnings)
        disagreement: float | None = None
        if self.level == "2D":
            self._grid = header.read_map_grid(file, self._cubes.shape)
            disagreement = header.corner_disagreement(file, group, self._grid)
            warnings += self._position_warnings(disagreement)
        else:
            self._geocoder = self._make_geocoder(group)
            self._grid = self._geocoder.grid
            warnings += level_warnings(self.level)
        if not self._cubes.has_angles and self.level != "1":
            warnings.append("The angle fields are missing; the footprint is where any band is not 0.")
        if not self._cubes.has_errors:
            warnings.append("The error matrices are missing; negative and saturated samples are not known.")
        missing = header.missing_frames(file)
        if missing:
            warnings.append(f"The product reports {missing} missing frames.")
        self._smile = read_smile(file, self._bands.bands)
        if self._smile is not None and self._smile.largest_nm >= NOTABLE_NM:
            warnings.append(f"Spectral smile: {self._smile.sentence}, which the bands of the cube carry.")
        self._refuse_empty()
        self._info = self._make_info(tuple(warnings), disagreement, missing)

    def _position_warnings(self, disagreement: float | None) -> list[str]:
        if disagreement is None:
            return [_NO_CORNERS]
        if disagreement > FAR_M:
            raise self._position_unknown("a corner pixel", disagreement)
        if disagreement > header.CORNER_TOLERANCE_M:
            return [
                f"The corner attributes and the latitude and longitude arrays disagree by {disagreement:.1f} m "
                "(attributes used)."
            ]
        return []

    def _make_geocoder(self, group: str) -> SwathGeocoder:
        planes = []
        # L1 has positions of each detector; the cubes lie on the VNIR's.
        end = "_VNIR" if self.level == "1" else ""
        for name in (f"Longitude{end}", f"Latitude{end}"):
            dataset = self._file.dataset(f"{group}/Geolocation Fields/{name}", ndim=2)
            if dataset.shape != self._cubes.shape:
                raise InputError(
                    f"{self._file.path}: '{dataset.name}' has {dataset.shape} pixels, the cubes {self._cubes.shape}.",
                    hint=ORDER_HINT,
                )
            planes.append(self._file.read(dataset, slice(None)))
        longitude, latitude = planes
        geocoder = SwathGeocoder(longitude, latitude, pixel_m=header.PIXEL_M, name=str(self._file.path))
        far = header.centre_disagreement(self._file, longitude, latitude)
        if far is not None and far > FAR_M:
            raise self._position_unknown("the centre of the scene", far)
        return geocoder

    def _position_unknown(self, what: str, distance_m: float) -> InputError:
        return InputError(
            f"{self._file.path}: by its attributes and by its latitude and longitude arrays, {what} lies in places "
            f"{distance_m / 1000:.1f} km apart, so the map position is unknown.",
            hint=ORDER_HINT,
        )

    def _refuse_empty(self) -> None:
        """Raise when no pixel was imaged; a sample of rows answers that for every normal product."""
        rows, cols = self._cubes.shape
        sample = np.unique(np.linspace(0, rows - 1, 9).astype(int))
        # From the middle outwards: the corners of an L2D image are fill.
        for row in sorted(sample, key=lambda r: abs(2 * int(r) - rows)):
            if self._cubes.footprint(Slice2D(int(row), int(row) + 1, 0, cols)).any():
                return
        if not self._cubes.footprint(Slice2D(0, rows, 0, cols)).any():
            raise OverlapError(
                f"{self._file.path}: every pixel of the product is fill (nodata).", hint="Order another acquisition."
            )

    def _make_info(self, warnings: tuple[str, ...], disagreement: float | None, missing: int) -> ProductInfo:
        file = self._file
        detector = self._bands.acquired.detector
        stop = header.read_time(file, "Product_StopTime")
        epsg = self._grid.crs.to_epsg()
        attributes: dict[str, Any] = {
            "product_name": file.optional_text("Product_Name"),
            "processor_version": file.optional_text("Processor_Version"),
            "stop": stop.isoformat() if stop else None,
            "epsg": epsg,
            "acquired_bands": {name: detector.count(name) for name in header.DETECTORS},
            "overlap": self._bands.overlap.to_json(),
            "cloudy_percent": file.optional_number("Cloudy_pixels_percentage"),
            "relative_azimuth_deg": self._cubes.mean_angle("Rel_Azimuth_Angle"),
            "missing_frames": missing,
            "corner_disagreement_m": disagreement,
            "geocoded_from_swath": self._geocoder is not None,
            "panchromatic": self.pan_grid is not None,
            "radiometry": radiometry_of(self.level),
        }
        if self._smile is not None:
            attributes["smile"] = {"text": self._smile.sentence, **self._smile.to_json()}
        view = self._cubes.mean_angle("Observing_Angle")
        return ProductInfo(
            name=file.path.name,
            sensor="PRISMA",
            level=f"L{self.level}",
            path=file.path,
            start=header.read_time(file, "Product_StartTime"),
            sun_zenith_deg=file.optional_number("Sun_zenith_angle"),
            sun_azimuth_deg=file.optional_number("Sun_azimuth_angle"),
            view_zenith_deg=view if view is not None else file.optional_number("Atm_LutGeomInfo_ViewZenith"),
            attributes=attributes,
            warnings=warnings,
        )

    def close(self) -> None:
        """Close the file and remove what was unpacked from a zip."""
        self._file.close()

    @property
    def info(self) -> ProductInfo:
        """Facts about the product."""
        return self._info

    @property
    def grid(self) -> Grid:
        """Grid of the cube: 30 m, north-up, as the product claims it."""
        return self._grid

    @property
    def bands(self) -> BandTable:
        """Bands offered, ascending in wavelength, the detector overlap cut."""
        return self._bands.bands

    @property
    def acquired_bands(self) -> BandTable:
        """Every band that was acquired, before the overlap cut."""
        return self._bands.acquired

    @property
    def overlap_report(self) -> OverlapReport:
        """Which bands the VNIR/SWIR cut dropped."""
        return self._bands.overlap

    def read(self, block: Slice2D, bands: BandIndex = None) -> FloatCube:
        """Read reflectance, float32 (band, row, col).

        NaN where the stored number is 0 (fill, failed retrieval) or the sample was already invalid in L1. Samples
        flagged as negative or saturated keep their value; see :meth:`error_codes`.
        """
        if self._geocoder is None:
            return self._cubes.read(block, bands)
        return self._geocode(self._geocoder, block, bands)

    @property
    def stored_pixels(self) -> PixelSource:
        """The image in stored rows and columns; the product itself where they are those of a map."""
        if self._geocoder is None:
            return self
        return StoredSwath(self._geocoder, self._cubes.read, self._cubes.footprint)

    def _geocode(self, geocoder: SwathGeocoder, block: Slice2D, bands: BandIndex) -> FloatCube:
        wanted = band_index(bands, len(self.bands))
        check_block(block, self._grid.shape)
        out = np.full((wanted.size, *block.shape), np.nan, dtype=np.float32)
        source = geocoder.source_block(block)
        if source is not None:
            for group in geocoder.band_groups(source, wanted.size):
                out[group] = geocoder.resample(self._cubes.read(source, wanted[group]), source, block)
        return out

    def valid(self, block: Slice2D) -> BoolArray:
        """Pixels that were imaged, shape (row, col): not padding, and not empty in every band."""
        if self._geocoder is None:
            return self._cubes.footprint(block)
        source = self._geocoder.source_block(block)
        if source is None:
            return np.zeros(block.shape, dtype=np.bool_)
        mask = self._cubes.footprint(source).astype(np.uint8)[None]
        return np.asarray(self._geocoder.resample_codes(mask, source, block)[0], dtype=np.bool_)

    def _read_clouds(self, name: str) -> NDArray[np.uint8] | None:
        """Cloud mask of L1, in stored rows and columns; None where it says nothing."""
        if self.level != "1" or not self._file.has(name):
            return None
        dataset = self._file.dataset(name, ndim=2)
        if dataset.shape != self._cubes.shape:
            raise InputError(
                f"{self._file.path}: the cloud mask has {dataset.shape} pixels, the cubes {self._cubes.shape}.",
                hint=ORDER_HINT,
            )
        mask = self._file.read(dataset, slice(None))
        # 0 clear, 1 cloud, 10 not classified, 255 error.
        return (mask == 1).astype(np.uint8) if np.any((mask == 0) | (mask == 1)) else None

    def cloud(self, block: Slice2D) -> BoolArray | None:
        """Pixels under cloud by the mask of an L1 product, shape (row, col); None without one (L2 has none)."""
        if self._clouds is None or self._geocoder is None:
            return None
        source = self._geocoder.source_block(block)
        if source is None:
            return np.zeros(block.shape, dtype=np.bool_)
        codes = self._geocoder.resample_codes(self._clouds[None, *source.slices], source, block)
        return np.asarray(codes[0], dtype=np.bool_)

    def error_codes(self, block: Slice2D, bands: BandIndex = None) -> NDArray[np.uint8] | None:
        """Read the producer's error bits, uint8 (band, row, col): 1 invalid in L1, 2 negative, 4 saturated.

        None when the product has no error matrices.
        """
        if self._geocoder is None or not self._cubes.has_errors:
            return self._cubes.error_codes(block, bands)
        wanted = band_index(bands, len(self.bands))
        out = np.zeros((wanted.size, *block.shape), dtype=np.uint8)
        source = self._geocoder.source_block(block)
        if source is not None:
            for group in self._geocoder.band_groups(source, wanted.size):
                codes = self._cubes.error_codes(source, wanted[group])
                if codes is not None:
                    out[group] = self._geocoder.resample_codes(codes, source, block)
        return out

    def panchromatic(self) -> MultispectralProduct | None:
        """Open the 5 m panchromatic image as an image of one band; None when it was not delivered.

        Raises
        ------
        InputError
            It does not lie on a map grid (levels other than L2D), or its pixels do not nest in the cube's.
        OverlapError
            It holds nothing but fill.
        """
        if not self._file.has(f"{self._pan_group}/Data Fields/Cube"):
            return None
        if self._geocoder is not None:
            raise InputError(
                f"{self._file.path}: the panchromatic image of level L{self.level} lies on no map grid, so it is not"
                " read.",
                hint="Use the L2D product, or Sentinel-2 as the guide (--guide s2).",
            )
        grid = self.pan_grid
        if grid is None:
            return None
        radiometry = {"radiometry": self._info.attributes["radiometry"]}
        name = f"{self._info.name} (panchromatic)"
        return PrismaPan(replace(self._info, name=name, warnings=(), attributes=radiometry), grid, self.read_pan)

    @property
    def pan_grid(self) -> Grid | None:
        """Grid of the panchromatic image: the cube's outer corner, 5 m; None when it was not delivered (or L2C)."""
        name = f"{self._pan_group}/Data Fields/Cube"
        if self._geocoder is not None or not self._file.has(name):
            return None
        rows, cols = self._file.dataset(name, ndim=2).shape
        ratio = rows // self._grid.height
        if ratio < 1 or (rows, cols) != (self._grid.height * ratio, self._grid.width * ratio):
            raise InputError(
                f"{self._file.path}: the panchromatic image has {rows} x {cols} pixels, which is no multiple of the "
                f"cube's {self._grid.height} x {self._grid.width}.",
                hint=ORDER_HINT,
            )
        return self._grid.nested(ratio)

    def read_pan(self, block: Slice2D) -> NDArray[np.float32]:
        """Read panchromatic reflectance, float32 (row, col), in pixels of :attr:`pan_grid`.

        NaN outside the imaged footprint and where the producer marks a pixel as invalid. In this image a stored 0
        is a legitimate dark pixel, unlike in the cube.

        Raises
        ------
        InputError
            The product has no panchromatic image on a map grid.
        """
        grid = self.pan_grid
        if grid is None:
            raise InputError(f"{self._file.path}: the product has no panchromatic image on a map grid.")
        check_block(block, grid.shape)
        low, step = header.read_scale(self._file, "Pan")
        data = f"{self._pan_group}/Data Fields"
        stored = self._file.read(self._file.dataset(f"{data}/Cube", ndim=2), block.slices)
        out: NDArray[np.float32] = np.multiply(stored, np.float32(step), dtype=np.float32)
        out += np.float32(low)
        ratio = grid.height // self._grid.height
        rows, cols = np.arange(block.row0, block.row1) // ratio, np.arange(block.col0, block.col1) // ratio
        coarse = Slice2D(int(rows[0]), int(rows[-1]) + 1, int(cols[0]), int(cols[-1]) + 1)
        outside = ~self._cubes.footprint(coarse)[np.ix_(rows - coarse.row0, cols - coarse.col0)]
        if self._file.has(f"{data}/PIXEL_L2_ERR_MATRIX"):
            codes = self._file.read(self._file.dataset(f"{data}/PIXEL_L2_ERR_MATRIX", ndim=2), block.slices)
            outside |= (codes & ERROR_INVALID_L1) != 0
        out[outside] = np.nan
        return out
