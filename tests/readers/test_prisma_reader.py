"""The PRISMA reader against the file read by hand, and against every bad file we could think of."""

from __future__ import annotations

import shutil
import tracemalloc
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from hsfuse.errors import InputError, OutputError, OverlapError, UsageError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.base import HyperspectralProduct
from hsfuse.readers.overlap import cut_overlap
from hsfuse.readers.prisma.product import PrismaProduct
from hsfuse.simulate.prisma import CubeBlock, PanBlock, PrismaLayout, default_prisma_bands, write_prisma

HCO = "HDFEOS/SWATHS/PRS_L2D_HCO"
DATA = f"{HCO}/Data Fields"
ROWS, COLS = 41, 33
LEFT, TOP = 547452.5, 5953067.5
FULL = Slice2D(0, ROWS, 0, COLS)


def footprint():
    row, col = np.indices((ROWS, COLS))
    return (np.abs(row - 0.4 * col - 12) < 17) & (col > 1) & (col < COLS - 2)


def write(folder, name="product.he5", *, bands=None, **options):
    """A product with random numbers in a slanted footprint, failed samples and error codes of every kind."""
    bands = default_prisma_bands() if bands is None else bands
    grid = Grid.from_origin(CRS.from_epsg(32632), LEFT, TOP, 30.0, ROWS, COLS)
    layout = PrismaLayout(grid=grid, bands=bands, **options)
    rng = np.random.default_rng(7)
    cube = rng.uniform(0.01, 1.0, (len(bands), ROWS, COLS)).astype(np.float32)
    cube[rng.random(cube.shape) < 0.02] = np.nan
    valid = footprint()
    cube[:, ~valid] = np.nan
    codes = rng.choice(np.array([0, 1, 2, 4, 6], np.uint8), cube.shape, p=[0.92, 0.02, 0.02, 0.02, 0.02])
    blocks = [CubeBlock(r, cube[:, r : r + 8], codes[:, r : r + 8], valid[r : r + 8]) for r in range(0, ROWS, 8)]
    pan = rng.uniform(0.2, 0.9, (6 * ROWS, 6 * COLS)).astype(np.float32)
    return write_prisma(folder / name, layout, blocks, pan_blocks=[PanBlock(0, pan)])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("prisma"), vnir_scale=(0.0, 1.25), swir_scale=(-0.05, 1.1))


@pytest.fixture
def changed(path, tmp_path):
    """Return a function that copies the product, applies changes, and gives the copy's path."""

    def change(edit, name="changed.he5"):
        copy = tmp_path / name
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            edit(file)
        return copy

    return change


@pytest.fixture(scope="module")
def by_hand(path):
    """Centres, reflectance and error codes of every acquired band, straight from the file, by the specification."""
    centres, cubes, codes, detectors = [], [], [], []
    with h5py.File(path) as file:
        for detector in ("Vnir", "Swir"):
            upper = detector.upper()
            dn = file[f"{DATA}/{upper}_Cube"][:]
            errors = file[f"{DATA}/{upper}_PIXEL_L2_ERR_MATRIX"][:]
            low, high = (float(file.attrs[f"L2Scale{detector}{end}"]) for end in ("Min", "Max"))
            for slot, centre in enumerate(file.attrs[f"List_Cw_{detector}"]):
                if centre == 0 or file.attrs[f"List_Cw_{detector}_Flags"][slot] == 0:
                    continue
                values = low + dn[:, slot, :].astype(np.float64) * (high - low) / 65535.0
                values[(dn[:, slot, :] == 0) | (errors[:, slot, :] & 1 == 1)] = np.nan
                centres.append(float(centre))
                cubes.append(values)
                codes.append(errors[:, slot, :])
                detectors.append(upper)
    centre = np.array(centres)
    keep = np.where(np.array(detectors) == "VNIR", centre <= 950, centre > 950)
    order = np.argsort(np.where(keep, centre, np.inf))[: keep.sum()]
    return centre[order], np.stack(cubes)[order], np.stack(codes)[order]


