"""No command replaces, deletes or writes into what it reads, with or without --overwrite; it says so at once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine
from typer.testing import CliRunner

from hsfuse.cli.app import app

runner = CliRunner()
N = 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An ENVI cube with its header, an MSI, links to both."""
    rng = np.random.default_rng(0)
    wavelength = np.arange(450.0, 950.0, 25.0)
    cube = rng.uniform(500, 4000, (wavelength.size, N, N)).astype("<i2")
    cube.tofile(tmp_path / "scene.img")
    (tmp_path / "scene.hdr").write_text(
        f"ENVI\nsamples = {N}\nlines = {N}\nbands = {wavelength.size}\nheader offset = 0\nfile type = ENVI Standard\n"
        "data type = 2\ninterleave = bsq\nbyte order = 0\n"
        "map info = {UTM, 1, 1, 500000, 5000000, 30, 30, 33, North, WGS-84, units=Meters}\n"
        f"wavelength units = nm\nwavelength = {{{', '.join(map(str, wavelength))}}}\nreflectance scale factor = 10000\n"
    )
    with rasterio.open(
        tmp_path / "m.tif", "w", driver="GTiff", height=3 * N, width=3 * N, count=4, dtype="uint16", nodata=0,
        crs="EPSG:32633", transform=Affine(10, 0, 5e5, 0, -10, 5e6),
    ) as dataset:  # fmt: skip
        dataset.write(rng.integers(500, 4000, (4, 3 * N, 3 * N)).astype("u2"))
        for index, nm in enumerate((492.7, 559.8, 664.6, 832.8), start=1):
            dataset.update_tags(index, wavelength=str(nm), wavelength_units="Nanometers", fwhm="40")
    (tmp_path / "soft.tif").symlink_to("m.tif")
    os.link(tmp_path / "m.tif", tmp_path / "hard.tif")
    return tmp_path


RUN = ("run", "@scene.img", "@m.tif", "--method", "bicubic", "--bands", "all", "--coregister", "off", "--no-report")
COREGISTER = ("coregister", "@scene.img", "@m.tif")
COMPARE = ("compare", "@scene.img", "@m.tif", "--methods", "bicubic", "--coregister", "off", "--bands", "all")
TRAIN = ("train-reduced", "@scene.img", "--method", "ssrfn-lite", "--steps", "1", "--bands", "all")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "arguments",
    [
        (*RUN, "-o", "@scene.img"),
        (*RUN, "-o", "@scene.dat"),
        (*RUN, "-o", "@m.tif"),
        (*RUN, "-o", "@soft.tif"),
        (*RUN, "-o", "@hard.tif"),
        (*RUN, "--dry-run", "-o", "@m.tif"),
        (*RUN, "-o", "@new.tif", "--log-file", "@m.tif"),
        (*RUN, "-o", "@layer.tif", "--method", "gsa", "--quality", "fast"),
        (*COREGISTER, "-o", "@m.tif"),
        (*COREGISTER, "-o", "@new.tif", "--field", "@soft.tif"),
        (*COREGISTER, "-o", "@new.tif", "--tie-points", "@link.geojson"),
        (*COREGISTER, "-o", "@new.tif", "--field", "@new.tif"),
        (*COMPARE, "-o", "@link.html"),
        (*TRAIN, "-o", "@link.safetensors"),
        (*TRAIN, "-o", "@log.safetensors"),
    ],
    ids=lambda a: " ".join(a),
)
def test_inputs_stay_as_they_are(folder: Path, arguments: tuple[str, ...], overwrite: bool) -> None:
    (folder / "link.geojson").symlink_to("scene.hdr")
    (folder / "link.html").symlink_to("m.tif")
    (folder / "link.safetensors").symlink_to("scene.img")
    (folder / "layer.confidence.tif").symlink_to("m.tif")
    (folder / "log.log.csv").symlink_to("scene.hdr")
    before = _contents(folder)
    call = [text.replace("@", f"{folder}/") for text in arguments] + (["--overwrite"] if overwrite else [])
    result = runner.invoke(app, call)
    text = " ".join(result.output.split())
    assert result.exit_code == 7, text
    assert _contents(folder) == before
    if overwrite:
        assert "--overwrite" not in text


def test_a_cube_lies_beside_the_raster_that_it_was_made_of(folder: Path) -> None:
    """scene.tif needs no scene.hdr, so it may stand beside scene.img; both are read as what they are."""
    before = _contents(folder)
    call = [text.replace("@", f"{folder}/") for text in (*RUN, "-o", "@scene.tif", "--no-progress")]
    result = runner.invoke(app, call)
    assert result.exit_code == 0, result.output
    after = _contents(folder)
    assert {name: after[name] for name in before} == before
    assert sorted(set(after) - set(before)) == ["scene.tif", "scene.tif.stac.json"]


def _contents(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}
