"""A small archive that all tests of batches share: scenes of three dates, damaged ones, one without a partner."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import h5py

from hsfuse.simulate.products import simulate_pair

QUICK = ("--method", "glp", "--quality", "plain", "--bands", "8", "--no-report", "--coregister", "off")
"""Settings with which a scene takes a second."""
SETTINGS = {"method": "glp", "quality": "plain", "bands": "8", "report": False, "coregister": "off"}


@dataclass(frozen=True)
class SceneArchive:
    """Products on disk: twelve hyperspectral ones, three Sentinel-2 ones.

    ``scene_00`` to ``scene_08`` are whole, ``scene_09`` is cut off, ``scene_10`` has a damaged image behind sound
    headers, ``scene_11`` was taken three years before every Sentinel-2 product.
    """

    hsi: Path
    s2: Path

    def scene(self, number: int) -> Path:
        """A hyperspectral product."""
        return self.hsi / f"scene_{number:02d}.he5"

    def partner(self, number: int) -> Path:
        """The Sentinel-2 product of one of the whole scenes."""
        return sorted(self.s2.iterdir())[number // 3]


def make_archive(root: Path) -> SceneArchive:
    """Write the products."""
    made = SceneArchive(root / "prisma", root / "sentinel2")
    made.hsi.mkdir()
    made.s2.mkdir()
    for number in range(3):
        day = datetime(2024, 6, 1, 10, 30, 12, tzinfo=UTC) + timedelta(days=40 * number)
        pair = simulate_pair(
            root / f"pair{number}", size_px=(48, 48), seed=number, shift_m=(0.0, 0.0), s2_bands="10m", pan=False,
            start=day, s2_start=day + timedelta(days=2),
        )  # fmt: skip
        shutil.move(pair.sentinel2, made.s2)
        for scene in range(3 * number, 3 * number + 3):
            shutil.copy(pair.prisma, made.scene(scene))
    content = pair.prisma.read_bytes()
    made.scene(9).write_bytes(content[: len(content) // 3])
    shutil.copy(pair.prisma, made.scene(10))
    damage_image(made.scene(10))
    lonely = simulate_pair(
        root / "lonely", size_px=(48, 48), s2_bands="10m", pan=False, start=datetime(2021, 6, 1, tzinfo=UTC)
    )
    shutil.copy(lonely.prisma, made.scene(11))
    return made


def damage_image(path: Path) -> None:
    """Compress the SWIR image of a product and destroy some of what was compressed."""
    name = "HDFEOS/SWATHS/PRS_L2D_HCO/Data Fields/SWIR_Cube"
    with h5py.File(path, "r+") as file:
        values, attributes = file[name][:], dict(file[name].attrs)
        del file[name]
        dataset = file.create_dataset(name, data=values, chunks=(4, *values.shape[1:]), compression="gzip")
        dataset.attrs.update(attributes)
        chunk = dataset.id.get_chunk_info(3)
    with path.open("r+b") as stream:
        stream.seek(chunk.byte_offset + chunk.size // 4)
        stream.write(b"\xff" * 1000)


def hashes(folder: Path) -> dict[str, str]:
    """Hash of every cube of a folder, by its name."""
    return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.tif"))}
