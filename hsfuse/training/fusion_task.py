"""Tasks that learn to fuse from reduced pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hsfuse.degrade import lowpass_decimate, upsample
from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.fusion.classical.statistics import gather
from hsfuse.fusion.create import create_method
from hsfuse.fusion.nets.reduced_validation import error_without_noise
from hsfuse.fusion.nets.scene_statistics import SceneStatistics
from hsfuse.training.distributed import Team
from hsfuse.training.losses import BaseError, FusionLoss
from hsfuse.training.pairs import Batch, ReducedPair
from hsfuse.training.reducer import Reducer
from hsfuse.training.scenes import SceneEntry
from hsfuse.training.source import PatchSource, Sampling
from hsfuse.training.task import TrainingTask
from hsfuse.training.validation import COLUMNS, ValidationScores, validate

ESTIMATE = "estimate"
"""Name of the base estimate among the images of a pair."""
_MISJUDGED = 0.3


@dataclass(frozen=True)
class TaskSetup:
    """What a task is made from, beside its network.

    Attributes
    ----------
    entries
        Scenes.
    sampling
        How patches are drawn.
    centre_nm, fwhm_nm
        Bands, shape (band,).
    loss
        What the user wants to be minimised; tasks with a loss of their own pass it over.
    base
        Method of the base estimate that the start weights were trained with; empty: as the task has it.
    device
        Torch device name.
    cache
        Folder for what tasks would work out again and again; None: it is kept in memory or made anew.
    """

    entries: Sequence[SceneEntry]
    sampling: Sampling
    centre_nm: NDArray[np.float64]
    fwhm_nm: NDArray[np.float64]
    loss: FusionLoss = field(default_factory=FusionLoss)
    base: str = ""
    device: str = "cpu"
    cache: Path | None = None

    def source(self, prepare: Callable[[ReducedPair], ReducedPair]) -> PatchSource:
        """Return the source of the task's patches.

        Raises
        ------
        InputError
            No scene is large enough.
        """
        reducer = Reducer(self.centre_nm, self.fwhm_nm, self.device)
        return PatchSource(self.entries, self.sampling, reducer, prepare)


def low_resolution_strip(pair: ReducedPair) -> LowResolutionStrip:
    """Return a pair as methods get a scene to learn from."""
    low = lowpass_decimate(pair.msi[None], pair.ratio, pair.facts.psf)[0]
    rows, cols = pair.hsi.shape[1:]
    valid = pair.valid.bool().cpu().numpy().reshape(rows, pair.ratio, cols, pair.ratio).all(axis=(1, 3))
    seen = torch.where(pair.valid > 0, pair.msi, torch.nan).cpu().numpy()
    return LowResolutionStrip(pair.hsi.cpu().numpy(), low.cpu().numpy(), np.asarray(valid), fine=seen)


class PatchTask(TrainingTask):
    """A network that learns from patches of reduced pairs. Subclasses say what from, and how.

    Parameters
    ----------
    network
        Moved to the device.
    setup
        Data and settings.
    """

    network: nn.Module

    def __init__(self, network: nn.Module, setup: TaskSetup) -> None:
        self.network = network.to(setup.device)
        self.setup = setup
        self.source = setup.source(self.prepare)

    @property
    def batch_size(self) -> int:
        """Patches of a step, over all processes."""
        return self.source.batch_size

    @property
    def epoch_steps(self) -> int:
        """Steps in which the patches cover the area of all training strips once."""
        return self.source.epoch_steps

    @cached_property
    def validation_pairs(self) -> list[ReducedPair]:
        """Windows that validate."""
        return self.source.validation()

    @abstractmethod
    def prepare(self, pair: ReducedPair) -> ReducedPair:
        """Turn a pair into what the network learns from; done once for each window."""

    def start(self) -> None:
        """Make the windows that validate."""
        _ = self.validation_pairs

    def close(self) -> None:
        """End the source's helper thread."""
        self.source.close()


