"""Every example runs as a user would run it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hsfuse.config import RunConfig
from hsfuse.simulate.products import SimulatedPair
from hsfuse.workflows.config import config_toml

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUICK = ["--method", "bicubic", "--bands", "12", "--no-report", "--coregister", "global", "--quiet"]


@pytest.fixture
def environment() -> dict[str, str]:
    """Put the tested hsfuse first on the PATH."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def call(arguments: list[str], environment: dict[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, env={**environment, **more}, capture_output=True, text=True, check=False, timeout=300
    )


def test_run_one(pair: SimulatedPair, tmp_path: Path, environment: dict[str, str]) -> None:
    done = call(
        [str(EXAMPLES / "run_one.sh"), str(pair.prisma), str(pair.sentinel2), str(tmp_path / "o.tif"), *QUICK],
        environment,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "o.tif").is_file()


@pytest.fixture
def cluster_tools(tmp_path: Path, environment: dict[str, str]) -> dict[str, str]:
    """An environment with SLURM's srun, which runs its command here, and Dask's command beside hsfuse."""
    tools = tmp_path / "tools"
    tools.mkdir()
    scripts = {
        "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"',
        "dask": f'exec "{sys.executable}" -m dask "$@"',
    }
    for name, text in scripts.items():
        (tools / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        (tools / name).chmod(0o755)
    return environment | {"PATH": f"{tools}{os.pathsep}{environment['PATH']}"}


@pytest.mark.parametrize(
    ("script", "settings"),
    [
        ("slurm_batch.sh", {"SLURM_MEM_PER_NODE": "3000"}),
        ("slurm_dask.sh", {"SLURM_CPUS_PER_TASK": "1", "DASK_INTERFACE": "lo"}),
    ],
)
def test_slurm_batches(
    script: str, settings: dict[str, str], pair: SimulatedPair, tmp_path: Path, cluster_tools: dict[str, str]
) -> None:
    prisma, s2, out = tmp_path / "prisma", tmp_path / "s2", tmp_path / "out"
    prisma.mkdir()
    s2.mkdir()
    shutil.copy(pair.prisma, prisma / "one.he5")
    (s2 / pair.sentinel2.name).symlink_to(pair.sentinel2)
    done = subprocess.run(
        ["bash", str(EXAMPLES / script), str(prisma), str(s2), str(out), *QUICK], env=cluster_tools | settings,
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (out / "one.tif").is_file()
    assert not list(tmp_path.glob("scheduler_*.json"))


def test_slurm_array(pair: SimulatedPair, tmp_path: Path, environment: dict[str, str]) -> None:
    out = tmp_path / "o.tif"
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"not,this,line\n{pair.prisma},{pair.sentinel2},{out}\n")
    script = ["bash", str(EXAMPLES / "slurm_array.sh")]
    settings = {"SLURM_ARRAY_TASK_ID": "2", "PAIRS": str(pairs), "SLURM_CPUS_PER_TASK": "2"}
    done = call(script, environment, **settings)
    assert done.returncode == 0, done.stderr
    assert out.is_file()
    assert "nothing to do" in call(script, environment, **settings).stdout


def test_config_is_up_to_date() -> None:
    assert (EXAMPLES / "config.toml").read_text(encoding="utf-8") == config_toml()
    assert RunConfig.resolve(EXAMPLES / "config.toml") == RunConfig()


def test_api_tour(pair: SimulatedPair, tmp_path: Path, environment: dict[str, str]) -> None:
    tour = [sys.executable, str(EXAMPLES / "api_tour.py")]
    done = call([*tour, str(pair.prisma), str(pair.sentinel2), str(tmp_path / "o.tif")], environment)
    assert done.returncode == 0, done.stderr
    assert "made by glp" in done.stdout
    assert "60 bands" in done.stdout
    assert "fused array: (40, 72, 72) float32" in done.stdout
    failed = call([*tour, "no.he5", "no.SAFE", str(tmp_path / "x.tif")], environment)
    assert failed.returncode == 1
    assert "no.he5" in failed.stderr
