"""What a command finds around it: encodings of the terminal and of paths, names, limits of the system."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

from hsfuse import address_space
from hsfuse.cli.app import app
from hsfuse.errors import explained
from hsfuse.small_text import read_small_text
from hsfuse.testing import small_scene
from hsfuse.writers.lock import claimed

runner = CliRunner()
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to the limit")
SETTINGS = ["--method", "bicubic", "--bands", "all", "--coregister", "off", "--psf-fwhm", "1", "--no-report",
            "--no-progress", "--threads", "1", "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    folder = tmp_path_factory.mktemp("pair")
    scene = small_scene(2, (20, 20))
    return scene.write_hsi(folder / "h.tif").read_bytes(), scene.write_msi(folder / "m.tif").read_bytes()


def _command(folder: bytes, pair: tuple[bytes, bytes], output: bytes) -> list[bytes]:
    for name, content in zip((b"/h.tif", b"/m.tif"), pair, strict=True):
        Path(os.fsdecode(folder + name)).write_bytes(content)
    start = [sys.executable.encode(), b"-m", b"hsfuse", b"run", folder + b"/h.tif", folder + b"/m.tif", b"-o", output]
    return [*start, *(text.encode() for text in SETTINGS)]


@pytest.mark.parametrize("folder", [b"d\xfc", "dü".encode()], ids=["latin-1", "utf-8"])
def test_a_terminal_and_paths_of_an_old_encoding(tmp_path: Path, pair: tuple[bytes, bytes], folder: bytes) -> None:
    home = os.fsencode(tmp_path) + b"/" + folder
    os.mkdir(home)  # noqa: PTH102 - bytes that are no text
    output = os.fsencode(tmp_path) + "/ö.tif".encode()
    old = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        _command(home, pair, output), capture_output=True, check=False, timeout=300, env={**os.environ, **old}
    )
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    with rasterio.open(tmp_path / "ö.tif") as cube:
        assert np.isfinite(cube.read()).all()


def test_sixteen_open_files_are_enough_or_it_is_said(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    command = _command(os.fsencode(tmp_path), pair, os.fsencode(tmp_path / "o.tif"))
    done = subprocess.run(
        [b"bash", b"-c", b'ulimit -n 16; exec "$@"', b"x", *command], capture_output=True, check=False, timeout=300
    )
    said = done.stderr.decode()
    assert done.returncode in (0, 6), said
    assert (done.returncode == 0) == (tmp_path / "o.tif").exists()
    assert done.returncode == 0 or "open files" in said
    assert "Traceback" not in said


@linux
@pytest.mark.parametrize("megabytes", [300, 500])
def test_an_address_space_without_room_for_libraries_is_refused_at_once(
    tmp_path: Path, pair: tuple[bytes, bytes], megabytes: int
) -> None:
    """OpenBLAS would ask for its buffers for ever, the loader would end the process."""
    command = [*_command(os.fsencode(tmp_path), pair, os.fsencode(tmp_path / "o.tif")), b"--json"]
    done = subprocess.run(
        [b"bash", b"-c", f'ulimit -v {megabytes * 1024}; exec "$@"'.encode(), b"x", *command],
        capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    said = done.stderr.decode()
    assert done.returncode == 6, said
    assert said.startswith(f"error: The limit of the address space, {megabytes} MB, is too low: hsfuse run needs")
    assert "ulimit -v" in said
    assert "Traceback" not in said
    assert json.loads(done.stdout)["exit_code"] == 6
    assert not (tmp_path / "o.tif").exists()


@linux
def test_what_fails_at_the_limit_of_the_address_space_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled parts that miss a refused request fail in odd ways."""
    assert explained(SystemError("error return without exception set")).exit_code == 1
    monkeypatch.setattr(address_space, "limit", lambda: address_space._mapped("VmPeak") + 2**20)
    found = explained(SystemError("error return without exception set"))
    assert found.exit_code == 6
    assert "SystemError" in found.message


@pytest.mark.parametrize("command", ["run", "coregister", "compare"])
@pytest.mark.parametrize(
    ("name", "words"),
    [(b"n" * 252 + b".tif", "too long"), (b"d\xfc/o.tif", "not valid UTF-8"), (b"\xfc.tif", "not valid UTF-8")],
    ids=["long", "folder", "name"],
)
def test_outputs_that_cannot_be_are_refused_before_any_work(
    tmp_path: Path, command: str, name: bytes, words: str
) -> None:
    """Before the inputs are even looked for."""
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xfc"))).mkdir()
    output = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    if command == "compare":
        output = output.removesuffix(".tif") + ".html"
    done = runner.invoke(app, [command, str(tmp_path / "no.he5"), str(tmp_path / "no.tif"), "-o", output])
    assert done.exit_code == 7, done.output
    assert words in " ".join(done.output.split())
    assert "hint" in done.output


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_an_output_that_another_run_works_for_is_refused_before_any_work(tmp_path: Path, flags: list[str]) -> None:
    """Before the inputs are even looked for; what is left behind when a run ends is no other run."""
    command = ["run", str(tmp_path / "no.he5"), str(tmp_path / "no.tif"), "-o", str(tmp_path / "o.tif"), *flags]
    journal = tmp_path / "o.tif.part"
    with claimed(journal):
        done = runner.invoke(app, command)
        assert done.exit_code == 7, done.output
        assert "Another run is writing this output" in " ".join(done.output.split())
        assert [item.name for item in journal.iterdir()] == ["lock"]
    assert runner.invoke(app, command).exit_code == 3
    assert not list(tmp_path.iterdir())


def test_a_dry_run_loads_no_torch(tmp_path: Path, pair: tuple[bytes, bytes]) -> None:
    """Its import takes longer than the whole plan."""
    for name, content in zip(("h.tif", "m.tif"), pair, strict=True):
        (tmp_path / name).write_bytes(content)
    code = """
import sys
from hsfuse.__main__ import main
sys.argv = ["hsfuse", "run", "h.tif", "m.tif", "-o", "o.tif", "--dry-run", "--device", "cpu"]
try:
    main()
finally:
    print("torch" in sys.modules, "matplotlib" in sys.modules, "scipy.optimize" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False False False"
    assert "method" in done.stdout


@pytest.mark.parametrize("option", ["--wavelengths", "--bands", "--config"])
@pytest.mark.parametrize("endless", ["/dev/zero", "pipe"])
def test_lists_and_settings_that_never_end(tmp_path: Path, option: str, endless: str) -> None:
    """A device would fill the memory, a pipe would be waited for."""
    if endless == "pipe":
        endless = str(tmp_path / "pipe")
        os.mkfifo(endless)
    done = runner.invoke(app, ["run", "h.tif", "m.tif", "-o", str(tmp_path / "o.tif"), "--dry-run", option, endless])
    assert done.exit_code in (2, 3), done.output
    with pytest.raises(OSError, match="no regular file"):
        read_small_text(Path(endless), "list")


def test_lists_that_are_too_long(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"1\n" * 20)
    with pytest.raises(OSError, match="larger than any list"):
        read_small_text(tmp_path / "long", "list", largest=10)
