"""The network: sizes, ratios, readings and ablations, and its behaviour as a fusion method."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

from hsfuse.degrade import Psf, lowpass_decimate, upsample
from hsfuse.errors import HsfuseError, UsageError
from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.fusion.create import create_method
from hsfuse.fusion.methods.ssrfn_paper.config import PRESETS, SsrfnConfig
from hsfuse.fusion.methods.ssrfn_paper.cost import flop_per_pixel
from hsfuse.fusion.methods.ssrfn_paper.method import SsrfnMethod
from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn, make_network
from hsfuse.fusion.nets.layers import VolumeConv
from hsfuse.fusion.nets.reduced_validation import (
    CAUTION,
    estimate_error,
    reduced_windows,
    tell_share,
    validate_correction,
)
from hsfuse.fusion.nets.scene_statistics import SceneStatistics
from hsfuse.fusion.registry import available_methods

SMALL = SsrfnConfig(
    n_bands=6, n_msi=3, width=32, dfe_blocks=1, cfe_cycles=2, scm_steps=2, refine_stages=1, d_state=8, headdim=16
)  # fmt: skip
CORRECTING = replace(
    SMALL, base="estimate", normalisation="band", estimate_features=4, noise_aware=True, spectral_skip=True
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tiny sizes gain nothing from threads, and threads that wait for each other are slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images(config: SsrfnConfig, rows: int = 4, cols: int = 5, ratio: int = 3, n: int = 1) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    hsi = torch.rand(n, config.n_bands, rows, cols)
    msi = torch.rand(n, config.n_msi, rows * ratio, cols * ratio)
    return hsi, msi, upsample(hsi, ratio)


def test_paper_preset_has_the_published_size_and_trains():
    network = make_network("ssrfn-paper")
    assert 35e6 <= network.n_parameters <= 41e6
    hsi, msi, _ = images(network.config, 3, 3)
    out = network(hsi, msi)
    assert out.shape == (1, 100, 9, 9)
    out.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("ratio", [2, 3, 4, 6])
def test_every_preset_runs_forward_and_backward_at_every_ratio(preset, ratio):
    # The literal preset is narrowed here: its full width has a test of its own.
    network = make_network(preset, **({"width": 32} if preset == "ssrfn-paper" else {}))
    hsi, msi, estimate = images(network.config, 3, 4, ratio)
    out = network(hsi, msi, estimate)
    assert out.shape == (1, 100, 3 * ratio, 4 * ratio)
    assert out.dtype == torch.float32
    (out - estimate.roll(1, 1)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_the_published_counts_are_in_the_literal_preset():
    paper = PRESETS["ssrfn-paper"]
    assert (paper.dfe_blocks, paper.cfe_cycles, paper.scm_steps, paper.refine_stages) == (5, 6, 16, 4)
    assert (paper.d_state, paper.d_conv, paper.expand) == (64, 4, 2)
    assert (paper.base, paper.normalisation) == ("none", "none")
    network = make_network("ssrfn-paper", width=32)
    assert sum(isinstance(m, torch.nn.Conv2d) for m in network.dfe.modules()) == 15


@pytest.mark.parametrize("preset", ["ssrfn", "ssrfn-lite"])
def test_an_untrained_everyday_network_returns_its_draft_exactly(preset):
    network = make_network(preset)
    hsi, msi, estimate = images(network.config)
    with torch.no_grad():
        assert torch.equal(network(hsi, msi, estimate), estimate)


def test_a_few_steps_of_training_lower_the_loss():
    torch.manual_seed(0)
    network = Ssrfn(CORRECTING)
    hsi, msi, estimate = images(CORRECTING, 5, 5, 2)
    target = estimate + 0.1 * upsample(F.avg_pool2d(msi[:, :1], 2), 2)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        loss = F.l1_loss(network(hsi, msi, estimate), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    "change",
    [
        {"sfe_skip": "whole"}, {"activation": "gelu"}, {"dfe_mamba": "local"}, {"dfe_residual": False},
        {"dfe_sharing": "msi"}, {"cfe_mamba": "input"}, {"cfe_shared": False}, {"scm_gate": "sigmoid"},
        {"scm_gate": "one"}, {"scm_shared": False}, {"scm_residual": True}, {"shuffle_ratio": 3},
        {"volume": "depthwise"}, {"volume": "full"}, {"refine_merge": "sum"}, {"sper_scan": "channels"},
        {"ffm_attention": "matrix"}, {"ffm_source": "streams"}, {"ffm_projection": "last"}, {"base": "bicubic"},
        {"normalisation": "scalar"}, {"scan": "bidirectional"}, {"scan": "cross"}, {"scan": "lines"},
        {"mamba": "mamba1"}, {"mamba_wrap": "bare"}, {"mamba_wrap": "prenorm"},
        # ablations
        {"mamba": "none"}, {"dfe_mamba": "none"}, {"cfe_mamba": "none"}, {"use_correction": False},
        {"refinement": "spatial"}, {"refinement": "spectral"},
    ],
    ids=lambda change: "-".join(f"{k}={v}" for k, v in change.items()),
)  # fmt: skip
def test_every_reading_and_ablation_runs_and_every_weight_learns(change):
    torch.manual_seed(0)
    config = replace(SMALL, **change)
    network = Ssrfn(config)
    hsi, msi, _ = images(config)
    out = network(hsi, msi)
    assert out.shape == (1, 6, 12, 15)
    network(hsi, msi).square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert SsrfnConfig.from_dict(config.to_dict()) == config


def test_learned_upsampling_refuses_another_ratio():
    network = Ssrfn(replace(SMALL, shuffle_ratio=3))
    with pytest.raises(UsageError, match="upsamples by 3"):
        network(*images(SMALL, ratio=2)[:2])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"width": 0}, "positive"), ({"width": True}, "positive"), ({"scan": "zigzag"}, "choose one of"),
        ({"noise_aware": 1}, "true or false"), ({"colour": "red"}, "unknown settings"),
        ({"spectral_skip": True}, "need base"), ({"shuffle_ratio": 1}, "at least 2"),
    ],
)  # fmt: skip
def test_impossible_configurations_are_usage_errors(values, text):
    with pytest.raises(UsageError, match=text):
        SsrfnConfig.from_dict(values)


def test_shapes_that_do_not_fit_are_usage_errors():
    network = Ssrfn(CORRECTING)
    hsi, msi, estimate = images(CORRECTING)
    with pytest.raises(UsageError, match="6 HSI and 3 MSI"):
        network(hsi[:, :5], msi, estimate)
    with pytest.raises(UsageError, match="nest"):
        network(hsi, msi[..., :-1], estimate)
    with pytest.raises(UsageError, match="estimate"):
        network(hsi, msi)


@pytest.mark.parametrize("volume", ["shared", "depthwise"])
def test_volume_convolutions_equal_a_true_3d_convolution(volume):
    torch.manual_seed(0)
    x = torch.randn(1, 10, 6, 7)
    for axis in ("spatial", "spectral"):
        conv = VolumeConv(10, axis, volume)
        # (1, volume channel, depth, row, col): depth by depth with that depth's weights
        per_depth = conv.weight.expand(10, -1), conv.bias.expand(10)
        rows = []
        for depth in range(10):
            weight, bias = per_depth[0][depth], per_depth[1][depth]
            kernel = weight.reshape(1, 1, 1, 3, 3) if axis == "spatial" else weight.reshape(1, 1, 3, 1, 1)
            padding = (0, 1, 1) if axis == "spatial" else (1, 0, 0)
            rows.append(F.conv3d(x[:, None], kernel, bias[None], padding=padding)[:, 0, depth])
        torch.testing.assert_close(conv(x), torch.stack(rows, 1), rtol=1e-5, atol=1e-5)


def test_output_in_reflectance_follows_gain_and_offset_of_a_band():
    """Normalising by the scene's statistics makes a correction scale with its band."""
    torch.manual_seed(0)
    network = Ssrfn(CORRECTING)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    hsi, msi, estimate = images(CORRECTING)
    gain, offset = torch.rand(1, 6, 1, 1) + 0.5, torch.rand(1, 6, 1, 1)
    with torch.no_grad():
        plain = network(hsi, msi, estimate)
        scaled = network(hsi * gain + offset, msi, estimate * gain + offset)
    torch.testing.assert_close(scaled, plain * gain + offset, rtol=1e-3, atol=1e-3)


