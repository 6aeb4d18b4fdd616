"""One Sentinel-2 tile as windows of reflectance, classes and cloud."""

from __future__ import annotations

import shutil
import tempfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from safe_samples import GRID, classes, copy_writable, edit_xml, make_safe, reflectance, write_jp2, zip_product
from scipy import ndimage

from hsfuse.errors import InputError, UsageError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers import open_msi
from hsfuse.readers.base import MultispectralProduct
from hsfuse.readers.sentinel2.product import Sentinel2Product
from hsfuse.sensors.sentinel2 import BANDS_10M, BANDS_ALL, RESOLUTION_M
from hsfuse.simulate.safe_xml import cloud_gml

TRUTH = reflectance()
CLASSES = classes()


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_safe(tmp_path_factory.mktemp("safe"))


def _refined(coarse: np.ndarray, ratio: int = 2) -> np.ndarray:
    """Bilinear interpolation by scipy, border repeated: an independent statement of the pixel convention."""
    rows = (np.arange(coarse.shape[0] * ratio) + 0.5) / ratio - 0.5
    cols = (np.arange(coarse.shape[1] * ratio) + 0.5) / ratio - 0.5
    points = np.meshgrid(rows, cols, indexing="ij")
    return ndimage.map_coordinates(coarse, points, order=1, mode="nearest")


def test_reflectance_is_that_which_was_written(product: Path) -> None:
    with Sentinel2Product(product) as opened:
        assert isinstance(opened, MultispectralProduct)
        assert opened.band_names == BANDS_10M
        assert opened.grid == GRID
        cube = opened.read(GRID.full)
    assert cube.dtype == np.float32
    for band, plane in zip(BANDS_10M, cube, strict=True):
        np.testing.assert_allclose(plane, TRUTH[band], atol=2e-7)
    assert (cube < 0).any(), "negative reflectance is legitimate and must survive"


def test_no_more_threads_decode_than_were_given(product: Path) -> None:
    def decoding() -> set[str]:
        return {thread.name for thread in threading.enumerate() if thread.name.startswith(("s2-read", "s2-ahead"))}

    with open_msi(product, threads=1) as opened:
        opened.read_ahead(GRID.full)
        cube = opened.read(GRID.full)
        assert len(decoding()) == 1
    with open_msi(product, threads=3) as opened:
        np.testing.assert_array_equal(opened.read(GRID.full), cube)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_window_is_a_crop_of_the_whole(product: Path, data: st.DataObject) -> None:
    row0 = data.draw(st.integers(0, GRID.height - 1))
    col0 = data.draw(st.integers(0, GRID.width - 1))
    row1 = data.draw(st.integers(row0 + 1, GRID.height))
    col1 = data.draw(st.integers(col0 + 1, GRID.width))
    block = Slice2D(row0, row1, col0, col1)
    with Sentinel2Product(product) as opened:
        cube, scl, cloud = opened.read(block, [3, 0]), opened.classes(block), opened.cloud(block)
    np.testing.assert_allclose(cube[0], TRUTH["B08"][block.slices], atol=2e-7)
    np.testing.assert_allclose(cube[1], TRUTH["B02"][block.slices], atol=2e-7)
    expected = np.kron(CLASSES, np.ones((2, 2), np.uint8))[block.slices]
    np.testing.assert_array_equal(scl, expected)
    np.testing.assert_array_equal(cloud, np.isin(expected, (3, 8, 9, 10)))


@pytest.mark.parametrize("size", [(96, 132), (95, 131)])
def test_20_m_bands_are_interpolated_at_the_right_phase(tmp_path: Path, size: tuple[int, int]) -> None:
    grid = Grid.from_origin(GRID.crs, 600_000, 5_000_040, 10, *size)
    truth = reflectance(grid, BANDS_ALL)
    path = make_safe(tmp_path, grid=grid, reflectance=truth)
    with Sentinel2Product(path, bands="all") as opened:
        assert opened.band_names == BANDS_ALL
        whole = opened.read(grid.full)
        part = opened.read(Slice2D(13, 58, 31, 90))
    for band, plane in zip(BANDS_ALL, whole, strict=True):
        expected = truth[band] if RESOLUTION_M[band] == 10 else _refined(truth[band])[: size[0], : size[1]]
        np.testing.assert_allclose(plane, expected, atol=3e-7)
    np.testing.assert_array_equal(part, whole[:, 13:58, 31:90])


