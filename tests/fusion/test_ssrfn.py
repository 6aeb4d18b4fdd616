"""The network: sizes, ratios, readings and ablations, and its behaviour as a fusion method."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils.flop_counter import FlopCounterMode

from hsfuse.degrade import Psf, lowpass_decimate, upsample
from hsfuse.errors import HsfuseError, UsageError
from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.fusion.create import create_method
from hsfuse.fusion.methods.ssrfn.config import GateConfig
from hsfuse.fusion.methods.ssrfn_paper.config import SsrfnConfig
from hsfuse.fusion.methods.ssrfn_paper.cost import flop_per_pixel, reach_px
from hsfuse.fusion.methods.ssrfn_paper.method import SsrfnMethod
from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.layers import VolumeConv
from hsfuse.fusion.nets.reduced_validation import (
    CAUTION,
    estimate_error,
    reduced_windows,
    tell_share,
    validate_correction,
)
from hsfuse.fusion.nets.scene_statistics import SceneStatistics
from hsfuse.fusion.nets.weights import LoadedNetwork
from hsfuse.fusion.registry import METHODS

SMALL = SsrfnConfig(
    n_bands=6, n_msi=3, width=32, dfe_blocks=1, cfe_cycles=2, scm_steps=2, refine_stages=1, d_state=8, headdim=16
)  # fmt: skip
SCALED = replace(SMALL, base="bicubic", normalisation="band")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Tiny sizes gain nothing from threads, and threads that wait for each other are slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images(config: SsrfnConfig, rows: int = 4, cols: int = 5, ratio: int = 3, n: int = 1) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return torch.rand(n, config.n_bands, rows, cols), torch.rand(n, config.n_msi, rows * ratio, cols * ratio)


def test_paper_preset_has_the_published_size_and_trains():
    network = Ssrfn(SsrfnConfig())
    assert 35e6 <= network.n_parameters <= 41e6
    hsi, msi = images(network.config, 3, 3)
    out = network(hsi, msi)
    assert out.shape == (1, 100, 9, 9)
    out.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("ratio", [2, 3, 4, 6])
def test_it_runs_forward_and_backward_at_every_ratio(ratio):
    network = Ssrfn(SsrfnConfig(width=32))  # its full width has a test of its own
    hsi, msi = images(network.config, 3, 4, ratio)
    out = network(hsi, msi)
    assert out.shape == (1, 100, 3 * ratio, 4 * ratio)
    assert out.dtype == torch.float32
    (out - upsample(hsi, ratio)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_the_published_counts_are_in_the_literal_preset():
    paper = SsrfnConfig()
    assert (paper.dfe_blocks, paper.cfe_cycles, paper.scm_steps, paper.refine_stages) == (5, 6, 16, 4)
    assert (paper.d_state, paper.d_conv, paper.expand) == (64, 4, 2)
    assert (paper.base, paper.normalisation) == ("none", "none")
    network = Ssrfn(SsrfnConfig(width=32))
    assert sum(isinstance(m, torch.nn.Conv2d) for m in network.dfe.modules()) == 15


def test_an_untrained_network_with_a_base_returns_it_exactly():
    hsi, msi = images(SCALED)
    with torch.no_grad():
        assert torch.equal(Ssrfn(SCALED)(hsi, msi), upsample(hsi, 3))


def test_a_few_steps_of_training_lower_the_loss():
    torch.manual_seed(0)
    network = Ssrfn(SCALED)
    hsi, msi = images(SCALED, 5, 5, 2)
    target = upsample(hsi, 2) + 0.1 * upsample(F.avg_pool2d(msi[:, :1], 2), 2)
    optimiser = torch.optim.Adam(network.parameters(), 2e-3)
    losses = []
    for _ in range(12):
        loss = F.l1_loss(network(hsi, msi), target)
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
    hsi, msi = images(config)
    out = network(hsi, msi)
    assert out.shape == (1, 6, 12, 15)
    network(hsi, msi).square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert SsrfnConfig.from_dict(config.to_dict()) == config


def test_learned_upsampling_refuses_another_ratio():
    network = Ssrfn(replace(SMALL, shuffle_ratio=3))
    with pytest.raises(UsageError, match="upsamples by 3"):
        network(*images(SMALL, ratio=2))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"width": 0}, "positive"), ({"width": True}, "positive"), ({"scan": "zigzag"}, "choose one of"),
        ({"use_correction": 1}, "true or false"), ({"colour": "red"}, "unknown settings"),
        ({"base": "estimate"}, "choose one of"), ({"shuffle_ratio": 1}, "at least 2"),
    ],
)  # fmt: skip
def test_impossible_configurations_are_usage_errors(values, text):
    with pytest.raises(UsageError, match=text):
        SsrfnConfig.from_dict(values)


def test_shapes_that_do_not_fit_are_usage_errors():
    network = Ssrfn(SMALL)
    hsi, msi = images(SMALL)
    with pytest.raises(UsageError, match="6 HSI and 3 MSI"):
        network(hsi[:, :5], msi)
    with pytest.raises(UsageError, match="nest"):
        network(hsi, msi[..., :-1])


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
    network = Ssrfn(SCALED)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.1)
    hsi, msi = images(SCALED)
    gain, offset = torch.rand(1, 6, 1, 1) + 0.5, torch.rand(1, 6, 1, 1)
    with torch.no_grad():
        plain, scaled = network(hsi, msi), network(hsi * gain + offset, msi)
    torch.testing.assert_close(scaled, plain * gain + offset, rtol=1e-3, atol=1e-3)


def test_tiles_agree_with_the_whole_away_from_their_border():
    """With statistics of the scene, only the context at a tile's border is missing."""
    torch.manual_seed(0)
    network = Ssrfn(replace(SCALED, scan="lines")).eval()
    for name, p in network.named_parameters():
        if "head" in name or "projections" in name:
            torch.nn.init.normal_(p, std=0.1)
    hsi, msi = images(SCALED, 40, 40)
    scene = SceneStatistics.of(hsi, msi)
    with torch.no_grad():
        whole = network(hsi, msi, scene) - upsample(hsi, 3)
        part = network(hsi[..., 5:, 5:], msi[..., 15:, 15:], scene) - upsample(hsi[..., 5:, 5:], 3)
    difference = (part - whole[..., 15:, 15:]).abs()
    assert difference[..., 45:, 45:].max() < 0.05 * whole.abs().max()
    assert difference[..., 45:, 45:].mean() < 0.2 * difference[..., :6, :].mean()


