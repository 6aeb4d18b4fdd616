"""Small random scenes for training networks: quick to draw, each with its own spectra, scale and place."""

from __future__ import annotations

import numpy as np
from rasterio.crs import CRS

from hsfuse.errors import UsageError
from hsfuse.grid import Grid
from hsfuse.simulate.endmembers import Endmembers
from hsfuse.simulate.landscape import SLOTS, Landscape
from hsfuse.simulate.scene import Truth


def vary_spectra(kinds: Endmembers, rng: np.random.Generator, *, variability: float = 0.06) -> Endmembers:
    """Give spectra the differences that surfaces of one kind have in nature.

    Each spectrum is blended with another of its kind from the whole library and multiplied with a smooth random
    curve.

    Parameters
    ----------
    kinds
        Spectra to start from.
    rng
        Source of randomness.
    variability
        Relative standard deviation of the curve.
    """
    library = Endmembers.load()
    spectra = kinds.reflectance.copy()
    position = np.linspace(-1.0, 1.0, kinds.wavelength_nm.size)
    basis = np.polynomial.chebyshev.chebvander(position, 5) / np.sqrt(np.arange(1.0, 7.0))
    for row, group in enumerate(kinds.group):
        other = library.reflectance[rng.choice(library.of(group))]
        share = rng.uniform(0.0, 0.5)
        curve = basis @ rng.normal(0.0, variability, basis.shape[1])
        # The place of the red edge and of other steep flanks moves by a few nanometres too.
        moved = np.interp(kinds.wavelength_nm, kinds.wavelength_nm + rng.normal(0.0, 3.0), spectra[row])
        spectra[row] = np.clip(((1.0 - share) * moved + share * other) * np.exp(curve), 0.001, 0.98)
    return Endmembers(kinds.wavelength_nm, spectra, kinds.group, kinds.name)


def training_scene(
    seed: int,
    size_px: int | tuple[int, int] = 192,
    ratio: int = 3,
    *,
    pixel_m: tuple[float, float] = (6.0, 16.0),
    variability: float = 0.06,
) -> Truth:
    """Draw a small random scene.

    Parameters
    ----------
    seed
        Equal arguments give equal scenes.
    size_px
        Side, or (rows, cols), in fine pixels: multiples of ``ratio``.
    ratio
        Fine pixels in a coarse one.
    pixel_m
        Range of the ground size of a fine pixel; parcels and houses get smaller or larger with it.
    variability
        See :func:`vary_spectra`.

    Returns
    -------
    Truth
        ``truth.reflectance(bands, truth.grid.full)`` is the cube, ``truth.response`` the multispectral image.

    Raises
    ------
    UsageError
        The size is not a multiple of the ratio.
    """
    height, width = (size_px, size_px) if isinstance(size_px, int) else size_px
    if ratio < 1 or height % ratio or width % ratio or min(height, width) < 16:
        raise UsageError(
            f"A training scene of {height} x {width} pixels does not work: both need to be multiples of the ratio "
            f"{ratio} and 16 or more."
        )
    rng = np.random.default_rng([seed, 0x7EA1])
    pixel = float(rng.uniform(*pixel_m))
    # A window of a larger scene: not every window has a town or a river.
    outer = (height + height // 2, width + width // 2)
    landscape = Landscape(outer, pixel_m=pixel, seed=int(rng.integers(1 << 31)))
    row0, col0 = int(rng.integers(outer[0] - height)), int(rng.integers(outer[1] - width))
    strip = landscape.strip(row0, row0 + height)
    cols = slice(col0, col0 + width)
    grid = Grid.from_origin(CRS.from_epsg(32632), 500_000.0, 5_000_000.0, pixel, height, width)
    index, weight = (np.ascontiguousarray(part[:, :, cols]).reshape(SLOTS, height, width)
                     for part in (strip.index, strip.weight))  # fmt: skip
    return Truth(
        grid,
        vary_spectra(landscape.endmembers, rng, variability=variability),
        index,
        weight,
        np.ascontiguousarray(strip.shade[:, cols]),
        np.ascontiguousarray(strip.label[:, cols]),
        facts={"seed": seed, "ratio": ratio},
    )