def test_tiles_agree_with_the_whole_away_from_their_border():
    """With statistics of the scene, only the context at a tile's border is missing."""
    torch.manual_seed(0)
    network = Ssrfn(replace(CORRECTING, scan="lines")).eval()
    for name, p in network.named_parameters():
        if "head" in name or "projections" in name:
            torch.nn.init.normal_(p, std=0.1)
    hsi, msi, estimate = images(CORRECTING, 40, 40)
    scene = SceneStatistics.of(hsi, msi)
    with torch.no_grad():
        whole = network(hsi, msi, estimate, scene) - estimate
        part = network(hsi[..., 5:, 5:], msi[..., 15:, 15:], estimate[..., 15:, 15:], scene) - estimate[..., 15:, 15:]
    difference = (part - whole[..., 15:, 15:]).abs()
    assert difference[..., 45:, 45:].max() < 0.05 * whole.abs().max()
    assert difference[..., 45:, 45:].mean() < 0.2 * difference[..., :6, :].mean()


def test_bfloat16_stays_close_to_float32():
    torch.manual_seed(0)
    network = make_network("ssrfn-lite").eval()
    for p in network.ffm.head.parameters():
        torch.nn.init.normal_(p, std=0.05)
    hsi, msi, estimate = images(network.config, 6, 6)
    with torch.no_grad():
        exact = network(hsi, msi, estimate) - estimate
        half = network.bfloat16()(hsi, msi, estimate) - estimate
    assert float((half - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("config", [replace(PRESETS["ssrfn-lite"], n_bands=20), SMALL], ids=["lite", "small"])
def test_operation_count_agrees_with_torch(config, monkeypatch):
    monkeypatch.setenv("HSFUSE_NATIVE", "off")  # torch cannot count what the compiled path does
    network = Ssrfn(config)
    hsi, msi, estimate = images(config, 32, 32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(hsi, msi, estimate)
    counted = counter.get_total_flops() / msi[0, 0].numel()
    assert flop_per_pixel(config) == pytest.approx(counted, rel=0.15)


# ---- as a fusion method -------------------------------------------------------------------------------------


class Bicubic:
    """A base estimate that a correction can improve on."""

    def fit(self, context, strips):
        list(strips)

    def fuse(self, hsi, msi):
        return upsample(hsi, msi.shape[2] // hsi.shape[2])


def scene(bands: int = 8, side: int = 60, ratio: int = 2) -> tuple[FusionContext, LowResolutionStrip, torch.Tensor]:
    torch.manual_seed(0)
    truth = 0.2 + 0.1 * torch.einsum("bk,kij->bij", torch.rand(bands, 3), torch.rand(3, side * ratio, side * ratio))
    msi = truth[:3]
    hsi = lowpass_decimate(truth[None], ratio, Psf(1.0))[0]
    low = lowpass_decimate(msi[None], ratio, Psf(1.0))[0]
    centre = np.linspace(450, 1000, bands)
    context = FusionContext(ratio, centre, np.full(bands, 10.0), None, Psf(1.0))
    valid = np.ones((side, side), bool)
    return context, LowResolutionStrip(hsi.numpy(), low.numpy(), valid), msi


def test_validation_takes_a_helpful_correction_and_refuses_a_harmful_one():
    context, strip, _ = scene()
    ratio = context.ratio

    def correction(hsi, msi, estimate):
        detail = msi - upsample(lowpass_decimate(msi, ratio, context.psf), ratio)
        change = torch.zeros_like(estimate)
        change[:, :3] = detail  # bands 0 to 2 are the MSI's own: right in full
        change[:, 3] = 2.0 * (torch.from_numpy(strip.hsi[3])[None] - estimate[:, 3])  # twice as much as is right
        change[:, 4] = -detail[:, 1]  # wrong sign, the bands are positively correlated
        change[:, 5] = torch.randn_like(detail[:, 0]) * 0.1
        return change

    result = validate_correction(correction, reduced_windows(Bicubic(), context, [strip], np.zeros(8)), 8)  # type: ignore[arg-type]
    assert result.windows == 1
    granted = result.share / CAUTION
    assert granted[:3].min() > 0.8
    assert granted[3] == pytest.approx(0.5, abs=0.02)
    assert granted[4] == 0.0
    assert granted[5] < 0.1
    assert (granted[6:] == 0.0).all()  # no change proposed: nothing to use
    assert result.gain_db > 1.0


def test_the_test_counts_what_a_cleaner_msi_gives_the_base_estimate():
    context, strip, _ = scene()
    noise = np.full(3, 0.02)

    def gain(clean):
        found = reduced_windows(create_method("glp"), context, [strip], np.zeros(8), noise, clean)
        return validate_correction(lambda hsi, msi, estimate: torch.zeros_like(estimate), found, 8).gain_db

    assert gain(None) == 0.0
    true = torch.from_numpy(strip.msi)[None]
    assert gain(lambda msi: msi + 0.7 * (true - msi)) > 0.3
    assert gain(lambda msi: msi + 0.05 * torch.randn(msi.shape)) < -0.3


def test_removing_noise_is_granted_although_the_truth_is_as_noisy():
    context, strip, _ = scene()
    rng = np.random.default_rng(0)
    hsi = strip.hsi + 0.05 * rng.standard_normal(strip.hsi.shape, np.float32)
    given = LowResolutionStrip(hsi, strip.msi, strip.valid)
    low = lowpass_decimate(torch.from_numpy(strip.hsi)[None], context.ratio, context.psf)
    clean = upsample(low, context.ratio)

    def denoise(hsi, msi, estimate):
        return clean - estimate

    found = reduced_windows(Bicubic(), context, [given], np.full(8, 0.05))  # type: ignore[arg-type]
    result = validate_correction(denoise, found, 8)
    assert result.share.min() > 0.9 * CAUTION
    assert result.gain_db > 0.3


@pytest.mark.parametrize(("side", "cloudy"), [(12, False), (36, True)])
def test_a_scene_that_cannot_be_tested_on_keeps_its_base_estimate(side, cloudy, caplog):
    context, strip, _ = scene(side=side)
    if cloudy:
        strip = LowResolutionStrip(strip.hsi, strip.msi, strip.valid & (np.arange(strip.valid.shape[1]) % 4 > 0))
    with caplog.at_level(logging.INFO):
        windows = reduced_windows(Bicubic(), context, [strip], np.zeros(8))  # type: ignore[arg-type]
        tell_share("a network", validate_correction(lambda h, m, d: d, windows, 8))
    assert "No window of the scene is large and clear enough" in caplog.text
    assert "nan" not in caplog.text
    assert estimate_error(windows) is None
    result = validate_correction(lambda h, m, d: d, windows, 8)
    assert result.windows == 0
    assert (result.share == 0.0).all()
    assert result.to_json()["gain_db"] is None


@pytest.mark.parametrize("ratio", [2, 3, 4, 6])
def test_small_clear_parts_of_a_cloudy_scene_serve_at_every_ratio(ratio):
    context, strip, _ = scene(side=16 * ratio, ratio=ratio)
    valid = np.zeros_like(strip.valid)
    clear = max(18, 6 * ratio)
    valid[:clear, :clear] = True
    cloudy = LowResolutionStrip(strip.hsi, strip.msi, valid)
    windows = reduced_windows(Bicubic(), context, [cloudy], np.zeros(8))  # type: ignore[arg-type]
    assert [window.truth.shape[1:] for window in windows] == [(clear, clear)]
    assert windows[0].keep.any()


def test_expected_error_of_the_base_estimate_is_that_at_reduced_resolution():
    context, strip, _ = scene()
    noisy = LowResolutionStrip(strip.hsi + 0.05 * np.random.default_rng(0).standard_normal(strip.hsi.shape, np.float32),
                               strip.msi, strip.valid)  # fmt: skip
    clean, worse = (
        estimate_error(reduced_windows(create_method("bicubic"), context, [given], np.full(8, noise)))
        for given, noise in ((strip, 0.0), (noisy, 0.05))
    )
    assert clean is not None
    assert worse is not None
    assert clean.shape == (8,)
    # The noise of the truth at reduced resolution does not count, only what the base estimate has of it.
    assert (worse > clean).all()
    assert (worse < np.hypot(clean, 0.05)).all()


def test_denoiser_changes_nothing_without_noise_and_little_with():
    torch.manual_seed(0)
    network = make_network("ssrfn-lite", n_bands=8, guide_denoiser=8)
    assert network.denoiser is not None
    torch.nn.init.normal_(network.denoiser.convs[-1].weight, std=0.1)
    msi = torch.rand(1, 4, 24, 24)
    facts = SceneStatistics.of(torch.rand(1, 8, 8, 8), msi)
    noise = torch.tensor([[0.0, 0.01, 0.02, 0.03]])
    cleaned = network.denoise(msi, facts, noise)
    assert torch.equal(cleaned[:, 0], msi[:, 0])
    assert (cleaned - msi).abs().amax(dim=(0, 2, 3)).gt(0).tolist() == [False, True, True, True]
    assert torch.equal(network.denoise(msi, facts, None), msi)
    assert not any(p.requires_grad for p in network.denoiser.parameters())


def test_output_is_in_units_of_the_expected_error():
    torch.manual_seed(0)
    network = make_network("ssrfn-lite", n_bands=8).eval()
    hsi, msi, estimate = torch.rand(1, 8, 6, 6), torch.rand(1, 4, 18, 18), torch.rand(1, 8, 18, 18)
    for parameter in network.ffm.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    facts = SceneStatistics.of(hsi, msi)
    with torch.no_grad():
        _, change = network.parts(hsi, msi, estimate, facts._replace(error=0.01 * facts.std))
        _, floor = network.parts(hsi, msi, estimate, facts)
    assert float(change.std()) > 3.0 * float(floor.std())


def test_untrained_method_equals_its_base_estimate():
    context, strip, msi = scene()
    config = replace(CORRECTING, n_bands=8)
    method, estimate = SsrfnMethod.untrained(config), create_method("glp")
    method.fit(context, [strip])
    estimate.fit(context, [strip])
    tile = torch.from_numpy(strip.hsi[None, :, :20, :20]), msi[None, :, :40, :40]
    out = method.fuse(*tile)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, estimate.fuse(*tile))
    assert method.diagnostics.validation is not None
    assert method.spec.halo_px >= estimate.spec.halo_px
    assert method.spec.n_msi == 3


def test_literal_method_runs_without_a_base_estimate():
    context, strip, msi = scene()
    method = SsrfnMethod.untrained(replace(SMALL, n_bands=8), precision="bf16")
    method.fit(context, [strip])
    out = method.fuse(torch.from_numpy(strip.hsi[None, :, :6, :6]), msi[None, :, :12, :12])
    assert out.shape == (1, 8, 12, 12)
    assert out.dtype == torch.float32


def test_method_needs_to_be_fitted_and_knows_its_precisions():
    method = SsrfnMethod.untrained(SMALL)
    with pytest.raises(HsfuseError, match="not fitted"):
        method.fuse(*images(SMALL)[:2])
    with pytest.raises(UsageError, match="precision"):
        SsrfnMethod.untrained(SMALL, precision="int8")


def test_wrong_number_of_bands_is_a_usage_error():
    context, strip, _ = scene()
    with pytest.raises(UsageError, match="takes 6 bands"):
        SsrfnMethod.untrained(SMALL).fit(context, [strip])


def test_presets_are_methods():
    assert set(PRESETS) <= set(available_methods())
