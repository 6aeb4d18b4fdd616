"""The simulated PRISMA product has the structure that real readers expect."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime

import h5py
import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.transform import Affine

from hsfuse.errors import UsageError
from hsfuse.grid import Grid
from hsfuse.simulate.prisma import CubeBlock, PanBlock, PrismaLayout, default_prisma_bands, write_prisma

HCO = "HDFEOS/SWATHS/PRS_L2D_HCO"
PCO = "HDFEOS/SWATHS/PRS_L2D_PCO"
ROWS, COLS = 37, 29


@pytest.fixture
def layout():
    grid = Grid.from_origin(CRS.from_epsg(32632), 547452.5, 5953067.5, 30.0, ROWS, COLS)
    return PrismaLayout(grid=grid)


def cube(layout, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.01, 0.9, (len(layout.bands), *layout.grid.shape)).astype(np.float32)
    values[:, :, :5] = np.nan
    return values


def in_blocks(values, rows=10):
    return [CubeBlock(r, values[:, r : r + rows]) for r in range(0, values.shape[1], rows)]


def pan_blocks(layout, rows=64):
    shape = layout.pan_grid.shape
    image = np.linspace(0.05, 0.8, shape[0] * shape[1], dtype=np.float32).reshape(shape)
    return [PanBlock(r, image[r : r + rows]) for r in range(0, shape[0], rows)]


def test_structure_is_that_of_a_real_product(tmp_path, layout):
    path = write_prisma(tmp_path / "p.he5", layout, in_blocks(cube(layout)), pan_blocks=pan_blocks(layout))
    expected = {
        f"{HCO}/Data Fields/VNIR_Cube": ((ROWS, 66, COLS), "uint16"),
        f"{HCO}/Data Fields/SWIR_Cube": ((ROWS, 173, COLS), "uint16"),
        f"{HCO}/Data Fields/VNIR_PIXEL_L2_ERR_MATRIX": ((ROWS, 66, COLS), "uint8"),
        f"{HCO}/Data Fields/SWIR_PIXEL_L2_ERR_MATRIX": ((ROWS, 173, COLS), "uint8"),
        f"{HCO}/Geolocation Fields/Latitude": ((ROWS, COLS), "float32"),
        f"{HCO}/Geolocation Fields/Longitude": ((ROWS, COLS), "float32"),
        f"{HCO}/Geometric Fields/Observing_Angle": ((ROWS, COLS), "float32"),
        f"{HCO}/Geometric Fields/Rel_Azimuth_Angle": ((ROWS, COLS), "float32"),
        f"{HCO}/Geometric Fields/Solar_Zenith_Angle": ((ROWS, COLS), "float32"),
        f"{PCO}/Data Fields/Cube": ((6 * ROWS, 6 * COLS), "uint16"),
        f"{PCO}/Data Fields/PIXEL_L2_ERR_MATRIX": ((6 * ROWS, 6 * COLS), "uint8"),
        f"{PCO}/Geolocation Fields/Latitude": ((6 * ROWS, 6 * COLS), "float32"),
        "KDP_AUX/Cw_Vnir_Matrix": ((1000, 66), "float32"),
        "KDP_AUX/Fwhm_Swir_Matrix": ((1000, 173), "float32"),
    }
    with h5py.File(path) as file:
        for name, (shape, kind) in expected.items():
            assert file[name].shape == shape, name
            assert file[name].dtype == kind, name
            assert file[name].chunks is None, f"{name} is not contiguous"
        attributes = dict(file.attrs)
    assert attributes["Processing_Level"] == b"2D"
    for group in ("Vnir", "Swir", "Pan"):
        assert attributes[f"L2Scale{group}Min"] < attributes[f"L2Scale{group}Max"]
    for corner in ("ULcorner", "URcorner", "LLcorner", "LRcorner", "center"):
        assert {f"Product_{corner}_{x}" for x in ("easting", "northing", "lat", "long")} <= attributes.keys()
    assert datetime.fromisoformat(attributes["Product_StartTime"].decode()).replace(tzinfo=UTC) == layout.start


def test_gdal_sees_a_hdf_eos_swath_with_pixel_centre_geolocation(tmp_path, layout):
    if not _hdf5_driver():
        pytest.skip("this GDAL has no HDF5 driver")
    path = write_prisma(tmp_path / "p.he5", layout, in_blocks(cube(layout)))
    with rasterio.open(f'HDF5:"{path}"://{HCO.replace(" ", "_")}/Data_Fields/SWIR_Cube') as dataset:
        assert (dataset.count, dataset.height, dataset.width) == (173, ROWS, COLS)
        assert dataset.tags(ns="GEOLOCATION")["X_DATASET"].endswith("Longitude")


def _hdf5_driver():
    with rasterio.Env() as env:
        return "HDF5" in env.drivers()


def test_corner_attributes_and_arrays_are_pixel_centres(tmp_path, layout):
    path = write_prisma(tmp_path / "p.he5", layout, in_blocks(cube(layout)), pan_blocks=pan_blocks(layout))
    to_map = Transformer.from_crs(4326, 32632, always_xy=True)
    with h5py.File(path) as file:
        assert file.attrs["Product_ULcorner_easting"] == 547452.5 + 15
        assert file.attrs["Product_ULcorner_northing"] == 5953067.5 - 15
        assert file.attrs["Product_LRcorner_easting"] - file.attrs["Product_ULcorner_easting"] == 30 * (COLS - 1)
        assert file.attrs["Product_ULcorner_northing"] - file.attrs["Product_LRcorner_northing"] == 30 * (ROWS - 1)
        for group, pixel in ((HCO, 30.0), (PCO, 5.0)):
            lon = file[f"{group}/Geolocation Fields/Longitude"][:].astype(float)
            lat = file[f"{group}/Geolocation Fields/Latitude"][:].astype(float)
            x, y = to_map.transform(lon, lat)
            rows, cols = np.indices(lon.shape)
            # float32 degrees resolve about 0.4 m here; both images share the outer corner.
            np.testing.assert_allclose(x, 547452.5 + pixel * (cols + 0.5), atol=0.5)
            np.testing.assert_allclose(y, 5953067.5 - pixel * (rows + 0.5), atol=0.5)


def test_numbers_codes_and_slots(tmp_path, layout):
    values = cube(layout)
    values[10, 3, 8] = -0.02
    values[10, 3, 9] = 3.0
    values[10, 3, 10] = np.nan
    path = write_prisma(tmp_path / "p.he5", layout, in_blocks(values))
    with h5py.File(path) as file:
        for detector, (low, high) in (("VNIR", layout.vnir_scale), ("SWIR", layout.swir_scale)):
            dn = file[f"{HCO}/Data Fields/{detector}_Cube"][:]
            listed = file.attrs[f"List_Cw_{detector.capitalize()}"]
            acquired = listed > 0
            assert np.array_equal(acquired, file.attrs[f"List_Cw_{detector.capitalize()}_Flags"] == 1)
            assert np.all(np.diff(listed[acquired]) < 0), "stored from long to short wavelength"
            assert not dn[:, ~acquired].any()
            decoded = np.where(dn == 0, np.nan, low + dn * (high - low) / 65535)
            for band in np.flatnonzero(np.array(layout.bands.detector) == detector):
                slot = layout.bands.slot[band]
                assert listed[slot] == np.float32(layout.bands.centre_nm[band])
                want = np.clip(values[band], low, high)
                np.testing.assert_allclose(decoded[:, slot], want, atol=2 * (high - low) / 65535)
        codes = file[f"{HCO}/Data Fields/VNIR_PIXEL_L2_ERR_MATRIX"][:]
        assert codes[3, layout.bands.slot[10], 8:11].tolist() == [2, 4, 1]
        assert np.count_nonzero(codes) == 3, "padding carries no error code"
        angles = file[f"{HCO}/Geometric Fields/Solar_Zenith_Angle"][:]
        assert not angles[:, :5].any()
        assert (angles[:, 5:] > 0).all()


def test_given_codes_and_footprint_are_kept(tmp_path, layout):
    values = np.full((len(layout.bands), *layout.grid.shape), 0.3, np.float32)
    codes = np.full(values.shape, 4, np.uint8)
    valid = np.zeros(layout.grid.shape, bool)
    valid[5:20, 6:15] = True
    path = write_prisma(tmp_path / "p.he5", layout, [CubeBlock(0, values, codes, valid)])
    with h5py.File(path) as file:
        data = file[f"{HCO}/Data Fields"]
        acquired = file.attrs["CNM_SWIR_SELECT"] == 1
        assert np.array_equal(data["SWIR_PIXEL_L2_ERR_MATRIX"][:, acquired][:, 0] == 4, valid)
        assert np.array_equal(data["SWIR_Cube"][:, acquired][:, 0] > 0, valid)


def test_blocks_may_come_in_any_order(tmp_path, layout):
    values = cube(layout)
    one = write_prisma(tmp_path / "a.he5", layout, [(0, values)])
    many = write_prisma(tmp_path / "b.he5", layout, reversed(in_blocks(values, 7)))
    with h5py.File(one) as a, h5py.File(many) as b:
        for name in ("Data Fields/VNIR_Cube", "Data Fields/SWIR_Cube", "Geolocation Fields/Latitude"):
            np.testing.assert_allclose(a[f"{HCO}/{name}"][:], b[f"{HCO}/{name}"][:], rtol=1e-6)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (lambda v: in_blocks(v)[:-1], "leave row 30 out"),
        (lambda v: [*in_blocks(v), CubeBlock(0, v[:, :10])], "written twice"),
        (lambda v: [CubeBlock(30, v[:, :10])], "does not fit"),
        (lambda v: [CubeBlock(0, v[:5])], "does not fit"),
    ],
)
def test_wrong_blocks_leave_no_file(tmp_path, layout, blocks, message):
    with pytest.raises(UsageError, match=message):
        write_prisma(tmp_path / "p.he5", layout, blocks(cube(layout)))
    assert list(tmp_path.iterdir()) == []


def test_folder_gets_asi_name(tmp_path, layout):
    path = write_prisma(tmp_path, layout, in_blocks(cube(layout)))
    assert path.name == "PRS_L2D_STD_20240621103012_20240621103016_0001.he5"


def test_attributes_can_be_replaced_and_removed(tmp_path, layout):
    changed = PrismaLayout(grid=layout.grid, attributes={"Processing_Level": b"2B", "Epsg_Code": None})
    with h5py.File(write_prisma(tmp_path / "p.he5", changed, in_blocks(cube(layout)))) as file:
        assert file.attrs["Processing_Level"] == b"2B"
        assert "Epsg_Code" not in file.attrs


def test_grid_must_be_utm():
    grid = Grid(CRS.from_epsg(3035), Affine(30, 0, 4e6, 0, -30, 3e6), 4, 4)
    with pytest.raises(UsageError, match="UTM"):
        write_prisma("unused.he5", PrismaLayout(grid=grid), [])


@pytest.mark.parametrize(("vnir", "swir", "total"), [(63, 171, 234), (66, 172, 238), (62, 171, 233), (66, 173, 239)])
def test_default_bands_follow_the_instrument(vnir, swir, total):
    bands = default_prisma_bands(vnir, swir)
    assert len(bands) == total
    detector = np.array(bands.detector)
    for name, count, (low, high) in (("VNIR", vnir, (7.2, 11.6)), ("SWIR", swir, (6.4, 11.9))):
        centre = bands.centre_nm[detector == name]
        assert centre.size == count
        assert np.all((np.diff(centre) > low) & (np.diff(centre) < high))
        assert np.all(np.diff(bands.slot[detector == name]) == -1)
    assert np.all((bands.fwhm_nm > 8.8) & (bands.fwhm_nm < 15.4))
    nominal = default_prisma_bands()
    vnir_nm = nominal.centre_nm[np.array(nominal.detector) == "VNIR"]
    np.testing.assert_allclose([vnir_nm[0], vnir_nm[-1]], [407.0, 977.4])


@pytest.mark.shared_data
def test_default_bands_resemble_a_published_list(shared_data):
    published = np.genfromtxt(shared_data / "srf" / "prisma.csv", delimiter=",", skip_header=1)
    bands = default_prisma_bands()
    vnir = np.array(bands.detector) == "VNIR"
    for mine, theirs in ((bands.take(vnir), published[:63]), (bands.take(~vnir), published[63:])):
        # Band positions moved by several nanometres between processor versions.
        assert np.abs(mine.centre_nm - theirs[:, 0]).max() < 15
        assert np.abs(mine.fwhm_nm - theirs[:, 1]).max() < 2


def test_default_bands_refuse_impossible_counts():
    with pytest.raises(UsageError, match="66 VNIR"):
        default_prisma_bands(67, 171)


def test_memory_is_bounded_by_the_block(tmp_path):
    grid = Grid.from_origin(CRS.from_epsg(32632), 547452.5, 5953067.5, 30.0, 640, 60)
    layout = PrismaLayout(grid=grid)
    block = np.full((len(layout.bands), 8, 60), 0.2, np.float32)
    tracemalloc.start()
    write_prisma(tmp_path / "p.he5", layout, (CubeBlock(r, block) for r in range(0, 640, 8)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    whole = 640 * 60 * 239 * 2
    assert peak < whole / 2