def test_nodata_in_a_20_m_band_stays_where_it_is(tmp_path: Path) -> None:
    truth = reflectance(GRID, BANDS_ALL)
    truth["B11"][:] = 0.3
    truth["B11"][10, 20] = np.nan
    with Sentinel2Product(make_safe(tmp_path, reflectance=truth), bands="all") as opened:
        plane = opened.read(GRID.full, [BANDS_ALL.index("B11")])[0]
    hole = np.isnan(plane)
    assert hole[20:22, 40:42].all()
    assert hole.sum() == 4, "valid neighbours are neither lost nor made up"
    np.testing.assert_allclose(plane[~hole], 0.3, atol=1e-6)


def test_nodata_and_saturated_samples_are_nan_and_counted(tmp_path: Path) -> None:
    truth = reflectance()
    truth["B02"][:10] = np.nan
    truth["B03"][50, :7] = np.inf
    with Sentinel2Product(make_safe(tmp_path, reflectance=truth)) as opened:
        cube = opened.read(GRID.full)
        counts = opened.statistics
    assert np.isnan(cube[0, :10]).all()
    assert np.isnan(cube[1, 50, :7]).all()
    assert np.isfinite(cube).sum() == cube.size - 10 * GRID.width - 7
    assert (counts.samples, counts.nodata, counts.saturated) == (cube.size, 10 * GRID.width, 7)


def test_scale_comes_from_the_metadata_not_from_the_baseline(tmp_path: Path) -> None:
    path = make_safe(tmp_path, offset=0, quantification=5000, baseline="05.09")
    with Sentinel2Product(path) as opened:
        positive = TRUTH["B04"] > 0.001
        np.testing.assert_allclose(opened.read(GRID.full)[2][positive], TRUTH["B04"][positive], atol=1.01e-4)
    path = make_safe(tmp_path / "early", offset=-1000, baseline="02.14")
    edit_xml(path, 'band_id="3">-1000<', 'band_id="3">-500<')
    with Sentinel2Product(path) as opened:
        cube = opened.read(GRID.full)
        np.testing.assert_allclose(cube[1], TRUTH["B03"], atol=2e-7)
        np.testing.assert_allclose(cube[2], TRUTH["B04"] + 0.05, atol=2e-7)


def test_product_facts(product: Path) -> None:
    with Sentinel2Product(product) as opened:
        info = opened.info
        assert (info.sensor, info.level, info.name) == ("Sentinel-2A", "L2A", product.name)
        assert f"{info.start:%Y-%m-%d %H:%M %Z}" == "2023-07-01 10:06 UTC"
        assert (info.sun_zenith_deg, info.sun_azimuth_deg, info.view_zenith_deg) == (30, 150, 5)
        assert info.attributes["tile_id"] == "T32TPQ"
        assert info.attributes["processing_baseline"] == "05.09"
        assert info.attributes["cloud_percent"] == pytest.approx(100 * np.isin(CLASSES, (8, 9, 10)).mean(), abs=1e-4)
        assert info.attributes["cloud_mask"] == "SCL"
        assert info.warnings == ()
        blue = opened.responses[0]
        assert blue.source == "product metadata"
        assert blue.centre_nm == pytest.approx(492.7, abs=0.1)


def test_without_responses_the_table_of_the_spacecraft_is_used(tmp_path: Path) -> None:
    path = make_safe(tmp_path, responses=[], spacecraft="Sentinel-2C")
    with Sentinel2Product(path) as opened:
        near_infrared = opened.responses[3]
        assert near_infrared.centre_nm == pytest.approx(834.6, abs=0.1)
        assert near_infrared.range_nm[1] - near_infrared.range_nm[0] == pytest.approx(95.8, abs=1.5)
        assert "carries no spectral response of B02, B03, B04, B08" in opened.info.warnings[0]
    edit_xml(path, "Sentinel-2C", "Sentinel-2Q")
    with Sentinel2Product(path) as opened:
        assert "Sentinel-2Q is unknown" in opened.info.warnings[0]


