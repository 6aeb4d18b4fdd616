"""The refinement of a scene with clouds and a rotated footprint, against the truth."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

import hsfuse
from hsfuse.readers import open_hsi
from hsfuse.simulate.products import simulate_pair
from hsfuse.simulate.scene import Truth
from hsfuse.workflows.run import RunResult


def errors(result: RunResult, truth: Truth) -> NDArray[np.float64]:
    """Mean squared error of every band where the result has data."""
    assert result.output is not None
    with open_hsi(result.output) as product:
        bands, block = product.bands, product.grid.block_in(truth.grid)
    with rasterio.open(result.output) as cube:
        raw = cube.read()
        valid = (raw != cube.nodata).all(axis=0)
        estimate = raw[:, valid] * np.float64(cube.scales[0])
    return np.asarray(((estimate - truth.reflectance(bands, block)[:, valid]) ** 2).mean(axis=1))


def test_a_refinement_gains_between_the_bands_of_the_guide_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("refined")
    # Two fifths of the grid are in both images. Trusted as far as its noise allows, the HSI gains most on the guide's
    # own bands, and costs 2 dB at the red edge between them, where smile tells most.
    pair = simulate_pair(
        folder / "pair", size_px=(200, 200), seed=0, cloud_fraction=0.03, rotation_deg=0.0, wave_m=0.0,
        s2_bands="10m", pan=False,
    )  # fmt: skip
    truth = Truth.load(pair.truth)
    plain, refined = (
        hsfuse.fuse_scene(
            pair.prisma, pair.sentinel2, folder / f"{quality}.tif", method="glp", bands="40", quality=quality,
            report=False,
        )
        for quality in ("plain", "standard")
    )  # fmt: skip
    gain = 10.0 * np.log10(errors(plain, truth) / errors(refined, truth))
    assert refined.summary["method"]["refinement"]["used"] == "clean"
    assert gain.mean() > 0.85
    assert gain.min() > -0.3