def test_agrees_with_h5py_pixel_for_pixel(path, by_hand):
    centre, cube, codes = by_hand
    with PrismaProduct(path) as product:
        assert isinstance(product, HyperspectralProduct)
        np.testing.assert_allclose(product.bands.centre_nm, centre, atol=1e-3)
        assert len(product.bands) == 230
        got = product.read(FULL)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, cube, rtol=2e-6, atol=1e-8)
        assert np.array_equal(product.error_codes(FULL), codes)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_window_of_any_bands_is_a_cut_of_the_whole(path, by_hand, data):
    row0 = data.draw(st.integers(0, ROWS - 1))
    col0 = data.draw(st.integers(0, COLS - 1))
    block = Slice2D(row0, data.draw(st.integers(row0 + 1, ROWS)), col0, data.draw(st.integers(col0 + 1, COLS)))
    bands = data.draw(st.none() | st.lists(st.integers(0, 229), max_size=12))
    _, cube, codes = by_hand
    chosen = slice(None) if bands is None else bands
    with PrismaProduct(path) as product:
        np.testing.assert_allclose(product.read(block, bands), cube[chosen][:, *block.slices], rtol=2e-6, atol=1e-8)
        assert np.array_equal(product.error_codes(block, bands), codes[chosen][:, *block.slices])
        assert np.array_equal(product.valid(block), footprint()[block.slices])


def test_corner_is_a_pixel_centre(path):
    with PrismaProduct(path) as product:
        grid = product.grid
        assert grid.crs == CRS.from_epsg(32632)
        assert (grid.transform.c, grid.transform.f, grid.pixel_m) == (LEFT, TOP, 30.0)
        assert grid.shape == (ROWS, COLS)
        assert product.info.warnings == ()
        # float32 degrees resolve a few decimetres.
        assert product.info.attributes["corner_disagreement_m"] < 0.5


def test_facts_of_the_scene(path):
    with PrismaProduct(path) as product:
        info = product.info
        assert (info.sensor, info.level, info.name) == ("PRISMA", "L2D", "product.he5")
        assert info.start is not None
        assert info.start.isoformat() == "2024-06-21T10:30:12.345678+00:00"
        assert info.sun_zenith_deg == pytest.approx(32.5)
        assert info.sun_azimuth_deg == pytest.approx(148)
        assert info.view_zenith_deg == pytest.approx(4.2, abs=0.5)
        assert info.attributes["relative_azimuth_deg"] == pytest.approx(52, abs=0.5)
        assert info.attributes["acquired_bands"] == {"VNIR": 63, "SWIR": 171}


@pytest.mark.parametrize(
    ("vnir", "swir"),
    [pytest.param(62, 171, id="233"), pytest.param(66, 172, id="238"), pytest.param(66, 173, id="239")],
)
def test_band_count_comes_from_the_file(tmp_path, vnir, swir):
    bands = default_prisma_bands(vnir, swir)
    with PrismaProduct(write(tmp_path, bands=bands)) as product:
        assert len(product.acquired_bands) == vnir + swir
        dropped = product.overlap_report.count
        assert len(product.bands) == vnir + swir - dropped
        assert np.all(np.diff(product.bands.centre_nm) > 0)
        assert product.read(FULL).shape[0] == len(product.bands)


def test_band_needs_flag_and_centre_and_width(changed):
    def edit(file):
        for name, slot in (("List_Cw_Vnir_Flags", 20), ("List_Cw_Vnir", 30), ("List_Fwhm_Vnir", 40)):
            values = file.attrs[name]
            values[slot] = 0
            file.attrs[name] = values

    with PrismaProduct(changed(edit)) as product:
        acquired = product.acquired_bands
        assert len(acquired) == 231
        vnir = acquired.slot[np.array(acquired.detector) == "VNIR"]
        assert not {20, 30, 40} & set(vnir.tolist())


def test_lists_as_text_work_too(changed):
    def edit(file):
        for name in ("List_Cw_Vnir", "List_Fwhm_Vnir", "List_Cw_Vnir_Flags"):
            file.attrs[name] = np.bytes_("".join(f"{x} " for x in file.attrs[name]))

    with PrismaProduct(changed(edit)) as product:
        assert len(product.bands) == 230