def test_l1c_reads_the_classification_mask(tmp_path: Path) -> None:
    scl = np.full((48, 66), 4, np.uint8)
    scl[6:12, 9:15] = 9
    scl[30:33, 30:33] = 10
    scl[40:42, 3:9] = 3  # an L1C product knows no shadow
    with Sentinel2Product(make_safe(tmp_path, level="L1C", scl=scl)) as opened:
        assert opened.info.attributes["radiometry"] == "top of atmosphere"
        assert opened.classes(GRID.full) is None
        assert opened.info.attributes["cloud_mask"] == "MSK_CLASSI"
        cloud = opened.cloud(GRID.full)
        part = opened.cloud(Slice2D(5, 61, 17, 64))
    expected = np.zeros(GRID.shape, bool)
    expected[12:24, 18:30] = expected[60:66, 60:66] = True
    np.testing.assert_array_equal(cloud, expected)
    np.testing.assert_array_equal(part, expected[5:61, 17:64])


def test_l1c_before_baseline_4_reads_cloud_polygons(tmp_path: Path) -> None:
    scl = np.full((48, 66), 4, np.uint8)
    scl[6:18, 9:21] = 9
    scl[9:15, 12:18] = 4  # a hole in the cloud
    path = make_safe(tmp_path, level="L1C", baseline="02.09", scl=scl)
    with Sentinel2Product(path) as opened:
        assert opened.info.attributes["cloud_mask"] == "MSK_CLOUDS"
        cloud = opened.cloud(GRID.full)
        part = opened.cloud(Slice2D(20, 33, 30, 41))
    expected = np.zeros(GRID.shape, bool)
    expected[12:36, 18:42] = True
    expected[18:30, 24:36] = False
    np.testing.assert_array_equal(cloud, expected)
    np.testing.assert_array_equal(part, expected[20:33, 30:41])


def test_cloud_masks_that_are_empty_damaged_or_absent(tmp_path: Path) -> None:
    path = make_safe(tmp_path, level="L1C", baseline="02.09", scl=np.full((48, 66), 4, np.uint8))
    mask = next(path.rglob("MSK_CLOUDS_B00.gml"))
    with Sentinel2Product(path) as opened:
        assert not opened.cloud(GRID.full).any()
    whole = cloud_gml(np.ones((2, 2), bool), np.zeros((2, 2), bool), GRID.coarsened(6).crop(Slice2D(0, 2, 0, 2)))
    mask.write_bytes(whole.replace(b"600000 5000040", b"600000 oops", 1))
    with pytest.raises(InputError, match="damaged posList"):
        Sentinel2Product(path)
    mask.unlink()
    with Sentinel2Product(path) as opened:
        assert opened.cloud(GRID.full) is None
        assert opened.info.attributes["cloud_mask"] is None
        assert "no cloud mask" in opened.info.warnings[-1]


