"""The maximum a posteriori step: exact algebra, the same result in any tiling, and never a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from pair_support import RATIO, Pair, make_pair, psnr, rms, shaken
from scipy.ndimage import gaussian_filter, map_coordinates

from hsfuse.degrade import Psf, lowpass_decimate_array
from hsfuse.errors import HsfuseError
from hsfuse.fusion.create import create_method
from hsfuse.fusion.map.blur import TileBlur, decimation_matrix
from hsfuse.fusion.map.degraded import _displaced, _Draws, degraded_windows
from hsfuse.fusion.map.method import RefinedMethod, _best, refined
from hsfuse.fusion.map.posterior import MapEstimator
from hsfuse.fusion.map.prior import ErrorPrior, squared_misses
from hsfuse.fusion.map.refinement import Refinement
from hsfuse.fusion.scene_model.model import estimate_scene_model

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair()


def _tensors(pair: Pair) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(pair.hsi)[None], torch.from_numpy(pair.msi)[None]


@pytest.mark.parametrize("ratio", [2, 3, 4])
def test_matrices_do_what_the_degradation_does(ratio: int) -> None:
    psf, image = Psf(1.2), np.random.default_rng(0).standard_normal((2, 8 * ratio, 7 * ratio)).astype(np.float32)
    blur = TileBlur.of((8 * ratio, 7 * ratio), ratio, psf)
    assert np.allclose(blur.apply(torch.from_numpy(image)), lowpass_decimate_array(image, ratio, psf), atol=1e-5)
    assert np.allclose(decimation_matrix(8 * ratio, ratio, psf, 0.2).sum(axis=1), 1.0)


def test_solve_inverts_the_gram_matrix_of_the_response() -> None:
    blur = TileBlur.of((15, 12), 3, Psf(1.1), (0.1, -0.2))
    dense = torch.stack([blur.apply(unit.reshape(15, 12)).flatten() for unit in torch.eye(180)], dim=1)
    right, diagonal = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.3, 5.0])
    found = blur.from_basis(blur.to_basis(right) / (blur.power + diagonal[:, None, None]))
    for k in range(2):
        gram = dense @ dense.T + diagonal[k] * torch.eye(20)
        assert torch.allclose(found[k].flatten(), torch.linalg.solve(gram, right[k].flatten()), atol=2e-4)
    fine = torch.randn(15, 12, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(blur.transpose(right[0]).flatten(), dense.T @ right[0].flatten(), atol=1e-5)
    assert torch.allclose(blur.apply(fine).flatten(), dense @ fine.flatten(), atol=1e-5)


@pytest.mark.parametrize("size", [(24, 33), (6, 3), (3, 12)])
@pytest.mark.parametrize(("ratio", "offset"), [(3, (0.1, -0.4)), (2, (0.0, 0.0)), (4, (-0.3, 0.2))])
def test_compiled_blur_and_transpose_equal_the_matrices(
    isa: str, plain: Callable[..., torch.Tensor], size: tuple[int, int], ratio: int, offset: tuple[float, float]
) -> None:
    blur = TileBlur.of((size[0] * ratio, size[1] * ratio), ratio, Psf(1.3), offset)
    generator = torch.Generator().manual_seed(2)
    fine = torch.randn(2, 3, size[0] * ratio, size[1] * ratio, generator=generator)
    coarse = torch.randn(2, 3, *size, generator=generator)
    assert torch.allclose(blur.apply(fine), plain(blur.apply, fine), atol=1e-5)
    whole = plain(blur.transpose, coarse)
    assert torch.allclose(blur.transpose(coarse), whole, atol=1e-5)
    for rows in (slice(0, 2), slice(ratio, 2 * ratio + 1), slice(size[0] * ratio - 1, size[0] * ratio)):
        assert torch.allclose(blur.transpose(coarse, rows), whole[:, :, rows], atol=1e-5)
        assert torch.allclose(plain(blur.transpose, coarse, rows), whole[:, :, rows], atol=1e-5)


def test_estimate_minimises_its_cost(pair: Pair) -> None:
    small = make_pair((12, 12), bands=10)
    model, _ = estimate_scene_model(small.strips(), small.context(calibrate=False))
    rank = model.space.rank
    prior, variance = 0.5 * np.eye(rank) + 0.1, np.full(4, 1e-4)
    spread = np.random.default_rng(0).standard_normal((rank, rank))
    error = np.eye(rank) + 0.3 * spread @ spread.T
    step = MapEstimator.make(model, prior, variance, hsi_error=error)
    seen = torch.tensordot(torch.as_tensor(model.space.forward).float(), torch.from_numpy(small.hsi), dims=1)[None]
    start = torch.zeros((1, rank, 36, 36))
    msi = torch.from_numpy(small.msi)[None]
    blur = TileBlur.of((36, 36), RATIO, model.psf, model.offset_px)
    synthesis = torch.as_tensor(model.synthesis.matrix).float()
    mean = torch.as_tensor(model.synthesis.mean).float()[:, None, None]
    precision, inverse = (torch.linalg.inv(torch.as_tensor(matrix).float()) for matrix in (prior, error))

    def cost(u: torch.Tensor) -> torch.Tensor:
        miss = msi[0] - mean - torch.tensordot(synthesis, u[0], dims=1)
        pull = torch.tensordot(precision, u[0], dims=1)
        left = (seen - blur.apply(u))[0]
        believed = (left * torch.tensordot(inverse, left, dims=1)).sum()
        return believed + (miss.square() / 1e-4).sum() + (u[0] * pull).sum()

    found = step.solve(seen, msi, start).requires_grad_()
    cost(found).backward()
    scale = torch.zeros_like(found).requires_grad_()
    cost(scale).backward()
    assert found.grad is not None
    assert scale.grad is not None
    assert float(found.grad.abs().max()) < 1e-3 * float(scale.grad.abs().max())


def test_an_error_far_beyond_the_noise_along_few_directions_is_no_end_of_a_run() -> None:
    small = make_pair((12, 12), bands=10)
    model, _ = estimate_scene_model(small.strips(), small.context(calibrate=False))
    rank = model.space.rank
    for seed in range(20):
        # As displacement is beside next to no noise: numpy finds such matrices not positive definite.
        spread = np.random.default_rng(seed).standard_normal((rank, 2))
        error = np.eye(rank) + 1e17 * spread @ spread.T
        step = MapEstimator.make(model, np.eye(rank), np.full(4, 1e-4), hsi_error=error)
        assert bool(step.leave.isfinite().all())
        assert bool(step.precision.isfinite().all())


@pytest.mark.parametrize("quality", ["fast", "standard", "best"])
def test_gains_and_says_so(pair: Pair, quality: str) -> None:
    base, method = create_method("glp"), RefinedMethod(create_method("glp"), quality)  # type: ignore[arg-type]
    results = []
    for one in (base, method):
        one.fit(pair.context(), pair.strips())
        results.append(one.fuse(*_tensors(pair))[0].numpy())
    record = method.refinement
    assert record is not None
    assert record.used != "none"
    assert psnr(pair.truth, results[1]) > psnr(pair.truth, results[0]) + 0.1
    assert record.to_json()["expected_rmse"] > 0


@pytest.mark.parametrize(("quality", "tolerance"), [("fast", 1e-4), ("standard", 1e-4), ("best", 1e-3)])
def test_any_tiling_gives_the_same(quality: str, tolerance: float) -> None:
    """Where the estimate looks farthest: a wide blur, little noise, and an HSI that contradicts the guide."""
    cols = 120
    wide = make_pair((30, cols), seed=3, fwhm=2.0, noise=0.0002)
    method = RefinedMethod(create_method("glp"), quality)  # type: ignore[arg-type]
    method.fit(wide.context(), wide.strips())
    hsi, msi = _tensors(wide)
    hsi = 0.2 + 0.1 * torch.rand(hsi.shape, generator=torch.Generator().manual_seed(0))
    whole = method.fuse(hsi, msi)
    halo = method.spec.halo_px
    start = cols - halo - 12
    part = method.fuse_window(
        hsi[..., start - halo :], msi[..., (start - halo) * RATIO :], (slice(0, 30), slice(halo, halo + 6))
    )
    assert float((part - whole[..., start * RATIO : (start + 6) * RATIO]).abs().max()) < tolerance


def test_methods_that_fuse_in_inference_mode_are_refined(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """As networks do: what they return must not be changed in place outside that mode."""
    from hsfuse.fusion.classical.adaptive import AdaptiveInjection

    inject = AdaptiveInjection.apply
    monkeypatch.setattr(AdaptiveInjection, "apply", torch.inference_mode()(inject))
    method = RefinedMethod(create_method("glp"), "standard")
    method.fit(pair.context(), pair.strips())
    assert method.refinement is not None
    assert method.refinement.used in ("map", "clean")


@pytest.mark.parametrize(("more", "used"), [(0.02, False), (0.5, True)])
def test_components_of_a_displaced_pair_are_cleaned_where_held_out_bands_gain_by_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, more: float, used: bool
) -> None:
    told = {"map": 0.5, "clean": 0.6, "nonlocal": 0.6 + more}
    monkeypatch.setattr(
        "hsfuse.fusion.map.method.HeldOutBands.gains",
        # Of the displacements the second explains these bands best.
        lambda self, kind, errors, *rest: [
            told[kind] - 0.1 * abs(k - min(len(errors) - 1, 1)) for k in range(len(errors))
        ],
    )
    monkeypatch.setattr(
        "hsfuse.fusion.map.method._trial_misses",
        lambda trial, method, windows, fused, *rest: [
            (0.5 - 0.1 * bool(trial.nonlocal_step)) * squared_misses(*pair) for pair in zip(windows, fused, strict=True)
        ],
    )
    method = RefinedMethod(create_method("glp"), "best")
    method.fit(pair.context(), pair.strips())
    record = method.refinement
    assert record is not None
    assert (record.used == "nonlocal") is used


@pytest.mark.parametrize(
    ("reduced", "held", "best"), [(0.95, 0.3, "nonlocal"), (0.8, 0.9, "clean"), (0.95, -0.2, "clean")]
)
def test_components_of_a_pair_that_is_not_displaced_are_cleaned(reduced: float, held: float, best: str) -> None:
    """Held-out bands refused what gained up to 0.4 dB on tuning cubes: a quarter of the guide is missing there."""
    gains, on_bands = {"map": 0.5, "clean": 1.0, "nonlocal": reduced}, {"map": 0.3, "clean": 0.6, "nonlocal": held}
    assert _best(("map", "clean", "nonlocal"), gains, on_bands, 0.0, judged=True) == best


def test_a_perfect_base_is_left_alone() -> None:
    """Where the method leaves nothing to gain, the step must not be used, or not cost anything."""
    pair = make_pair(noise=0.0, seed=5)
    results = []
    for method in (create_method("glp"), RefinedMethod(create_method("glp"))):
        method.fit(pair.context(), pair.strips())
        results.append(psnr(pair.truth, method.fuse(*_tensors(pair))[0].numpy()))
    assert results[1] > results[0] - 0.05


@pytest.mark.parametrize("coarse", [(6, 6), (7, 30)])
def test_scenes_too_small_to_validate_still_work(coarse: tuple[int, int]) -> None:
    pair = make_pair(coarse)
    method = RefinedMethod(create_method("glp"))
    method.fit(pair.context(), pair.strips())
    assert bool(torch.isfinite(method.fuse(*_tensors(pair))).all())
    assert method.refinement is not None


def test_unknown_responses_and_many_bands(pair: Pair) -> None:
    method = RefinedMethod(create_method("glp"))
    method.fit(pair.context(srf=None), pair.strips())
    base = create_method("glp")
    base.fit(pair.context(srf=None), pair.strips())
    assert psnr(pair.truth, method.fuse(*_tensors(pair))[0].numpy()) > psnr(
        pair.truth, base.fuse(*_tensors(pair))[0].numpy()
    )


def test_shift_that_a_small_scene_hides_is_found() -> None:
    pair = make_pair((14, 14), offset=(0.2, -0.15), fwhm=1.1, seed=2)
    model, _ = estimate_scene_model(pair.strips(), pair.context())
    assert model.alignment_source == "small pair"
    assert np.allclose(model.offset_px, (0.2, -0.15), atol=0.04)
    assert model.to_json()["rank"] == model.space.rank


def test_needs_a_fit_and_off_is_the_method_itself() -> None:
    glp = create_method("glp")
    assert refined(glp, None) is glp
    with pytest.raises(HsfuseError, match="fit"):
        RefinedMethod(glp).fuse(torch.zeros(1, 4, 6, 6), torch.zeros(1, 4, 18, 18))
    again = RefinedMethod(glp, "best").around(create_method("bicubic"))
    assert again.inner.spec.name == "bicubic"
    assert again.spec.halo_px > glp.spec.halo_px


def test_local_displacement_is_seen_and_costs_nothing() -> None:
    """A HSI that stands off by a varying part of a pixel must not be taken at its word."""
    pair = make_pair((40, 40), seed=6)
    moved = shaken(pair)
    models = [estimate_scene_model(p.strips(), p.context(calibrate=False))[0] for p in (pair, moved)]
    assert models[0].synthesis.jitter_px < 0.04
    assert 0.08 < models[1].synthesis.jitter_px < 0.25
    results = []
    step = RefinedMethod(create_method("glp"))
    for method in (create_method("glp"), step):
        method.fit(moved.context(calibrate=False), moved.strips())
        results.append(psnr(pair.truth, method.fuse(*_tensors(moved))[0].numpy()))
    assert results[1] > results[0] - 0.05
    assert step.refinement is not None
    assert step.refinement.displacement_px >= 0.05


def test_a_guide_without_noise_is_cleaned_of_nothing() -> None:
    """Its measured noise is that of rounding: in units of that, the denoiser's products overflowed."""
    small = make_pair((10, 10), noise=0.0)
    model, _ = estimate_scene_model(small.strips(), small.context(calibrate=False))
    model = replace(model, guide_noise=np.full(4, 1e-9))
    prior = ErrorPrior(np.eye(model.space.rank), np.ones(24), 1)
    step = Refinement.make(model, prior, np.eye(model.space.rank), kind="clean")
    msi = torch.from_numpy(small.msi)[None]
    assert float((step.clean(msi) - msi).abs().max()) < 1e-3


