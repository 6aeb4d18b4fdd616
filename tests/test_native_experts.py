"""Compiled kernels behind experts and gate against their plain twins, for every instruction set of this processor."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hsfuse.fusion.experts.bank import EXPERTS
from hsfuse.fusion.experts.columns import Columns
from hsfuse.fusion.experts.regressions import ClassRegression, FourierRegression, LinearRegression
from hsfuse.fusion.experts.weighing import seen_features, weighed_outputs
from hsfuse.fusion.methods.ssrfn import streaming
from hsfuse.fusion.methods.ssrfn.config import GateConfig
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.fusion.methods.ssrfn.streaming import GivenOutputs


def _images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


@pytest.fixture(scope="module")
def samples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((400, 5))
    return x, np.cos(x @ rng.standard_normal((5, 7))) + 0.1 * rng.standard_normal((400, 7))


@pytest.mark.parametrize("pixels", [(3, 5), (9, 37)])
def test_regressions(isa, plain, samples, pixels):
    x, y = samples
    columns = Columns.of(x)
    _, left = LinearRegression.fit(columns, y, "cpu")
    fourier, other = (
        FourierRegression.fit(columns, left, features=50, bandwidth=0.7, ridges=(0.3, 3.0), seed=seed, device="cpu")
        for seed in range(2)
    )
    # Regressors of saturated pixels lie far outside.
    images = 4.0 * _images(2, 5, *pixels)
    for regression in (fourier, FourierRegression.mean_of([fourier, other]),
                       ClassRegression.fit(x, left, seed=0, device="cpu")):  # fmt: skip
        expected = plain(regression.apply, images)
        torch.testing.assert_close(regression.apply(images), expected, rtol=1e-5, atol=2e-5)
        room = torch.zeros(2, expected.shape[1] + 2, *pixels)
        assert regression.apply(images, room[:, 1:-1]) is not None
        torch.testing.assert_close(room[:, 1:-1], expected, rtol=1e-5, atol=2e-5)
        assert not room[:, [0, -1]].any()


def test_mean_of_regressions(samples):
    columns, y = Columns.of(samples[0]), samples[1]
    parts = [
        FourierRegression.fit(columns, y, features=20, bandwidth=b, ridges=(1.0,), seed=3, device="cpu")
        for b in (0.4, 1.0)
    ]
    images = _images(1, 5, 4, 6)
    expected = 0.5 * (parts[0].apply(images) + parts[1].apply(images))
    torch.testing.assert_close(FourierRegression.mean_of(parts).apply(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pixels", [(3, 6), (84, 42)])
def test_gate(isa, plain, pixels):
    gate = Gate(GateConfig()).eval()
    torch.nn.init.normal_(gate.backbone.leave.weight, std=0.1)
    state, outputs = 5.0 * _images(1, 6, *pixels), 20.0 * _images(1, len(EXPERTS), 6, *pixels)
    outputs[:, 3] = 0.0
    strength = torch.tensor([[3.0, 2.0, 1.5, 1.0, 0.7, 0.0]])
    with torch.no_grad():
        expected = plain(gate, state, outputs, strength, 3)
        made = gate.ask(GivenOutputs(state, outputs, 3), strength, 3)
        assert made is not None
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gate(state, outputs, strength, 3), made)
        # What says nothing need not be asked.
        asked = [index for index in range(len(EXPERTS)) if index != 3]
        fewer = gate.ask(GivenOutputs(state, outputs, 3, asked), strength, 3)
        torch.testing.assert_close(fewer, made)


def test_what_the_kernels_do_not_know_is_left_to_the_plain_way():
    state, outputs = _images(2, 4, 3, 5), _images(2, 3, 4, 3, 5)
    first = torch.tensor([True, False, False, False])
    room = torch.zeros(3, 5, 8)
    assert not seen_features(state, outputs, first, [0], range(3), room)
    assert not seen_features(state[:1].double(), outputs[:1], first, [0], range(3), room)
    assert not seen_features(state[:1].clone().requires_grad_(), outputs[:1], first, [0], range(3), room)
    assert weighed_outputs(_images(1, 6, 5, 3).transpose(2, 3), outputs[:1], _images(4), 8.0, range(3)) is None


def test_features_in_half_precision_are_those_rounded(isa):
    state, outputs = _images(1, 4, 6, 9), _images(1, 3, 4, 6, 9)
    full, half = torch.zeros(8, 11, 10), torch.zeros(8, 11, 10, dtype=torch.bfloat16)
    for room in (full, half):
        assert seen_features(
            state[:, :, 1:4], outputs[..., 1:4, :], torch.ones(4, dtype=torch.bool), [2], [0, 2], room[2:5, 1:-1]
        )
    assert torch.equal(full.bfloat16(), half)
    assert not full[:2].any()
    assert not full[:, [0, -1]].any()
    assert full[2:5, 1:-1, [0, 1, 3, 4, 5, 7]].all()
    assert not full[..., [2, 6, 8, 9]].any()


def test_a_plain_gate_in_half_precision_is_near_enough(plain, monkeypatch):
    monkeypatch.setattr(streaming, "multiplies_half", lambda: True)
    gate = Gate(GateConfig()).eval()
    torch.nn.init.normal_(gate.backbone.leave.weight, std=0.1)
    state, outputs = 5.0 * _images(1, 6, 30, 42), 3.0 * _images(1, len(EXPERTS), 6, 30, 42)
    strength = torch.tensor([[3.0, 2.0, 1.5, 1.0, 0.7, 0.0]])
    with torch.no_grad():
        expected = plain(gate, state, outputs, strength, 3)
        made = gate(state, outputs, strength, 3)
    assert float((made - expected).norm() / expected.norm()) < 0.01
