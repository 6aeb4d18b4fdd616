"""Band selection: exact counts, reasons for everything, and evidence that agrees with what was put in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rasterio.crs import CRS
from scipy import ndimage

from hsfuse.band_selection import (
    BandStatistics,
    evidence_table,
    match_bands,
    measure_bands,
    parse_bands,
    select_bands,
    window_of,
)
from hsfuse.band_selection.evidence import sample_blocks
from hsfuse.band_selection.thinning import thin
from hsfuse.errors import InputError, OverlapError, UsageError
from hsfuse.grid import Grid, Slice2D
from hsfuse.readers.base import HyperspectralProduct, ProductInfo
from hsfuse.spectral import BandTable

SIZE = (96, 120)


def prisma_like_bands() -> BandTable:
    """230 bands, spaced and cut as PRISMA's are."""
    vnir, swir = np.linspace(402.5, 947.0, 63), np.linspace(953.0, 2497.0, 167)
    centre = np.concatenate([vnir, swir])
    return BandTable.make(centre, np.full(centre.size, 11.0), detector=("VNIR",) * 63 + ("SWIR",) * 167)


class CubeProduct(HyperspectralProduct):
    """A hyperspectral product in memory; what the protocol adds by default comes with it."""

    info = grid = bands = None  # set below, in place of the protocol's properties

    def __init__(
        self,
        cube: NDArray[np.float32],
        bands: BandTable,
        codes: NDArray[np.uint8] | None = None,
        valid: NDArray[np.bool_] | None = None,
    ) -> None:
        self.cube, self.bands, self.codes = cube, bands, codes
        self.grid = Grid.from_origin(CRS.from_epsg(32632), 500000.0, 5000000.0, 30.0, *cube.shape[1:])
        self.info = ProductInfo("made.he5", "PRISMA", "2D", Path("made.he5"))
        self.footprint = np.ones(cube.shape[1:], bool) if valid is None else valid
        self.largest_read = 0

    def read(self, block: Slice2D, bands: Sequence[int] | NDArray[np.integer] | None = None) -> NDArray[np.float32]:
        rows, cols = block.slices
        part = (self.cube if bands is None else self.cube[np.asarray(bands)])[:, rows, cols].copy()
        self.largest_read = max(self.largest_read, part.size)
        return part

    def valid(self, block: Slice2D) -> NDArray[np.bool_]:
        return self.footprint[block.slices]

    def error_codes(
        self, block: Slice2D, bands: Sequence[int] | NDArray[np.integer] | None = None
    ) -> NDArray[np.uint8] | None:
        rows, cols = block.slices
        return None if self.codes is None else self.codes[:, rows, cols]

    def close(self) -> None: ...


def ground(bands: BandTable, size: tuple[int, int] = SIZE, seed: int = 0) -> NDArray[np.float32]:
    """Noise-free patches of four spectra with texture that all bands share."""
    rng = np.random.default_rng(seed)
    nm = bands.centre_nm
    spectra = np.stack(
        [
            0.05 + 0.4 / (1 + np.exp(-(nm - 720) / 20)) * np.exp(-(nm - 800) / 1500),
            0.1 + 0.25 * (nm - 400) / 2000,
            0.06 * np.exp(-(nm - 400) / 400) + 0.02,
            0.3 + 0.05 * np.sin(nm / 200),
        ]
    )
    field = ndimage.gaussian_filter(rng.random(size), 4)
    kind = np.digitize(field, np.quantile(field, [0.25, 0.5, 0.75]))
    share = ndimage.gaussian_filter(np.stack([kind == k for k in range(4)]).astype(float), (0, 0.8, 0.8))
    light = 1 + 0.15 * ndimage.gaussian_filter(rng.standard_normal(size), 1)
    return (np.tensordot(spectra.T, share, 1) * light).astype(np.float32)


def noisy(cube: NDArray[np.float32], sigma: NDArray[np.float64], seed: int = 1) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return cube + (rng.standard_normal(cube.shape) * sigma[:, None, None]).astype(np.float32)


@pytest.fixture(scope="module")
def bands() -> BandTable:
    return prisma_like_bands()


