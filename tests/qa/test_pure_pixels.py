from __future__ import annotations

import csv
import gzip
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from qa_builders import CENTRE_NM, PATCHES, patch_scene

from hsfuse.errors import UsageError
from hsfuse.qa.pixels import KINDS, LOW_PURITY, PixelStrip, find_pure_pixels, inner_spread, key_bands


def strips(cube, valid, rows):
    for row0 in range(0, cube.shape[1], rows):
        yield PixelStrip(row0, cube[:, row0 : row0 + rows], valid[row0 : row0 + rows])


def test_finds_one_pixel_of_each_surface_inside_its_patch():
    cube, valid = patch_scene()
    found = find_pure_pixels(strips(cube, valid, 60), CENTRE_NM, per_kind=1).pixels
    assert [p.kind for p in found] == list(KINDS)
    for pixel in found:
        row, col = PATCHES[pixel.kind]
        # At least two pixels inside the patch: the window of 5 x 5 lies on it altogether.
        assert row + 2 <= pixel.row < row + 10
        assert col + 2 <= pixel.col < col + 10
        assert 0.5 < pixel.purity <= 1.0


@given(rows=st.integers(1, 70))
@settings(max_examples=25, deadline=None)
def test_the_cut_into_strips_does_not_matter(rows):
    cube, valid = patch_scene()
    whole = find_pure_pixels(strips(cube, valid, 60), CENTRE_NM)
    cut = find_pure_pixels(strips(cube, valid, rows), CENTRE_NM)
    assert [(p.kind, p.row, p.col) for p in cut.pixels] == [(p.kind, p.row, p.col) for p in whole.pixels]
    assert cut.shares == whole.shares


@given(seed=st.integers(0, 10_000), row=st.integers(0, 59), col=st.integers(0, 63), window=st.sampled_from([3, 5, 7]))
@settings(max_examples=25, deadline=None)
def test_windows_never_touch_a_masked_pixel_or_the_edge(seed, row, col, window):
    cube, valid = patch_scene(seed)
    valid[row, col] = False
    cube[:, (row * 7) % 60, (col * 5) % 64] = np.nan
    bad = ~valid | np.isnan(cube[0])
    for p in find_pure_pixels(strips(cube, valid, 16), CENTRE_NM, per_kind=4, window_px=window, separation_px=4).pixels:
        reach = window // 2
        assert reach <= p.row < 60 - reach
        assert reach <= p.col < 64 - reach
        assert not bad[p.row - reach : p.row + reach + 1, p.col - reach : p.col + reach + 1].any()


def test_a_river_three_pixels_wide_is_offered_with_reserve():
    cube, valid = patch_scene()
    row, col = PATCHES["water"]
    lake = cube[:, row + 5, col + 5].copy()
    cube[:, row : row + 12, col : col + 12] = cube[:, 10:11, 12:13]
    cube[:, :, 30:33] = lake[:, None, None]
    (river,) = [p for p in find_pure_pixels(strips(cube, valid, 60), CENTRE_NM, per_kind=1).pixels if p.kind == "water"]
    assert river.col == 31
    assert 0.2 <= river.purity < 0.65


def test_ground_that_is_uneven_inside_the_pixels_is_not_pure():
    cube, valid = patch_scene()
    msi = np.repeat(np.repeat(cube[[2, 6, 12, 20]], 3, axis=1), 3, axis=2)
    row, col = PATCHES["built-up"]
    # The left half of the built-up patch is roofs and streets that the HSI's pixels average out.
    msi[:, 3 * row : 3 * row + 36, 3 * col : 3 * col + 18 : 3] *= 2.5
    detail = inner_spread(msi, 3)
    parts = [PixelStrip(r, cube[:, r : r + 7], valid[r : r + 7], detail[r : r + 7]) for r in range(0, 60, 7)]
    found = {p.kind: p for p in find_pure_pixels(parts, CENTRE_NM, per_kind=1).pixels}
    assert set(found) == set(KINDS)
    assert found["built-up"].col >= col + 7
    uneven = [
        p for p in find_pure_pixels(parts, CENTRE_NM, separation_px=2, per_kind=99).pixels if p.kind == "built-up"
    ]
    inside = [p for p in uneven if row <= p.row < row + 12 and col <= p.col < col + 6]
    assert all(p.purity < LOW_PURITY for p in inside)


def test_inner_spread_is_the_relative_deviation():
    msi = np.random.default_rng(0).uniform(0.1, 0.4, (2, 8, 12))
    msi[0, 0, 0] = np.nan
    spread = inner_spread(msi, 4)
    assert spread.shape == (2, 3)
    assert np.isnan(spread[0, 0])
    cell = msi[:, 4:8, 8:12]
    assert spread[1, 2] == pytest.approx(np.mean(cell.std(axis=(1, 2)) / (cell.mean(axis=(1, 2)) + 0.03)))


def test_pixels_of_one_kind_keep_their_distance():
    cube = np.repeat(np.repeat(patch_scene()[0][:, 12:13, 14:15], 90, 1), 80, 2)
    found = find_pure_pixels([(0, cube, np.ones((90, 80), bool))], CENTRE_NM, per_kind=5, separation_px=25).pixels
    places = np.array([(p.row, p.col) for p in found])
    assert len(found) == 5
    assert {p.kind for p in found} == {"vegetation"}
    distance = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    assert distance[~np.eye(5, dtype=bool)].min() >= 25


