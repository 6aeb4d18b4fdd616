"""What follows outside of the signal subspace: curved spectra are completed, noise is not, and no basis matters."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from pair_support import Pair, make_pair, psnr
from scipy.ndimage import gaussian_filter

from hsfuse.fusion.base import LowResolutionStrip, Quality
from hsfuse.fusion.classical.statistics import FloatMatrix, Subspace
from hsfuse.fusion.experts.outside import OutsideSubspace
from hsfuse.fusion.methods.ssrfn.config import GateConfig
from hsfuse.fusion.methods.ssrfn.method import GateMethod
from hsfuse.fusion.scene_model.model import SceneModel

BANDS, SIDE, NOISE = 40, 30, 0.01


def _space(seed: int = 0) -> tuple[Subspace, FloatMatrix]:
    """A subspace of three components, and directions outside of it, shape (band, direction)."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((BANDS, 5)))[0]
    noise = np.linspace(0.5 * NOISE, 1.5 * NOISE, BANDS)
    space = Subspace(np.full(BANDS, 0.3), basis[:, :3].T / noise, basis[:, :3] * noise[:, None], noise)
    return space, basis[:, 3:] * noise[:, None]


def _images(strength: float, *, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Components inside (component, row, col), what bends away from them (band, row, col), and the HSI."""
    space, beyond = _space()
    rng = np.random.default_rng(seed)
    fields = np.stack([gaussian_filter(rng.standard_normal((SIDE, SIDE)), 1.5) for _ in range(3)])
    inside = 12.0 * fields / fields.std(axis=(1, 2), keepdims=True)
    bent = strength * np.stack([np.cos(inside[0] / 6.0), np.sin(inside[1] * inside[2] / 80.0)])
    bent -= bent.mean(axis=(1, 2), keepdims=True)
    outside = np.tensordot(beyond, bent, axes=1)
    truth = space.mean[:, None, None] + np.tensordot(space.back, inside, axes=1) + outside
    hsi = truth + space.noise[:, None, None] * rng.standard_normal(truth.shape)
    return inside, outside, hsi.astype(np.float32)


def _learned(hsi: np.ndarray, space: Subspace) -> OutsideSubspace | None:
    strips = [LowResolutionStrip(hsi, hsi[:1], np.ones(hsi.shape[1:], bool), None)]
    # Nothing but the subspace is asked of the model.
    model = replace(_MODEL, space=space)
    return OutsideSubspace.fit(strips, model)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair()


_MODEL = cast(
    SceneModel,
    SceneModel(
        space=_space()[0], synthesis=None, guide_noise=np.ones(1), psf=None, offset_px=(0.0, 0.0),  # type: ignore[arg-type]
        alignment_source="given", ratio=3, srf_known=False, pixels=SIDE**2,
    ),
)  # fmt: skip


def _said(found: OutsideSubspace, inside: np.ndarray) -> np.ndarray:
    components = torch.from_numpy(inside.astype(np.float32))[None]
    return found.add_to(torch.zeros((1, BANDS, *inside.shape[1:])), components)[0].numpy()


def test_spectra_that_bend_are_completed() -> None:
    """Their bends are as strong as the noise: half of their energy is found, also where nothing was learned."""
    _, _, hsi = _images(1.0)
    found = _learned(hsi, _space()[0])
    assert found is not None
    inside, outside, _ = _images(1.0, seed=2)
    left = outside - _said(found, inside)
    assert (left**2).mean() < 0.5 * (outside**2).mean()


def test_noise_teaches_nothing() -> None:
    """What no component tells is left alone, but for a hundredth of the noise."""
    space = _space()[0]
    inside, _, hsi = _images(0.0)
    found = _learned(hsi, space)
    if found is not None:
        assert (_said(found, inside) ** 2).mean() < 0.01 * (space.noise**2).mean()


def test_the_basis_does_not_matter() -> None:
    inside, _, hsi = _images(1.0)
    space = _space()[0]
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((3, 3)))[0]
    turned = replace(space, forward=turn @ space.forward, back=space.back @ turn.T)
    plain, other = _learned(hsi, space), _learned(hsi, turned)
    assert plain is not None
    assert other is not None
    assert np.abs(_said(plain, inside) - _said(other, np.tensordot(turn, inside, axes=1))).max() < 1e-4


def test_what_is_like_no_pixel_of_the_scene_gets_nothing() -> None:
    inside, _, hsi = _images(1.0)
    found = _learned(hsi, _space()[0])
    assert found is not None
    assert np.abs(_said(found, 100.0 + inside)).max() < 1e-6


def test_few_pixels_teach_nothing() -> None:
    _, _, hsi = _images(1.0)
    assert _learned(hsi[:, :5, :5], _space()[0]) is None


@pytest.mark.parametrize("quality", ["standard", "best"])
def test_a_scene_of_bent_spectra_gains(quality: Quality) -> None:
    """Eight bends of a spectrum, each next to the noise, follow from how bright a pixel is."""
    straight = make_pair((30, 36), bands=40, noise=0.002)
    spectra = 0.0004 * np.random.default_rng(3).standard_normal((8, 40))
    low, high = straight.truth.mean(axis=0).min(), straight.truth.mean(axis=0).max()

    def shape(cube: np.ndarray) -> np.ndarray:
        bright = (cube.mean(axis=0) - low) / (high - low)
        bends = np.stack([np.cos((2.0 + k) * np.pi * bright) for k in range(8)])
        return np.asarray(cube + np.tensordot(spectra.T, bends, axes=1), np.float32)

    bent = replace(straight, hsi=shape(straight.hsi), truth=shape(straight.truth))
    method = GateMethod.untrained(GateConfig(), quality=quality, validate=False)
    method.fit(bent.context(), bent.strips())
    hsi, msi = torch.from_numpy(bent.hsi)[None], torch.from_numpy(bent.msi)[None]
    with_it = method.fuse(hsi, msi)[0].numpy()
    assert method._scene is not None
    method._scene = replace(method._scene, outside=None)
    without = method.fuse(hsi, msi)[0].numpy()
    assert psnr(bent.truth, with_it) > psnr(bent.truth, without) + 0.05
