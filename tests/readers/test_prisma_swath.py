"""PRISMA L2C, L2B, L1: a rotated, mirrored swath must come out on the map where it belongs, or not at all."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.warp import Resampling, reproject

from hsfuse.coregister.warp import Resampler
from hsfuse.errors import InputError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.base import ERROR_INVALID_L1, ERROR_SATURATED
from hsfuse.readers.geolocate import SwathGeocoder
from hsfuse.readers.prisma.product import PrismaProduct
from hsfuse.readers.solar import band_irradiance
from hsfuse.simulate.prisma import default_prisma_bands

SIDE = 150
TO_LONLAT = Transformer.from_crs(32632, 4326, always_xy=True)
BANDS = default_prisma_bands()


def positions():
    """Map coordinates of the stored pixels: the first axis goes west, the last goes south, neither is straight."""
    i, j = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    x = 560_000.0 - 29.5 * i - 7.5 * j + 20 * np.sin(j / 60)
    y = 5_950_000.0 + 7.7 * i - 28.9 * j + 15 * np.sin(i / 70)
    return x, y


def ground(x, y):
    """Reflectance of the ground, without fine detail so that resampling adds next to nothing."""
    return 0.3 + 0.1 * np.sin(x / 300) + 0.1 * np.cos(y / 250) + 0.05 * np.sin((x + 2 * y) / 700)


def write_swath(path, *, scramble=None):
    x, y = positions()
    lon, lat = TO_LONLAT.transform(x, y)
    if scramble is not None:
        lon, lat = scramble(lon, lat)
    group = "HDFEOS/SWATHS/PRS_L2C_HCO"
    image = np.rint(ground(x, y) * 65535).astype(np.uint16)
    with h5py.File(path, "w") as file:
        file.attrs["Processing_Level"] = np.bytes_("2C")
        file.attrs["Product_StartTime"] = np.bytes_("2024-04-02T10:28:37.123456")
        file.attrs["Product_center_long"], file.attrs["Product_center_lat"] = TO_LONLAT.transform(x.mean(), y.mean())
        for detector, slots in (("Vnir", 66), ("Swir", 173)):
            mine = np.array(BANDS.detector) == detector.upper()
            for kind, values in (("Cw", BANDS.centre_nm), ("Fwhm", BANDS.fwhm_nm)):
                listed = np.zeros(slots, np.float32)
                listed[BANDS.slot[mine]] = values[mine]
                file.attrs[f"List_{kind}_{detector}"] = listed
            file.attrs[f"List_Cw_{detector}_Flags"] = (listed > 0).astype(np.int32)
            file.attrs[f"L2Scale{detector}Min"], file.attrs[f"L2Scale{detector}Max"] = 0.0, 1.0
            cube = np.zeros((SIDE, slots, SIDE), np.uint16)
            cube[:, BANDS.slot[mine], :] = image[:, None, :]
            codes = np.zeros(cube.shape, np.uint8)
            codes[70:80, 30, 90:100] = 4
            file[f"{group}/Data Fields/{detector.upper()}_Cube"] = cube
            file[f"{group}/Data Fields/{detector.upper()}_PIXEL_L2_ERR_MATRIX"] = codes
        file[f"{group}/Geolocation Fields/Latitude"] = lat.astype(np.float32)
        file[f"{group}/Geolocation Fields/Longitude"] = lon.astype(np.float32)
        file[f"{group}/Geometric Fields/Solar_Zenith_Angle"] = np.full((SIDE, SIDE), 40, np.float32)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_swath(tmp_path_factory.mktemp("swath") / "l2c.he5")


def test_geocoded_image_lies_on_the_truth(path):
    with PrismaProduct(path) as product:
        grid = product.grid
        assert grid.crs == CRS.from_epsg(32632)
        assert grid.pixel_m == 30
        got = product.read(grid.full, [0, 100, 229])
        x, y = grid.xy(*(axis.astype(float) for axis in np.indices(grid.shape)))
        truth = ground(x, y)
        inside = np.isfinite(got[0])
        assert np.array_equal(inside, product.valid(grid.full))
        # The swath covers |det| of ground per stored pixel.
        covered = SIDE**2 * abs(29.5 * 28.9 + 7.5 * 7.7) / 900
        assert inside.sum() == pytest.approx(covered, rel=0.01)
        error = got - truth
        assert np.sqrt(np.nanmean(error**2)) < 1e-3
        # The shift that explains the error best: a slip of half a pixel would be 15 m.
        dy, dx = np.gradient(truth, 30.0)
        design = np.stack([dx[inside], -dy[inside]], axis=1)
        slip, *_ = np.linalg.lstsq(design, error[0][inside], rcond=None)
        assert np.hypot(*slip) < 0.5
        assert any("L2D" in warning for warning in product.info.warnings)


def irradiance_per_reflectance(bands, zenith_deg=40.0):
    """Radiance (W m⁻² sr⁻¹ µm⁻¹) of a white surface on 2 April, by the textbook formula."""
    distance = 1 - 0.01672 * np.cos(np.deg2rad(0.9856 * (93 - 4)))
    return band_irradiance(bands) * 1000 * np.cos(np.deg2rad(zenith_deg)) / (np.pi * distance**2)


def as_radiance(source, target, level):
    """Rewrite an L2C swath as a level that holds radiance, with the names and codes of that level."""
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        for key, value in old.attrs.items():
            if not key.startswith("L2Scale"):
                new.attrs[key] = value
        new.attrs["Processing_Level"] = np.bytes_(level)
        new.attrs["Sun_zenith_angle"] = 40.0
        there, here = (f"HDFEOS/SWATHS/PRS_L{name}_HCO" for name in ("2C", level))
        white = irradiance_per_reflectance(BANDS)
        for detector in ("VNIR", "SWIR"):
            short = detector.capitalize()
            mine = np.flatnonzero(np.array(BANDS.detector) == detector)
            cube = old[f"{there}/Data Fields/{detector}_Cube"][...].astype(np.float64) / 65535
            cube[:, BANDS.slot[mine], :] *= white[mine][:, None]
            if level == "1":
                new.attrs[f"ScaleFactor_{short}"], new.attrs[f"Offset_{short}"] = 100.0, 0.5
                new[f"{here}/Data Fields/{detector}_Cube"] = (
                    np.rint((cube + 0.5) * 100).clip(0, 65535).astype(np.uint16)
                )
                codes = np.zeros(cube.shape, np.uint8)
                codes[70:80, 30, 90:100], codes[50:60, 30, 50:60] = 2, 1
                codes[30:40, 30, 30:40] = 3
                new[f"{here}/Data Fields/{detector}_PIXEL_SAT_ERR_MATRIX"] = codes
                for name in ("Latitude", "Longitude"):
                    new[f"{here}/Geolocation Fields/{name}_{detector}"] = old[f"{there}/Geolocation Fields/{name}"][...]
            else:
                low, high = 0.25, 900.0
                new.attrs[f"L2Scale{short}Min"], new.attrs[f"L2Scale{short}Max"] = low, high
                stored = np.rint((cube - low) * 65535 / (high - low)).clip(1, 65535).astype(np.uint16)
                stored[cube == 0] = 0
                new[f"{here}/Data Fields/{detector}_Cube"] = stored
        if level == "1":
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[100:120, 20:50] = 1
            mask[0, 0] = 10
            new[f"{here}/Data Fields/Cloud_Mask"] = mask
        else:
            old.copy(f"{there}/Geolocation Fields", new[here])
            old.copy(f"{there}/Geometric Fields", new[here])
    return target


@pytest.mark.parametrize("level", ["1", "2B"])
def test_radiance_becomes_reflectance_where_it_belongs(path, tmp_path, level):
    source = as_radiance(path, tmp_path / "p.he5", level)
    with PrismaProduct(path) as reflectance, PrismaProduct(source) as product:
        grid = product.grid
        assert grid == reflectance.grid
        assert product.info.level == f"L{level}"
        assert product.info.attributes["radiometry"] == ("top of atmosphere" if level == "1" else "surface")
        bands = [0, 60, 150]
        got, want = product.read(grid.full, bands), reflectance.read(grid.full, bands)
        both = np.isfinite(got) & np.isfinite(want)
        assert both.sum() > 0.99 * np.isfinite(want).sum()
        # To the rounding of the stored radiance, where the sun gives least.
        np.testing.assert_allclose(got[both], want[both], atol=0.012)
        said = " ".join(product.info.warnings)
        assert f"L{level} has no map grid" in said
        assert ("too low by what the atmosphere absorbs" in said) is (level == "2B")
        assert "angle fields" not in said


def test_l1_codes_and_clouds(path, tmp_path):
    source = as_radiance(path, tmp_path / "p.he5", "1")
    x, y = positions()
    with PrismaProduct(source) as product, h5py.File(source, locking=False) as file:
        band = int(np.flatnonzero((product.bands.slot == 30) & (np.array(product.bands.detector) == "VNIR"))[0])
        codes, cloud = product.error_codes(product.grid.full, [band])[0], product.cloud(product.grid.full)
        stored = file["HDFEOS/SWATHS/PRS_L1_HCO/Data Fields/VNIR_PIXEL_SAT_ERR_MATRIX"][:, 30, :]
        clouds = file["HDFEOS/SWATHS/PRS_L1_HCO/Data Fields/Cloud_Mask"][...]
        meaning = {0: 0, 1: ERROR_INVALID_L1, 2: ERROR_SATURATED, 3: 0}
        for i, j in ((75, 95), (55, 55), (35, 35), (110, 30), (10, 90)):
            row, col = (round(float(v)) for v in product.grid.rowcol(x[i, j], y[i, j]))
            assert codes[row, col] == meaning[stored[i, j]]
            assert cloud[row, col] == (clouds[i, j] == 1)
        got = product.read(product.grid.full, [band])[0]
        row, col = (round(float(v)) for v in product.grid.rowcol(x[55, 55], y[55, 55]))
        assert np.isnan(got[row, col]), "a defective element measured nothing"


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("Sun_zenith_angle", 95.0, "sun's zenith angle"),
        ("Sun_zenith_angle", None, "sun's zenith angle"),
        ("Product_StartTime", None, "sun's zenith angle and the date"),
        ("ScaleFactor_Vnir", 0.0, "scale of the Vnir radiance cannot be meant"),
        ("ScaleFactor_Swir", 1e-30, "scale of the Swir radiance cannot be meant"),
        ("Offset_Swir", 1e30, "scale of the Swir radiance cannot be meant"),
        ("Offset_Vnir", None, "'Offset_Vnir' is missing"),
    ],
)
def test_l1_without_what_makes_reflectance(path, tmp_path, attribute, value, words):
    source = as_radiance(path, tmp_path / "p.he5", "1")
    with h5py.File(source, "r+") as file:
        del file.attrs[attribute]
        if value is not None:
            file.attrs[attribute] = value
    with pytest.raises(InputError, match=words):
        PrismaProduct(source)


def test_blocks_and_whole_agree(path):
    with PrismaProduct(path) as product:
        whole = product.read(product.grid.full, [5])
        valid = product.valid(product.grid.full)
        height, width = product.grid.shape
        for row in range(0, height, 64):
            for col in range(0, width, 70):
                block = Slice2D(row, min(row + 64, height), col, min(col + 70, width))
                np.testing.assert_allclose(product.read(block, [5]), whole[:, *block.slices], atol=1e-6)
                assert np.array_equal(product.valid(block), valid[block.slices])


def test_error_codes_move_along(path):
    x, y = positions()
    with PrismaProduct(path) as product:
        slot = np.flatnonzero((product.bands.slot == 30) & (np.array(product.bands.detector) == "VNIR"))
        codes = product.error_codes(product.grid.full, slot)
        assert codes is not None
        row, col = np.nonzero(codes[0] == 4)
        got_x, got_y = product.grid.xy(row.astype(float), col.astype(float))
        assert abs(got_x.mean() - x[70:80, 90:100].mean()) < 15
        assert abs(got_y.mean() - y[70:80, 90:100].mean()) < 15
        assert product.pan_grid is None


def test_failed_sample_spreads_no_further_than_its_neighbours_and_its_band(tmp_path):
    path = write_swath(tmp_path / "l2c.he5")
    with PrismaProduct(path) as product:
        band = int(product.bands.nearest(600)[0])
        slot = int(product.bands.slot[band])
    with h5py.File(path, "r+") as file:
        file["HDFEOS/SWATHS/PRS_L2C_HCO/Data Fields/VNIR_Cube"][60, slot, 40] = 0
    with PrismaProduct(path) as product:
        both = product.read(product.grid.full, [band, band + 1])
        lost = np.isnan(both[0]) & np.isfinite(both[1])
        assert 1 <= lost.sum() <= 25
        x, y = positions()
        row, col = product.grid.rowcol(x[60, 40], y[60, 40])
        rows, cols = np.nonzero(lost)
        assert np.abs(rows - row).max() < 3
        assert np.abs(cols - col).max() < 3
        assert np.array_equal(np.isfinite(both[1]), product.valid(product.grid.full))


@pytest.mark.parametrize(
    ("scramble", "message"),
    [
        (lambda lon, lat: (lon * 0, lat * 0), "not a regular swath"),
        (lambda lon, lat: (lat, lon), "km apart"),
        (lambda lon, lat: (lon, lat + 80), "out of range"),
        (lambda lon, lat: (np.where(np.arange(SIDE) == 7, np.nan, lon), lat), "gaps"),
        (lambda lon, lat: (np.concatenate([lon[:70], lon[70:][::-1]]), lat), "not a regular swath"),
    ],
)
def test_unusable_positions_are_refused(tmp_path, scramble, message):
    path = write_swath(tmp_path / "l2c.he5", scramble=scramble)
    with pytest.raises(InputError, match=message) as caught:
        PrismaProduct(path)
    assert "L2D" in caught.value.hint


def test_missing_positions_are_named(tmp_path):
    path = write_swath(tmp_path / "l2c.he5")
    with h5py.File(path, "r+") as file:
        del file["HDFEOS/SWATHS/PRS_L2C_HCO/Geolocation Fields/Latitude"]
    with pytest.raises(InputError, match="Latitude' is missing"):
        PrismaProduct(path)


def test_agrees_with_gdal(path):
    """GDAL takes the arrays for the pixels' upper left corners, so it gets them half a pixel earlier."""
    x, y = positions()
    lon, lat = TO_LONLAT.transform(x, y)

    def upper_left(centres):
        p = np.pad(centres, 1, mode="reflect", reflect_type="odd")
        return (p[:-2, :-2] + p[1:-1, :-2] + p[:-2, 1:-1] + p[1:-1, 1:-1]) / 4

    with PrismaProduct(path) as product:
        mine = product.read(product.grid.full, [50])
        gdal = np.full(mine.shape, np.nan, np.float32)
        reproject(
            ground(x, y)[None].astype(np.float32), gdal, src_crs=CRS.from_epsg(4326),
            src_geoloc_array=np.stack([upper_left(lon), upper_left(lat)]), src_nodata=np.nan,
            dst_crs=product.grid.crs, dst_transform=product.grid.transform, dst_nodata=np.nan,
            resampling=Resampling.cubic,
        )  # fmt: skip
    both = np.isfinite(mine) & np.isfinite(gdal)
    assert both.sum() > 0.98 * np.isfinite(mine).sum()
    assert np.quantile(np.abs(mine - gdal)[both], 0.98) < 1e-3


