"""Fusion in two steps, with two guides in one image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from hsfuse.degrade import Psf, lowpass_decimate
from hsfuse.errors import UsageError
from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.fusion.create import create_method
from hsfuse.fusion.two_step import TwoGuides, TwoStepMethod
from hsfuse.grid import Slice2D
from hsfuse.simulate.training_scene import training_scene
from hsfuse.spectral import BandTable, SpectralResponse, srf_weights

BANDS = BandTable.make(np.linspace(450.0, 900.0, 14), np.full(14, 15.0))
GUIDES = TwoGuides(n_coarse=2, first=3, second=2)


@pytest.fixture(scope="module")
def pair():
    """Truth (band, row, col) on the finest grid, HSI, and both guides in one image."""
    side = 216
    truth = torch.from_numpy(training_scene(3, side, 6).reflectance(BANDS, Slice2D(0, side, 0, side)))[None]
    colours = srf_weights(
        BANDS, [SpectralResponse.gaussian("a", 560.0, 40.0), SpectralResponse.gaussian("b", 840.0, 90.0)]
    )
    pan = srf_weights(BANDS, [SpectralResponse.flat_top("PAN", 550.0, 300.0)])
    hsi = lowpass_decimate(truth, 6, Psf(1.0))
    medium = lowpass_decimate(truth, 2, Psf(1.0))
    coarse = torch.einsum("cb,nbij->ncij", torch.from_numpy(colours).float(), medium)
    fine = torch.einsum("cb,nbij->ncij", torch.from_numpy(pan).float(), truth)
    guide = torch.cat([coarse.repeat_interleave(2, 2).repeat_interleave(2, 3), fine], dim=1)
    return truth[0], hsi[0], guide[0], np.concatenate([colours, pan])


def fitted(pair):
    _, hsi, guide, srf = pair
    low = lowpass_decimate(guide[None], 6, Psf(1.0))[0]
    strip = LowResolutionStrip(hsi.numpy(), low.numpy(), np.ones(hsi.shape[1:], bool), guide.numpy())
    context = FusionContext(6, BANDS.centre_nm, BANDS.fwhm_nm, srf, Psf(1.0))
    method = TwoStepMethod(create_method("glp"), create_method("glp"), GUIDES)
    method.fit(context, [strip])
    return method


def test_uses_what_both_guides_show(pair) -> None:
    truth, hsi, guide, _ = pair
    method = fitted(pair)
    made = method.fuse(hsi[None], guide[None])[0]
    assert made.shape == truth.shape
    first = method._first.fuse(hsi[None], guide[None, :2, ::2, ::2])
    medium = torch.nn.functional.interpolate(first, scale_factor=2, mode="bicubic")[0]
    under = torch.from_numpy(BANDS.centre_nm < 690.0)
    error, without = (float((x - truth)[under, 24:-24, 24:-24].square().mean()) for x in (made, medium))
    assert error < 0.6 * without


def test_tiles_with_the_stated_halo_are_exact(pair) -> None:
    _, hsi, guide, _ = pair
    method = fitted(pair)
    whole = method.fuse(hsi[None], guide[None])[0]
    halo = method.spec.halo_px
    top = 3
    part = method.fuse(hsi[None, :, top:, top:], guide[None, :, 6 * top :, 6 * top :])[0]
    inner = 6 * halo
    assert_allclose(part[:, inner:, inner:], whole[:, 6 * top + inner :, 6 * top + inner :], atol=2e-5)


def test_another_ratio_is_refused(pair) -> None:
    context = FusionContext(4, BANDS.centre_nm, BANDS.fwhm_nm, None, Psf(1.0))
    with pytest.raises(UsageError, match="ratio of 6"):
        TwoStepMethod(create_method("glp"), create_method("glp"), GUIDES).fit(context, [])
