"""No weights were fitted to a site that is reported: what their records name, against the sites of the benchmarks."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from hsfuse.fusion.nets.header import read_header

ROOT = Path(__file__).resolve().parents[2]
SITES = tomllib.loads((ROOT / "benchmarks" / "sites.toml").read_text(encoding="utf-8"))
TEST_CUBES = [cube for site in SITES["test"].values() for cube in site]
WEIGHTS = sorted((ROOT / "models").glob("*/weights.safetensors"))


def test_every_cube_is_on_one_side() -> None:
    sides = [{cube for site in SITES[side].values() for cube in site} for side in ("train", "validation", "test")]
    assert sum(map(len, sides)) == len(set.union(*sides))
    assert TEST_CUBES


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda path: path.parent.name)
def test_no_record_names_a_test_site(weights: Path) -> None:
    training = read_header(weights).training
    named = [str(scene) for key in ("scenes", "validation_scenes") for scene in training.get(key, [])]
    assert named, "weights say what they were fitted to"
    assert not [cube for cube in TEST_CUBES if any(cube in scene for scene in named)]
    assert (weights.parent / "card.md").is_file()


def test_scores_by_weights_that_saw_the_scenes_say_so(benchmark_module: Callable[[str], ModuleType]) -> None:
    told = benchmark_module("gate_weights").trained_on
    folder = ROOT / "models" / "ssrfn"
    assert told([folder], TEST_CUBES) == []
    (sentence,) = told([folder], ["aviris_beach-1", "samson_95", *TEST_CUBES[:1]])
    assert "2 of these 3 cubes: aviris_beach-1, samson_95" in sentence
