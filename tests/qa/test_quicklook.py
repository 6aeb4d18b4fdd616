from __future__ import annotations

import io

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from qa_builders import CENTRE_NM, patch_scene
from rasterio.transform import from_origin

from hsfuse.errors import InputError, OutputError, UsageError
from hsfuse.grid import Slice2D
from hsfuse.qa.quicklook import (
    alignment_view,
    composites,
    detail_pairs,
    detail_window,
    encode_png,
    fit_shape,
    pick_bands,
    stretch_limits,
    to_rgba,
)
from hsfuse.qa.sources import ArraySource, FunctionSource, ProductSource
from hsfuse.writers.raster_cube import RasterCube


def test_bands_are_picked_by_wavelength_or_not_at_all():
    assert pick_bands(np.array([490.0, 660.0, 565.0]), (665, 560, 490), 10) == (1, 2, 0)
    assert pick_bands(np.array([490.0, 700.0, 565.0]), (665, 560, 490), 10) is None


def test_nodata_is_transparent_and_does_not_touch_the_stretch():
    rng = np.random.default_rng(0)
    cube = rng.uniform(0.1, 0.3, (3, 40, 50))
    limits = stretch_limits(cube)
    holed = cube.copy()
    holed[1, :5] = np.nan
    rgba = to_rgba(holed)
    assert (rgba[:5, :, 3] == 0).all()
    assert (rgba[5:, :, 3] == 255).all()
    assert np.allclose(stretch_limits(holed), limits, atol=0.01)
    assert to_rgba(np.full((1, 4, 4), np.nan))[..., 3].max() == 0


@given(low=st.floats(-0.1, 0.4), span=st.floats(0.0, 1.0))
@settings(max_examples=30, deadline=None)
def test_brighter_ground_is_never_drawn_darker(low, span):
    ramp = np.linspace(low, low + span, 64)[None, None, :]
    grey = to_rgba(ramp)[0, :, 0].astype(int)
    assert (np.diff(grey) >= 0).all()


def test_a_picture_has_one_or_three_bands():
    with pytest.raises(UsageError, match="one or three"):
        to_rgba(np.zeros((2, 3, 3)))


@given(rows=st.integers(1, 5000), cols=st.integers(1, 5000), side=st.integers(1, 900))
def test_shrinking_keeps_the_shape_and_never_enlarges(rows, cols, side):
    out = fit_shape((rows, cols), side)
    assert max(out) <= max(side, 1)
    assert min(out) >= 1
    assert out[0] <= rows
    assert out[1] <= cols


def test_decimation_averages_valid_samples_block_by_block():
    cube = np.random.default_rng(0).uniform(0, 1, (2, 600, 40)).astype(np.float32)
    cube[0, :10, :10] = np.nan
    cube[1, 20, 20] = np.nan
    asked = []

    def read(block, bands):
        asked.append(block.shape[0])
        return cube[list(bands)][:, *block.slices]

    source = FunctionSource((600, 40), np.array([500.0, 600.0]), read)
    small = source.read([0, 1], Slice2D(0, 600, 0, 40), (60, 4))
    expected = np.nanmean(cube[1].reshape(60, 10, 4, 10), axis=(1, 3))
    np.testing.assert_allclose(small[1], expected, rtol=1e-5)
    assert np.isnan(small[0, 0, 0])
    assert np.isfinite(small[0, 1:]).all()
    # Never more than a strip at once.
    assert max(asked) <= 256


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_files_are_read_as_reflectance_with_nodata(tmp_path, dtype):
    truth = np.random.default_rng(0).uniform(0.05, 0.6, (4, 64, 48))
    nodata = -32768 if dtype == "int16" else np.nan
    stored = np.round(truth * 1e4) if dtype == "int16" else truth.copy()
    stored[:, :8] = nodata
    path = tmp_path / "cube.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=64, width=48, count=4, dtype=dtype, nodata=nodata,
        transform=from_origin(500_000, 5_000_000, 10, 10), crs="EPSG:32632",
    ) as file:  # fmt: skip
        file.write(stored.astype(dtype))
        if dtype == "int16":
            file.scales = (1e-4,) * 4
    with ProductSource(RasterCube(path), np.array([450.0, 550.0, 650.0, 850.0])) as source:
        block = source.read([2, 0], Slice2D(10, 20, 5, 12))
        np.testing.assert_allclose(block, truth[[2, 0], 10:20, 5:12], atol=1e-4)
        small = source.read(range(4), Slice2D(0, 64, 0, 48), (8, 6))
        assert np.isnan(small[:, 0]).all()
        np.testing.assert_allclose(small[:, 1:], truth[:, 8:].reshape(4, 7, 8, 6, 8).mean(axis=(2, 4)), atol=2e-4)
    with pytest.raises(InputError, match="4 bands"):
        ProductSource(RasterCube(path), np.array([450.0]))
    with pytest.raises(OutputError, match="cannot be read"):
        RasterCube(tmp_path / "missing.tif")