def test_exact_on_the_stored_pixels_of_a_plain_grid():
    """A swath that is a map grid already comes back unchanged."""
    x = 399_990.0 + 30 * (np.arange(20) + 0.5)[None, :] + np.zeros((15, 1))
    y = 5_000_010.0 - 30 * (np.arange(15) + 0.5)[:, None] + np.zeros((1, 20))
    geocoder = SwathGeocoder(*TO_LONLAT.transform(x, y), pixel_m=30.0, name="grid")
    image = np.random.default_rng(1).random((2, 15, 20), dtype=np.float32)
    image[1, 4, 5] = np.nan
    whole = geocoder.grid.full
    source = geocoder.source_block(whole)
    assert source == Slice2D(0, 15, 0, 20)
    got = geocoder.resample(image, source, whole)
    rows, cols = np.nonzero(np.isfinite(got[0]))
    cut = got[:, rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
    np.testing.assert_allclose(cut, image, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("Data Fields/Cloud_Mask", np.zeros((9, 9), np.uint8), r"cloud mask has \(9, 9\) pixels, the cubes"),
        ("Geolocation Fields/Latitude_VNIR", np.zeros((9, 9)), r"Latitude_VNIR' has \(9, 9\) pixels, the cubes"),
        (
            "Data Fields/VNIR_PIXEL_SAT_ERR_MATRIX",
            np.zeros((9, 66, 9), np.uint8),
            "does not have the shape of its cube",
        ),
    ],
)
def test_l1_layers_of_another_size(path, tmp_path, name, values, words):
    source = as_radiance(path, tmp_path / "p.he5", "1")
    with h5py.File(source, "r+") as file:
        group = file["HDFEOS/SWATHS/PRS_L1_HCO"]
        del group[name]
        group[name] = values
    with pytest.raises(InputError, match=words) as caught:
        PrismaProduct(source)
    assert caught.value.exit_code == 3
    assert caught.value.hint


