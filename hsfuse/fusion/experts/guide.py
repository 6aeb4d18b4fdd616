"""What the guide says about the detail of every component: regressions of the HSI on the guide, fitted in the scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hsfuse.degrade import inject, smooth
from hsfuse.degrade.windows import row_parts
from hsfuse.errors import OverlapError
from hsfuse.fusion.base import LowResolutionStrip
from hsfuse.fusion.classical.statistics import MIN_PIXELS, FloatMatrix
from hsfuse.fusion.experts.canonical import CanonicalComponents
from hsfuse.fusion.experts.columns import Columns
from hsfuse.fusion.experts.neighbourhood import CoarseRegression, regress
from hsfuse.fusion.experts.regressions import ClassRegression, FourierRegression, LinearRegression
from hsfuse.fusion.host import may_ask
from hsfuse.fusion.mixing import mix
from hsfuse.fusion.scene_model.model import SceneModel
from hsfuse.parallel import side_by_side, threads_for

if TYPE_CHECKING:
    from torch import Tensor

GUIDE_EXPERTS = (
    "linear detail", "fourier detail, tight", "fourier detail, loose", "fourier detail, mixed", "class-wise detail",
    "neighbours' detail", "surroundings' detail", "windowed detail",
)  # fmt: skip
_FEATURES, _MIXED_FEATURES, _NEIGHBOUR_FEATURES = 160, 48, 200
_BANDWIDTH, _TIGHT, _LOOSE = 0.7, 0.3, 3.0
_MIXED_BANDWIDTHS = (0.4, 0.7, 1.0, 1.4)
_SURROUND_TAPS, _OWN_WEIGHT = 5, (6.0 / 16.0) ** 2
"""A binomial filter and the weight of its middle."""
_NEIGHBOURS = slice(2, 7)
"""Components whose surroundings say something that the guide does not."""
_WINDOW_TAPS, _WINDOW_RIDGE = 25, 0.05
_FLOOR = 3.0
"""Of the scale of a guide component, in units of its error."""
_ROWS = 16
"""HSI pixels that a processor predicts at a time."""
_MOST_SAMPLES = 30_000
_MOST_THREADS = 8
"""Regressions that are fitted side by side; each takes 150 MB meanwhile at most."""


@dataclass(frozen=True)
class GuideRegressors:
    """Turns guide and HSI into regressors of about unit variance.

    Attributes
    ----------
    turn, mean
        Principal components of the guide in units of its error over their scales, (guide component, msi band), and the
        guide's mean, shape (msi band,).
    deviation
        Of the HSI's canonical components, shape (component,).
    """

    turn: Tensor
    mean: Tensor
    deviation: Tensor

    @classmethod
    def make(cls, strips: Sequence[LowResolutionStrip], mean: FloatMatrix, variance: FloatMatrix,
             deviation: Tensor) -> GuideRegressors:  # fmt: skip
        """Find them from the scene at low resolution; ``variance`` is the guide's error by MSI band."""
        white = np.concatenate([s.msi[:, s.valid] for s in strips], axis=1) - mean[:, None]
        white = white / np.sqrt(variance)[:, None]
        values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(white)))
        scale = np.sqrt(np.maximum(values, 0.0)) + _FLOOR
        turn = (vectors / scale).T[::-1] / np.sqrt(variance)
        device = deviation.device

        def tensor(array: FloatMatrix) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32, device=device)

        return cls(tensor(turn), tensor(mean), deviation)

    def guide(self, msi: Tensor) -> Tensor:
        """Regressors of the guide alone, shape (n, guide component, row, col)."""
        return mix(self.turn, msi - self.mean[:, None, None])

    def neighbours(self, seen: Tensor) -> Tensor:
        """Regressors from the HSI's neighbouring pixels, not the pixel's own, on the coarse grid."""
        part = _NEIGHBOURS if seen.shape[1] > _NEIGHBOURS.start else slice(0, 1)
        y = seen[:, part]
        around = (smooth(y, _SURROUND_TAPS) - _OWN_WEIGHT * y) / (1.0 - _OWN_WEIGHT)
        return 0.7 * around / (self.deviation[part, None, None] + 0.5)

    @staticmethod
    def surroundings(guide: Tensor) -> Tensor:
        """Regressors from the two leading components of the guide around a coarse pixel."""
        return smooth(guide[:, :2], _SURROUND_TAPS)


