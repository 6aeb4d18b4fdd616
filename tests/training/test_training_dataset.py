"""What a network learns from: strips that never touch, patches that are a function of the step, honest pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hsfuse.degrade import Psf, apply_srf, lowpass_decimate
from hsfuse.errors import InputError, OverlapError
from hsfuse.grid import Slice2D
from hsfuse.training.augment import FULL, MIXED, AugmentationRanges, Disturbance
from hsfuse.training.pairs import Batch, ReducedPair
from hsfuse.training.reducer import Reducer
from hsfuse.training.scenes import MIN_PATCH_PX, TrainingScene, split_regions
from hsfuse.training.source import PatchSource, _chances


@given(
    st.integers(60, 1500), st.integers(12, 900), st.floats(0.05, 0.55), st.integers(0, 36), st.integers(12, 96)
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_strips_keep_their_distance(rows: int, cols: int, share: float, gap: int, patch: int) -> None:
    regions = split_regions((rows, cols), share=share, gap_px=gap, patch_px=patch)
    use = np.zeros((rows, cols), int)
    for block in regions.training:
        assert min(block.shape) >= MIN_PATCH_PX
        use[block.slices] += 1
    for block in regions.validation:
        assert min(block.shape) >= MIN_PATCH_PX
        assert not use[block.slices].any()
        use[block.slices] += 2
    assert use.max() <= 2
    # Grown by the gap, no validation strip reaches a training strip.
    for block in regions.validation:
        grown = Slice2D(block.row0 - gap, block.row1 + gap, block.col0 - gap, block.col1 + gap).clipped(rows, cols)
        assert not (use[grown.slices] == 1).any()


def test_a_scene_that_is_too_small_is_refused() -> None:
    with pytest.raises(InputError, match="too small to train on"):
        split_regions((30, 30), share=0.2, gap_px=18, patch_px=48)


def test_a_step_has_its_batch_whatever_came_before(make_source: Callable[..., PatchSource]) -> None:
    one, other = make_source(), make_source()
    for step in (0, 1, 9):
        one.batch(step)
    a, b = one.batch(17), other.batch(17)
    for name in ("hsi", "msi", "target", "valid"):
        assert torch.equal(getattr(a, name), getattr(b, name))


def test_windows_made_ahead_are_the_same(make_source: Callable[..., PatchSource]) -> None:
    plain, ahead = make_source(), make_source(prefetch=True)
    for step in range(0, 60, 5):
        assert torch.equal(plain.batch(step).hsi, ahead.batch(step).hsi)
    ahead.close()


def test_small_batches_draw_from_every_window_of_the_pool(make_source: Callable[..., PatchSource]) -> None:
    source = make_source(batch=2, pool=6)
    for step in range(3):
        source.batch(step)
    assert {slot for _, slot in source._pool} == set(range(6))


def test_processes_share_one_batch(make_source: Callable[..., PatchSource]) -> None:
    source = make_source()
    whole = source.batch(3)
    first, second = source.batch(3, 0, 2), source.batch(3, 1, 2)
    assert torch.equal(whole.target[0::2], first.target)
    assert torch.equal(whole.target[1::2], second.target)


def test_undisturbed_pair_follows_the_protocol(small_scene: TrainingScene) -> None:
    centre = np.linspace(440.0, 900.0, 12)
    reducer = Reducer(centre, np.full(12, 40.0))
    pair = reducer.make(small_scene, Slice2D(0, 48, 6, 54), 3, Disturbance())
    reference = torch.as_tensor(small_scene.reference[:, 0:48, 6:54])
    assert torch.equal(pair.target, reference)
    torch.testing.assert_close(pair.hsi, lowpass_decimate(reference[None], 3, Psf(1.0))[0])
    torch.testing.assert_close(pair.msi, apply_srf(reference[None], small_scene.srf[0])[0])


def test_shift_moves_the_hsi_and_not_the_target(small_scene: TrainingScene) -> None:
    reducer = Reducer(np.linspace(440.0, 900.0, 12), np.full(12, 40.0))
    block = Slice2D(0, 60, 0, 60)
    still = reducer.make(small_scene, block, 3, Disturbance())
    moved = reducer.make(small_scene, block, 3, Disturbance(shift_px=(1.0, 0.0)))
    assert torch.equal(still.target, moved.target)
    assert torch.equal(still.msi, moved.msi)
    # A shift by one HSI pixel downwards in the sampled position: row i shows what row i + 1 showed.
    torch.testing.assert_close(moved.hsi[:, 2:-3], still.hsi[:, 3:-2], atol=2e-3, rtol=0.0)


def test_two_sensors_make_a_pair_of_their_own(small_scene: TrainingScene) -> None:
    reducer = Reducer(np.linspace(440.0, 900.0, 12), np.full(12, 40.0))
    block = Slice2D(0, 60, 0, 60)
    drawn = Disturbance.draw(replace(MIXED, two_sensors_share=1.0), np.random.default_rng(3))
    assert drawn.sensors is not None
    plain = reducer.make(small_scene, block, 3, replace(drawn, sensors=None))
    made, again = (reducer.make(small_scene, block, 3, drawn) for _ in range(2))
    assert torch.equal(made.hsi, again.hsi)
    assert torch.equal(made.target, plain.target)
    assert made.facts.sensors == drawn.sensors
    # The same ground, seen otherwise.
    for one, other in ((made.hsi, plain.hsi), (made.msi, plain.msi)):
        assert 0.001 < float((one - other).abs().mean() / other.mean()) < 0.2


@given(st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_disturbances_stay_in_their_ranges(seed: int) -> None:
    drawn = Disturbance.draw(FULL, np.random.default_rng(seed))
    assert 25.0 <= drawn.hsi_snr_db <= 45.0 or drawn.hsi_snr_db == drawn.msi_snr_db == np.inf
    assert 0.85 <= drawn.psf_factor <= 1.15
    assert max(map(abs, drawn.shift_px)) <= 0.4
    assert drawn == Disturbance.draw(FULL, np.random.default_rng(seed))


def test_noise_has_the_level_that_was_asked_for() -> None:
    quiet = AugmentationRanges(stripes=0.0, missing_share=0.0, hsi_snr_db=(30.0, 30.0), clean_share=0.0)
    drawn = Disturbance.draw(quiet, np.random.default_rng(0))
    clean = torch.full((40, 50, 50), 0.2)
    noise = drawn.disturb_hsi(clean) - clean
    # Bands differ in quality by a log-normal factor; their middle is the level.
    middle = float(noise.std(dim=(1, 2)).median())
    assert middle == pytest.approx(0.2 * 10 ** (-30 / 20), rel=0.25)


def test_clean_windows_stay_clean() -> None:
    clean = AugmentationRanges(missing_share=0.0, msi_gain=0.0, msi_offset=0.0, clean_share=1.0)
    drawn = Disturbance.draw(clean, np.random.default_rng(0))
    image = torch.full((4, 20, 20), 0.2)
    assert torch.equal(drawn.disturb_hsi(image), image)
    assert torch.equal(drawn.disturb_msi(image), image)


def test_clouds_do_not_train(small_scene: TrainingScene, make_source: Callable[..., PatchSource]) -> None:
    valid = np.ones(small_scene.valid.shape, bool)
    valid[:30] = False
    source = make_source(replace(small_scene, valid=valid))
    shares = [float(source.batch(step).valid.mean()) for step in range(6)]
    assert min(shares) > 0.5


def test_windows_that_the_task_cannot_use_are_passed_over(make_source: Callable[..., PatchSource]) -> None:
    source = make_source()
    calls: list[str] = []

    def useless(pair: ReducedPair) -> ReducedPair:
        calls.append(pair.name)
        raise OverlapError("too few valid pixels")

    source._prepare = useless
    with pytest.raises(OverlapError, match="training strips hold too few valid pixels"):
        source.batch(0)
    assert len(calls) > 4
    with pytest.raises(OverlapError, match="validation strips hold too few"):
        source.validation()


def test_what_a_task_adds_is_cut_and_stacked_with_the_rest(make_source: Callable[..., PatchSource]) -> None:
    source = make_source()
    source._prepare = lambda pair: replace(
        pair, images={"copy": pair.target}, values={"top": pair.target.amax().view(1)}
    )
    batch = source.batch(2)
    assert torch.equal(batch.images["copy"], batch.target)
    assert batch.values["top"].shape == (4,)
    part = batch.part(1, 3)
    assert (len(part), part.ratio) == (2, 3)
    assert torch.equal(part.images["copy"], batch.target[1:3])
    assert isinstance(Batch.stack([part, part]), Batch)


def test_validation_windows_are_always_the_same(make_source: Callable[..., PatchSource]) -> None:
    first, second = make_source().validation(), make_source().validation()
    assert len(first) == 2
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.hsi, b.hsi)
        assert torch.equal(a.target, b.target)


def test_generated_scenes_do_not_drown_measured_ones() -> None:
    size = np.array([100.0, 192.0, 192.0, 192.0])
    drawn = np.array([False, True, True, True])
    np.testing.assert_allclose(_chances(size, drawn, 0.4), [0.6, 0.4 / 3, 0.4 / 3, 0.4 / 3])
    np.testing.assert_allclose(_chances(size, np.zeros(4, bool), 0.4), size / size.sum())
