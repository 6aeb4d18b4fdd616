"""Networks compute as much context around the wanted pixels as their layers need, and give the wanted ones alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hsfuse.degrade import Psf, Window, lowpass_decimate_array, upsample
from hsfuse.degrade.windows import finer, grown, inside
from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.fusion.methods.ssrfn_paper import description as ssrfn_description
from hsfuse.fusion.methods.ssrfn_paper.config import PRESETS
from hsfuse.fusion.methods.ssrfn_paper.method import SsrfnMethod
from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn, make_network
from hsfuse.fusion.nets.context import Context
from hsfuse.fusion.nets.scene_statistics import SceneStatistics

RATIO = 3
WINDOW = slice(5, 12), slice(4, 16)


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, SceneStatistics]:
    generator = torch.Generator().manual_seed(4)
    hsi = 0.3 * torch.rand(1, 8, 18, 20, generator=generator)
    msi = 0.3 * torch.rand(1, 4, 18 * RATIO, 20 * RATIO, generator=generator)
    facts = SceneStatistics.of(hsi, msi)
    return hsi, msi, upsample(hsi, RATIO), facts._replace(error=0.05 * facts.std)


def _network(**changes: object) -> Ssrfn:
    torch.manual_seed(1)
    network = make_network("ssrfn-lite", n_bands=8, width=8, headdim=8, **changes).eval()
    for module in (network.ffm, network.spectral_skip, network.condition):
        for parameter in module.parameters() if module is not None else ():
            torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("samples", [1, 4000, 10**9])
@pytest.mark.parametrize("changes", [{}, {"error_scaled": False}, {"spectral_skip": False}, {"ffm_projection": "each"}])
def test_a_window_is_cut_out_of_the_whole(
    pair: tuple[torch.Tensor, torch.Tensor, torch.Tensor, SceneStatistics],
    changes: dict[str, object],
    samples: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With context without end, what is cut early is what would have been cut in the end."""
    monkeypatch.setattr("hsfuse.fusion.methods.ssrfn_paper.bands.SAMPLES_AT_ONCE", samples)
    network = _network(**changes)
    network.context = Context(99, 99)
    hsi, msi, estimate, facts = pair
    with torch.inference_mode():
        expected = network.parts(hsi, msi, estimate, facts)
        found = network.parts(hsi, msi, estimate, facts, WINDOW)
    cut = finer(WINDOW, RATIO)
    for whole, part in zip(expected, found, strict=True):
        torch.testing.assert_close(part, whole[..., *cut], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["ssrfn", "ssrfn-lite"])
def test_most_of_the_context_is_dropped_before_the_layers_that_cost_most(
    name: str,
    pair: tuple[torch.Tensor, torch.Tensor, torch.Tensor, SceneStatistics],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hsi, msi, _, _ = pair
    config = replace(PRESETS[name], n_bands=8, width=16, headdim=16, guide_denoiser=8)
    # Whether its correction helps is not asked: all of it is computed.
    network = SsrfnMethod.untrained(config, validate=False)
    low = lowpass_decimate_array(msi[0].numpy(), RATIO, Psf(1.2))
    strip = LowResolutionStrip(hsi[0].numpy(), low, np.ones(low.shape[1:], bool))
    wavelengths = np.linspace(450.0, 900.0, 8)
    network.fit(FusionContext(RATIO, wavelengths, np.full(8, 10.0), None, Psf(1.2)), [strip])
    seen: dict[str, list[int]] = {"features": [], "refined": []}
    for part, module in (("features", network.network.sfe_msi), ("refined", network.network.ffm.first[0])):
        module.register_forward_pre_hook(lambda _, given, part=part: seen[part].append(given[0].shape[2:].numel()))
    monkeypatch.setattr(ssrfn_description, "BLOCK_PX", 4)
    out = network.fuse_window(hsi, msi, WINDOW)
    context = network.network.context
    assert out.shape[2:] == tuple((part.stop - part.start) * RATIO for part in WINDOW)
    for part, margin in context._asdict().items():
        assert max(seen[part]) == (4 + 2 + 2 * margin) ** 2 * RATIO**2  # a block, half of each blended zone, context
    assert context.refined < context.features < network.spec.halo_px


def test_a_correction_that_is_not_used_is_not_computed(
    pair: tuple[torch.Tensor, torch.Tensor, torch.Tensor, SceneStatistics], monkeypatch: pytest.MonkeyPatch
) -> None:
    hsi, msi, _, _ = pair
    method = SsrfnMethod.untrained(replace(PRESETS["ssrfn-lite"], n_bands=8, width=16, headdim=16))
    low = lowpass_decimate_array(msi[0].numpy(), RATIO, Psf(1.2))
    strip = LowResolutionStrip(hsi[0].numpy(), low, np.ones(low.shape[1:], bool))
    context = FusionContext(RATIO, np.linspace(450.0, 900.0, 8), np.full(8, 10.0), None, Psf(1.2))
    method.fit(context, [strip])
    expected = method.fuse_window(hsi, msi, WINDOW)
    assert method.diagnostics.validation is not None
    assert not method.diagnostics.validation.share.any()  # the scene is too small for the test
    monkeypatch.setattr(Ssrfn, "parts", None)
    torch.testing.assert_close(method.fuse_window(hsi, msi, WINDOW), expected)


def test_a_literal_network_keeps_all_its_context() -> None:
    network = make_network("ssrfn-paper", n_bands=8, width=8, headdim=8, dfe_blocks=1, scm_steps=2)
    assert network.context.features == network.context.refined > 2


def test_windows_grow_to_the_edge_and_no_further() -> None:
    outer: Window = grown(WINDOW, 5, (18, 18))
    assert outer == (slice(0, 17), slice(0, 18))
    assert inside(WINDOW, outer) == (slice(5, 12), slice(4, 16))
