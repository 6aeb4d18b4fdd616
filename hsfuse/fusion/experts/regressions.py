"""Scene-wide ridge regressions that are fitted on samples and applied to images: linear, random Fourier, by classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from hsfuse.fusion.classical.statistics import FloatMatrix
from hsfuse.fusion.experts.columns import Columns
from hsfuse.fusion.gpu.choice import kernels_on_card
from hsfuse.native import experts as native

if TYPE_CHECKING:
    import torch

_CHUNK_VALUES = 1 << 23
_LEAST_CLASSES, _MOST_CLASSES, _PIXELS_PER_CLASS = 2, 8, 60
_CLASS_RIDGE = 2.0


def _tensor(array: NDArray[np.floating], device: str) -> torch.Tensor:
    import torch

    return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32, device=device)


def _on_host(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether compiled kernels serve."""
    import torch

    return all(each.device.type == "cpu" and each.dtype == torch.float32 for each in (x, weight))


def predict(
    x: torch.Tensor, frequency: torch.Tensor, phase: torch.Tensor, weight: torch.Tensor, linear: torch.Tensor,
    constant: torch.Tensor, out: torch.Tensor,
) -> None:  # fmt: skip
    """Write ``weight cos(frequency x + phase) - linear x - constant`` for (regressor, pixel) to (target, pixel).

    As the operation of :mod:`hsfuse.fusion.gpu.fourier`, in plain PyTorch.
    """
    import torch

    step = max(_CHUNK_VALUES // len(frequency), 1)
    for start in range(0, x.shape[1], step):
        values = torch.matmul(frequency, x[:, start : start + step]).add_(phase[:, None]).cos_()
        out[:, start : start + step] = torch.matmul(weight, values)
    out.sub_(torch.matmul(linear, x).add_(constant[:, None]))


@dataclass(frozen=True)
class LinearRegression:
    """Targets as affine functions of regressors.

    Attributes
    ----------
    weight, constant
        Shapes (target, regressor) and (target,).
    """

    weight: torch.Tensor
    constant: torch.Tensor

    @classmethod
    def fit(cls, columns: Columns, y: FloatMatrix, device: str) -> tuple[LinearRegression, FloatMatrix]:
        """Fit regressors to (sample, target); also return what is left, shape (sample, target)."""
        found, left = columns.fit(y)
        return cls(_tensor(found[:-1].T, device), _tensor(found[-1], device)), left

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Predict (n, target, row, col) from (n, regressor, row, col)."""
        import torch

        flat = torch.matmul(self.weight, x.flatten(2)).add_(self.constant[:, None])
        return flat.reshape(x.shape[0], -1, *x.shape[2:])


@dataclass(frozen=True)
class FourierRegression:
    """What a ridge regression on random Fourier features finds beyond a linear one.

    Several ridges share the features: their predictions follow each other along the band axis.

    Attributes
    ----------
    frequency, phase
        Shapes (feature, regressor) and (feature,).
    weight
        Shape (target, feature), targets of all ridges.
    linear
        The features' own linear part, taken off the prediction.

    References
    ----------
    A. Rahimi, B. Recht, Random features for large-scale kernel machines, NIPS 2007.
    """

    frequency: torch.Tensor
    phase: torch.Tensor
    weight: torch.Tensor
    linear: LinearRegression

    @classmethod
    def fit(
        cls,
        columns: Columns,
        residual: FloatMatrix,
        *,
        features: int,
        bandwidth: float,
        ridges: Sequence[float],
        seed: int,
        device: str,
    ) -> FourierRegression:
        """Fit.

        Parameters
        ----------
        columns
            Regressors, about unit variance.
        residual
            What a linear regression on them left of the targets, shape (sample, target).
        features, bandwidth
            Number of features and standard deviation of their frequencies.
        ridges
            Relative to the features' mean power.
        seed
            Of the frequencies.
        device
            Torch device.
        """
        import torch

        rng, x = np.random.default_rng(seed), columns.values[:, :-1]
        frequency = rng.standard_normal((features, x.shape[1])) * bandwidth
        phase = rng.uniform(0.0, 2.0 * np.pi, features)

        def make(part: slice) -> FloatMatrix:
            values = x[part] @ frequency.T
            values += phase
            # Vector instructions: five times as fast as NumPy's.
            torch.from_numpy(values).cos_()
            return values

        def moments(part: slice, values: FloatMatrix) -> FloatMatrix:
            return np.concatenate([values.T @ values, values.T @ residual[part]], axis=1)

        own, sums = columns.fit_made(make, moments)
        total: FloatMatrix = np.sum(sums, axis=0)
        gram, right = total[:, :features], total[:, features:]
        level = max(float(np.trace(gram)) / features, 1e-9)
        weight = np.concatenate([np.linalg.solve(gram + r * level * np.eye(features), right) for r in ridges], axis=1)
        linear = own @ weight
        return cls(
            _tensor(frequency, device), _tensor(phase, device), _tensor(weight.T, device),
            LinearRegression(_tensor(linear[:-1].T, device), _tensor(linear[-1], device)),
        )  # fmt: skip

    @classmethod
    def mean_of(cls, parts: Sequence[FourierRegression]) -> FourierRegression:
        """Return the mean of several regressions on the same regressors as one."""
        import torch

        share = 1.0 / len(parts)
        return cls(
            torch.cat([part.frequency for part in parts]), torch.cat([part.phase for part in parts]),
            share * torch.cat([part.weight for part in parts], dim=1),
            LinearRegression(
                share * torch.stack([part.linear.weight for part in parts]).sum(dim=0),
                share * torch.stack([part.linear.constant for part in parts]).sum(dim=0),
            ),
        )  # fmt: skip

    def apply(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Predict (n, ridge * target, row, col) from (n, regressor, row, col), into ``out`` where it is given."""
        out = x.new_empty((x.shape[0], len(self.weight), *x.shape[2:])) if out is None else out
        if self._compiled(x, out):
            return out
        matrices = (self.frequency, self.phase, self.weight, self.linear.weight, self.linear.constant)
        images = [(image, made) for image, made in zip(x.flatten(2), out.flatten(2), strict=True)]

        def by_kernel(kernels: Any) -> bool:
            for image, made in images:
                kernels.operation(image, *matrices, made)
            return True

        kind = (*self.frequency.shape, len(self.weight))
        if not kernels_on_card("hsfuse.fusion.gpu.fourier", x, kind, by_kernel):
            for image, made in images:
                predict(image, *matrices, made)
        return out

    def _compiled(self, x: torch.Tensor, out: torch.Tensor) -> bool:
        """Whether the compiled kernel did it."""
        if not _on_host(x, self.weight):
            return False
        turns = 1.0 / (2.0 * np.pi)
        arrays = (self.frequency * turns, self.phase * turns, self.weight, self.linear.weight, self.linear.constant)
        frequency, phase, weight, linear, constant = (array.contiguous().numpy() for array in arrays)
        return all(
            native.fourier(image.numpy(), frequency, phase, weight, linear, constant, made.numpy())
            for image, made in zip(x.flatten(2).contiguous(), out.flatten(2), strict=True)
        )


@dataclass(frozen=True)
class ClassRegression:
    """Linear regressions of soft classes of the regressors.

    Attributes
    ----------
    centre, mean, scale
        Classes in standardised regressors, shape (class, regressor), and what standardises them, shape (regressor,).
    parts
        All classes' predictions one after the other.
    """

    centre: torch.Tensor
    mean: torch.Tensor
    scale: torch.Tensor
    parts: LinearRegression

    @classmethod
    def fit(cls, x: FloatMatrix, residual: FloatMatrix, *, seed: int, device: str) -> ClassRegression:
        """Cluster the regressors (sample, regressor) and fit each class to (sample, target)."""
        count = int(np.clip(len(x) // _PIXELS_PER_CLASS, _LEAST_CLASSES, _MOST_CLASSES))
        mean, scale = x.mean(axis=0), x.std(axis=0) + 0.3
        standard = (x - mean) / scale
        centre, _ = kmeans2(standard, count, seed=seed, minit="++", missing="warn")
        distance = ((standard[:, None] - centre[None]) ** 2).sum(axis=2)
        member = np.exp(-0.5 * (distance - distance.min(axis=1, keepdims=True)))
        member /= member.sum(axis=1, keepdims=True)
        a = np.concatenate([x, np.ones((len(x), 1))], axis=1)
        found = [
            np.linalg.solve(part @ a + _CLASS_RIDGE * np.eye(a.shape[1]), part @ residual)
            for part in (a.T * share for share in member.T)
        ]  # fmt: skip
        joined = np.concatenate(found, axis=1)
        return cls(
            _tensor(centre, device), _tensor(mean, device), _tensor(scale, device),
            LinearRegression(_tensor(joined[:-1].T, device), _tensor(joined[-1], device)),
        )  # fmt: skip

    def apply(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """Predict (n, target, row, col) from (n, regressor, row, col), into ``out`` where it is given."""
        import torch

        count, size = len(self.centre), x.shape[2:]
        out = x.new_empty((x.shape[0], len(self.parts.weight) // count, *size)) if out is None else out
        if self._compiled(x, out):
            return out
        flat = (x.flatten(2) - self.mean[:, None]) / self.scale[:, None]
        # The square of the regressors is the same for all classes and cancels in the softmax.
        score = torch.matmul(self.centre, flat) - 0.5 * self.centre.square().sum(dim=1)[:, None]
        member = torch.softmax(score, dim=1).reshape(x.shape[0], count, *size)
        parts = self.parts.apply(x).reshape(x.shape[0], count, -1, *size)
        return out.copy_(torch.einsum("ncthw,nchw->nthw", parts, member))

    def _compiled(self, x: torch.Tensor, out: torch.Tensor) -> bool:
        """Whether the compiled kernel did it."""
        import torch

        if not _on_host(x, self.centre):
            return False
        count = len(self.centre)
        centre = self.centre / self.scale
        level = -0.5 * self.centre.square().sum(dim=1) - centre @ self.mean
        parts = torch.cat([self.parts.weight, self.parts.constant[:, None]], dim=1)
        weight = parts.reshape(count, -1, parts.shape[1]).transpose(0, 1)
        centres, levels, weights = (array.contiguous().numpy() for array in (centre, level, weight))
        return all(
            native.classes(image.numpy(), centres, levels, weights, made.numpy())
            for image, made in zip(x.flatten(2).contiguous(), out.flatten(2), strict=True)
        )
