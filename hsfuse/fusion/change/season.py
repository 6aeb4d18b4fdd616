"""A guide whose season was corrected, refined by a small convolutional network.

A local correction (:mod:`hsfuse.fusion.change.local`) is told at low resolution, where every pixel holds turned plants
and other ground: it leaves an error in the fine guide, nearly all of it along one direction of the bands. Everything is
looked at along that direction, in units of the correction's own size, so that the scene's bands, units and season do
not matter: how far each pixel was corrected, what each candidate of the correction would have made of it, an index of
its colours before and after, and what the HSI shows there and of that index. The network has layers of 3 x 3 pixels
that reach ever farther (F. Yu and V. Koltun, Multi-scale context aggregation by dilated convolutions, ICLR 2016); it
weighs the candidates and adds an amount of its own. It was trained on generated seasons of the training sites
(``benchmarks/fit_season.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hsfuse.degrade import windows
from hsfuse.fusion.change.blocks import blocks, write_blocks
from hsfuse.fusion.change.candidates import Candidates
from hsfuse.fusion.change.layers import activated, added
from hsfuse.fusion.change.response import INTERPOLATION_PX, Response
from hsfuse.grid import Slice2D
from hsfuse.parallel import side_by_side
from hsfuse.spilled import SpilledImages

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float64]
FloatCube = NDArray[np.float32]

DILATIONS = (1, 2, 4)
"""Of the residual layers, in their order."""
LARGEST_FEATURE = 6.0
_LEAST_SIZE = 8.0
"""Size of a correction in standard deviations of the noise from which it is refined: on validation sites seasons stand
at 14 to 158, what is left of haze, of which nothing is known, at 2 to 6."""
_MOST = 2.0
"""Of a refinement, in sizes of the correction: of 1,000 pixels of validation sites one gets more than 0.5."""
_BLOCK_PX = 288
"""Side of a block, fine pixels."""
_REACH_PX = 8
"""What the network looks at around a pixel, fine pixels."""
_TRUST_DISTANCE = 50.0
"""Squared distance to the HSI at which a pixel counts a quarter in what is learned of the scene."""
UNKNOWN, _KNOWN = 1e9, 1e-12
"""A distance that says nothing, and the trust from which it is none."""
_SAMPLE = 200_000
"""Fine pixels that statistics of the scene are taken from, at least."""
_FLOOR = 0.05
"""Of a band's mean: darker pixels count as that dark in the index."""
_KNOTS, _KNOT_WIDTH = 32, 0.06
"""Of the curve that tells the correction by the index, and their width in shares of its range."""
_PLACE_PX = 1.0
"""Width of the window in which a place's amplitude is told, HSI pixels."""
_MOST_CORRECTED = 0.5
"""A pixel counts as corrected from this share of the correction's size on."""


@dataclass(frozen=True)
class SeasonData:
    """What a refinement follows from.

    Attributes
    ----------
    before
        The guide before the correction, shape (msi band, row, col), fine grid.
    guide
        The same after it.
    low, blurred
        Both at low resolution, coarse grid.
    seen
        What the HSI shows, the same shape.
    distance
        Squared distance of both images, :data:`UNKNOWN` where they are not both measured, shape (row, col), coarse
        grid.
    noise
        Variance that differences are measured in, shape (msi band,).
    candidates
        Of the correction; of the first where there are several.
    response
        The HSI's response.
    """

    before: SpilledImages
    guide: FloatCube
    low: FloatArray
    blurred: FloatArray
    seen: FloatArray
    distance: FloatArray
    noise: FloatArray
    candidates: Candidates
    response: Response


