"""Scenes of few bands or few pixels: fused where that is sure to be better than interpolation, and said."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

import hsfuse
from hsfuse.cli.app import app
from hsfuse.degrade import Psf, lowpass_decimate_array
from hsfuse.workflows.fuse_arrays import FusedArrays

runner = CliRunner()
RATIO = 3
GUIDE_NM = (490.0, 560.0, 665.0, 842.0)
NM = {bands: np.linspace(450.0, 900.0, bands) for bands in (3, 5, 6, 7, 8, 36)}


def _pair(bands: int, side: int, *, own: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HSI, MSI and truth of three materials; ``own`` is the share of ground that the MSI alone shows."""
    rng = np.random.default_rng(seed)

    def ground() -> np.ndarray:
        base = np.array([gaussian_filter(plane, 1.5) for plane in rng.random((3, RATIO * side, RATIO * side))])
        return (base - base.mean(axis=(1, 2), keepdims=True)) / base.std() * 0.05 + 0.2

    spectra = rng.random((bands + len(GUIDE_NM), 3))
    here, there = (np.tensordot(spectra, image, axes=1) for image in (ground(), ground()))
    truth = here[:bands].astype(np.float32)
    msi = ((1.0 - own) * here[bands:] + own * there[bands:]).astype(np.float32)
    return lowpass_decimate_array(truth, RATIO, Psf(1.0)), np.ascontiguousarray(msi), truth


def _error(cube: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.nanmean((cube - truth) ** 2)))


def _fuse(hsi: np.ndarray, msi: np.ndarray, method: str = "glp", quality: str = "plain") -> np.ndarray:
    cube = hsfuse.fuse(hsi, msi, ratio=RATIO, method=method, quality=quality, wavelengths_nm=NM[len(hsi)])
    assert isinstance(cube, np.ndarray)
    return cube


@pytest.mark.parametrize("bands", [3, 7, 8])
def test_few_bands_are_said(bands: int, caplog: pytest.LogCaptureFixture) -> None:
    hsi, msi, _ = _pair(bands, 16)
    _fuse(hsi, msi)
    assert (f"Only {bands} bands of the hyperspectral image are fused" in caplog.text) is (bands < 8)


@pytest.mark.parametrize(("bands", "side", "quality"), [(36, 8, "plain"), (36, 8, "standard"), (7, 16, "plain")])
def test_a_guide_that_explains_little_of_a_sparse_scene_is_not_used(
    bands: int, side: int, quality: str, caplog: pytest.LogCaptureFixture
) -> None:
    hsi, msi, truth = _pair(bands, side, own=0.8)
    plain = _fuse(hsi, msi, "bicubic")
    assert _error(_fuse(hsi, msi, quality=quality), truth) <= _error(plain, truth)
    assert "interpolated" in caplog.text


@pytest.mark.parametrize(("bands", "side"), [(36, 8), (7, 16)])
def test_a_guide_that_explains_a_sparse_scene_is_used(bands: int, side: int, caplog: pytest.LogCaptureFixture) -> None:
    hsi, msi, truth = _pair(bands, side)
    assert _error(_fuse(hsi, msi), truth) < 0.7 * _error(_fuse(hsi, msi, "bicubic"), truth)
    assert "interpolated" not in caplog.text


def test_what_is_known_of_an_interpolated_result_says_that_the_guide_has_no_part() -> None:
    hsi, msi, _ = _pair(5, 24, own=0.3)
    usual = {"ratio": RATIO, "wavelengths_nm": NM[5], "full_output": True}
    found = hsfuse.fuse(hsi, msi, **usual)  # type: ignore[arg-type]
    assert isinstance(found, FusedArrays)
    assert found.record["trusted"]
    assert found.record["method"]["name"] == "bicubic"
    assert found.record["hsi_only_share"] == 1.0


def _write(path: Path, image: np.ndarray, pixel_m: float, nm: Iterable[float]) -> Path:
    with rasterio.open(
        path, "w", driver="GTiff", height=image.shape[1], width=image.shape[2], count=len(image), dtype="float32",
        crs="EPSG:32633", transform=from_origin(500_010.0, 5_000_010.0, pixel_m, pixel_m),
    ) as out:  # fmt: skip
        out.write(image)
        for band, centre in enumerate(nm, start=1):
            out.update_tags(band, wavelength=f"{centre:.1f}", wavelength_units="nm", fwhm="20")
    return path


@pytest.mark.parametrize(
    ("bands", "side", "own", "quality", "method", "said"),
    [
        (5, 24, 0.4, "fast", "bicubic", "with 5 bands it is not clearly better"),
        (7, 24, 0.0, "fast", "glp", "Only 7 bands of the hyperspectral image are fused"),
        (36, 8, 0.8, "plain", "bicubic", "explains too little"),
    ],
)
def test_a_run_says_what_it_made_of_a_sparse_scene(
    tmp_path: Path, bands: int, side: int, own: float, quality: str, method: str, said: str
) -> None:
    hsi, msi, _ = _pair(bands, side, own=own, seed=2)
    low, high = _write(tmp_path / "h.tif", hsi, 30.0, NM[bands]), _write(tmp_path / "m.tif", msi, 10.0, GUIDE_NM)
    options = f"--quality {quality} --coregister off --bands all --method glp --psf-fwhm 1.0 --json --no-progress"
    made = runner.invoke(app, ["run", str(low), str(high), "-o", str(tmp_path / "o.tif"), *options.split()])
    assert made.exit_code == 0, made.output
    summary = json.loads(made.stdout.strip().splitlines()[-1])
    assert summary["method"]["name"] == method
    assert made.stderr.count("Refinement:") == (method != "bicubic"), "of the result, not of its trial"
    assert any(said in warning for warning in summary["warnings"])
    assert summary["verdict"]["level"] != "good"
    assert said in (tmp_path / "o.report.html").read_text(encoding="utf-8")
    if quality != "plain":
        with rasterio.open(tmp_path / "o.confidence.tif") as layer:
            source = layer.read(3)
        assert ((source == 2) == (method == "bicubic"))[source > 0].mean() > 0.9
