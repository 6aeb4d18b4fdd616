"""EnMAP and DESIS as they are delivered: exact bands, reflectance, masks and positions, read again independently."""

from __future__ import annotations

import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import package_samples as samples
import pytest
import rasterio
from rasterio.crs import CRS

from hsfuse.errors import InputError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers import open_hsi
from hsfuse.readers.base import ERROR_INVALID_L1, HyperspectralProduct
from hsfuse.readers.choose import choose_reader, likely_role
from hsfuse.readers.solar import band_irradiance, sun_distance_au
from hsfuse.simulate.dlr_package import PackageLayout
from hsfuse.spectral import BandTable

GRID = Grid.from_origin(CRS.from_epsg(32633), 364_095.0, 5_809_965.0, 30.0, 21, 26)
RNG = np.random.default_rng(8)
BLOCK = Slice2D(3, 17, 2, 25)


def numbers(bands: int) -> np.ndarray:
    dn = RNG.integers(-50, 5000, (bands, *GRID.shape)).astype(np.int16)
    dn[:, :2, :3] = -32768
    dn[5, 10, 10] = -32768
    return dn


@pytest.fixture(scope="module")
def enmap(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, PackageLayout]:
    folder = tmp_path_factory.mktemp("e") / "ENMAP01"
    dn = numbers(224)
    gain, offset = np.linspace(0.9e-4, 1.1e-4, 224), np.linspace(-0.002, 0.002, 224)
    masks = {name: np.zeros((1, *GRID.shape), np.uint8) for name in ("CLOUD", "CLOUDSHADOW", "CIRRUS", "HAZE", "SNOW")}
    masks["CLOUD"][0, 5:8, 5:9] = 1
    masks["CLOUDSHADOW"][0, 12, 4:9] = 1
    masks["CIRRUS"][0, 15, 10:14] = [1, 2, 3, 0]
    masks["HAZE"][0, 9] = 1
    layers = {f"QL_QUALITY_{name}": layer for name, layer in masks.items()}
    layers["QL_PIXELMASK"] = np.zeros((224, *GRID.shape), np.uint8)
    layers["QL_PIXELMASK"][17, 6, 6] = 1
    facts = samples.make_enmap(folder, dn, GRID, gain=gain, offset=offset, layers=layers)
    return folder, dn, facts


def metadata(folder: Path) -> ElementTree.Element:
    return ElementTree.parse(next(folder.glob("*-METADATA.*"))).getroot()