def test_windows_do_not_reach_across_left_out_rows():
    cube, valid = patch_scene()
    # Only two rows of each patch are handed over: no window of five fits, joined rows would make one.
    parts = [(9, cube[:, 9:12], valid[9:12]), (16, cube[:, 16:19], valid[16:19])]
    assert find_pure_pixels(parts, CENTRE_NM).pixels == ()


def test_nothing_is_found_where_everything_is_masked_or_mixed():
    cube, valid = patch_scene()
    assert find_pure_pixels(strips(cube, np.zeros_like(valid), 20), CENTRE_NM).pixels == ()
    noise = np.random.default_rng(0).uniform(0.02, 0.5, cube.shape).astype(np.float32)
    assert find_pure_pixels(strips(noise, valid, 20), CENTRE_NM).pixels == ()


def test_without_shortwave_infrared_only_vegetation_and_water_are_told_apart():
    cube, valid = patch_scene()
    keep = CENTRE_NM < 1000
    found = find_pure_pixels(strips(cube[keep], valid, 60), CENTRE_NM[keep], per_kind=1).pixels
    assert [p.kind for p in found] == ["vegetation", "water"]


def test_needs_red_and_near_infrared_and_a_sensible_window():
    cube, valid = patch_scene()
    keep = CENTRE_NM > 1000
    assert find_pure_pixels(strips(cube[keep], valid, 60), CENTRE_NM[keep]).pixels == ()
    with pytest.raises(UsageError, match="odd"):
        find_pure_pixels(strips(cube, valid, 60), CENTRE_NM, window_px=4)


def test_key_bands_respect_their_tolerance():
    assert key_bands(np.array([400.0, 664.0, 2500.0])) == {"red": 1}


@pytest.mark.shared_data
def test_measured_spectra_get_their_own_surface(shared_data: Path):
    folder = shared_data / "spectra" / "earthlib"
    header = (folder / "spectra.sli.hdr").read_text()
    listed = re.search(r"wavelength *= *\{([^}]*)\}", header)
    centre = np.array([float(v) for v in listed.group(1).split(",")])
    centre = centre * 1000 if centre.max() < 100 else centre
    with gzip.open(folder / "spectra.sli.gz") as stream:
        spectra = np.frombuffer(stream.read(), "<f4").reshape(-1, centre.size)
    with (folder / "spectra.csv").open() as stream:
        classes = np.array([row["LEVEL_2"] for row in csv.DictReader(stream)])
    # Every spectrum becomes an even patch of 5 x 5 pixels of its own.
    cube = np.repeat(np.repeat(spectra.T[:, None, :], 5, axis=1), 5, axis=2).astype(np.float32)
    valid = np.ones(cube.shape[1:], dtype=bool)
    found = find_pure_pixels(
        [(0, cube, valid)], centre, per_kind=10_000, separation_px=5, window_px=5, min_purity=0.5
    ).pixels
    expected = {"vegetation": {"vegetation"}, "soil": {"bare"}, "built-up": {"built", "bare"}}
    for kind, right in expected.items():
        hits = [classes[p.col // 5] for p in found if p.kind == kind and p.col % 5 == 2]
        assert len(hits) > 100
        assert np.mean([hit in right for hit in hits]) > 0.95
    assert not [p for p in found if p.kind == "water"]


@pytest.mark.shared_data
def test_a_real_scene_offers_all_surfaces(shared_data: Path):
    with rasterio.open(shared_data / "enmap_potsdam" / "enmap_l2a_potsdam.tif") as dataset:
        centre = np.array([float(dataset.tags(i)["wavelength"]) for i in range(1, dataset.count + 1)])
        cube = dataset.read(masked=True).astype(np.float32).filled(np.nan) / 1e4
    kept = np.isfinite(cube).any(axis=(1, 2))
    cube, centre = cube[kept], centre[kept]
    valid = np.isfinite(cube[50])
    found = find_pure_pixels(strips(cube, valid, 40), centre, per_kind=2, separation_px=8).pixels
    assert [p.kind for p in found] == [kind for kind in KINDS for _ in range(2)]
    red, nir = (int(np.abs(centre - nm).argmin()) for nm in (665, 850))
    for p in found:
        ratio = cube[nir, p.row, p.col] / max(cube[red, p.row, p.col], 1e-3)
        assert {"vegetation": ratio > 4, "water": cube[nir, p.row, p.col] < 0.06}.get(p.kind, 1 < ratio < 2)


def test_how_much_of_the_scene_looks_like_each_surface():
    cube, valid = patch_scene()
    shares = find_pure_pixels(strips(cube, valid, 16), CENTRE_NM).shares
    # Each patch of 12 x 12 pixels is 3.75 % of the scene, its noisiest pixels left out; mixtures look like it too.
    assert all(0.02 <= shares[kind] < 0.25 for kind in KINDS)
    keep = CENTRE_NM < 1000
    shares = find_pure_pixels(strips(cube[keep], valid, 16), CENTRE_NM[keep]).shares
    assert shares["vegetation"] > 0.03
    assert shares["soil"] is shares["built-up"] is None
