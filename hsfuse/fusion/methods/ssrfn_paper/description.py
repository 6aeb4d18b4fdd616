"""What an SSRFN says of itself, from its configuration and the header of its weights: PyTorch is not needed."""

from __future__ import annotations

from hsfuse.fusion.base import ModelSpec, Precision
from hsfuse.fusion.create import create_method
from hsfuse.fusion.methods.ssrfn_paper.config import DEFAULT_BASE, REFERENCE, SsrfnConfig
from hsfuse.fusion.methods.ssrfn_paper.cost import (
    bytes_per_pixel,
    denoiser_flop_per_pixel,
    flop_per_pixel,
    host_bytes_per_pixel,
)
from hsfuse.fusion.nets.context import CORRECTION_CONTEXT
from hsfuse.fusion.nets.denoising_effort import LAYERS, STEPS, TURNS, learned_pixels
from hsfuse.fusion.nets.fixed_blocks import FixedBlocks
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.native.build import native_library

DEFAULT_OVERLAP_PX = 2
"""Blended overlap of a network without own figures, HSI pixels."""
BLOCK_PX = 32
"""Side of the blocks that a correction is computed in, HSI pixels: twice the side of training patches."""
BLOCK_OVERLAP_PX = 2
"""Width of the zone in which two blocks are blended, HSI pixels."""
DENOISER_REACH_PX = -(-(LAYERS + 1) // 2)
"""How far the guide's denoiser looks, HSI pixels at the smallest ratio."""
_SHARE_IN_BLOCKS = 0.5
"""Of what is read for a tile of usual size, what its blocks and their contexts amount to; the rest is margin."""
SAMPLE_BYTES: dict[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2}


def describe(
    config: SsrfnConfig, *, name: str, header: NetworkHeader | None, sha256: str | None, precision: Precision,
    context_px: int, estimate: ModelSpec | None, denoiser_steps: int = STEPS, thorough: bool = False,
) -> ModelSpec:  # fmt: skip
    """Return the description.

    Parameters
    ----------
    config, name, header, sha256, precision
        The network and its weights.
    context_px
        Context that the network itself is given, HSI pixels.
    estimate
        Of the base estimate that is corrected; None without one.
    denoiser_steps, thorough
        Effort for the guide's denoiser.
    """
    sample_bytes = SAMPLE_BYTES[precision]
    halo_px, side, share, held = context_px, 1, 1.0, host_bytes_per_pixel(
        config, sample_bytes, compiled=native_library() is not None
    )  # fmt: skip
    if estimate is not None:
        halo_px = blocks_of(context_px).margin_px + estimate.halo_px + DENOISER_REACH_PX
        # The features of one block are in memory at a time, and cubes are as large as all blocks together;
        # two of what is read count already.
        side, share, cubes = BLOCK_PX, _SHARE_IN_BLOCKS, 8 * config.n_bands
        held = max(int(share * (cubes + max(cubes, estimate.bytes_per_pixel))) - cubes, 0)
    return ModelSpec(
        name=name,
        kind="network",
        halo_px=halo_px,
        overlap_px=header.overlap_px if header and header.overlap_px else DEFAULT_OVERLAP_PX,
        multiple_px=side,
        padded=False,
        preferred_tile_px=128,
        # The base estimate is finished before the network starts.
        bytes_per_pixel=max(bytes_per_pixel(config, sample_bytes), estimate.bytes_per_pixel if estimate else 0),
        host_bytes_per_pixel=held,
        flop_per_pixel=share * flop_per_pixel(config)
        + (estimate.flop_per_pixel if estimate else 0.0)
        + (TURNS - 1) * denoiser_flop_per_pixel(config) * thorough,
        learn_flop=denoiser_flop_per_pixel(config) * learned_pixels(denoiser_steps),
        centre_nm=header.centre_nm if header else None,
        ratios=header.ratios if header else None,
        n_msi=config.n_msi,
        precisions=tuple(SAMPLE_BYTES),
        precision=precision,
        reference=REFERENCE,
        weights_sha256=sha256,
    )


def blocks_of(context_px: int) -> FixedBlocks:
    """Blocks that a correction with such a context is computed in."""
    return FixedBlocks(BLOCK_PX, BLOCK_OVERLAP_PX, context_px)


def foresee(header: NetworkHeader, sha256: str, precision: Precision) -> ModelSpec | None:
    """Say what a network with such weights would say of itself; None where that takes the network."""
    config = SsrfnConfig.from_dict(dict(header.config))
    if config.base != "estimate":
        return None
    estimate = create_method(header.base or DEFAULT_BASE).spec
    return describe(
        config, name=header.name, header=header, sha256=sha256, precision=precision,
        context_px=header.halo_px or CORRECTION_CONTEXT.features, estimate=estimate,
    )  # fmt: skip