def test_components_are_refined_before_they_become_bands(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as refining bands: what lies outside of the subspace has no component."""
    method = RefinedMethod(create_method("glp"), "standard", ratio=RATIO)
    method.fit(pair.context(), pair.strips())
    assert method.step is not None
    found = method.fuse(*_tensors(pair))
    assert method._inside is not None
    monkeypatch.setattr(method, "_inside", None)
    assert torch.allclose(found, method.fuse(*_tensors(pair)), atol=1e-5)


def test_bands_are_displaced_as_scipy_interpolates_each() -> None:
    rng = np.random.default_rng(0)
    low = gaussian_filter(rng.standard_normal((5, 13, 9)), (0, 1, 1)).astype(np.float32)
    displacement = rng.uniform(-1.5, 1.5, (2, 13, 9))
    at = np.stack(np.meshgrid(np.arange(13), np.arange(9), indexing="ij")) + displacement
    expected = [map_coordinates(band, at, order=3, mode="nearest") for band in low]
    np.testing.assert_allclose(_displaced(low, displacement), expected, atol=1e-6)


def test_small_windows_are_displaced_by_no_more_than_pixels_are() -> None:
    """Of nine pixels a smooth field has hardly any deviation: scaled by it, some lay outside of all memory."""
    pair = make_pair((9, 9))
    model, strips = estimate_scene_model(pair.strips(), pair.context(calibrate=False))
    model = replace(model, synthesis=replace(model.synthesis, jitter_px=0.1))
    place = slice(0, 9)
    for seed in range(40):
        drawn = _Draws.of(np.random.default_rng(seed), strips[0], place, place, model)
        assert drawn.displacement is not None
        assert 0.05 < np.abs(drawn.displacement).max() <= 0.5
    still = replace(model, synthesis=replace(model.synthesis, jitter_px=0.0))
    moved, plain = (degraded_windows(strips, each)[0].low for each in (model, still))
    assert 0.0 < rms(moved - plain) < rms(plain - plain.mean(axis=(1, 2), keepdims=True))
