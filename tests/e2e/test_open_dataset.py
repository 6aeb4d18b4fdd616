"""``hsfuse.open``: what is not looked at is not read."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr

import hsfuse
from hsfuse.readers import open_hsi
from hsfuse.readers.prisma.product import PrismaProduct
from hsfuse.simulate.products import SimulatedPair

mpl.use("agg")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, list[int]]]:
    """Record (block, bands) of everything that is read of PRISMA's cube."""
    seen: list[tuple[Any, list[int]]] = []
    read = PrismaProduct.read

    def recorded(self: PrismaProduct, block: Any, bands: Any = None) -> Any:
        seen.append((block, list(bands)))
        return read(self, block, bands)

    monkeypatch.setattr(PrismaProduct, "read", recorded)
    return seen


def test_two_lines_select_a_wavelength_and_plot_it(pair: SimulatedPair, reads: list[tuple[Any, list[int]]]) -> None:
    ds = hsfuse.open(pair.prisma)
    assert reads == []
    ds.reflectance.sel(wavelength=850, method="nearest").plot()
    assert len(reads) == 1
    block, bands = reads[0]
    assert block.shape == (ds.sizes["y"], ds.sizes["x"])
    assert len(bands) == 1
    assert ds.sizes["wavelength"] > 200
    ds.close()


def test_values_are_those_of_the_reader(pair: SimulatedPair, reads: list[tuple[Any, list[int]]]) -> None:
    with open_hsi(pair.prisma) as product:
        whole = product.read(product.grid.full, range(20))
        crs, transform, valid = product.grid.crs, product.grid.transform, product.valid(product.grid.full)
        errors = product.error_codes(product.grid.full, [3])
    reads.clear()
    with hsfuse.open(pair.prisma) as ds:
        part = ds.reflectance[[7, 2, 2], 90:30:-7, [5, 3, 100]]
        np.testing.assert_array_equal(part.values, whole[[7, 2, 2]][:, 90:30:-7][:, :, [5, 3, 100]])
        assert reads[0][1] == [2, 7]
        np.testing.assert_array_equal(ds.reflectance[4, 11, 12].values, whole[4, 11, 12])
        assert (reads[-1][0].shape, reads[-1][1]) == ((1, 1), [4])
        np.testing.assert_array_equal(ds.valid.values, valid)
        np.testing.assert_array_equal(ds.error_code[3].values, errors[0])
        assert ds.rio.crs == crs
        assert ds.rio.transform() == transform
        assert {"fwhm", "good", "detector"} <= set(ds.coords)
        again = pickle.loads(pickle.dumps(ds))
        np.testing.assert_array_equal(again.reflectance[4, 11, 12].values, whole[4, 11, 12])


def test_sentinel_2_and_chunks(pair: SimulatedPair) -> None:
    ds = hsfuse.open(pair.sentinel2, chunks={"y": 100})
    assert list(ds.band.values) == ["B02", "B03", "B04", "B08"]
    assert ds.wavelength.dims == ("band",)
    red = ds.reflectance.sel(band="B04")
    assert red.chunks is not None
    assert 0.0 < float(red[150:160, 150:160].mean()) < 1.0
    assert {"cloud", "scene_class"} <= set(ds.variables)


def test_a_product_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(hsfuse.HsfuseError, match="no such file"):
        hsfuse.open(tmp_path / "nothing.he5")


def test_xarray_opens_products_by_the_name_of_the_engine(
    pair: SimulatedPair, reads: list[tuple[Any, list[int]]]
) -> None:
    with xr.open_dataset(pair.prisma, engine="hsfuse", drop_variables="error_code") as ds:
        assert reads == []
        assert set(ds.data_vars) == {"reflectance", "valid"}
        assert ds.reflectance.sel(wavelength=850, method="nearest").isel(x=slice(40, 44), y=60).values.shape == (4,)
        assert reads[0][0].shape == (1, 4)
