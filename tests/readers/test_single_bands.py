"""Guides whose bands are files: Copernicus Browser, cloud-optimised folders, Landsat; and paths as people give them."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import package_samples as samples
import pytest
from pyproj import Transformer
from rasterio.crs import CRS
from safe_samples import GRID as SAFE_GRID
from safe_samples import make_safe
from scipy.ndimage import binary_erosion

from hsfuse.config import RunConfig
from hsfuse.errors import InputError, OverlapError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers import open_msi
from hsfuse.readers.choose import choose_reader
from hsfuse.readers.given_path import given_path
from hsfuse.sensors.sentinel2 import BANDS_10M, RESOLUTION_M
from hsfuse.workflows.steps.inputs import open_pair

GRID = Grid.from_origin(CRS.from_epsg(32632), 600_000.0, 5_000_000.0, 10.0, 24, 30)
FULL = GRID.full
RNG = np.random.default_rng(6)
TRUTH = {band: 0.02 + 0.5 * RNG.random((24, 30)) for band in (*BANDS_10M, "B05", "B11", "B12")}
EARTH_SEARCH = "S2B_32TQQ_20240623_0_L2A"


def grid_of(band: str) -> Grid:
    return GRID if RESOLUTION_M.get(band, 20) == 10 else GRID.coarsened(2)


def in_system(epsg: int, left: float, top: float, pixel: float) -> Grid:
    return Grid.from_origin(CRS.from_epsg(epsg), left, top, pixel, 24, 30)


def at(band: str) -> np.ndarray:
    """Reflectance on a band's own pixels."""
    return TRUTH[band] if grid_of(band) is GRID else TRUTH[band][::2, ::2]


def browser(folder: Path, dtype: str = "float32", level: str = "L2A", bands: Any = BANDS_10M, grid: Any = None) -> Path:
    top = {"float32": 1.0, "uint16": 65535.0, "uint8": 255.0}[dtype]
    for band in bands:
        values = at(band) * top if grid is None else np.full(grid.shape, 0.2 * top)
        values = values.astype(dtype) if dtype == "float32" else np.rint(values).astype(dtype)
        values[:2, :3], values[5, 5] = 0, 1 if dtype == "float32" else round(top)
        name = f"2024-06-23-00:00_2024-06-23-23:59_Sentinel-2_{level}_{band}_(Raw).tiff"
        samples.write_tif(folder / name, values[None], grid or grid_of(band))
    return folder


def cog(folder: Path, *, offset: int = 0, facts: Any = None, raster: Any = None, scl: bool = True) -> Path:
    assets = {}
    for band, key in (("B02", "blue"), ("B03", "green"), ("B04", "red"), ("B08", "nir"), ("B11", "swir16")):
        dn = (np.rint(at(band) * 1e4) + offset).astype(np.uint16)
        dn[:1, :1] = 0
        samples.write_tif(folder / f"{band}.tif", dn[None], grid_of(band), 0)
        assets[key] = {"href": f"https://example.org/{EARTH_SEARCH}/{band}.tif"}
        if raster is not None:
            assets[key]["raster:bands"] = [raster]
    if scl:
        classes = np.full(grid_of("SCL").shape, 4, np.uint8)
        classes[3:5, 3:5] = 9
        samples.write_tif(folder / "SCL.tif", classes[None], grid_of("SCL"))
    properties = {"platform": "sentinel-2b", "datetime": "2024-06-23T10:27:44.321000Z", "eo:cloud_cover": 3.5,
                  "s2:processing_baseline": "05.10", "view:sun_elevation": 60.0, "view:sun_azimuth": 150.0}  # fmt: skip
    item = {"stac_version": "1.0.0", "id": EARTH_SEARCH, "properties": properties | (facts or {}), "assets": assets}
    (folder / f"{EARTH_SEARCH}.json").write_text(json.dumps(item))
    return folder


