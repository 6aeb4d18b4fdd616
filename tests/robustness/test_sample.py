"""A sample of benchmarks/fuzz.py: damaged inputs, kills and limits through the command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def fuzz() -> Iterator[ModuleType]:
    # Its processes import it too.
    sys.path.insert(0, str(BENCHMARKS))
    import fuzz as module
    import fuzz_processes

    module.preload()
    yield module
    fuzz_processes.end_worker()
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def bench(fuzz: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return fuzz.fuzz_inputs.prepare(tmp_path_factory.mktemp("fuzz") / "inputs", fuzz.call)


def _is_good(fuzz: ModuleType, outcome: Any) -> None:
    assert outcome.outcome in fuzz.GOOD, outcome


@pytest.mark.parametrize("number", range(12))
def test_damaged_inputs(fuzz: ModuleType, bench: Any, number: int) -> None:
    _is_good(fuzz, fuzz.run_case(bench, f"mutation:{number}", fuzz.mutation))


@pytest.mark.parametrize(
    "name", ["gtiff:overwrite:moved companion", "envi:resumed:publication marked", "cog:fresh:product built"]
)
def test_kills(fuzz: ModuleType, bench: Any, name: str) -> None:
    _is_good(fuzz, fuzz.run_case(bench, f"kill:{name}", fuzz.kill))


@pytest.mark.parametrize("name", ["FSIZE=65536", "NOFILE=16", "AS=300M", "both=full"])
def test_limits(fuzz: ModuleType, bench: Any, name: str) -> None:
    _is_good(fuzz, fuzz.run_case(bench, f"limit:{name}", fuzz.limit))


def test_a_process_that_does_nothing_is_given_up(
    fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fuzz_processes

    monkeypatch.setattr(fuzz_processes, "HANG_IDLE_S", 0.5)
    monkeypatch.setattr(sys, "executable", "/bin/sleep")
    monkeypatch.setattr(fuzz_processes, "_MODULE", ())
    code, _, _ = fuzz.call_fresh(["60"], tmp_path, address_space=1 << 30)
    assert code is None


def test_the_table_goes_into_the_page(fuzz: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- fuzz -->\nold\n<!-- end of fuzz -->\nafter\n")
    good = fuzz.Outcome("mutation:1", "same", 0, 1.0, about="zips/x")
    fuzz.write_page(page, [good])
    text = page.read_text()
    assert text.startswith("before\n<!-- fuzz -->\n`python benchmarks/fuzz.py")
    assert "mutations" in text
    assert "old" not in text
    assert text.endswith("<!-- end of fuzz -->\nafter\n")
    with pytest.raises(ValueError, match="bad"):
        fuzz.write_page(page, [fuzz.Outcome("mutation:1", "bug", 1, 1.0)])


def test_every_case_has_its_own_name_and_the_table_counts(fuzz: ModuleType) -> None:
    names = [name for name, _ in fuzz.cases(1500)]
    assert len(set(names)) == len(names)
    kinds = [name.split(":")[0] for name in names]
    assert (kinds.count("mutation"), kinds.count("kill") >= 60, kinds.count("limit") >= 40) == (1500, True, True)
    bad = fuzz.Outcome("kill:a:b:c", "lost", 0, 1.0, "gone")
    shown = fuzz.table([fuzz.Outcome("mutation:1", "same", 0, 1.0, about="zips/x"), bad])
    assert "lost   kill:a:b:c" in shown
    assert "mutations" in shown
