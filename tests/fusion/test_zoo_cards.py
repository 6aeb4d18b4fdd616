"""Model cards of the training protocol: they say what the weights and the notes beside them say, and nothing older."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from hsfuse.fusion.nets.header import read_header

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = sorted((ROOT / "models").glob("*/weights.safetensors"))
PROTOCOL = "benchmarks/train_zoo/protocol.py"
TRAINED_ALIKE = [path.parent for path in WEIGHTS if read_header(path).training.get("protocol") == PROTOCOL]


@pytest.fixture(scope="module")
def protocol() -> ModuleType:
    folder = str(ROOT / "benchmarks" / "train_zoo")
    sys.path.insert(0, folder)
    try:
        import protocol as module
    finally:
        sys.path.remove(folder)
    return module


@pytest.mark.parametrize("folder", TRAINED_ALIKE, ids=lambda path: path.name)
def test_the_card_is_that_of_the_weights_and_the_notes(protocol, folder: Path) -> None:
    notes = folder / protocol.NOTES_FILE
    said = notes.read_text(encoding="utf-8") if notes.is_file() else ""
    card = (folder / "card.md").read_text(encoding="utf-8")
    assert card == protocol.card(read_header(folder / "weights.safetensors"), said), f"run {PROTOCOL} --cards"


def test_notes_stand_before_the_limits(protocol) -> None:
    header = read_header(TRAINED_ALIKE[0] / "weights.safetensors")
    card = protocol.card(header, "## Compared\n\nA figure.\n")
    assert "leaderboard.md.\n\n## Compared\n\nA figure.\n\n## Limits\n" in card
    assert "## Compared" not in protocol.card(header)