def test_old_names(tmp_path: Path) -> None:
    with Sentinel2Product(make_safe(tmp_path, naming="old", level="L1C", baseline="02.02")) as opened:
        cube = opened.read(GRID.full)
    positive = TRUTH["B02"] > 0
    np.testing.assert_allclose(cube[0][positive], TRUTH["B02"][positive], atol=2e-7)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_files_read_like_folders_and_clean_up(
    product: Path, tmp_path: Path, compression: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    packed = zip_product(product, tmp_path / "download.zip", compression)
    opened = Sentinel2Product(packed)
    assert opened.info.name == product.name
    np.testing.assert_allclose(opened.read(GRID.full)[3], TRUTH["B08"], atol=2e-7)
    np.testing.assert_array_equal(opened.classes(Slice2D(0, 2, 0, 2)), np.full((2, 2), CLASSES[0, 0]))
    unpacked = [path for path in scratch.rglob("*") if path.is_file()]
    # Four bands and the classes are needed; everything else stays in the zip.
    assert len(unpacked) == (0 if compression == zipfile.ZIP_STORED else 5)
    opened.close()
    assert list(scratch.iterdir()) == []


def test_a_damaged_zip_member_is_reported(product: Path, tmp_path: Path) -> None:
    packed = zip_product(product, tmp_path / "download.zip", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(packed) as archive:
        info = next(i for i in archive.infolist() if i.filename.endswith("_B04_10m.jp2"))
    content = bytearray(packed.read_bytes())
    content[info.header_offset + 400 : info.header_offset + 2400] = bytes(2000)
    packed.write_bytes(content)
    with pytest.raises(InputError, match="cannot be unpacked"):
        Sentinel2Product(packed)


def test_many_threads_read_the_same_product(product: Path) -> None:
    blocks = [Slice2D(r, r + 16, c, c + 33) for r in range(0, 96, 16) for c in range(0, 132, 33)] * 3
    with Sentinel2Product(product) as opened, ThreadPoolExecutor(8) as pool:
        for block, cube in zip(blocks, pool.map(opened.read, blocks), strict=True):
            np.testing.assert_allclose(cube[1], TRUTH["B03"][block.slices], atol=2e-7)


def test_what_is_expected_reads_the_same(product: Path) -> None:
    blocks = [GRID.full, Slice2D(10, 50, 20, 90), Slice2D(0, 7, 0, 5)]
    with Sentinel2Product(product, bands="10m") as plain:
        wanted = [plain.read(block) for block in blocks]
    with Sentinel2Product(product, bands="10m") as ahead:
        ahead.read_ahead(Slice2D(-50, 60, 5, GRID.width + 9), [2, 0])
        ahead.read_ahead(GRID.full)
        ahead.read_ahead(Slice2D(-9, -3, 0, 5))
        for block, cube in zip(blocks, wanted, strict=True):
            np.testing.assert_array_equal(ahead.read(block), cube)


def test_reading_ahead_does_not_wait_for_checksums(product: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a full scene take the layers' threads half a second and more."""
    released, checking = threading.Event(), threading.Event()

    def check(_self: Sentinel2Product, _layer: str) -> None:
        checking.set()
        assert released.wait(60), "the second call waited for the checksums of the first"

    monkeypatch.setattr(Sentinel2Product, "_check_layer", check)
    with Sentinel2Product(product, bands="10m", threads=2) as opened:
        opened.read_ahead(GRID.full, [2, 0])
        assert checking.wait(60)
        done = threading.Event()
        second = threading.Thread(target=lambda: (opened.read_ahead(GRID.full, [1, 3]), done.set()))
        second.start()
        try:
            assert done.wait(20), "the second call waits for the checksums of the first"
        finally:
            released.set()
            second.join()


def test_closing_does_not_wait_for_what_was_expected(product: Path) -> None:
    opened = Sentinel2Product(product, bands="10m")
    opened.read_ahead(GRID.full)
    opened.close()
    with pytest.raises(UsageError, match="closed"):
        opened.read_ahead(GRID.full)


@pytest.mark.parametrize("factor", [2, 4, 8, 16])
def test_overview_lies_where_its_grid_says(tmp_path: Path, factor: int) -> None:
    grid = Grid.from_origin(GRID.crs, 600_000, 5_000_040, 10, 640, 720)
    rows, cols = np.mgrid[: grid.height, : grid.width]
    # Smooth waves: a shift of one pixel would change them by 0.006, far above the tolerance.
    wave = 0.3 + 0.1 * np.sin(cols / 17.0) * np.cos(rows / 23.0)
    coarse = wave.reshape(320, 2, 360, 2).mean(axis=(1, 3))
    bands = {band: wave if RESOLUTION_M[band] == 10 else coarse for band in BANDS_ALL}
    block = Slice2D(37, 637, 50, 710)
    with Sentinel2Product(make_safe(tmp_path, grid=grid, reflectance=bands), bands="all") as opened:
        view = opened.read_overview(block, factor, [0, 9])
    height, width = 600 // factor, 660 // factor
    expected = wave[block.slices][: height * factor, : width * factor]
    expected = expected.reshape(height, factor, width, factor).mean(axis=(1, 3))
    assert view.shape == (2, height, width)
    inner = (slice(None), slice(1, -1), slice(1, -1))  # wavelets reflect at the border of the image
    np.testing.assert_allclose(view[inner], np.stack([expected] * 2)[inner], atol=2.5e-3)


def test_overview_does_not_mix_nodata_in(tmp_path: Path) -> None:
    grid = Grid.from_origin(GRID.crs, 600_000, 5_000_040, 10, 512, 512)
    bands = {band: np.full(grid.shape, 0.4) for band in BANDS_10M}
    for plane in bands.values():
        plane[:, 300:] = np.nan
    with Sentinel2Product(make_safe(tmp_path, grid=grid, reflectance=bands)) as opened:
        view = opened.read_overview(grid.full, 4, [0])[0]
        with pytest.raises(UsageError, match="decimated by 3"):
            opened.read_overview(grid.full, 3)
    assert np.isnan(view[:, 75:]).all()
    valid = view[np.isfinite(view)]
    assert valid.size > 70 * 128
    np.testing.assert_allclose(valid, 0.4, atol=5e-3)


# ------------------------------------------------------------------ geometry against the images


def test_images_without_georeference_take_the_metadata(product: Path, tmp_path: Path) -> None:
    path = copy_writable(product, tmp_path / product.name)
    for band in BANDS_10M:
        image = next(path.rglob(f"*_{band}_10m.jp2"))
        write_jp2(image, np.rint(TRUTH[band] * 10_000 + 1000).astype(np.uint16), None)
    with Sentinel2Product(path) as opened:
        assert opened.grid == GRID
        np.testing.assert_allclose(opened.read(GRID.full)[0], TRUTH["B02"], atol=2e-7)
    write_jp2(image, np.ones((50, 60), np.uint16), None)
    with pytest.raises(InputError, match=r"B08.* has 50 x 60 pixels"):
        Sentinel2Product(path)


def test_images_cut_out_of_their_tile_are_taken_with_a_warning(product: Path, tmp_path: Path) -> None:
    path = copy_writable(product, tmp_path / product.name)
    part = Slice2D(20, 61, 33, 90)
    for band in BANDS_10M:
        dn = np.rint(TRUTH[band] * 10_000 + 1000).astype(np.uint16)[part.slices]
        write_jp2(next(path.rglob(f"*_{band}_10m.jp2")), dn, GRID.crop(part))
    with Sentinel2Product(path) as opened:
        assert opened.grid == GRID.crop(part)
        np.testing.assert_allclose(opened.read(opened.grid.full)[2], TRUTH["B04"][part.slices], atol=2e-7)
        expected = np.kron(CLASSES, np.ones((2, 2), np.uint8))[part.slices]
        np.testing.assert_array_equal(opened.classes(opened.grid.full), expected)
        assert "cover only 41 x 57" in opened.info.warnings[0]


@pytest.mark.parametrize(
    "wrong",
    [
        Grid.from_origin(GRID.crs, 700_000, 5_000_040, 10, 96, 132),
        Grid.from_origin(CRS.from_epsg(32633), 600_000, 5_000_040, 10, 96, 132),
        Grid.from_origin(GRID.crs, 600_004, 5_000_040, 10, 96, 132),
        Grid.from_origin(GRID.crs, 600_000, 5_000_040, 20, 96, 132),
    ],
)
def test_images_that_contradict_the_metadata_are_refused(product: Path, tmp_path: Path, wrong: Grid) -> None:
    path = copy_writable(product, tmp_path / product.name)
    write_jp2(next(path.rglob("*_B03_10m.jp2")), np.ones((96, 132), np.uint16), wrong)
    with pytest.raises(InputError, match=r"B03 in .* contradicts the tile's metadata"):
        Sentinel2Product(path)


def test_bands_on_different_grids_are_refused(product: Path, tmp_path: Path) -> None:
    path = copy_writable(product, tmp_path / product.name)
    part = GRID.crop(Slice2D(0, 50, 0, 50))
    write_jp2(next(path.rglob("*_B03_10m.jp2")), np.ones((50, 50), np.uint16), part)
    with pytest.raises(InputError, match=r"B02 and B03 .* do not lie on the same grid"):
        Sentinel2Product(path)


# ------------------------------------------------------------------ bad input


def test_products_without_images(product: Path, tmp_path: Path) -> None:
    bare = copy_writable(product, tmp_path / "bare" / product.name)
    shutil.rmtree(next(bare.glob("GRANULE/*/IMG_DATA")))
    with pytest.raises(InputError, match="metadata but no image files") as caught:
        Sentinel2Product(bare)
    assert caught.value.exit_code == 3
    assert "download" in caught.value.hint
    some = copy_writable(product, tmp_path / "some" / product.name)
    next(some.rglob("*_B08_10m.jp2")).unlink()
    with pytest.raises(InputError, match="no 10 m image of B08"):
        Sentinel2Product(some)
    with pytest.raises(InputError, match="no 20 m image of B05, B06"):
        Sentinel2Product(product, bands="all")


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("keep", [0, 60, 3000])
def test_truncated_images_are_reported(product: Path, tmp_path: Path, keep: int, ahead: bool) -> None:
    path = copy_writable(product, tmp_path / product.name)
    image = next(path.rglob("*_B04_10m.jp2"))
    image.write_bytes(image.read_bytes()[:keep])

    def use() -> None:
        with Sentinel2Product(path) as opened:
            if ahead:
                opened.read_ahead(GRID.full)
            opened.read(GRID.full)

    with pytest.raises(InputError, match=r"B04 in .* cannot be read") as caught:
        use()
    assert caught.value.hint


def test_misuse_is_refused(product: Path) -> None:
    opened = Sentinel2Product(product)
    for block in (Slice2D(0, 97, 0, 10), Slice2D(-1, 5, 0, 10), Slice2D(5, 5, 0, 10)):
        with pytest.raises(UsageError, match="does not lie inside"):
            opened.read(block)
    opened.close()
    opened.close()
    with pytest.raises(UsageError, match="closed"):
        opened.read(GRID.full)
    with pytest.raises(InputError, match="no granule T99XXX"):
        Sentinel2Product(product, granule="T99XXX")


# ------------------------------------------------------------------ real metadata with images put in


@pytest.mark.shared_data
@pytest.mark.parametrize("pattern", ["*N0301*", "*N0214*", "*N0400*", "*N0509*"])
def test_real_metadata_of_four_baselines_with_images(pattern: str, shared_data: Path, tmp_path: Path) -> None:
    source = next((shared_data / "sentinel2" / "safe_metadata").glob(pattern))
    path = copy_writable(source, tmp_path / source.name)
    level = "L1C" if "MSIL1C" in source.name else "L2A"
    text = next(path.glob("MTD_MSI*.xml")).read_text(encoding="utf-8")
    stems = [line.split(">")[1].split("<")[0] for line in text.splitlines() if "<IMAGE_FILE>" in line]
    tile_text = next(path.rglob("MTD_TL.xml")).read_text(encoding="utf-8")
    epsg = int(tile_text.split("EPSG:")[1][:5])
    left, top = (int(tile_text.split(f"<{tag}>")[1].split("<")[0]) for tag in ("ULX", "ULY"))
    part = Grid.from_origin(CRS.from_epsg(epsg), left + 30_000, top - 42_000, 10, 80, 100)
    rng = np.random.default_rng(3)
    written = {}
    for band in BANDS_ALL:
        resolution = RESOLUTION_M[band]
        ending = f"_{band}" if level == "L1C" else f"_{band}_{resolution}m"
        stem = next(stem for stem in stems if stem.endswith(ending))
        grid = part if resolution == 10 else part.coarsened(2)
        written[band] = rng.integers(1, 9000, grid.shape).astype(np.uint16)
        write_jp2(path / f"{stem}.jp2", written[band], grid)
    if level == "L2A":
        stem = next(stem for stem in stems if stem.endswith("_SCL_20m"))
        write_jp2(path / f"{stem}.jp2", np.full((40, 50), 9, np.uint8), part.coarsened(2))
    offset = -1000 if "N04" in source.name or "N05" in source.name else 0
    with Sentinel2Product(path, bands="all") as opened:
        assert opened.grid == part
        assert opened.info.level == level
        cube = opened.read(part.full)
        for band, plane in zip(BANDS_ALL, cube, strict=True):
            expected = (written[band].astype(float) + offset) / 10_000
            if RESOLUTION_M[band] == 20:
                expected = _refined(expected)
            np.testing.assert_allclose(plane, expected, atol=1e-6)
        assert all(response.source == "product metadata" for response in opened.responses)
        cloud = opened.cloud(part.full)
        if level == "L2A":
            assert cloud.all()
        else:
            assert cloud is None, "the mask that the metadata name is not there"
