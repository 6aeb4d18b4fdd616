"""Product and tile metadata: real ones of four baselines, and damaged ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rasterio.crs import CRS
from safe_samples import GRID, copy_writable, edit_xml, make_safe

from hsfuse.errors import InputError
from hsfuse.grid import Grid
from hsfuse.readers.sentinel2.archive import SafeArchive
from hsfuse.readers.sentinel2.metadata import SafeMetadata, image_key, read_safe_metadata
from hsfuse.spectral import SpectralResponse


def _metadata(path: Path) -> SafeMetadata:
    archive = SafeArchive(path)
    try:
        return read_safe_metadata(archive)
    finally:
        archive.close()


REAL = {
    "S2A_MSIL1C_20210908T042701_N0301_R133_T46RER_20210908T070248": {
        "level": "L1C", "craft": "Sentinel-2A", "baseline": "03.01", "offset": 0.0, "epsg": 32646,
        "corner": (499_980, 3_100_020), "sun": 26.493, "view_b08": 10.506, "cloud": 88.2972, "tile": "T46RER",
    },
    "S2A_MSIL2A_20230625T234621_N0509_R073_T01WCP_20230626T022157": {
        "level": "L2A", "craft": "Sentinel-2A", "baseline": "05.09", "offset": -1000.0, "epsg": 32601,
        "corner": (300_000, 7_400_040), "cloud": 15.0479, "tile": "T01WCP",
    },
    "S2B_MSIL2A_20220413T150759_N0400_R025_T33XWJ_20220414T082126": {
        "level": "L2A", "craft": "Sentinel-2B", "baseline": "04.00", "offset": -1000.0, "epsg": 32633,
        "corner": (499_980, 8_900_040), "cloud": 98.9442, "tile": "T33XWJ",
    },
    "esa_S2B_MSIL2A_20210122T133229_N0214_R081_T22HBD_20210122T155500": {
        "level": "L2A", "craft": "Sentinel-2B", "baseline": "02.14", "offset": 0.0, "epsg": 32722,
        "corner": (199_980, 5_900_020), "sun": 32.371, "view_b08": 7.156, "cloud": 0.4478, "tile": "T22HBD",
    },
}  # fmt: skip


@pytest.mark.shared_data
@pytest.mark.parametrize("name", REAL)
def test_real_metadata(name: str, shared_data: Path) -> None:
    expected = REAL[name]
    found = _metadata(shared_data / "sentinel2" / "safe_metadata" / f"{name}.SAFE")
    assert (found.level, found.spacecraft, found.baseline) == (
        expected["level"],
        expected["craft"],
        expected["baseline"],
    )
    assert set(found.offsets.values()) == {expected["offset"]}
    assert (found.quantification, found.nodata_dn, found.saturated_dn) == (10_000, 0, 65_535)
    assert found.cloud_percent == pytest.approx(expected["cloud"], abs=1e-4)
    (tile,) = found.granules
    assert tile.tile_id == expected["tile"]
    crs = CRS.from_epsg(expected["epsg"])
    for resolution, side in ((10, 10_980), (20, 5_490), (60, 1_830)):
        assert tile.grids[resolution] == Grid.from_origin(crs, *expected["corner"], resolution, side, side)
    assert f"{tile.sensing_time:%Y%m%d}" in name
    if "sun" in expected:
        assert tile.sun_zenith_deg == pytest.approx(expected["sun"], abs=1e-3)
        assert tile.view_zenith_deg["B08"] == pytest.approx(expected["view_b08"], abs=1e-3)
    assert len(tile.view_zenith_deg) == 13
    assert len(found.responses) == 13


@pytest.mark.shared_data
@pytest.mark.parametrize("name", REAL)
def test_responses_of_real_metadata_agree_with_the_published_ones(name: str, shared_data: Path) -> None:
    found = _metadata(shared_data / "sentinel2" / "safe_metadata" / f"{name}.SAFE")
    for band, own in found.responses.items():
        path = shared_data / "srf" / found.spacecraft / "MSI" / f"band_{band[1:].lstrip('0')}"
        wavelength, response = np.loadtxt(path, skiprows=1, ndmin=2).T
        published = SpectralResponse(band, wavelength, response)
        # The published table is version 3.0, the products carry 4.0: they differ by a few tenths of a nanometre.
        assert own.centre_nm == pytest.approx(published.centre_nm, abs=1.0)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", REAL)
def test_images_that_the_real_lists_name_are_found(name: str, shared_data: Path, tmp_path: Path) -> None:
    product = copy_writable(shared_data / "sentinel2" / "safe_metadata" / f"{name}.SAFE", tmp_path / f"{name}.SAFE")
    stems = [
        line.split("<IMAGE_FILE>")[1].split("<")[0]
        for line in next(product.glob("MTD_MSI*.xml")).read_text(encoding="utf-8").splitlines()
        if "<IMAGE_FILE>" in line
    ]
    for stem in stems:
        (product / stem).parent.mkdir(parents=True, exist_ok=True)
        (product / f"{stem}.jp2").touch()
    (tile,) = _metadata(product).granules
    suffix = "_10m.jp2" if REAL[name]["level"] == "L2A" else ".jp2"
    for band in ("B02", "B03", "B04", "B08"):
        assert tile.images[band, 10].endswith(f"_{band}{suffix}")
    for band in ("B05", "B06", "B07", "B8A", "B11", "B12"):
        assert f"_{band}" in tile.images[band, 20]
        assert (product / tile.images[band, 20]).is_file()
    assert (("SCL", 20) in tile.images) == (REAL[name]["level"] == "L2A")
    assert not _metadata(product).warnings


def test_offset_belongs_to_its_band(tmp_path: Path) -> None:
    product = make_safe(tmp_path)
    edit_xml(product, '<BOA_ADD_OFFSET band_id="3">-1000<', '<BOA_ADD_OFFSET band_id="3">-250<')
    offsets = _metadata(product).offsets
    assert (offsets["B04"], offsets["B03"], offsets["B08"]) == (-250, -1000, -1000)


def test_namespace_version_does_not_matter(tmp_path: Path) -> None:
    product = make_safe(tmp_path)
    edit_xml(product, "psd-14.sentinel2", "psd-99.sentinel2")
    edit_xml(product, "psd-14.sentinel2", "psd-12.sentinel2", tile=True)
    assert _metadata(product).granules[0].grids[10] == GRID


def test_old_names_and_image_list(tmp_path: Path) -> None:
    found = _metadata(make_safe(tmp_path, naming="old", level="L1C", baseline="02.02"))
    (tile,) = found.granules
    assert set(tile.images) == {("B02", 10), ("B03", 10), ("B04", 10), ("B08", 10)}
    assert tile.grids[10] == GRID
    assert not found.warnings


def test_a_missing_image_list_is_replaced_by_the_files(tmp_path: Path) -> None:
    product = make_safe(tmp_path)
    whole = _metadata(product).granules[0].images
    edit_xml(product, "IMAGE_FILE>", "NOTHING>")
    found = _metadata(product)
    assert found.granules[0].images == whole
    assert "missing or damaged" in found.warnings[0]


def test_a_wrong_image_list_is_completed_by_the_files(tmp_path: Path) -> None:
    product = make_safe(tmp_path)
    whole = _metadata(product).granules[0].images
    edit_xml(product, "_B03_10m</IMAGE_FILE>", "_B03_renamed</IMAGE_FILE>")
    found = _metadata(product)
    assert found.granules[0].images == whole
    assert "incomplete" in found.warnings[0]


def test_spacecraft_from_the_name_when_the_tag_is_missing(tmp_path: Path) -> None:
    product = make_safe(tmp_path, spacecraft="Sentinel-2C")
    edit_xml(product, "SPACECRAFT_NAME", "SOMETHING")
    found = _metadata(product)
    assert found.spacecraft == "Sentinel-2C"
    assert "does not name its spacecraft" in found.warnings[0]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("GRANULE/X/IMG_DATA/T33TTG_20241031T100831_B02", ("B02", 10)),
        ("GRANULE/X/IMG_DATA/T33TTG_20241031T100831_B8A", ("B8A", 20)),
        ("GRANULE/X/IMG_DATA/R20m/T38SLG_20241114T080951_B02_20m", ("B02", 20)),
        ("GRANULE/X/IMG_DATA/R20m/T38SLG_20241114T080951_SCL_20m", ("SCL", 20)),
        ("S2A_OPER_MSI_L1C_TL_SGS__20160526T145348_A004838_T36SYC_B12", ("B12", 20)),
        ("S2A_USER_SCL_L2A_TL_SGS__20160526T145348_A004838_T36SYC_20m", ("SCL", 20)),
        ("S2A_USER_MSI_L2A_TL_SGS__20160526T145348_A004838_T36SYC_B02_10m", ("B02", 10)),
        ("GRANULE/X/IMG_DATA/R10m/T38SLG_20241114T080951_TCI_10m", None),
    ],
)
def test_layers_by_file_name(name: str, key: tuple[str, int] | None) -> None:
    assert image_key(name) == key


@pytest.mark.parametrize(
    ("old", "new", "tile", "message"),
    [
        ("BOA_QUANTIFICATION_VALUE", "BOA_SOMETHING", False, "no valid BOA_QUANTIFICATION_VALUE"),
        (">10000</BOA_Q", ">zero</BOA_Q", False, "no valid BOA_QUANTIFICATION_VALUE"),
        ('band_id="1">-1000<', 'band_id="1">-1o00<', False, "damaged BOA_ADD_OFFSET"),
        ("</n1:General_Info>", "", False, "damaged"),
        ("HORIZONTAL_CS_CODE", "CODE", True, "no HORIZONTAL_CS_CODE"),
        ("EPSG:32632", "EPSG:9999999", True, "unknown reference system 'EPSG:9999999'"),
        ('Geoposition resolution="10"', 'Geoposition resolution="11"', True, "no Size and Geoposition of the 10 m"),
        ("<NROWS>96<", "<NROWS>-96<", True, "impossible grid"),
        ("</n1:Geometric_Info>", "", True, "damaged"),
    ],
)
def test_damaged_metadata_are_explained(tmp_path: Path, old: str, new: str, tile: bool, message: str) -> None:
    product = make_safe(tmp_path)
    edit_xml(product, old, new, tile=tile)
    with pytest.raises(InputError, match=message) as caught:
        _metadata(product)
    assert caught.value.exit_code == 3
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_missing_tile_metadata_and_missing_granules(tmp_path: Path) -> None:
    product = make_safe(tmp_path / "a")
    next(product.rglob("MTD_TL.xml")).unlink()
    with pytest.raises(InputError, match=r"no MTD_TL\.xml"):
        _metadata(product)
    bare = tmp_path / "b" / product.name
    bare.mkdir(parents=True)
    (bare / "MTD_MSIL2A.xml").write_bytes((product / "MTD_MSIL2A.xml").read_bytes())
    with pytest.raises(InputError, match="no granule"):
        _metadata(bare)


def test_entity_bombs_are_refused(tmp_path: Path) -> None:
    product = make_safe(tmp_path)
    bomb = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><a>&c;</a>'
    (product / "MTD_MSIL2A.xml").write_text(bomb, encoding="utf-8")
    with pytest.raises(InputError, match="damaged"):
        _metadata(product)


def test_places_that_are_no_product(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        SafeArchive(tmp_path / "gone.SAFE")
    (tmp_path / "empty.SAFE").mkdir()
    with pytest.raises(InputError, match="not a Sentinel-2 product"):
        SafeArchive(tmp_path / "empty.SAFE")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(InputError, match="not a readable zip"):
        SafeArchive(broken)
    two = tmp_path / "two"
    make_safe(two)
    make_safe(two, spacecraft="Sentinel-2B")
    with pytest.raises(InputError, match="holds 2 Sentinel-2 products"):
        SafeArchive(two)


def test_any_file_of_the_product_leads_to_it(tmp_path: Path) -> None:
    product = make_safe(tmp_path / "doubled.SAFE")
    for path in (product, product / "MTD_MSIL2A.xml", next(product.rglob("MTD_TL.xml")), product.parent):
        archive = SafeArchive(path)
        assert archive.name == product.name
        assert archive.product_xml == "MTD_MSIL2A.xml"


def test_tiff_images_are_accepted_where_a_mirror_converted_them(tmp_path: Path) -> None:
    product = make_safe(tmp_path)
    for path in product.rglob("*.jp2"):
        path.rename(path.with_suffix(".tif"))
    images = _metadata(product).granules[0].images
    assert {name.rsplit(".", 1)[-1] for name in images.values()} == {"tif"}
