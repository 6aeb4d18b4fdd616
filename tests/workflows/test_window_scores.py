"""Scores of a finished cube, where the two images do not show the same ground everywhere."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from hsfuse.degrade import Psf, lowpass_decimate_array
from hsfuse.qa.sources import FunctionSource
from hsfuse.spectral import SpectralResponse, srf_weights
from hsfuse.workflows.steps.array_checks import band_table
from hsfuse.workflows.steps.array_scene import array_scene
from hsfuse.workflows.steps.window_scores import score_windows


def test_consistency_with_the_msi_is_that_of_ground_which_both_images_show_alike() -> None:
    centre = np.linspace(450.0, 900.0, 46)
    bands = band_table(centre, None, len(centre))
    responses = tuple(SpectralResponse.gaussian(f"M{nm}", float(nm), 60.0) for nm in (500, 650, 800))
    rng = np.random.default_rng(0)
    truth = np.array([gaussian_filter(plane, 2.0) for plane in rng.random((len(centre), 48, 48))]).astype(np.float32)
    weights = srf_weights(bands, responses)
    msi = np.tensordot(weights, truth, axes=1).astype(np.float32)
    changed = np.zeros((48, 48), bool)
    changed[6:20, 9:24] = True
    msi[:, changed] += 0.4
    low = lowpass_decimate_array(truth, 3, Psf(1.0))
    scene = array_scene(low, msi, bands, responses, 3, Psf(1.0), weights)
    cube = FunctionSource((48, 48), centre, lambda block, index: truth[(list(index), *block.slices)])
    blind, told = score_windows(scene, cube), score_windows(scene, cube, changed)
    assert blind.scores["msi_rmse"] is not None
    assert blind.scores["msi_rmse"] > 0.05
    assert told.scores["msi_rmse"] is not None
    assert told.scores["msi_rmse"] < 1e-4
    assert told.scores["hsi_rmse"] == blind.scores["hsi_rmse"]
    assert max(band.rmse for band in told.msi_bands) < 1e-4
    assert list(told.scores) == list(blind.scores)
