"""Scenes that the refinement of a corrected guide is trained on: cubes of training sites, and Sentinel-2 images.

Sites with plants are few among the cubes. Two Sentinel-2 images have fields and forests; their spectra are made up, by
a regression on the colours of the training cubes, for only the bands of the guide matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from quality_scenes import ReferenceScene, prisma_like_bands, sentinel2_responses
from real_pairs import split_scenes

from hsfuse.spectral import SpectralResponse, srf_weights

FloatArray = NDArray[np.float64]

IMAGES = {
    "s2_l2a_10m": ("s2_l2a_10m_4band_300x300.tif",),
    "bigearthnet": tuple(f"bigearthnet_s2a_36_85/*{band}*.tif" for band in ("B02", "B03", "B04", "B08")),
}
"""Files below ``sentinel2`` by site: blue, green, red and near infrared, digital numbers of 10,000 per unit."""
BRIGHTER, DARKEST = 2.0, 0.002
"""What they are multiplied by, to be as bright as the cubes, and the least reflectance."""
PART_PX = 150
SPECTRA = 3000
"""Of each cube that the regression is told by."""
BANDS = (1, 2, 3, 4, 5, 6, 8, 10)
BANDS_OFTEN = (0.04, 0.08, 0.2, 0.3, 0.15, 0.1, 0.07, 0.06)
"""How many bands other sensors have, and how often."""
LEAST_APART_NM = 25.0
LEAST_LEVEL = 0.01
"""Mean reflectance of each band, at least."""


def training_scenes(data: Path, wanted: Sequence[str], least_px: int) -> list[tuple[str, ReferenceScene]]:
    """Return the scenes of at least so many pixels a side, with their sites."""
    cubes = list(split_scenes("train", data, wanted))
    scenes = [(site, scene) for site, scene in cubes if min(scene.cube.shape[1:]) >= least_px]
    return scenes if wanted else [*scenes, *_sentinel2_scenes(data, [scene for _, scene in cubes])]


def _sentinel2_scenes(data: Path, cubes: Sequence[ReferenceScene]) -> Iterator[tuple[str, ReferenceScene]]:
    bands = prisma_like_bands()
    colours, spectra = [], []
    for scene in cubes:
        if len(scene.bands.centre_nm) != len(bands.centre_nm):
            continue
        flat = scene.msi.reshape(len(scene.msi), -1).astype(np.float64)
        some = np.random.default_rng(0).choice(flat.shape[1], min(SPECTRA, flat.shape[1]), replace=False)
        colours.append(_products(flat[:, some]))
        spectra.append(scene.cube.reshape(len(scene.cube), -1)[:, some])
    x, y = np.concatenate(colours, axis=1), np.concatenate(spectra, axis=1)
    gram = x @ x.T
    coefficients = np.linalg.solve(gram + 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram)), x @ y.T)
    for site, names in IMAGES.items():
        parts = []
        for name in names:
            with rasterio.open(next((data / "sentinel2").glob(name))) as file:
                parts.append(file.read().astype(np.float64))
        image = np.clip(BRIGHTER * np.concatenate(parts) / 1e4, DARKEST, 1.0)
        for top in range(0, image.shape[1], PART_PX):
            for left in range(0, image.shape[2], PART_PX):
                part = image[:, top : top + PART_PX, left : left + PART_PX]
                cube = np.maximum(np.tensordot(coefficients.T, _products(part), axes=1), 1e-3).astype(np.float32)
                name = f"{site}_{top}_{left}"
                yield (
                    site,
                    ReferenceScene.make(name, cube, bands, sentinel2_responses(data), target=None, file=name),
                )


def _products(colours: FloatArray) -> FloatArray:
    """A constant, colours and their products by pairs, shape (function, ...)."""
    pairs = [colours[i] * colours[j] for i in range(len(colours)) for j in range(i + 1)]
    return np.stack([np.ones_like(colours[0]), *colours, *pairs])


def other_sensor(scene: ReferenceScene, rng: np.random.Generator) -> ReferenceScene | None:
    """Return a scene as a multispectral sensor of random bands sees it; None where the cube lacks some of them."""
    nm = scene.bands.centre_nm
    low, high = float(nm.min()) + 15.0, float(nm.max()) - 15.0
    if rng.random() < 0.6:
        high = min(high, 1300.0)
    count = int(rng.choice(BANDS, p=BANDS_OFTEN))
    centres = np.sort(rng.uniform(low, high, (20, count)), axis=1)
    apart = np.diff(centres, axis=1).min(axis=1, initial=np.inf) > LEAST_APART_NM
    responses = []
    for number, centre in enumerate(centres[int(apart.argmax())]):
        around = np.arange(np.floor(centre - 60.0), centre + 61.0)
        width = rng.uniform(10.0, 25.0)
        curve = np.exp(-0.5 * ((around - centre) / width) ** 2)
        responses.append(SpectralResponse(f"X{number}", around, curve, "random"))
    weights = srf_weights(scene.bands, responses)
    if (weights.sum(axis=1) <= 0.0).any():
        return None
    msi = np.tensordot(weights, scene.cube, axes=1).astype(np.float32)
    if (msi.std(axis=(1, 2)) <= 0.0).any() or (msi.mean(axis=(1, 2)) < LEAST_LEVEL).any():
        return None
    return replace(scene, msi=msi, srf=weights, responses=tuple(responses))
