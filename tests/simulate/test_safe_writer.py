"""The SAFE writer, seen by GDAL's own Sentinel-2 driver, plain XML parsing and rasterio."""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS

from hsfuse.errors import OutputError, UsageError
from hsfuse.grid import Grid, Slice2D
from hsfuse.simulate.safe_names import mgrs_tile
from hsfuse.simulate.sentinel2 import write_safe

GRID = Grid.from_origin(CRS.from_epsg(32632), 600_000, 5_000_040, 10, 60, 84)
BANDS = ("B02", "B03", "B04", "B08")


def _bands(shape: tuple[int, int] = GRID.shape, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {band: rng.integers(-500, 7000, shape) / 10_000 for band in BANDS}


def _dn(product: Path, band: str) -> np.ndarray:
    with rasterio.open(next(product.rglob(f"*_{band}*.jp2"))) as file:
        return file.read(1)


def _text(path: Path, tag: str) -> str:
    return next(element.text for element in ET.parse(path).iter() if element.tag.rsplit("}", 1)[-1] == tag)


def test_bands_survive_unchanged_and_lie_in_the_right_place(tmp_path: Path) -> None:
    bands = _bands()
    product = write_safe(tmp_path, grid=GRID, reflectance=bands)
    for band in BANDS:
        path = next(product.rglob(f"*_{band}_10m.jp2"))
        assert path.parent.name == "R10m"
        with rasterio.open(path) as file:
            assert file.driver == "JP2OpenJPEG"
            assert file.dtypes == ("uint16",)
            assert file.crs == GRID.crs
            assert file.transform == GRID.transform
            np.testing.assert_array_equal(file.read(1), np.rint(bands[band] * 10_000 + 1000))


def test_gdal_recognises_the_product(tmp_path: Path) -> None:
    scl = np.full((30, 42), 4, np.uint8)
    product = write_safe(tmp_path, grid=GRID, reflectance=_bands(), scl=scl)
    with rasterio.open(f"SENTINEL2_L2A:{product}/MTD_MSIL2A.xml:10m:EPSG_32632") as file:
        assert file.shape == GRID.shape
        assert file.transform == GRID.transform
        index = {file.tags(i)["BANDNAME"]: i for i in file.indexes}
        assert {"B2", "B3", "B4", "B8"} <= set(index)
        for band in BANDS:
            np.testing.assert_array_equal(file.read(index[band.replace("B0", "B")]), _dn(product, band))
        assert file.tags()["PROCESSING_BASELINE"] == "05.09"
        assert file.tags()["DATATAKE_1_SPACECRAFT_NAME"] == "Sentinel-2A"


def test_gdal_recognises_an_l1c_product(tmp_path: Path) -> None:
    product = write_safe(tmp_path, grid=GRID, reflectance=_bands(), level="L1C", baseline="02.09")
    with rasterio.open(f"SENTINEL2_L1C:{product}/MTD_MSIL1C.xml:10m:EPSG_32632") as file:
        assert file.shape == GRID.shape
        assert file.count == 4


def test_names_follow_the_standard(tmp_path: Path) -> None:
    moment = datetime(2024, 2, 29, 10, 1, 2, tzinfo=UTC)
    settings = {"grid": GRID, "reflectance": _bands(), "sensing_time": moment, "relative_orbit": 7}
    compact = write_safe(tmp_path, spacecraft="Sentinel-2C", baseline="05.11", tile_id="T32TPQ", **settings)
    assert compact.name == "S2C_MSIL2A_20240229T100102_N0511_R007_T32TPQ_20240229T140102.SAFE"
    assert next(compact.rglob("*B02*.jp2")).name == "T32TPQ_20240229T100102_B02_10m.jp2"
    l1c = write_safe(tmp_path, level="L1C", **settings)
    assert next(l1c.rglob("*B02*.jp2")).name == "T32TPQ_20240229T100102_B02.jp2"
    old = write_safe(tmp_path, level="L1C", naming="old", baseline="02.02", **settings)
    assert old.name == "S2A_OPER_PRD_MSIL1C_PDMC_20240229T140102_R007_V20240229T100102_20240229T100102.SAFE"
    assert (old / "S2A_OPER_MTD_SAFL1C_PDMC_20240229T140102_R007_V20240229T100102_20240229T100102.xml").is_file()
    assert next(old.rglob("*B02.jp2")).name.startswith("S2A_OPER_MSI_L1C_TL_SGS__20240229T140102_A")


@pytest.mark.parametrize(
    ("epsg", "left", "top", "name"),
    [
        (32646, 499_980, 3_100_020, "T46RER"),
        (32601, 300_000, 7_400_040, "T01WCP"),
        (32633, 499_980, 8_900_040, "T33XWJ"),
        (32722, 199_980, 5_900_020, "T22HBD"),
    ],
)
def test_tile_names_of_real_tiles(epsg: int, left: float, top: float, name: str) -> None:
    assert mgrs_tile(Grid.from_origin(CRS.from_epsg(epsg), left, top, 10, 10_980, 10_980)) == name


def test_nodata_negative_and_saturated_samples(tmp_path: Path) -> None:
    bands = _bands()
    bands["B02"][0, :5] = [np.nan, -0.05, -0.5, 9.9, np.inf]
    product = write_safe(tmp_path, grid=GRID, reflectance=bands)
    # Data never become 0, which means nodata, however dark they are.
    assert _dn(product, "B02")[0, :5].tolist() == [0, 500, 1, 65535, 65535]


def test_offset_is_in_the_metadata_from_baseline_4_on_only(tmp_path: Path) -> None:
    new = write_safe(tmp_path / "new", grid=GRID, reflectance=_bands(), baseline="04.00")
    old = write_safe(tmp_path / "old", grid=GRID, reflectance=_bands(), baseline="03.01")
    assert _text(new / "MTD_MSIL2A.xml", "BOA_ADD_OFFSET") == "-1000"
    assert "BOA_ADD_OFFSET" not in (old / "MTD_MSIL2A.xml").read_text(encoding="utf-8")
    assert (_dn(new, "B03").astype(int) - _dn(old, "B03")).max() == 1000
    forced = write_safe(tmp_path / "forced", grid=GRID, reflectance=_bands(), baseline="03.01", offset=-1000)
    np.testing.assert_array_equal(_dn(forced, "B03"), _dn(new, "B03"))


def test_functions_and_arrays_give_the_same_product(tmp_path: Path) -> None:
    grid = Grid.from_origin(GRID.crs, 600_000, 5_000_040, 10, 1300, 20)
    bands = _bands(grid.shape)
    asked: list[Slice2D] = []

    def blue(block: Slice2D) -> np.ndarray:
        asked.append(block)
        return bands["B02"][block.slices]

    arrays = write_safe(tmp_path / "a", grid=grid, reflectance=bands)
    strips = write_safe(tmp_path / "f", grid=grid, reflectance=bands | {"B02": blue})
    np.testing.assert_array_equal(_dn(arrays, "B02"), _dn(strips, "B02"))
    rows = [row for block in asked for row in range(block.row0, block.row1)]
    assert rows == list(range(1300)), "each row is asked for once, from the top"
    assert len(asked) > 1


def test_data_inside_a_larger_tile(tmp_path: Path) -> None:
    tile = Grid.from_origin(GRID.crs, 599_960, 5_000_100, 10, 200, 160)
    scl = np.full((30, 42), 4, np.uint8)
    bands = _bands() | {"B8A": np.full((30, 42), 0.25)}
    product = write_safe(tmp_path, grid=GRID, tile=tile, reflectance=bands, scl=scl, tci=True)
    dn, inside = _dn(product, "B04"), GRID.block_in(tile)
    assert dn.shape == tile.shape
    np.testing.assert_array_equal(dn[inside.slices], np.rint(bands["B04"] * 10_000 + 1000))
    dn[inside.slices] = 0
    assert not dn.any()
    coarse = _dn(product, "B8A")
    assert coarse.shape == (100, 80)
    assert (coarse[3:33, 2:44] == 3500).all()
    assert (coarse > 0).sum() == 30 * 42
    share = float(_text(next(product.rglob("MTD_TL.xml")), "NODATA_PIXEL_PERCENTAGE"))
    assert share == pytest.approx(100 * (1 - 60 * 84 / (200 * 160)), abs=1e-4)
    with rasterio.open(next(product.rglob("*TCI_10m.jp2"))) as file:
        colours = file.read()
    assert colours.shape == (3, 200, 160)
    assert (colours[0] > 0).sum() == 60 * 84


def test_metadata_list_exactly_the_files_that_exist(tmp_path: Path) -> None:
    bands = _bands() | {"B11": np.full((30, 42), 0.2)}
    product = write_safe(tmp_path, grid=GRID, reflectance=bands, scl=np.zeros((30, 42), np.uint8))
    root = ET.parse(product / "MTD_MSIL2A.xml")
    listed = {f"{element.text}.jp2" for element in root.iter("IMAGE_FILE")}
    assert listed == {path.relative_to(product).as_posix() for path in product.rglob("*.jp2")}
    manifest = ET.parse(product / "manifest.safe")
    for stream in manifest.iter("byteStream"):
        path = product / stream.find("fileLocation").get("href")
        assert path.stat().st_size == int(stream.get("size"))
        assert hashlib.sha3_256(path.read_bytes()).hexdigest().upper() == stream.find("checksum").text
    files = [path for path in product.rglob("*") if path.is_file()]
    assert len(list(manifest.iter("byteStream"))) == len(files) - 1
    assert not list(product.rglob("*.aux.xml"))


def test_spectral_responses_in_the_metadata(tmp_path: Path) -> None:
    product = write_safe(tmp_path / "t", grid=GRID, reflectance=_bands(), spacecraft="Sentinel-2B")
    entries = {e.get("physicalBand"): e for e in ET.parse(product / "MTD_MSIL2A.xml").iter("Spectral_Information")}
    assert float(entries["B8"].find("Wavelength/CENTRAL").text) == pytest.approx(832.9, abs=0.3)
    values = entries["B8"].find("Spectral_Response/VALUES").text.split()
    first, last = (int(entries["B8"].find(f"Wavelength/{tag}").text) for tag in ("MIN", "MAX"))
    assert len(values) == last - first + 1
    bare = write_safe(tmp_path / "n", grid=GRID, reflectance=_bands(), responses=[])
    assert "Spectral_Information" not in (bare / "MTD_MSIL2A.xml").read_text(encoding="utf-8")


def test_nothing_is_left_when_a_band_fails(tmp_path: Path) -> None:
    def broken(block: Slice2D) -> np.ndarray:
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        write_safe(tmp_path, grid=GRID, reflectance=_bands() | {"B08": broken})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_product_is_replaced_only_on_request(tmp_path: Path) -> None:
    product = write_safe(tmp_path, grid=GRID, reflectance=_bands())
    with pytest.raises(OutputError, match="exists already"):
        write_safe(tmp_path, grid=GRID, reflectance=_bands(seed=5))
    again = write_safe(tmp_path, grid=GRID, reflectance=_bands(seed=5), overwrite=True)
    assert again == product
    np.testing.assert_array_equal(_dn(again, "B02"), np.rint(_bands(seed=5)["B02"] * 10_000 + 1000))
    assert list(tmp_path.iterdir()) == [product]


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    lonely = {"B02": np.zeros(GRID.shape)}
    with pytest.raises(UsageError, match="B03, B04, B08 are missing"):
        write_safe(tmp_path, grid=GRID, reflectance=lonely)
    with pytest.raises(UsageError, match="B10"):
        write_safe(tmp_path, grid=GRID, reflectance=_bands() | {"B10": np.zeros((10, 14))})
    with pytest.raises(UsageError, match="10 m grid in a UTM zone"):
        write_safe(tmp_path, grid=Grid.from_origin(CRS.from_epsg(3035), 0, 0, 10, 60, 84), reflectance=_bands())
    with pytest.raises(UsageError, match="10 m grid"):
        write_safe(tmp_path, grid=GRID.coarsened(2), reflectance=_bands((30, 42)))
    with pytest.raises(UsageError, match="Sentinel-2Z"):
        write_safe(tmp_path, grid=GRID, reflectance=_bands(), spacecraft="Sentinel-2Z")
    with pytest.raises(UsageError, match="B08 is 3 x 4 pixels, not 60 x 84"):
        write_safe(tmp_path, grid=GRID, reflectance=_bands() | {"B08": np.zeros((3, 4))})
    shifted = Grid.from_origin(GRID.crs, 599_990, 5_000_100, 10, 200, 160)
    with pytest.raises(UsageError, match="inside the tile"):
        write_safe(tmp_path, grid=GRID, tile=shifted, reflectance=_bands())
    in_the_way = tmp_path / "file"
    in_the_way.write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="cannot be written"):
        write_safe(in_the_way, grid=GRID, reflectance=_bands())
