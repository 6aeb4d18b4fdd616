"""Provenance: equal runs have equal records, different inputs are told apart."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from hsfuse.errors import InputError
from hsfuse.writers import file_hash, input_identity, provenance_record, run_identity
from hsfuse.writers.provenance import plain_record, provenance_tags


def test_a_changed_byte_changes_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "a.he5"
    path.write_bytes(b"x" * 1000)
    first = input_identity(path)
    assert (first.name, first.bytes) == ("a.he5", 1000)
    assert input_identity(path) == first
    path.write_bytes(b"x" * 999 + b"y")
    assert input_identity(path).fingerprint != first.fingerprint


def test_large_files_are_sampled_at_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "big.he5"
    path.write_bytes(bytes(20 * 2**20))
    first = input_identity(path)
    for position in (0, 20 * 2**20 - 1):
        with path.open("r+b") as stream:
            stream.seek(position)
            stream.write(b"\x01")
        changed = input_identity(path)
        assert changed.fingerprint != first.fingerprint
        first = changed


def test_safe_folders_depend_on_xml_and_sizes(tmp_path: Path) -> None:
    safe = tmp_path / "S2A.SAFE"
    (safe / "GRANULE").mkdir(parents=True)
    (safe / "MTD_MSIL2A.xml").write_text("<a/>")
    (safe / "GRANULE" / "B02.jp2").write_bytes(b"123")
    first = input_identity(safe)
    assert (first.name, first.bytes) == ("S2A.SAFE", 7)
    (safe / "MTD_MSIL2A.xml").write_text("<b/>")
    assert input_identity(safe).fingerprint != first.fingerprint


def test_missing_inputs_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.he5"):
        input_identity(tmp_path / "gone.he5")
    with pytest.raises(InputError, match=r"gone\.safetensors"):
        file_hash(tmp_path / "gone.safetensors")


def test_run_identity_tells_runs_apart(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    one = input_identity(path)
    assert run_identity("cfg", [one]) == run_identity("cfg", [one])
    assert len({run_identity("cfg", [one]), run_identity("cfg2", [one]), run_identity("cfg", [one], "w")}) == 3


def test_record_and_tags(tmp_path: Path) -> None:
    path = tmp_path / "a.he5"
    path.write_bytes(b"1")
    record = provenance_record(config={"seed": 1}, inputs=[input_identity(path)], method="glp", model={"sha256": "f"})
    tags = provenance_tags(plain_record(record), "id")
    assert tags["HSFUSE_METHOD"] == "glp"
    assert json.loads(tags["HSFUSE_MODEL"]) == {"sha256": "f"}
    assert json.loads(tags["HSFUSE_INPUTS"])[0]["name"] == "a.he5"
    assert tags["HSFUSE_IDENTITY"] == "id"


def test_plain_record_is_strict_json_in_a_fixed_order() -> None:
    messy = {
        "b": np.float32(0.5), "a": float("nan"), "c": (np.int64(3), Path("x")), "d": {"z": 1, "y": {2, 1}},
        "e": np.array([1.0, np.inf]), "f": datetime(2024, 1, 1, tzinfo=UTC), "g": True,
    }  # fmt: skip
    text = json.dumps(plain_record(messy), allow_nan=False)
    assert text == (
        '{"a": null, "b": 0.5, "c": [3, "x"], "d": {"y": [1, 2], "z": 1}, "e": [1.0, null], '
        '"f": "2024-01-01 00:00:00+00:00", "g": true}'
    )
