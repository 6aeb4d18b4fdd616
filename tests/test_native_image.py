"""Compiled image kernels against their plain twins, for every instruction set of this processor."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
from rasterio.crs import CRS

from hsfuse.coregister.field import DisplacementField
from hsfuse.coregister.lowpass import Kernel, lowpass_strip
from hsfuse.coregister.warp import Resampler
from hsfuse.degrade import Psf, inject, lowpass_decimate, smooth, upsample
from hsfuse.fusion.mixing import mix
from hsfuse.grid import Grid, Slice2D
from hsfuse.native import OVERRIDE, image
from hsfuse.native.build import pointer
from hsfuse.writers.encoding import SampleEncoding


@pytest.mark.parametrize("ratio", [2, 3, 5, 6])
def test_interpolation_and_decimation_equal_the_plain_path(isa, plain, ratio):
    torch.manual_seed(0)
    coarse, fine = torch.randn(2, 3, 11, 23), torch.randn(2, 3, 7 * ratio, 9 * ratio)
    for offset in ((0.0, 0.0), (0.21, -0.4)):
        expected = plain(upsample, coarse, ratio, offset)
        torch.testing.assert_close(upsample(coarse, ratio, offset), expected, rtol=1e-5, atol=1e-6)
    for psf in (Psf(0.7), Psf(1.8)):
        torch.testing.assert_close(
            lowpass_decimate(fine, ratio, psf), plain(lowpass_decimate, fine, ratio, psf), rtol=1e-5, atol=1e-6
        )
    torch.testing.assert_close(smooth(coarse, 5), plain(smooth, coarse, 5), rtol=1e-5, atol=1e-6)


def test_images_smaller_than_the_kernels_and_views_work(isa, plain):
    torch.manual_seed(0)
    for shape in ((1, 1, 1, 1), (1, 2, 1, 5), (1, 2, 3, 1)):
        x = torch.randn(shape)
        torch.testing.assert_close(upsample(x, 3), plain(upsample, x, 3), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(smooth(x, 5), plain(smooth, x, 5), rtol=1e-5, atol=1e-6)
    view = torch.randn(1, 9, 12, 4).permute(0, 3, 1, 2)
    torch.testing.assert_close(upsample(view, 2), plain(upsample, view, 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("rows", "inner"), [(1, 4), (10, 10), (11, 100), (100, 11)])
def test_matrices_are_applied_to_bands_as_torch_does(isa, rows, inner):
    torch.manual_seed(0)
    matrix, threads = torch.randn(rows, inner), torch.get_num_threads()
    whole = torch.randn(2, inner, 40, 53)
    torch.set_num_threads(1)
    try:
        # Whole images, some of their rows (planes with gaps between them), some columns, and few samples.
        for x in (whole, whole[:, :, 3:37], whole[..., 5:47], whole[:, :, :1, :7]):
            expected = torch.matmul(matrix.double(), x.double().flatten(2)).reshape(2, rows, *x.shape[2:])
            torch.testing.assert_close(mix(matrix, x).double(), expected, rtol=1e-5, atol=1e-5)
        # The same where the matrix is a part of another, and with gradients.
        wider = torch.cat([matrix, matrix], dim=1)[:, :inner].requires_grad_()
        torch.testing.assert_close(mix(wider, whole).detach(), mix(matrix, whole), rtol=1e-5, atol=1e-5)
        mix(wider, whole).sum().backward()
        assert wider.grad is not None
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("samples", [1, 5, 16, 31, 64, 65, 1000])
def test_products_of_few_samples_equal_numpys(isa, samples):
    rng = np.random.default_rng(0)
    matrix, planes = rng.random((9, 7), np.float32), rng.random((7, samples + 3), np.float32)[:, :samples]
    out = np.full((9, samples), np.nan, np.float32)
    assert image.mix(matrix, planes, out)
    np.testing.assert_allclose(out, matrix @ planes, rtol=1e-5)


def test_gradients_and_other_types_take_the_plain_path(isa):
    x = torch.randn(1, 2, 5, 6, requires_grad=True)
    upsample(x, 3).square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.abs().min() > 0)
    assert upsample(torch.randn(1, 1, 4, 4, dtype=torch.float64), 2).dtype == torch.float64


@pytest.mark.parametrize("window", [None, (slice(2, 7), slice(3, 13)), (slice(0, 1), slice(15, 17))])
@pytest.mark.parametrize("terms", [0, 1, 4])
def test_injection_equals_the_plain_path(isa, plain, window, terms):
    torch.manual_seed(0)
    base = torch.randn(2, 5, 9, 17)
    coefficients = [torch.randn_like(base) for _ in range(terms)]
    rows, cols = window or (slice(0, 9), slice(0, 17))
    size = 3 * (rows.stop - rows.start), 3 * (cols.stop - cols.start)
    detail = torch.randn(2, terms, *size) if terms else None
    shifted = plain(inject, base, coefficients, detail, 3, window, None, (0.3, -0.2))
    torch.testing.assert_close(
        inject(base, coefficients, detail, 3, window, None, (0.3, -0.2)), shifted, rtol=1e-5, atol=1e-5
    )
    expected = plain(inject, base, coefficients, detail, 3, window)
    torch.testing.assert_close(inject(base, coefficients, detail, 3, window), expected, rtol=1e-5, atol=1e-5)
    wider = torch.full((2, 6, *size), 7.0)
    inject(base, coefficients, detail, 3, window, out=wider[:, :5])
    torch.testing.assert_close(wider[:, :5], expected, rtol=1e-5, atol=1e-5)
    assert bool((wider[:, 5] == 7.0).all())


def gaps(cube: np.ndarray) -> np.ndarray:
    """Fill at a border, holes in all bands, in one band, in some pixels of some bands."""
    cube[:, :, :4] = np.nan
    cube[:, 10:14, 20:23] = np.nan
    cube[2, 30:] = np.nan
    cube[1:3, 22, 17] = np.nan
    cube[0, 25, 30] = np.inf
    return cube


@pytest.mark.parametrize("shift_m", [(0.0, 0.0), (41.3, -52.7), (-30.0, 60.0), (500.0, 0.0)])
def test_resampling_equals_the_plain_path(isa, plain, shift_m):
    crs = CRS.from_epsg(32632)
    source = Grid.from_origin(crs, 600_000.0, 5_000_000.0, 30.0, 40, 50)
    target = Grid.from_origin(crs, 600_000.0 + shift_m[0], 5_000_000.0 + shift_m[1], 30.0, 37, 52)
    cube = gaps(np.random.default_rng(0).random((5, 40, 50), dtype=np.float32))
    resampler = Resampler(source, target, DisplacementField.zero())
    block = Slice2D(3, 36, 0, 52)
    need = resampler.source_block(block)
    part = cube[:, need.row0 : need.row1, need.col0 : need.col1]
    fast, slow = resampler.apply(part, need, block), plain(resampler.apply, part, need, block)
    np.testing.assert_array_equal(np.isnan(fast), np.isnan(slow))
    np.testing.assert_allclose(fast, slow, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("dtype", ["int16", "uint16"])
@pytest.mark.parametrize("limits", [None, (-0.05, 1.5)])
def test_encoding_gives_the_plain_path_s_bits(isa, plain, dtype, limits):
    encoding = SampleEncoding.of(dtype)
    rng = np.random.default_rng(0)
    values = (rng.integers(-9000, 70000, (4, 13, 37)) / 20000).astype(np.float32)  # many products end in .5
    values[0, 0, :6] = [np.nan, np.inf, -np.inf, 9.0, -9.0, 0.00005]
    valid = rng.random((13, 37)) > 0.2
    rows = [np.zeros((13, 4, 40), encoding.dtype) for _ in range(2)]
    fast, slow = (buffer[:, :, 2:39].transpose(1, 0, 2) for buffer in rows)
    outside = encoding.encode_into(values.copy(), valid, fast, limits)
    assert outside == plain(encoding.encode_into, values.copy(), valid, slow, limits)
    assert (outside > 0) == (limits is not None)
    np.testing.assert_array_equal(rows[0], rows[1])


def test_status_says_which_path_is_active(isa, monkeypatch):
    assert image.KERNELS.status().startswith(f"compiled ({isa}")
    monkeypatch.setenv(OVERRIDE, "off")
    assert image.KERNELS.status().startswith("plain NumPy and PyTorch (switched off")


@pytest.mark.parametrize("gaps", [0.0, 0.02, 1.0])
@pytest.mark.parametrize(("planes", "height", "width"), [(1, 1, 1), (3, 40, 53), (5, 67, 31)])
def test_lowpass_to_another_grid_equals_the_plain_path(isa, plain, gaps, planes, height, width):
    rng = np.random.default_rng(planes)
    cube = rng.uniform(size=(planes, height, 2 * width)).astype(np.float32)
    cube[rng.uniform(size=cube.shape) < gaps] = np.nan
    values = cube[:, :, :width]
    # Beginning and ending far outside, so that every way of overlapping the border occurs.
    down = Kernel.gaussian(np.linspace(-30.0, height + 30.0, 51), 1.7)
    across = Kernel.gaussian(np.linspace(-15.0, width + 40.0, 83), 0.8)
    expected, found = (np.zeros((planes, 51, 83), np.float32) for _ in range(2))
    plain(lowpass_strip, values, down, across, expected)
    lowpass_strip(values, down, across, found)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
    assert np.isfinite(expected).any() == (gaps < 1.0 and height > 1)


def test_an_address_keeps_its_array() -> None:
    array = np.ones(3, np.float32)
    there = weakref.ref(array)
    address = pointer(array)
    del array
    gc.collect()
    assert there() is not None
    del address
    gc.collect()
    assert there() is None
