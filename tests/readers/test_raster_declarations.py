"""What users say of rasters that do not say it themselves, names that are wavelengths, lists that cannot be meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from typer.testing import CliRunner

from hsfuse.cli.app import app
from hsfuse.errors import HsfuseError, InputError, UsageError
from hsfuse.grid import Slice2D
from hsfuse.readers import open_hsi
from hsfuse.readers.declarations import Declarations, read_wavelength_file

SIZE, BANDS = 24, 30
FULL = Slice2D(0, SIZE, 0, SIZE)
CENTRES = np.round(np.linspace(420.0, 900.0, BANDS), 1)
RNG = np.random.default_rng(4)
PLANES = RNG.random((3, SIZE, SIZE))
MIX = np.stack([np.exp(-0.5 * ((CENTRES - middle) / 120) ** 2) for middle in (450, 650, 850)])
TRUTH = 0.05 + 0.5 * np.einsum("kb,kyx->byx", MIX, PLANES)
"""Bands that resemble their neighbours, as spectra do."""
runner = CliRunner()


def write(path: Path, cube: np.ndarray = TRUTH, *, names: Any = None, items: Any = None, nodata: Any = None) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=SIZE, width=SIZE, count=len(cube), dtype="int16", nodata=nodata,
        crs="EPSG:32633", transform=Affine(30, 0, 500000, 0, -30, 5000000),
    ) as out:  # fmt: skip
        out.write(np.rint(cube * 1e4).astype(np.int16))
        for band in range(len(cube)):
            if names is not None:
                out.set_band_description(band + 1, names[band])
            for key, values in (items or {}).items():
                out.update_tags(band + 1, **{key: values[band]})
    return path


def listed(folder: Path, text: str) -> Path:
    path = folder / "wl.txt"
    path.write_text(text, encoding="utf-8")
    return path


class TestFile:
    @pytest.mark.parametrize(
        "text",
        [
            "\n".join(map(str, CENTRES)),
            "wavelength;fwhm\n" + "\n".join(f"{nm};5.5" for nm in CENTRES),
            "# made by hand\n" + "\n".join(f"{nm / 1000:.4f}, 0.0055" for nm in CENTRES),
            " ".join(map(str, CENTRES)),
        ],
        ids=["centres", "table", "micrometres", "one line"],
    )
    def test_wavelengths_of_a_raster_that_names_none(self, tmp_path: Path, text: str) -> None:
        path = write(tmp_path / "c.tif")
        with open_hsi(path, declared=Declarations(wavelengths=listed(tmp_path, text))) as product:
            np.testing.assert_allclose(product.bands.centre_nm, CENTRES, atol=1e-9)
            if len(text.splitlines()[-1].split()) == 2 or ";" in text:
                np.testing.assert_allclose(product.bands.fwhm_nm, 5.5, atol=1e-9)
            assert product.info.attributes["wavelengths_from"] == "wl.txt"
            np.testing.assert_allclose(product.read(FULL), TRUTH, atol=6e-5)

    def test_what_the_file_says_is_replaced_and_0_leaves_a_band_out(self, tmp_path: Path) -> None:
        path = write(tmp_path / "c.tif", items={"wavelength": CENTRES[::-1]})
        text = "\n".join(map(str, [0, *CENTRES[1:]]))
        with open_hsi(path, declared=Declarations(wavelengths=listed(tmp_path, text))) as product:
            assert product.bands.slot.tolist() == list(range(1, BANDS))

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "holds no wavelengths"),
            ("nm\nnm2\n400", "line 2 of .* is no list of numbers"),
            ("400 5\n410", "does not hold one or two numbers in each line"),
            ("400\n-3", "numbers that are no wavelengths"),
            ("400\nnan", "numbers that are no wavelengths"),
        ],
    )
    def test_files_that_are_no_lists(self, tmp_path: Path, text: str, words: str) -> None:
        with pytest.raises(UsageError, match=words) as caught:
            read_wavelength_file(listed(tmp_path, text))
        assert caught.value.hint

    def test_lists_of_another_length(self, tmp_path: Path) -> None:
        path = write(tmp_path / "c.tif")
        with pytest.raises(InputError, match="lists 3 wavelengths for 30 bands"):
            open_hsi(path, declared=Declarations(wavelengths=listed(tmp_path, "400\n410\n420")))
        with pytest.raises(UsageError, match="cannot be read"):
            open_hsi(path, declared=Declarations(wavelengths=tmp_path / "none.txt"))


class TestNumbers:
    def test_scale_offset_and_nodata(self, tmp_path: Path) -> None:
        cube = TRUTH.copy()
        cube[:, 3, 3] = 0.7777
        path = write(tmp_path / "c.tif", cube, items={"wavelength": CENTRES})
        with open_hsi(path, declared=Declarations(scale=5e-5, offset=0.01, nodata=7777)) as product:
            got = product.read(FULL)
            assert np.isnan(got[:, 3, 3]).all()
            assert not product.valid(FULL)[3, 3]
            got[:, 3, 3] = TRUTH[:, 3, 3] / 2 + 0.01
            np.testing.assert_allclose(got, TRUTH / 2 + 0.01, atol=6e-5)
            assert product.info.warnings == ()

    def test_what_cannot_be_meant(self, tmp_path: Path) -> None:
        path = write(tmp_path / "c.tif", items={"wavelength": CENTRES})
        with pytest.raises(InputError, match=r"with --scale 0\.01 and --offset 0, reflectance reaches"):
            open_hsi(path, declared=Declarations(scale=0.01))
        for flags, code, words in (
            (["--scale", "10000"], 2, "for reflectance x 10000 it is 0.0001"),
            (["--offset", "1e9"], 2, "offset"),
        ):
            done = runner.invoke(app, ["info", str(path), *flags])
            assert done.exit_code == code
            assert words in " ".join(done.output.split())

    def test_products_that_say_everything_themselves(self, tmp_path: Path) -> None:
        import package_samples as samples

        from hsfuse.grid import Grid

        grid = Grid.from_origin(rasterio.crs.CRS.from_epsg(32633), 500_000.0, 5_000_000.0, 30.0, 12, 12)
        samples.make_desis(tmp_path, np.full((60, 12, 12), 500, np.int16), grid)
        with pytest.raises(UsageError, match=r"--scale, --nodata cannot be given for .*DESIS"):
            open_hsi(tmp_path, declared=Declarations(scale=0.1, nodata=0))

    def test_commands_take_them(self, tmp_path: Path) -> None:
        path = write(tmp_path / "c.tif")
        text = listed(tmp_path, "\n".join(map(str, CENTRES)))
        done = runner.invoke(app, ["info", str(path), "--wavelengths", str(text), "--scale", "0.0001", "--json"])
        assert done.exit_code == 0, done.output
        facts = json.loads(done.stdout)
        assert (facts["kind"], facts["centre_nm"]) == ("hyperspectral", CENTRES.tolist())
        done = runner.invoke(app, ["bands", str(path), "--wavelengths", str(text), "-q", "--json"])
        assert done.exit_code == 0, done.output


class TestNames:
    @pytest.mark.parametrize(
        "name",
        ["{nm}", "Band {n} ({nm})", "b{n}_{nm}", "{um}", "wavelength {nm}"],
    )
    def test_wavelengths_without_a_unit(self, tmp_path: Path, name: str) -> None:
        names = [name.format(nm=nm, n=n, um=f"{nm / 1000:.4f}") for n, nm in enumerate(CENTRES, start=1)]
        with open_hsi(write(tmp_path / "c.tif", names=names)) as product:
            np.testing.assert_allclose(product.bands.centre_nm, CENTRES, atol=1e-9)
            assert any("without a unit" in text for text in product.info.warnings)

    @pytest.mark.parametrize(
        "names",
        [
            [f"Band {n}" for n in range(1, BANDS + 1)],
            [f"Band {n}" for n in range(400, 400 + BANDS)],
            [f"B{n} 2023" for n in range(BANDS)],
            ["band"] * BANDS,
        ],
    )
    def test_names_that_merely_count(self, tmp_path: Path, names: list[str]) -> None:
        with pytest.raises(InputError, match="names no wavelengths"):
            open_hsi(write(tmp_path / "c.tif", names=names))

    def test_center_wavelength_items(self, tmp_path: Path) -> None:
        items = {"center_wavelength": CENTRES / 1000, "full_width_half_max": np.full(BANDS, 0.006)}
        with open_hsi(write(tmp_path / "c.tif", items=items)) as product:
            np.testing.assert_allclose(product.bands.centre_nm, CENTRES)
            np.testing.assert_allclose(product.bands.fwhm_nm, 6.0)
        path = write(tmp_path / "d.tif")
        with rasterio.open(path, "r+") as file:
            file.update_tags(center_wavelength="{" + ",".join(map(str, CENTRES)) + "}")
        with open_hsi(path) as product:
            np.testing.assert_allclose(product.bands.centre_nm, CENTRES)


class TestListsThatCannotBeMeant:
    @pytest.mark.parametrize(
        ("items", "words"),
        [
            ({"wavelength": np.full(BANDS, 550.0)}, "all 30 bands have the same wavelength"),
            ({"wavelength": RNG.permutation(CENTRES)}, "the list is permuted"),
            ({"wavelength": CENTRES * 10}, "look like Angstrom or wavenumbers"),
            ({"wavelength": 1e7 / CENTRES}, "look like Angstrom or wavenumbers"),
            ({"wavelength": CENTRES * 10, "wavelength_units": ["Angstroms"] * BANDS}, "in 'Angstroms'"),
            ({"wavelength": 1e7 / CENTRES, "wavelength_units": ["Wavenumber"] * BANDS}, "in 'Wavenumber'"),
        ],
        ids=["equal", "permuted", "Angstrom", "wavenumbers", "named Angstrom", "named wavenumbers"],
    )
    def test_one_sentence_hint_and_code(self, tmp_path: Path, items: dict[str, Any], words: str) -> None:
        with pytest.raises(HsfuseError, match=words) as caught:
            open_hsi(write(tmp_path / "c.tif", items=items))
        assert caught.value.exit_code == 3
        assert caught.value.hint

    def test_bands_that_are_stored_in_disorder_are_sorted(self, tmp_path: Path) -> None:
        order = RNG.permutation(BANDS)
        with open_hsi(write(tmp_path / "c.tif", TRUTH[order], items={"wavelength": CENTRES[order]})) as product:
            np.testing.assert_allclose(product.bands.centre_nm, CENTRES)
            np.testing.assert_allclose(product.read(FULL), TRUTH, atol=6e-5)