class FusionTask(PatchTask):
    """A network that fuses pairs. Subclasses say how, in :meth:`fuse`."""

    columns = COLUMNS

    def prepare(self, pair: ReducedPair) -> ReducedPair:
        """Add to a pair what the network needs beside HSI and MSI; done once for each window.

        Here: the statistics that a whole scene would have (see :meth:`statistics`), and the errors of the baseline,
        with which the relative loss compares.

        Raises
        ------
        OverlapError
            The window is of no use: too few of its pixels are valid.
        """
        strip = low_resolution_strip(pair)
        statistics = SceneStatistics.of_pair(gather([strip]), self.setup.device)
        return self.with_statistics(self.with_estimate(pair, strip), statistics)

    def with_estimate(self, pair: ReducedPair, strip: LowResolutionStrip) -> ReducedPair:
        """Add the base estimate, where the task has one: what a classical method makes of the pair."""
        if not self.base:
            return pair
        method, facts = create_method(self.base), pair.facts
        context = FusionContext(
            pair.ratio, facts.centre_nm, facts.fwhm_nm, facts.srf, facts.psf, self.setup.device, facts.seed
        )
        method.fit(context, [strip])
        estimate = method.fuse(pair.hsi[None], pair.msi[None])[0].float()
        return replace(pair, images={**pair.images, ESTIMATE: estimate})

    def with_statistics(self, pair: ReducedPair, statistics: SceneStatistics) -> ReducedPair:
        """Add the scene's statistics and the errors of the baseline."""
        error = BaseError.of(self.baseline(pair)[None], pair.target[None], pair.valid[None])
        if self.base:
            # In use the error is estimated without the noise of the truth that it was measured with.
            power = error.rms[0].square().double().cpu().numpy()
            judged = error_without_noise(power, pair.facts.truth_noise) * _misjudgement(len(power), pair.facts.seed)
            told = torch.as_tensor(judged.astype(np.float32), device=self.setup.device)
            statistics = statistics._replace(error=told[None])
        return replace(pair, values={**pair.values, **statistics._asdict(), **error.as_values()})

    @staticmethod
    def statistics(batch: Batch) -> SceneStatistics:
        """Statistics of the windows that patches come from."""
        return SceneStatistics(*(batch.values[name] for name in SceneStatistics._fields))

    def sample(self, step: int, rank: int = 0, size: int = 1) -> Batch:
        """Return the patches of a step."""
        return self.source.batch(step, rank, size)

    @abstractmethod
    def fuse(self, batch: Batch) -> Tensor:
        """Fuse patches with the network as it is, shape (n, band, row, col)."""

    def loss(self, sample: Any, group: str, step: int) -> Tensor:  # noqa: ARG002 - one group, all steps alike
        """Return the chosen loss of the fused patches."""
        return self.fusion_loss(self.fuse(sample), sample)

    def fusion_loss(self, fused: Tensor, batch: Batch) -> Tensor:
        """Return the chosen loss, shape (n,)."""
        return self.setup.loss(
            fused, batch.target, batch.values["std"], batch.valid, BaseError.from_values(batch.values)
        )

    def predict(self, pair: ReducedPair) -> Tensor:
        """Fuse a whole window, shape (band, row, col)."""
        return self.fuse(pair.batch())[0]

    def baseline(self, pair: ReducedPair) -> Tensor:
        """What the network is compared with: the base estimate, or cubic interpolation where there is none."""
        return pair.images[ESTIMATE] if ESTIMATE in pair.images else upsample(pair.hsi[None], pair.ratio)[0]

    def validate(self, team: Team) -> ValidationScores:
        """Score the network on the validation windows."""
        return validate(self.predict, self.baseline, self.validation_pairs, team)


class SupervisedTask(FusionTask):
    """A network that is called with HSI and MSI and returns the cube.

    Parameters
    ----------
    network
        ``network(hsi, msi)`` returns (n, band, row, col).
    setup
        Data and settings.
    statistics
        Call it as ``network(hsi, msi, statistics)`` with :class:`SceneStatistics`.
    loss
        Loss of the network's own: called with the fused patches and the batch, returns one value per patch. None: the
        one that the user chose.
    """

    def __init__(
        self,
        network: nn.Module,
        setup: TaskSetup,
        *,
        statistics: bool = False,
        loss: Callable[[Tensor, Batch], Tensor] | None = None,
    ) -> None:
        super().__init__(network, setup)
        self._takes_statistics, self._loss = statistics, loss

    def fuse(self, batch: Batch) -> Tensor:
        """Call the network."""
        more = (self.statistics(batch),) if self._takes_statistics else ()
        fused: Tensor = self.network(batch.hsi, batch.msi, *more)
        return fused

    def fusion_loss(self, fused: Tensor, batch: Batch) -> Tensor:
        """Return the network's own loss, or the chosen one."""
        return super().fusion_loss(fused, batch) if self._loss is None else self._loss(fused.float(), batch)


def _misjudgement(bands: int, seed: int) -> NDArray[np.float64]:
    """Factor by which the expected error is wrong: in use it is known from lower resolution only."""
    rng = np.random.default_rng([seed, 4])
    common, slope = rng.normal(0.0, (_MISJUDGED, 0.5 * _MISJUDGED))
    own = rng.normal(0.0, 0.3 * _MISJUDGED, bands)
    return np.asarray(np.exp(common + slope * np.linspace(-1.0, 1.0, bands) + own))
