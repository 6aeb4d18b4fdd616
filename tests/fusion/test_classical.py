"""The classics: exact tiles, robustness, and the quality that each stands for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hsfuse.degrade import Psf, decimate_separable, displaced_kernels, lowpass_decimate_array
from hsfuse.errors import HsfuseError, OverlapError
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip
from hsfuse.fusion.classical import window_regression
from hsfuse.fusion.classical.calibration import Calibration, calibrate, recalibrated
from hsfuse.fusion.classical.statistics import Moments, gather, noise_std, signal_subspace
from hsfuse.fusion.classical.window_regression import cholesky_solve
from hsfuse.fusion.create import create_method

torch.set_num_threads(1)  # threads that wait for each other on a busy machine are slower than one

METHODS = {
    "bicubic": {},
    "gsa": {},
    "glp": {},
    "glp textbook": {"adaptive": False},
    "cnmf": {"endmembers": 8, "iterations": 40},
}
FUSIONS = [name for name in METHODS if name != "bicubic"]


def make(name: str) -> FusionMethod:
    return create_method(name.split()[0], **METHODS[name])


class Pair:
    """A small scene with materials, texture and shade, and the pair that two sensors make of it."""

    def __init__(self, *, ratio: int = 3, size: int = 40, bands: int = 30, noise: float = 0.0, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        n = size * ratio
        frequency = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.fftfreq(n)[None, :])
        fields = np.fft.ifft2(np.fft.fft2(rng.normal(size=(6, n, n))) / (0.01 + frequency) ** 1.6).real
        fields = (fields - fields.mean(axis=(1, 2), keepdims=True)) / fields.std(axis=(1, 2), keepdims=True)
        share = np.exp(2.0 * fields[:5])
        share /= share.sum(axis=0)
        centre = np.linspace(420, 2400, bands)
        bumps = [(rng.uniform(400, 2400), rng.uniform(80, 600), rng.uniform(0.1, 0.5)) for _ in range(20)]
        spectra = np.stack(
            [
                0.08 + sum(a * np.exp(-0.5 * ((centre - m) / s) ** 2) for m, s, a in bumps[i * 4 : i * 4 + 4])
                for i in range(5)
            ]
        )
        shade = 1.0 + 0.15 * np.tanh(fields[5])
        self.truth = (np.tensordot(spectra.T, share, 1) * shade).astype(np.float32)
        response = np.exp(-0.5 * ((centre[None] - np.array([490, 560, 665, 835])[:, None]) / 60) ** 2)
        self.srf = response / response.sum(axis=1, keepdims=True)
        self.ratio, self.psf, self.centre_nm = ratio, Psf(1.0), centre
        self.msi = np.tensordot(self.srf, self.truth, 1).astype(np.float32)
        self.hsi = lowpass_decimate_array(self.truth, ratio, self.psf)
        self.hsi += noise * rng.normal(size=self.hsi.shape).astype(np.float32)
        self.msi += 0.5 * noise * rng.normal(size=self.msi.shape).astype(np.float32)
        self.valid = np.ones(self.hsi.shape[1:], bool)

    @property
    def context(self) -> FusionContext:
        return FusionContext(
            ratio=self.ratio,
            centre_nm=self.centre_nm,
            fwhm_nm=np.full(len(self.centre_nm), 12.0),
            srf=self.srf,
            psf=self.psf,
        )

    def strips(self, height: int = 1000) -> list[LowResolutionStrip]:
        low = lowpass_decimate_array(self.msi, self.ratio, self.psf)
        rows, found = self.hsi.shape[1], []
        for i in range(0, rows, height):
            above, stop = min(i, 2), min(i + height, rows)
            fine = self.msi[:, (i - above) * self.ratio : min(stop + 2, rows) * self.ratio]
            at = slice(i, stop)
            found.append(LowResolutionStrip(self.hsi[:, at], low[:, at], self.valid[at], fine=fine, fine_above=above))
        return found

    def displace(self, fwhm_px: float, shift_px: tuple[float, float], noise: float = 0.0) -> None:
        """Let the HSI be blurred and lie otherwise than anybody is told."""
        kernels = displaced_kernels(Psf(fwhm_px), self.ratio, shift_px)
        self.hsi = decimate_separable(torch.from_numpy(self.truth)[None], self.ratio, *kernels)[0].numpy()
        self.hsi += noise * np.random.default_rng(9).normal(size=self.hsi.shape).astype(np.float32)

    def fused(self, method: FusionMethod, rows: slice = slice(None), cols: slice = slice(None)) -> np.ndarray:
        r = self.ratio
        top, left = rows.start or 0, cols.start or 0
        bottom, right = rows.stop or self.hsi.shape[1], cols.stop or self.hsi.shape[2]
        hsi = torch.from_numpy(self.hsi[:, top:bottom, left:right].copy())[None]
        msi = torch.from_numpy(self.msi[:, top * r : bottom * r, left * r : right * r].copy())[None]
        return method.fuse(hsi, msi)[0].numpy()

    def fit(self, name: str, height: int = 1000) -> FusionMethod:
        method = make(name)
        method.fit(self.context, self.strips(height))
        return method


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a.astype(np.float64) - b) ** 2)))


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair(noise=0.002)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("ratio", [2, 3, 4, 6])
def test_output_has_the_fine_shape_at_any_ratio(name, ratio):
    pair = Pair(ratio=ratio, size=16, bands=12)
    fused = pair.fused(pair.fit(name))
    assert fused.shape == pair.truth.shape
    assert fused.dtype == np.float32
    assert np.isfinite(fused).all()


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_is_far_closer_to_the_truth_than_interpolation(name, pair):
    plain = rmse(pair.fused(pair.fit("bicubic")), pair.truth)
    assert rmse(pair.fused(pair.fit(name)), pair.truth) < {"glp": 0.4}.get(name, 0.85) * plain


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("ratio", [3, 4])
def test_a_tile_with_halo_equals_the_whole_image(name, ratio):
    pair = Pair(ratio=ratio, size=36, bands=20, noise=0.003)
    pair.hsi[:, 17, 19] += 0.3 * np.sin(np.arange(20))  # a rare material crosses no tile unseen
    method = pair.fit(name)
    whole = pair.fused(method)
    halo, step = method.spec.halo_px, 9
    worst = 0.0
    for top in range(0, 36, step):
        for left in range(0, 36, step):
            rows = slice(max(top - halo, 0), min(top + step + halo, 36))
            cols = slice(max(left - halo, 0), min(left + step + halo, 36))
            tile = pair.fused(method, rows, cols)
            inside = tile[:, (top - rows.start) * ratio :, (left - cols.start) * ratio :]
            inside = inside[:, : step * ratio, : step * ratio]
            expected = whole[:, top * ratio : (top + step) * ratio, left * ratio : (left + step) * ratio]
            worst = max(worst, float(np.abs(inside - expected).max()))
    assert worst < 1e-5


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_of_tiles_equals_tile_by_tile(name, pair):
    method = pair.fit(name)
    hsi = torch.from_numpy(np.stack([pair.hsi[:, :12, :12], pair.hsi[:, 20:32, 5:17]]))
    msi = torch.from_numpy(np.stack([pair.msi[:, :36, :36], pair.msi[:, 60:96, 15:51]]))
    both = method.fuse(hsi, msi)
    for k in range(2):
        torch.testing.assert_close(both[k : k + 1], method.fuse(hsi[k : k + 1], msi[k : k + 1]), atol=2e-6, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_the_cut_into_strips_hardly_matters(name, pair):
    whole = pair.fused(pair.fit(name))
    for height in (10, 16):
        assert rmse(pair.fused(pair.fit(name, height)), whole) < 0.002
    # Strips too thin for any detail window still give a sound fit.
    assert rmse(pair.fused(pair.fit(name, 2)), pair.truth) < 1.3 * rmse(whole, pair.truth)


@pytest.mark.parametrize("name", METHODS)
def test_strips_need_neither_adjoin_nor_share_a_width(name, pair):
    method = make(name)
    first, second, third = pair.strips(14)
    narrow = LowResolutionStrip(third.hsi[:, :, :21], third.msi[:, :, :21], third.valid[:, :21])
    method.fit(pair.context, [first, narrow])
    assert second is not None
    assert rmse(pair.fused(method), pair.truth) < 1.2 * rmse(pair.fused(pair.fit(name)), pair.truth)


@pytest.mark.parametrize("name", METHODS)
def test_inputs_are_not_written_to(name, pair):
    method = pair.fit(name)
    before = pair.hsi.copy(), pair.msi.copy()
    hsi, msi = torch.from_numpy(pair.hsi)[None], torch.from_numpy(pair.msi)[None]
    method.fuse(hsi, msi)
    np.testing.assert_array_equal(hsi[0].numpy(), before[0])
    np.testing.assert_array_equal(msi[0].numpy(), before[1])


@pytest.mark.parametrize("name", METHODS)
def test_zero_bands_stay_zero_and_poison_nothing(name):
    pair = Pair(size=20, bands=16, noise=0.002)
    clean = pair.fused(pair.fit(name))
    pair.hsi[[3, 9]] = 0.0
    fused = pair.fused(pair.fit(name))
    assert np.isfinite(fused).all()
    assert np.abs(fused[[3, 9]]).max() < 1e-3
    others = [k for k in range(16) if k not in (3, 9)]
    assert rmse(fused[others], clean[others]) < 0.02


@pytest.mark.parametrize("name", METHODS)
def test_a_constant_scene_comes_back_constant(name):
    pair = Pair(size=12, bands=8)
    pair.hsi[:] = np.linspace(0.1, 0.6, 8)[:, None, None]
    pair.msi[:] = 0.3
    fused = pair.fused(pair.fit(name))
    np.testing.assert_allclose(fused, np.broadcast_to(pair.hsi[:, :1, :1], fused.shape), atol=5e-3)


@pytest.mark.parametrize("name", METHODS)
def test_invalid_pixels_do_not_reach_the_fit(name):
    pair = Pair(size=30, bands=12, noise=0.002)
    clean = pair.fused(pair.fit(name))
    pair.valid[:, 22:] = False
    good = pair.fused(pair.fit(name))
    pair.hsi[:, :, 24:] = 7.0  # cloud
    spoiled_fit = pair.fit(name)
    again = pair.fused(spoiled_fit, cols=slice(0, 12))
    np.testing.assert_allclose(again[:, :, :18], good[:, :, :18], atol=1e-4)
    assert rmse(good[:, :, :50], clean[:, :, :50]) < 0.02


@pytest.mark.parametrize("name", FUSIONS)
def test_too_few_valid_pixels_is_an_overlap_error(name):
    pair = Pair(size=12, bands=8)
    pair.valid[:] = False
    pair.valid[:3, :5] = True
    with pytest.raises(OverlapError, match="Only 15 HSI pixels are valid") as caught:
        pair.fit(name)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", FUSIONS)
def test_fusing_before_fitting_says_so(name):
    with pytest.raises(HsfuseError, match="not fitted"):
        make(name).fuse(torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 12, 12))


@pytest.mark.parametrize("name", ["gsa", "glp", "glp textbook"])
def test_gain_and_offset_of_the_msi_do_not_matter(name):
    """The sensors' calibrations differ; a linear fit absorbs that."""
    pair = Pair(size=30, bands=16, noise=0.002)
    plain = pair.fused(pair.fit(name))
    pair.msi = (pair.msi * np.array([1.1, 0.9, 1.05, 0.8])[:, None, None] + 0.03).astype(np.float32)
    assert rmse(pair.fused(pair.fit(name)), plain) < 5e-4


