"""One landscape seen by every sensor that is simulated: each product, misplaced, ends as a cube where the truth is."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import rasterio
import scipy.ndimage
from typer.testing import CliRunner

from hsfuse.cli.app import app
from hsfuse.config import RunConfig
from hsfuse.grid import Grid
from hsfuse.simulate.products import HsiSensor, simulate_pair
from hsfuse.simulate.scene import Truth
from hsfuse.simulate.sensors import top_of_atmosphere
from hsfuse.workflows.run import run_scene

CHECK_NM = 665.0
HALF_PIXEL_M = 5.0
"""Half a pixel of the cube."""


@pytest.mark.slow
@pytest.mark.parametrize("sensor", get_args(HsiSensor))
def test_a_cube_where_the_truth_is(tmp_path: Path, sensor: HsiSensor) -> None:
    # As many pixels of EMIT as the matching needs, which are twice as large.
    side = 184 if sensor == "emit" else 104
    pair = simulate_pair(tmp_path, sensor=sensor, rows=side, cols=side, seed=3, s2_bands="10m", pan=False)
    out = tmp_path / "o.tif"
    config = RunConfig(method="glp", quality="plain", report=False, bands="12", cloud_mask=False)
    result = run_scene(pair.hsi, [pair.sentinel2], out, config)
    assert result.summary["coregistration"]["verdict"] != "rejected"
    assert result.summary["grid"]["ratio"] == (6 if sensor == "emit" else 3)
    with rasterio.open(out) as cube:
        centres = np.array([float(cube.tags(i)["wavelength"]) for i in cube.indexes])
        fwhm = np.array([float(cube.tags(i)["fwhm"]) for i in cube.indexes])
        band = int(np.abs(centres - CHECK_NM).argmin())
        got = cube.read(band + 1).astype(np.float64)
        got = np.where(got == cube.nodata, np.nan, got / 1e4)
        grid = Grid(cube.crs, cube.transform, *cube.shape)
    assert grid.pixel_m == 10
    truth = Truth.load(pair.truth)
    want = truth.reflectance((centres[band : band + 1], fwhm[band : band + 1]), grid.block_in(truth.grid))
    if sensor == "prisma-l1":
        want = top_of_atmosphere(want, centres[band : band + 1])
    want = want[0].astype(np.float64)
    inside = np.isfinite(got)
    assert inside.mean() > 0.5
    dy, dx = np.gradient(scipy.ndimage.gaussian_filter(want, 2), 10.0)
    error = scipy.ndimage.gaussian_filter(np.where(inside, got - want, 0), 2)
    well = scipy.ndimage.binary_erosion(inside, iterations=12)
    design = np.stack([dx[well], -dy[well], np.ones(well.sum())], axis=1)
    slip, *_ = np.linalg.lstsq(design, error[well], rcond=None)
    assert np.hypot(*slip[:2]) < HALF_PIXEL_M
    assert np.corrcoef(got[well], want[well])[0, 1] > 0.97
    gain = float(np.median(got[well] / want[well]))
    # L2B is divided by the irradiance above the air, of which some is lost on the way down.
    assert (0.8 if sensor == "prisma-l2b" else 0.95) < gain < 1.05


@pytest.mark.parametrize(
    ("sensor", "name"), [("enmap", "ENMAP01-____L2A"), ("desis", "DESIS-HSI-L2A"), ("prisma-l1", "PRS_L1_STD_OFFL")]
)
def test_the_command_makes_them(tmp_path: Path, sensor: str, name: str) -> None:
    made = CliRunner().invoke(
        app, ["simulate", str(tmp_path / "new"), "--sensor", sensor, "--rows", "40", "--cols", "40", "-q", "--json"]
    )
    assert made.exit_code == 0, made.output
    assert name in made.output
    assert ("MSIL1C" in made.output) is (sensor == "prisma-l1")
