"""Fill that nobody declared, and scales that nobody named: found and said, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from hsfuse.errors import InputError
from hsfuse.grid import Slice2D
from hsfuse.readers.raster.hsi import RasterHsi
from hsfuse.readers.raster.msi import RasterMsi

SIZE, BANDS = 90, 12
FULL = Slice2D(0, SIZE, 0, SIZE)
RNG = np.random.default_rng(5)
TRUTH = (0.05 + 0.3 * RNG.random((BANDS, SIZE, SIZE)).cumsum(1) / SIZE).astype(np.float64)
CORNER = np.add.outer(np.arange(SIZE), np.arange(SIZE)) < 20
BORDER = np.zeros((SIZE, SIZE), bool)
BORDER[:, :3] = True
HOLE = np.zeros((SIZE, SIZE), bool)
HOLE[17:22, 61:66] = True
PER_BAND = -0.9999 * (1 + 0.02 * RNG.standard_normal(BANDS))[:, None, None]


def write(path, cube, dtype, *, nodata=None, scale=None, offset=None, factor=None):
    with rasterio.open(
        path, "w", driver="GTiff", height=SIZE, width=SIZE, count=len(cube), dtype=dtype, nodata=nodata,
        crs="EPSG:32633", transform=Affine(30, 0, 500000, 0, -30, 5000000),
    ) as out:  # fmt: skip
        out.write(cube.astype(dtype))
        for band in range(len(cube)):
            out.update_tags(band + 1, wavelength=450 + 30 * band, wavelength_units="nm", fwhm=10)
        if scale is not None:
            out.scales = (scale,) * len(cube)
        if offset is not None:
            out.offsets = (offset,) * len(cube)
        if factor is not None:
            out.update_tags(ns="ENVI", reflectance_scale_factor=factor)
    return path


def stored(times, dtype):
    return np.rint(TRUTH * times) if np.issubdtype(np.dtype(dtype), np.integer) else TRUTH * times


@pytest.mark.parametrize("where", [CORNER, BORDER, HOLE], ids=["corner", "border", "hole"])
@pytest.mark.parametrize(
    ("times", "dtype", "fill", "nodata"),
    [
        (1e4, "int16", -9999, None),
        (1e4, "int16", -32768, None),
        (1e4, "int16", 32767, None),
        (1e4, "uint16", 65535, None),
        (1e4, "uint16", 55537, None),
        (1e6, "int32", -9999000, None),
        (1.0, "float32", -9999, None),
        (1.0, "float32", -1, None),
        (1.0, "float32", 9999, None),
        (1.0, "float32", 1e20, None),
        (1.0, "float32", 1e34, None),
        (1.0, "float32", -3.4e38, None),
        (100.0, "float32", -9999, None),
        (1.0, "float32", PER_BAND, None),
        (1.0, "float32", PER_BAND, -0.9999),
        (1e4, "float32", PER_BAND * 1e4, -9999),
    ],
)
def test_fill_that_nobody_declared(tmp_path, where, times, dtype, fill, nodata):
    # Positive numbers amid the image are only told from glint by their repetition where the sample sees them.
    cube = np.where(where, fill, stored(times, dtype))
    with RasterHsi(write(tmp_path / "h.tif", cube, dtype, nodata=nodata)) as product:
        got = product.read(FULL)
        assert np.array_equal(np.isnan(got), np.broadcast_to(where, got.shape))
        np.testing.assert_allclose(got[:, ~where], TRUTH[:, ~where], atol=6e-5)
        assert np.array_equal(product.valid(FULL), ~where)
        assert any("were taken as fill" in text for text in product.info.warnings)


def test_fill_that_no_sample_sees(tmp_path, caplog):
    """Numbers that no reflectance can be are left out wherever they lie and however few, and it is said."""
    truth = np.tile(TRUTH[:2, :, :1], (1, 6, 540))
    truth[:, 101:103, 40] = 5.55  # 55537, which is -9999 in unsigned 16 bits
    path = tmp_path / "h.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=540, width=540, count=2, dtype="float32", crs="EPSG:32633",
        transform=Affine(30, 0, 500000, 0, -30, 5000000),
    ) as out:  # fmt: skip
        out.write(truth.astype("float32"))
        for band in (1, 2):
            out.update_tags(band, wavelength=450 + 30 * band, wavelength_units="nm", fwhm=10)
    with caplog.at_level("WARNING", "hsfuse"), RasterHsi(path) as product:
        got = product.read(product.grid.full)
        product.read(product.grid.full)
    assert np.isnan(got).sum() == 4
    assert sum("far outside of reflectance" in record.getMessage() for record in caplog.records) == 1


def test_true_measurements_are_no_fill(tmp_path):
    cube = TRUTH.copy()
    cube[:, 40:43, 40:43] = 1.6  # a roof in the sun, saturated
    cube[:6, 60:80, 60:80] = -0.02  # water, over-corrected
    cube[:, 10, 10] = 0.0
    with RasterHsi(write(tmp_path / "h.tif", cube, "float32")) as product:
        got = product.read(FULL)
        assert np.isnan(got).sum() == BANDS, "the empty pixel alone"
        assert product.info.warnings == ()


def test_eight_bits_may_saturate(tmp_path):
    cube = np.rint(TRUTH * 255)
    cube[:, 40:46, 40:46] = 255
    with RasterMsi(write(tmp_path / "m.tif", cube, "uint8")) as product:
        assert np.isfinite(product.read(FULL)).all()


def test_zeros_at_the_corners_are_fill_beside_declared_nodata(tmp_path):
    cube = np.where(CORNER, 0, stored(1e4, "int16"))
    cube[:, 50, 50] = -9999
    with RasterHsi(write(tmp_path / "h.tif", cube, "int16", nodata=-9999)) as product:
        assert np.array_equal(product.valid(FULL), ~CORNER & (np.arange(SIZE * SIZE).reshape(SIZE, SIZE) != 4550))
        assert any("0 in all bands reach the corners" in text for text in product.info.warnings)


@pytest.mark.parametrize(
    ("times", "dtype", "words"),
    [
        (1e4, "int16", "x 10000"),
        (1e4, "uint16", "x 10000"),
        (1e4, "float32", "x 10000"),
        (1e4, "float64", "x 10000"),
        (100.0, "float32", "in per cent"),
        (1e6, "int32", "x 1000000"),
        (1e6, "float32", "x 1000000"),
    ],
)
def test_scales_that_nobody_named(tmp_path, times, dtype, words):
    with RasterHsi(write(tmp_path / "h.tif", stored(times, dtype), dtype)) as product:
        np.testing.assert_allclose(product.read(FULL), TRUTH, atol=6e-5)
        assert len(product.info.warnings) == 1
        assert words in product.info.warnings[0]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"scale": 1e30}, "scale of 1e\\+30"),
        ({"scale": -1e-4}, "scale of -0.0001"),
        ({"scale": 1e-9}, "even the brightest pixels"),
        ({"scale": 0.9}, "reflectance reaches"),
        ({"scale": 1e-4, "offset": 1e30}, "offset of 1e\\+30"),
        ({"factor": "1e30"}, "'reflectance scale factor' is '1e30'"),
        ({"factor": "0"}, "'reflectance scale factor' is '0'"),
        ({"factor": "-10000"}, "'reflectance scale factor' is '-10000'"),
        ({"factor": "ten"}, "'reflectance scale factor' is 'ten'"),
    ],
)
def test_scales_that_cannot_be_meant(tmp_path, given, words):
    with pytest.raises(InputError, match=words) as caught:
        RasterHsi(write(tmp_path / "h.tif", stored(1e4, "int16"), "int16", **given))
    assert caught.value.exit_code == 3
    assert caught.value.hint


def test_numbers_that_no_scale_explains(tmp_path):
    cube = stored(2e5, "uint16") % 65000 + 40000
    with pytest.raises(InputError, match="no reflectance in any usual scale"):
        RasterHsi(write(tmp_path / "h.tif", cube, "uint16"))
    # A guide serves in any unit.
    with RasterMsi(write(tmp_path / "m.tif", cube, "uint16")) as product:
        assert 0 < np.nanmedian(product.read(FULL)) < 2


def test_complex_numbers_are_refused(tmp_path):
    with pytest.raises(InputError, match="complex numbers"):
        RasterMsi(write(tmp_path / "c.tif", TRUTH[:1] * 1j, "complex64"))
