"""A second date of the guide: joined, brought to its place, and combined where nothing changed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, shift

from hsfuse.fusion.temporal import partner as temporal
from hsfuse.fusion.temporal.displacement import displaced, find_displacement, noise_left
from hsfuse.fusion.temporal.partner import combine_partner, join_partner

FloatCube = NDArray[np.float32]
NOISE = 0.004
SHAPE = (160, 176)


def _ground(shape: tuple[int, int] = SHAPE, seed: int = 0) -> FloatCube:
    """Four bands that three fields of fine structure make up."""
    rng = np.random.default_rng(seed)
    fields = np.stack([gaussian_filter(rng.standard_normal(shape), width) for width in (1.2, 2.0, 4.0)])
    fields /= fields.std(axis=(1, 2), keepdims=True)
    mixing = rng.uniform(-0.03, 0.05, (4, 3))
    return (np.tensordot(mixing, fields, axes=1) + np.array([0.08, 0.1, 0.12, 0.3])[:, None, None]).astype(np.float32)


def _measured(ground: FloatCube, seed: int) -> FloatCube:
    noise = NOISE * np.random.default_rng([seed, 5]).standard_normal(ground.shape)
    return (ground + noise).astype(np.float32)


def _error(image: FloatCube, ground: FloatCube, where: NDArray[np.bool_] | None = None) -> float:
    """Variance of the error over that of the noise."""
    square = ((image - ground) ** 2).mean(axis=0)
    return float((square if where is None else square[where]).mean()) / NOISE**2


def _combined(
    guide: FloatCube, other: FloatCube, usable: NDArray[np.bool_] | None = None, threads: int = 1
) -> tuple[FloatCube, FloatCube]:
    """Guide and noise level after a partner; as they came where it is refused."""
    result, level = guide.copy(), np.ones(guide.shape[1:], np.float32)
    usable = np.ones(guide.shape[1:], bool) if usable is None else usable
    found = join_partner(guide, usable, np.full(len(guide), NOISE**2), lambda rows: other[:, rows].copy())
    if found is not None:
        combine_partner(result, usable, level, np.full(len(guide), NOISE**2), found, threads)
    return result, level


def test_same_ground_in_other_light_takes_noise_out() -> None:
    ground = _ground()
    mixing = np.array([[0.9, 0.1, 0, 0], [0, 1.1, 0, 0], [0, 0.1, 0.8, 0.1], [0, 0, 0, 1.2]])
    light = (np.tensordot(mixing, ground, axes=1) + 0.02).astype(np.float32)
    guide = _measured(ground, 1)
    result, level = _combined(guide, _measured(light, 2))
    assert _error(guide, ground) == pytest.approx(1.0, abs=0.03)
    assert _error(result, ground) < 0.72
    # What it says about its noise is true.
    assert float(level.mean()) == pytest.approx(_error(result, ground), abs=0.08)


def test_two_partners_take_out_more_than_one() -> None:
    ground = _ground()
    usable, level = np.ones(SHAPE, bool), np.ones(SHAPE, np.float32)
    result, errors = _measured(ground, 1), []
    for seed in (2, 3):
        other = _measured(ground, seed)
        found = join_partner(result, usable, np.full(4, NOISE**2), lambda rows, other=other: other[:, rows].copy())
        assert found is not None
        combine_partner(result, usable, level, np.full(4, NOISE**2), found, 1)
        errors.append(_error(result, ground))
    assert errors[1] < errors[0] - 0.05


def test_changed_ground_stays_as_the_guide_shows_it() -> None:
    ground = _ground()
    changed = np.zeros(SHAPE, bool)
    changed[40:70, 50:90] = True
    other = np.where(changed, ground[:, ::-1, ::-1], ground)
    guide = _measured(ground, 1)
    result, level = _combined(guide, _measured(other, 2))
    assert _error(result, ground, changed) < 1.05
    assert _error(result, ground, ~changed) < 0.75
    assert float(level[changed].mean()) > float(level[~changed].mean()) + 0.1


@pytest.mark.parametrize("what", ["another place", "too little in common", "constant"])
def test_a_partner_of_no_use_is_refused(what: str) -> None:
    ground = _ground()
    other = _measured(_ground(seed=9), 2)
    if what == "too little in common":
        other = _measured(ground, 2)
        other[:, 24:] = np.nan
        other[:, :, 24:] = np.nan
    elif what == "constant":
        other = np.full_like(other, 0.2)
    guide = _measured(ground, 1)
    result, level = _combined(guide, other)
    np.testing.assert_array_equal(result, guide)
    assert (level == 1.0).all()


def test_clouds_of_either_date_are_left_alone() -> None:
    ground = _ground()
    guide, other = _measured(ground, 1), _measured(ground, 2)
    hidden, unusable = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    hidden[20:60, 20:80] = True
    unusable[90:120, 100:150] = True
    other[:, hidden] = np.nan
    guide[:, unusable] = 0.9
    result, level = _combined(guide, other, ~unusable)
    for mask in (hidden, unusable):
        np.testing.assert_array_equal(result[:, mask], guide[:, mask])
        assert (level[mask] == 1.0).all()
    assert _error(result, ground, ~hidden & ~unusable) < 0.75


def test_missed_clouds_and_stripes_do_no_harm() -> None:
    ground = _ground()
    other = _measured(ground, 2)
    other[:, 20:60, 20:80] = 0.9
    other *= (1.0 + 0.03 * np.random.default_rng(3).standard_normal(SHAPE[1])).astype(np.float32)
    result, _ = _combined(_measured(ground, 1), other)
    assert _error(result, ground) < 1.02


def test_displacement_below_a_pixel_is_taken_out() -> None:
    ground = _ground()
    beside = np.stack([shift(image, (0.3, -0.2), order=5, mode="mirror") for image in ground])
    guide, other = _measured(ground, 1), _measured(beside.astype(np.float32), 2)
    assert find_displacement([(guide, other)]) == pytest.approx((0.3, -0.2), abs=0.02)
    assert find_displacement([(guide, _measured(ground, 2))]) == (0.0, 0.0)
    result, _ = _combined(guide, other)
    assert _error(result, ground) < 0.85


def test_resampling_tells_the_noise_that_it_leaves() -> None:
    noise = np.random.default_rng(0).standard_normal((1, 400, 400)).astype(np.float32)
    moved = displaced(noise, (0.3, -0.45))
    assert float(moved.var()) == pytest.approx(noise_left((0.3, -0.45)), rel=0.02)


def test_strips_and_threads_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    ground = _ground()
    guide, other = _measured(ground, 1), _measured(ground, 2)
    other[:, 30:50, 10:90] = np.nan
    usable, noise = np.ones(SHAPE, bool), np.full(4, NOISE**2)
    found = join_partner(guide, usable, noise, lambda rows: other[:, rows].copy())
    assert found is not None

    def combined(threads: int) -> FloatCube:
        result, level = guide.copy(), np.ones(SHAPE, np.float32)
        combine_partner(result, usable, level, noise, found, threads)
        return np.concatenate([result, level[None]])

    whole = combined(1)
    monkeypatch.setattr(temporal, "_STRIP_PX", 32)
    np.testing.assert_allclose(combined(1), whole, atol=1e-4)
    np.testing.assert_array_equal(combined(3), combined(1))
