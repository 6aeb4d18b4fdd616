"""Seams in the displacement: found where it jumps along a line, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hsfuse.coregister.boxes import Boxes
from hsfuse.coregister.seams import find_seam

FloatArray = NDArray[np.float64]
SIDE, COUNT = 8.0, 40


def centres() -> FloatArray:
    line = (np.arange(COUNT) + 0.5) * SIDE
    return np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)


def step(angle: float, offset: float, jump: tuple[float, float]) -> Callable[[FloatArray], FloatArray]:
    normal = np.array([np.cos(angle), np.sin(angle)])
    return lambda position: np.where((position @ normal > offset)[:, None], np.array(jump), 0.0)


def noisy(value: FloatArray, seed: int, sigma: float = 0.1) -> FloatArray:
    return np.asarray(value + np.random.default_rng(seed).normal(0.0, sigma, value.shape))


@settings(max_examples=15, deadline=None)
@given(
    angle=st.floats(0.0, np.pi), away=st.floats(-60.0, 60.0), size=st.floats(0.8, 2.5), turn=st.floats(0.0, 6.28),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_a_jump_is_found_where_it_is(angle: float, away: float, size: float, turn: float, seed: int) -> None:
    position = centres()
    normal = np.array([np.cos(angle), np.sin(angle)])
    middle = float(position.mean(axis=0) @ normal)
    jump = (size * np.cos(turn), size * np.sin(turn))
    truth = step(angle, middle + away, jump)
    tilt = 0.001 * position
    seam = find_seam(position, noisy(truth(position) + tilt, seed), np.ones(len(position)), SIDE)
    assert seam is not None
    assert seam.jump_px == pytest.approx(size, rel=0.15)
    assert abs(float(seam.line.normal @ normal)) > np.cos(np.radians(4.0))
    assert seam.at(np.array([[160.0, 160.0]]))[0] == pytest.approx(
        truth(np.array([[160.0, 160.0]]))[0] + 0.16, abs=0.3
    ) or (abs(away) < 2 * SIDE)


@pytest.mark.parametrize(
    "field",
    [
        lambda p: 0.0 * p,
        lambda p: 1.5 * np.sin(2 * np.pi * p[:, :1] / 40.0) * np.array([[1.0, 0.7]]),  # jitter: a step at every zero
        lambda p: 1.5 * np.sin(2 * np.pi * p[:, :1] / 110.0) * np.array([[0.3, 1.0]]),
        lambda p: 2.0 * np.exp(-((p - 160.0) ** 2).sum(axis=1, keepdims=True) / 800.0) * np.array([[1.0, 0.2]]),
    ],
    ids=["nothing", "short waves", "long waves", "summit"],
)
def test_what_bends_is_no_seam(field: Callable[[FloatArray], FloatArray]) -> None:
    position = centres()
    for seed in range(3):
        assert find_seam(position, noisy(field(position), seed), np.ones(len(position)), SIDE) is None


def test_the_error_of_a_smooth_field_beside_a_seam_is_stated() -> None:
    position = centres()
    truth = step(0.2, 150.0, (1.4, 0.6))
    normal = np.array([np.cos(0.2), np.sin(0.2)])

    def smooth(at: FloatArray) -> FloatArray:
        share = np.clip((at @ normal - 150.0) / 24.0 + 0.5, 0.0, 1.0)
        return np.asarray(share[:, None] * np.array([1.4, 0.6]))

    seam = find_seam(position, noisy(truth(position), 1), np.ones(len(position)), SIDE)
    assert seam is not None
    line = np.linspace(0.0, COUNT * SIDE - 1.0, 160)
    dense = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    true = float(((truth(dense) - smooth(dense)) ** 2).sum(axis=1).mean()) / 2.0
    assert seam.added_variance(smooth, dense) == pytest.approx(true, rel=0.3)


def test_boxes_of_a_narrow_summit_agree_with_each_other() -> None:
    """All nine boxes of a summit were outliers of the flat ground around, so that the field ran through its foot."""
    residual = np.random.default_rng(0).normal(0.0, 0.1, (12, 12, 2))
    residual[4:7, 4:7] += 1.5
    residual[9, 9] += 2.0
    position = np.moveaxis(np.indices((12, 12)).astype(float) * SIDE, 0, -1)
    boxes = Boxes(position, residual, np.full((12, 12), 0.1), np.ones((12, 12), dtype=bool), int(SIDE))
    weight = boxes.robust_weights(residual)
    assert weight[4:7, 4:7].sum() >= 5
    assert weight[5, 5] == 1.0
    assert weight[9, 9] == 0.0, "a box that agrees with nobody is a stray"
