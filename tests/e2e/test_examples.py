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


def test_run_folder_pairs_skips_and_reports_failures(
    pair: SimulatedPair, tmp_path: Path, environment: dict[str, str]
) -> None:
    prisma, s2, out = tmp_path / "prisma", tmp_path / "s2", tmp_path / "out"
    prisma.mkdir()
    shutil.copy(pair.prisma, prisma / "one.he5")
    (prisma / "broken.he5").write_bytes(b"nothing")
    (prisma / "lonely.he5").write_bytes(b"nothing")
    for name in ("one", "broken"):
        (s2 / name).mkdir(parents=True)
        (s2 / name / pair.sentinel2.name).symlink_to(pair.sentinel2)
    script = [str(EXAMPLES / "run_folder.sh"), str(prisma), str(s2), str(out), *QUICK]
    first = call(script, environment)
    assert first.returncode == 9, first.stderr
    assert "failed: broken (exit code 3)" in first.stderr
    assert "failed: lonely (no Sentinel-2 product)" in first.stderr
    assert (out / "one.tif").is_file()
    for name in ("broken", "lonely"):
        (prisma / f"{name}.he5").unlink()
    second = call(script, environment)
    assert second.returncode == 0, second.stderr
    assert "one: done before" in second.stdout


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