def test_adaptive_glp_beats_the_textbook_under_noise():
    pair = Pair(size=48, bands=60, noise=0.01)
    better = rmse(pair.fused(pair.fit("glp")), pair.truth)
    assert better < 0.75 * rmse(pair.fused(pair.fit("glp textbook")), pair.truth)


def test_adaptive_glp_withstands_misregistration():
    pair = Pair(size=48, bands=40, noise=0.003)
    pair.displace(1.1, (0.2, -0.2))
    better = rmse(pair.fused(pair.fit("glp")), pair.truth)
    assert better < 0.7 * rmse(pair.fused(pair.fit("glp textbook")), pair.truth)
    told = create_method("glp", calibrate=False)
    told.fit(pair.context, pair.strips())
    assert better < 0.95 * rmse(pair.fused(told), pair.truth)


@settings(deadline=None, max_examples=8)
@given(st.floats(0.8, 1.4), st.floats(-0.35, 0.35), st.floats(-0.35, 0.35), st.sampled_from([3, 4]))
def test_blur_and_shift_are_found_on_the_pair(fwhm, down, across, ratio):
    pair = Pair(ratio=ratio, size=40, bands=30, noise=0.002)
    pair.displace(fwhm, (down, across), noise=0.004)
    found = calibrate(pair.strips(14), pair.context)
    assert found is not None
    assert found.psf.fwhm_px == pytest.approx(fwhm, abs=0.04)
    assert found.offset_px == pytest.approx((down, across), abs=0.02)