def test_second_name_of_the_flags(changed):
    def edit(file):
        del file.attrs["List_Cw_Vnir_Flags"]

    with PrismaProduct(changed(edit)) as product:
        assert len(product.bands) == 230
        assert product.info.warnings == ()


class TestOverlap:
    def test_default_is_reported(self, path):
        with PrismaProduct(path) as product:
            report = product.overlap_report
            assert report.overlap_nm == pytest.approx((943.4, 977.4))
            assert report.vnir_dropped_nm == pytest.approx((956.46, 966.96, 977.4), abs=0.01)
            assert report.swir_dropped_nm == pytest.approx((943.4,))
            assert report.to_json()["cut_nm"] == 950.0

    def test_vnir_first_and_swir_first(self, path):
        with PrismaProduct(path, cut_nm=2000) as product:
            assert product.overlap_report.vnir_dropped_nm == ()
            assert product.bands.detector.count("VNIR") == 63
        with PrismaProduct(path, cut_nm=500) as product:
            assert product.overlap_report.swir_dropped_nm == ()
            assert product.bands.detector.count("SWIR") == 171
            assert product.bands.centre_nm[0] == pytest.approx(407.0)

    @settings(max_examples=60, deadline=None)
    @given(cut=st.floats(1, 5000), vnir=st.integers(1, 66), swir=st.integers(1, 173))
    def test_no_stretch_of_the_spectrum_is_lost(self, cut, vnir, swir):
        acquired = default_prisma_bands(vnir, swir)
        bands, report = cut_overlap(acquired, cut)
        assert np.all(np.diff(bands.centre_nm) > 0)
        assert len(bands) + report.count == len(acquired)
        assert bands.centre_nm[0] == acquired.centre_nm.min()
        assert bands.centre_nm[-1] == acquired.centre_nm.max()
        detector = np.array(acquired.detector)
        if acquired.centre_nm[detector == "SWIR"].min() > acquired.centre_nm[detector == "VNIR"].max():
            assert report.count == 0
        else:
            # Both detectors are about 10 nm apart; a cut never opens a gap wider than two bands.
            assert np.diff(bands.centre_nm).max() < 25

    @pytest.mark.parametrize("cut", [float("nan"), -1.0, 0.0])
    def test_absurd_cut(self, path, cut):
        with pytest.raises(UsageError, match="cut"):
            PrismaProduct(path, cut_nm=cut)


class TestFootprint:
    def test_lost_line_is_not_valid(self, changed):
        def edit(file):
            for detector in ("VNIR", "SWIR"):
                file[f"{DATA}/{detector}_Cube"][20] = 0

        with PrismaProduct(changed(edit)) as product:
            expected = footprint()
            expected[20] = False
            assert np.array_equal(product.valid(FULL), expected)

    def test_pixel_with_a_single_band_is_valid(self, changed):
        def edit(file):
            for detector in ("VNIR", "SWIR"):
                file[f"{DATA}/{detector}_Cube"][20] = 0
            file[f"{DATA}/SWIR_Cube"][20, 111, 15] = 900

        with PrismaProduct(changed(edit)) as product:
            assert product.valid(Slice2D(20, 21, 0, COLS))[0].nonzero()[0].tolist() == [15]

    def test_without_angles_the_numbers_decide(self, changed):
        with PrismaProduct(changed(lambda file: file.pop(f"{HCO}/Geometric Fields"))) as product:
            assert np.array_equal(product.valid(FULL), footprint())
            assert any("angle" in warning for warning in product.info.warnings)

    def test_all_fill(self, changed):
        def edit(file):
            for detector in ("VNIR", "SWIR"):
                file[f"{DATA}/{detector}_Cube"][...] = 0

        copy = changed(edit)
        with pytest.raises(OverlapError, match="fill"):
            PrismaProduct(copy)