class TestEnmap:
    @pytest.mark.parametrize("how", ["folder", "above", "xml", "tif", "stored", "deflated", "deep"])
    def test_every_way_to_name_a_product(self, enmap: tuple, tmp_path: Path, how: str) -> None:
        folder, dn, facts = enmap
        given = {
            "folder": lambda: folder,
            "above": lambda: folder.parent,
            "xml": lambda: next(folder.glob("*METADATA.XML")),
            "tif": lambda: next(folder.glob("*SPECTRAL_IMAGE.TIF")),
            "stored": lambda: samples.pack(folder, tmp_path / "e.zip", zipfile.ZIP_STORED),
            "deflated": lambda: samples.pack(folder, tmp_path / "e.zip", zipfile.ZIP_DEFLATED),
            "deep": lambda: samples.pack(folder, tmp_path / "e.zip", zipfile.ZIP_STORED, f"a/{folder.name}/"),
        }[how]()
        assert choose_reader(given, "hsi").name == "enmap"
        assert likely_role(given) == "hsi"
        with open_hsi(given) as product:
            assert isinstance(product, HyperspectralProduct)
            assert product.info.sensor == "EnMAP"
            slots = product.bands.slot
            want = dn[slots] * facts.gains[slots, None, None] + facts.offsets[slots, None, None]
            want[dn[slots] == -32768] = np.nan
            np.testing.assert_allclose(product.read(product.grid.full), want, atol=1e-7)

    def test_bands_positions_and_facts_by_independent_code(self, enmap: tuple) -> None:
        folder, _, _ = enmap
        root = metadata(folder)
        listed = [
            (int(b.get("number")), *(float(b.findtext(t)) for t in ("wavelengthCenterOfBand", "FWHMOfBand")))
            for b in root.iter("bandID")
        ]
        with open_hsi(folder, cut_nm=950) as product, rasterio.open(next(folder.glob("*SPECTRAL_IMAGE.TIF"))) as image:
            assert product.grid.crs == image.crs
            assert product.grid.transform == image.transform
            assert product.grid.shape == image.shape
            for centre, fwhm, slot, detector in zip(
                product.bands.centre_nm, product.bands.fwhm_nm, product.bands.slot, product.bands.detector, strict=True
            ):
                assert listed[slot] == (slot + 1, centre, fwhm)
                assert detector == ("VNIR" if centre <= 950 else "SWIR")
            assert np.all(np.diff(product.bands.centre_nm) > 0)
            assert product.overlap_report.overlap_nm == pytest.approx((902.25, 999.1))
            info = product.info
            assert (info.level, info.start.isoformat()) == ("L2A", "2022-07-24T10:45:26.123456+00:00")
            assert info.sun_zenith_deg == pytest.approx(90 - float(root.findtext("specific/sunElevationAngle/center")))
            assert (info.sun_azimuth_deg, info.view_zenith_deg) == (154.5, 13.75)
            assert info.attributes["processor_version"] == "V01.03.02"
            assert info.attributes["cloud_percent"] == 7
            assert info.attributes["radiometry"] == "surface"
            assert info.warnings == ()

    def test_masks(self, enmap: tuple) -> None:
        folder, dn, _ = enmap

        def layer(name: str) -> np.ndarray:
            with rasterio.open(next(folder.glob(f"*-{name}.TIF"))) as file:
                return file.read(1, window=BLOCK.window)

        with open_hsi(folder) as product:
            hidden = (layer("QL_QUALITY_CLOUD") > 0) | (layer("QL_QUALITY_CLOUDSHADOW") > 0)
            assert np.array_equal(product.cloud(BLOCK), hidden | (layer("QL_QUALITY_CIRRUS") > 1))
            assert np.array_equal(product.valid(product.grid.full), (dn != -32768).any(axis=0))
            codes = product.error_codes(product.grid.full)
            band = int(np.flatnonzero(product.bands.slot == 17)[0])
            assert codes[band, 6, 6] == ERROR_INVALID_L1
            assert np.count_nonzero(codes) == 1
            part = product.read(BLOCK, [7, 2])
            assert np.array_equal(part, product.read(product.grid.full)[[7, 2]][:, *BLOCK.slices], equal_nan=True)

    def test_l1c_becomes_reflectance_of_the_top_of_the_atmosphere(self, tmp_path: Path) -> None:
        dn = RNG.integers(1, 4000, (224, *GRID.shape)).astype(np.uint16)
        dn[:, 0] = 0
        gain = np.full(224, 5e-5)
        samples.make_enmap(tmp_path, dn, GRID, level="L1C", gain=gain)
        with open_hsi(tmp_path) as product:
            bands = product.bands
            cosine = np.cos(np.deg2rad(90 - 57.25))
            distance = sun_distance_au(product.info.start)
            assert distance == pytest.approx(1.0158, abs=3e-4), "end of July"
            want = np.pi * distance**2 * dn[bands.slot] * 5e-5 / (band_irradiance(bands) * cosine)[:, None, None]
            got = product.read(product.grid.full)
            np.testing.assert_allclose(got[:, 1:], want[:, 1:], rtol=1e-5)
            assert np.isnan(got[:, 0]).all()
            assert product.info.attributes["radiometry"] == "top of atmosphere"
            assert any("quality layers are missing" in text for text in product.info.warnings)

    def test_cog_names(self, tmp_path: Path) -> None:
        samples.make_enmap(tmp_path, numbers(224), GRID, cog=True)
        with open_hsi(tmp_path) as product:
            assert len(product.bands) > 200


