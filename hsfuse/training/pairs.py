"""Pairs at reduced resolution (Wald's protocol), and the patches that are cut from them.

A pair holds what every task needs, and whatever a task adds when it prepares the pair: further images on the fine grid,
which are cut together with the others, and values of the whole window, which are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.degrade import Psf
from hsfuse.degrade.two_sensors import TwoSensors

_TRIES = 8
ENOUGH_VALID = 0.6
"""Share of valid pixels with which the search for a patch ends."""


@dataclass(frozen=True)
class PairFacts:
    """How a pair was made.

    Attributes
    ----------
    centre_nm, fwhm_nm
        Bands of the HSI, shape (band,).
    psf
        PSF that methods are given; the true one may differ from it.
    srf
        Nominal spectral response of the MSI, shape (msi band, band); None where it is unknown.
    truth_noise
        Standard deviation of the noise of the target, shape (band,).
    seed
        For what is random about this pair.
    sensors
        Models of two sensors that it was made by; None: a Gaussian blur and white noise.
    """

    centre_nm: NDArray[np.float64]
    fwhm_nm: NDArray[np.float64]
    psf: Psf
    srf: NDArray[np.float64] | None
    truth_noise: NDArray[np.float64]
    seed: int
    sensors: TwoSensors | None = None


@dataclass(frozen=True)
class ReducedPair:
    """A window at reduced resolution; tensors on the device.

    Attributes
    ----------
    hsi, msi, target
        Shapes (band, row / ratio, col / ratio), (msi band, row, col), (band, row, col).
    valid
        Pixels that count, shape (row, col), float.
    ratio
        Fine pixels per coarse pixel.
    name
        Scene that it came from.
    facts
        How it was made.
    images
        What the task added on the fine grid: name -> (band, row, col), such as a base estimate.
    values
        What the task added about the whole window: name -> (1, ...), such as statistics.
    """

    hsi: Tensor
    msi: Tensor
    target: Tensor
    valid: Tensor
    ratio: int
    name: str
    facts: PairFacts
    images: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Tensor] = field(default_factory=dict)

    def batch(self) -> Batch:
        """Return the whole window as a batch of one."""
        return Batch(
            self.hsi[None], self.msi[None], self.target[None], self.valid[None],
            {name: image[None] for name, image in self.images.items()}, dict(self.values),
        )  # fmt: skip

    def window(self, rows: slice, cols: slice) -> ReducedPair:
        """Cut a window, rows and columns of the HSI."""
        fine = tuple(slice(part.start * self.ratio, part.stop * self.ratio) for part in (rows, cols))
        return replace(
            self, hsi=self.hsi[:, rows, cols], msi=self.msi[:, *fine], target=self.target[:, *fine],
            valid=self.valid[fine], images={name: image[:, *fine] for name, image in self.images.items()},
        )  # fmt: skip

    def middle(self, side: int) -> ReducedPair:
        """Cut the middle, at most ``side`` fine pixels wide; the whole window where nothing in it is valid."""
        parts = []
        for size in self.hsi.shape[1:]:
            kept = min(size, max(side // self.ratio, 1))
            start = (size - kept) // 2
            parts.append(slice(start, start + kept))
        middle = self.window(*parts)
        return middle if bool(middle.valid.any()) else self

    def patch(self, side: int, rng: np.random.Generator) -> Batch:
        """Cut a patch as a batch of one; of a few tries, the first that is mostly valid."""
        ratio, coarse = self.ratio, side // self.ratio
        best, best_share = (0, 0), -1.0
        for _ in range(_TRIES):
            row = int(rng.integers(self.hsi.shape[1] - coarse + 1))
            col = int(rng.integers(self.hsi.shape[2] - coarse + 1))
            share = float(self.valid[row * ratio : row * ratio + side, col * ratio : col * ratio + side].mean())
            if share > best_share:
                best, best_share = (row, col), share
            if share >= ENOUGH_VALID:
                break
        row, col = best
        return self.window(slice(row, row + coarse), slice(col, col + coarse)).batch()


@dataclass(frozen=True)
class Batch:
    """Patches, stacked: as :class:`ReducedPair`, with a patch axis in front."""

    hsi: Tensor
    msi: Tensor
    target: Tensor
    valid: Tensor
    images: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.hsi.shape[0])

    @property
    def pixels(self) -> int:
        """Fine pixels of all patches."""
        return self.valid.numel()

    @property
    def ratio(self) -> int:
        """Fine pixels per coarse pixel."""
        return int(self.msi.shape[-1] // self.hsi.shape[-1])

    def part(self, start: int, stop: int) -> Batch:
        """Return some of the patches."""
        cut = slice(start, stop)
        return Batch(
            self.hsi[cut], self.msi[cut], self.target[cut], self.valid[cut],
            {name: image[cut] for name, image in self.images.items()},
            {name: value[cut] for name, value in self.values.items()},
        )  # fmt: skip

    @classmethod
    def stack(cls, batches: Sequence[Batch]) -> Batch:
        """Join batches of equal patch size."""
        first = batches[0]
        return cls(
            torch.cat([b.hsi for b in batches]), torch.cat([b.msi for b in batches]),
            torch.cat([b.target for b in batches]), torch.cat([b.valid for b in batches]),
            {name: torch.cat([b.images[name] for b in batches]) for name in first.images},
            {name: torch.cat([b.values[name] for b in batches]) for name in first.values},
        )  # fmt: skip