def test_bfloat16_stays_close_to_float32():
    torch.manual_seed(0)
    network = Ssrfn(replace(SCALED, scan="lines", ffm_projection="last")).eval()
    for p in network.ffm.head.parameters():
        torch.nn.init.normal_(p, std=0.05)
    hsi, msi = images(network.config, 6, 6)
    base = upsample(hsi, 3)
    with torch.no_grad():
        exact = network(hsi, msi) - base
        half = network.bfloat16()(hsi, msi) - base
    assert float((half - exact).norm() / exact.norm()) < 0.1


@pytest.mark.parametrize("config", [GateConfig(backbone="ssrfn").modules(106, 50), SMALL], ids=["in ssrfn", "small"])
def test_operation_count_agrees_with_torch(config, monkeypatch):
    monkeypatch.setenv("HSFUSE_NATIVE", "off")  # torch cannot count what the compiled path does
    network = Ssrfn(config)
    hsi, msi = images(config, 32, 32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(hsi, msi)
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


def made(config: SsrfnConfig, **options: Any) -> SsrfnMethod:
    """The method with random weights for :func:`scene`."""
    centre = tuple(np.linspace(450, 1000, config.n_bands))
    header = NetworkHeader(
        "random", "ssrfn", config.to_dict(), centre, (10.0,) * config.n_bands, (2,), n_msi=config.n_msi
    )  # fmt: skip
    return SsrfnMethod(LoadedNetwork(Ssrfn(config).eval(), header, ""), **options)


def test_literal_method_runs_without_a_base_estimate():
    context, strip, msi = scene()
    method = made(replace(SMALL, n_bands=8), precision="bf16")
    method.fit(context, [strip])
    out = method.fuse(torch.from_numpy(strip.hsi[None, :, :6, :6]), msi[None, :, :12, :12])
    assert out.shape == (1, 8, 12, 12)
    assert out.dtype == torch.float32
    spec = method.spec
    assert (spec.n_msi, spec.precision, spec.halo_px) == (3, "bf16", reach_px(method.network.config))
    assert spec.flop_per_pixel == flop_per_pixel(method.network.config, 2)
    assert spec.bytes_per_pixel > (spec.host_bytes_per_pixel or 0) > 0


def test_method_needs_to_be_fitted():
    with pytest.raises(HsfuseError, match="not fitted"):
        made(SMALL).fuse(*images(SMALL, ratio=2))


def test_wrong_number_of_bands_is_a_usage_error():
    context, strip, _ = scene()
    with pytest.raises(UsageError, match="6 bands"):
        made(SMALL).fit(context, [strip])


def test_weights_of_networks_that_corrected_an_estimate_are_told_apart():
    entry = METHODS.get("ssrfn-paper").network
    assert entry is not None
    former = {"noise_aware": False, "error_scaled": False, "spectral_skip": False, "guide_denoiser": None,
              "estimate_features": 24}  # fmt: skip
    # Literal ones carried these settings too, and did nothing with them.
    assert entry.completed({**SMALL.to_dict(), **former}) == SMALL.to_dict()
    for change in ({"base": "estimate"}, {"guide_denoiser": 8}, {"noise_aware": True}):
        with pytest.raises(UsageError, match="corrected a base estimate") as caught:
            entry.completed({**SMALL.to_dict(), **former, **change})
        assert "ssrfn-lite" in caught.value.hint
