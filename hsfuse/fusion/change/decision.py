"""What becomes of every fine pixel near a change: the guide as it is, the guide in other light, or what the HSI says.

The matting's share alone is no decision: too little of it leaves foreign ground in, which costs more than a few pixels
of detail. A small convolutional network weighs what is known about the pixel and its neighbours: residual layers of
3 x 3 pixels (K. He et al., Deep residual learning, CVPR 2016) between layers of single pixels. It was trained on
simulated changes of the training sites (``benchmarks/fit_decision.py``) on what counts: the error left inside the
change, over that of interpolation, and the error added outside of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, maximum_filter, minimum_filter
from scipy.special import expit, softmax

from hsfuse.degrade.windows import row_parts, rows_around, rows_inside
from hsfuse.fusion.change.layers import activated, added
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.neighbours import over_neighbours
from hsfuse.fusion.scene_model.relation import smoothed
from hsfuse.masks import expand

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float64]

RESIDUAL_LAYERS = tuple(f"residual_{number}" for number in range(1, 5))
"""Names of the layers that look at neighbours, one pixel far, in their order."""
_ROWS = 96
"""Fine rows that the network looks at at a time: of a block its images would be 130 MB in every thread."""
_TINY = 1e-3
_REACH_PX = 4
_DENSE = 0.3
"""Share of a box around pixels from which all of it is looked at: slices are read faster than pixels one by one."""
LARGEST_FEATURE = 5.0
_CLOSE_PX = 3.0
"""Width of the window that the colours of foreign ground are averaged in, fine pixels."""
_LEAST_SUPPORT = 1e-3
_CAUTION = 0.9
"""Log odds that the guide as it is gets in addition: the ground around a change gains by it. On the validation sites
(35 dB) 1.2 gains 0.05 dB around parcels, and loses 0.05 dB inside and 0.1 to 0.5 dB in the worst cases."""


@dataclass(frozen=True)
class DecisionData:
    """A block of the scene.

    Attributes
    ----------
    guide, lit, expected
        The guide, the guide times the local gain, and what the HSI says, shape (msi band, row, col), fine grid.
    share, belongs
        What the matting found, and how far the gain is trusted, shape (row, col), fine grid.
    seen
        What the HSI shows, shape (msi band, row, col), coarse grid.
    left
        What the HSI shows beyond the guide repaired by the share alone, the same shape.
    variance
        Of the relation's residual, the same shape.
    distance, rivalry
        Of the contradiction, shape (row, col), coarse grid.
    power
        Variance of every MSI band over the scene, shape (msi band,).
    contrast
        Median of the squared differences between neighbouring fine pixels, in units of ``power``, over the scene.
    """

    guide: FloatArray
    lit: FloatArray
    expected: FloatArray
    share: FloatArray
    belongs: FloatArray
    seen: FloatArray
    left: FloatArray
    variance: FloatArray
    distance: FloatArray
    rivalry: FloatArray
    power: FloatArray
    contrast: float


@dataclass(frozen=True)
class Decision:
    """Result; everything of shape (row, col) on the fine grid.

    Attributes
    ----------
    lit, replaced
        Share of the guide in other light and of what the HSI says; the rest is the guide as it is.
    probability
        That the pixel shows other ground or other light; 0 far from every candidate.
    """

    lit: FloatArray
    replaced: FloatArray
    probability: FloatArray

    @property
    def change(self) -> FloatArray:
        """How far the guide was not left as it is, 0 to 1."""
        return self.lit + self.replaced

    @property
    def own_detail(self) -> FloatArray:
        """Of the change: how far the guide's detail was kept."""
        return np.asarray(self.lit / np.maximum(self.change, 1e-9))

    def blend(self, guide: FloatArray, lit: FloatArray, expected: FloatArray) -> FloatArray:
        """Return the repaired guide, shape (msi band, row, col)."""
        return guide + self.lit * (lit - guide) + self.replaced * (expected - guide)


