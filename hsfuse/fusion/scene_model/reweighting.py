"""The iteration behind :mod:`hsfuse.fusion.scene_model.relation`: weighted ridge regressions, residuals, weights.

Coefficients are fitted on a subsample; residuals and weights are those of all pixels, in parts that stay in the cache
and side by side. No result depends on the number of threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

from hsfuse.fusion.gaussian import gaussian
from hsfuse.fusion.scene_model.pair import CoarsePair, FloatArray, GuideRelation
from hsfuse.fusion.scene_model.ridge import RIDGE

Part = TypeVar("Part")
Piece = TypeVar("Piece")

MOST_SAMPLES = 40_000
"""Pixels that coefficients are fitted on."""
STUDENT_SCALE, _TUKEY = 8.0, 20.0
_START_MODEL_ERROR = 0.03
_OWN_RIDGE = 1e-5
"""Ridge of what a band has of its own, relative to its mean square."""
_MOST_LEAD_RIDGE = 1e-4
"""The same of what the responses predict, at most."""
_WINDOW_PX, _WINDOW_PRIOR = 8.0, 0.1
_PART_PX, _PART_SAMPLES = 1 << 14, 8192
"""Pixels, and pixels that coefficients are fitted on, that are worked on at a time."""


class Reweighted:
    """State of the iteration; parameters as for :func:`hsfuse.fusion.scene_model.relation.relate`."""

    def __init__(
        self, pair: CoarsePair, msi: FloatArray, nuisance: FloatArray | None, start: FloatArray | None, threads: int,
        *, spacing: int = 1,
    ) -> None:  # fmt: skip
        self._window_px = _WINDOW_PX / spacing
        self.threads, self._pool = threads, cast("ThreadPoolExecutor | None", None)
        self.shape = msi.shape[1:]
        self.bands, self.count = len(msi), msi[0].size
        self.valid = pair.valid.ravel()
        self.measured = self.valid if pair.rim is None else self.valid | pair.rim.ravel()
        rank = len(pair.components)
        u = pair.components.reshape(rank, -1)
        prediction = None if pair.predicted is None else pair.predicted.reshape(self.bands, -1)
        self.known, self.prediction = prediction is not None, prediction
        self.predicted_mean = np.zeros((self.bands, 1))
        if prediction is not None:
            self.predicted_mean = prediction[:, self.valid].mean(axis=1, keepdims=True, dtype=np.float64)
        self.u, self.rank = u, rank
        self.level = RIDGE * pair.level if self.known else np.zeros_like(pair.level)
        self.msi = msi
        self.nuisance = None if nuisance is None else nuisance.reshape(self.bands, -1, self.count)
        self.position = np.empty((2, 0))
        where = np.flatnonzero(self.valid)
        self.sample = pick = where[:: max(len(where) // MOST_SAMPLES, 1)]
        self.sample_parts = [slice(first, first + _PART_SAMPLES) for first in range(0, len(pick), _PART_SAMPLES)]
        # What all bands share: the components and the constant, last.
        self.common = np.concatenate([u[:, pick].astype(np.float64), np.ones((1, len(pick)))])
        self.led = self._centred(pick)
        # What the responses' prediction is in component space, for the synthesis.
        self.shared = None
        if self.led is not None:
            inside = self.common[:-1]
            self.shared = np.linalg.solve(inside @ inside.T + 1e-9 * np.eye(rank), inside @ self.led.T)
        # Images of a whole scene only where a field is fitted.
        self.gain, self.offset = (np.broadcast_to(np.float64(value), msi.shape) for value in (1.0, 0.0))
        self.plain = True
        self.sampled_msi = self._target(pick)
        self.seen: FloatArray | None = None
        # Written anew in every step, in place, some pixels after the others: they stay in the cache.
        self.residual = np.empty((self.bands, self.count))
        self.texture: NDArray[np.float32] | None = None
        self.parts = [slice(start, start + _PART_PX) for start in range(0, self.count, _PART_PX)]
        self.quartile = 2.0 * float(gammaincinv(self.bands / 2.0, 0.25))
        self.weight = (self._start(prediction) if start is None else start.ravel()) * self.valid
        self.first = True
        self.scale, self.share = 1.0, np.empty((self.bands, 2))

    def _start(self, prediction: NDArray[np.floating] | None) -> FloatArray:
        if prediction is None:
            return np.ones(self.count)
        y, q, ok = self.msi.reshape(self.bands, -1), np.asarray(prediction, np.float64), self.valid
        size = np.sqrt((q[:, ok] ** 2).mean(axis=1))[:, None]
        # A band of the guide under which no band of the HSI was kept is predicted as nothing: it tells nothing here.
        told = size[:, 0] > 0.0
        if not told.any():
            return np.ones(self.count)
        if not told.all():
            y, q, size = y[told], q[told], size[told]
        q = q * np.median(y[:, ok] / np.maximum(q[:, ok], np.minimum(1e-4, 1e-2 * size)), axis=1)[:, None]
        spread = 1.48 * np.median(np.abs(y - q)[:, ok], axis=1)[:, None]
        least = np.minimum(1e-12, 1e-8 * size**2)
        distance = ((y - q) ** 2 / (spread**2 + (_START_MODEL_ERROR * q) ** 2 + least)).sum(axis=0)
        scale = max(float(np.quantile(distance[ok], 0.25)) / self.quartile, 1e-12)
        return np.asarray(1.0 / (1.0 + distance / scale / STUDENT_SCALE) ** 2)

    def _centred(self, pick: NDArray[np.int64] | slice) -> FloatArray | None:
        """What the responses predict of some pixels, less its mean, shape (msi band, pixel); None without responses."""
        return None if self.prediction is None else self.prediction[:, pick] - self.predicted_mean

    def fit(self, *, polynomial: bool) -> None:
        """Solve every band's weighted ridge regression."""
        if polynomial and not self.position.size:
            rows, cols = (np.linspace(-1.0, 1.0, size) for size in self.shape)
            self.position = np.stack(np.meshgrid(rows, cols, indexing="ij")).reshape(2, -1)
        centre = np.zeros(self.bands)
        if polynomial and self.seen is not None:
            centre = np.array([image.ravel()[self.valid].mean() for image in self.seen])
        gram, right, of_bands = self._weighed_moments(polynomial, centre)
        inside_of, constant, response = np.zeros((self.bands, self.rank)), np.zeros(self.bands), np.zeros(self.bands)
        others: list[FloatArray] = []
        size, lead = self.rank + 1, 0 if self.led is None else 1
        for band, (across, own, own_right) in enumerate(of_bands):
            whole = np.block([[gram, across.T], [across, own]])
            ridge = np.full(len(whole), 1e-9)
            ridge[: self.rank] = 1.0 + 1e-6 * np.trace(gram[:-1, :-1])
            own_power = np.diag(whole)[size:]
            if lead and own_power[0] > 0.0 and ridge[size] > _MOST_LEAD_RIDGE * own_power[0]:
                # Images in other units than reflectance.
                ridge[size] = _OWN_RIDGE * own_power[0]
            ridge[size + lead :] = _OWN_RIDGE * own_power[lead:] + np.minimum(1e-12, 1e-6 * own_power[lead:])
            loading = np.diag(ridge)
            loading[: self.rank, : self.rank] += self.level
            found = np.linalg.solve(whole + loading, np.concatenate([right[:, band], own_right]))
            inside_of[band], constant[band] = found[: self.rank], found[self.rank]
            response[band] = found[size] if lead else 0.0
            others.append(found[size + lead :])
        before, inside = self.seen, inside_of.astype(self.u.dtype)
        seen = np.empty((self.bands, self.count)) if before is None else before.reshape(self.bands, -1)

        def explain(part: slice) -> None:
            found_seen = (inside @ self.u[:, part]).astype(np.float64) + constant[:, None]
            led = self._centred(part)
            if led is not None:
                found_seen += response[:, None] * led
            residual = np.subtract(self._target(part), found_seen, out=self.residual[:, part])
            for band, found in enumerate(others):
                images = itertools.chain(*self._extra(band, polynomial, part, centre))
                for value, image in zip(found, images, strict=True):
                    residual[band] -= value * image
            seen[:, part] = found_seen

        self._each_part(explain)
        self.synthesis = inside_of if self.shared is None else inside_of + response[:, None] * self.shared.T
        count = 0 if self.nuisance is None else self.nuisance.shape[1]
        self.polynomial = [found[: len(found) - count] for found in others]
        self.nuisance_found = np.array([found[len(found) - count :] for found in others]).reshape(self.bands, count)
        self.seen = seen.reshape(self.bands, *self.shape)

    def _weighed_moments(
        self, polynomial: bool, centre: FloatArray
    ) -> tuple[FloatArray, FloatArray, list[tuple[FloatArray, FloatArray, FloatArray]]]:
        """Weighted products of the sample's regressors and targets.

        Returns
        -------
        gram, right : numpy.ndarray
            Of what all bands share with itself and with the targets, shapes (common, common) and (common, msi band).
        of_bands : list
            Of each band's own regressors with what all share, with themselves and with the target.
        """
        weight = self.weight[self.sample] / self.weight[self.sample].sum()
        target = self.sampled_msi if self.plain else self._target(self.sample)

        def look(part: slice) -> list[FloatArray]:
            weighted = self.common[:, part] * weight[part]
            found = [weighted @ self.common[:, part].T, weighted @ target[:, part].T]
            for band in range(self.bands):
                lead = [] if self.led is None else [self.led[band, part][None]]
                own = np.concatenate([
                    np.zeros((0, weighted.shape[1])), *lead,
                    *self._extra(band, polynomial, self.sample[part], centre),
                ])  # fmt: skip
                heavy = own * weight[part]
                found += [own @ weighted.T, heavy @ own.T, heavy @ target[band, part]]
            return found

        gram, right, *rest = (sum(parts) for parts in zip(*self._map(look, self.sample_parts), strict=True))
        of_bands = [tuple(rest[3 * band : 3 * band + 3]) for band in range(self.bands)]
        return gram, right, of_bands

    def _target(self, pick: NDArray[np.int64] | slice) -> FloatArray:
        """Some pixels of the MSI without the field, shape (msi band, pixel)."""
        msi, offset, gain = (image.reshape(self.bands, -1) for image in (self.msi, self.offset, self.gain))
        return msi[:, pick] if self.plain else (msi[:, pick] - offset[:, pick]) / gain[:, pick]

    def _each_part(self, work: Callable[[slice], Part]) -> list[Part]:
        return self._map(work, self.parts)

    def _each_band(self, work: Callable[[int], None]) -> None:
        self._map(work, range(self.bands))

    def _map(self, work: Callable[[Piece], Part], pieces: Iterable[Piece]) -> list[Part]:
        """Do work side by side: a step has several such pieces of a millisecond, so that the threads stay."""
        return list(map(work, pieces) if self._pool is None else self._pool.map(work, pieces))

    def __enter__(self) -> Reweighted:
        if self.threads > 1 and len(self.parts) > 1:
            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="hsfuse-relation")
        return self

    def __exit__(self, *_: object) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)

    def _extra(
        self, band: int, polynomial: bool, pick: NDArray[np.int64] | slice, centre: FloatArray
    ) -> list[FloatArray]:
        """Regressors of some pixels that do not describe what the HSI shows, each of shape (regressor, pixel)."""
        parts: list[FloatArray] = []
        if polynomial:
            parts.append(self.position[:, pick])
            if self.seen is not None:
                parts.append(self.position[:, pick] * (self.seen[band].ravel()[pick] - centre[band]))
        if self.nuisance is not None:
            parts.append(self.nuisance[band][:, pick])
        return parts

    def reweight(self, *, hard: bool, look: bool = True) -> None:
        """Standardise the residuals and weigh the pixels by them; ``look`` at the texture of what is seen anew."""
        if self.seen is None:
            raise RuntimeError("reweight() before fit()")
        w, ok, total = self.weight, self.valid, float(self.weight.sum())
        if look or self.texture is None:
            self.texture = self._texture(self.seen)
        texture = self.texture

        def moments(part: slice) -> FloatArray:
            """Weighted sums of 1, texture, texture squared, and of the squared residual times 1 and texture."""
            weight, square, rough = w[part], self.residual[:, part] ** 2, texture[:, part].astype(np.float64)
            both = rough * weight
            return np.stack([
                np.full(self.bands, weight.sum()), both.sum(axis=1), np.einsum("bp,bp->b", both, rough),
                square @ weight, np.einsum("bp,bp->b", both, square),
            ])  # fmt: skip

        sums = sum(self._each_part(moments))
        share = self.share
        for band, (ones, rough, rougher, square, both) in enumerate(np.asarray(sums).T):
            gram = np.array([[ones, rough], [rough, rougher]])
            share[band] = np.linalg.solve(
                gram * (1.0 + 1e-9 * np.eye(2)) + 1e-30 * np.eye(2), np.array([square, both])
            )  # fmt: skip
            if share[band].min() < 0:
                mean = max(rough / total, 1e-12)
                floor = square / total
                if self.first and not self.known:
                    floor = float(np.median((self.residual[band] ** 2)[ok])) / 0.455
                share[band] = (floor, 0.0) if share[band, 1] < 0 else (0.1 * floor, 0.9 * floor / mean)

        def scatter(part: slice) -> FloatArray:
            variance = self._variance(texture, part)
            # Nobody asks for the residual itself any more.
            standard = np.divide(self.residual[:, part], np.sqrt(variance), out=self.residual[:, part])
            return np.asarray((standard * w[part]) @ standard.T)

        covariance = np.asarray(sum(self._each_part(scatter))) / total + 0.05 * np.eye(self.bands)
        precision, distance = np.linalg.inv(covariance), np.empty(self.count)

        def measure(part: slice) -> None:
            standard = self.residual[:, part]
            distance[part] = np.einsum("bp,bp->p", standard, precision @ standard)

        self._each_part(measure)
        self.scale = max(float(np.quantile(distance[ok], 0.25)) / self.quartile, 1e-12)
        distance /= self.scale
        self.distance, self.first = distance, False
        if hard:
            new = np.where(self.distance < _TUKEY, (1.0 - self.distance / _TUKEY) ** 2, 0.0) + 1e-4
        else:
            new = 1.0 / (1.0 + self.distance / STUDENT_SCALE) ** 2
        self.weight = new * ok

    def _variance(self, texture: NDArray[np.float32], part: slice) -> FloatArray:
        """Of the residuals of some pixels, but for a factor of all, shape (msi band, pixel)."""
        return np.maximum(self.share[:, :1] + self.share[:, 1:] * texture[:, part], 1e-12)

    def _texture(self, seen: FloatArray) -> NDArray[np.float32]:
        """Local variance of what is seen over its mean, shape (msi band, pixel)."""
        texture, valid = np.empty((self.bands, self.count), np.float32), self.valid

        def look(band: int) -> None:
            image = np.asarray(seen[band] - seen[band].mean(), np.float32)
            found = gaussian((image - gaussian(image, 1.0)) ** 2, 1.5).ravel()
            np.divide(found, max(float(found[valid].mean(dtype=np.float64)), 1e-30), out=texture[band])

        self._each_band(look)
        return texture

    def absorb_polynomial(self) -> None:
        """Move the fitted polynomials into the field."""
        if self.seen is None:
            raise RuntimeError("absorb_polynomial() before fit()")
        self._make_field()
        for band, found in enumerate(self.polynomial):
            level = (found[:2] @ self.position).reshape(self.shape)
            slope, mean = np.zeros(self.shape), 0.0
            if len(found) > 2:
                slope = (found[2:] @ self.position).reshape(self.shape)
                mean = float(self.seen[band].ravel()[self.valid].mean())
            self.offset[band] += self.gain[band] * (level - slope * mean)
            self.gain[band] *= np.clip(1.0 + slope, 0.3, 3.0)

    def _make_field(self) -> None:
        """Let the field differ from pixel to pixel."""
        if self.plain:
            self.gain, self.offset, self.plain = self.gain.copy(), self.offset.copy(), False

    def absorb_windows(self) -> None:
        """Regress on what the HSI shows in Gaussian windows, drawn towards no change, and move that into the field."""
        if self.seen is None:
            raise RuntimeError("absorb_windows() before fit()")
        self._make_field()
        weight, seen = self.weight.reshape(self.shape), self.seen
        norm = np.maximum(gaussian(weight, self._window_px), 1e-6)

        def average(x: FloatArray) -> NDArray[np.float32]:
            return np.asarray(gaussian(x * weight, self._window_px) / norm)

        def absorb(band: int) -> None:
            # Without the mean: in single precision little would be left of the difference of two squares.
            level = seen[band].mean()
            image, measured = seen[band] - level, (self.msi[band] - self.offset[band]) / self.gain[band] - level
            mean_seen, mean_measured = average(image), average(measured)
            prior = _WINDOW_PRIOR * (image**2 * weight).sum() / weight.sum()
            gain = average(image * measured) - mean_seen * mean_measured + prior
            gain = np.clip(gain / (average(image * image) - mean_seen**2 + prior), 0.5, 2.0)
            self.offset[band] += self.gain[band] * ((mean_measured + level) - gain * (mean_seen + level))
            self.gain[band] *= gain

        self._each_band(absorb)

    def result(self) -> GuideRelation:
        """Collect what was found."""
        texture = self.texture
        if self.seen is None or texture is None:
            raise RuntimeError("result() before fit() and reweight()")
        variance = self.residual  # Written over: an image of the whole scene.

        def scale(part: slice) -> None:
            np.multiply(self._variance(texture, part), self.scale, out=variance[:, part])

        self._each_part(scale)
        return GuideRelation(
            self.seen, self.gain, self.offset, (self.distance * self.measured).reshape(self.shape),
            variance.reshape(self.bands, *self.shape), self.synthesis,
            self.weight.reshape(self.shape), self.nuisance_found, self._remoteness(),
        )  # fmt: skip

    def _remoteness(self) -> FloatArray:
        """See :class:`GuideRelation`."""
        if self.known:
            return np.broadcast_to(np.float64(1.0), self.shape)
        inside = self.common[:-1]
        weight = self.weight[self.sample] / self.weight[self.sample].sum()
        mean = (inside * weight).sum(axis=1, keepdims=True)
        centred = inside - mean
        root = np.linalg.cholesky(np.linalg.inv((centred * weight) @ centred.T + np.eye(self.rank)))
        towards, start = root.T.astype(self.u.dtype), (root.T @ mean).astype(self.u.dtype)
        found = np.empty(self.count)

        def measure(part: slice) -> None:
            found[part] = ((towards @ self.u[:, part] - start) ** 2).sum(axis=0) / self.rank

        self._each_part(measure)
        return found.reshape(self.shape)
