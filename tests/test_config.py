"""Configuration: flags over file over defaults, and mistakes that are explained."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import pytest

from hsfuse.config import RunConfig
from hsfuse.errors import UsageError
from hsfuse.resources import parse_size
from hsfuse.workflows.config import config_toml


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('method = "gsa"\nbands = "80"\nclip = false\n')
    config = RunConfig.resolve(file, bands="60", tile=None)
    assert (config.method, config.bands, config.clip, config.tile) == ("gsa", "60", False, None)
    assert config.dtype == "int16"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("metod = 'glp'", "metod"),
        ("tile = 'big'", "tile"),
        ("device = 'gpu'", "device"),
        ("max_memory = 'lots'", "max-memory"),
        ("compress = 'lerc'", "float32"),
        ("= 3", "not valid TOML"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path: Path, content: str, expected: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(content)
    with pytest.raises(UsageError, match=expected):
        RunConfig.resolve(file)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        RunConfig.resolve(tmp_path / "none.toml")


def test_identity_ignores_how_but_not_what() -> None:
    base = RunConfig().identity()
    assert RunConfig(resume=True, max_memory="2GB", threads=1).identity() == base
    assert RunConfig(method="gsa").identity() != base


@pytest.mark.parametrize(("text", "size"), [("4GB", 4_000_000_000), ("1.5 GiB", 1_610_612_736), ("800mb", 800_000_000)])
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["4 apples", "", "12", "GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"size|less than"):
        parse_size(text)


def test_the_written_file_names_every_setting_and_is_accepted(tmp_path: Path) -> None:
    text = config_toml()
    for name in RunConfig.model_fields:
        assert f"# {name} = " in text
    active = "\n".join(
        line[2:] for line in text.splitlines() if line.startswith("# ") and " = " in line and "not set" not in line
        and line[2:].split(" = ")[0] in RunConfig.model_fields
    )  # fmt: skip
    assert RunConfig(**tomllib.loads(active)) == RunConfig()


@pytest.mark.parametrize(
    "text",
    [
        "threads = 1" + "0" * 5000,
        "threads = 1" + "0" * 30,
        "seed = 9" + "0" * 40,
        "tile = 9" + "0" * 20,
        "bands = " + "[" * 5000 + "]" * 5000,
        "max_memory = '1e400GB'",
        "max_memory = 'infGB'",
        "max_memory = 'nanGB'",
        "search_m = nan",
        "search_m = 1e999",
        "# " + "x" * 2**21,
    ],
)
def test_files_that_cannot_be_meant_get_a_sentence(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(UsageError):
        RunConfig.resolve(file)


def test_a_pipe_is_no_configuration_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.toml")
    with pytest.raises(UsageError, match="no regular file"):
        RunConfig.resolve(tmp_path / "c.toml")