def test_stored_pixels_reach_any_cells_in_one_resampling(path):
    """What a run does: no detour through the product's own map grid, whose view stays as it is."""
    with PrismaProduct(path) as product:
        stored, grid = product.stored_pixels, product.grid
        bands = [0, 100, 229]
        assert stored.grid.shape == (SIDE, SIDE)
        assert np.array_equal(stored.valid(Slice2D(0, SIDE, 0, SIDE)), np.ones((SIDE, SIDE), bool))
        for cells in (grid, Grid.from_origin(grid.crs, grid.bounds.left + 11, grid.bounds.top - 7, 30.0, *grid.shape)):
            resampler = Resampler(stored.grid, cells)
            source = resampler.source_block(cells.full)
            got = resampler.apply(stored.read(source, bands), source, cells.full)
            x, y = cells.xy(*(axis.astype(float) for axis in np.indices(cells.shape)))
            inside = np.isfinite(got[0])
            assert inside.sum() == pytest.approx(SIDE**2 * abs(29.5 * 28.9 + 7.5 * 7.7) / 900, rel=0.015)
            assert np.sqrt(np.nanmean((got - ground(x, y)) ** 2)) < 1e-3
            if cells is grid:
                seen = product.read(grid.full, bands)
                both = inside & np.isfinite(seen[0])
                # Positions are kept to a ten-thousandth of a pixel, numbers to 1.5e-5.
                assert np.quantile(np.abs(got - seen)[:, both], 0.98) < 1e-4