class TestPan:
    def test_shares_the_outer_corner(self, path):
        with PrismaProduct(path) as product:
            grid = product.pan_grid
            assert grid is not None
            assert (grid.transform.c, grid.transform.f, grid.pixel_m) == (LEFT, TOP, 5.0)
            assert grid.bounds == product.grid.bounds

    def test_agrees_with_h5py(self, path):
        with h5py.File(path) as file:
            dn = file["HDFEOS/SWATHS/PRS_L2D_PCO/Data Fields/Cube"][:]
        want = dn * 1.25 / 65535
        want[~np.kron(footprint(), np.ones((6, 6), bool))] = np.nan
        with PrismaProduct(path) as product:
            assert product.pan_grid is not None
            np.testing.assert_allclose(product.read_pan(product.pan_grid.full), want, rtol=2e-6)
            block = Slice2D(31, 100, 20, 77)
            np.testing.assert_allclose(product.read_pan(block), want[block.slices], rtol=2e-6)

    def test_is_optional(self, changed):
        with PrismaProduct(changed(lambda file: file.pop("HDFEOS/SWATHS/PRS_L2D_PCO"))) as product:
            assert product.pan_grid is None
            with pytest.raises(InputError, match="panchromatic"):
                product.read_pan(Slice2D(0, 1, 0, 1))


class TestPanchromaticGuide:
    def test_is_an_image_of_one_band_with_an_assumed_response(self, path):
        with PrismaProduct(path) as product, product.panchromatic() as pan:
            assert pan.band_names == ("PAN",)
            assert pan.grid == product.pan_grid
            assert pan.responses[0].assumed
            block = Slice2D(31, 100, 20, 77)
            np.testing.assert_array_equal(pan.read(block), product.read_pan(block)[None])

    def test_is_none_where_it_was_not_delivered(self, changed):
        with PrismaProduct(changed(lambda file: file.pop("HDFEOS/SWATHS/PRS_L2D_PCO"))) as product:
            assert product.panchromatic() is None

    @pytest.mark.parametrize("value", [0, 1234])
    def test_all_of_one_value_is_empty(self, changed, value):
        def edit(file):
            file["HDFEOS/SWATHS/PRS_L2D_PCO/Data Fields/Cube"][:] = value

        with PrismaProduct(changed(edit)) as product, pytest.raises(OverlapError, match="panchromatic image is empty"):
            product.panchromatic()


class TestPosition:
    def shift(self, metres):
        def edit(file):
            for name in list(file.attrs):
                if name.endswith(("_easting", "_northing")):
                    file.attrs[name] += metres

        return edit

    def test_half_pixel_disagreement_warns(self, changed):
        with PrismaProduct(changed(self.shift(15.0))) as product:
            assert len(product.info.warnings) == 1
            assert "disagree by 21.2 m" in product.info.warnings[0]

    def test_far_disagreement_is_refused(self, changed):
        copy = changed(self.shift(5000.0))
        with pytest.raises(InputError, match=r"places 7\.1 km apart"):
            PrismaProduct(copy)

    def test_cropped_product_is_refused(self, changed):
        def edit(file):
            file.attrs["Product_LRcorner_easting"] += 30.0

        copy = changed(edit)
        with pytest.raises(InputError, match="does not fit 33 columns"):
            PrismaProduct(copy)

    def test_unknown_reference_system(self, changed):
        def edit(file):
            file.attrs["Epsg_Code"] = 999999

        copy = changed(edit)
        with pytest.raises(InputError, match="EPSG:999999"):
            PrismaProduct(copy)


def test_missing_error_matrices_and_frames_are_told(changed):
    def edit(file):
        for detector in ("VNIR", "SWIR"):
            del file[f"{DATA}/{detector}_PIXEL_L2_ERR_MATRIX"]
        file["Info/Header/Frame_Missing"][7:10] = 1

    with PrismaProduct(changed(edit)) as product:
        assert product.error_codes(FULL) is None
        assert product.info.attributes["missing_frames"] == 3
        assert len(product.info.warnings) == 2