def test_what_cannot_be_calibrated_is_taken_as_told():
    pair = Pair(size=24)
    strips = [LowResolutionStrip(s.hsi, s.msi, s.valid) for s in pair.strips()]
    assert calibrate(strips, pair.context) is None
    rng = np.random.default_rng(0)
    other = [replace(s, fine=rng.random(s.fine.shape).astype(np.float32)) for s in pair.strips() if s.fine is not None]
    assert calibrate(other, pair.context) is None
    method = create_method("glp")
    method.fit(pair.context, strips)
    assert method.diagnostics.calibration is None
    method.fit(pair.context, pair.strips())
    assert method.diagnostics.calibration is not None
    method.fit(replace(pair.context, calibrate=False), pair.strips())
    assert method.diagnostics.calibration is None


def test_recalibrated_strips_are_what_the_hsi_would_have_seen():
    pair = Pair(size=30)
    shift = (0.2, -0.1)
    kernels = displaced_kernels(Psf(1.2), 3, shift)
    whole = decimate_separable(torch.from_numpy(pair.msi)[None], 3, *kernels)[0].numpy()
    for start, strip in zip(range(0, 30, 10), pair.strips(10), strict=True):
        fixed = recalibrated(strip, Calibration(Psf(1.2), shift), 3)
        np.testing.assert_allclose(fixed.msi[:, 1:-1], whole[:, start + 1 : start + 9], atol=1e-5)
        assert fixed.valid.all()


