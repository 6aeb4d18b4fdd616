"""Local correction of places: where little ground of a scene has turned.

Whether a correction is made (:mod:`hsfuse.fusion.change.local`) is judged over all of a scene: the few trees of a town
are lost in that sum, however far they have turned. Here the same regressions are made around ground that the guide
shows wrongly, without candidates for foreign ground, and are judged place by place: where the leave-one-out errors
do not fall, nothing changes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from hsfuse.degrade import windows
from hsfuse.fusion.change.blocks import BLOCK_PX, blocks, places_around, write_blocks
from hsfuse.fusion.change.local import Correction, local_affine, shares_by_error, window_mean
from hsfuse.fusion.change.response import Response
from hsfuse.parallel import side_by_side
from hsfuse.spilled import SpilledImages

FloatArray = NDArray[np.float64]
FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_FIRST, _OTHERS = (2.5, 0.03), ((1.5, 0.03), (4.0, 0.03))
"""Width of the window (standard deviation, HSI pixels) and ridge in pseudo-pixels: less than over a whole scene, for
what is found must be clear. The others are tried where the first is better than none: of most places it is not."""
_JUDGED_PX, _JUDGED_FAR_PX, _DECISIVENESS = 1.2, 5, 8.0
"""Width of the window that errors are judged in, how far it reaches, and how much the better candidate is preferred
there."""
_SUSPECT = 5.0
"""Error over the scene's median from which a place is looked at."""
_LEAST_GAIN = 0.7
"""Share of the error that a place's correction must not exceed."""
_NEAR_PX = 10
"""Around suspects, HSI pixels: what is corrected reaches four beyond them, and its errors are judged five farther."""
_NO_WEIGHT = 1e-9
_SOFT_PX = 0.7
"""Width of the border of what is corrected."""
_MOST_SHARE, _SHARE_RIDGE, _MOST_MORE, _SHARE_ROUNDS = 4.0, 4.0, 0.5, 3
"""How much more of a correction the pixels get that it corrects most; variances of the noise below which one is not
scaled; how far it is scaled in each of so many rounds."""
_SHARE_CONTEXT_PX = 20
"""HSI pixels around a block that these rounds look at."""


def correction_of_places(
    seen: FloatArray, guide: FloatArray, noise: FloatArray, weight: FloatArray, foreign: BoolArray, valid: BoolArray,
    looked: BoolArray, threads: int = 1,
) -> FloatCube | None:  # fmt: skip
    """Return the correction of the places of a guide at low resolution where it is clearly better than none.

    Parameters
    ----------
    seen
        What the HSI shows of the MSI bands, shape (msi band, row, col).
    guide
        The MSI at low resolution, the same shape.
    noise
        Variance that differences are measured in, shape (msi band,).
    weight
        Trust in each pixel, shape (row, col).
    foreign
        What may be foreign ground, the same shape: corrections are fitted without it. One that does not explain it too
        is no season, for that turns all ground of its colours.
    valid
        Pixels whose median error is the scene's, the same shape.
    looked
        Of these, what may be corrected.
    threads
        How many places are worked on side by side.

    Returns
    -------
    numpy.ndarray or None
        Matrix and constant at each pixel, shape (msi band, msi band + 1, row, col), zeros elsewhere; None where nothing
        is clearly better.
    """
    scale = noise[:, None, None]
    loss = ((seen - guide) ** 2 / scale).mean(axis=0)
    level = _SUSPECT * float(np.median(loss[valid])) if valid.any() else np.inf
    suspect = looked & (window_mean(loss * weight, _JUDGED_PX) > level * window_mean(weight, _JUDGED_PX))

    def one(place: tuple[windows.Window, windows.Window]) -> tuple[windows.Window, FloatCube | None]:
        read, core = place
        target, image, fitted = seen[:, *read], guide[:, *read], np.where(foreign[read], _NO_WEIGHT, weight[read])

        def judged(error: FloatArray) -> FloatArray:
            return window_mean((error**2 / scale).mean(axis=0) * weight[read], _JUDGED_PX)

        def around(steps: int) -> BoolArray:
            """All that what is looked at below depends on."""
            grown = binary_dilation(suspect[read], np.ones((3, 3), bool), iterations=steps)
            return np.asarray(grown, dtype=np.bool_)

        before, (_, error) = (
            judged(target - image),
            local_affine(target, image, fitted, *_FIRST, around(_JUDGED_FAR_PX)),
        )
        if not (suspect[read] & (judged(error) < _LEAST_GAIN * before)).any():
            return core, None
        near = around(_NEAR_PX)
        found = [local_affine(target, image, fitted, *candidate, near) for candidate in (_FIRST, *_OTHERS)]
        errors = np.stack([target - image, *(error for _, error in found)])
        share = shares_by_error(
            [(error**2 / scale).mean(axis=0) for error in errors], fitted, _JUDGED_PX, _DECISIVENESS
        )
        better = suspect[read] & (judged(np.einsum("kij,kbij->bij", share, errors)) < _LEAST_GAIN * before)
        if not better.any():
            return core, None
        grown = binary_dilation(better, np.ones((3, 3), bool)).astype(np.float64)
        share *= gaussian_filter(grown, _SOFT_PX, mode="constant")
        matrix = sum(part * each for part, (each, _) in zip(share[1:], found, strict=True))
        return core, np.asarray(matrix, np.float32)[:, :, *windows.inside(core, read)]

    whole: FloatCube | None = None
    for core, matrix in side_by_side(one, places_around(suspect), threads):
        if matrix is None:
            continue
        if whole is None:
            whole = np.zeros((len(guide), len(guide) + 1, *weight.shape), np.float32)
        whole[:, :, *core] = matrix
    return whole