@pytest.fixture(scope="module")
def clean(bands: BandTable) -> NDArray[np.float32]:
    return noisy(ground(bands), np.full(len(bands), 0.002))


def _product(cube: NDArray[np.float32], bands: BandTable) -> CubeProduct:
    product = CubeProduct(cube, bands)
    assert isinstance(product, HyperspectralProduct)
    return product


def _at(bands: BandTable, nm: float) -> int:
    return int(bands.nearest(nm)[0])


# --- evidence ---------------------------------------------------------------------------------------------------


def test_noise_is_measured_through_texture(bands: BandTable) -> None:
    sigma = np.geomspace(0.0005, 0.02, len(bands))
    cube = noisy(ground(bands), sigma)
    statistics = measure_bands(_product(cube, bands))
    ratio = statistics.snr / (cube.mean(axis=(1, 2)) / sigma)
    assert np.median(ratio) == pytest.approx(1.0, abs=0.05)
    assert np.all((ratio > 0.7) & (ratio < 1.4))


def test_stripes_are_told_from_noise(bands: BandTable, clean: NDArray[np.float32]) -> None:
    cube = clean.copy()
    striped = _at(bands, 640.0)
    stripes = np.random.default_rng(5).standard_normal(SIZE[1]).astype(np.float32) * 0.03
    cube[striped] += stripes
    statistics = measure_bands(_product(cube, bands))
    assert statistics.stripe[striped] * statistics.mean[striped] == pytest.approx(stripes.std(), rel=0.3)
    assert statistics.snr[striped] == pytest.approx(statistics.mean[striped] / 0.002, rel=0.25)
    others = np.delete(statistics.stripe * statistics.mean, [striped - 1, striped, striped + 1])
    assert np.nanmax(others) < 0.005


def test_fractions_count_imaged_samples_only(bands: BandTable, clean: NDArray[np.float32]) -> None:
    cube, codes = clean.copy(), np.zeros(clean.shape, np.uint8)
    footprint = np.ones(SIZE, bool)
    footprint[:, :60] = False
    cube[:, :, :60] = np.nan
    cube[10, :, 60:75] = np.nan
    cube[11, :, 60:90] = -0.01
    codes[12, :, 60:66] = 4
    codes[13, :, 60:72] = 2
    codes[14, :, :60] = 1  # outside the footprint
    statistics = measure_bands(CubeProduct(cube, bands, codes, footprint))
    assert statistics.zero_fraction[10] == pytest.approx(0.25)
    assert statistics.negative_fraction[11] == pytest.approx(0.5)
    assert statistics.error_fraction[12] == pytest.approx(0.1)
    assert statistics.negative_fraction[13] == pytest.approx(0.2)
    assert statistics.error_fraction[14] == 0.0
    assert statistics.pixels == SIZE[0] * 60


def test_no_imaged_pixel_is_an_overlap_error(bands: BandTable) -> None:
    product = CubeProduct(np.full((len(bands), 20, 20), np.nan, np.float32), bands, valid=np.zeros((20, 20), bool))
    with pytest.raises(OverlapError, match=r"made\.he5"):
        select_bands(product)


def test_constant_and_tiny_scenes_do_not_break(bands: BandTable) -> None:
    flat = CubeProduct(np.full((len(bands), 40, 40), 0.3, np.float32), bands)
    assert len(select_bands(flat, count=100).kept) == 100
    tiny = CubeProduct(np.full((len(bands), 3, 5), 0.3, np.float32), bands)
    assert len(select_bands(tiny, count=100).kept) == 100


@given(
    height=st.integers(1, 5000), width=st.integers(1, 30_000), n_bands=st.integers(2, 300),
)  # fmt: skip
def test_samples_stay_inside_and_small(height: int, width: int, n_bands: int) -> None:
    grid = Grid.from_origin(CRS.from_epsg(32632), 0.0, 0.0, 30.0, height, width)
    blocks = sample_blocks(grid, n_bands)
    assert 1 <= len(blocks) <= 30
    for block in blocks:
        assert 0 <= block.row0 < block.row1 <= height
        assert 0 <= block.col0 < block.col1 <= width
        rows, cols = block.shape
        assert rows * cols * n_bands <= max(5_000_000, 64 * rows * n_bands)


