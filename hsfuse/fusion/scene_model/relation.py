"""How the guide follows from the HSI: a regression that ground which differs between the two images cannot bend.

``msi_b = a_b(x) [gain_b srf_b hsi + d_b' u + const_b] + b_b(x) + r_b``: the spectral responses with a gain where they
are known, a ridge regression on the signal components ``u``, and, where wanted, a smooth field of gain a and offset b
(a linear polynomial, then Gaussian windows): haze, calibration, sun angle.

Iteratively reweighted least squares: residuals are standardised by their variance (a floor plus a share of the local
texture) and decorrelated; Student weights come first, Tukey's at the end (P. W. Holland, R. E. Welsch, Robust
regression using iteratively reweighted least-squares, Commun. Stat. A6, 1977). The start is each band's median ratio
to what the responses predict, with a model error of some per cent: half of the ground cannot move it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.special import gammaincinv

from hsfuse.fusion.scene_model.pair import CoarsePair, FloatArray, GuideRelation
from hsfuse.fusion.scene_model.reweighting import MOST_SAMPLES, STUDENT_SCALE, Reweighted
from hsfuse.parallel import do_all, side_by_side

OUTLIER_DISTANCE = 60.0
"""Squared distance from which a pixel is a candidate for foreign ground."""
_FIELD_ROUNDS: tuple[int, ...] = (8, 6, 4, 4)
_PLAIN_ROUNDS: tuple[int, ...] = (8, 6, 6)
_LARGE_PX, _BLOCK_PX, _BLOCK_PIXELS = 120_000, 64, 50_000
"""Scenes of more pixels start from the relation of blocks of this side, so many pixels in all."""
_PART_PX = 1 << 16
"""Pixels of a large scene that are predicted at a time."""
_LOOKS = 2
"""Steps of a round in which texture is looked at anew; later ones hardly change it."""
_WARM_ROUNDS: tuple[int, ...] = (1, 2)
_WARM_FIELD_ROUNDS: tuple[int, ...] = (2, 1, 1, 2)


def relate(
    pair: CoarsePair,
    msi: NDArray[np.floating],
    *,
    field: bool = False,
    nuisance: FloatArray | None = None,
    start: FloatArray | None = None,
    threads: int = 1,
    spacing: int = 1,
) -> GuideRelation:
    """Regress the MSI at low resolution on the HSI.

    Parameters
    ----------
    pair
        The HSI's side.
    msi
        Shape (msi band, row, col).
    field
        Fit a smooth gain and offset too.
    nuisance
        Further regressors of each band, shape (msi band, regressor, row, col); they do not count as ``seen``.
    start
        :func:`first_weights` of the pair, where they are known already.
    threads
        How many work side by side.
    spacing
        HSI pixels between neighbours of both images, where these were thinned out.
    """
    measured: FloatArray = np.asarray(msi, np.float64)
    if nuisance is None and start is None:
        start = first_weights(pair, measured, threads)
    if start is None:
        rounds = _FIELD_ROUNDS if field else _PLAIN_ROUNDS
    else:
        rounds = _WARM_FIELD_ROUNDS if field else _WARM_ROUNDS
    with Reweighted(pair, measured, nuisance, start, threads, spacing=spacing) as solver:
        for number, steps in enumerate(rounds):
            last = number == len(rounds) - 1
            for step in range(steps):
                solver.fit(polynomial=field)
                solver.reweight(hard=last, look=step < _LOOKS)
            if field:
                solver.absorb_polynomial()
                if not last:
                    solver.absorb_windows()
        return solver.result()


def some_blocks(shape: tuple[int, int]) -> Callable[[NDArray[Any]], NDArray[Any]] | None:
    """Return what stacks a few blocks of a large image (..., row, col) one above the other; None for small ones."""
    height, width = shape
    if height * width <= _LARGE_PX:
        return None
    rows, cols = (sorted({*range(0, max(size - _BLOCK_PX, 0) + 1, _BLOCK_PX)}) for size in (height, width))
    places = [(row, col) for row in rows for col in cols]
    wanted = max(_BLOCK_PIXELS // _BLOCK_PX**2, 1)
    places = [places[k] for k in np.unique(np.linspace(0, len(places) - 1, wanted).round().astype(int))]

    def stacked(image: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([image[..., r : r + _BLOCK_PX, c : c + _BLOCK_PX] for r, c in places], axis=-2)

    return stacked


def first_weights(pair: CoarsePair, msi: FloatArray, threads: int = 1) -> FloatArray | None:
    """Weights of all pixels by the relation of a few blocks; None where these hold too little, and of small scenes.

    The coefficients of a few blocks say which pixels of a large scene to trust; two steps of the iteration do the rest.
    """
    stacked = some_blocks(pair.valid.shape)
    if stacked is None:
        return None
    part = CoarsePair(
        stacked(pair.components), None if pair.predicted is None else stacked(pair.predicted), pair.level,
        np.asarray(stacked(pair.valid), dtype=np.bool_),
    )  # fmt: skip
    if part.valid.sum() < MOST_SAMPLES // 8:
        return None
    found = relate(part, stacked(msi), threads=threads)
    ok, flat = pair.valid, pair.components.reshape(len(pair.components), -1)
    places = [slice(start, start + _PART_PX) for start in range(0, flat.shape[1], _PART_PX)]
    distance, left = np.zeros(ok.shape), np.empty((len(msi), ok.size))

    def unexplained(part: slice) -> None:
        left[:, part] = msi.reshape(len(msi), -1)[:, part] - found.synthesis @ flat[:, part]

    def spread_out(band: int) -> FloatArray:
        """Square of what a band leaves, in units of what it leaves mostly."""
        own = left[band].reshape(ok.shape)
        own -= np.median(own[ok])
        spread = 1.48 * np.median(np.abs(own[ok]))
        return np.asarray(own**2 / np.maximum(spread, 1e-9) ** 2)

    do_all(unexplained, places, threads)
    for square in side_by_side(spread_out, range(len(msi)), threads):
        distance += square
    # The lower quartile of the chi-squared distribution is twice that of the gamma distribution.
    distance /= max(float(np.quantile(distance[ok], 0.25)) / (2.0 * gammaincinv(len(msi) / 2.0, 0.25)), 1e-12)
    return np.asarray(1.0 / (1.0 + distance / STUDENT_SCALE) ** 2)


def smoothed(x: FloatArray, sigma: float) -> FloatArray:
    """Gaussian of the last two axes, edges reflected."""
    return np.asarray(gaussian_filter(x, (0,) * (x.ndim - 2) + (sigma, sigma), mode="reflect"))
