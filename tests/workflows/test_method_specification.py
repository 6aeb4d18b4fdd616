"""Methods as text, and the part of a cube without gaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hsfuse.errors import UsageError
from hsfuse.workflows.steps.cubes import largest_rectangle, solid_window
from hsfuse.workflows.steps.method_specification import (
    all_specifications,
    parse_specification,
    split_specifications,
    usual_specifications,
)

WORDS = ("bicubic", "gsa:ridge=1e-3", "glp:adaptive=false", "glp+back_projection=1,srf_weight=0.3", "cnmf:a=1,b=2",
         "ssrfn@folder/file.safetensors")  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), max_size=6), st.sampled_from([",", " ", ", ", "\n"]))
def test_lists_are_split_between_methods_only(words: list[str], separator: str) -> None:
    assert split_specifications(separator.join(words)) == words


def test_every_part_of_a_method_is_understood() -> None:
    spec = parse_specification("glp:adaptive=false,subspace=12+back_projection=2,srf_weight=0.5")
    assert spec.options == {"adaptive": False, "subspace": 12}
    assert (spec.guards.back_projection, spec.guards.srf_weight) == (2, 0.5)
    spec = parse_specification("ssrfn-lite@some/where/net.safetensors")
    assert (spec.name, spec.weights, spec.label) == (
        "ssrfn-lite", "some/where/net.safetensors", "ssrfn-lite@net.safetensors"
    )  # fmt: skip
    classics = [spec for spec in all_specifications() if not spec.network]
    assert {spec.label for spec in classics} >= {"bicubic", "gsa", "glp:adaptive=false", "glp", "cnmf"}
    for spec in classics:
        assert spec.create().spec.kind == "classical"
    usual = {spec.label for spec in usual_specifications()}
    assert usual < {spec.label for spec in all_specifications()}
    assert not usual & {"nlstf", "uhntc"}, "minutes on every scene: on demand only"


@pytest.mark.parametrize("text", ["", "magic", "glp:adaptive", "glp+srf_weight", "gsa@w.safetensors", "glp:=3"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_specification(text)


@given(arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_the_largest_rectangle_is_found(valid: np.ndarray) -> None:
    found = largest_rectangle(valid)
    rows, cols = valid.shape
    best = max(
        (
            (r1 - r0) * (c1 - c0)
            for r0 in range(rows) for r1 in range(r0 + 1, rows + 1)
            for c0 in range(cols) for c1 in range(c0 + 1, cols + 1)
            if valid[r0:r1, c0:c1].all()
        ),
        default=0,
    )  # fmt: skip
    assert found.shape[0] * found.shape[1] == best
    assert valid[found.slices].all()


def test_the_window_of_a_large_image_is_solid_and_not_too_large() -> None:
    valid = np.zeros((2500, 1700), bool)
    valid[300:2200, 400:1500] = True
    block = solid_window(valid, 384)
    assert block.shape == (384, 384)
    assert valid[block.slices].all()
    middle = (block.row0 + block.row1) / 2, (block.col0 + block.col1) / 2
    assert middle == pytest.approx((1250, 950), abs=6)
    assert solid_window(~valid[:10, :10] & False, 384).shape == (0, 0)