def decide(data: DecisionData, near: NDArray[np.bool_], response: Response) -> Decision:
    """Decide about the fine pixels of the coarse ones in ``near``, shape (row, col)."""
    lit, replaced, probability = np.zeros((3, *data.share.shape))
    inside = expand(near, response.ratio)
    if inside.any():
        answer = _answers(decision_features(data, inside, response), inside)
        share = softmax(answer[:3] + np.array([_CAUTION, 0.0, 0.0])[:, None], axis=0)
        lit[inside], replaced[inside] = share[1], share[2]
        probability[inside] = expit(answer[3])
    return Decision(lit, replaced, probability)


def _answers(features: FloatArray, inside: NDArray[np.bool_]) -> FloatArray:
    """Ask the network about the pixels in ``inside`` (row, col), shapes (feature, pixel) and (answer, pixel).

    The features are written to: of a block they are as large as the network's own images.
    """
    import torch

    net = _network()
    features -= net["mean"][:, None]
    features /= net["spread"][:, None]
    box = find_objects(inside.astype(np.int8))[0]
    known = inside[box]
    image = np.zeros((len(features) + 1, *known.shape), np.float32)
    image[:-1, known] = np.clip(features, -LARGEST_FEATURE, LARGEST_FEATURE, out=features)
    del features
    image[-1] = known  # Elsewhere nothing is known, which is not what features of 0 say.
    weights, height = {name: torch.from_numpy(array) for name, array in net.items()}, len(known)
    answers = []
    with torch.no_grad():
        for rows in row_parts(height, _ROWS):
            read = rows_around(rows, len(RESIDUAL_LAYERS), height)
            answer = convolved(weights, torch.from_numpy(image[:, read])).numpy()
            answers.append(answer[:, rows_inside(rows, read)][:, known[rows]])
    return np.concatenate(answers, axis=1).astype(np.float64)


