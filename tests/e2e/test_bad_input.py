"""Bad input: one clear sentence, a hint, the right exit code, no traceback, nothing that looks finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from hsfuse.cli.app import app
from hsfuse.simulate.products import SimulatedPair

runner = CliRunner()
HCO = "HDFEOS/SWATHS/PRS_L2D_HCO"


@pytest.fixture
def prisma(pair: SimulatedPair, tmp_path: Path) -> Path:
    return Path(shutil.copy(pair.prisma, tmp_path / "scene.he5"))


@pytest.fixture
def safe(pair: SimulatedPair, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pair.sentinel2, tmp_path / pair.sentinel2.name))


def run(hsi: Path, msi: Path, output: Path, *flags: str, code: int, message: str) -> str:
    usual = ["--method", "bicubic", "--bands", "12", "--no-report"]
    result = runner.invoke(app, ["run", str(hsi), str(msi), "-o", str(output), *usual, *flags])
    text = " ".join(result.output.split())
    assert result.exit_code == code, text
    assert message.lower() in text.lower()
    if code:
        assert "error: " in text
        assert "hint: " in text
        assert not output.is_file()
    assert "Traceback" not in text
    return text


def edit(path: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def remove_cube(file: h5py.File) -> None:
    del file[f"{HCO}/Data Fields/SWIR_Cube"]


def remove_corner(file: h5py.File) -> None:
    del file.attrs["Product_ULcorner_easting"]


def as_level_1(file: h5py.File) -> None:
    file.attrs["Processing_Level"] = np.bytes_("1")
    file.move("HDFEOS/SWATHS/PRS_L2D_HCO", "HDFEOS/SWATHS/PRS_L1_HCO")


def absurd_wavelengths(file: h5py.File) -> None:
    centre = np.array(file.attrs["List_Cw_Swir"])
    centre[centre > 0] = 7e6
    file.attrs["List_Cw_Swir"] = centre


def all_fill(file: h5py.File) -> None:
    for name in ("VNIR_Cube", "SWIR_Cube"):
        file[f"{HCO}/Data Fields/{name}"][:] = 0
    for name in ("Observing_Angle", "Rel_Azimuth_Angle", "Solar_Zenith_Angle"):
        file[f"{HCO}/Geometric Fields/{name}"][:] = 0


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (remove_cube, 3, "SWIR_Cube"),
        (remove_corner, 3, "Product_ULcorner_easting"),
        (as_level_1, 3, "L2D"),
        (absurd_wavelengths, 3, "wavelength"),
        (all_fill, 4, "no"),
    ],
)
def test_wrong_prisma_products(
    prisma: Path, pair: SimulatedPair, tmp_path: Path, change: Callable[[h5py.File], None], code: int, message: str
) -> None:
    edit(prisma, change)
    run(prisma, pair.sentinel2, tmp_path / "o.tif", code=code, message=message)


def test_no_overlap(pair: SimulatedPair, tmp_path: Path) -> None:
    import rasterio
    from rasterio.transform import from_origin

    far = tmp_path / "far.tif"
    with rasterio.open(
        far, "w", driver="GTiff", width=400, height=400, count=4, dtype="uint16", crs="EPSG:32632",
        transform=from_origin(300_000.0, 4_000_000.0, 10.0, 10.0),
    ) as sink:  # fmt: skip
        sink.write(np.full((4, 400, 400), 900, np.uint16))
    run(pair.prisma, far, tmp_path / "o.tif", code=4, message="does not overlap")


def test_truncated_and_foreign_prisma_files(prisma: Path, pair: SimulatedPair, tmp_path: Path) -> None:
    content = prisma.read_bytes()
    prisma.write_bytes(content[: len(content) // 3])
    run(prisma, pair.sentinel2, tmp_path / "o.tif", code=3, message="scene.he5")
    prisma.write_bytes(b"not a product at all" * 100)
    run(prisma, pair.sentinel2, tmp_path / "o.tif", code=3, message="scene.he5")


def test_safe_without_images(pair: SimulatedPair, safe: Path, tmp_path: Path) -> None:
    for image in safe.rglob("*.jp2"):
        image.unlink()
    run(pair.prisma, safe, tmp_path / "o.tif", code=3, message="no image files")


def test_safe_with_damaged_metadata(pair: SimulatedPair, safe: Path, tmp_path: Path) -> None:
    (safe / "MTD_MSIL2A.xml").write_text("<broken><xml>")
    run(pair.prisma, safe, tmp_path / "o.tif", code=3, message="MTD_MSIL2A.xml")


def test_different_years_are_only_a_warning(pair: SimulatedPair, safe: Path, tmp_path: Path) -> None:
    for name in safe.rglob("MTD_*.xml"):
        name.write_text(name.read_text().replace("2024-06-23", "2019-06-23"))
    text = run(
        pair.prisma, safe, tmp_path / "o.tif", "--coregister", "off", "--no-progress", code=0, message="days apart"
    )
    assert "land cover may have changed" in text


def test_all_cloud(pair: SimulatedPair, safe: Path, tmp_path: Path) -> None:
    import rasterio

    scl = next(safe.rglob("*SCL_20m.jp2"))
    with rasterio.open(scl) as source:
        profile, shape = source.profile, source.shape
    profile.update(driver="JP2OpenJPEG", QUALITY="100", REVERSIBLE="YES")
    with rasterio.open(scl, "w", **profile) as sink:
        sink.write(np.full(shape, 9, np.uint8), 1)
    run(pair.prisma, safe, tmp_path / "o.tif", "--no-verify", "--coregister", "off", code=4, message="cloud")
    run(pair.prisma, safe, tmp_path / "o.tif", "--no-verify", code=5, message="cloud")
    run(
        pair.prisma,
        safe,
        tmp_path / "o.tif",
        "--no-verify",
        "--coregister",
        "off",
        "--no-cloud-mask",
        code=0,
        message="",
    )


def test_unwritable_folder_and_full_disk(pair: SimulatedPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    run(pair.prisma, pair.sentinel2, tmp_path / "file" / "o.tif", code=7, message="file")
    run(pair.prisma, pair.sentinel2, tmp_path / "missing" / "o.tif", code=7, message="missing")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    run(pair.prisma, pair.sentinel2, tmp_path / "o.tif", "--coregister", "off", code=7, message="disk")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_unrelated_images_are_rejected(pair: SimulatedPair, prisma: Path, tmp_path: Path) -> None:
    def noise(file: h5py.File) -> None:
        rng = np.random.default_rng(0)
        for name in ("VNIR_Cube", "SWIR_Cube"):
            cube = file[f"{HCO}/Data Fields/{name}"]
            cube[:] = rng.integers(5_000, 30_000, cube.shape, dtype=np.uint16)

    edit(prisma, noise)
    run(prisma, pair.sentinel2, tmp_path / "o.tif", code=5, message="rejected")


def test_too_many_bands(pair: SimulatedPair, tmp_path: Path) -> None:
    run(pair.prisma, pair.sentinel2, tmp_path / "o.tif", "--bands", "400", code=3, message="400")


def test_too_little_memory(pair: SimulatedPair, tmp_path: Path) -> None:
    run(
        pair.prisma, pair.sentinel2, tmp_path / "o.tif", "--coregister", "off", "--max-memory", "100MB", code=6,
        message="needs at least",
    )  # fmt: skip


def test_area_outside(pair: SimulatedPair, tmp_path: Path) -> None:
    run(
        pair.prisma, pair.sentinel2, tmp_path / "o.tif", "--coregister", "off", "--aoi", "0,0,1000,1000", code=4,
        message="outside",
    )  # fmt: skip
