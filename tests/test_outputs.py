"""Outputs never touch inputs or other people's files: by device and inode, through links, with or without overwrite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hsfuse.errors import OutputError
from hsfuse.outputs import (
    check_log_file,
    check_new_files,
    check_paths,
    made_by_hsfuse,
    marked_png,
    refuse_inputs,
    replace_file,
)

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63600000000200"
    "0148afa4710000000049454e44ae426082"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("scene.img", "scene.hdr", "m.tif", "m.tif.ovr", "other.tif"):
        (tmp_path / name).write_bytes(name.encode())
    safe = tmp_path / "S2.SAFE"
    (safe / "GRANULE").mkdir(parents=True)
    (safe / "MTD_MSIL2A.xml").write_text("<a/>")
    (safe / "GRANULE" / "B02.jp2").write_text("pixels")
    (tmp_path / "soft.tif").symlink_to("m.tif")
    os.link(tmp_path / "m.tif", tmp_path / "hard.tif")
    os.link(safe / "GRANULE" / "B02.jp2", tmp_path / "band.tif")
    (tmp_path / "over").symlink_to(tmp_path)
    (tmp_path / "mosaic.vrt").write_text('<V><SourceFilename relativeToVRT="1">other.tif</SourceFilename></V>')
    return tmp_path


@pytest.mark.parametrize(
    ("output", "given", "words"),
    [
        ("m.tif", "m.tif", "is the input"),
        ("soft.tif", "m.tif", "is the input"),
        ("hard.tif", "m.tif", "is the input"),
        ("m.tif", "soft.tif", "is the input"),
        ("over/m.tif", "m.tif", "is the input"),
        ("scene.hdr", "scene.img", "belongs to the input"),
        ("scene.img", "scene.hdr", "belongs to the input"),
        ("m.tif.ovr", "m.tif", "belongs to the input"),
        ("m.tif.ovr", "soft.tif", "belongs to the input"),
        ("S2.SAFE/new.tif", "S2.SAFE", "inside the input"),
        ("S2.SAFE/GRANULE/new.tif", "S2.SAFE/MTD_MSIL2A.xml", "inside the input"),
        ("over/S2.SAFE/new.tif", "S2.SAFE", "inside the input"),
        ("S2.SAFE", "S2.SAFE", "is the input"),
        ("band.tif", "S2.SAFE", "belongs to the input"),
        ("other.tif", "mosaic.vrt", "belongs to the input"),
    ],
)
def test_an_output_is_no_input(folder: Path, output: str, given: str, words: str) -> None:
    with pytest.raises(OutputError, match=words) as caught:
        refuse_inputs([folder / output], [folder / given])
    assert "--overwrite" not in caught.value.hint
    assert caught.value.exit_code == 7


def test_outputs_beside_inputs_are_allowed(folder: Path) -> None:
    refuse_inputs(
        [folder / "out.tif", folder / "other.tif"], [folder / "m.tif", folder / "S2.SAFE", folder / "none.tif"]
    )


def test_files_of_a_command(folder: Path) -> None:
    new = folder / "new.tif"
    check_new_files([new, folder / "new.json"], [folder / "m.tif"], overwrite=False)
    with pytest.raises(OutputError, match="one file"):
        check_new_files([new, folder / "over" / "new.tif"], [], overwrite=True)
    with pytest.raises(OutputError, match="one file"):
        check_new_files([folder / "hard.tif", folder / "m.tif"], [], overwrite=True)
    with pytest.raises(OutputError, match="exists already"):
        check_new_files([folder / "m.tif"], [], overwrite=False)
    with pytest.raises(OutputError, match="is a folder"):
        check_new_files([folder / "S2.SAFE"], [], overwrite=True)
    with pytest.raises(OutputError, match="does not exist"):
        check_new_files([folder / "no" / "a.tif"], [], overwrite=True)


def test_names_that_cannot_be_written(tmp_path: Path) -> None:
    check_paths([tmp_path / ("a" * 255)])
    with pytest.raises(OutputError, match="too long"):
        check_paths([tmp_path / ("a" * 256)])
    with pytest.raises(OutputError, match="too long"):
        check_paths([tmp_path / ("ü" * 128)])
    with pytest.raises(OutputError, match="UTF-8"):
        check_paths([tmp_path / os.fsdecode(b"d\xfc") / "o.tif"])


def test_what_hsfuse_made_is_known(tmp_path: Path) -> None:
    assert made_by_hsfuse(_write(tmp_path / "a.png", marked_png(PNG)))
    assert marked_png(marked_png(PNG)) == marked_png(PNG)
    assert not made_by_hsfuse(_write(tmp_path / "b.png", PNG))
    assert made_by_hsfuse(_write(tmp_path / "c.json", b'{"schema": "hsfuse-qa/2"}'))
    assert not made_by_hsfuse(_write(tmp_path / "d.json", b'{"schema": "other"}'))
    assert not made_by_hsfuse(_write(tmp_path / "e.json", b"[" * 100_000))
    assert made_by_hsfuse(_write(tmp_path / "f.html", b'<html><meta name="generator" content="hsfuse">'))
    assert not made_by_hsfuse(_write(tmp_path / "g.html", b"<html>my notes about hsfuse"))
    assert made_by_hsfuse(_write(tmp_path / "h.hdr", b"ENVI\nsamples = 1\nhsfuse identity = ab\n"))
    assert not made_by_hsfuse(_write(tmp_path / "i.hdr", b"ENVI\nsamples = 1\n"))
    assert not made_by_hsfuse(tmp_path / "missing")


@pytest.mark.parametrize("name", ["svg", "pdf"])
def test_drawings_of_hsfuse_are_known(tmp_path: Path, name: str) -> None:
    from hsfuse.qa import style

    with style.themed():
        figure = style.new_figure(2.0, 2.0)
    assert made_by_hsfuse(_write(tmp_path / f"a.{name}", style.to_vector(figure, name)))
    foreign = tmp_path / f"b.{name}"
    figure.savefig(foreign)
    assert not made_by_hsfuse(foreign)


def test_marked_pictures_are_still_pictures(tmp_path: Path) -> None:
    from matplotlib.image import imread

    assert imread(_write(tmp_path / "a.png", marked_png(PNG))).shape[:2] == (1, 1)


def test_replacing_a_file_goes_through_no_link(tmp_path: Path) -> None:
    precious = _write(tmp_path / "precious", b"1")
    (tmp_path / ".a.json.hsfuse-part.json").symlink_to(precious)
    replace_file(tmp_path / "a.json", b"2")
    assert (precious.read_bytes(), (tmp_path / "a.json").read_bytes()) == (b"1", b"2")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "precious"]


def test_a_log_is_added_to_logs_only(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"10:02:11 I reading\n", b'{"time": "2026-01-01T00:00:00"}\n')):
        check_log_file(_write(tmp_path / f"{number}.log", content))
    check_log_file(tmp_path / "new.log")
    with pytest.raises(OutputError, match="no log"):
        check_log_file(_write(tmp_path / "prisma.he5", b"\x89HDF\r\n"))


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