def convolved(weights: Mapping[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """Return the network's answers.

    Parameters
    ----------
    weights
        ``weight_`` and ``bias_`` of every layer.
    image
        Scaled features and, last, where they are known, shape (feature + 1, row, col).

    Returns
    -------
    torch.Tensor
        Log odds of the guide as it is, the guide in other light and what the HSI says, and that of the probability,
        shape (answer, row, col).
    """
    from torch.nn.functional import conv2d

    def layer(image: torch.Tensor, name: str) -> torch.Tensor:
        weight = weights["weight_" + name]
        return conv2d(image, weight, weights["bias_" + name], padding=weight.shape[-1] // 2)

    hidden = activated(layer(image[None], "first"))
    for name in RESIDUAL_LAYERS:
        hidden = added(hidden, activated(layer(hidden, name)))
    return layer(activated(layer(hidden, "last")), "answer")[0]


@cache
def _network() -> dict[str, NDArray[np.float32]]:
    with files("hsfuse.fusion.change").joinpath("decision.npz").open("rb") as stream, np.load(stream) as stored:
        return {name: stored[name] for name in stored.files}


def decision_features(data: DecisionData, inside: NDArray[np.bool_], response: Response) -> FloatArray:
    """Return what the decision about the pixels in ``inside`` (row, col) follows from, shape (feature, pixel)."""
    scale = data.power[:, None, None]

    def size(x: FloatArray) -> FloatArray:
        return np.asarray((x**2 / scale).mean(axis=0))

    def up(x: FloatArray) -> FloatArray:
        return np.asarray(response.up(x[None])[0])

    share, step = data.share, data.expected - data.guide
    off, off_lit = size(step), size(data.expected - data.lit)
    texture = size(over_neighbours(data.seen))
    detail = size(data.guide - smoothed(data.guide, 1.0))
    # How much more of the step would take the contradiction away that is left.
    wanted = (response.up(data.left) * step / scale).mean(axis=0)
    wanted = np.clip(smoothed(wanted, 0.7) / (smoothed(off, 0.7) + _TINY), -1.5, 1.5)
    alike = [_alike(image, share, inside, data.power, data.contrast) for image in (data.guide, data.expected)]
    toward, along, support = _toward_foreign(data, step)
    before = [share, smoothed(share, 1.0), smoothed(share, 2.5), maximum_filter(share, 3), minimum_filter(share, 3)]
    after = [
        _log(off), _log(off_lit), _log(smoothed(off, 1.5)), _log(smoothed(off_lit, 1.5)), _log(detail),
        np.log(np.maximum(up(np.log1p(data.distance)), 0.0) + 0.1), _log(np.maximum(up(data.rivalry), 0.0)),
        up(np.log1p((data.left**2 / data.variance).mean(axis=0))), wanted, smoothed(wanted, 1.5),
        up(np.log(texture + _TINY)), data.belongs, np.full(share.shape, np.log(data.contrast + 1e-6)),
        toward, along, np.log(support + 1e-2), *_light(data),
    ]  # fmt: skip
    return np.stack([*(image[inside] for image in before), *alike, *(image[inside] for image in after)])


def _alike(
    image: FloatArray, share: FloatArray, inside: NDArray[np.bool_], power: FloatArray, contrast: float
) -> FloatArray:
    """Mean share of the neighbours of some pixels, each as far as its colours are alike, shape (pixel,)."""
    width = 2.0 * _REACH_PX + 1.0
    padded = np.pad(image / np.sqrt(power[:, None, None]), ((0, 0), *((_REACH_PX, _REACH_PX),) * 2), mode="reflect")
    shares = np.pad(share, _REACH_PX, mode="reflect")
    box = find_objects(inside.astype(np.int8))[0]
    asked = inside[box]
    if float(asked.mean()) > _DENSE:
        down, across = box

        def beside(image: FloatArray, row: int, col: int) -> FloatArray:
            return image[..., down.start + row : down.stop + row, across.start + col : across.stop + col]

    else:
        # Gathered pixel by pixel: those near a change are few.
        rows, cols = np.nonzero(inside)
        asked = np.ones(rows.size, bool)

        def beside(image: FloatArray, row: int, col: int) -> FloatArray:
            return np.asarray(image[..., rows + row, cols + col])

    own = beside(padded, _REACH_PX, _REACH_PX)
    total, weights = np.zeros((2, *own.shape[1:]))
    for row in range(2 * _REACH_PX + 1):
        for col in range(2 * _REACH_PX + 1):
            far = ((row - _REACH_PX) ** 2 + (col - _REACH_PX) ** 2) / (2.0 * (width / 4.0) ** 2)
            unlike = np.zeros(own.shape[1:])
            for one, other in zip(own, beside(padded, row, col), strict=True):
                unlike += (one - other) ** 2
            unlike /= len(own) * (2.0 * contrast + 1e-9)
            weight = np.exp(-far - np.minimum(unlike, 30.0))
            total += weight * beside(shares, row, col)
            weights += weight
    return np.asarray((total / weights)[asked])


def _toward_foreign(data: DecisionData, step: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """How far the guide has gone from what the HSI says towards the colours of foreign ground close by.

    The soft edge of a cloud holds both in any proportion: its pixels lie on the line between them.

    Returns
    -------
    toward
        Part of the way, shape (row, col).
    along
        Cosine of the angle between the way and the line, the same shape.
    support
        Share of foreign ground close by, the same shape.
    """
    weight = np.clip(2.0 * data.share - 1.0, 0.0, 1.0)
    support = smoothed(weight, _CLOSE_PX)
    foreign = smoothed(weight * data.guide, _CLOSE_PX) / np.maximum(support, _LEAST_SUPPORT)
    scale = data.power[:, None, None]
    line = foreign - data.expected * np.minimum(support / _LEAST_SUPPORT, 1.0)
    inner, length, gone = ((x * y / scale).mean(axis=0) for x, y in ((-step, line), (line, line), (step, step)))
    toward = np.clip(inner / (length + _TINY), -0.5, 1.5)
    return toward, inner / np.sqrt((length + _TINY) * (gone + _TINY)), support


def _light(data: DecisionData) -> tuple[FloatArray, FloatArray]:
    """Log of the gain, mean over the bands, and its spread: shadows lack light of all bands, clouds add it."""
    dark = _TINY * np.sqrt(data.power)[:, None, None]
    gain = np.log(np.maximum(data.lit, dark) / np.maximum(data.guide, dark))
    return np.asarray(gain.mean(axis=0)), np.asarray(gain.std(axis=0))


def _log(x: FloatArray) -> FloatArray:
    return np.asarray(np.log(x + _TINY))