# --- vetoes and reasons -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nm", "name"),
    [(410.0, "blue edge"), (760.0, "oxygen"), (940.0, "0.94"), (1130.0, "1.13"), (1400.0, "1.4 um"), (1900.0, "1.9"),
     (2400.0, "long-wave edge")],
)  # fmt: skip
def test_absorption_windows(nm: float, name: str) -> None:
    window = window_of(nm)
    assert window is not None
    assert name in window.name


@pytest.mark.parametrize("nm", [430.0, 560.0, 800.0, 899.9, 1000.0, 1250.0, 1600.0, 2200.0, 2350.0])
def test_clear_wavelengths(nm: float) -> None:
    assert window_of(nm) is None


def test_each_defect_is_found_and_named(bands: BandTable, clean: NDArray[np.float32]) -> None:
    cube, codes = clean.copy(), np.zeros(clean.shape, np.uint8)
    rng = np.random.default_rng(2)
    defects = {
        550.0: "SNR only", 640.0: "column stripes", 700.0: "samples without data", 800.0: "samples negative",
        1250.0: "flagged invalid or saturated", 1650.0: "correlation with neighbours",
    }  # fmt: skip
    at = {nm: _at(bands, nm) for nm in defects}
    cube[at[550.0]] += rng.standard_normal(SIZE).astype(np.float32) * 0.05
    cube[at[640.0]] += rng.standard_normal(SIZE[1]).astype(np.float32) * 0.05
    cube[at[700.0], :, :30] = np.nan
    cube[at[800.0], :40] -= 1.0
    codes[at[1250.0], :, ::3] = 4
    cube[at[1650.0]] = ndimage.gaussian_filter(rng.standard_normal(SIZE), 3).astype(np.float32) + 1.0
    selection = select_bands(CubeProduct(cube, bands, codes), count=100)
    for nm, text in defects.items():
        row = selection.table[at[nm]]
        assert not row.kept
        assert text in row.reason, (nm, row.reason)
    innocent = [
        row for row in selection.table
        if not row.window and not row.kept and not row.reason.startswith("thinned") and row.index not in at.values()
    ]  # fmt: skip
    assert not innocent, [(row.centre_nm, row.reason) for row in innocent]


def test_a_lake_condemns_no_band(bands: BandTable) -> None:
    cube = ground(bands)
    cube[:, :60] = (0.03 * np.exp(-(bands.centre_nm - 400) / 200))[:, None, None]
    cube = noisy(cube, np.full(len(bands), 0.002))
    selection = select_bands(_product(cube, bands), count=None)
    condemned = [row.centre_nm for row in selection.dropped if not row.window]
    assert not condemned
    assert (selection.kept.centre_nm > 2000).sum() > 20


def test_producers_flags_are_respected(bands: BandTable, clean: NDArray[np.float32]) -> None:
    good = np.ones(len(bands), bool)
    good[_at(bands, 560.0)] = False
    table = BandTable.make(bands.centre_nm, bands.fwhm_nm, detector=bands.detector, good=good)
    row = select_bands(_product(clean, table), count=100).table[_at(bands, 560.0)]
    assert not row.kept
    assert "producer" in row.reason


# --- counts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 5, 24, 60, 100, 150])
def test_exact_count_and_a_reason_for_every_other_band(
    bands: BandTable, clean: NDArray[np.float32], count: int
) -> None:
    product = _product(clean, bands)
    selection = select_bands(product, count=count)
    assert len(selection.kept) == len(selection.indices) == count
    assert np.all(np.diff(selection.indices) > 0)
    np.testing.assert_array_equal(selection.kept.centre_nm, bands.centre_nm[selection.indices])
    assert len(selection.table) == len(bands)
    assert all(row.reason for row in selection.dropped)
    assert [row.index for row in selection.table if row.kept] == selection.indices.tolist()
    again = select_bands(product, count=count)
    assert again.indices.tolist() == selection.indices.tolist()
    assert product.largest_read <= 5_000_000


