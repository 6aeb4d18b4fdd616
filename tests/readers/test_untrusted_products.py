"""Products from elsewhere: damaged, altered, made to read what nobody gave, or left among strangers' files."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import threading
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from safe_samples import GRID, copy_writable, edit_xml, make_safe, reflectance, write_jp2, zip_product

from hsfuse.errors import InputError
from hsfuse.grid import Grid
from hsfuse.readers import hdf5_file, open_hsi, open_msi, open_product
from hsfuse.readers.decoder import DecoderError, decoder_warnings_are_errors
from hsfuse.readers.sentinel2 import archive as safe_archive
from hsfuse.readers.sentinel2.codestream import damage_of
from hsfuse.readers.sentinel2.product import Sentinel2Product
from hsfuse.simulate.prisma import CubeBlock, PrismaLayout, write_prisma


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_safe(tmp_path_factory.mktemp("safe"))


@pytest.fixture(scope="module")
def prisma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    grid = Grid.from_origin(CRS.from_epsg(32632), 547452.5, 5953067.5, 30.0, 6, 5)
    cube = np.full((234, 6, 5), 0.3, np.float32)
    folder = tmp_path_factory.mktemp("prisma")
    return write_prisma(folder / "p.he5", PrismaLayout(grid=grid), [CubeBlock(0, cube)])


@pytest.fixture
def server() -> Iterator[tuple[str, list[bytes]]]:
    """Address of a server on this machine, and what was asked of it."""
    asked: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.2)
    end = threading.Event()

    def serve() -> None:
        while not end.is_set():
            try:
                client, _ = listening.accept()
            except TimeoutError:
                continue
            with client:
                client.settimeout(1)
                asked.append(client.recv(1000))

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
    end.set()
    thread.join()
    listening.close()


def read_all(path: Path) -> np.ndarray:
    with open_msi(path) as opened:
        return opened.read(opened.grid.full)


class TestStrangers:
    @pytest.mark.parametrize(
        "name",
        [".DS_Store", "._L2A_T32TPQ", "Thumbs.db", "desktop.ini", "L2A_T32TPQ_$folder$", "@eaDir/x@Syno", "notes.txt"],
    )
    def test_in_the_granule_folder(self, product: Path, tmp_path: Path, name: str) -> None:
        path = copy_writable(product, tmp_path / product.name)
        for folder in (path, path / "GRANULE", next((path / "GRANULE").iterdir()) / "IMG_DATA" / "R10m"):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("x")
        packed = zip_product(path, tmp_path / "p.zip", zipfile.ZIP_STORED)
        for given in (path, packed):
            assert np.array_equal(read_all(given), read_all(product), equal_nan=True)

    def test_doubles_of_images_that_macos_packs(self, product: Path, tmp_path: Path) -> None:
        packed = zip_product(product, tmp_path / "p.zip", zipfile.ZIP_STORED)
        with zipfile.ZipFile(packed, "a") as archive:
            for name in list(archive.namelist()):
                if not name.endswith("/"):
                    folder, _, base = name.rpartition("/")
                    archive.writestr(f"__MACOSX/{folder}/._{base}", b"\0" * 120)
        assert np.array_equal(read_all(packed), read_all(product), equal_nan=True)


class TestNames:
    @pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    @pytest.mark.parametrize("prefix", ["", "a/b/c/", "a\\b\\", "./"])
    def test_zips_with_backslashes_and_deep_folders(
        self, product: Path, tmp_path: Path, prefix: str, compression: int
    ) -> None:
        packed = tmp_path / "p.zip"
        with zipfile.ZipFile(packed, "w", compression) as archive:
            for file in sorted(product.rglob("*")):
                name = file.relative_to(product.parent).as_posix()
                if file.is_file():
                    archive.writestr(prefix + (name.replace("/", "\\") if "\\" in prefix else name), file.read_bytes())
        assert np.array_equal(read_all(packed), read_all(product), equal_nan=True)

    @pytest.mark.parametrize("folder", ["{x", "y}{", "a,b", "it's", "ü~", "x%20y", "a!b", "vsizip", b"d\xfc"])
    def test_folders_of_any_name(self, product: Path, prisma: Path, tmp_path: Path, folder: str | bytes) -> None:
        home = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + os.fsencode(folder)))
        home.mkdir()
        packed = zip_product(product, home / "p.zip", zipfile.ZIP_STORED)
        shutil.copytree(product, home / product.name)
        want = read_all(product)
        for given in (packed, home / product.name):
            assert np.array_equal(read_all(given), want, equal_nan=True)
        shutil.copyfile(prisma, home / "p.he5")
        with open_hsi(home / "p.he5") as opened:
            assert len(opened.bands) > 200
        with rasterio.open(
            tmp_path / "m.tif", "w", driver="GTiff", height=4, width=4, count=1, dtype="uint8", crs="EPSG:32633",
            transform=rasterio.Affine(10, 0, 0, 0, -10, 0),
        ) as out:  # fmt: skip
            out.write(np.full((1, 4, 4), 9, np.uint8))
        shutil.move(tmp_path / "m.tif", home / "m.tif")
        with open_product(home / "m.tif") as opened:
            assert opened.grid.shape == (4, 4)

    def test_a_file_name_that_is_not_in_utf8(self, tmp_path: Path) -> None:
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xfc.tif"))
        path.write_bytes(b"II*\0")
        with pytest.raises(InputError, match="not in UTF-8"):
            open_product(path)


class TestDamage:
    @pytest.mark.parametrize("packed", [None, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    @pytest.mark.parametrize("length", [40, 3000])
    def test_a_hole_in_an_image(self, product: Path, tmp_path: Path, length: int, packed: int | None) -> None:
        path = copy_writable(product, tmp_path / product.name)
        image = next(path.rglob("*_B04_10m.jp2"))
        raw = bytearray(image.read_bytes())
        raw[len(raw) // 2 : len(raw) // 2 + length] = bytes(length)
        image.write_bytes(raw)
        given = path if packed is None else zip_product(path, tmp_path / "p.zip", packed)
        with pytest.raises(InputError, match=r"B04 in .* cannot be read: its SHA3-256 checksum") as caught:
            read_all(given)
        assert caught.value.exit_code == 3
        assert "_B04_10m.jp2" in caught.value.message
        assert "--no-verify" in caught.value.hint
        if length == 40:
            # Altered on purpose, and asked for: taken as it is.
            with open_msi(given, verify=False) as opened:
                opened.read(opened.grid.full)

    @pytest.mark.parametrize("packed", [None, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    @pytest.mark.parametrize("verify", [False, True])
    def test_a_hole_in_an_image_without_checksum(
        self, product: Path, tmp_path: Path, verify: bool, packed: int | None
    ) -> None:
        path = copy_writable(product, tmp_path / product.name)
        image = next(path.rglob("*_B04_10m.jp2"))
        raw = bytearray(image.read_bytes())
        raw[len(raw) // 2 : len(raw) // 2 + 5000] = bytes(5000)
        image.write_bytes(raw)
        if verify:
            (path / "manifest.safe").unlink()
        given = path if packed is None else zip_product(path, tmp_path / "p.zip", packed)
        with (
            pytest.raises(InputError, match=r"B04 in .* nothing but zeros .*_B04_10m.jp2") as caught,
            open_msi(given, verify=verify) as opened,
        ):
            opened.read(opened.grid.full)
        assert caught.value.exit_code == 3
        assert caught.value.hint

    def test_damage_that_the_structure_shows(self, tmp_path: Path) -> None:
        dn = np.random.default_rng(3).integers(1000, 9000, (300, 300)).astype(np.uint16)
        dn[:140] = 0
        write_jp2(tmp_path / "x.jp2", dn, Grid.from_origin(GRID.crs, 6e5, 5e6, 10, 300, 300))
        raw = (tmp_path / "x.jp2").read_bytes()
        assert damage_of(BytesIO(raw)) is None, "land without data is no hole"
        start = raw.index(b"\xff\x90")
        for changed, words in (
            (raw[: len(raw) // 2], "the file ends after"),
            (raw[: start + 6] + (50).to_bytes(4) + raw[start + 10 :], "no part of a tile follows"),
            (raw[: start + 6] + (3).to_bytes(4) + raw[start + 10 :], "impossible length"),
            (raw[:-8000] + bytes(5000) + raw[-3000:], "nothing but zeros from byte"),
        ):
            assert words in (damage_of(BytesIO(changed)) or ""), words
        for other in (b"", b"II*\0" + bytes(9000), raw[:40], raw[:12] + bytes(9000)):
            damage_of(BytesIO(other))

    def test_describing_a_product_reads_no_image(self, product: Path, tmp_path: Path) -> None:
        path = copy_writable(product, tmp_path / product.name)
        image = next(path.rglob("*_B04_10m.jp2"))
        raw = bytearray(image.read_bytes())
        raw[-3] ^= 1
        image.write_bytes(raw)
        with open_msi(path) as opened:
            assert opened.band_names[2] == "B04"
            opened.read(opened.grid.full, [0])
            # What is looked at ahead is told to whoever wants the pixels, every time.
            opened.read_ahead(opened.grid.full)
            for _ in range(2):
                with pytest.raises(InputError, match=r"B04 in .* checksum"):
                    opened.read(opened.grid.full, [2])

    def test_decoder_warnings_are_errors(self) -> None:
        gdal = logging.getLogger("rasterio._env")
        with pytest.raises(DecoderError, match="Tile 3 is cut off"), decoder_warnings_are_errors():
            gdal.warning("CPLE_AppDefined in %s", "Tile 3 is cut off")
        with decoder_warnings_are_errors():
            gdal.warning("Empty SOT marker detected: Psot=12.")
            threading.Thread(target=gdal.warning, args=("another thread's file",)).start()
        gdal.warning("nobody listens")

    @pytest.mark.parametrize(("number", "words"), [(0, "no data where other bands"), (777, "nothing but 777")])
    def test_flat_blocks_are_reported(
        self, product: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int, words: str
    ) -> None:
        path = copy_writable(product, tmp_path / product.name)
        write_jp2(next(path.rglob("*_B04_10m.jp2")), np.full(GRID.shape, number, np.uint16), GRID)
        with caplog.at_level(logging.WARNING, "hsfuse"), Sentinel2Product(path) as opened:
            opened.read(GRID.full)
            opened.read(GRID.full)
        said = [record.getMessage() for record in caplog.records if "may be damaged" in record.getMessage()]
        assert len(said) == 1
        assert "B04" in said[0]
        assert words in said[0]

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (">10000</BOA_QUANTIFICATION_VALUE>", f">{value}</BOA_QUANTIFICATION_VALUE>")
            for value in ("0", "-10000", "1e30", "1e-30", "nan", "many")
        ]
        + [('band_id="1">-1000<', f'band_id="1">{value}<') for value in ("1e30", "nan", "much")],
    )
    def test_scales_and_offsets_that_cannot_be_meant(self, product: Path, tmp_path: Path, old: str, new: str) -> None:
        path = copy_writable(product, tmp_path / product.name)
        text = next(path.glob("MTD_MSI*.xml")).read_text()
        if old not in text:
            pytest.fail(f"the sample has no {old}")
        edit_xml(path, old, new)
        with pytest.raises(InputError, match=r"QUANTIFICATION|ADD_OFFSET"):
            open_msi(path)


class TestLedElsewhere:
    @pytest.mark.parametrize("suffix", [".jp2", ".tif"])
    def test_a_virtual_raster_under_the_name_of_an_image(self, product: Path, tmp_path: Path, suffix: str) -> None:
        path = copy_writable(product, tmp_path / product.name)
        image = next(path.rglob("*_B04_10m.jp2"))
        secret = tmp_path / "secret.jp2"
        shutil.copyfile(image, secret)
        vrt = (
            f'<VRTDataset rasterXSize="{GRID.width}" rasterYSize="{GRID.height}"><VRTRasterBand dataType="UInt16" '
            f'band="1"><SimpleSource><SourceFilename>{secret}</SourceFilename><SourceBand>1</SourceBand>'
            "</SimpleSource></VRTRasterBand></VRTDataset>"
        )
        image.unlink()
        image.with_suffix(suffix).write_text(vrt)
        (path / "manifest.safe").unlink()
        with pytest.raises(InputError, match=r"B04 in .* cannot be read"):
            read_all(path)
        plain = tmp_path / f"plain{suffix}"
        plain.write_text(vrt)
        for role in (open_hsi, open_msi):
            with pytest.raises(InputError, match="GDAL cannot open"):
                role(plain)

    @pytest.mark.parametrize("how", ["{}/crs", "{}", "urn:{}", "+proj=utm +zone=32", "/etc/hostname", "EPSG:99999999"])
    def test_a_reference_system_that_is_an_address(
        self, product: Path, tmp_path: Path, how: str, server: tuple[str, list[bytes]]
    ) -> None:
        address, asked = server
        path = copy_writable(product, tmp_path / product.name)
        edit_xml(path, "EPSG:32632", how.format(address), tile=True)
        with pytest.raises(InputError, match="unknown reference system"):
            open_msi(path)
        assert asked == []

    @pytest.mark.parametrize("kind", ["external link", "soft link", "loop", "external storage", "virtual"])
    def test_hdf5_links(self, prisma: Path, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "p.he5"
        shutil.copyfile(prisma, path)
        other = tmp_path / "other.h5"
        name = "HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields/VNIR_Cube"
        with h5py.File(path, "r+") as file:
            cube = file[name][...]
            del file[name]
            if kind == "external link":
                with h5py.File(other, "w") as secret:
                    secret["x"] = cube
                file[name] = h5py.ExternalLink(str(other), "/x")
            elif kind == "soft link":
                file["elsewhere"] = cube
                file[name] = h5py.SoftLink("/elsewhere")
            elif kind == "loop":
                file[name] = h5py.SoftLink(f"/{name}")
            elif kind == "external storage":
                (tmp_path / "raw").write_bytes(cube.tobytes())
                file.create_dataset(name, cube.shape, cube.dtype, external=[(str(tmp_path / "raw"), 0, cube.nbytes)])
            else:
                with h5py.File(other, "w") as secret:
                    secret["x"] = cube
                layout = h5py.VirtualLayout(cube.shape, cube.dtype)
                layout[...] = h5py.VirtualSource(other, "x", cube.shape)
                file.create_virtual_dataset(name, layout)
        with pytest.raises(InputError, match=r"link to elsewhere|in another file") as caught:
            open_hsi(path)
        assert caught.value.exit_code == 3


class TestTooMuch:
    def test_xml_that_unpacks_to_gigabytes(
        self, product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(safe_archive, "MAX_TEXT_BYTES", 1 << 20)
        path = copy_writable(product, tmp_path / product.name)
        edit_xml(path, "</n1:General_Info>", " " * (1 << 21) + "</n1:General_Info>")
        for given in (path, zip_product(path, tmp_path / "p.zip", zipfile.ZIP_DEFLATED)):
            with pytest.raises(InputError, match="larger than 1 MB, which no metadata file is"):
                open_msi(given)

    def test_images_that_unpack_to_gigabytes(
        self, product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(safe_archive, "MAX_IMAGE_BYTES", 1000)
        with pytest.raises(InputError, match="more than any image of Sentinel-2"):
            open_msi(zip_product(product, tmp_path / "p.zip", zipfile.ZIP_DEFLATED))

    def test_he5_that_unpacks_to_gigabytes(self, prisma: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        packed = tmp_path / "p.zip"
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(prisma, "p.he5")
        with open_hsi(packed) as opened:
            assert len(opened.bands) > 200
        monkeypatch.setattr(hdf5_file, "SURE_BYTES", 1000)
        monkeypatch.setattr(hdf5_file, "MAX_COMPRESSION", 1.01)
        with pytest.raises(InputError, match="which no PRISMA product is"):
            open_hsi(packed)

    def test_pipes_inside_a_product(self, product: Path, tmp_path: Path) -> None:
        path = copy_writable(product, tmp_path / product.name)
        xml = next(path.glob("MTD_MSI*.xml"))
        xml.unlink()
        os.mkfifo(xml)
        with pytest.raises(InputError, match="holds no Sentinel-2 product"):
            open_msi(path)


class TestFlippedBits:
    def test_every_damage_of_an_he5_is_an_input_error(self, prisma: Path, tmp_path: Path) -> None:
        raw = prisma.read_bytes()
        rng = np.random.default_rng(7)
        path = tmp_path / "p.he5"
        for _ in range(60):
            damaged = bytearray(raw)
            # Structures lie at the start and behind the data.
            for place in rng.integers(0, 6000, 6):
                damaged[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            with contextlib.suppress(InputError), open_hsi(path) as opened:
                opened.read(opened.grid.full)

    def test_text_where_numbers_belong(self, prisma: Path, tmp_path: Path) -> None:
        path = tmp_path / "p.he5"
        shutil.copyfile(prisma, path)
        name = "HDFEOS/SWATHS/PRS_L2D_HCO/Geometric Fields/Observing_Angle"
        with h5py.File(path, "r+") as file:
            shape = file[name].shape
            del file[name]
            file[name] = np.full(shape, b"steep")
        with pytest.raises(InputError, match="does not hold numbers"):
            open_hsi(path)


def test_reflectance_of_the_sample_is_what_was_written(product: Path) -> None:
    np.testing.assert_allclose(read_all(product)[2], reflectance()["B04"], atol=2e-7)
