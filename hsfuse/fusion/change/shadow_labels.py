"""Which fine pixels of the guide lie in a cast shadow whose light is known: a label for each of them.

With the light ``g`` by band the HSI shows ``B (m / (1 - c (1 - 1 / g)))`` of a guide m: B is its response, c is 1 in
shadow and 0 outside, blurred as the sun's disc and the MSI blur an edge. One label per fine pixel, of a known and large
effect in every band; and beside each other labels differ where the guide steps by just that light. Labels are found by
mean field annealing (D. Geiger, F. Girosi, Parallel and deterministic algorithms from MRFs, IEEE Trans. PAMI 13, 1991),
all pixels at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from hsfuse.fusion.change.matting import grown
from hsfuse.fusion.change.response import Response
from hsfuse.masks import expand

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_NEAR_PX, _LOOKED_PX = 2, 3
"""Growth of the candidates, HSI pixels: where labels are unknown, and where the HSI is looked at."""
_NEIGHBOURS = ((0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.7), (1, -1, 0.7))
_BORDER, _MOST_STEP = 3.0, 4.0
"""What a border costs, and a step of the guide across one or within shadow or light at most."""
_LEAST_STEP = 1e-5
_MODEL_ERROR, _LIGHT_ERROR = 0.01, 0.01
"""Error of the guide at low resolution in units of its bands' spread, and of what the light adds, relative."""
_ROBUSTNESS = 8.0
_HOT, _COLD, _DAMPING = 20.0, 0.5, 0.3
_DARK = 1e-3
_FARTHEST = 40.0
_REACH = 2.5
"""Of the blur of an edge, standard deviations."""
_TAIL, _SQUARE_TAIL = 1e-3, 1e-2
"""Weights of the HSI's blur and of its squares that are left out, relative to the largest: a thousandth of their sum
and half of the work."""


@dataclass(frozen=True)
class Light:
    """What a shadow lacks.

    Attributes
    ----------
    gain
        By which the guide must be multiplied in full shadow, shape (msi band,).
    softness_px
        Standard deviation of the blur of its edge, fine pixels.
    """

    gain: FloatArray
    softness_px: float = 0.0

    def factor(self, share: FloatArray) -> FloatArray:
        """By which the guide must be multiplied where it lies in shadow to some share, shape (..., msi band)."""
        return np.asarray(1.0 / (1.0 - share[..., None] * (1.0 - 1.0 / self.gain)))


