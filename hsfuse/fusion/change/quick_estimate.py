"""A quick estimate of what a fusion will make of a scene: its strongest directions only, before anything is fused.

How wrong a fusion is follows best from what it makes: from the contrast of its spectra, their brightness, how far they
depart from what their colours say, and from how well such material could be told at low resolution. An estimate of some
directions that hold nearly all of the variance shows these nearly as well as the result itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade.windows import row_parts, rows_around, rows_inside
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.change.typical_spectra import TypicalSpectra
from hsfuse.fusion.classical.statistics import Subspace
from hsfuse.fusion.gaussian import gaussian
from hsfuse.fusion.neighbours import over_neighbours
from hsfuse.fusion.scene_model.pair import CoarsePair
from hsfuse.parallel import do_all, side_by_side, threads_for

FloatArray = NDArray[np.float64]
FloatImages = NDArray[np.float32]

OF_NOISE = 0.1
"""Share of the HSI's noise that the signal subspace holds, about."""
_DIRECTIONS, _MATERIAL_DIRECTIONS = 6, 4
_SOFT_PX = 0.7
_FLOOR, _RIDGE = 1e-6, 0.05
_ENOUGH = 100_000
"""Pixels that regressions follow from, about: copies of a whole scene would be large."""
_PART_ROWS, _MOST_THREADS = 64, 8
"""HSI rows that are looked at at a time, side by side."""
_SEEN_APART = 0.5
"""Share of what a pixel has beyond its neighbours that is lost if it is interpolated and blurred again, about."""
_FARTHEST = 3.0
"""Of a material from the scene's mean, standard deviations: a square beyond it would tell too much."""


