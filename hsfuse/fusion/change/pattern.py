"""A pattern of change that a whole scene shares, in an amplitude of its own at every place.

What a season does to a pixel follows from the pixel's colours, the same way all over a scene; how far it has gone
differs from field to field. So the difference between what the HSI shows and what the guide shows is
``sum_j (base_bj + t(x) change_bj) f_j(guide(x))``: functions f of the guide's colours, coefficients of the whole scene,
and one amplitude t that varies smoothly. Small windows tell t, since all bands and only one number share their pixels.

Coefficients and amplitude are found in turn by least squares (J. B. Kruskal, Three-way arrays, Linear Algebra Appl. 18,
1977: alternating least squares). The functions are taken of the fine pixels and blurred as the HSI blurs: functions of
the blurred guide would be something else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hsfuse.degrade.windows import row_parts
from hsfuse.fusion.change.response import Response

FloatArray = NDArray[np.float64]
FloatCube = NDArray[np.float32]

_MOST_BANDS = 4
"""Bands that are multiplied by each other, spread over the guide's: the number of products grows as their square."""
_WINDOW_PX, _RIDGE = 0.7, 0.1
"""Width of the amplitude's window (standard deviation, HSI pixels) and its ridge in pseudo-pixels. On nine tuning cubes
with seasons 1.0 leaves 0.2 dB more error in the guide."""
_START_PX = 2.0
_COEFFICIENT_RIDGE = 3e-3
_ROUNDS = 5
_MOST_LOST = 0.5
"""Share of the pixels that coefficients may take from the degrees of freedom."""
_SAMPLE = 200_000
"""Fine pixels that means and spreads of the bands are taken from, at least."""
_BLOCK_PX, _CONTEXT_PX = 64, 8
"""Rows of the coarse grid that are worked on at a time, and rows beside them that their blur looks at."""


@dataclass(frozen=True)
class ColourFunctions:
    """Functions of a guide's colours: a constant, its bands, and their products by pairs.

    Attributes
    ----------
    mean, spread
        Of every band, shape (msi band,).
    pairs
        Bands that are multiplied.
    """

    mean: FloatCube
    spread: FloatCube
    pairs: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, guide: FloatCube) -> ColourFunctions:
        """Scale the functions to a guide, shape (msi band, row, col)."""
        step = max(int(np.sqrt(guide[0].size / _SAMPLE)), 1)
        some = guide[:, ::step, ::step].reshape(len(guide), -1).astype(np.float64)
        chosen = np.unique(np.linspace(0, len(guide) - 1, min(len(guide), _MOST_BANDS)).round().astype(int))
        spread = np.maximum(some.std(axis=1), 1e-9)
        pairs = tuple((int(i), int(j)) for i in chosen for j in chosen if i <= j)
        return cls(some.mean(axis=1).astype(np.float32), spread.astype(np.float32), pairs)

    @property
    def count(self) -> int:
        """How many functions there are."""
        return 1 + len(self.mean) + len(self.pairs)

    def _scaled(self, guide: NDArray[np.floating]) -> FloatCube:
        return np.asarray((guide - self.mean[:, None, None]) / self.spread[:, None, None], np.float32)

    def images(self, guide: FloatCube) -> FloatCube:
        """Return the functions of a part of the guide, shape (function, row, col)."""
        z = self._scaled(guide)
        return np.stack([np.ones_like(z[0]), *z, *(z[i] * z[j] for i, j in self.pairs)])

    def blurred(self, guide: FloatCube, low: NDArray[np.floating], response: Response) -> FloatCube:
        """Return the functions as the HSI blurs them, shape (function, row, col) on the coarse grid.

        ``low`` is the guide as the HSI blurs it, shape (msi band, row, col).
        """
        ratio, rows, lead = response.ratio, low.shape[1], 1 + len(low)
        out = np.ones((self.count, *low.shape[1:]), np.float32)
        out[1:lead] = self._scaled(low)
        for top in range(0, rows, _BLOCK_PX):
            first, end = max(top - _CONTEXT_PX, 0), min(top + _BLOCK_PX, rows)
            z = self._scaled(guide[:, first * ratio : (end + _CONTEXT_PX) * ratio])
            products = np.stack([z[i] * z[j] for i, j in self.pairs])
            out[lead:, top:end] = response.down(products)[:, top - first : end - first]
        return out


@dataclass(frozen=True)
class AmplitudeScale:
    """What amplitudes have in common all over an image.

    Attributes
    ----------
    ridge
        Power that counts beside that of a window.
    mean
        The scene's own amplitude, which they are drawn towards.
    lost
        Share of the pixels that the coefficients take from the degrees of freedom.
    """

    ridge: float
    mean: float
    lost: float

    @classmethod
    def of(cls, power: float, product: float, weight: FloatArray, functions: int) -> AmplitudeScale:
        """Return it by sums of the power and of the products that :meth:`ScenePattern.amplitude` windows."""
        total = float(weight.sum())
        ridge = _RIDGE / (2.0 * np.pi * _WINDOW_PX**2) * max(power / total, 1e-20)
        return cls(ridge, product / max(power, 1e-20), min(2.0 * functions / max(total, 1.0), _MOST_LOST))


