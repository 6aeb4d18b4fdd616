"""Training scenes with the structure of measured images and other materials, made when they are needed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from hsfuse.config import TrainConfig
from hsfuse.degrade import Psf
from hsfuse.errors import InputError
from hsfuse.sensors.sentinel2 import SPACECRAFT, table_responses
from hsfuse.simulate.remix import remix
from hsfuse.spectral import BandTable, srf_weights
from hsfuse.training.scenes import SceneEntry, TrainingScene

_CACHED_SCENES = 12
_SUFFIXES = (".tif", ".tiff", ".img", ".jp2")


def remixed_entries(
    config: TrainConfig, cubes: Sequence[SceneEntry], bands: BandTable, names: Sequence[str]
) -> list[SceneEntry]:
    """Return variants of cubes, and of the images in ``config.structure``, to train on.

    Raises
    ------
    InputError
        There is no image, or it cannot be read.
    """
    if not config.remixed:
        return []
    images = [] if config.structure is None else [_image(path) for path in _images(Path(config.structure))]
    weights = s2_weights(bands, names)
    psf = Psf(config.psf_fwhm) if config.psf_fwhm != "auto" else Psf()
    sources = [scene.load() for scene in cubes] + images

    @lru_cache(maxsize=_CACHED_SCENES)
    def load(source: int, number: int) -> TrainingScene:
        image = sources[source]
        pixels, valid = (
            (image.reference, image.valid)
            if isinstance(image, TrainingScene)
            else (image, np.ones(image.shape[1:], bool))
        )
        seed = (config.seed * 1_003 + source) * 1_000_003 + number
        return TrainingScene("remixed", remix(pixels, bands, seed), valid, None, weights, psf)

    entries = []
    for source, image in enumerate(sources):
        shape = image.valid.shape if isinstance(image, TrainingScene) else image.shape[1:]
        size = (int(shape[0]), int(shape[1]))
        entries += [
            SceneEntry(f"remixed {source}-{number}", size, partial(load, source, number), "training", drawn=True)
            for number in range(config.remixed)
        ]
    return entries


def _images(path: Path) -> list[Path]:
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in _SUFFIXES) if path.is_dir() else [path]
    if not found:
        raise InputError(f"There is no image in {path}.", hint=f"Wanted: {', '.join(_SUFFIXES)}.")
    return found


def _image(path: Path) -> NDArray[np.float32]:
    try:
        with warnings.catch_warnings():
            # Only the picture counts, not where it lies.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                values = file.read().astype(np.float32)
    except (RasterioError, OSError) as error:
        raise InputError(
            f"The image {path} cannot be read.", hint="Give a GeoTIFF, or leave out --structure."
        ) from error
    if min(values.shape[1:]) < 48:
        raise InputError(f"The image {path} is too small to learn from.", hint="48 x 48 pixels are the least.")
    top = float(np.nanpercentile(values, 99.9))
    return np.asarray(np.nan_to_num(values) / max(top, 1e-6), dtype=np.float32)


def s2_weights(bands: BandTable, names: Sequence[str]) -> tuple[NDArray[np.float64], ...]:
    """Spectral response of every Sentinel-2 spacecraft on the bands, and shifted by 3 nm either way.

    Raises
    ------
    InputError
        The bands do not reach under some MSI band.
    """
    found = []
    for spacecraft in SPACECRAFT:
        for shift in (0.0, -3.0, 3.0):
            moved = replace(bands, centre_nm=bands.centre_nm + shift)
            weights = srf_weights(moved, table_responses(spacecraft, names))
            empty = [name for name, row in zip(names, weights, strict=True) if not row.any()]
            if empty:
                raise InputError(
                    f"No band lies under the Sentinel-2 band {empty[0]}, so it cannot be simulated.",
                    hint="Use bands from 450 to 900 nm at least.",
                )
            found.append(weights)
    return tuple(found)
