"""``hsfuse info`` of several files and folders: what each is, which go together, what cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import package_samples as samples
import pytest
from rasterio.crs import CRS
from safe_samples import GRID, make_safe

from hsfuse.errors import InputError
from hsfuse.grid import Grid
from hsfuse.workflows.info import describe_product, describe_products, expanded, products_text

UNDER = Grid.from_origin(CRS.from_epsg(32632), 600_120.0, 4_999_920.0, 30.0, 20, 24)
AWAY = Grid.from_origin(CRS.from_epsg(32633), 400_000.0, 4_000_000.0, 30.0, 20, 24)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    dn = np.random.default_rng(1).integers(100, 4000, (24, 20, 24)).astype(np.int16)
    samples.make_enmap(folder / "2022" / samples.ENMAP_SCENE, dn, UNDER)
    samples.make_desis(folder / "2022" / "desis", dn, AWAY)
    make_safe(folder / "s2" / "07")
    (folder / "s2" / "notes.txt").write_text("nothing to read")
    return folder


def test_a_folder_is_searched_and_paired(archive: Path) -> None:
    assert len(expanded(archive)) == 3
    facts = describe_products([archive])
    assert {entry["sensor"] for entry in facts["products"]} == {"EnMAP", "DESIS", "Sentinel-2A"}
    (pair,) = facts["pairs"]
    assert pair["hsi"] == samples.ENMAP_SCENE
    # The part of 600 x 720 m that lies on the tile of 960 x 1320 m.
    assert pair["overlap_km2"] == pytest.approx(0.6 * 0.72, abs=0.01)
    assert pair["days_apart"] == pytest.approx(342, abs=1)
    assert pair["ratio"] == 3
    assert pair["covered_percent"] > 85, "but for random pixels without data"
    assert pair["clear_percent"] == pair["contributes_percent"] > 0
    assert pair["covered_percent"] == pytest.approx(pair["clear_percent"] + pair["footprint_cloud_percent"], abs=0.02)
    assert GRID.pixel_m == 10
    text = products_text(facts)
    assert "0.4 km², 34" in text
    assert "ratio 3" in text


def test_what_cannot_be_read_is_said_beside_the_rest(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_text("no image")
    scene = archive / "2022" / samples.ENMAP_SCENE
    facts = describe_products([scene, tmp_path / "x.tif", scene])
    assert [("error" in entry) for entry in facts["products"]] == [False, True]
    assert "No hyperspectral product lies on a multispectral one" in products_text(facts)
    with pytest.raises(InputError, match="GDAL cannot open"):
        describe_products([tmp_path / "x.tif", tmp_path / "nothing.tif"])


def test_a_product_that_is_a_folder_stays_one(archive: Path) -> None:
    scene = archive / "2022" / samples.ENMAP_SCENE
    assert expanded(scene) == [scene]
    assert describe_product(scene)["sensor"] == "EnMAP"
