"""The leaderboard: rows by quality, gains that may be losses, the same cells in table and page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def leaderboard(benchmark_module: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_module("leaderboard")


def record(method: str, scene: str, psnr: float, parameters: int | None = None) -> dict[str, Any]:
    rest = dict.fromkeys(("SAM", "ERGAS", "Q2n", "SSIM", "seconds_per_mpx", "memory_mb"), 1.0)
    return {
        "setting": "ratio 3, 35dB",
        "scene": scene,
        "method": method,
        "PSNR": psnr,
        "parameters": parameters,
        **rest,
    }


def test_what_loses_is_shown_losing(leaderboard: ModuleType) -> None:
    records = [record("glp", "a", 40.0), record("glp", "b", 42.0), record("gsa", "a", 37.0), record("gsa", "b", 43.0),
               record("net", "a", 40.5, 120_000), record("net", "b", 41.0, 120_000)]  # fmt: skip
    rows = {row["method"]: row for row in leaderboard.rows_of(records, "ratio 3, 35dB")}
    assert list(rows) == ["glp", "net", "gsa"]
    assert (rows["net"]["over_glp"], rows["net"]["worst_glp"]) == (-0.25, -1.0)
    assert (rows["net"]["over_classic"], rows["net"]["worst_classic"]) == (0.75, -2.0)
    text = leaderboard.markdown(list(rows.values()), {"command": "x", "date": "today"})
    assert "| net | 2 | 40.75 |" in text
    assert "0.12 M" in text
    page = leaderboard.page(list(rows.values()), {"date": "today"})
    assert page.count("<tr>") == 4
    assert "<td>-0.25</td>" in page
    assert "http" not in page, "nothing is fetched"


def test_the_command_is_told_without_places(leaderboard: ModuleType) -> None:
    words = ["--data", "/some/where", "--quick", "--settings", "ratio 3, 35dB", "--records", "x.jsonl"]
    assert leaderboard._typed(words) == ["--quick", "--settings", '"ratio 3, 35dB"']
    assert leaderboard.parse(["--quick"]).sites == list(leaderboard.QUICK_SITES)


def test_without_options_everything_is_written(leaderboard: ModuleType) -> None:
    assert leaderboard.parse([]).output == BENCHMARKS.parent / "docs" / "leaderboard.md"
    assert leaderboard.parse(["--quick"]).output is None


def test_an_interrupted_run_goes_on_where_it_was(leaderboard: ModuleType, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    assert leaderboard.kept_rows(records, "a") == []
    row = record("glp", "a", 40.0) | {"weights": ""}
    with records.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    assert leaderboard.kept_rows(records, "a") == [row]
    assert leaderboard.kept_rows(records, "b") == [], "rows of other code are not mixed in"
    assert records.with_suffix(".old").is_file()


def test_a_reason_is_told_once_for_all_methods(leaderboard: ModuleType) -> None:
    rows = [record(name, scene, 0.0) | {"left_out": f"The network '{name}' takes 100 bands."}
            for name in ("a-lite", "b-lite") for scene in ("x", "y")]  # fmt: skip
    assert leaderboard.reasons_of(rows) == ["The network takes 100 bands. a-lite, b-lite (ratio 3, 35dB: 2)"]