@dataclass(frozen=True)
class GuideDetail:
    """Regressions of the HSI's canonical components on the guide."""

    regressors: GuideRegressors
    linear: LinearRegression
    tight_and_loose: FourierRegression
    mixed: FourierRegression
    classes: ClassRegression
    neighbours: FourierRegression
    surroundings: FourierRegression

    @classmethod
    def fit(
        cls, strips: Sequence[LowResolutionStrip], model: SceneModel, variance: FloatMatrix,
        canonical: CanonicalComponents, seed: int = 0,
    ) -> GuideDetail:  # fmt: skip
        """Fit all of them on the scene at low resolution.

        Parameters
        ----------
        strips
            The scene at low resolution, the MSI as blur and shift make it.
        model
            The pair.
        variance
            Error of the guide by MSI band.
        canonical
            The targets' coordinates.
        seed
            Of random features and classes.
        """
        device = str(canonical.into.device)
        read = GuideRegressors.make(strips, model.synthesis.mean, variance, canonical.deviation)
        x, near, wide, y = _samples(strips, model, canonical, read)
        alone = Columns.of(x)
        linear, left = LinearRegression.fit(alone, y, device)

        def fourier(columns: Columns, target: FloatMatrix, features: int, bandwidth: float, *ridges: float,
                    own: int = 0) -> FourierRegression:  # fmt: skip
            return FourierRegression.fit(
                columns, target, features=min(features, max(len(target) // 3, 8)), bandwidth=bandwidth,
                ridges=ridges, seed=seed + own, device=device,
            )  # fmt: skip

        def beside(others: Sequence[FloatMatrix], bandwidth: float, ridge: float) -> FourierRegression:
            columns = Columns.of(np.concatenate([x, *others], axis=1))
            _, target = columns.fit(y)
            return fourier(columns, target, _NEIGHBOUR_FEATURES, bandwidth, ridge)

        # None needs another's result; the dearest first.
        fits: list[Callable[[], Any]] = [
            lambda: beside([wide, near], 0.5, _LOOSE),
            lambda: beside([near], 0.6, _TIGHT),
            lambda: fourier(alone, left, _FEATURES, _BANDWIDTH, _TIGHT, _LOOSE),
            lambda: ClassRegression.fit(x, left, seed=seed + 1, device=device),
            *(partial(fourier, alone, left, _MIXED_FEATURES, b, 1.0, own=k) for k, b in enumerate(_MIXED_BANDWIDTHS)),
        ]
        found = side_by_side(lambda fit: fit(), fits, threads_for(_MOST_THREADS))
        surroundings, neighbours, tight_and_loose, classes, *mixed = found
        mean = FourierRegression.mean_of(mixed)
        return cls(read, linear, tight_and_loose, mean, classes, neighbours, surroundings)

    def predictions(
        self, fine: Tensor, coarse: Tensor, seen: Tensor, up: Upsampler, *, class_wise: bool = True
    ) -> Tensor:  # fmt: skip
        """Predict what is beyond the linear prediction on the fine grid; only its detail is of use.

        Parameters
        ----------
        fine, coarse
            Regressors of the guide on both grids.
        seen
            The HSI's canonical components, shape (n, component, row, col).
        up
            Interpolates from the coarse to the fine grid.
        class_wise
            With class-wise detail.

        Returns
        -------
        torch.Tensor
            Shape (n, 6 * component, row * ratio, col * ratio), in the order of :data:`GUIDE_EXPERTS`; without
            class-wise detail (n, 5 * component, row * ratio, col * ratio).
        """
        near, wide = self.regressors.neighbours(seen), self.regressors.surroundings(coarse)
        size, ratio = seen.shape[1], up.ratio
        regressions: list[tuple[FourierRegression | ClassRegression, tuple[Tensor, ...]]] = [
            (self.tight_and_loose, ()), (self.mixed, ()), *([(self.classes, ())] if class_wise else []),
            (self.neighbours, (near,)), (self.surroundings, (wide, near)),
        ]  # fmt: skip
        said = fine.new_empty((fine.shape[0], (len(regressions) + 1) * size, *fine.shape[2:]))
        for part in row_parts(seen.shape[2], _ROWS if may_ask(fine) else seen.shape[2]):
            rows, first = slice(part.start * ratio, part.stop * ratio), 0
            here = fine[:, :, rows].contiguous()
            for regression, others in regressions:
                count = 2 * size if regression is self.tight_and_loose else size
                x = torch.cat([here, *(up(other, rows=part) for other in others)], dim=1) if others else here
                regression.apply(x, said[:, first : first + count, rows])
                first += count
        return said

    def windowed(self, coarse: Tensor, seen: Tensor) -> CoarseRegression:
        """Regress what the linear fit left in moving windows on the detail of the fine regressors."""
        left = seen - self.linear.apply(coarse)
        size = coarse.shape[1]
        product = (coarse[:, :, None] * torch.cat([coarse, left], dim=1)[:, None]).flatten(1, 2)
        moments = smooth(torch.cat([coarse, left, product], dim=1), _WINDOW_TAPS)
        mean, second = moments[:, : size + left.shape[1]], moments[:, size + left.shape[1] :]
        second = second.reshape(len(second), size, -1, *second.shape[2:]) - mean[:, :size, None] * mean[:, None]
        found = regress(second[:, :, :size], second[:, :, size:], _WINDOW_RIDGE)
        return CoarseRegression(torch.zeros_like(left), found)


@dataclass(frozen=True)
class Upsampler:
    """Interpolation to the fine grid that takes the HSI's residual shift along."""

    ratio: int
    offset_px: tuple[float, float]

    def __call__(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """Interpolate (n, band, row, col); only some of its rows where they are given."""
        window = None if rows is None else (rows, slice(0, x.shape[3]))
        return inject(x.contiguous(), (), None, self.ratio, window, offset_px=self.offset_px)


def _samples(
    strips: Sequence[LowResolutionStrip], model: SceneModel, canonical: CanonicalComponents, read: GuideRegressors
) -> tuple[FloatMatrix, FloatMatrix, FloatMatrix, FloatMatrix]:
    """Regressors and targets of valid pixels, spread evenly, each of shape (sample, value)."""
    step = max(sum(int(strip.valid.sum()) for strip in strips) // _MOST_SAMPLES, 1)
    device = canonical.into.device
    forward = canonical.into @ torch.as_tensor(model.space.forward, dtype=torch.float32, device=device)
    mean = torch.as_tensor(model.space.mean, dtype=torch.float32, device=device)[:, None, None]
    parts: list[list[FloatMatrix]] = [[], [], [], []]
    for strip in strips:
        if strip.valid.sum() < 1:
            continue
        seen = mix(forward, torch.from_numpy(strip.hsi).to(device)[None] - mean)
        guide = read.guide(torch.from_numpy(np.ascontiguousarray(strip.msi)).to(device)[None])
        images = (guide, read.neighbours(seen), read.surroundings(guide), seen)
        for part, image in zip(parts, images, strict=True):
            part.append(image[0].cpu().numpy()[:, strip.valid][:, ::step].T.astype(np.float64))
    joined = [np.concatenate(part) for part in parts]
    if len(joined[0]) < MIN_PIXELS:
        raise OverlapError(
            f"Only {len(joined[0])} HSI pixels are valid in both images; experts need {MIN_PIXELS}.",
            hint="Use --quality fast.",
        )
    return joined[0], joined[1], joined[2], joined[3]