@dataclass(frozen=True)
class _Neighbours:
    """Pairs of neighbours of which one is unlabelled, in one direction.

    Attributes
    ----------
    first, second
        Their numbers among the unlabelled pixels, -1 for others, shape (pair,).
    weight
        Of the pair.
    step
        Log of the first less that of the second, shape (msi band, pair).
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    weight: float
    step: FloatArray


class ShadowLabels:
    """A part of the scene whose shadows are looked for.

    Parameters
    ----------
    guide
        Shape (msi band, row, col) on the fine grid.
    seen, blurred, variance
        What the HSI shows, the guide at low resolution, and the variance of their difference on other ground, shape
        (msi band, row, col) on the coarse grid.
    candidates
        Coarse pixels that contradict each other, shape (row, col).
    power
        Variance of every MSI band over the scene, shape (msi band,).
    response
        The HSI's response.
    """

    def __init__(
        self, guide: FloatArray, seen: FloatArray, blurred: FloatArray, variance: FloatArray, candidates: BoolArray,
        power: FloatArray, response: Response,
    ) -> None:  # fmt: skip
        bands, *shape = guide.shape
        self._shape = (shape[0], shape[1])
        self.looked = np.flatnonzero(grown(candidates, _LOOKED_PX))
        self._ids = np.flatnonzero(expand(grown(candidates, _NEAR_PX), response.ratio))
        self._blur = _without_tails(response.sparse(candidates.shape, self.looked, self._ids), _TAIL)
        self._blur_t = self._blur.T.tocsr()
        self._soft: dict[float, tuple[sp.csr_matrix | None, sp.csr_matrix]] = {}

        def coarse(image: FloatArray) -> FloatArray:
            return np.ascontiguousarray(image.reshape(bands, -1)[:, self.looked].T)

        self._guide = np.ascontiguousarray(guide.reshape(bands, -1)[:, self._ids].T)
        self._blurred, self._wanted = coarse(blurred), coarse(seen - blurred)
        self._floor = coarse(variance) + _MODEL_ERROR**2 * power
        logs = np.log(np.maximum(guide, _DARK * np.sqrt(power)[:, None, None]))
        self._neighbours = _neighbours(logs, self._ids)
        usual = np.diff(logs, axis=2)
        self._usual = 2.0 * float(np.median((usual**2).mean(axis=0))) + _LEAST_STEP

    def misfit(self, labels: FloatArray, light: Light) -> FloatArray:
        """Squared error of the HSI, mean over the bands in units of their variance, shape (looked,)."""
        left = self._left(self._share(labels, light), light)
        return np.asarray((left**2 / self._variance(light)).mean(axis=1))

    def coverage(self, labels: FloatArray, light: Light) -> FloatArray:
        """How far each coarse pixel is covered, shape (looked,)."""
        return np.asarray(self._blur @ self._share(labels, light))

    def cost(self, labels: FloatArray, light: Light) -> float:
        """Robust sum of the misfits."""
        return float(np.log1p(self.misfit(labels, light) / _ROBUSTNESS).sum())

    def find(self, light: Light, start: FloatArray | None = None, *, rounds: int) -> FloatArray:
        """Label the fine pixels, 0 or 1, shape (row, col).

        Parameters
        ----------
        light
            What the shadows lack.
        start
            Labels to begin with, shape (row, col); None: any.
        rounds
            Steps of the annealing.
        """
        labels = np.full(self._ids.size, 0.5) if start is None else np.clip(start.ravel()[self._ids], 0.02, 0.98)
        variance, gain = self._variance(light), light.gain
        soft, square_t = self._softening(light.softness_px)
        whole = self._guide * (gain - 1.0)
        whole_square = whole**2
        alone, beside = self._border(np.log(gain))
        for temperature in np.geomspace(_HOT, _COLD, rounds):
            if soft is None:
                slope, added = whole, whole * labels[:, None]
            else:
                factor = light.factor(soft @ labels)
                slope, added = self._guide * factor**2 * (1.0 - 1.0 / gain), self._guide * (factor - 1.0)
            left = self._wanted - self._blur @ added
            precision = self._precision(left, variance)
            linear = _over_bands(slope, self._blur_t @ (precision * left))
            if soft is not None:
                linear = soft @ linear
            square = _over_bands(whole_square, square_t @ precision)
            # Of 1 over 0, all other labels as they are.
            energy = square * (0.5 - labels) - linear
            energy += alone + beside @ labels
            wanted = 1.0 / (1.0 + np.exp(np.clip(energy / temperature, -_FARTHEST, _FARTHEST)))
            labels = labels + _DAMPING * (wanted - labels)
        return self._image(np.asarray(labels > 0.5, np.float64))

    def share(self, labels: FloatArray, light: Light) -> FloatArray:
        """How far each fine pixel lies in shadow, 0 to 1, shape (row, col)."""
        return self._image(self._share(labels, light))

    def steps(self, labels: FloatArray, light: Light) -> FloatArray:
        """By what share of the light's logarithm the guide steps across each border of labels, shape (pair,)."""
        inside, lift = labels.ravel()[self._ids], np.log(light.gain)
        found = []
        for each in self._neighbours:
            both = (each.first >= 0) & (each.second >= 0) & (each.weight == 1.0)  # Those that share a side.
            darker = inside[each.second[both]] - inside[each.first[both]]
            found.append((darker * (lift @ each.step[:, both]) / (lift @ lift))[darker != 0.0])
        return np.concatenate(found)

    def products(self, labels: FloatArray, light: Light) -> FloatArray:
        """What a better gain of the light follows from: its change is a sum of products over one of squares.

        Parameters
        ----------
        labels, light
            Labels, and the light that they were found with.

        Returns
        -------
        numpy.ndarray
            Both sums, shape (2, msi band).
        """
        share = self._share(labels, light)
        left = self._left(share, light)
        precision = self._precision(left, self._variance(light))
        slope = self._blur @ (self._guide * share[:, None] * (light.factor(share) / light.gain) ** 2)
        return np.stack([(precision * slope * image).sum(axis=0) for image in (left, slope)])

    def _share(self, labels: FloatArray, light: Light) -> FloatArray:
        inside = labels.ravel()[self._ids]
        soft, _ = self._softening(light.softness_px)
        return np.asarray(inside if soft is None else soft @ inside)

    def _left(self, share: FloatArray, light: Light) -> FloatArray:
        return np.asarray(self._wanted - self._blur @ (self._guide * (light.factor(share) - 1.0)))

    def _variance(self, light: Light) -> FloatArray:
        return np.asarray(self._floor + (_LIGHT_ERROR * (light.gain - 1.0) * self._blurred) ** 2)

    def _precision(self, left: FloatArray, variance: FloatArray) -> FloatArray:
        inverse = 1.0 / variance
        misfit = _over_bands(left * left, inverse)[:, None] / left.shape[1]
        return np.asarray(inverse / (1.0 + misfit / _ROBUSTNESS))

    def _image(self, labels: FloatArray) -> FloatArray:
        image = np.zeros(self._shape)
        image.ravel()[self._ids] = labels
        return image

    def _softening(self, softness_px: float) -> tuple[sp.csr_matrix | None, sp.csr_matrix]:
        """Blur of the labels, and the squares of what each adds to the coarse pixels; kept for the next call."""
        if softness_px not in self._soft:
            if softness_px == 0.0:
                self._soft[softness_px] = None, _without_tails(self._blur_t.power(2), _SQUARE_TAIL)
            else:
                blur = _gaussian_of(self._ids, self._shape, softness_px)
                both = _without_tails((self._blur @ blur).T.tocsr().power(2), _SQUARE_TAIL)
                self._soft[softness_px] = blur, both
        return self._soft[softness_px]

    def _border(self, light: FloatArray) -> tuple[FloatArray, sp.csr_matrix]:
        """What it costs a pixel beyond being in light that it is in shadow: alone there, and by its neighbours'."""

        def cost(difference: FloatArray) -> FloatArray:
            return np.asarray(np.minimum((difference**2).mean(axis=0) / self._usual, _MOST_STEP))

        count, lift = self._ids.size, light[:, None]
        alone = np.zeros(count)
        pairs: list[tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]] = []
        for each in self._neighbours:
            same = each.weight * cost(each.step)
            only_first, only_second = (each.weight * (_BORDER + cost(each.step + way * lift)) for way in (1.0, -1.0))
            for place, more in ((each.first, only_first - same), (each.second, only_second - same)):
                alone += np.bincount(place[place >= 0], more[place >= 0], minlength=count)
            both = (each.first >= 0) & (each.second >= 0)
            pairs.append((each.first[both], each.second[both], (2.0 * same - only_first - only_second)[both]))
        first, second, value = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        half = sp.csr_matrix((value, (first, second)), shape=(count, count))
        return alone, (half + half.T).tocsr()