class TestBrowser:
    @pytest.mark.parametrize(("dtype", "step"), [("float32", 1e-7), ("uint16", 1e-5), ("uint8", 2.1e-3)])
    def test_reflectance_by_the_type_of_numbers(self, tmp_path: Path, dtype: str, step: float) -> None:
        browser(tmp_path, dtype)
        files = sorted(tmp_path.iterdir())
        for given in ([tmp_path], files, files[:1]):
            assert {choose_reader(path, "msi").name for path in given} == {"sentinel2-bands"}
            with open_msi(given) as product:
                assert product.band_names == BANDS_10M
                got = product.read(FULL)
                assert np.isnan(got[:, :2, :3]).all()
                assert np.isnan(got[0, 5, 5]) is np.bool_(dtype != "float32"), "integers were cut at 1"
                known = np.isfinite(got)
                want = np.stack([TRUTH[band] for band in BANDS_10M])
                known[:, 5, 5] = False
                np.testing.assert_allclose(got[known], want[known], atol=step)
                assert product.cloud(FULL) is None
                assert (product.info.level, f"{product.info.start:%Y-%m-%d}") == ("L2A", "2024-06-23")
                assert product.info.attributes["radiometry"] == "surface"
                assert any("8 bits" in text for text in product.info.warnings) is (dtype == "uint8")

    def test_coarser_bands_come_along(self, tmp_path: Path) -> None:
        with open_msi([browser(tmp_path, bands=(*BANDS_10M, "B11"))], bands="all") as product:
            assert product.band_names == (*BANDS_10M, "B11")
            got = product.read(FULL, [4])[0]
            coarse = at("B11")
            down, right = coarse[4] * 0.25 + coarse[5] * 0.75, coarse[6] * 0.75 + coarse[7] * 0.25
            # The centre of fine row 10 lies at coarse row 4.75, that of row 12 at 5.75, of row 13 at 6.25.
            np.testing.assert_allclose(got[10, 8], down[3] * 0.25 + down[4] * 0.75, atol=1e-6)
            np.testing.assert_allclose(got[13, 9], right[4] * 0.75 + right[5] * 0.25, atol=1e-6)
            block = Slice2D(7, 20, 3, 18)
            np.testing.assert_allclose(product.read(block, [4])[0], got[block.slices], atol=1e-6)

    def test_what_cannot_be_meant(self, tmp_path: Path) -> None:
        for name, make, words in (
            ("two", lambda f: (browser(f), browser(f, level="L1C")), "the bands of 2 scenes"),
            ("few", lambda f: browser(f, bands=("B02", "B03", "B04")), "10 m bands B08 are not beside"),
            (
                "mixed",
                lambda f: (browser(f, grid=in_system(4326, 10, 45, 1e-4)), browser(f, bands=("B08",))),
                "the bands have different pixels|does not lie on the grid",
            ),
        ):
            folder = tmp_path / name
            folder.mkdir()
            make(folder)
            with pytest.raises(InputError, match=words) as caught:
                open_msi([folder])
            assert caught.value.hint
        browser(tmp_path, "float32")
        browser(tmp_path, "uint16", bands=("B08",))
        with pytest.raises(InputError, match="numbers of the type float32 and uint16"):
            open_msi([tmp_path])
        far = Grid.from_origin(CRS.from_epsg(32632), 100_000.0, 4_000_000.0, 30.0, 9, 9)
        browser(tmp_path, "float32", bands=("B08",))
        with pytest.raises(OverlapError):
            open_msi([tmp_path], target=far)

    @pytest.mark.parametrize(("epsg", "pixel"), [(4326, 9e-5), (3857, 14.2)], ids=["degrees", "Web Mercator"])
    def test_downloads_that_are_not_in_metres(self, tmp_path: Path, epsg: int, pixel: float) -> None:
        """As the browser delivers them unless told otherwise: warped to where they are."""
        to_utm = Transformer.from_crs(epsg, 32632, always_xy=True)
        left, top = Transformer.from_crs(32632, epsg, always_xy=True).transform(600_000.0, 5_000_000.0)
        grid = Grid.from_origin(CRS.from_epsg(epsg), left, top, pixel, 90, 120)

        def ground(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return 0.3 + 0.1 * np.sin(x / 70) + 0.1 * np.cos(y / 60)

        seen = ground(*to_utm.transform(*grid.xy(*(axis.astype(float) for axis in np.indices(grid.shape)))))
        for band in BANDS_10M:
            name = f"2024-06-23-00:00_2024-06-23-23:59_Sentinel-2_L2A_{band}_(Raw).tiff"
            samples.write_tif(tmp_path / name, seen[None].astype(np.float32), grid)
        with open_msi([tmp_path]) as product:
            assert product.grid.crs == CRS.from_epsg(32632)
            assert product.grid.pixel_m == pytest.approx(10.0, abs=0.2)
            x, y = product.grid.xy(*(axis.astype(float) for axis in np.indices(product.grid.shape)))
            got = product.read(product.grid.full)
            inside = np.isfinite(got[0])
            assert inside.mean() > 0.9
            # At the rim the kernel has no neighbours to see a slope by.
            well = binary_erosion(inside, iterations=2)
            assert np.abs(got - ground(x, y))[:, well].max() < 0.001
            block = Slice2D(11, 40, 7, 60)
            np.testing.assert_allclose(product.read(block), got[:, *block.slices], atol=1e-6)
            assert any("The bands were resampled to" in text for text in product.info.warnings)


class TestCloudOptimised:
    @pytest.mark.parametrize(
        ("offset", "facts", "raster", "said"),
        [
            (0, {"earthsearch:boa_offset_applied": True}, {"scale": 1e-4, "offset": -0.1}, False),
            (1000, {"earthsearch:boa_offset_applied": False}, {"scale": 1e-4, "offset": -0.1}, False),
            (1000, {}, None, False),
            (0, {"s2:processing_baseline": "02.14"}, None, False),
            (0, {}, {"scale": 1e-4, "offset": 0}, False),
            # Items that are wrong about it: https://github.com/Element84/earth-search/issues/71
            (0, {"earthsearch:boa_offset_applied": False}, {"scale": 1e-4, "offset": -0.1}, True),
        ],
    )
    def test_offsets(self, tmp_path: Path, offset: int, facts: Any, raster: Any, said: bool) -> None:
        with open_msi([cog(tmp_path, offset=offset, facts=facts, raster=raster)]) as product:
            got = product.read(FULL)
            want = np.stack([TRUTH[band] for band in BANDS_10M])
            assert np.isnan(got[:, 0, 0]).all()
            got[:, 0, 0] = want[:, 0, 0]
            np.testing.assert_allclose(got, want, atol=6e-5)
            assert any("a known fault" in text for text in product.info.warnings) is said

    def test_classes_facts_and_responses(self, tmp_path: Path) -> None:
        with open_msi([cog(tmp_path, offset=1000)], bands="all") as product:
            assert product.band_names == (*BANDS_10M, "B11")
            cloud = product.cloud(FULL)
            assert np.array_equal(cloud, product.classes(FULL) == 9)
            assert (cloud.sum(), cloud[6:10, 6:10].all()) == (16, True)
            info = product.info
            assert (info.sensor, info.name, info.sun_zenith_deg) == ("Sentinel-2B", EARTH_SEARCH, 30.0)
            assert info.start.isoformat() == "2024-06-23T10:27:44.321000+00:00"
            assert info.attributes["cloud_percent"] == 3.5
            assert product.responses[2].centre_nm == pytest.approx(664.9, abs=0.1), "Sentinel-2B's own"
            assert info.warnings == ()

    def test_numbers_that_nobody_explains(self, tmp_path: Path) -> None:
        cog(tmp_path, facts={"s2:processing_baseline": ""})
        with pytest.raises(InputError, match="neither scale and offset of B02 nor the processing baseline") as caught:
            open_msi([tmp_path])
        assert caught.value.exit_code == 3
        (tmp_path / f"{EARTH_SEARCH}.json").write_text('{"no": "item"}')
        with pytest.raises(InputError, match="no STAC item beside the bands") as caught:
            open_msi([tmp_path / "B02.tif"])
        assert "Earth Search" in caught.value.hint
        (tmp_path / f"{EARTH_SEARCH}.json").write_text(
            '{"stac_version": "1.0.0", "properties": {}, "assets": {"a": {"raster:bands": [1]}}}'
        )
        with pytest.raises(InputError, match="cannot be understood"):
            open_msi([tmp_path])

    def test_a_band_that_is_cut_off(self, tmp_path: Path) -> None:
        cog(tmp_path, offset=1000)
        raw = (tmp_path / "B08.tif").read_bytes()
        (tmp_path / "B08.tif").write_bytes(raw[: len(raw) // 2])
        with pytest.raises(InputError, match=r"B08\.tif: the image cannot be read"), open_msi([tmp_path]) as product:
            product.read(FULL)


LANDSAT = "LC08_L2SP_193028_20240623_20240701_02_T1"
LANDSAT_GRID = Grid.from_origin(CRS.from_epsg(32632), 600_000.0, 5_000_000.0, 30.0, 12, 15)
LANDSAT_TRUTH = 0.02 + 0.5 * RNG.random((7, *LANDSAT_GRID.shape))
FACTS = {
    "IMAGE_ATTRIBUTES": {
        "SPACECRAFT_ID": "LANDSAT_8", "DATE_ACQUIRED": "2024-06-23", "SCENE_CENTER_TIME": "10:02:33.1234567Z",
        "SUN_ELEVATION": "61.25", "SUN_AZIMUTH": "141.5", "CLOUD_COVER": "4.20",
    },
    "PRODUCT_CONTENTS": {"PROCESSING_LEVEL": "L2SP", "COLLECTION_NUMBER": "02"},
    "LEVEL1_RADIOMETRIC_RESCALING": {f"REFLECTANCE_{k}_BAND_{n}": "9" for k in ("MULT", "ADD") for n in range(1, 8)},
    "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS": {
        f"REFLECTANCE_{k}_BAND_{n}": v for k, v in (("MULT", "2.75e-05"), ("ADD", "-0.2")) for n in range(1, 8)
    },
}  # fmt: skip


def landsat(folder: Path, scene: str = LANDSAT, metadata: str = "json", facts: Any = FACTS) -> Path:
    for number in range(1, 8):
        dn = np.rint((LANDSAT_TRUTH[number - 1] + 0.2) / 2.75e-5).astype(np.uint16)
        dn[:2, :2] = 0
        samples.write_tif(folder / f"{scene}_SR_B{number}.TIF", dn[None], LANDSAT_GRID, 0)
    codes = np.full(LANDSAT_GRID.shape, 21824, np.uint16)
    codes[:2, :2], codes[5, 5:10] = 1, [0b10, 0b100, 0b1000, 0b10000, 0b100000]
    samples.write_tif(folder / f"{scene}_QA_PIXEL.TIF", codes[None], LANDSAT_GRID, 1)
    inner = {
        "json": lambda: json.dumps({"LANDSAT_METADATA_FILE": facts}),
        "xml": lambda: "<LANDSAT_METADATA_FILE>" + "".join(
            f"<{group}>" + "".join(f"<{k}>{v}</{k}>" for k, v in items.items()) + f"</{group}>"
            for group, items in facts.items()
        ) + "</LANDSAT_METADATA_FILE>",
        "txt": lambda: "GROUP = LANDSAT_METADATA_FILE\n" + "".join(
            f"  GROUP = {group}\n" + "".join(f'    {k} = "{v}"\n' for k, v in items.items())
            + f"  END_GROUP = {group}\n"
            for group, items in facts.items()
        ) + "END_GROUP = LANDSAT_METADATA_FILE\nEND\n",
    }  # fmt: skip
    if metadata:
        (folder / f"{scene}_MTL.{metadata}").write_text(inner[metadata]())
    return folder


class TestLandsat:
    @pytest.mark.parametrize("metadata", ["json", "xml", "txt", ""])
    def test_reflectance_clouds_and_facts(self, tmp_path: Path, metadata: str) -> None:
        landsat(tmp_path, metadata=metadata)
        given = tmp_path if metadata != "xml" else tmp_path / f"{LANDSAT}_MTL.xml"
        assert choose_reader(given, "msi").name == "landsat"
        with open_msi([given]) as product:
            assert product.band_names == tuple(f"B{n}" for n in range(1, 8))
            assert product.grid == LANDSAT_GRID
            got = product.read(LANDSAT_GRID.full)
            assert np.isnan(got[:, :2, :2]).all()
            known = np.isfinite(got)
            np.testing.assert_allclose(got[known], LANDSAT_TRUTH[known], atol=2e-5)
            cloud = product.cloud(LANDSAT_GRID.full)
            assert cloud[5, 5:10].tolist() == [True, True, True, True, False], "bit 5 is snow"
            assert cloud.sum() == 4
            assert product.classes(LANDSAT_GRID.full) is None
            assert product.responses[3].centre_nm == pytest.approx(654.6, abs=0.1)
            assert product.responses[4].range_nm == pytest.approx((850.5, 878.8), abs=1)
            info = product.info
            assert (info.sensor, info.level) == ("Landsat 8 OLI", "L2SP")
            if metadata:
                assert info.start.isoformat() == "2024-06-23T10:02:33.123456+00:00"
                assert (info.sun_zenith_deg, info.sun_azimuth_deg) == (28.75, 141.5)
                assert (info.attributes["cloud_percent"], info.warnings) == (4.2, ())
            else:
                assert f"{info.start:%Y-%m-%d}" == "2024-06-23"
                assert any("metadata (*_MTL) are missing" in text for text in info.warnings)

    @pytest.mark.parametrize(
        ("scene", "words"),
        [
            ("LC08_L1TP_193028_20240623_20240701_02_T1", "no Collection 2 Level 2 product"),
            ("LC08_L2SP_193028_20200623_20200701_01_T1", "no Collection 2 Level 2 product"),
            ("LE07_L2SP_193028_20200623_20200701_02_T1", "another Landsat than 8 or 9"),
        ],
    )
    def test_other_products(self, tmp_path: Path, scene: str, words: str) -> None:
        with pytest.raises(InputError, match=words) as caught:
            open_msi([landsat(tmp_path, scene)])
        assert caught.value.exit_code == 3
        assert caught.value.hint

    def test_incomplete_and_damaged_ones(self, tmp_path: Path) -> None:
        landsat(tmp_path)
        (tmp_path / f"{LANDSAT}_MTL.json").write_text("{")
        with pytest.raises(InputError, match="metadata cannot be read"):
            open_msi([tmp_path])
        wrong = FACTS | {"LEVEL2_SURFACE_REFLECTANCE_PARAMETERS": {}}
        landsat(tmp_path, facts=wrong)
        with pytest.raises(InputError, match="scale and offset of band 1 cannot be meant"):
            open_msi([tmp_path])
        landsat(tmp_path, facts={"IMAGE_ATTRIBUTES": {}})
        with pytest.raises(InputError, match="have no group LEVEL2"):
            open_msi([tmp_path])
        landsat(tmp_path)
        (tmp_path / f"{LANDSAT}_SR_B4.TIF").unlink()
        with pytest.raises(InputError, match="has no band B4"):
            open_msi([tmp_path])
        landsat(tmp_path, LANDSAT.replace("LC08", "LC09"))
        with pytest.raises(InputError, match="holds 2 Landsat scenes"):
            open_msi([tmp_path])
        with open_msi([tmp_path / f"{LANDSAT.replace('LC08', 'LC09')}_SR_B2.TIF"]) as product:
            assert product.info.sensor == "Landsat 9 OLI"


def test_the_top_of_the_atmosphere_beside_the_surface(tmp_path: Path) -> None:
    """Fusing both would put the air into the spectra: refused, or said where it is wanted all the same."""
    hsi, msi = tmp_path / "hsi", tmp_path / "msi"
    msi.mkdir()
    grid = Grid.from_origin(GRID.crs, 600_000.0, 5_000_000.0, 30.0, 8, 10)
    samples.make_enmap(hsi, np.full((224, 8, 10), 900, np.uint16), grid, level="L1C", gain=np.full(224, 5e-5))
    browser(msi)
    with (
        ExitStack() as stack,
        pytest.raises(InputError, match=r"top of the atmosphere, .* that of the surface") as caught,
    ):
        open_pair(hsi, [msi], RunConfig(), stack)
    assert caught.value.exit_code == 3
    assert "--allow-radiometry-mismatch" in caught.value.hint
    with ExitStack() as stack:
        pair = open_pair(hsi, [msi], RunConfig(allow_radiometry_mismatch=True), stack)
        assert any("top of the atmosphere" in text for text in pair.warnings)


@pytest.mark.parametrize(("level", "warned"), [("L1C", False), ("L2A", True)])
def test_a_guide_above_the_atmosphere_is_told_where_the_other_image_is_below(
    tmp_path: Path, level: str, warned: bool
) -> None:
    grid = Grid.from_origin(SAFE_GRID.crs, 600_000.0, 5_000_040.0, 30.0, 8, 10)
    hsi = tmp_path / "hsi"
    samples.make_enmap(hsi, np.full((224, 8, 10), 900, np.uint16), grid, level=level, gain=np.full(224, 5e-5))
    with ExitStack() as stack:
        pair = open_pair(hsi, [make_safe(tmp_path, level="L1C")], RunConfig(), stack)
        assert any("L2A fits better" in text for text in pair.warnings) is warned


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("SENTINEL2_L2A:/data/x.SAFE/MTD_MSIL2A.xml:10m:EPSG_32632", "/data/x.SAFE/MTD_MSIL2A.xml"),
        ("SENTINEL2_L1C:/data/x.SAFE/MTD_MSIL1C.xml:TCI:EPSG_32632", "/data/x.SAFE/MTD_MSIL1C.xml"),
        ("SENTINEL2_L2A:MTD_MSIL2A.xml", "MTD_MSIL2A.xml"),
        ("SENTINEL2_L2A:/vsizip//data/x.zip/x.SAFE/MTD_MSIL2A.xml:20m:EPSG_32733", "/data/x.zip"),
        ("/vsizip//data/x.ZIP/x.SAFE", "/data/x.ZIP"),
        ("/data/plain.tif", "/data/plain.tif"),
        ("C:odd name", "C:odd name"),
        ("~/x.he5", "HOME/x.he5"),
        ("~nobody-of-that-name/x", "~nobody-of-that-name/x"),
    ],
)
def test_paths_as_people_give_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, meant: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert given_path(text) == given_path(Path(text)) == Path(meant.replace("HOME", str(tmp_path)))