def test_memory_stays_near_the_window(tmp_path):
    grid = Grid.from_origin(CRS.from_epsg(32632), LEFT, TOP, 30.0, 1500, 40)
    layout = PrismaLayout(grid=grid)
    rows = np.full((234, 50, 40), 0.3, np.float32)
    path = write_prisma(tmp_path / "long.he5", layout, (CubeBlock(r, rows) for r in range(0, 1500, 50)))
    with PrismaProduct(path) as product:
        product.read(Slice2D(0, 1, 0, 40))
        for block, bands in ((Slice2D(100, 1400, 0, 40), None), (Slice2D(0, 1500, 0, 40), [3, 4, 90, 200])):
            tracemalloc.start()
            got = product.read(block, bands)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < got.nbytes + 16e6


class TestZip:
    @pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
    def test_reads_and_cleans_up(self, path, by_hand, tmp_path, monkeypatch, method):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(scratch))
        with zipfile.ZipFile(tmp_path / "p.zip", "w", method) as archive:
            archive.write(path, "folder/PRS_L2D.he5")
            archive.writestr("__MACOSX/._PRS_L2D.he5", b"junk")
        with PrismaProduct(tmp_path / "p.zip") as product:
            np.testing.assert_allclose(product.read(FULL), by_hand[1], rtol=2e-6, atol=1e-8)
            assert product.info.path == tmp_path / "p.zip"
        assert list(scratch.iterdir()) == []

    @pytest.mark.parametrize(("names", "message"), [([], "no .he5"), (["a.he5", "b.he5"], "2 .he5 files")])
    def test_needs_exactly_one(self, tmp_path, names, message):
        with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
            archive.writestr("readme.txt", "hello")
            for name in names:
                archive.writestr(name, b"x")
        with pytest.raises(InputError, match=message):
            PrismaProduct(tmp_path / "p.zip")

    def test_full_disk(self, path, tmp_path, monkeypatch):
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(scratch))
        with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
            archive.write(path, "p.he5")
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
        with pytest.raises(OutputError, match="unpacking needs") as caught:
            PrismaProduct(tmp_path / "p.zip")
        assert "TMPDIR" in caught.value.hint
        assert list(scratch.iterdir()) == []

    def test_damaged_member(self, path, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        target = tmp_path / "p.zip"
        with zipfile.ZipFile(target, "w") as archive:
            archive.write(path, "p.he5")
        raw = bytearray(target.read_bytes())
        raw[len(raw) // 2] ^= 0xFF
        target.write_bytes(raw)
        with pytest.raises(InputError, match="cannot be unpacked"):
            PrismaProduct(target)
        assert [p for p in tmp_path.iterdir() if p.is_dir()] == []


class TestBadInput:
    def test_level_is_the_attribute_not_the_name(self, path, tmp_path):
        renamed = tmp_path / "PRS_L1_STD_OFFL_20240621.h5"
        shutil.copyfile(path, renamed)
        with PrismaProduct(renamed) as product:
            assert product.info.level == "L2D"

    @pytest.mark.parametrize("level", ["1G", "7"])
    def test_wrong_level_says_what_to_order(self, changed, level):
        def edit(file):
            file.attrs["Processing_Level"] = np.bytes_(level)

        copy = changed(edit, "PRS_L2D_STD.he5")
        with pytest.raises(InputError, match=f"PRISMA L{level} product") as caught:
            PrismaProduct(copy)
        assert "L2D" in caught.value.hint

    def test_missing_file(self, tmp_path):
        with pytest.raises(InputError, match="no such file"):
            PrismaProduct(tmp_path / "nothing.he5")

    def test_not_hdf5(self, tmp_path):
        (tmp_path / "p.he5").write_bytes(b"<html>session expired</html>" * 100)
        with pytest.raises(InputError, match="not an HDF5 file"):
            PrismaProduct(tmp_path / "p.he5")

    def test_truncated(self, path, tmp_path):
        (tmp_path / "p.he5").write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(InputError, match="truncated") as caught:
            PrismaProduct(tmp_path / "p.he5")
        assert "again" in caught.value.hint

    def test_empty(self, tmp_path):
        (tmp_path / "p.he5").touch()
        with pytest.raises(InputError, match="not an HDF5 file"):
            PrismaProduct(tmp_path / "p.he5")

    def test_foreign_hdf5(self, tmp_path):
        with h5py.File(tmp_path / "p.h5", "w") as file:
            file["temperature"] = np.zeros(3)
        with pytest.raises(InputError, match="not a PRISMA product"):
            PrismaProduct(tmp_path / "p.h5")

    @pytest.mark.parametrize(
        "name", ["Processing_Level", "List_Cw_Vnir", "List_Fwhm_Swir", "L2ScaleVnirMin", "L2ScaleSwirMax", "Epsg_Code",
                 "Product_ULcorner_easting", "Product_LRcorner_northing"]
    )  # fmt: skip
    def test_missing_attribute_is_named(self, changed, name):
        copy = changed(lambda file: file.attrs.pop(name))
        with pytest.raises(InputError, match=f"attribute '{name}' is missing") as caught:
            PrismaProduct(copy)
        assert caught.value.hint

    @pytest.mark.parametrize("name", [HCO, f"{DATA}/VNIR_Cube", f"{DATA}/SWIR_Cube"])
    def test_missing_dataset_is_named(self, changed, name):
        copy = changed(lambda file: file.pop(name))
        with pytest.raises(InputError, match=f"'{name}' is missing"):
            PrismaProduct(copy)

    @pytest.mark.parametrize(("factor", "shown"), [(1e-3, "0.407"), (100.0, "40700"), (np.nan, "nan")])
    def test_absurd_wavelengths(self, changed, factor, shown):
        def edit(file):
            for detector in ("Vnir", "Swir"):
                file.attrs[f"List_Cw_{detector}"] = file.attrs[f"List_Cw_{detector}"] * factor

        copy = changed(edit)
        with pytest.raises(InputError, match="not PRISMA's") as caught:
            PrismaProduct(copy)
        assert shown in caught.value.message

    def test_no_band_acquired(self, changed):
        def edit(file):
            for detector in ("Vnir", "Swir"):
                file.attrs[f"List_Cw_{detector}_Flags"] = 0 * file.attrs[f"List_Cw_{detector}_Flags"]

        copy = changed(edit)
        with pytest.raises(InputError, match="no band acquired"):
            PrismaProduct(copy)

    def test_lists_of_different_length(self, changed):
        def edit(file):
            file.attrs["List_Fwhm_Vnir"] = file.attrs["List_Fwhm_Vnir"][:-1]

        copy = changed(edit)
        with pytest.raises(InputError, match="66, 65 and 66 entries"):
            PrismaProduct(copy)

    def test_empty_scale(self, changed):
        def edit(file):
            file.attrs["L2ScaleVnirMax"] = 0.0

        copy = changed(edit)
        with pytest.raises(InputError, match="is not below"):
            PrismaProduct(copy)

    def test_transposed_cube(self, changed):
        def edit(file):
            cube = file[f"{DATA}/VNIR_Cube"][:]
            del file[f"{DATA}/VNIR_Cube"]
            file[f"{DATA}/VNIR_Cube"] = cube.transpose(0, 2, 1)

        copy = changed(edit)
        with pytest.raises(InputError, match=r"\(row, band, col\) with 66 bands"):
            PrismaProduct(copy)

    def test_window_outside(self, path):
        with PrismaProduct(path) as product, pytest.raises(UsageError, match="41 x 33"):
            product.read(Slice2D(0, ROWS + 1, 0, COLS))

    def test_failure_leaves_the_file_closed(self, changed):
        copy = changed(lambda file: file.attrs.pop("Epsg_Code"))
        with pytest.raises(InputError):
            PrismaProduct(copy)
        # HDF5 refuses to open a file for writing while the same process still reads it.
        with h5py.File(copy, "r+") as file:
            file.attrs["Epsg_Code"] = 32632
        with PrismaProduct(Path(copy)) as product:
            assert len(product.bands) == 230