@pytest.mark.parametrize("seen_by_msi", [True, False])
def test_a_rare_material_survives_the_denoising(seen_by_msi):
    """One HSI pixel of a strange material; its strangeness may lie where the MSI has no bands."""
    pair = Pair(size=40, bands=40)
    strange = 0.1 * np.sin(1.7 * np.arange(40))
    if not seen_by_msi:
        strange[pair.centre_nm < 1000] = 0.0
    plain = pair.truth.copy()
    pair.truth[:, 60:63, 60:63] += strange[:, None, None].astype(np.float32)
    rng = np.random.default_rng(0)
    pair.hsi = lowpass_decimate_array(pair.truth, 3, pair.psf)
    pair.hsi += 0.002 * rng.normal(size=pair.hsi.shape).astype(np.float32)
    pair.msi = np.tensordot(pair.srf, pair.truth, 1).astype(np.float32)
    fused = pair.fused(pair.fit("glp"))
    found = (fused - plain)[:, 61, 61]
    assert np.corrcoef(found, strange)[0, 1] > 0.8
    assert np.linalg.norm(found) > 0.4 * np.linalg.norm(strange)


def test_an_msi_band_that_shows_something_else_is_ignored():
    pair = Pair(size=40, bands=20, noise=0.002)
    good = rmse(pair.fused(pair.fit("glp")), pair.truth)
    other = Pair(size=40, bands=20, seed=9)
    pair.msi = np.concatenate([pair.msi, other.msi[:1]])
    pair.srf = np.concatenate([pair.srf, pair.srf[:1]])
    assert rmse(pair.fused(pair.fit("glp")), pair.truth) < 1.1 * good


