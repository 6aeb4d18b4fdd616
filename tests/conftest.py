"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no failure: examples take as long as they take.
settings.register_profile("hsfuse", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hsfuse")


def _shared_data() -> Path | None:
    named = os.environ.get("HSFUSE_SHARED_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real cubes, spectra and metadata; the test is skipped where it does not exist."""
    folder = _shared_data()
    if folder is None:
        pytest.skip("needs the shared data folder (set HSFUSE_SHARED_DATA)")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Make every random number repeatable."""
    import random

    import numpy as np

    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - third-party code may use the legacy generator
