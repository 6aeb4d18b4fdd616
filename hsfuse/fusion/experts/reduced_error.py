"""What fusing at reduced resolution teaches about the error of the maximum a posteriori estimate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.fusion.experts.columns import Columns
from hsfuse.fusion.experts.neighbourhood import high_pass
from hsfuse.fusion.experts.regressions import FourierRegression
from hsfuse.fusion.mixing import mix

REDUCED_ERROR_EXPERTS = ("reduced-resolution error, linear", "reduced-resolution error, fourier")
_LEADING = 4
_SIGMAS_PX = (0.7, 1.5)
_LINEAR_RIDGE = 0.1
_FEATURES, _BANDWIDTH, _RIDGE = 128, 0.35, 3.0
_LEAST_SAMPLES, _MOST_SAMPLES = 100, 30_000


@dataclass(frozen=True)
class ReducedErrorWindow:
    """A degraded window: the estimate there, shape (1, component, row, col), what it misses, and what counts."""

    estimate: Tensor
    missed: Tensor
    counted: NDArray[np.bool_]


@dataclass(frozen=True)
class ReducedError:
    """Regressions of the estimate's error on its own high-pass detail.

    Attributes
    ----------
    linear
        Shape (component, regressor).
    scale
        Of the regressors of ``fourier``, shape (regressor,).
    fourier
        On random Fourier features.
    """

    linear: Tensor
    scale: Tensor
    fourier: FourierRegression

    @classmethod
    def fit(cls, windows: Sequence[ReducedErrorWindow], ratio: int, *, seed: int = 0) -> ReducedError | None:
        """Fit both; None where there are too few samples."""
        pairs = []
        for window in windows:
            images = _regressors(window.estimate, ratio), window.missed
            pairs.append([image[0].double().cpu().numpy()[:, window.counted].T for image in images])
        if not pairs or sum(len(part[0]) for part in pairs) < _LEAST_SAMPLES:
            return None
        x, y = (np.concatenate([part[k] for part in pairs]) for k in range(2))
        step = max(len(x) // _MOST_SAMPLES, 1)
        x, y = x[::step], y[::step]
        device = str(windows[0].estimate.device)
        gram = x.T @ x + _LINEAR_RIDGE * len(x) * np.eye(x.shape[1])
        scale = x.std(axis=0) + 1.0
        fourier = FourierRegression.fit(
            Columns.of(x / scale), y, features=min(_FEATURES, len(x) // 3), bandwidth=_BANDWIDTH, ridges=(_RIDGE,),
            seed=seed, device=device,
        )  # fmt: skip

        def tensor(array: NDArray[np.floating]) -> Tensor:
            return torch.as_tensor(np.ascontiguousarray(array), dtype=torch.float32, device=device)

        return cls(tensor(np.linalg.solve(gram, x.T @ y).T), tensor(scale), fourier)

    def apply(
        self, x: Tensor, ratio: int, rows: slice | None = None, wanted: Sequence[bool] = (True, True)
    ) -> Iterator[Tensor]:
        """Predict the error of components (n, component, row, col) or of some rows, linearly and otherwise."""
        regressors = _regressors(x, ratio, rows)
        if wanted[0]:
            yield mix(self.linear, regressors)
        if wanted[1]:
            yield self.fourier.apply(regressors / self.scale[:, None, None])


def _regressors(x: Tensor, ratio: int, rows: slice | None = None) -> Tensor:
    lead = x[:, :_LEADING]
    return torch.cat([high_pass(lead, sigma, ratio, rows) for sigma in _SIGMAS_PX], dim=1)
