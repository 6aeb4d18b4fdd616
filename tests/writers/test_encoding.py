"""Reflectance survives storage to half a step, nodata survives exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from writers_support import PROVENANCE, Cube

from hsfuse.grid import Grid, Slice2D
from hsfuse.spectral import BandTable
from hsfuse.writers import CubeWriter, SampleEncoding, WriteOptions

cubes = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=6),
    elements=st.floats(-3.0, 6.5, width=32) | st.just(float("nan")),
)


@given(cubes)
def test_int16_keeps_reflectance_to_half_a_step_and_nodata_exactly(data: np.ndarray) -> None:
    encoding = SampleEncoding.of("int16")
    stored = encoding.encode(data)
    assert stored.dtype == np.dtype("<i2")
    np.testing.assert_array_equal(stored == -32768, np.isnan(data))
    back = encoding.decode(stored)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(data))
    np.testing.assert_allclose(back, np.clip(data, -3.2767, 3.2767), atol=0.50001e-4 + 3e-7)


@given(cubes)
def test_uint16_clips_negatives_to_zero(data: np.ndarray) -> None:
    encoding = SampleEncoding.of("uint16")
    stored = encoding.encode(data)
    np.testing.assert_array_equal(stored == 65535, np.isnan(data))
    np.testing.assert_allclose(encoding.decode(stored), np.clip(data, 0.0, 6.5534), atol=0.50001e-4 + 6e-7)


@given(cubes)
def test_float32_is_exact(data: np.ndarray) -> None:
    encoding = SampleEncoding.of("float32")
    np.testing.assert_array_equal(encoding.decode(encoding.encode(data)), data)


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
def test_infinite_samples_become_nodata(dtype: str) -> None:
    encoding = SampleEncoding.of(dtype)  # type: ignore[arg-type]
    data = np.array([[[np.inf, -np.inf, 0.25]]], dtype=np.float32)
    back = encoding.decode(encoding.encode(data))
    assert np.isnan(back[0, 0, :2]).all()
    assert back[0, 0, 2] == pytest.approx(0.25)


@given(st.integers(-32767, 32767))
def test_stored_integers_come_back_unchanged(value: int) -> None:
    encoding = SampleEncoding.of("int16")
    stored = np.array([[[value]]], dtype="<i2")
    assert encoding.encode(encoding.decode(stored))[0, 0, 0] == value


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32"])
@pytest.mark.parametrize(("name", "file_format"), [("out.tif", "gtiff"), ("out.tif", "cog"), ("out.img", "envi")])
def test_a_cube_has_one_set_of_values(
    tmp_path: Path, grid: Grid, bands: BandTable, cube: Cube, dtype: str, name: str, file_format: str
) -> None:
    """Its scores are the same bits, whether it was judged on its way to the disk or later from the file."""
    options = WriteOptions(dtype=dtype, format=file_format)  # type: ignore[arg-type]
    block, chosen = Slice2D(30, 130, 20, 90), [5, 0, 2]
    with CubeWriter(tmp_path / name, grid, bands, options, identity="1234abcd", provenance=PROVENANCE) as writer:
        writer.write_rows(0, cube)
        rows = writer.stored_rows()
        assert rows is not None
        written = writer.read_rows(30, 100, chosen)[:, :, 20:90]
        product = writer.finish()
        early = rows.read(block, chosen)
        rows.close()
        late = writer.read_rows(30, 100, chosen)[:, :, 20:90]
    with product.format.open(product.path) as source:
        judged = source.read(chosen, block)
    for other in (written, late, judged):
        np.testing.assert_array_equal(other, early)