def test_hundred_bands_keep_the_guide_range_and_leave_no_holes(bands: BandTable, clean: NDArray[np.float32]) -> None:
    selection = select_bands(_product(clean, bands), count=100)
    assert selection.kept.good.all()
    kept = selection.kept.centre_nm
    under_guide = [
        row for row in selection.table if 440 <= row.centre_nm <= 900 and not row.window and not row.kept
    ]  # fmt: skip
    assert not under_guide
    # Gaps above 30 nm exist only where a fixed window lies between the two bands.
    for low, high in pairwise(kept):
        assert high - low <= 30.0 or any(window_of(nm) for nm in np.linspace(low + 1, high - 1, 20)), (low, high)


def test_too_few_good_bands_readmit_the_best_and_say_so(bands: BandTable, clean: NDArray[np.float32]) -> None:
    cube = clean.copy()
    opaque = (bands.centre_nm > 1340) & (bands.centre_nm < 1490)
    cube[opaque] = np.nan
    selection = select_bands(_product(cube, bands), count=200)
    assert len(selection.kept) == 200
    assert any("re-admitted" in note for note in selection.notes)
    readmitted = [row for row in selection.table if row.reason.startswith("re-admitted")]
    assert len(readmitted) == 200 - int(selection.kept.good.sum())
    assert not selection.kept.good[np.isin(selection.indices, [row.index for row in readmitted])].any()
    assert not any(opaque[row.index] for row in readmitted), "bands without data come last"


def test_more_bands_than_there_are(bands: BandTable, clean: NDArray[np.float32]) -> None:
    with pytest.raises(InputError, match="230 bands, fewer than the 300") as caught:
        select_bands(_product(clean, bands), count=300)
    assert caught.value.exit_code == 3
    assert "--bands" in caught.value.hint


def test_all_keeps_everything_and_flags_the_bad(bands: BandTable, clean: NDArray[np.float32]) -> None:
    selection = select_bands(_product(clean, bands), count="all")
    assert len(selection.kept) == len(bands)
    assert not selection.dropped
    np.testing.assert_array_equal(selection.kept.good, [window_of(nm) is None for nm in bands.centre_nm])
    assert any("flagged" in note for note in selection.notes)


def test_good_keeps_what_passes(bands: BandTable, clean: NDArray[np.float32]) -> None:
    selection = select_bands(_product(clean, bands), count=None)
    assert selection.kept.good.all()
    assert len(selection.kept) == sum(window_of(nm) is None for nm in bands.centre_nm)


@given(
    spacing=st.lists(st.floats(2.0, 60.0), min_size=5, max_size=60),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_thinning_reaches_any_count(spacing: list[float], seed: int, data: st.DataObject) -> None:
    centre = 400.0 + np.cumsum(spacing)
    score = np.random.default_rng(seed).random(centre.size)
    count = data.draw(st.integers(2, centre.size))
    result = thin(centre, score, count)
    assert result.kept.size == count
    assert result.kept[0] == 0
    assert result.kept[-1] == centre.size - 1
    assert np.all(np.diff(result.kept) > 0)
    assert set(result.gap_nm) == set(range(centre.size)) - set(result.kept.tolist())
    assert all(gap <= result.max_gap_nm + 1e-9 for gap in result.gap_nm.values())


def test_thinning_prefers_to_drop_poor_bands() -> None:
    centre = np.arange(1500.0, 1600.0, 8.0)
    score = np.full(centre.size, 0.9)
    score[[3, 7]] = 0.2
    assert set(thin(centre, score, centre.size - 2).gap_nm) == {3, 7}


# --- requests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"), [("100", 100), (" 24 ", 24), ("all", "all"), ("ALL", "all"), ("good", None)]
)
def test_parse_counts(text: str, count: object) -> None:
    request = parse_bands(text)
    assert request.count == count
    assert request.wavelengths_nm is None


