from __future__ import annotations

import json

import numpy as np
import pytest

from hsfuse.qa.plain import to_plain
from hsfuse.qa.plots import seam_figure
from hsfuse.qa.seams import USUAL_RATIO, measure_seams

BORDERS = [96, 192]


def scene(seed=0, noise=0.003):
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[:288, :300]
    base = 0.25 + 0.05 * np.sin(row / 17.0) * np.cos(col / 23.0) + 0.0004 * row
    return (base + rng.normal(0, noise, (3, 288, 300))).astype(np.float32)


def measure(cube, ratio=3):
    return measure_seams(lambda block: cube[:, *block.slices], cube.shape[1:], BORDERS, BORDERS, ratio=ratio)


def test_a_cube_without_seams_shows_none():
    report = measure(scene())
    assert len(report.lines) == 4
    assert report.ratio == pytest.approx(1.0, abs=0.25)
    assert not report.significant
    assert report.score == report.ratio
    assert report.profile.size % 2 == 1
    assert report.profile.mean() == pytest.approx(1.0, abs=0.15)


def test_a_step_of_two_percent_is_seen_on_its_border():
    cube = scene()
    cube[:, :, 192:] *= 1.02
    report = measure(cube)
    ratios = {(line.axis, line.position): line.ratio for line in report.lines}
    assert ratios["col", 192] > 4.0
    assert max(value for key, value in ratios.items() if key != ("col", 192)) < 2.0
    assert report.worst == ratios["col", 192]
    assert report.profile.argmax() == report.profile.size // 2


def test_a_little_clear_ground_along_the_borders_tells_no_seam():
    # Bands show the same edges of the ground: many of them are no more evidence than one.
    alarms, judged = 0, []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        cube = np.repeat(scene(seed)[:1] + rng.normal(0, 0.02, (1, 288, 300)), 3, axis=0)
        cube[:, 130:, :] = np.nan
        cube[:, :, 120:] = np.nan
        report = measure(cube)
        alarms += report.score is not None and report.score > USUAL_RATIO
        judged += [line.ratio for line in report.lines if np.isfinite(line.ratio)]
    assert alarms <= 1
    assert judged == [], "five pieces of a border are too few"


def test_a_seam_in_a_cube_is_told():
    cube = scene()
    cube[:, 96:] *= 1.02
    cube[:, 192:] *= 1.02
    cube[:, :, 96:] *= 1.02
    cube[:, :, 192:] *= 1.02
    report = measure(cube)
    assert report.significant
    assert report.score == report.ratio > 2.0


def test_an_edge_of_the_ground_along_part_of_a_border_is_no_seam():
    cube = scene()
    cube[:, 96:, 40:110] += 0.15
    assert measure(cube).ratio < 1.4


def test_steps_between_hyperspectral_pixels_are_no_seams():
    # Pixels repeated three times step at every third column, borders among them.
    cube = np.repeat(np.repeat(scene()[:, :96, :100], 3, axis=1), 3, axis=2)
    assert measure(cube, ratio=3).ratio == pytest.approx(1.0, abs=0.25)


def test_masked_and_constant_ground():
    empty = measure(np.full((1, 288, 300), np.nan))
    assert np.isnan(empty.ratio)
    assert seam_figure(empty) is None
    flat = np.full((1, 288, 300), 0.2)
    assert measure(flat).ratio == 1.0
    flat[:, :, 192:] += 0.01
    assert measure(flat).worst == np.inf
    json.dumps(to_plain(measure(flat)), allow_nan=False)


def test_borders_at_the_edge_are_passed_over():
    cube = scene()
    report = measure_seams(lambda block: cube[:, *block.slices], (288, 300), [4, 284], [], ratio=3)
    assert report.lines == ()
    assert np.isnan(report.ratio)
