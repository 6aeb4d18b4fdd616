"""Finished products as other programs see them: rasterio/GDAL, SPy, rio-cogeo, and numpy on the bare bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import spectral
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rio_cogeo import cog_validate
from writers_support import CENTRES_NM, FWHM_NM, Cube, WriteCube

from hsfuse.grid import Grid
from hsfuse.spectral import BandTable
from hsfuse.writers import CubeWriter, SampleEncoding, WriteOptions
from hsfuse.writers.cog.layout import overview_factors

TIFFS = [
    {"dtype": "int16"},
    {"dtype": "int16", "format": "cog"},
    {"dtype": "uint16", "compress": "deflate"},
    {"dtype": "float32", "compress": "none"},
    {"dtype": "float32", "compress": "zstd", "format": "cog"},
    {"dtype": "float32", "compress": "lerc"},
    {"dtype": "float32", "compress": "lerc", "format": "cog"},
]
ALL = [*TIFFS, {"dtype": "int16", "format": "envi"}, {"dtype": "float32", "format": "envi"}]


def _name(options: dict[str, str]) -> str:
    return "out.img" if options.get("format") == "envi" else "out.tif"


@pytest.mark.parametrize("options", ALL, ids=lambda o: "-".join(o.values()))
def test_pixels_grid_and_nodata(
    tmp_path: Path, grid: Grid, cube: Cube, write_cube: WriteCube, options: dict[str, str]
) -> None:
    product = write_cube(tmp_path / _name(options), **options)
    encoding = SampleEncoding.of(options["dtype"])  # type: ignore[arg-type]
    with rasterio.open(product.path) as dataset:
        assert dataset.driver == ("ENVI" if product.format.name == "envi" else "GTiff")
        assert (dataset.crs, dataset.shape, dataset.count) == (grid.crs, grid.shape, 8)
        assert dataset.transform.almost_equals(grid.transform, precision=1e-9)
        stored = dataset.read()
        if encoding.is_integer:
            assert dataset.nodata == encoding.nodata
        else:
            assert np.isnan(dataset.nodata)
    if options.get("compress") != "lerc":
        np.testing.assert_array_equal(stored, encoding.encode(cube))
    tolerance = {"float32": 0.0, "lerc": 1.001e-4}.get(options.get("compress", options["dtype"]), 0.51e-4)
    expected = np.maximum(cube, 0.0) if options["dtype"] == "uint16" else cube
    np.testing.assert_allclose(product.read_rows(0, 300), expected, rtol=0, atol=max(tolerance, 1e-7))
    np.testing.assert_allclose(
        product.read_rows(31, 100, [5, 0]), expected[[5, 0], 31:131], rtol=0, atol=max(tolerance, 1e-7)
    )
    leftovers = sorted(item.name for item in tmp_path.iterdir())
    assert leftovers == sorted([product.path.name, *(s.name for s in product.sidecars)])


@pytest.mark.parametrize("options", TIFFS, ids=lambda o: "-".join(o.values()))
def test_geotiff_says_its_wavelengths_everywhere(
    tmp_path: Path, write_cube: WriteCube, options: dict[str, str]
) -> None:
    product = write_cube(tmp_path / "out.tif", **options)
    with rasterio.open(product.path) as dataset:
        for index in range(8):
            imagery = dataset.tags(index + 1, ns="IMAGERY")
            assert float(imagery["CENTRAL_WAVELENGTH_UM"]) == pytest.approx(CENTRES_NM[index] / 1000, abs=1e-9)
            assert float(imagery["FWHM_UM"]) == pytest.approx(FWHM_NM[index] / 1000, abs=1e-9)
            items = dataset.tags(index + 1)
            assert float(items["wavelength"]) == pytest.approx(CENTRES_NM[index])
            assert items["wavelength_units"] == "Nanometers"
            assert float(items["fwhm"]) == pytest.approx(FWHM_NM[index])
            assert items["bbl"] == ("0" if index == 7 else "1")
        assert dataset.descriptions[4] == "B005 705.3 nm"
        # GDAL's copy to a COG keeps no further domain of the dataset: what they hold stands among the items.
        is_cog = options.get("format") == "cog"
        envi = dataset.tags(ns=None if is_cog else "ENVI")
        assert [float(v) for v in envi["wavelength"].strip("{}").split(",")] == pytest.approx(list(CENTRES_NM))
        assert envi["wavelength_units"] == "Nanometers"
        assert envi["bbl"] == "{1, 1, 1, 1, 1, 1, 1, 0}"
        # One scale only: GDAL's own; the header's factor would be applied on top of it.
        assert "reflectance_scale_factor" not in envi
        assert set(dataset.scales) == ({1.0} if options["dtype"] == "float32" else {1e-4})
        assert set(dataset.offsets) == {0.0}
        assert dataset.colorinterp[3] == ColorInterp.red
        assert dataset.colorinterp[2] == ColorInterp.green
        assert dataset.colorinterp[1] == ColorInterp.blue
        assert dataset.interleaving.value == "BAND"
        tags = dataset.tags()
        assert json.loads(tags["HSFUSE_CONFIG"]) == {"bands": "8", "seed": 0}
        assert json.loads(tags["HSFUSE_INPUTS"])[0]["name"] == "PRS_L2D_x.he5"
        assert (tags["HSFUSE_METHOD"], tags["HSFUSE_IDENTITY"]) == ("glp", "1234abcd")
        assert tags["TIFFTAG_SOFTWARE"].startswith("hsfuse ")
        assert "TIFFTAG_DATETIME" not in tags
        assert dataset.tags(ns=None if is_cog else "IMAGERY")["ACQUISITIONDATETIME"] == "2024-04-02T10:28:37.000Z"
    assert not (tmp_path / "out.hdr").exists(), "an ENVI header cannot describe the tiles of a TIFF"


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_cog_is_valid_and_its_overviews_ignore_nodata(
    tmp_path: Path, bands: BandTable, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setattr("hsfuse.writers.cog.TILE_PX", 256)
    grid = Grid.from_origin(CRS.from_epsg(32633), 500000.0, 5000000.0, 10.0, 700, 600)
    data = np.full((2, 700, 600), 0.2, dtype=np.float32)
    data[1] = 0.4
    data[:, :, 1::2] = np.nan  # every average sees two samples and two gaps
    options = WriteOptions(format="cog", dtype=dtype)  # type: ignore[arg-type]
    with CubeWriter(tmp_path / "c.tif", grid, bands.take([2, 3]), options, identity="i", provenance={}) as writer:
        writer.write_rows(0, data)
        product = writer.finish()
    valid, errors, warnings = cog_validate(product.path, strict=True)
    assert valid, (errors, warnings)
    with rasterio.open(product.path) as dataset:
        assert dataset.overviews(1) == [2, 4]
    with rasterio.open(product.path, overview_level=0) as overview:
        means = overview.read() * (1e-4 if dtype == "int16" else 1.0)
    np.testing.assert_allclose(
        means[:, 5:-5, 5:-5], np.array([0.2, 0.4])[:, None, None] + np.zeros((2, 340, 290)), atol=2e-4
    )


@pytest.mark.parametrize(("height", "width", "expected"), [(512, 512, []), (513, 100, [2]), (3640, 3720, [2, 4, 8])])
def test_overviews_go_down_to_one_tile(height: int, width: int, expected: list[int]) -> None:
    assert overview_factors(height, width, 512) == expected


@pytest.mark.filterwarnings("ignore:Image data contains NaN")
@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
def test_envi_opens_in_spy_and_as_bare_bytes(
    tmp_path: Path, grid: Grid, cube: Cube, write_cube: WriteCube, dtype: str
) -> None:
    product = write_cube(tmp_path / "out.img", dtype=dtype)
    encoding = SampleEncoding.of(dtype)  # type: ignore[arg-type]
    expected = encoding.encode(cube)

    raw = np.fromfile(product.path, dtype=encoding.dtype).reshape(300, 8, 290)
    np.testing.assert_array_equal(raw.transpose(1, 0, 2), expected)

    image = spectral.open_image(str(tmp_path / "out.hdr"))
    assert image.shape == (300, 290, 8)
    assert image.bands.centers == pytest.approx(list(CENTRES_NM))
    assert image.bands.bandwidths == pytest.approx(list(FWHM_NM))
    assert image.bands.band_unit == "Nanometers"
    assert image.scale_factor == encoding.scale
    assert [int(flag) for flag in image.metadata["bbl"]] == [1] * 7 + [0]
    assert image.metadata["default bands"] == ["4", "3", "2"]
    assert image.metadata["acquisition time"].startswith("2024-04-02")
    # SPy divides by the reflectance scale factor when it loads.
    loaded = np.asarray(image.load())[250, 200]
    np.testing.assert_allclose(loaded, np.maximum(cube[:, 250, 200], 0), atol=1e-4)

    with rasterio.open(product.path) as dataset:
        assert set(dataset.scales) == ({1.0} if dtype == "float32" else {1e-4}), "GDAL scales by the gain values"
        assert dataset.tags(ns="ENVI")["reflectance_scale_factor"] == ("1" if dtype == "float32" else "10000")
        assert dataset.tags(3)["wavelength"] == "560.2"


@pytest.mark.parametrize("epsg", [32632, 32733, 25833, 3035, 4326])
def test_envi_header_keeps_the_reference_system(tmp_path: Path, bands: BandTable, epsg: int) -> None:
    grid = Grid.from_origin(CRS.from_epsg(epsg), 12.25, 48.5, 0.0001 if epsg == 4326 else 10.0, 4, 5)
    with CubeWriter(tmp_path / "o.img", grid, bands, WriteOptions(), identity="i", provenance={}) as writer:
        writer.write_rows(0, np.zeros((8, 4, 5), np.float32))
        product = writer.finish()
    with rasterio.open(product.path) as dataset:
        assert dataset.crs.to_epsg(confidence_threshold=20) == epsg
        assert dataset.transform.almost_equals(grid.transform, precision=1e-12)
    info = spectral.open_image(str(tmp_path / "o.hdr")).metadata["map info"]
    assert [float(v) for v in info[1:7]] == pytest.approx([1, 1, 12.25, 48.5, grid.pixel_m, grid.pixel_m])
    if epsg // 100 in (326, 327):
        assert info[0] == "UTM"
        assert info[7:9] == [str(epsg % 100), "North" if epsg < 32700 else "South"]


@pytest.mark.parametrize("name", ["out.tif", "out.img"])
def test_stac_item_describes_the_cube(tmp_path: Path, grid: Grid, write_cube: WriteCube, name: str) -> None:
    product = write_cube(tmp_path / name)
    item = json.loads((tmp_path / f"{name}.stac.json").read_text())
    assert item["type"] == "Feature"
    assert item["properties"]["datetime"] == "2024-04-02T10:28:37.000Z"
    asset = item["assets"]["cube"]
    assert asset["href"] == f"./{product.path.name}"
    for listed in (asset["eo:bands"], item["properties"]["eo:bands"]):
        assert [b["center_wavelength"] for b in listed] == pytest.approx(list(CENTRES_NM / 1000))
        assert [b["full_width_half_max"] for b in listed] == pytest.approx(list(FWHM_NM / 1000))
    assert asset["raster:bands"][0] == {
        "data_type": "int16", "nodata": -32768, "scale": 1e-4, "offset": 0.0, "sampling": "area",
        "spatial_resolution": 10.0,
    }  # fmt: skip
    assert len(asset["raster:bands"]) == 8
    assert item["properties"]["proj:epsg"] == 32632
    assert item["properties"]["proj:shape"] == [300, 290]
    left, bottom, right, top = item["bbox"]
    assert 9.7 < left < right < 9.8
    assert 53.6 < bottom < top < 53.8
    assert item["links"] == [{"rel": "derived_from", "href": "./PRS_L2D_x.he5", "title": "PRS_L2D_x.he5"}]
    assert item["properties"]["hsfuse:method"] == "glp"


def test_inputs_kept_by_role_are_linked_too(tmp_path: Path, grid: Grid, bands: BandTable) -> None:
    record = {"inputs": {"hsi": {"name": "a.he5"}, "msi": {"name": "b.SAFE"}}, "score": float("nan")}
    with CubeWriter(tmp_path / "o.img", grid, bands, WriteOptions(), identity="i", provenance=record) as writer:
        writer.write_rows(0, np.zeros((8, *grid.shape), np.float32))
        writer.finish()
    item = json.loads((tmp_path / "o.img.stac.json").read_text())
    assert [link["title"] for link in item["links"]] == ["a.he5", "b.SAFE"]
    assert item["properties"]["hsfuse:score"] is None


def test_description_cannot_break_the_header(tmp_path: Path, bands: BandTable) -> None:
    grid = Grid.from_origin(CRS.from_epsg(32632), 500000.0, 5000000.0, 10.0, 3, 4)
    text = "curly {braces}\nand a second = line"
    with CubeWriter(
        tmp_path / "o.img", grid, bands, WriteOptions(), identity="i", provenance={"note": text}, description=text
    ) as writer:
        writer.write_rows(0, np.zeros((8, 3, 4), np.float32))
        writer.finish()
    image = spectral.open_image(str(tmp_path / "o.hdr"))
    assert image.bands.centers == pytest.approx(list(CENTRES_NM))
    assert image.metadata["hsfuse note"] == "curly (braces) and a second = line"