@pytest.mark.parametrize(
    "content",
    ["# my bands\n450\n550.5, 650  # red\n\n", "0.45 0.5505\t0.65", "\ufeff450;550.5;650", "450,\n550.5,\n650,"],
)
def test_parse_files_of_wavelengths(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bands.txt"
    path.write_text(content, encoding="utf-8")
    assert parse_bands(str(path)).wavelengths_nm == pytest.approx((450.0, 550.5, 650.0))


@pytest.mark.parametrize("content", ["", "# nothing\n", "450\nred\n", "450 nan", "450 99999", "-5"])
def test_bad_files_of_wavelengths(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bands.txt"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"bands\.txt") as caught:
        parse_bands(str(path))
    assert caught.value.hint


@pytest.mark.parametrize("text", ["0", "1", "-7", "no/such/file.txt"])
def test_bad_band_options(text: str) -> None:
    with pytest.raises(UsageError, match="bands"):
        parse_bands(text)


def test_requested_wavelengths_are_matched_by_nanometres(bands: BandTable, clean: NDArray[np.float32]) -> None:
    wanted = [2200.0, 480.0, 1400.0, 842.0]
    selection = select_bands(_product(clean, bands), wavelengths_nm=wanted)
    assert selection.kept.centre_nm == pytest.approx(sorted(wanted), abs=5.5)
    assert selection.kept.good.tolist() == [True, True, False, True]
    assert any("flagged" in note for note in selection.notes)
    assert all("not among the requested" in row.reason for row in selection.dropped)


def test_wavelengths_without_a_band_are_named(bands: BandTable) -> None:
    with pytest.raises(InputError, match=r"no band for 2 of 3 wavelengths: 380, 2600 nm"):
        match_bands(bands, [380.0, 500.0, 2600.0])
    with pytest.raises(InputError, match=r"500, 501 nm fall on the same band"):
        match_bands(bands, [500.0, 501.0, 700.0])


def test_a_gap_in_the_sensor_is_no_band() -> None:
    table = BandTable.make([500.0, 510.0, 520.0, 800.0, 810.0], [10.0] * 5)
    assert match_bands(table, [524.0, 796.0]).tolist() == [2, 3]
    with pytest.raises(InputError, match="650"):
        match_bands(table, [650.0])
    assert match_bands(table, [650.0], tolerance_nm=200.0).tolist() == [2]


# --- outputs ----------------------------------------------------------------------------------------------------


def test_record_is_strict_json_and_table_has_a_row_per_band(bands: BandTable, clean: NDArray[np.float32]) -> None:
    cube = clean.copy()
    cube[100] = np.nan
    selection = select_bands(_product(cube, bands), count=100)
    record = json.loads(json.dumps(selection.to_json(), allow_nan=False))
    assert record["count"] == 100
    assert len(record["bands"]) == len(bands)
    assert record["bands"][100]["snr"] is None
    titles, rows = evidence_table(selection)
    assert len(rows) == len(bands)
    assert all(len(row) == len(titles) for row in rows)
    assert rows[100][titles.index("SNR")] == "-"


def test_evidence_can_be_reused(bands: BandTable, clean: NDArray[np.float32]) -> None:
    product = _product(clean, bands)
    statistics = measure_bands(product)
    assert isinstance(statistics, BandStatistics)
    product.largest_read = 0
    assert select_bands(product, count=50, statistics=statistics).indices.size == 50
    assert product.largest_read == 0


@pytest.mark.shared_data
def test_a_real_enmap_scene(shared_data: Path) -> None:
    """Real noise and a real atmosphere: dead bands go, the SNR dips where water absorbs, nothing good is lost."""
    import rasterio

    with rasterio.open(shared_data / "enmap_potsdam" / "enmap_l2a_potsdam.tif") as dataset:
        stored = dataset.read()
        tags = [dataset.tags(index) for index in dataset.indexes]
    cube = np.where(stored == -32768, np.nan, stored / 10000.0).astype(np.float32)
    centre = np.array([float(tag["wavelength"]) for tag in tags])
    order = np.argsort(centre)
    table = BandTable.make(centre[order], [float(tags[i]["fwhm"]) for i in order])
    product = CubeProduct(cube[order], table, valid=np.isfinite(cube[60]))
    selection = select_bands(product, count=100)
    assert len(selection.kept) == 100
    assert selection.kept.good.all()
    dead = [row for row in selection.table if row.zero_fraction > 0.9]
    assert len(dead) == 6
    assert not any(row.kept for row in dead)
    snr = np.array([row.snr for row in selection.table])
    assert np.nanmedian(snr[(table.centre_nm > 1000) & (table.centre_nm < 1080)]) > 300
    assert np.nanmax(snr[(table.centre_nm > 1930) & (table.centre_nm < 1960)]) < 30