@dataclass(frozen=True)
class SeasonFrame:
    """What the scene has in common.

    Attributes
    ----------
    step
        A difference of 1 along the direction, shape (msi band,), in the guide's units.
    along
        Factors of the bands that measure differences in such steps, shape (msi band,).
    size
        Of the correction, in standard deviations of the noise.
    mean
        Of the guide before the correction, shape (msi band,).
    index
        Factors of the bands' logarithms in the index, shape (msi band,).
    others
        The same of further directions of the logarithms, scaled and less their means, shape (2, msi band + 1).
    centre, spread
        Of the index.
    facts
        Logarithm of size and spread, share of the ground that was corrected, and the ratio, each about 0.
    curve
        Correction by the index, index and amount, shape (2, knot).
    images
        At low resolution: what the HSI shows along the direction, what of it the guide lacks, the HSI's index, that
        less the guide's, a place's amplitude over the curve's, and the logarithm of the images' distance, shape
        (6, row, col).
    """

    step: FloatArray
    along: FloatArray
    size: float
    mean: FloatArray
    index: FloatArray
    others: FloatArray
    centre: float
    spread: float
    facts: tuple[float, ...]
    curve: FloatArray
    images: FloatCube

    @classmethod
    def of(cls, data: SeasonData) -> SeasonFrame:
        """Look at a scene."""
        ratio, bands = data.response.ratio, len(data.guide)
        every = max(int(np.sqrt(data.guide[0].size / _SAMPLE)), 1)
        part = (slice(None, None, every), slice(None, None, every))
        some = np.stack([data.before.image(band)[part].copy() for band in range(bands)])
        before, after = (image.reshape(bands, -1).astype(np.float64) for image in (some, data.guide[:, *part]))
        trust = 1.0 / (1.0 + data.distance / _TRUST_DISTANCE) ** 2
        weight = trust[np.ix_(*(np.arange(0, size, every) // ratio for size in data.guide.shape[1:]))].ravel()
        known = weight > _KNOWN
        before, after, weight = before[:, known], after[:, known], weight[known]
        unit = np.sqrt(data.noise)
        direction = data.candidates.direction / unit
        amount = direction @ (after - before)
        size = float(np.sqrt((amount**4 * weight).mean() / max((amount**2 * weight).mean(), 1e-20)))
        size = max(size, 1e-6)
        mean = np.maximum(before.mean(axis=1), 1e-6 * np.sqrt((before**2).mean(axis=1)) + 1e-30)
        logs, logs_after = (_logarithms(image, mean) for image in (before, after))
        index = ((logs_after - logs) * amount * weight).mean(axis=1)
        index /= max(float(np.linalg.norm(index)), 1e-9)
        values = index @ logs
        centre, spread = float(values.mean()), float(values.std()) + 1e-3
        facts = (
            float(np.log(size)) - 2.0, float(np.log(spread)) + 1.0,
            2.0 * float((np.abs(amount) > _MOST_CORRECTED * size).mean()) - 1.0, ratio - 3.0,
        )  # fmt: skip
        along = direction / size
        step = data.candidates.direction * unit * size

        def scaled_index(image: FloatArray) -> FloatArray:
            return np.asarray((np.tensordot(index, _logarithms(image, mean), axes=1) - centre) / spread)

        shown, held = scaled_index(data.seen), scaled_index(data.low)
        lacked = np.tensordot(along, data.seen - data.low, 1)
        curve = _curve(shown, lacked, trust)
        by_index = np.interp(shown, *curve)
        window = [
            gaussian_filter(image * trust, _PLACE_PX, mode="constant") + 0.02
            for image in (lacked * by_index, by_index**2)
        ]
        images = [
            np.tensordot(along, data.seen, 1), np.tensordot(along, data.seen - data.blurred, 1), shown, shown - held,
            np.clip(window[0] / window[1], -1.0, 3.0), np.log1p(data.distance),
        ]  # fmt: skip
        return cls(
            step, along, size, mean, index, _other_directions(logs, index), centre, spread, facts, curve,
            np.stack(images).astype(np.float32),
        )  # fmt: skip

    def features(self, data: SeasonData, where: windows.Window) -> FloatCube:
        """Return what the answer about a part of the coarse grid follows from, shape (feature, row, col), fine grid.

        The last are what each candidate would change, in steps along the direction.
        """
        fine = windows.finer(where, data.response.ratio)
        before, guide = data.before.read(Slice2D.of(*fine)), data.guide[:, *fine]
        along = self.along.astype(np.float32)
        seen, left, shown, lacked, amplitude, apart = data.response.up_single(self.images[:, *where])
        amount = np.tensordot(along, guide - before, axes=1)
        logs, logs_after = (_logarithms(image, self.mean) for image in (before, guide))
        index, after = (
            (np.tensordot(self.index.astype(np.float32), image, axes=1) - self.centre) / self.spread
            for image in (logs, logs_after)
        )
        others = np.tensordot(self.others[:, :-1].astype(np.float32), logs, axes=1) + self.others[:, -1:, None]
        by_after, by_before = (np.interp(image, *self.curve) for image in (after, index))
        candidates = data.candidates.amounts(before, where, data.response) / self.size
        images = [
            amount, np.tensordot(along, before, axes=1) - seen, left, index, after, *others,
            *(np.full(amount.shape, fact) for fact in self.facts),
            shown, lacked, by_after, by_before, amplitude - 1.0, np.log1p(np.maximum(apart, 0.0)) - 1.0,
            -amount, *(candidates - amount), amplitude * by_after - amount,
        ]  # fmt: skip
        out: FloatCube = np.empty((len(images), *amount.shape), np.float32)
        for target, image in zip(out, images, strict=True):
            np.clip(image, -LARGEST_FEATURE, LARGEST_FEATURE, out=target, casting="same_kind")
        return out


def _logarithms(image: NDArray[np.floating], mean: FloatArray) -> FloatArray:
    """Logarithm of a guide (msi band, ...) over its mean."""
    mean = mean.reshape(-1, *(1,) * (image.ndim - 1)).astype(image.dtype)
    return np.asarray(np.log(np.maximum(image / mean, _FLOOR)))


def _other_directions(logs: FloatArray, index: FloatArray) -> FloatArray:
    """Return the two main directions of logarithms (msi band, pixel) beside the index's, shape (2, msi band + 1)."""
    out = np.zeros((2, len(logs) + 1))
    rest = logs - np.outer(index, index @ logs)
    mean = rest.mean(axis=1)
    rest -= mean[:, None]
    _, vectors = np.linalg.eigh(rest @ rest.T / rest.shape[1])
    for row, vector in zip(out, vectors.T[::-1][: len(logs) - 1], strict=False):
        vector = vector if vector.sum() >= 0.0 else -vector
        vector = vector / max(float((vector @ rest).std()), 1e-3)
        row[:-1], row[-1] = vector - (vector @ index) * index, -vector @ mean
    return out


def _curve(index: FloatArray, amount: FloatArray, weight: FloatArray) -> FloatArray:
    """Weighted mean of an amount by an index, all of shape (row, col); index and amount, shape (2, knot)."""
    low, high = np.quantile(index[weight > _KNOWN], [0.01, 0.99])
    knots = np.linspace(low, high, _KNOTS)
    width = _KNOT_WIDTH * (high - low) + 1e-9
    below, above = np.zeros((2, _KNOTS))
    for place, knot in enumerate(knots):
        near = np.exp(-0.5 * ((index - knot) / width) ** 2) * weight
        below[place], above[place] = near.sum(), (near * amount).sum()
    return np.stack([knots, (above + 1e-3 * (weight * amount).mean()) / (below + 1e-3)])


def refined_season(data: SeasonData, threads: int = 1) -> FloatCube:
    """Return the guide of ``data``, which is written to, refined where it was corrected for more than the noise.

    Shape (msi band, row, col).
    """
    frame = SeasonFrame.of(data)
    if frame.size < _LEAST_SIZE:
        return data.guide
    step = frame.step.astype(np.float32)[:, None, None]
    ratio = data.response.ratio
    side, context = max(_BLOCK_PX // ratio, 1), -(-_REACH_PX // ratio) + INTERPOLATION_PX

    def one(place: tuple[windows.Window, windows.Window]) -> tuple[windows.Window, FloatCube]:
        read, core = place
        fine_read, fine_core = (windows.finer(window, ratio) for window in (read, core))
        amount = _answer(frame.features(data, read))[windows.inside(fine_core, fine_read)]
        return fine_core, data.guide[:, *fine_core] + step * amount

    found = side_by_side(one, blocks(data.distance.shape, context, side), threads)
    write_blocks(data.guide, found, side * ratio)
    return data.guide


def _answer(features: FloatCube) -> FloatCube:
    """Ask the network about (feature, row, col), shape (row, col)."""
    import torch

    weights = {name: torch.from_numpy(array) for name, array in _network().items()}
    with torch.no_grad():
        answer: FloatCube = convolved(weights, torch.from_numpy(features)[None])[0].numpy()
    return answer


def convolved(weights: Mapping[str, torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """Return what to add to the guide along the direction, in its steps, shape (n, row, col).

    Parameters
    ----------
    weights
        ``weight_`` and ``bias_`` of every layer.
    features
        Shape (n, feature, row, col); the last are what the candidates would change.
    """
    from torch.nn.functional import conv2d

    def layer(image: torch.Tensor, name: str, dilation: int = 1) -> torch.Tensor:
        weight = weights["weight_" + name]
        around = weight.shape[-1] // 2 * dilation
        return conv2d(image, weight, weights["bias_" + name], padding=around, dilation=dilation)

    hidden = activated(layer(features, "first"))
    for number, dilation in enumerate(DILATIONS, 1):
        hidden = added(hidden, activated(layer(hidden, f"residual_{number}", dilation)))
    # An amount of its own, and shares of the guide as it is and of each candidate.
    answer = layer(hidden, "answer")
    shares = answer[:, 1:].softmax(dim=1)[:, 1:]
    amount = answer[:, 0] + (shares * features[:, -shares.shape[1] :]).sum(dim=1)
    return amount.clamp(-_MOST, _MOST)


@cache
def _network() -> dict[str, NDArray[np.float32]]:
    with files("hsfuse.fusion.change").joinpath("season.npz").open("rb") as stream, np.load(stream) as stored:
        return {name: stored[name] for name in stored.files}
