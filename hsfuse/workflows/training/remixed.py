"""Training scenes with the structure of measured images and other materials, made when they are needed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from hsfuse.config import TrainConfig
from hsfuse.degrade import Psf
from hsfuse.errors import InputError
from hsfuse.simulate.remix import remix
from hsfuse.spectral import BandTable
from hsfuse.training.scenes import SceneEntry, TrainingScene
from hsfuse.workflows.training.responses import guide_weights

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
    weights = guide_weights(bands, names)
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
