"""Entries are found through entry points; the package's own cannot be taken over, broken foreign ones do no harm."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest

from hsfuse.errors import UsageError
from hsfuse.registry import Registry


def _distribution(folder: Path, name: str, code: str, points: str) -> None:
    (folder / f"{name}.py").write_text(f"from fractions import Fraction\n{code}\n")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[hsfuse.things]\n{points}\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def _registry() -> Registry[Fraction]:
    return Registry("hsfuse.things", Fraction, "thing")


def test_an_entry_is_loaded_on_first_use(folder: Path) -> None:
    _distribution(folder, "foreign", "ENTRY = Fraction(3)", "three = foreign:ENTRY")
    registry = _registry()
    assert registry.names() == ("three",)
    assert "foreign" not in sys.modules
    assert registry.get("three") == 3


def test_an_unknown_name_lists_what_there_is(folder: Path) -> None:
    _distribution(folder, "foreign", "ENTRY = Fraction(3)", "three = foreign:ENTRY")
    with pytest.raises(UsageError, match="no thing 'four'") as caught:
        _registry().get("four")
    assert "three" in (caught.value.hint or "")


def test_a_broken_foreign_entry_is_named_and_passed_over(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    _distribution(folder, "broken", "raise RuntimeError('no luck')", "bad = broken:ENTRY")
    _distribution(folder, "wrong", "ENTRY = 5", "five = wrong:ENTRY")
    _distribution(folder, "foreign", "ENTRY = Fraction(3)", "three = foreign:ENTRY")
    registry = _registry()
    with caplog.at_level(logging.WARNING):
        assert [name for name, _ in registry.entries()] == ["three"]
    assert "no luck" in caplog.text
    with pytest.raises(UsageError, match="is a int, not a Fraction"):
        registry.get("five")


def test_own_names_cannot_be_taken_over(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    _distribution(folder, "aaa", "ENTRY = Fraction(1)", "one = aaa:ENTRY")
    _distribution(folder, "hsfuse_own", "ENTRY = Fraction(2)", "one = hsfuse_own:ENTRY")
    info = folder / "hsfuse_own-1.0.dist-info" / "METADATA"
    info.write_text("Metadata-Version: 2.1\nName: hsfuse\nVersion: 1.0\n")
    with caplog.at_level(logging.WARNING):
        assert _registry().get("one") == 2
    assert "the name is taken" in caplog.text
