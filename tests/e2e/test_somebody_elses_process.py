"""hsfuse inside somebody's program: nothing of the process is other afterwards than it was before."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.env import get_gdal_config
from threadpoolctl import threadpool_info

import hsfuse
import hsfuse.errors
from hsfuse import allocator, process
from hsfuse.simulate.products import SimulatedPair


def _state() -> dict[str, Any]:
    """What a program may rely on in its own process."""
    with rasterio.Env():
        cache = get_gdal_config("GDAL_CACHEMAX")
    return {
        "environment": dict(os.environ),
        "torch threads": torch.get_num_threads(),
        "matrix libraries": {info["filepath"]: info["num_threads"] for info in threadpool_info()
                             if info["user_api"] == "blas"},
        "warnings": list(warnings.filters),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "switch interval": sys.getswitchinterval(),
        "garbage collector": (gc.isenabled(), gc.get_freeze_count(), gc.get_threshold()),
        "hooks": (sys.excepthook, sys.unraisablehook, sys.stdout, sys.stderr),
        "random numbers": (random.getstate(), torch.get_rng_state().tolist(), str(np.random.get_state())),  # noqa: NPY002
        "float errors": np.geterr(),
        "block cache": cache,
        "stand-ins": [name for name in sys.modules if name.startswith(("mamba_ssm", "selective_scan"))],
    }  # fmt: skip


@pytest.fixture
def _no_allocator_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when the C library's allocator is set."""
    find = allocator._of_glibc

    def guarded(name: str) -> Any:
        assert name != "mallopt", "the allocator of somebody else's process was set"
        return find(name)

    monkeypatch.setattr(allocator, "_of_glibc", guarded)


@pytest.mark.usefixtures("_no_allocator_settings")
def test_fusing_arrays_leaves_the_process_as_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    msi = rng.random((4, 36, 36), dtype=np.float32)
    hsi = rng.random((6, 12, 12), dtype=np.float32)
    nm = np.linspace(450, 900, 6)
    torch.set_num_threads(3)
    try:
        hsfuse.fuse(hsi, msi, ratio=3, method="bicubic", wavelengths_nm=nm)  # loads libraries
        before = _state()
        for method in ("glp", "cnmf"):
            hsfuse.fuse(hsi, msi, ratio=3, method=method, wavelengths_nm=nm)
        assert _state() == before

        # Also where several runs come and go, and where one fails.
        def one(seed: int) -> Any:
            if seed % 3 == 2:
                with pytest.raises(hsfuse.errors.UsageError):
                    hsfuse.fuse(hsi, msi, ratio=3, method="none", wavelengths_nm=nm)
                return None
            return hsfuse.fuse(hsi, msi, ratio=3, method="cnmf", wavelengths_nm=nm, seed=seed)

        with ThreadPoolExecutor(3) as pool:
            cubes = list(pool.map(one, range(6)))
        assert _state() == before
        np.testing.assert_array_equal(cubes[0], one(0))
    finally:
        torch.set_num_threads(1)


@pytest.mark.usefixtures("_no_allocator_settings")
def test_a_whole_run_leaves_the_process_as_it_was(pair: SimulatedPair, tmp_path: Path) -> None:
    torch.set_num_threads(3)
    try:
        settings = {"method": "glp", "quality": "plain", "bands": "12", "coregister": "global"}
        hsfuse.fuse_scene(pair.prisma, pair.sentinel2, tmp_path / "first.tif", dry_run=True, **settings)
        before = _state()
        result = hsfuse.fuse_scene(pair.prisma, pair.sentinel2, tmp_path / "out.tif", threads=2, **settings)
        after = _state()
        assert {name: value for name, value in after.items() if before[name] != value} == {}
        assert not process.is_own()
        assert result.output is not None
    finally:
        torch.set_num_threads(1)


def test_importing_changes_nothing(tmp_path: Path) -> None:
    """In a fresh process, for what was imported before cannot be seen here."""
    code = """
import gc, importlib, os, signal, sys, warnings

def state():
    return (dict(os.environ), list(warnings.filters), sys.getswitchinterval(), gc.get_freeze_count(),
            [signal.getsignal(s) for s in signal.valid_signals()])

before = state()
import hsfuse, hsfuse.cli.app
assert state() == before
# Libraries of others set what they like when they are imported.
for name in ("numpy", "scipy.special", "scipy.sparse", "scipy.ndimage", "rasterio", "h5py", "torch", "threadpoolctl"):
    importlib.import_module(name)
before = state()
hsfuse.fuse, hsfuse.fuse_scene, hsfuse.Resources
assert state() == before
import numpy as np, psutil
block = np.ones(16 << 20)
held = psutil.Process().memory_info().rss
del block
assert psutil.Process().memory_info().rss < held - (100 << 20), "freed memory is kept"
"""
    environment = {**os.environ, "PROJ_DATA": str(tmp_path), "PROJ_LIB": str(tmp_path), "GDAL_DATA": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
