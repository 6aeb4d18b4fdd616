"""A small archive that all tests of batches share."""

from __future__ import annotations

import pytest
from batch_archive import SceneArchive, make_archive


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> SceneArchive:
    """The shared archive; tests must not change it."""
    return make_archive(tmp_path_factory.mktemp("archive"))
