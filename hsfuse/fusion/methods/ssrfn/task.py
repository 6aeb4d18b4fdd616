"""How SSRFN is trained: it corrects the base estimate that a classical method makes of each reduced pair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.fusion.base import FusionContext, LowResolutionStrip
from hsfuse.fusion.classical.statistics import gather
from hsfuse.fusion.create import create_method
from hsfuse.fusion.guide_noise import GuideSample, guide_noise
from hsfuse.fusion.methods.ssrfn.config import DEFAULT_BASE
from hsfuse.fusion.methods.ssrfn.network import Ssrfn
from hsfuse.fusion.nets.layers import SequenceMixer
from hsfuse.fusion.nets.reduced_validation import error_without_noise
from hsfuse.fusion.nets.scene_statistics import SceneStatistics
from hsfuse.training.fusion_task import FusionTask, TaskSetup, low_resolution_strip
from hsfuse.training.losses import BaseError
from hsfuse.training.pairs import Batch, ReducedPair

ESTIMATE = "estimate"
_MISJUDGED = 0.3


class SsrfnTask(FusionTask):
    """SSRFN on reduced pairs.

    Parameters
    ----------
    network
        Its guide denoiser, if it has one, is trained apart and stays as it is.
    setup
        Data and settings.
    """

    network: Ssrfn

    def __init__(self, network: Ssrfn, setup: TaskSetup) -> None:
        if network.denoiser is not None:
            network.denoiser.requires_grad_(False)
        self.base = (setup.base or DEFAULT_BASE) if network.config.base == "estimate" else ""
        super().__init__(network, setup)

    def prepare(self, pair: ReducedPair) -> ReducedPair:
        """Add the base estimate, the statistics that a whole scene would have, and the base estimate's errors."""
        facts, strip = pair.facts, low_resolution_strip(pair)
        statistics = SceneStatistics.of_pair(gather([strip]), self.setup.device)
        pair = replace(pair, msi=self._denoised(pair, statistics))
        images = dict(pair.images)
        if self.base:
            images[ESTIMATE] = self._base_estimate(pair, strip)
        pair = replace(pair, images=images)
        error = BaseError.of(self.baseline(pair)[None], pair.target[None], pair.valid[None])
        if self.base:
            # In use the error is estimated without the noise of the truth that it was measured with.
            power = error.rms[0].square().double().cpu().numpy()
            judged = error_without_noise(power, facts.truth_noise) * _misjudgement(len(power), facts.seed)
            statistics = statistics._replace(error=self._tensor(judged)[None])
        return replace(pair, values={**pair.values, **statistics._asdict(), **error.as_values()})

    def fuse(self, batch: Batch) -> Tensor:
        """Correct the base estimates of patches."""
        base, change = self.network.parts(batch.hsi, batch.msi, batch.images.get(ESTIMATE), self.statistics(batch))
        return base + change.float()

    def baseline(self, pair: ReducedPair) -> Tensor:
        """Return the base estimate; cubic interpolation where the network has none."""
        return pair.images[ESTIMATE] if ESTIMATE in pair.images else super().baseline(pair)

    def save_memory(self, on: bool) -> bool:
        """Compute Mamba blocks twice instead of storing what they need for the gradient."""
        self.network.set_recompute(on)
        return not on or any(isinstance(module, SequenceMixer) for module in self.network.modules())

    def _denoised(self, pair: ReducedPair, statistics: SceneStatistics) -> Tensor:
        if self.network.denoiser is None:
            return pair.msi
        noise = guide_noise([GuideSample.take(pair.msi.cpu().numpy(), pair.valid.bool().cpu().numpy())])
        level = None if noise is None else self._tensor(noise)[None]
        return self.network.denoise(pair.msi[None], statistics, level)[0]

    def _base_estimate(self, pair: ReducedPair, strip: LowResolutionStrip) -> Tensor:
        method, facts = create_method(self.base), pair.facts
        context = FusionContext(
            pair.ratio, facts.centre_nm, facts.fwhm_nm, facts.srf, facts.psf, self.setup.device, facts.seed
        )
        method.fit(context, [strip])
        return method.fuse(pair.hsi[None], pair.msi[None])[0].float()

    def _tensor(self, values: NDArray[np.floating]) -> Tensor:
        return torch.as_tensor(np.array(values, dtype=np.float32), device=self.setup.device)


def _misjudgement(bands: int, seed: int) -> NDArray[np.float64]:
    """Factor by which the expected error is wrong: in use it is known from lower resolution only."""
    rng = np.random.default_rng([seed, 4])
    common, slope = rng.normal(0.0, (_MISJUDGED, 0.5 * _MISJUDGED))
    own = rng.normal(0.0, 0.3 * _MISJUDGED, bands)
    return np.asarray(np.exp(common + slope * np.linspace(-1.0, 1.0, bands) + own))
