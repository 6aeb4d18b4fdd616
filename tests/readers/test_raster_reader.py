"""Rasters with wavelengths as hyperspectral products, plain ones as multispectral images."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from hsfuse.errors import InputError, UsageError
from hsfuse.grid import Slice2D
from hsfuse.readers.base import HyperspectralProduct, MultispectralProduct
from hsfuse.readers.raster.hsi import RasterHsi
from hsfuse.readers.raster.msi import RasterMsi
from hsfuse.spectral import SpectralResponse

CENTRES = np.array([450.0, 550.0, 650.0, 850.0, 1600.0, 2200.0])
WIDTHS = np.array([10.0, 11.0, 12.0, 13.0, 14.0, 15.0])
ROWS, COLS = 20, 24
FULL = Slice2D(0, ROWS, 0, COLS)
UTM = {"crs": CRS.from_epsg(32633), "transform": Affine(30, 0, 364095, 0, -30, 5809965)}


def numbers(bands=6, seed=3):
    return np.random.default_rng(seed).integers(100, 9000, (bands, ROWS, COLS)).astype(np.int16)


def write(path, values, *, tag=None, scales=None, descriptions=None, **profile):
    profile = UTM | profile
    with rasterio.open(
        path, "w", height=values.shape[1], width=values.shape[2], count=values.shape[0], dtype=values.dtype, **profile
    ) as file:
        file.write(values)
        if tag is not None:
            tag(file)
        if scales is not None:
            file.scales = (scales,) * values.shape[0]
        for index, text in enumerate(descriptions or [], start=1):
            file.set_band_description(index, text)
    return path


def imagery(file):
    for i, (centre, fwhm) in enumerate(zip(CENTRES, WIDTHS, strict=True), start=1):
        file.update_tags(i, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=f"{centre / 1000}", FWHM_UM=f"{fwhm / 1000}")


def band_items(unit, factor):
    def tag(file):
        for i, (centre, fwhm) in enumerate(zip(CENTRES, WIDTHS, strict=True), start=1):
            items = {"wavelength": centre * factor, "fwhm": fwhm * factor, "bbl": int(i != 5)}
            file.update_tags(i, **items, **({"wavelength_units": unit} if unit else {}))

    return tag


def envi_domain(file):
    file.update_tags(
        ns="ENVI",
        wavelength="{" + ", ".join(map(str, CENTRES)) + "}",
        wavelength_units="Nanometers",
        fwhm="{" + ", ".join(map(str, WIDTHS)) + "}",
        bbl="{1, 1, 1, 1, 0, 1}",
    )


@pytest.mark.parametrize(
    ("tag", "source", "has_bbl"),
    [
        (imagery, "IMAGERY metadata", False),
        (band_items("Nanometers", 1.0), "band metadata", True),
        (band_items("Micrometers", 1e-3), "band metadata", True),
        (band_items("", 1e-3), "band metadata", True),
        (band_items("", 1.0), "band metadata", True),
        (envi_domain, "dataset metadata", True),
    ],
)
def test_wavelengths_wherever_they_are(tmp_path, tag, source, has_bbl):
    with RasterHsi(write(tmp_path / "cube.tif", numbers(), tag=tag)) as product:
        assert isinstance(product, HyperspectralProduct)
        np.testing.assert_allclose(product.bands.centre_nm, CENTRES)
        np.testing.assert_allclose(product.bands.fwhm_nm, WIDTHS)
        assert product.info.attributes["wavelengths_from"] == source
        assert product.bands.good.tolist() == [True, True, True, True, not has_bbl, True]


def test_imagery_decides_and_is_completed(tmp_path):
    def tag(file):
        envi_domain(file)
        for i, centre in enumerate(CENTRES, start=1):
            file.update_tags(i, wavelength=centre + 77)
            file.update_tags(i, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=f"{centre / 1000}")

    with RasterHsi(write(tmp_path / "cube.tif", numbers(), tag=tag)) as product:
        np.testing.assert_allclose(product.bands.centre_nm, CENTRES)
        np.testing.assert_allclose(product.bands.fwhm_nm, WIDTHS)
        assert not product.bands.good[4]
        assert product.info.attributes["wavelengths_from"] == "dataset metadata", "its numbers are the finest"
        assert any("band metadata differ by up to 77 nm" in text for text in product.info.warnings)


def test_descriptions_with_a_unit(tmp_path):
    names = [f"B{i:03d} {nm:.1f} nm" for i, nm in enumerate(CENTRES)]
    with RasterHsi(write(tmp_path / "cube.tif", numbers(), descriptions=names)) as product:
        np.testing.assert_allclose(product.bands.centre_nm, CENTRES)
        assert np.all(product.bands.fwhm_nm > 0)


@pytest.mark.parametrize("name", ["cube.hdr", "cube.tif.hdr"])
def test_envi_header_beside_a_geotiff(tmp_path, name):
    path = write(tmp_path / "cube.tif", numbers())
    listed = ",\n  ".join(f"{nm / 1000:.4f}" for nm in CENTRES)
    (tmp_path / name).write_text(
        f"ENVI\nbands = 6\nwavelength units = Micrometers\nwavelength = {{\n  {listed} }}\n"
        "bbl = {1,1,1,1,1,0}\nreflectance scale factor = 10000\nacquisition time = 2022-07-24T10:20:30Z\n"
    )
    with RasterHsi(path) as product:
        np.testing.assert_allclose(product.bands.centre_nm, CENTRES)
        assert not product.bands.good[5]
        assert product.info.attributes["wavelengths_from"] == "ENVI header"
        assert product.info.warnings == ()
        assert product.info.start is not None
        assert product.info.start.hour == 10
        np.testing.assert_allclose(product.read(FULL), numbers() / 1e4, rtol=1e-6)


@pytest.mark.parametrize("open_header", [False, True])
def test_envi_cube(tmp_path, open_header):
    path = write(tmp_path / "cube.bil", numbers(), driver="ENVI", interleave="BIL")
    header = tmp_path / "cube.hdr"
    header.write_text(
        header.read_text()
        + "wavelength units = Nanometers\nwavelength = {" + ", ".join(map(str, CENTRES)) + "}\n"
        + "fwhm = {" + ", ".join(map(str, WIDTHS)) + "}\nreflectance scale factor = 10000\ndata ignore value = -999\n"
    )  # fmt: skip
    with RasterHsi(header if open_header else path) as product:
        np.testing.assert_allclose(product.bands.centre_nm, CENTRES)
        np.testing.assert_allclose(product.bands.fwhm_nm, WIDTHS)
        np.testing.assert_allclose(product.read(FULL), numbers() / 1e4, rtol=1e-6)
        assert product.info.warnings == ()


class TestOrder:
    def test_descending_and_unsorted_come_sorted(self, tmp_path):
        shuffled = np.random.default_rng(0).permutation(6)

        def tag(file):
            for i, band in enumerate(shuffled, start=1):
                file.update_tags(i, wavelength=CENTRES[band], wavelength_units="nm")

        values = numbers()
        with RasterHsi(write(tmp_path / "cube.tif", values[shuffled], tag=tag)) as product:
            assert product.bands.centre_nm.tolist() == CENTRES.tolist()
            np.testing.assert_allclose(product.read(FULL), values / 1e4, rtol=1e-6)
            np.testing.assert_allclose(product.read(FULL, [4, 0]), values[[4, 0]] / 1e4, rtol=1e-6)

    @pytest.mark.parametrize("descending", [False, True])
    def test_two_detectors_are_cut_at_one_wavelength(self, tmp_path, descending):
        vnir, swir = [800.0, 900.0, 940.0, 990.0], [910.0, 960.0, 1000.0]
        centres = [*vnir[::-1], *swir[::-1]] if descending else [*vnir, *swir]

        def tag(file):
            for i, centre in enumerate(centres, start=1):
                file.update_tags(i, wavelength=centre)

        with RasterHsi(write(tmp_path / "cube.tif", numbers(7), tag=tag)) as product:
            assert product.bands.centre_nm.tolist() == [800, 900, 940, 960, 1000]
            assert product.bands.detector == ("VNIR",) * 3 + ("SWIR",) * 2
            assert product.overlap_report.vnir_dropped_nm == (990.0,)
            assert product.overlap_report.swir_dropped_nm == (910.0,)

    def test_bands_without_wavelength_are_left_out(self, tmp_path):
        def tag(file):
            for i, centre in enumerate([0.0, *CENTRES[1:]], start=1):
                file.update_tags(i, wavelength=centre)

        with RasterHsi(write(tmp_path / "cube.tif", numbers(), tag=tag)) as product:
            assert len(product.bands) == 5
            assert product.bands.slot.tolist() == [1, 2, 3, 4, 5]
            assert any("wavelength 0" in warning for warning in product.info.warnings)


class TestScale:
    def test_gdal_scale_is_used_once(self, tmp_path):
        path = write(tmp_path / "cube.tif", numbers(), tag=imagery, scales=5e-5)
        (tmp_path / "cube.hdr").write_text("ENVI\nreflectance scale factor = 10000\n")
        with RasterHsi(path) as product:
            np.testing.assert_allclose(product.read(FULL), numbers() * 5e-5, rtol=1e-6)
            assert any("only the scale" in warning for warning in product.info.warnings)

    def test_integers_are_guessed_and_told(self, tmp_path):
        with RasterHsi(write(tmp_path / "cube.tif", numbers(), tag=imagery)) as product:
            np.testing.assert_allclose(product.read(FULL), numbers() / 1e4, rtol=1e-6)
            assert len(product.info.warnings) == 1
            assert "reflectance x 10000" in product.info.warnings[0]

    def test_floats_are_taken_as_they_are(self, tmp_path):
        values = (numbers() / 1e4).astype(np.float32)
        with RasterHsi(write(tmp_path / "cube.tif", values, tag=imagery)) as product:
            assert np.array_equal(product.read(FULL), values)
            assert product.info.warnings == ()


class TestNodata:
    def test_declared_value(self, tmp_path):
        values = numbers()
        values[:, :5] = -32768
        values[2, 10, 10] = -32768
        with RasterHsi(write(tmp_path / "cube.tif", values, tag=imagery, nodata=-32768)) as product:
            got = product.read(FULL)
            assert np.array_equal(np.isnan(got), values == -32768)
            expected = np.ones((ROWS, COLS), bool)
            expected[:5] = False
            assert np.array_equal(product.valid(FULL), expected)

    def test_nan(self, tmp_path):
        values = (numbers() / 1e4).astype(np.float32)
        values[:, 3, 4] = np.nan
        values[1, 7, 7] = np.inf
        with RasterHsi(write(tmp_path / "cube.tif", values, tag=imagery, nodata=np.nan)) as product:
            got = product.read(FULL)
            assert np.isnan(got[:, 3, 4]).all()
            assert np.isnan(got[1, 7, 7])
            assert np.count_nonzero(~product.valid(FULL)) == 1

    def test_without_declaration_empty_pixels_are_fill(self, tmp_path):
        values = numbers()
        values[:, :, :6] = 0
        values[3, 9, 9] = 0
        with RasterHsi(write(tmp_path / "cube.tif", values, tag=imagery)) as product:
            assert np.isnan(product.read(FULL, [1])[0, :, :6]).all()
            assert product.read(FULL)[3, 9, 9] == 0
            assert product.valid(FULL).sum() == ROWS * (COLS - 6)

    def test_mask_band(self, tmp_path):
        def tag(file):
            imagery(file)
            mask = np.full((ROWS, COLS), 255, np.uint8)
            mask[4:9] = 0
            file.write_mask(mask)

        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            path = write(tmp_path / "cube.tif", numbers(), tag=tag)
        with RasterHsi(path) as product:
            assert np.isnan(product.read(FULL)[:, 4:9]).all()
            assert product.valid(FULL).sum() == (ROWS - 5) * COLS


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_windows_are_cuts_of_the_whole(tmp_path, data):
    path = tmp_path / "cube.tif"
    if not path.exists():
        write(path, numbers(), tag=imagery, tiled=True, blockxsize=16, blockysize=16)
    row0, col0 = data.draw(st.integers(0, ROWS - 1)), data.draw(st.integers(0, COLS - 1))
    block = Slice2D(row0, data.draw(st.integers(row0 + 1, ROWS)), col0, data.draw(st.integers(col0 + 1, COLS)))
    bands = data.draw(st.lists(st.integers(0, 5), max_size=6))
    with RasterHsi(path) as product:
        want = (numbers() / 1e4)[bands][:, *block.slices]
        np.testing.assert_allclose(product.read(block, bands), want, rtol=1e-6)


class TestBadInput:
    def test_no_wavelengths(self, tmp_path):
        path = write(tmp_path / "cube.tif", numbers())
        with pytest.raises(InputError, match="names no wavelengths") as caught:
            RasterHsi(path)
        assert "wavelength" in caught.value.hint

    def test_absurd_wavelengths(self, tmp_path):
        def tag(file):
            for i in range(1, 7):
                file.update_tags(i, wavelength=1e6 * i)

        path = write(tmp_path / "cube.tif", numbers(), tag=tag)
        with pytest.raises(InputError, match=r"cube\.tif: The centre wavelengths are not plausible"):
            RasterHsi(path)

    @pytest.mark.parametrize(
        ("profile", "message", "hint"),
        [
            ({"crs": None}, "no map position", "Georeference"),
            ({"transform": Affine(30, 0, 0, 60, 0, 0)}, "no extent", "gdal_translate"),
            ({"transform": Affine(30, 0, 1e30, 0, -30, 5e6)}, "cannot be related", "gdal_edit"),
        ],
    )
    def test_unusable_grids(self, tmp_path, profile, message, hint):
        path = write(tmp_path / "cube.tif", numbers(), tag=imagery, **profile)
        with pytest.raises(InputError, match=message) as caught:
            RasterHsi(path)
        assert hint in caught.value.hint

    def test_missing_and_foreign_files(self, tmp_path):
        with pytest.raises(InputError, match="no such file"):
            RasterHsi(tmp_path / "nothing.tif")
        (tmp_path / "text.tif").write_text("not an image")
        with pytest.raises(InputError, match="GDAL cannot open"):
            RasterHsi(tmp_path / "text.tif")
        (tmp_path / "lonely.hdr").write_text("ENVI\n")
        with pytest.raises(InputError, match="no data file beside"):
            RasterHsi(tmp_path / "lonely.hdr")

    def test_damaged_image(self, tmp_path):
        path = write(tmp_path / "cube.tif", numbers(), tag=imagery, scales=1e-4, compress="deflate")
        with rasterio.open(path) as file:
            offset = int(file.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1))
        raw = bytearray(path.read_bytes())
        raw[offset : offset + 200] = b"\xff" * 200
        path.write_bytes(raw)
        with pytest.raises(InputError, match="damaged"), RasterHsi(path) as product:
            product.read(FULL)

    def test_window_outside(self, tmp_path):
        path = write(tmp_path / "cube.tif", numbers(), tag=imagery)
        with RasterHsi(path) as product, pytest.raises(UsageError, match="does not lie inside"):
            product.read(Slice2D(0, ROWS, 0, COLS + 1))


class TestMsi:
    def test_four_plain_bands(self, tmp_path):
        values = numbers(4).astype(np.uint16)
        path = write(tmp_path / "s2.tif", values, descriptions=["B02", "B03", "B04", "B08"])
        with RasterMsi(path) as product:
            assert isinstance(product, MultispectralProduct)
            assert product.band_names == ("B02", "B03", "B04", "B08")
            assert product.responses is None
            assert product.cloud(FULL) is None
            assert product.classes(FULL) is None
            np.testing.assert_allclose(product.read(FULL, [3, 1]), values[[3, 1]] / 1e4, rtol=1e-6)

    def test_responses_from_metadata(self, tmp_path):
        with RasterMsi(write(tmp_path / "msi.tif", numbers(), tag=imagery)) as product:
            assert product.responses is not None
            np.testing.assert_allclose([r.centre_nm for r in product.responses], CENTRES, atol=0.5)
            assert product.band_names[0] == "B1"

    def test_given_responses(self, tmp_path):
        path = write(tmp_path / "msi.tif", numbers(4))
        given_ones = [SpectralResponse.gaussian(f"R{i}", 500.0 + 50 * i, 30.0) for i in range(4)]
        with RasterMsi(path, responses=given_ones) as product:
            assert product.responses == tuple(given_ones)
        with pytest.raises(UsageError, match="3 spectral responses do not fit 4 bands"):
            RasterMsi(path, responses=given_ones[:3])

    @pytest.mark.parametrize(("count", "alpha"), [(5, 1), (4, 3)])
    def test_alpha_is_not_a_band(self, tmp_path, count, alpha):
        values = numbers(count).astype(np.uint16)
        values[alpha] = 65535
        values[alpha, :3] = 0
        photometric = "RGB" if count == 4 else "MINISBLACK"
        with RasterMsi(write(tmp_path / "a.tif", values, alpha="yes", photometric=photometric)) as product:
            assert len(product.band_names) == count - 1
            got = product.read(FULL)
            assert np.isnan(got[:, :3]).all()
            others = np.delete(values, alpha, axis=0)
            np.testing.assert_allclose(got[:, 3:], others[:, 3:] / 1e4, rtol=1e-6)

    @pytest.mark.parametrize("rim", [0, 3])
    def test_an_image_that_is_declared_as_alpha_is_a_band(self, tmp_path, rim):
        values = np.random.default_rng(0).integers(1, 200, (4, ROWS, COLS)).astype(np.uint8)
        values[:, :rim] = 0
        values[3, 10:20] = 0
        path = write(tmp_path / "nir.tif", values, photometric="RGB", alpha="yes")
        with rasterio.open(path) as file:
            assert file.colorinterp[3] == ColorInterp.alpha
        with RasterMsi(path) as product:
            assert len(product.band_names) == 4
            assert any("Band 4 of nir.tif" in text for text in product.info.warnings)
            got = product.read(FULL)
            assert np.isnan(got[:, :rim]).all()
            np.testing.assert_allclose(got[:, rim:], values[:, rim:] / 255, rtol=1e-6)


@pytest.mark.shared_data
def test_real_enmap_cube(shared_data):
    path = shared_data / "enmap_potsdam" / "enmap_l2a_potsdam.tif"
    with RasterHsi(path) as product, rasterio.open(path) as file:
        assert product.grid.crs == CRS.from_epsg(32633)
        assert product.grid.bounds.left == 364095
        assert len(product.bands) == 213
        assert np.all(np.diff(product.bands.centre_nm) > 0)
        assert (~product.bands.good).sum() == 6
        assert product.overlap_report.overlap_nm == pytest.approx((902.257, 993.083))
        block = Slice2D(60, 100, 30, 90)
        red = int(product.bands.nearest(665)[0])
        raw = file.read(int(product.bands.slot[red]) + 1, window=block.window)
        want = np.where(raw == -32768, np.nan, raw / 1e4)
        np.testing.assert_allclose(product.read(block, [red])[0], want, rtol=1e-6)
        assert product.valid(product.grid.full).mean() == pytest.approx(0.6, abs=0.03)


def test_band_names_that_are_not_in_utf8(tmp_path):
    path = write(tmp_path / "cube.bil", numbers(), driver="ENVI", interleave="BIL")
    header = tmp_path / "cube.hdr"
    entries = header.read_bytes().split(b"band names")[0] + b"band names = {blau, gr\xfcn, rot, nir, swir 1, swir 2}\n"
    header.write_bytes(entries + b"description = {Gr\xfc\xdfe}\nreflectance scale factor = 10000\n")
    with RasterMsi(path) as product:
        assert product.band_names == ("blau", "grün", "rot", "nir", "swir 1", "swir 2")
        np.testing.assert_allclose(product.read(FULL), numbers() / 1e4, rtol=1e-6)


def test_a_reference_system_without_a_place_on_earth(tmp_path):
    moon = CRS.from_wkt(
        'PROJCS["m",GEOGCS["m",DATUM["Moon",SPHEROID["Moon",1737400,0]],PRIMEM["x",0],UNIT["degree",0.0174532925199433]],'
        'PROJECTION["Transverse_Mercator"],PARAMETER["scale_factor",1],UNIT["metre",1]]'
    )
    try:
        with RasterMsi(write(tmp_path / "m.tif", numbers(), crs=moon)) as product:
            assert product.grid.shape == (ROWS, COLS)
    except InputError as error:
        assert "related to longitude and latitude" in error.message  # noqa: PT017 - PROJ's versions differ