@dataclass(frozen=True)
class ScenePattern:
    """Coefficients of the whole scene.

    Attributes
    ----------
    functions
        Of the guide's colours.
    base, change
        Coefficients, shape (function, msi band).
    """

    functions: ColourFunctions
    base: FloatArray
    change: FloatArray

    @classmethod
    def learn(
        cls, functions: ColourFunctions, images: FloatCube, wanted: FloatArray, noise: FloatArray, weight: FloatArray
    ) -> ScenePattern:
        """Find the coefficients.

        Parameters
        ----------
        functions
            What the images are.
        images
            The functions as the HSI blurs them, shape (function, row, col).
        wanted
            What the HSI shows less the guide, shape (msi band, row, col).
        noise
            Variance that differences are measured in, shape (msi band,).
        weight
            Trust in each pixel, shape (row, col).
        """
        shape, level = weight.shape, np.sqrt(noise)[:, None]
        f, y = images.reshape(len(images), -1).astype(np.float64), wanted.reshape(len(wanted), -1)
        size = np.sqrt(np.maximum((f**2).mean(axis=1), 1e-20))
        f, w = f / size[:, None], weight.ravel()

        def coefficients(*amplitudes: FloatArray) -> FloatArray:
            z = np.concatenate([f, *(amplitude * f for amplitude in amplitudes)])
            gram = (z * w) @ z.T
            loading = _COEFFICIENT_RIDGE * np.diag(gram) + 1e-9 * np.trace(gram) / len(gram)
            return np.asarray(np.linalg.solve(gram + np.diag(loading), (z * w) @ y.T))

        # The start: how the bands' gains differ from place to place, along the direction in which they differ most.
        left = (y - coefficients().T @ f) / level
        gains = np.stack([
            gaussian_filter((one * f[k] * w).reshape(shape), _START_PX, mode="constant").ravel()
            for one in left for k in range(len(y) + 1)
        ])  # fmt: skip
        gains -= gains.mean(axis=1, keepdims=True)
        _, vectors = np.linalg.eigh(gains @ gains.T)
        amplitude = vectors[:, -1] @ gains
        for _ in range(_ROUNDS):
            amplitude = (amplitude - amplitude.mean()) / max(float(amplitude.std()), 1e-12)
            found = coefficients(amplitude) / np.tile(size, 2)[:, None]
            pattern = cls(functions, found[: len(f)], found[len(f) :])
            amplitude = pattern.amplitude(images, wanted, noise, weight)[0].ravel()
        return pattern

    def amplitude_scale(
        self, images: FloatCube, seen: FloatArray, guide: FloatArray, noise: FloatArray, weight: FloatArray
    ) -> AmplitudeScale:
        """Look at all of an image, some rows at a time; what the HSI shows and the guide, else as :meth:`learn`."""
        power = product = 0.0
        for rows in row_parts(len(weight), _BLOCK_PX):
            left, whole = self._parts(images[:, rows], seen[:, rows] - guide[:, rows])
            some = whole / noise[:, None, None] * weight[rows]
            power, product = power + float((some * whole).sum()), product + float((some * left).sum())
        return AmplitudeScale.of(power, product, weight, len(images))

    def _parts(self, images: FloatCube, wanted: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What the base leaves, and what an amplitude of 1 adds, shape (msi band, row, col)."""
        left = wanted - np.tensordot(self.base.T, images, axes=1)
        return left, np.tensordot(self.change.T, images, axes=1)

    def amplitude(
        self, images: FloatCube, wanted: FloatArray, noise: FloatArray, weight: FloatArray,
        scale: AmplitudeScale | None = None,
    ) -> tuple[FloatArray, FloatArray]:  # fmt: skip
        """Find how far the change has gone; parameters as in :meth:`learn`.

        ``scale`` is that of all of an image that this is a part of; None: this is all.

        Returns
        -------
        amplitude : numpy.ndarray
            Shape (row, col).
        error : numpy.ndarray
            Leave-one-out residuals, shape (msi band, row, col).
        """
        left, whole = self._parts(images, wanted)
        power = (whole**2 / noise[:, None, None]).sum(axis=0) * weight
        product = (whole * left / noise[:, None, None]).sum(axis=0) * weight
        if scale is None:
            scale = AmplitudeScale.of(float(power.sum()), float(product.sum()), weight, len(images))
        ridge = scale.ridge
        below = gaussian_filter(power, _WINDOW_PX, mode="constant") + ridge
        above = gaussian_filter(product, _WINDOW_PX, mode="constant") + ridge * scale.mean
        impulse = np.zeros((25, 25))
        impulse[12, 12] = 1.0
        own = float(gaussian_filter(impulse, _WINDOW_PX, mode="constant")[12, 12])
        others = (above - own * product) / np.maximum(below - own * power, ridge)
        return above / below, (left - others * whole) / (1.0 - scale.lost)

    def along(self, direction: FloatArray) -> ScenePattern:
        """Return the pattern of the sum of the bands with factors, shape (msi band,), as one band."""
        return ScenePattern(self.functions, self.base @ direction[:, None], self.change @ direction[:, None])

    def add_to(self, corrected: FloatCube, guide: FloatCube, share: FloatCube, amplitude: FloatCube) -> None:
        """Add the correction to a guide, in place.

        Parameters
        ----------
        corrected, guide
            What is added to, shape (band, row, col), and the guide that it follows from, shape (msi band, row, col).
        share, amplitude
            How much of the correction is wanted, and that times its amplitude, shape (row, col) on the fine grid.
        """
        base, change = (part.T.astype(np.float32) for part in (self.base, self.change))
        for top in range(0, guide.shape[1], _BLOCK_PX):
            part = slice(top, top + _BLOCK_PX)
            images = self.functions.images(guide[:, part])
            for weight, coefficients in ((share, base), (amplitude, change)):
                corrected[:, part] += weight[part] * np.tensordot(coefficients, images, axes=1)