@dataclass(frozen=True)
class QuickEstimate:
    """How the strongest directions of the HSI follow from the guide; squares are means over the HSI's bands.

    Attributes
    ----------
    images
        HSI along its strongest directions, shape (direction, row, col).
    slope
        Their detail from that of the guide, shape (direction, msi band).
    by_colour, at_no_colour
        What a pixel's colours say without its surroundings, shapes (direction, msi band) and (direction,).
    centre
        Mean of the HSI along the directions, shape (direction,).
    aside
        Mean square of the rest of the HSI's mean.
    spread
        Standard deviation of the first directions, which tell materials, shape (direction,).
    material
        Log of the squared error that a material has at low resolution, coefficients of :func:`_squares`.
    unexplained
        Squared difference of the HSI and its neighbours that the guide's does not explain, shape (row, col): what is
        missing at this resolution is like what will be missing at the next finer one.
    typical
        Mean log of it over the scene.
    unlike
        Squared difference of the images and what their colours say, shape (row, col).
    noise_variance
        Of the HSI, mean over the bands.
    spectra
        What the scene is made of.
    """

    images: FloatImages
    slope: FloatArray
    by_colour: FloatArray
    at_no_colour: FloatArray
    centre: FloatArray
    aside: float
    spread: FloatArray
    material: FloatArray
    unexplained: FloatImages
    typical: float
    unlike: FloatImages
    noise_variance: float
    spectra: TypicalSpectra

    @classmethod
    def of(cls, pair: CoarsePair, seen: FloatArray, space: Subspace) -> QuickEstimate:
        """Fit to the HSI's components, and to the guide as the HSI shows it (``seen``)."""
        noise = float((space.noise**2).mean())
        slope, unexplained = _explained(pair, seen, space.back)
        places = np.flatnonzero(pair.valid)
        places = places[:: max(places.size // _ENOUGH, 1)]

        def some(image: NDArray[np.floating]) -> FloatArray:
            return np.asarray(image.reshape(-1, pair.valid.size)[:, places], np.float64)

        root = space.back / np.sqrt(len(space.back))
        components = np.asarray(pair.components, np.float32)
        covariance = root @ np.atleast_2d(np.cov(some(components))) @ root.T
        directions = np.linalg.eigh(covariance)[1][:, ::-1][:, :_DIRECTIONS]
        turn = directions.T @ root
        images = np.tensordot(turn.astype(np.float32), components, axes=1)
        mean = space.mean / np.sqrt(len(space.mean))
        centre = directions.T @ mean
        aside = max(float(mean @ mean - centre @ centre), 0.0)
        colours = some(seen).mean(axis=1)
        by_colour = _regressed(some(images), some(seen) - colours[:, None])
        at_no_colour = -by_colour @ colours
        unlike = np.zeros(pair.valid.shape, np.float32)
        # One direction at a time: images of a whole scene are large.
        for image, weights, constant in zip(images, by_colour, at_no_colour, strict=True):
            unlike += (image - np.tensordot(weights, seen, axes=1) - constant).astype(np.float32) ** 2
        materials = some(images[:_MATERIAL_DIRECTIONS])
        spread = materials.std(axis=1) + 1e-12
        squares = _squares(materials, spread).astype(np.float64)
        wanted = np.log(some(unexplained)[0] + 2.0 * OF_NOISE * noise)
        ridge = _RIDGE * np.diag([0.0, *np.ones(len(squares) - 1)])
        material = np.linalg.solve(squares @ squares.T / places.size + ridge, squares @ wanted / places.size)
        return cls(
            images, turn @ slope, by_colour, at_no_colour, centre, aside, spread, material, unexplained,
            float(wanted.mean()), unlike, noise, TypicalSpectra.of(some(images)),
        )  # fmt: skip

    def features(self, interpolated: FloatImages, guide: FloatImages, seen: FloatImages) -> list[FloatImages]:
        """Logs of squares that the error of a block follows from, each of shape (row, col) on the fine grid.

        Parameters
        ----------
        interpolated, seen
            The images, and what the HSI shows of the guide's bands, on the fine grid.
        guide
            The repaired guide, shape (msi band, row, col).

        Returns
        -------
        list of numpy.ndarray
            Brightness; contrast; departure from what the colours say; what the material's error was; and, which is no
            square, how rare the spectrum is.
        """
        slope = self.slope.astype(np.float32)
        estimate = interpolated + np.tensordot(slope, guide - seen, axes=1)
        floor = np.float32(OF_NOISE * self.noise_variance)
        bright = (estimate + self.centre.astype(np.float32)[:, None, None]) ** 2
        off = estimate - np.tensordot(self.by_colour.astype(np.float32), guide, axes=1)
        off -= self.at_no_colour.astype(np.float32)[:, None, None]
        square = np.zeros(guide.shape[1:], np.float32)
        for image in estimate:
            square += over_neighbours(image) ** 2
        return [
            np.log(bright.sum(axis=0) + np.float32(self.aside) + floor),
            np.log(gaussian(square, _SOFT_PX) + floor),
            np.log((off**2).sum(axis=0) + floor),
            self._of_material(estimate),
            self.spectra.rareness(estimate),
        ]

    def inconsistency(self, seen: FloatArray, shown: FloatArray) -> FloatImages:
        """Squared difference of the HSI and of what it would show of the estimate, shape (row, col) at low resolution.

        A fusion takes it out; how far it had to go tells what it had to guess.

        Parameters
        ----------
        seen
            What the HSI shows of the guide's bands, shape (msi band, row, col).
        shown
            The repaired guide as the HSI would see it, the same shape.
        """
        square = np.zeros(self.images.shape[1:], np.float32)

        def measure(part: slice) -> None:
            wide = rows_around(part, 1, len(square))
            inner = rows_inside(part, wide)
            for image, weights in zip(self.images, self.slope, strict=True):
                rest = _SEEN_APART * over_neighbours(image[wide] - np.tensordot(weights, seen[:, wide], axes=1))[inner]
                rest += np.tensordot(weights, seen[:, part] - shown[:, part], axes=1)
                square[part] += (rest**2).astype(np.float32)

        do_all(measure, row_parts(len(square), _PART_ROWS), threads_for(_MOST_THREADS))
        return square

    def _of_material(self, estimate: FloatImages) -> FloatImages:
        near = _near(estimate[: len(self.spread)], self.spread)
        constant, linear, square = np.float32(self.material[0]), len(near), np.zeros((len(near), len(near)), np.float32)
        square[np.triu_indices(len(near))] = self.material[1 + linear :]
        told = np.tensordot(square, near, axes=1)
        told += self.material[1 : 1 + linear].astype(np.float32)[:, None, None]
        told *= near
        return np.asarray(told.sum(axis=0) + constant)

    def block(self, where: tuple[slice, slice], response: Response) -> FloatImages:
        """Return the images of a block on the fine grid."""
        return response.up_single(self.images[:, *where])


def _explained(pair: CoarsePair, seen: FloatArray, back: FloatArray) -> tuple[FloatArray, FloatImages]:
    """Regress what the components have beyond their neighbours on what the guide has; mean square that is left."""
    (height, width), rank, bands = pair.valid.shape, len(pair.components), len(seen)
    parts, threads = row_parts(height, _PART_ROWS), threads_for(_MOST_THREADS)

    def details(part: slice) -> tuple[FloatImages, FloatImages]:
        """What components and guide have beyond their neighbours in some rows."""
        wide = rows_around(part, 1, height)
        inner = rows_inside(part, wide)
        of_hsi = over_neighbours(np.asarray(pair.components[:, wide], np.float32))
        return of_hsi[:, inner], over_neighbours(seen[:, wide])[:, inner].astype(np.float32)

    def products(part: slice) -> tuple[FloatArray, FloatArray]:
        of_hsi, of_guide = (each[:, pair.valid[part]].astype(np.float64) for each in details(part))
        return of_guide @ of_guide.T, of_hsi @ of_guide.T

    inner, cross = np.zeros((bands, bands)), np.zeros((rank, bands))
    for own, other in side_by_side(products, parts, threads):
        inner += own
        cross += other
    inner += _FLOOR * max(float(np.trace(inner)), 1e-20) * np.eye(bands)
    slope = np.asarray(np.linalg.solve(inner, cross.T).T, np.float64)
    # Mean over the HSI's bands: the components' metric.
    values, vectors = np.linalg.eigh(back.T @ back / len(back))
    root = (vectors * np.sqrt(np.maximum(values, 0.0))).T
    left = np.zeros((height, width), np.float32)

    def measure(part: slice) -> None:
        of_hsi, of_guide = (each.reshape(len(each), -1) for each in details(part))
        rest = root.astype(np.float32) @ of_hsi
        rest -= (root @ slope).astype(np.float32) @ of_guide
        left[part] = np.einsum("kp,kp->p", rest, rest).reshape(-1, width)

    do_all(measure, parts, threads)
    return slope, left


def _regressed(images: FloatArray, regressors: FloatArray) -> FloatArray:
    """Least squares with a floor, shape (image, regressor)."""
    inner = regressors @ regressors.T
    inner += _FLOOR * max(float(np.trace(inner)), 1e-20) * np.eye(len(inner))
    return np.asarray(np.linalg.solve(inner, regressors @ images.T).T)


def _near(images: NDArray[np.floating], spread: FloatArray) -> FloatImages:
    """Images in units of their spread, bounded."""
    shape = (len(spread), *(1 for _ in images.shape[1:]))
    return np.asarray(np.clip(images / spread.astype(np.float32).reshape(shape), -_FARTHEST, _FARTHEST), np.float32)


def _squares(images: NDArray[np.floating], spread: FloatArray) -> FloatImages:
    """One, the images in units of their spread, and their products, shape (product, ...)."""
    near = _near(images, spread)
    products = [near[i] * near[j] for i in range(len(near)) for j in range(i, len(near))]
    return np.stack([np.ones_like(near[0]), *near, *products])
