"""ENVI headers: the exact numbers, for the file that they belong to, in linear time."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from hsfuse.errors import InputError
from hsfuse.grid import Slice2D
from hsfuse.readers import open_hsi, open_msi
from hsfuse.readers.raster.envi_header import MAX_HEADER_BYTES, parse_header
from hsfuse.readers.raster.hsi import RasterHsi

SIZE, BANDS = 8, 40
FULL = Slice2D(0, SIZE, 0, SIZE)
CENTRES = 401.923 + 0.613 * np.arange(BANDS)
WIDTHS = np.where(np.arange(BANDS) % 2, 0.45, 0.5)
CUBE = np.random.default_rng(2).integers(800, 4000, (BANDS, SIZE, SIZE)).astype("<i2")


def listed(values, digits=4):
    return "{" + ", ".join(f"{value:.{digits}f}" for value in values) + "}"


def envi(folder, data, header, *, cube=CUBE, extra="", unit="nm", factor=1.0, centres=CENTRES):
    cube.tofile(folder / data)
    (folder / header).write_text(
        f"ENVI\nsamples = {cube.shape[2]}\nlines = {cube.shape[1]}\nbands = {len(cube)}\nheader offset = 0\n"
        "file type = ENVI Standard\ndata type = 2\ninterleave = bsq\nbyte order = 0\n"
        "map info = {UTM, 1, 1, 500000, 5000000, 30, 30, 33, North, WGS-84, units=Meters}\n"
        f"wavelength units = {unit}\nwavelength = {listed(centres * factor, 7)}\n"
        f"fwhm = {listed(WIDTHS * factor, 7)}\n{extra}",
        encoding="latin-1",
    )
    return folder / data


@pytest.mark.parametrize(("unit", "factor"), [("nm", 1.0), ("Nanometers", 1.0), ("Micrometers", 1e-3), ("", 1.0)])
def test_wavelengths_are_exact(tmp_path, unit, factor):
    # GDAL repeats them in micrometres with three decimals: neighbours would be equal, and widths 0.
    path = envi(tmp_path, "h.img", "h.hdr", unit=unit, factor=factor)
    with RasterHsi(path) as product:
        np.testing.assert_allclose(product.bands.centre_nm, CENTRES, atol=1e-3)
        np.testing.assert_allclose(product.bands.fwhm_nm, WIDTHS, atol=1e-3)
        assert not any("differ" in text for text in product.info.warnings)


def test_rounded_tags_yield_to_the_exact_list_of_the_same_file(tmp_path):
    path = tmp_path / "h.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=SIZE, width=SIZE, count=BANDS, dtype="int16", crs="EPSG:32633",
        transform=Affine(30, 0, 0, 0, -30, 0),
    ) as out:  # fmt: skip
        out.write(CUBE)
        for band, centre in enumerate(CENTRES, start=1):
            out.update_tags(band, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=f"{centre / 1000:.3f}", FWHM_UM="0.000")
            out.update_tags(band, wavelength=f"{centre:.4f}", wavelength_units="nm", fwhm=f"{WIDTHS[band - 1]:.2f}")
    with RasterHsi(path) as product:
        np.testing.assert_allclose(product.bands.centre_nm, CENTRES, atol=1e-3)
        np.testing.assert_allclose(product.bands.fwhm_nm, WIDTHS)


class TestBelonging:
    def test_a_header_of_its_own_beats_a_neighbours(self, tmp_path):
        own = envi(tmp_path, "q.dat", "q.dat.hdr", extra="reflectance scale factor = 10000\n")
        envi(tmp_path, "q.img", "q.hdr", cube=CUBE[:3], extra="reflectance scale factor = 1000\n", centres=CENTRES + 9)
        with open_hsi(own) as product:
            np.testing.assert_allclose(product.read(FULL), CUBE / 1e4, rtol=1e-6)
            np.testing.assert_allclose(product.bands.centre_nm, CENTRES, atol=1e-3)

    @pytest.mark.parametrize("same_shape", [False, True])
    def test_the_header_of_a_raw_file_is_not_a_geotiffs(self, tmp_path, same_shape):
        raw = CUBE if same_shape else CUBE[:5]
        envi(tmp_path, "site.img", "site.hdr", cube=raw, extra="reflectance scale factor = 1000\n")
        path = tmp_path / "site.tif"
        with rasterio.open(
            path, "w", driver="GTiff", height=SIZE, width=SIZE, count=BANDS, dtype="int16", crs="EPSG:32633",
            transform=Affine(10, 0, 0, 0, -10, 0),
        ) as out:  # fmt: skip
            out.write(CUBE)
        with open_msi(path) as product:
            assert product.responses is None
            np.testing.assert_allclose(product.read(FULL), CUBE / 1e4, rtol=1e-6)
            words = "belongs to site.img" if same_shape else "describes an image of 5 bands, not 40"
            assert any(f"site.hdr {words}" in text for text in product.info.warnings)

    @pytest.mark.parametrize(
        ("data", "header"),
        [
            ("PRS_HCO_FULL.envi", "PRS_HCO_FULL.hdr"),
            ("CUBE.DAT", "CUBE.HDR"),
            ("ang.rfl", "ang.hdr"),
            ("ang_rfl", "ang_rfl.hdr"),
            ("x.dat", "x.dat.hdr"),
            ("f230918t01p00r11_refl.v1", "f230918t01p00r11_refl.hdr"),
        ],
    )
    def test_data_files_of_any_suffix_and_case(self, tmp_path, data, header):
        path = envi(tmp_path, data, header)
        (tmp_path / f"{path.stem}.png").write_bytes(b"quicklook")
        (tmp_path / f"{path.stem}.txt").write_text("notes")
        for given in (path, tmp_path / header):
            with open_hsi(given) as product:
                assert product.info.name == data
                np.testing.assert_allclose(product.bands.centre_nm, CENTRES, atol=1e-3)

    def test_of_several_data_files_the_size_decides(self, tmp_path):
        envi(tmp_path, "s.dat", "s.hdr")
        (tmp_path / "s.img").write_bytes(b"\0" * 100)
        with open_hsi(tmp_path / "s.hdr") as product:
            assert product.info.name == "s.dat"

    def test_a_file_that_is_too_short_or_too_long(self, tmp_path):
        path = envi(tmp_path, "t.img", "t.hdr")
        whole = path.read_bytes()
        path.write_bytes(whole + b"\0" * 64)
        with open_hsi(path) as product:
            assert any("describes 5120 bytes of data, and t.img has 5184" in text for text in product.info.warnings)
        path.write_bytes(whole[:-200])
        with pytest.raises(InputError, match=r"too small|cut off"):
            open_hsi(path)

    @pytest.mark.parametrize("word", ["[[[[", "nan", "", "x1"])
    def test_a_position_that_is_no_number(self, tmp_path, word):
        """GDAL takes it for 0."""
        path, header = envi(tmp_path, "m.img", "m.hdr"), tmp_path / "m.hdr"
        text = header.read_text()
        changed = re.sub(r"(map info = \{[^,]*,)[^,]*,", lambda found: f"{found[1]} {word},", text, count=1)
        assert changed != text
        header.write_text(changed)
        with pytest.raises(InputError, match="where a number belongs") as caught:
            open_hsi(path)
        assert caught.value.exit_code == 3

    def test_samples_of_no_data_type(self, tmp_path):
        path, header = envi(tmp_path, "m.img", "m.hdr"), tmp_path / "m.hdr"
        header.write_text(header.read_text().replace("data type", "data tape"))
        with pytest.raises(InputError, match="does not say 'data type'"):
            open_hsi(path)


class TestLists:
    @pytest.mark.parametrize(
        ("flags", "bad"),
        [
            ("True, " * 30 + "False, " * 9 + "false", 10),
            ("1, " * 30 + "0, " * 9 + "0", 10),
            ("1.0, " * 39 + "0.0", 1),
            ("good, " * 39 + "bad", 1),
        ],
    )
    def test_bad_bands_in_words_and_numbers(self, tmp_path, flags, bad):
        with open_hsi(envi(tmp_path, "h.img", "h.hdr", extra=f"bbl = {{{flags}}}\n")) as product:
            assert np.count_nonzero(~product.bands.good) == bad

    def test_bad_bands_that_are_not_understood_are_named(self, tmp_path):
        with open_hsi(envi(tmp_path, "h.img", "h.hdr", extra=f"bbl = {{{'maybe, ' * 39}maybe}}\n")) as product:
            assert product.bands.good.all()
            assert any("by 'maybe', which was not understood" in text for text in product.info.warnings)

    @pytest.mark.parametrize("change", [-1, -20, 3])
    def test_lists_of_another_length(self, tmp_path, change):
        centres = np.resize(CENTRES, BANDS + change)
        with pytest.raises(InputError, match=rf"lists {BANDS + change} wavelengths for 40 bands"):
            open_hsi(envi(tmp_path, "h.img", "h.hdr", centres=centres))

    @pytest.mark.parametrize("word", ["nan", "inf", "n/a", "--"])
    def test_a_wavelength_that_is_no_number(self, tmp_path, word):
        path = envi(tmp_path, "h.img", "h.hdr")
        header = tmp_path / "h.hdr"
        header.write_text(header.read_text().replace(f"{CENTRES[5]:.7f}", word))
        with pytest.raises(InputError, match=f"band 6 the wavelength '{word}'|none for band 6"):
            open_hsi(path)

    @pytest.mark.parametrize("unit", ["Angstroms", "Wavenumber", "cm-1", "GHz", "Index", "m"])
    def test_units_that_are_no_wavelengths_of_light(self, tmp_path, unit):
        with pytest.raises(InputError, match=f"wavelengths in '{unit}', not in nanometres or micrometres"):
            open_hsi(envi(tmp_path, "h.img", "h.hdr", unit=unit))

    def test_equal_wavelengths(self, tmp_path):
        with pytest.raises(InputError, match="all 40 bands have the same wavelength"):
            open_hsi(envi(tmp_path, "h.img", "h.hdr", centres=np.full(BANDS, 550.0)))


class TestParsing:
    def test_values_over_several_lines_and_comments(self, tmp_path):
        path = tmp_path / "a.hdr"
        path.write_text(
            "ENVI\n; made = by hand\ndescription = {\n one = 1\n two }\n  Data   Type = 4\n"
            "bbl = { 1,\n 0 }\nopen = {1, 2\n"
        )
        entries = parse_header(path)
        assert entries == {
            "description": "{\none = 1\ntwo }",
            "data type": "4",
            "bbl": "{ 1,\n0 }",
            "open": "{1, 2}",
        }

    @pytest.mark.parametrize(
        "body", [" " * 300_000, "a" * 300_000, "x = {" * 60_000, "{" * 300_000, "=\n" * 150_000, "\n" * 300_000]
    )
    def test_time_is_linear_in_the_length(self, tmp_path, body):
        path = tmp_path / "a.hdr"
        path.write_text("ENVI\n" + body)
        start = time.process_time()
        parse_header(path)
        # A regular expression took minutes; the margin is wide enough for any machine.
        assert time.process_time() - start < 10.0

    def test_what_is_no_header(self, tmp_path):
        path = tmp_path / "a.hdr"
        assert parse_header(path) is None
        path.write_bytes(b"\x00\x01ENVI")
        assert parse_header(path) is None
        with path.open("wb") as out:
            out.write(b"ENVI\n")
            out.truncate(MAX_HEADER_BYTES + 10)
        with pytest.raises(InputError, match="more than 64 MB"):
            parse_header(path)