class TestDesis:
    @pytest.mark.parametrize("bands", [235, 60])
    def test_l2a(self, tmp_path: Path, bands: int) -> None:
        dn = numbers(bands)
        quality = np.zeros((10, *GRID.shape), np.uint8)
        quality[0, 4] = quality[5, 6, 6] = quality[6, 8, 8] = quality[2, 9] = 1
        facts = samples.make_desis(tmp_path / "d", dn, GRID, layers={"QL_QUALITY-2": quality})
        packed = samples.pack(tmp_path / "d", tmp_path / "d.zip", zipfile.ZIP_DEFLATED)
        root = metadata(tmp_path / "d")
        for given in (tmp_path / "d", packed):
            with open_hsi(given) as product:
                assert product.info.sensor == "DESIS"
                centres = [float(e.text) for e in root.iter("wavelengthCenterOfBand")]
                assert product.bands.centre_nm.tolist() == centres
                assert np.array_equal(product.bands.fwhm_nm, facts.bands.fwhm_nm)
                want = np.where(dn == -32768, np.nan, dn * 1e-4)
                np.testing.assert_allclose(product.read(product.grid.full), want, atol=1e-7)
                hidden = quality[[0, 5, 6]].any(axis=0)
                assert np.array_equal(product.cloud(product.grid.full), hidden)
                assert (product.info.sun_zenith_deg, product.info.view_zenith_deg) == (36.5, 4.5)
                assert not product.bands.in_swir(1001).any()
                assert any("no SWIR bands" in text for text in product.info.warnings)

    def test_l1c(self, tmp_path: Path) -> None:
        dn = RNG.integers(100, 4000, (235, *GRID.shape)).astype(np.int16)
        gain, offset = np.linspace(2e-3, 4e-3, 235), np.linspace(0, 0.3, 235)
        samples.make_desis(tmp_path, dn, GRID, level="L1C", gain=gain, offset=offset)
        with open_hsi(tmp_path) as product:
            # mW cm⁻² sr⁻¹ µm⁻¹ are a hundredth of W m⁻² sr⁻¹ nm⁻¹.
            radiance = (dn * gain[:, None, None] + offset[:, None, None]) / 100
            sun = band_irradiance(product.bands) * np.cos(np.deg2rad(36.5)) / sun_distance_au(product.info.start) ** 2
            np.testing.assert_allclose(
                product.read(product.grid.full), np.pi * radiance / sun[:, None, None], rtol=1e-5
            )


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"<level>L2A</level>": "<level>L1B</level>"}, "level 'L1B'; fusion needs an orthorectified"),
            ({"<level>L2A</level>": ""}, "level 'unknown'"),
            ({'<bandID number="7">': '<bandID number="8">'}, "do not describe the bands one by one"),
            ({"<FWHMOfBand>6.9</FWHMOfBand>": "<FWHMOfBand>wide</FWHMOfBand>"}, "metadata of band 1 are incomplete"),
            ({"418.24</wave": "4182.4</wave"}, "are not EnMAP's"),
            ({"<GainOfBand>0.0001<": "<GainOfBand>1e30<"}, "gains and offsets of the bands cannot be meant"),
            ({"<OffsetOfBand>0.0<": "<OffsetOfBand>1e30<"}, "gains and offsets of the bands cannot be meant"),
            ({"</level_X>": ""}, "is damaged"),
        ],
    )
    def test_metadata_that_cannot_be_meant(self, tmp_path: Path, changes: dict[str, str], words: str) -> None:
        samples.make_enmap(tmp_path, numbers(224), GRID, changes=changes)
        with pytest.raises(InputError, match=words) as caught:
            open_hsi(tmp_path)
        assert caught.value.exit_code == 3
        assert caught.value.hint

    def test_files_that_do_not_belong_together(self, tmp_path: Path) -> None:
        small = np.zeros((1, 5, 5), np.uint8)
        samples.make_enmap(tmp_path / "a", numbers(224), GRID)
        scene = next((tmp_path / "a").glob("*METADATA.XML")).name.removesuffix("-METADATA.XML")
        samples.write_tif(tmp_path / "a" / f"{scene}-QL_QUALITY_CLOUD.TIF", small, GRID)
        with pytest.raises(InputError, match="QL_QUALITY_CLOUD has 5 x 5 pixels, the image 21 x 26"):
            open_hsi(tmp_path / "a")
        samples.make_enmap(tmp_path / "b", numbers(224), GRID)
        samples.write_tif(next((tmp_path / "b").glob("*SPECTRAL_IMAGE.TIF")), numbers(100), GRID, -32768)
        with pytest.raises(InputError, match="the image has 100 bands, its metadata describe 224"):
            open_hsi(tmp_path / "b")

    def test_files_that_are_missing_or_cut_off(self, tmp_path: Path) -> None:
        samples.make_enmap(tmp_path, numbers(224), GRID)
        image = next(tmp_path.glob("*SPECTRAL_IMAGE.TIF"))
        raw = image.read_bytes()
        image.write_bytes(raw[: len(raw) // 2])
        with pytest.raises(InputError, match=r"SPECTRAL_IMAGE of .* cannot be read"), open_hsi(tmp_path) as product:
            product.read(product.grid.full)
        image.unlink()
        with pytest.raises(InputError, match=r"has no file '\*-SPECTRAL_IMAGE'"):
            open_hsi(tmp_path)

    def test_two_scenes_in_one_folder(self, tmp_path: Path) -> None:
        samples.make_enmap(tmp_path, numbers(224), GRID)
        for file in list(tmp_path.iterdir()):
            (tmp_path / file.name.replace("_008_", "_009_")).write_bytes(file.read_bytes())
        with pytest.raises(InputError, match="holds 2 scenes of EnMAP instead of one"):
            open_hsi(tmp_path)
        with open_hsi(next(tmp_path.glob("*_009_*METADATA.XML"))) as product:
            assert "_009_" in product.info.name


def test_irradiance_of_wide_bands_is_that_of_the_standard() -> None:
    # Sentinel-2A's own figures (W m⁻² µm⁻¹) for B03, B04 and B11: 1822.61, 1512.06, 245.59.
    bands = BandTable.make([559.8, 664.6, 1613.7], [34.8, 30.6, 89.7])
    np.testing.assert_allclose(band_irradiance(bands) * 1000, [1822.61, 1512.06, 245.59], rtol=0.02)
    assert sun_distance_au(__import__("datetime").datetime(2024, 1, 3)) == pytest.approx(0.9833, abs=2e-4)


@pytest.mark.parametrize("mission", ["enmap", "desis"])
def test_every_number_by_independent_code(tmp_path: Path, mission: str) -> None:
    """All that the metadata list of the bands and the scene, by ElementTree, and the image, by GDAL."""
    count = 224 if mission == "enmap" else 235
    gain, offset = np.linspace(0.8e-4, 1.2e-4, count), np.linspace(-0.01, 0.01, count)
    make = samples.make_enmap if mission == "enmap" else samples.make_desis
    make(tmp_path, numbers(count), GRID, gain=gain, offset=offset)
    root = metadata(tmp_path)
    place, *names = {
        "enmap": ("bandID", "wavelengthCenterOfBand", "FWHMOfBand", "GainOfBand", "OffsetOfBand"),
        "desis": ("band", "wavelengthCenterOfBand", "wavelengthWidthOfBand", "gainOfBand", "offsetOfBand"),
    }[mission]
    entries = root.findall(f"specific/bandCharacterisation/{place}")
    listed = np.array([[float(entry.findtext(name)) for name in names] for entry in entries])
    background = float(root.findtext("specific/backgroundValue") or -32768)
    with open_hsi(tmp_path) as product, rasterio.open(next(tmp_path.glob("*SPECTRAL_IMAGE.*"))) as image:
        slots = product.bands.slot
        assert listed.shape == (image.count, 4)
        assert np.array_equal(product.bands.centre_nm, listed[slots, 0])
        assert np.array_equal(product.bands.fwhm_nm, listed[slots, 1])
        stored = image.read()[slots].astype(np.float64)
        want = stored * listed[slots, 2, None, None] + listed[slots, 3, None, None]
        want[stored == background] = np.nan
        np.testing.assert_allclose(product.read(product.grid.full), want, atol=1e-7)
        info = product.info
        assert info.start.isoformat()[:19] == root.findtext("base/temporalCoverage/startTime")[:19]
        if mission == "enmap":
            angle = {name: float(root.findtext(f"specific/{name}/center")) for name in (
                "sunElevationAngle", "sunAzimuthAngle", "viewingZenithAngle")}  # fmt: skip
            angles = (90 - angle["sunElevationAngle"], angle["sunAzimuthAngle"], angle["viewingZenithAngle"])
            cover = {flag.tag: float(flag.text) for flag in root.find("specific/qualityFlag")
                     if flag.tag.endswith(("Cover", "Shadow"))}  # fmt: skip
            assert dict(info.attributes["cover_percent"]) == cover
            expected = {
                name: [
                    int(n)
                    for n in root.findtext(f"specific/{name.lower()}ProductQuality/expectedChannelsList").split(",")
                ]
                for name in ("VNIR", "SWIR")
            }
            for slot, detector in zip(slots, product.bands.detector, strict=True):
                assert slot + 1 in expected[detector]
            assert info.attributes["schema_version"] == root.findtext("metadata/schema/versionSchema")
            assert info.attributes["archived_version"] == root.findtext("base/archivedVersion")
        else:
            angles = tuple(float(root.findtext(f"specific/{name}")) for name in (
                "sunZenithAngle", "sunAzimuthAngle", "sceneIncidenceAngle"))  # fmt: skip
            assert info.attributes["cloud_percent"] == float(root.findtext("specific/clouds/percentageClouds"))
        assert (info.sun_zenith_deg, info.sun_azimuth_deg, info.view_zenith_deg) == pytest.approx(angles)
        assert info.attributes["processor_version"] == root.findtext("base/revision")
        assert info.attributes["product_name"] == root.findtext("metadata/name")
        # The corners that the metadata state are those of the image.
        for point in root.iter("point"):
            if point.findtext("frame") in ("upper_left", "point_1"):
                place = float(point.findtext("longitude")), float(point.findtext("latitude"))
                x, y = rasterio.warp.transform("EPSG:4326", product.grid.crs, *([v] for v in place))
                assert (x[0], y[0]) == pytest.approx(product.grid.bounds[::3], abs=0.01)


ELEMENTS = {
    "enmap": """
metadata: schema/processingLevel schema/versionSchema name comment
processing: terrainCorrection ozoneValue season productFormat mapProjection DEMDBVersion correctionType
 cirrusHazeRemoval bandInterpolation waterType
base: level format size revision archivedVersion temporalCoverage/startTime temporalCoverage/stopTime
 spatialCoverage/boundingPolygon/point/frame spatialCoverage/boundingPolygon/point/latitude
 spatialCoverage/boundingPolygon/point/longitude
specific: code mission satelliteID datatakeID tileID datatakeStart datatakeStop backgroundValue widthOfScene
 heightOfScene widthOfOrthoScene heightOfOrthoScene pixelSize pixelSizeOfOrthoScene orthoRMSE orthoRMSE_x orthoRMSE_y
 meanGroundElevation numberOfVNIRBands numberOfSWIRBands SWIRAOrSWIRBSelected
 spatialCoverageOfOrthoScene/boundingPolygon/point/latitude spatialCoverageOfDatatake/boundingPolygon/point/longitude
 qualityFlag/cloudCover qualityFlag/cloudShadow qualityFlag/hazeCover qualityFlag/cirrusCover qualityFlag/snowCover
 qualityFlag/waterCover qualityFlag/deadPixelsVNIR qualityFlag/deadPixelsSWIR qualityFlag/sceneSZA qualityFlag/sceneAOT
 qualityFlag/sceneWV sunElevationAngle/center sunAzimuthAngle/upper_left acrossOffNadirAngle/upper_right
 alongOffNadirAngle/lower_left sceneAzimuthAngle/lower_right viewingZenithAngle/center viewingAzimuthAngle/center
 vnirProductQuality/expectedChannelsList vnirProductQuality/numChannelsExpected swirProductQuality/expectedChannelsList
 swirProductQuality/numChannelsExpected bandCharacterisation/bandID/wavelengthCenterOfBand
 bandCharacterisation/bandID/FWHMOfBand bandCharacterisation/bandID/GainOfBand bandCharacterisation/bandID/OffsetOfBand
product: productFileInformation/file/name productFileInformation/file/size productFileInformation/file/version
 productFileInformation/file/format image/merge/name image/merge/channels image/merge/dimension/rows
 image/merge/dimension/columns ortho/projection ortho/resolution""",
    "desis": """
metadata: name
processing: ozoneValue
base: altitudeCoverage revision temporalCoverage/startTime temporalCoverage/endTime
 spatialCoverage/boundingPolygon/point/frame spatialCoverage/boundingPolygon/point/latitude
 spatialCoverage/boundingPolygon/point/longitude
specific: mission satelliteID sensor productType sunZenithAngle sunAzimuthAngle sceneAzimuthAngle sceneIncidenceAngle
 pointingMirrorAngle pixelSize widthOfScene heightOfScene matchingMethod orthoRMSE_x orthoRMSE_y
 terrain/meanGroundElevation terrain/meanSlope waterVapour/meanWaterVapour meanAerosolOpticalThickness
 haze/percentageHaze clouds/percentageClouds cloudShadow/percentageCloudShadow topoShadow/percentageTopoShadow
 orbit/point/timeUTC orbit/point/location/X interiorOrientation/band bandCharacterisation/band/bandNumber
 bandCharacterisation/band/wavelengthCenterOfBand bandCharacterisation/band/wavelengthWidthOfBand
 bandCharacterisation/band/response bandCharacterisation/band/wavelengths bandCharacterisation/band/gainOfBand
 bandCharacterisation/band/offsetOfBand bandCharacterisation/band/deadPixels
 bandCharacterisation/band/suspiciousPixel""",
}
"""What SNAP, EnPT, EnMAP-Box, SISTER, acolite and others look for in these files, in the order of their parts."""


@pytest.mark.parametrize("mission", ["enmap", "desis"])
def test_the_metadata_have_all_elements_in_their_places(tmp_path: Path, mission: str) -> None:
    getattr(samples, f"make_{mission}")(tmp_path, numbers(224), GRID)
    root = metadata(tmp_path)
    wanted = {}
    for section in ELEMENTS[mission].replace("\n ", " ").split("\n")[1:]:
        name, _, places = section.partition(": ")
        wanted[name] = places.split()
    assert [part.tag for part in root] == list(wanted)
    missing = [
        f"{name}/{place}" for name, places in wanted.items() for place in places if root.find(f"{name}/{place}") is None
    ]
    assert not missing
    band = "bandID" if mission == "enmap" else "band"
    assert len(root.findall(f"specific/bandCharacterisation/{band}")) == 224
    if mission == "enmap":
        order = ["upper_left", "upper_right", "lower_left", "lower_right", "center"]
        assert [corner.tag for corner in root.find("specific/sunElevationAngle")] == order
        assert root.find("specific/sunElevationAngle").get("unit") == "DEG"
        listed = {file.text for file in root.iterfind("product/productFileInformation/file/name")}
        assert {file.name for file in tmp_path.iterdir()} <= {*listed, *(f.name for f in tmp_path.glob("*HISTORY*"))}


class TestDelivered:
    """Names and numbers that real deliveries have, beside those that are described."""

    @pytest.mark.parametrize("mission", ["enmap", "desis"])
    @pytest.mark.parametrize("packed", [False, True])
    def test_parts_without_the_name_of_the_scene(self, tmp_path: Path, mission: str, packed: bool) -> None:
        getattr(samples, f"make_{mission}")(tmp_path / "scene_7", numbers(224), GRID)
        folder = tmp_path / "scene_7"
        for file in list(folder.iterdir()):
            name = next(name for name in ("METADATA", "SPECTRAL_IMAGE", "HISTORY") if name in file.name)
            file.rename(folder / f"{name}{file.suffix}")
        given = samples.pack(folder, tmp_path / "scene_7.zip", zipfile.ZIP_STORED) if packed else folder
        for path in (given,) if packed else (given, *folder.glob("METADATA.*"), *folder.glob("SPECTRAL_IMAGE.*")):
            with open_hsi(path) as product:
                assert product.info.name == "scene_7"
                assert product.info.sensor.lower() == mission

    def test_metadata_named_xml_twice(self, tmp_path: Path) -> None:
        samples.make_enmap(tmp_path, numbers(224), GRID, cog=True)
        file = next(tmp_path.glob("*-METADATA.XML"))
        file.rename(file.with_name(f"{file.name}.XML"))
        for path in (tmp_path, next(tmp_path.glob("*SPECTRAL_IMAGE_COG.TIF"))):
            with open_hsi(path) as product:
                assert product.info.sensor == "EnMAP"

    def test_the_mask_of_pixels_is_255_outside_the_image(self, tmp_path: Path) -> None:
        mask = np.zeros((224, *GRID.shape), np.uint8)
        mask[:, :3] = 255
        mask[9, 8, 8] = 1
        samples.make_enmap(tmp_path, numbers(224), GRID, layers={"QL_PIXELMASK": mask})
        with open_hsi(tmp_path) as product:
            codes = product.error_codes(product.grid.full)
            assert np.argwhere(codes).tolist() == [[int(np.flatnonzero(product.bands.slot == 9)[0]), 8, 8]]

    def test_a_background_that_is_not_that_of_the_image(self, tmp_path: Path) -> None:
        dn = numbers(224)
        samples.make_enmap(tmp_path, dn, GRID, changes={"<backgroundValue>-32768<": "<backgroundValue>-9999<"})
        with open_hsi(tmp_path) as product:
            cube = product.read(product.grid.full)
            assert np.array_equal(np.isnan(cube), dn[product.bands.slot] == -32768)
            assert np.array_equal(product.valid(product.grid.full), (dn != -32768).any(axis=0))

    def test_cloud_cover_of_desis_in_the_older_place(self, tmp_path: Path) -> None:
        changes = {"<clouds><percentageClouds>11</percentageClouds></clouds>": "<cloudCoverage>12</cloudCoverage>"}
        samples.make_desis(tmp_path, numbers(60), GRID, changes=changes)
        with open_hsi(tmp_path) as product:
            assert product.info.attributes["cloud_percent"] == 12


@pytest.mark.parametrize("mission", ["enmap", "desis"])
class TestIncomplete:
    """What a broken download leaves: one sentence, a hint, exit code 3, never a cube or another reader's words."""

    def made(self, folder: Path, mission: str) -> Path:
        if mission == "enmap":
            samples.make_enmap(folder, numbers(224), GRID)
        else:
            samples.make_desis(folder, numbers(60), GRID)
        return folder

    @pytest.mark.parametrize("how", ["folder", "image", "zip"])
    def test_missing_metadata(self, tmp_path: Path, mission: str, how: str) -> None:
        folder = self.made(tmp_path / "p", mission)
        next(path for path in folder.iterdir() if "METADATA" in path.name).unlink()
        given = folder
        if how == "image":
            given = next(folder.glob("*SPECTRAL_IMAGE*"))
        elif how == "zip":
            given = samples.pack(folder, tmp_path / "p.zip", zipfile.ZIP_STORED)
        with pytest.raises(InputError, match=r"product has no file '\*-METADATA'") as caught:
            open_hsi(given)
        assert caught.value.exit_code == 3
        assert "Keep all files" in caught.value.hint

    @pytest.mark.parametrize("left", [0, 200])
    def test_metadata_that_are_cut_off(self, tmp_path: Path, mission: str, left: int) -> None:
        folder = self.made(tmp_path, mission)
        file = next(path for path in folder.iterdir() if "METADATA" in path.name)
        file.write_bytes(file.read_bytes()[:left])
        with pytest.raises(InputError, match="is damaged") as caught:
            open_hsi(folder)
        assert caught.value.exit_code == 3

    def test_an_image_without_a_map_position(self, tmp_path: Path, mission: str) -> None:
        folder = self.made(tmp_path, mission)
        image = next(folder.glob("*SPECTRAL_IMAGE*"))
        with rasterio.open(image) as file:
            values = file.read()
        with rasterio.open(image, "w", driver="GTiff", height=GRID.height, width=GRID.width, count=len(values),
                           dtype="int16", nodata=-32768) as out:  # fmt: skip
            out.write(values)
        with pytest.raises(InputError, match="no map position"):
            open_hsi(folder)

    def test_a_zip_that_is_cut_off(self, tmp_path: Path, mission: str) -> None:
        packed = samples.pack(self.made(tmp_path / "p", mission), tmp_path / f"{mission}.zip", zipfile.ZIP_STORED)
        packed.write_bytes(packed.read_bytes()[:-3000])
        with pytest.raises(InputError) as caught:
            open_hsi(packed)
        assert caught.value.exit_code == 3
        assert caught.value.hint

    def test_an_image_with_a_header_of_its_own_is_a_raster(self, tmp_path: Path, mission: str) -> None:
        folder = self.made(tmp_path, mission)
        image = next(folder.glob("*SPECTRAL_IMAGE*"))
        next(path for path in folder.iterdir() if "METADATA" in path.name).unlink()
        with rasterio.open(image) as file:
            bands = file.count
        listed = ", ".join(map(str, range(400, 400 + bands)))
        image.with_suffix(".hdr").write_text(
            f"ENVI\nbands = {bands}\nwavelength units = nm\nwavelength = {{{listed}}}\n"
        )
        with open_hsi(image) as product:
            assert product.info.attributes["driver"] == "GTiff"
