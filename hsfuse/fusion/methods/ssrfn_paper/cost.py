"""What a network costs per fine pixel: arithmetic from its configuration, memory from measured peaks."""

from __future__ import annotations

from hsfuse.fusion.methods.ssrfn_paper.config import SsrfnConfig

_CHUNK = 32
_SMALLEST_RATIO = 3
"""That it is trained for as a rule."""


def flop_per_pixel(config: SsrfnConfig, ratio: int = 3) -> float:
    """Floating point operations per fine pixel in convolutions and matrix products (a multiply-add counts 2)."""
    width, bands, guide = config.width, config.n_bands, config.n_msi
    deep = config.dfe_blocks * (3 * _conv(width, width) + (_mamba(config, width) if config.dfe_mamba != "none" else 0))

    fine = _shallow(guide, width) + deep
    coarse = _shallow(bands, width) + deep
    if config.use_correction:
        coarse += _shallow(guide, width) + deep + _conv(2 * width, 3 * width)
        cycle = _conv(width, 3 * width) + (_mamba(config, width) if config.cfe_mamba == "hidden" else 0)
        coarse += config.cfe_cycles * cycle + (_mamba(config, 2 * width) if config.cfe_mamba == "input" else 0)
        fine += config.scm_steps * _conv(width, width)

    merged = 4 * width if config.refine_merge == "concat" else 2 * width
    branches = 2 if config.refinement == "both" else 1
    fine += branches * (config.refine_stages * _mamba(config, 2 * width) + 2 * merged * width)
    spatial = 2 * 9 * 2 * width if config.volume != "full" else _conv(2 * width, 2 * width)
    spectral = 2 * (2 * width) ** 2
    fine += config.refine_stages * (
        (spatial if config.refinement != "spectral" else 0) + (spectral if config.refinement != "spatial" else 0)
    )

    fine += 6 * _mamba(config, width) + 2 * width * bands * (3 if config.ffm_projection == "each" else 1)
    return float(fine + coarse / ratio**2)


def reach_px(config: SsrfnConfig) -> int:
    """How far the convolutions on the fine grid look, HSI pixels at a ratio of 3; scans look further."""
    shallow, deep, refined = 4, 3 * config.dfe_blocks, config.refine_stages
    return -(-(shallow + deep + (config.scm_steps if config.use_correction else 0) + refined) // _SMALLEST_RATIO)


def bytes_per_pixel(config: SsrfnConfig, sample_bytes: int = 4) -> int:
    """Working memory per fine pixel on a GPU, where everything is done at once; beyond input and output."""
    return 18 * config.width * sample_bytes + 6 * config.n_bands


def host_bytes_per_pixel(config: SsrfnConfig, sample_bytes: int = 4, *, compiled: bool = False) -> int:
    """Working memory per fine pixel on a CPU, beyond input and output; fitted to measured peaks, rounded up.

    ``sample_bytes`` belong to a sample of the network's arithmetic. Both ways go through a block's tokens in pieces,
    so that hardly more than inputs and outputs of blocks is held.
    """
    maps, images = (11, 2) if compiled else (14, 3)
    return maps * config.width * sample_bytes + images * config.n_bands


def _conv(inputs: int, outputs: int) -> int:
    return 2 * 9 * inputs * outputs


def _shallow(inputs: int, width: int) -> int:
    return _conv(inputs, width) + 3 * _conv(width, width) + 2 * inputs * width


def _mamba(config: SsrfnConfig, width: int) -> int:
    """Operations of one Mamba block per token."""
    inner, state = config.expand * width, config.d_state
    if config.mamba == "none":
        return 0
    if config.mamba == "mamba1":
        rank = -(-width // 16)
        projections = 2 * (width * 2 * inner + inner * (rank + 2 * state) + rank * inner + inner * width)
        return projections + 2 * config.d_conv * inner + 8 * inner * state
    heads = inner // min(config.headdim, inner)
    projections = 2 * (width * (2 * inner + 2 * state + heads) + inner * width)
    convolution = 2 * config.d_conv * (inner + 2 * state)
    scan = 2 * _CHUNK * (state + inner) + 4 * inner * state
    runs = {"bidirectional": 2, "cross": 4}.get(config.scan, 1)
    return runs * (projections + convolution + scan)