def _over_bands(first: FloatArray, second: FloatArray) -> FloatArray:
    """Sum of products over the bands, from (pixel, band) to (pixel,)."""
    return np.asarray(np.einsum("pb,pb->p", first, second))


def _without_tails(matrix: sp.csr_matrix, least: float) -> sp.csr_matrix:
    matrix.data[matrix.data < least * matrix.data.max(initial=0.0)] = 0.0
    matrix.eliminate_zeros()
    return matrix


def _neighbours(logs: FloatArray, ids: NDArray[np.int64]) -> list[_Neighbours]:
    rows, cols = logs.shape[1:]
    numbers = np.full(rows * cols, -1, np.int64)
    numbers[ids] = np.arange(ids.size)
    index = np.arange(rows * cols).reshape(rows, cols)
    flat = logs.reshape(len(logs), -1)
    found = []
    for down, across, weight in _NEIGHBOURS:
        first = index[: rows - down, max(0, -across) : cols - max(0, across)].ravel()
        second = index[down:, max(0, across) : cols + min(0, across)].ravel()
        kept = (numbers[first] >= 0) | (numbers[second] >= 0)
        first, second = first[kept], second[kept]
        found.append(_Neighbours(numbers[first], numbers[second], weight, flat[:, first] - flat[:, second]))
    return found


def _gaussian_of(ids: NDArray[np.int64], shape: tuple[int, int], sigma_px: float) -> sp.csr_matrix:
    """Gaussian blur of some pixels of an image that is 0 elsewhere."""
    reach = int(np.ceil(_REACH * sigma_px))
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_px) ** 2)
    taps /= taps.sum()
    numbers = np.full((shape[0] + 2 * reach, shape[1] + 2 * reach), -1, np.int64)
    rows, cols = np.divmod(ids, shape[1])
    numbers[rows + reach, cols + reach] = np.arange(ids.size)
    found = [
        (numbers[rows + down, cols + across], taps[down] * taps[across])
        for down in range(2 * reach + 1) for across in range(2 * reach + 1)
    ]  # fmt: skip
    column = np.stack([place for place, _ in found], axis=1)
    weight = np.broadcast_to(np.array([value for _, value in found]), column.shape)
    used = column >= 0
    ends = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    return sp.csr_matrix((weight[used], column[used], ends), shape=(ids.size, ids.size))
