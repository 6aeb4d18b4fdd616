"""Kills at named moments: no mixed set of files is ever seen, and the next run gives the bytes of one left alone."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import rasterio
from kill_support import MOMENTS, content, cube, run
from writers_support import WriteCube

from hsfuse.errors import OutputError
from hsfuse.writers import (
    FORMATS,
    SampleEncoding,
    cube_writer,
    journal,
    journal_folder,
    publish,
    read_identity,
    resolve_format,
)
from hsfuse.writers.publish import MARKER_NAME, complete_interrupted

FORMATS_AND_NAMES = [("gtiff", "out.tif"), ("cog", "out.tif"), ("envi", "out.img")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, dict[str, bytes]]]:
    """Files of runs that were left alone, by format and seed."""
    found: dict[str, dict[int, dict[str, bytes]]] = {}
    for file_format, name in FORMATS_AND_NAMES:
        found[file_format] = {}
        for seed in (1, 2):
            folder = tmp_path_factory.mktemp(f"{file_format}{seed}")
            assert run(folder / name, file_format, seed) == 0
            found[file_format][seed] = content(folder)
    return found


def _is_consistent(folder: Path, name: str, whole: dict[int, dict[str, bytes]]) -> bool:
    """No cube under the final name, or a cube whose companions are its own."""
    files = {key: value for key, value in content(folder).items() if "/" not in key}
    if name not in files:
        return True
    return files in (whole[1], whole[2])


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("file_format", "name"), FORMATS_AND_NAMES)
def test_a_killed_replacement_goes_on(
    tmp_path: Path, whole: dict[str, dict[int, dict[str, bytes]]], file_format: str, name: str, moment: str
) -> None:
    path = tmp_path / name
    assert run(path, file_format, 1) == 0
    killed = run(path, file_format, 2, moment, overwrite=True)
    assert killed == -signal.SIGKILL, "the moment was not reached"
    assert _is_consistent(tmp_path, name, whole[file_format])
    assert run(path, file_format, 2, overwrite=True, resume=True) == 0
    assert content(tmp_path) == whole[file_format][2]


@pytest.mark.parametrize("moment", ["rows stored", "publication marked", "moved companion", "moved cube"])
@pytest.mark.parametrize(("file_format", "name"), [FORMATS_AND_NAMES[0], FORMATS_AND_NAMES[2]])
def test_a_killed_first_run_goes_on_when_killed_again(
    tmp_path: Path, whole: dict[str, dict[int, dict[str, bytes]]], file_format: str, name: str, moment: str
) -> None:
    path = tmp_path / name
    assert run(path, file_format, 2, moment) == -signal.SIGKILL
    assert path.exists() == (moment == "moved cube")
    run(path, file_format, 2, "journal removed", resume=True)
    assert run(path, file_format, 2, resume=True) == 0
    assert content(tmp_path) == whole[file_format][2]


def test_a_product_that_was_marked_is_completed_by_any_run(
    tmp_path: Path, whole: dict[str, dict[int, dict[str, bytes]]]
) -> None:
    """Also by one that then makes another: what was finished is not lost halfway."""
    path = tmp_path / "out.img"
    assert run(path, "envi", 1) == 0
    assert run(path, "envi", 2, "moved companion", overwrite=True) == -signal.SIGKILL
    assert complete_interrupted(journal_folder(path))
    assert content(tmp_path) == whole["envi"][2]
    assert not complete_interrupted(journal_folder(path))


def test_a_header_over_other_data_is_not_believed(tmp_path: Path) -> None:
    """The identity holds for the data: a new header over old pixels does not say that the run is complete."""
    path, entry = tmp_path / "out.img", FORMATS.get("envi")
    assert run(path, "envi", 2) == 0
    assert read_identity(path, entry) == "run 2"
    path.write_bytes(SampleEncoding.of("int16").encode(cube(1)).transpose(1, 0, 2).tobytes())
    assert read_identity(path, entry) == ""
    assert run(path, "envi", 2, resume=True) == 1, "another run's pixels are not this run's product"
    assert run(path, "envi", 2, resume=True, overwrite=True) == 0
    with rasterio.open(path) as dataset:
        assert dataset.tags(ns="ENVI")["hsfuse_identity"] == "run 2"


@pytest.mark.parametrize(
    "content_of_marker",
    ["{", "[]", '{"schema": "x"}', '{"schema": "hsfuse-publication/1", "names": ["../x"], "stale": []}',
     '{"schema": "hsfuse-publication/1", "names": ["x"], "stale": ["/etc/hosts"]}'],
)  # fmt: skip
def test_a_marker_reaches_no_further_than_the_folder(tmp_path: Path, content_of_marker: str) -> None:
    folder = journal_folder(tmp_path / "out.tif")
    folder.mkdir()
    (folder / MARKER_NAME).write_text(content_of_marker)
    with pytest.raises(OutputError, match="damaged"):
        complete_interrupted(folder)


def test_the_marker_names_what_it_moves(tmp_path: Path) -> None:
    assert run(tmp_path / "out.img", "envi", 1, "publication marked") == -signal.SIGKILL
    marker = json.loads((journal_folder(tmp_path / "out.img") / MARKER_NAME).read_text())
    assert marker["names"] == ["out.hdr", "out.img.stac.json", "out.img"]
    assert resolve_format(tmp_path / "out.img").name == "envi"


@pytest.mark.parametrize("moment", ["product built", "publication marked", "stale files removed", "moved companion"])
def test_files_that_were_made_before_the_cube_are_published_with_it(
    tmp_path: Path, write_cube: WriteCube, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Such as weights that were adapted to the scene: the old ones stay as long as the old cube does."""
    path, made, final, about = (tmp_path / name for name in ("o.tif", ".made", "o.tif.weights", "o.layer"))
    write_cube(path)
    final.write_text("old")
    about.write_text("of the old cube")
    made.write_text("new")
    options = {"overwrite": True, "beside": ((made, final),), "stale": (about,)}

    def die(reached: str) -> None:
        if reached == moment:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        for module in (journal, publish, cube_writer):
            patch.setattr(module, "reached", die)
        with pytest.raises(KeyboardInterrupt):
            write_cube(path, **options)
    assert not path.exists() or (final.read_text(), about.exists()) == ("old", True)
    assert made.exists() or (path.with_name("o.tif.part") / "product" / final.name).exists() or final.exists()
    write_cube(path, resume=True, **options)
    assert final.read_text() == "new"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["o.tif", "o.tif.stac.json", "o.tif.weights"]
