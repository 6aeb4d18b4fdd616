"""Arguments and manifests that are wrong, and what is planned when they are right."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from batch_archive import QUICK, SceneArchive
from typer.testing import CliRunner

from hsfuse.cli.app import app
from hsfuse.errors import HsfuseError, InputError, OverlapError, UsageError
from hsfuse.workflows.batch.jobs import PlanEntry
from hsfuse.workflows.batch.manifest import read_manifest
from hsfuse.workflows.batch.plan import make_plan, plan_text
from hsfuse.workflows.batch.settings import BatchConfig
from hsfuse.workflows.batch.state import BatchState

runner = CliRunner()


def plan(sources: list[Any], archive: list[Any], folder: Path, **settings: Any) -> list[PlanEntry]:
    config = BatchConfig.resolve(**settings)
    return make_plan([str(s) for s in sources], [str(a) for a in archive], folder, config, BatchState(folder))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_folders_globs_and_files_are_the_same(archive: SceneArchive, tmp_path: Path) -> None:
    whole = plan([archive.hsi], [archive.s2], tmp_path)
    pattern = plan([f"{archive.hsi}/scene_*.he5"], [f"{archive.s2}/*.SAFE"], tmp_path)
    assert [entry.name for entry in whole] == [f"scene_{number:02d}" for number in range(12)]
    assert whole == pattern
    assert [entry.action for entry in whole] == ["run"] * 9 + ["unreadable", "run", "unpaired"]
    for number in range(9):
        job = whole[number].job
        assert job is not None
        assert job.msi == (str(archive.partner(number)),)
        assert job.days_apart == 2.0
    text = plan_text(whole, "2 scenes at a time")
    assert "12 scenes: 10 run, 1 unreadable, 1 unpaired" in text
    assert "--max-days 60" in text
    narrow = plan_text(whole, "2 scenes at a time", width=60).splitlines()
    partner = archive.partner(0).name
    assert narrow[:3] == ["scene_00", f"  {partner}", "  2.0 days, 0 % cloud, 100 % covered: run"]
    assert narrow[-2:] == text.splitlines()[-2:]


def test_a_dry_run_writes_nothing_and_reads_headers_only(archive: SceneArchive, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    call = ["batch", str(archive.hsi), "--s2", str(archive.s2), "-o", str(folder), *QUICK, "--dry-run", "--json"]
    begun = time.process_time()
    done = runner.invoke(app, call)
    assert done.exit_code == 0, done.output
    assert time.process_time() - begun < 30
    result = json.loads(done.stdout)
    assert result["dry_run"]
    assert len(result["scenes"]) == 12
    assert not folder.exists()


def test_manifest_csv_and_json_lines(archive: SceneArchive, tmp_path: Path) -> None:
    scene, partner = archive.scene(0), archive.partner(0)
    table = write(
        tmp_path / "scenes.csv",
        f'hsi,s2,output,aoi,cloud-mask,bands\n{scene},{partner},a/one.tif,"1,2,3,4",no,\n{archive.scene(1)},,,,,12\n',
    )
    lines = write(
        tmp_path / "scenes.jsonl",
        json.dumps(
            {"hsi": str(archive.scene(3)), "s2": [str(archive.partner(3))], "output": "b.tif", "dtype": "float32"}
        )
        + "\n\n",
    )
    entries = plan([table, lines], [archive.s2], tmp_path / "out", bands="8")
    assert [entry.name for entry in entries] == ["a/one", "scene_01", "b"]
    settings = [entry.job.settings for entry in entries if entry.job is not None]
    assert settings[0] == {"bands": "8", "aoi": "1,2,3,4", "cloud_mask": False}
    assert settings[1] == {"bands": "12"}
    assert settings[2] == {"bands": "8", "dtype": "float32"}
    assert entries[0].job is not None
    assert entries[0].job.output == str(tmp_path / "out" / "a" / "one.tif")


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("m.csv", "hsi,sentinel\nx,y\n", UsageError, "Line 1 of .*'sentinel' is no column of a manifest"),
        ("m.csv", "hsi,overlapp\nx,y\n", UsageError, "'overlapp' is no column"),
        ("m.csv", "s2,output\nx,y\n", UsageError, "has no column hsi"),
        ("m.csv", "hsi,hsi\nx,y\n", UsageError, "has the column hsi twice"),
        ("m.csv", "hsi,s2\nx\n", UsageError, "Line 2 of .* has 1 fields, the header 2"),
        ("m.csv", "hsi,resume\nx,yes\n", UsageError, "'resume' cannot be set for one scene"),
        ("m.csv", "hsi,back_projection\nHERE,many\n", UsageError, "Line 2 of .*Option 'back-projection'"),
        ("m.csv", "", UsageError, "has no column hsi"),
        ("m.csv", "hsi\n", UsageError, "lists no scenes"),
        ("m.csv", "hsi\nnowhere.he5\n", InputError, "Line 2 of .*nowhere.he5 does not exist"),
        ("m.jsonl", "{not json}\n", UsageError, "Line 1 of .* is not JSON"),
        ("m.jsonl", '["a"]\n', UsageError, "Line 1 of .* is no JSON object"),
        ("m.jsonl", '{"s2": "x"}\n', UsageError, "Line 1 of .* names no hyperspectral product"),
        ("m.jsonl", '{"hsi": "HERE", "s2": 5}\n', UsageError, "hsi and output are texts"),
    ],
)
def test_wrong_manifests(tmp_path: Path, name: str, text: str, error: type[HsfuseError], message: str) -> None:
    path = write(tmp_path / name, text.replace("HERE", str(tmp_path)))
    with pytest.raises(error, match=message):
        read_manifest(path)


def test_a_near_miss_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_manifest(write(tmp_path / "m.csv", "hsi,ouput\nx,y\n"))
    assert "Did you mean output?" in caught.value.hint


def test_outputs_that_collide(archive: SceneArchive, tmp_path: Path) -> None:
    manifest = write(tmp_path / "m.csv", f"hsi,output\n{archive.scene(0)},one.tif\n{archive.scene(1)},sub/../one.tif\n")
    with pytest.raises(UsageError, match=r"Two scenes would write .*one.tif: .*line 2.*line 3"):
        plan([manifest], [archive.s2], tmp_path / "out")


def test_outputs_inside_inputs(archive: SceneArchive, tmp_path: Path) -> None:
    for folder in (archive.hsi, archive.hsi / "out", archive.s2 / "x", archive.partner(0) / "GRANULE"):
        with pytest.raises(UsageError, match="lies inside the input folder"):
            plan([archive.hsi], [archive.s2], folder)
    manifest = write(tmp_path / "m.csv", f"hsi,s2,output\n{archive.scene(0)},{archive.partner(0)},{archive.scene(0)}\n")
    with pytest.raises(HsfuseError):
        plan([manifest], [], tmp_path / "out")


def test_an_archive_without_any_partner(archive: SceneArchive, tmp_path: Path) -> None:
    with pytest.raises(OverlapError, match=r"None of the 1 scenes has a partner: for scene_11, the nearest in time"):
        plan([archive.scene(11)], [archive.s2], tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no Sentinel-2 product"):
        plan([archive.hsi], [tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(UsageError, match="has no Sentinel-2 product and there is no archive"):
        plan([archive.hsi], [], tmp_path / "out")


def test_arguments_that_lead_nowhere(archive: SceneArchive, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        plan([tmp_path / "nowhere"], [archive.s2], tmp_path / "out")
    with pytest.raises(InputError, match="Nothing matches"):
        plan([f"{tmp_path}/*.he5"], [archive.s2], tmp_path / "out")
    with pytest.raises(InputError, match="holds no hyperspectral product"):
        plan([archive.s2], [archive.s2], tmp_path / "out")
    (tmp_path / "file").write_text("")
    done = runner.invoke(app, ["batch", str(archive.hsi), "--s2", str(archive.s2), "-o", str(tmp_path / "file")])
    assert done.exit_code == 7
    assert "is a file" in done.output


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--skip-existing", "--redo", "all"], "--skip-existing and --redo exclude each other"),
        (["--scheduler", "tcp://127.0.0.1:1", "--workers", "2"], "leave --max-memory and --workers out"),
        (["--max-memory", "300MB"], "A batch needs at least"),
        (["--max-memory", "2GB", "--workers", "50"], "50 scenes at a time would have"),
        (["--compress", "lerc"], "lerc compression is for float32"),
    ],
)
def test_settings_that_do_not_go_together(flags: list[str], text: str, archive: SceneArchive, tmp_path: Path) -> None:
    call = ["batch", str(archive.scene(0)), "--s2", str(archive.s2), "-o", str(tmp_path / "out"), "--no-progress"]
    done = runner.invoke(app, [*call, *flags])
    assert done.exit_code in (2, 6), done.output
    assert text in " ".join(done.output.split())
    assert not (tmp_path / "out" / "scene_00.tif").exists()


def test_a_packed_product_beside_the_unpacked_one_is_not_taken_twice(archive: SceneArchive, tmp_path: Path) -> None:
    import shutil

    both = tmp_path / "s2"
    shutil.copytree(archive.partner(0), both / archive.partner(0).name)
    shutil.make_archive(str(both / archive.partner(0).stem), "zip", archive.s2, archive.partner(0).name)
    entry = plan([archive.scene(0)], [both], tmp_path / "out")[0]
    assert entry.job is not None
    assert entry.job.msi == (str(both / archive.partner(0).name),)


def test_links_are_followed_and_circles_end(archive: SceneArchive, tmp_path: Path) -> None:
    links = tmp_path / "links"
    (links / "2024").mkdir(parents=True)
    (links / "2024" / archive.partner(0).name).symlink_to(archive.partner(0))
    (links / "2024" / "back").symlink_to(links)
    entry = plan([archive.scene(0)], [links], tmp_path / "out")[0]
    assert entry.job is not None
    assert entry.job.msi == (str(links / "2024" / archive.partner(0).name),)
