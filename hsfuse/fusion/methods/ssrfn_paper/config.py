"""Settings of SSRFN: everything that decides the network's shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hsfuse.errors import UsageError
from hsfuse.fusion.nets.choices import Activation, MambaKind, Scan, Volume, Wrap
from hsfuse.fusion.nets.settings import NetworkSettings

REFERENCE = "SSRFN, IEEE JSTARS 17 (2024), doi 10.1109/JSTARS.2024.3469184"


@dataclass(frozen=True)
class SsrfnConfig(NetworkSettings):
    """Everything that decides the network's shape. Defaults are the literal reading of the paper.

    Attributes
    ----------
    n_bands, n_msi
        Bands of the HSI and of the MSI.
    width
        Feature channels (not published; 256 reproduces the published parameter count).
    copies
        Neighbouring channels that were one before a trained network was widened: the spectral kernel steps over them,
        the softmax over channels counts them as one.
    base
        What the network's output is added to: nothing, or ``bicubic`` (the interpolated HSI).
    normalisation
        ``none``: reflectance as it is; ``band``: every band by its own mean and deviation in the scene;
        ``scalar``: all bands by one factor.
    dfe_blocks, cfe_cycles, scm_steps, refine_stages
        Repetitions: 5, 6, 16 and 4 in the paper.
    mamba, d_state, d_conv, expand, headdim, scan, mamba_wrap
        See :class:`hsfuse.fusion.nets.layers.SequenceMixer`. ``mamba="none"`` leaves a pure CNN.
    sfe_skip, activation, dfe_mamba, dfe_residual, dfe_sharing, cfe_mamba, cfe_shared, scm_gate, scm_shared,
    scm_residual, shuffle_ratio, volume, refine_merge, sper_scan, ffm_attention, ffm_source, ffm_projection
        Readings of the paper; see the modules and ``docs/methods.md``.
    use_correction
        False removes CFE and SCM (ablation).
    refinement
        ``both``, or ``spatial`` / ``spectral`` alone (ablation).
    """

    n_bands: int = 100
    n_msi: int = 4
    width: int = 256
    copies: int = 1
    base: Literal["none", "bicubic"] = "none"
    normalisation: Literal["none", "band", "scalar"] = "none"
    dfe_blocks: int = 5
    cfe_cycles: int = 6
    scm_steps: int = 16
    refine_stages: int = 4
    mamba: MambaKind = "mamba2"
    d_state: int = 64
    d_conv: int = 4
    expand: int = 2
    headdim: int = 64
    scan: Scan = "raster"
    mamba_wrap: Wrap = "residual"
    activation: Activation = "silu"
    sfe_skip: Literal["pairs", "whole"] = "pairs"
    dfe_mamba: Literal["input", "local", "none"] = "input"
    dfe_residual: bool = True
    dfe_sharing: Literal["all", "msi"] = "all"
    use_correction: bool = True
    cfe_mamba: Literal["hidden", "input", "none"] = "hidden"
    cfe_shared: bool = True
    scm_gate: Literal["tanh", "sigmoid", "one"] = "tanh"
    scm_shared: bool = True
    scm_residual: bool = False
    shuffle_ratio: int | None = None
    refinement: Literal["both", "spatial", "spectral"] = "both"
    volume: Volume = "shared"
    refine_merge: Literal["concat", "sum"] = "concat"
    sper_scan: Literal["same", "channels"] = "same"
    ffm_attention: Literal["elementwise", "matrix"] = "elementwise"
    ffm_source: Literal["fused", "streams"] = "fused"
    ffm_projection: Literal["each", "last"] = "each"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shuffle_ratio is not None and self.shuffle_ratio < 2:
            raise UsageError("shuffle_ratio must be at least 2.")
        if self.width % self.copies:
            raise UsageError(f"A width of {self.width} does not hold {self.copies} copies of every channel.")