def test_envi_scale_factor_is_honoured(tmp_path):
    path = tmp_path / "cube.img"
    with rasterio.open(
        path, "w", driver="ENVI", height=4, width=5, count=1, dtype="int16",
        transform=from_origin(500_000, 5_000_000, 10, 10), crs="EPSG:32632",
    ) as file:  # fmt: skip
        file.write(np.full((1, 4, 5), 2500, np.int16))
        file.update_tags(ns="ENVI", reflectance_scale_factor="10000")
    with RasterCube(path) as source:
        np.testing.assert_allclose(source.read([0], Slice2D(0, 4, 0, 5)), 0.25)


def test_composites_follow_the_wavelengths_that_exist():
    cube, _ = patch_scene()
    pictures = composites(ArraySource(cube, CENTRE_NM), max_side_px=32)
    assert [p.key for p in pictures] == ["true_colour", "false_colour", "swir"]
    assert all(max(p.rgba.shape[:2]) == 32 for p in pictures)
    visible = CENTRE_NM < 900
    assert [p.key for p in composites(ArraySource(cube[visible], CENTRE_NM[visible]))][:1] == ["true_colour"]
    assert not [p for p in composites(ArraySource(cube[visible], CENTRE_NM[visible])) if p.key == "swir"]
    assert composites(ArraySource(np.full_like(cube, np.nan), CENTRE_NM)) == ()


def test_vegetation_is_red_in_the_infrared_composite():
    cube, _ = patch_scene()
    picture = next(p for p in composites(ArraySource(cube, CENTRE_NM)) if p.key == "false_colour")
    red, green, blue, _ = picture.rgba[14, 16].astype(int)
    assert red > 200
    assert red > green + 80
    assert red > blue + 80


def test_the_detail_is_where_the_contrast_is():
    rng = np.random.default_rng(0)
    image = np.full((200, 180), 0.2) + rng.normal(0, 1e-3, (200, 180))
    image[120:160, 30:70] += rng.choice([0.0, 0.3], (40, 40))
    image[:, 100:140] = np.nan
    found = detail_window(image, 40)
    assert abs(found.row0 - 120) <= 2
    assert abs(found.col0 - 30) <= 2
    assert detail_window(np.full((20, 20), np.nan), 8) is None


def test_details_show_the_same_place_in_the_same_colours():
    fine = np.repeat(np.repeat(patch_scene()[0], 3, axis=1), 3, axis=2)
    coarse = fine[:, 1::3, 1::3]
    pairs = detail_pairs(ArraySource(coarse, CENTRE_NM), ArraySource(fine, CENTRE_NM), 3, side_px=20)
    assert len(pairs) == 3
    for pair in pairs:
        # The fine image repeats the coarse one, so both must look the same.
        np.testing.assert_array_equal(pair.before, pair.after)
        assert pair.after.shape == (60, 60, 4)
        assert pair.block.row1 <= 60
    with pytest.raises(UsageError, match="nest 2 to 1"):
        detail_pairs(ArraySource(coarse, CENTRE_NM), ArraySource(fine, CENTRE_NM), 2)


def test_a_small_scene_gives_a_small_detail():
    fine = patch_scene()[0][:, :24, :24]
    coarse = fine[:, ::3, ::3]
    (pair, *_) = detail_pairs(ArraySource(coarse, CENTRE_NM), ArraySource(fine, CENTRE_NM), 3)
    assert pair.block == Slice2D(0, 8, 0, 8)


def test_png_keeps_the_pixels():
    rgba = np.random.default_rng(0).integers(0, 255, (6, 5, 4), dtype=np.uint8)
    back = imread(io.BytesIO(encode_png(rgba, enlarge=2)), format="png")
    np.testing.assert_array_equal(np.round(back[::2, ::2] * 255).astype(np.uint8), rgba)


def test_a_cloud_of_the_reference_does_not_leave_the_ground_in_the_dark():
    rng = np.random.default_rng(1)
    ground = rng.normal(0.2, 0.05, (3, 48, 48)).clip(0.02)
    clouded = ground.copy()
    clouded[:, :9, :12] = 0.9
    clear, shown = (alignment_view(x, ground, ground).reference for x in (ground, clouded))
    below = (slice(12, None), slice(None), slice(0, 3))
    assert shown[below].mean() > 0.9 * clear[below].mean()
    assert (shown[:9, :12, :3] == 255).all()


def test_alignment_views_share_a_stretch_before_and_after():
    cube = np.random.default_rng(0).uniform(0.1, 0.4, (3, 30, 30))
    view = alignment_view(cube * 2, cube, cube)
    np.testing.assert_array_equal(view.before, view.after)
    with pytest.raises(UsageError, match="differ in shape"):
        alignment_view(cube[:, :5], cube, cube)
