"""Spectral smile: the centres of the detector columns against the nominal ones of the lists."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
from rasterio.crs import CRS

from hsfuse.grid import Grid
from hsfuse.readers.prisma.product import PrismaProduct
from hsfuse.simulate.prisma import CubeBlock, PrismaLayout, write_prisma

SMILE_GRID = Grid.from_origin(CRS.from_epsg(32632), 500_000.0, 5_000_000.0, 30.0, 6, 7)
SMILE_CUBE = np.full((234, 6, 7), 0.3, np.float32)


class TestSmile:
    @pytest.mark.parametrize("turned", [False, True])
    def test_distance_by_independent_code(self, tmp_path, turned):
        path = write_prisma(tmp_path / "p.he5", PrismaLayout(grid=SMILE_GRID, smile_nm=2.5), [CubeBlock(0, SMILE_CUBE)])
        with h5py.File(path, "r+") as file:
            away = {}
            for name, slots in (("Vnir", 66), ("Swir", 173)):
                matrix, nominal = file[f"KDP_AUX/Cw_{name}_Matrix"][...], file.attrs[f"List_Cw_{name}"]
                assert matrix.shape[1] == slots
                away[name.upper()] = np.abs(matrix - nominal)[:, nominal > 0]
                if turned:
                    del file[f"KDP_AUX/Cw_{name}_Matrix"]
                    file[f"KDP_AUX/Cw_{name}_Matrix"] = matrix.T
        with PrismaProduct(path) as product:
            smile = product.info.attributes["smile"]
            for name, distance in away.items():
                part = smile["detectors"][name]
                assert part["largest_nm"] == pytest.approx(distance.max(), abs=2e-3)
                assert part["mean_nm"] == pytest.approx(distance.mean(), abs=2e-3)
                assert part["columns"] == 1000
            assert smile["largest_nm"] == pytest.approx(2.5, abs=2e-3)
            assert any("Spectral smile: across the swath, centre wavelengths lie up to 2.5 nm in VNIR" in text
                       for text in product.info.warnings)  # fmt: skip

    @pytest.mark.parametrize("damage", ["missing", "another shape", "absurd"])
    def test_matrices_that_say_nothing(self, tmp_path, damage):
        path = write_prisma(tmp_path / "p.he5", PrismaLayout(grid=SMILE_GRID), [CubeBlock(0, SMILE_CUBE)])
        with h5py.File(path, "r+") as file:
            for name in ("Vnir", "Swir"):
                matrix = file[f"KDP_AUX/Cw_{name}_Matrix"][...]
                del file[f"KDP_AUX/Cw_{name}_Matrix"]
                if damage != "missing":
                    file[f"KDP_AUX/Cw_{name}_Matrix"] = matrix[:, :5] if damage == "another shape" else matrix * 10
        with PrismaProduct(path) as product:
            assert "smile" not in product.info.attributes
            assert not any("smile" in text for text in product.info.warnings)

    def test_a_real_scene(self, tmp_path, shared_data):
        real = np.load(shared_data / "prisma_calibration" / "wavelength_shift_mali.npz")
        layout = PrismaLayout(grid=SMILE_GRID)
        path = write_prisma(tmp_path / "p.he5", layout, [CubeBlock(0, SMILE_CUBE)])
        with h5py.File(path, "r+") as file:
            for name in ("Vnir", "Swir"):
                nominal = file.attrs[f"List_Cw_{name}"]
                near = np.abs(real["centre_nm"][:, None] - nominal).argmin(axis=0)
                matrix = np.where(nominal > 0, nominal + real["shift_nm"][:, near], 0)
                del file[f"KDP_AUX/Cw_{name}_Matrix"]
                file[f"KDP_AUX/Cw_{name}_Matrix"] = matrix.astype(np.float32)
        with PrismaProduct(path) as product:
            largest = product.info.attributes["smile"]["largest_nm"]
            assert largest == pytest.approx(np.abs(real["shift_nm"]).max(), abs=0.8)