def correct_places(
    guide: FloatCube, matrix: FloatCube, seen: FloatArray, low: FloatArray, noise: FloatArray, response: Response, *,
    concentrate: bool, threads: int = 1,
) -> None:  # fmt: skip
    """Add the correction of places to a guide, in place; what it does not reach stays as it is.

    Parameters
    ----------
    guide
        Shape (msi band, row, col) on the fine grid.
    matrix
        What :func:`correction_of_places` found.
    seen, low
        What the HSI shows of the MSI bands, and the guide at low resolution, shape (msi band, row, col).
    noise
        Variance that differences are measured in, shape (msi band,).
    response
        The HSI's response.
    concentrate
        Whether the correction is concentrated on the pixels that it corrects most; else it stays as colours tell it.
    threads
        How many blocks are worked on side by side.
    """
    level = np.sqrt(noise).astype(np.float32)[:, None, None]

    def correct(place: tuple[windows.Window, windows.Window]) -> tuple[windows.Window, FloatCube] | None:
        read, core = place
        part = matrix[:, :, *read]
        if not part.any():
            return None
        fine_read, fine_core = windows.finer(read, response.ratio), windows.finer(core, response.ratio)
        before = guide[:, *fine_read]
        images = SpilledImages(part.reshape(-1, *part.shape[2:]))
        amount = Correction(images, None, np.zeros(len(guide))).apply(before, response) - before
        if concentrate:
            amount = level * _concentrated(amount / level, (seen[:, *read] - low[:, *read]) / level, response)
        return fine_core, (before + amount)[:, *windows.inside(fine_core, fine_read)]

    found = side_by_side(correct, blocks(matrix.shape[2:], _SHARE_CONTEXT_PX), threads)
    write_blocks(guide, found, BLOCK_PX * response.ratio)


def _concentrated(amount: FloatCube, wanted: FloatArray, response: Response) -> FloatCube:
    """Give more of a correction to the pixels that it corrects most, as much in all as the HSI wants.

    A regression at low resolution gives every fine pixel its part by the colours of whole HSI pixels, in which a few
    turned pixels are mixed with others: these get too much, and those too little.

    Parameters
    ----------
    amount
        The correction in units of the noise, shape (msi band, row, col) on the fine grid.
    wanted
        What the HSI shows less the guide, in the same units, shape (msi band, row, col) on the coarse grid.
    response
        The HSI's response.
    """
    power = (amount**2).sum(axis=0)
    size = np.sqrt(power)
    around, squares = response.up_single(response.down(np.stack([size, power])))
    share = np.clip(size * around / (np.maximum(squares, 0.0) + 1.0), 0.0, _MOST_SHARE)
    amount = amount * share
    for _ in range(_SHARE_ROUNDS):
        low = response.down(amount)
        more = (low * (wanted - low)).sum(axis=0) / ((low**2).sum(axis=0) + _SHARE_RIDGE)
        amount *= 1.0 + np.clip(response.up_single(more[None])[0], -_MOST_MORE, _MOST_MORE)
    return amount
