"""Settings of the gate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from hsfuse.fusion.methods.ssrfn_paper.config import SsrfnConfig
from hsfuse.fusion.nets.choices import MambaKind
from hsfuse.fusion.nets.fixed_blocks import FixedBlocks
from hsfuse.fusion.nets.settings import NetworkSettings

REFERENCE = "hsfuse; experts of the scene weighed by one network, after SSRFN (doi 10.1109/JSTARS.2024.3469184)"
ARCHITECTURE = "ssrfn-moe"
"""A mixture of experts (Jacobs et al., Neural Computation 3, 1991): the network is its gate."""
BASE = "glp"
"""Method of the base estimate."""
MOST_COMPONENTS = 10
PRESENT = 0.02
"""Components with less logarithmic strength count as absent."""
BLOCKS = FixedBlocks(side=16, overlap=0, context=2)
"""That a backbone with scans runs in. With weights of 2026-11-29 a simulated pair differs from one block around all of
it by 4e-6 in reflectance (root mean square; 5e-5 at most), and where blocks meet by no more than elsewhere."""


@dataclass(frozen=True)
class GateConfig(NetworkSettings):
    """Everything that decides the network's shape; bands, MSI bands and ratio do not.

    Attributes
    ----------
    width
        Feature channels.
    blocks
        Residual pairs of convolutions; of ``backbone="ssrfn"``, blocks of deep features.
    most
        Outputs beyond so many units of the estimate's error is compressed.
    backbone
        ``plain`` convolutions, or the modules of SSRFN: shallow and deep features of both images, cyclic correction,
        spatial and spectral refinement, feature fusion.
    mamba
        Kind of its scans; ``none`` for convolutions alone (``backbone="ssrfn"``).
    correction
        False leaves out the cyclic correction (``backbone="ssrfn"``; ablation).
    displaced
        A second set of weights for pairs that are displaced locally, as those of two sensors are; without one the
        estimate of such pairs stays.
    copies
        Neighbouring channels that were one in the narrower network that the weights were widened from, see
        :class:`SsrfnConfig` (``backbone="ssrfn"``).
    displaced_copies
        The same of the second set.
    change
        A head that changes the weights inside of changed ground, for pairs that are not displaced.
    """

    width: int = 16
    blocks: int = 1
    most: int = 8
    backbone: Literal["plain", "ssrfn"] = "plain"
    mamba: MambaKind = "mamba2"
    correction: bool = True
    displaced: bool = False
    copies: int = 1
    displaced_copies: int = 1
    change: bool = False

    @property
    def of_displaced(self) -> GateConfig:
        """Shape of the second set of weights."""
        return replace(self, displaced=False, copies=self.displaced_copies, displaced_copies=1, change=False)

    def modules(self, inputs: int, outputs: int) -> SsrfnConfig:
        """Return the shape of the modules of SSRFN that map so many inputs to so many outputs."""
        return SsrfnConfig(
            n_bands=outputs, n_msi=inputs, width=self.width, mamba=self.mamba, dfe_blocks=self.blocks,
            cfe_cycles=2, scm_steps=2, refine_stages=1, headdim=2 * self.width, d_state=16, scan="lines",
            dfe_sharing="msi", scm_residual=True, volume="depthwise", ffm_projection="last",
            use_correction=self.correction, copies=self.copies,
        )  # fmt: skip
