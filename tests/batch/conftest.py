"""A small archive that all tests of batches share."""

from __future__ import annotations

import pytest
from batch_archive import SETTINGS, SceneArchive, hashes, make_archive

import hsfuse


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> SceneArchive:
    """The shared archive; tests must not change it."""
    return make_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="session")
def single_runs(archive: SceneArchive, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Cubes of single runs with the same settings, as hashes; scenes of one date hold the same pixels."""
    folder = tmp_path_factory.mktemp("single")
    for number in range(9):
        output = folder / f"scene_{number:02d}.tif"
        hsfuse.fuse_scene(archive.scene(number), archive.partner(number), output, **SETTINGS)
    return hashes(folder)
