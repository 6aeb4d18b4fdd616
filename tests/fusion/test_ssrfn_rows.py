"""Inference works off a few rows at a time where a base estimate comes in and bands go out: same result, less
memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hsfuse.degrade import upsample
from hsfuse.degrade.windows import whole
from hsfuse.fusion.methods.ssrfn_paper.network import Ssrfn, arsinh, make_network
from hsfuse.fusion.nets.scene_statistics import SceneStatistics

RATIO = 3


@pytest.fixture
def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, SceneStatistics]:
    generator = torch.Generator().manual_seed(4)
    hsi = 0.3 * torch.rand(2, 8, 14, 11, generator=generator)
    msi = 0.3 * torch.rand(2, 4, 14 * RATIO, 11 * RATIO, generator=generator)
    facts = SceneStatistics.of(hsi, msi)
    return hsi, msi, upsample(hsi, RATIO), facts._replace(error=0.05 * facts.std)


def _network(**changes: object) -> Ssrfn:
    torch.manual_seed(1)
    network = make_network("ssrfn-lite", n_bands=8, width=8, headdim=8, **changes).eval()
    for module in (network.ffm, network.spectral_skip, network.condition):
        for parameter in module.parameters() if module is not None else ():
            torch.nn.init.normal_(parameter, std=0.3)
    return network


@pytest.mark.parametrize("changes", [{}, {"error_scaled": False}, {"spectral_skip": False}, {"ffm_projection": "each"}])
def test_rows_at_a_time_give_the_same_bands(
    scene: tuple[torch.Tensor, torch.Tensor, torch.Tensor, SceneStatistics],
    changes: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = _network(**changes)
    hsi, msi, estimate, facts = scene
    before = estimate.clone()
    expected = network.parts(hsi, msi, estimate, facts)[1].detach()
    assert expected.std() > 1e-4
    for samples in (1, 2500, 10**9):
        monkeypatch.setattr("hsfuse.fusion.methods.ssrfn_paper.bands.SAMPLES_AT_ONCE", samples)
        with torch.inference_mode():
            base, change = network.parts(hsi, msi, estimate, facts)
        torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(base, before, rtol=0, atol=0)


def test_half_precision_does_not_blur_the_base_estimate(
    scene: tuple[torch.Tensor, torch.Tensor, torch.Tensor, SceneStatistics],
) -> None:
    """Differences of neighbours are taken in float32: on a bright background they would vanish otherwise."""
    network = _network()
    _, _, estimate, facts = scene
    facts = facts._replace(mean=facts.mean - 20.0 * facts.std)
    arguments = (estimate, *network._scale(facts)[:2], torch.full((1, 8, 1, 1), 0.02), RATIO, whole(estimate))
    with torch.inference_mode():
        expected = network._read_estimate(*arguments)
        network.to(torch.bfloat16)
        half = network._read_estimate(*arguments)
    assert expected.skip is not None
    assert half.skip is not None
    assert (half.skip - expected.skip).std() < 0.01 * expected.skip.std()


def test_fast_arsinh_is_that_of_numpy() -> None:
    x = np.concatenate([[0.0, -0.0, np.inf, -np.inf], np.geomspace(1e-30, 1e15, 500), -np.geomspace(1e-30, 1e15, 500)])
    with torch.inference_mode():
        found = arsinh(torch.from_numpy(x.astype(np.float32))).numpy()
    np.testing.assert_allclose(found, np.arcsinh(x), rtol=3e-7)
    assert np.isnan(arsinh(torch.tensor([float("nan")])).item())