def test_unknown_or_uncovered_responses_cost_little():
    pair = Pair(size=40, bands=30, noise=0.002)
    known = rmse(pair.fused(pair.fit("glp")), pair.truth)
    pair.srf[3] = 0.0  # as for an MSI band beyond the HSI's range
    uncovered = rmse(pair.fused(pair.fit("glp")), pair.truth)
    method = create_method("glp")
    method.fit(replace(pair.context, srf=None), pair.strips())
    blind = rmse(pair.fused(method), pair.truth)
    assert max(uncovered, blind) < 1.15 * known


def test_adaptive_halo_is_small_and_known_before_the_fit():
    assert create_method("glp").spec.halo_px == 6


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 6), seed=st.integers(0, 100))
def test_pixelwise_cholesky_equals_a_solver(count, seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(3, 4, count, count))
    matrix = root @ root.swapaxes(-1, -2) + 0.3 * np.eye(count)
    right = rng.normal(size=(3, 4, count, 5))
    expected = np.linalg.solve(matrix, right)
    gram = {(i, j): torch.from_numpy(matrix[None, None, ..., i, j]) for i in range(count) for j in range(i + 1)}
    vectors = [torch.from_numpy(right[..., i, :]).permute(2, 0, 1)[None] for i in range(count)]
    found = torch.stack(cholesky_solve(gram, vectors))[:, 0].permute(2, 3, 0, 1)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-8)


@pytest.mark.parametrize(("count", "rank", "size"), [(4, 7, (9, 33)), (1, 3, (1, 2)), (10, 2, (3, 17))])
def test_compiled_window_regression_equals_the_plain_one(count, rank, size):
    rng = np.random.default_rng(count)
    guide, detail, components = (
        torch.from_numpy(rng.normal(size=(2, bands, *size)).astype(np.float32)) for bands in (count, rank, rank)
    )
    prior = torch.eye(count) * 0.2 + 0.01
    gain = torch.from_numpy(rng.normal(size=(rank, count)).astype(np.float32))
    compiled = window_regression._compiled(guide, detail, components, prior, gain)
    if compiled is None:
        pytest.skip("no compiler")
    for found, expected in zip(compiled, window_regression._plain(guide, detail, components, prior, gain), strict=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), atol=3e-5)


@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=6), offset=st.floats(-1e4, 1e4))
def test_running_moments_equal_numpy(cuts, offset):
    data = np.random.default_rng(0).normal(size=(4, sum(cuts))) + offset
    moments = Moments.empty(4)
    for part in np.split(data, np.cumsum(cuts)[:-1], axis=1):
        moments.add(Moments.of(part))
    assert moments.count == data.shape[1]
    np.testing.assert_allclose(moments.mean, data.mean(axis=1), rtol=1e-10)
    np.testing.assert_allclose(moments.covariance, np.cov(data, bias=True), atol=1e-8)


def test_noise_is_estimated_band_by_band():
    rng = np.random.default_rng(0)
    truth = np.linspace(0.01, 0.02, 40)
    signal = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 4000))
    data = signal + truth[:, None] * rng.normal(size=(40, 4000))
    found = noise_std(np.cov(data, bias=True), 4000)
    # The other bands explain a band through their own noise, which adds a little to its.
    assert ((found > 0.9 * truth) & (found < 1.35 * truth)).all()
    assert np.corrcoef(found, truth)[0, 1] > 0.9


def test_signal_subspace_finds_the_number_of_materials():
    pair = Pair(size=60, bands=60, noise=0.002)
    space = signal_subspace(gather(pair.strips()))
    assert 4 <= space.rank <= 12
    np.testing.assert_allclose(space.forward @ space.back, np.eye(space.rank), atol=1e-8)


def test_strips_may_be_a_generator(pair):
    def stream() -> Iterator[LowResolutionStrip]:
        yield from pair.strips(8)

    method = create_method("glp")
    method.fit(pair.context, stream())
    np.testing.assert_allclose(pair.fused(method), pair.fused(pair.fit("glp", 8)), atol=1e-6)
