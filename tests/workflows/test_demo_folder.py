"""The demonstration replaces what an earlier one left, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hsfuse.errors import OutputError
from hsfuse.workflows.demo import run_demo


@pytest.mark.parametrize("name", ["fused.tif", "scores.json", "products/holiday.jpg", "fused.report.html"])
def test_other_peoples_files_stay(tmp_path: Path, name: str) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("{}")
    truth = tmp_path / "products" / "truth.npz"
    if name.startswith("products"):
        truth.write_text("of an earlier demonstration")
        known = {"wanted": {"size": 1}, "paths": {"truth": str(truth), "other": "/etc/hosts"}}
        (tmp_path / "products.json").write_text(json.dumps(known))
    with pytest.raises(OutputError, match="not made by"):
        run_demo(tmp_path, size=40, method="bicubic")
    assert mine.read_text() == "{}"
    if name.startswith("products"):
        assert not truth.exists()
