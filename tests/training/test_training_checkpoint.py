"""Checkpoint files: whole or not at all, never a pickle, never somebody else's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hsfuse.errors import InputError, OutputError
from hsfuse.training.checkpoint import Checkpoint, check_space, load_checkpoint, save_checkpoint


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    tensors = {"model/a.weight": torch.randn(3, 4), "optimizer/a.weight/step": torch.tensor(7.0)}
    save_checkpoint(path, Checkpoint(tensors, {"state": {"step": 7, "x": 0.1}}))
    loaded = load_checkpoint(path)
    assert torch.equal(loaded.part("model")["a.weight"], tensors["model/a.weight"])
    assert list(loaded.part("optimizer")) == ["a.weight/step"]
    assert loaded.record == {"state": {"step": 7, "x": 0.1}}
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_bad_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    with pytest.raises(InputError, match="no checkpoint"):
        load_checkpoint(path)
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(InputError, match="is a pickle"):
        load_checkpoint(path)
    path.write_bytes(b"something else entirely")
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(path)
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(InputError, match="not a training checkpoint"):
        load_checkpoint(path)
    save_checkpoint(path, Checkpoint({"model/a": torch.ones(1000)}, {}))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(path)


def test_space_is_checked_first(tmp_path: Path) -> None:
    check_space(tmp_path / "new", 1000)
    with pytest.raises(OutputError, match="need"):
        check_space(tmp_path, 10**18)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be used"):
        check_space(tmp_path / "file", 1)
