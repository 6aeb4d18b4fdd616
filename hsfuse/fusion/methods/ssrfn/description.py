"""What a gate says of itself: the context that it needs, and what it costs."""

from __future__ import annotations

import math

from hsfuse.fusion.base import ModelSpec, Quality
from hsfuse.fusion.create import create_method
from hsfuse.fusion.map.refinement import component_halo_px, last_pass_px, nonlocal_halo_px
from hsfuse.fusion.methods.ssrfn.config import BASE, REFERENCE, GateConfig
from hsfuse.fusion.methods.ssrfn.network import INPUTS, OUTPUTS
from hsfuse.fusion.methods.ssrfn_paper.cost import flop_per_pixel
from hsfuse.fusion.nets.fixed_blocks import FixedBlocks
from hsfuse.fusion.nets.native.abi import MULTIPLE

_EXPERTS_PX, _AFTER_PX = 4, 8
"""HSI pixels that estimates and windows of the experts look at, and one pass of non-local Bayes; and the estimate that
follows the network, which trusts the guide less and looks farther: tiles differ from the whole by 2e-5, with four and
six by 9e-5, with four and four by 6e-4. What looks farther behind that with ``best`` comes beyond."""
_BYTES_PER_PIXEL, _HOST_BYTES_PER_PIXEL = 4500, 600
"""On a card and on a processor, where less is worked on at a time; fitted to measured peaks, rounded up."""
_PLAIN_TILE, _BLOCKS_TILE, _BEST_TILE = (56, 144), (64, 128), (48, 80)
"""Rows and columns of usual tiles on a processor with a plain backbone, with one in blocks, and with ``best``, HSI
pixels: that reads more around a tile, and narrower ones keep a whole scene below 2 GB. Rows are what plans choose."""
_CARD_TILE_PX = 128
"""Rows of tiles on a card: ten of a scene, so that little is left to be written and judged after the last."""
_FLOP_PER_PIXEL, _TOUCHED_BYTES_PER_PIXEL = 5.5e5, 300
"""Of experts, plain backbone and what follows, and what their time on a CPU is made up to."""
_NONLOCAL_FLOP_PER_PIXEL, _NONLOCAL_TOUCHED_BYTES_PER_PIXEL = 1.45e6, 4200
"""The same of non-local Bayes of components, which waits more than it multiplies; per pixel that it looks at: those of
the tile and of its own reach around it (whole scenes, 2026-11-29)."""
_QUICK = 0.145
"""Share of that for the one pass that ``standard`` asks."""
_LAST_PASS = 0.22
"""The same for the last pass of ``best``: 2.8 s of processor time a million pixels for 12.5 of both experts."""
_SLOWER, _SLOWER_PLAIN = 2.0, 10.0
"""Times as long as theirs that operations of narrow modules of SSRFN take, with compiled Mamba blocks and without:
measured on a whole scene, and on blocks of 20 x 20 HSI pixels at a width of 8 (2026-11-29, cores with AVX-512)."""
_IN_BLOCKS = 0.53
"""Share of the pixels read that blocks show: tiles are read to and from whole blocks, beyond what these need (48 x 96
HSI pixels; a little more in wider ones)."""


def experts_px(quality: Quality, ratio: int) -> int:
    """HSI pixels that the experts look at."""
    return _EXPERTS_PX + (component_halo_px(ratio) if quality == "best" else 0)


def after_px(quality: Quality, ratio: int) -> int:
    """HSI pixels that what follows the network looks at."""
    return _AFTER_PX + (last_pass_px(ratio) if quality == "best" else 0)


def base_halo_px(ratio: int, *, filtered: bool) -> int:
    """HSI pixels that the base method looks at, and the cleaning of the guide where that is not ``filtered`` before."""
    return create_method(BASE).spec.halo_px + (0 if filtered else nonlocal_halo_px(ratio))


def backbone_flop(config: GateConfig, ratio: int) -> float:
    """Operations of a backbone per fine pixel that it is given."""
    if config.backbone == "ssrfn":
        return flop_per_pixel(config.modules(INPUTS, OUTPUTS), ratio)
    width = config.width
    return 2.0 * 9 * (INPUTS * width + 2 * config.blocks * width**2 + width * OUTPUTS)


def _halo_px(blocks: FixedBlocks | None, quality: Quality, ratio: int, *, filtered: bool) -> int:
    """HSI pixels that tiles are read with around what is wanted."""
    px = base_halo_px(ratio, filtered=filtered) + experts_px(quality, ratio)
    if blocks is not None:
        # Tiles are read from and to whole blocks: around what the estimate that follows looks at there is then all of
        # the blocks that are needed, and whole blocks hold what these look at beyond.
        px = -(-(px + blocks.context) // blocks.side) * blocks.side
    return px + after_px(quality, ratio)


def _share(tile: tuple[int, int], halo_px: int, planned_px: int) -> float:
    """Pixels of a tile with a halo over those with the planned one."""
    return math.prod((size + 2 * halo_px) / (size + 2 * planned_px) for size in tile)


def describe(
    config: GateConfig, blocks: FixedBlocks | None, *, name: str, sha256: str | None, quality: Quality, ratio: int,
    filtered: bool, estimate: ModelSpec | None,
) -> ModelSpec:  # fmt: skip
    """Return the description.

    Parameters
    ----------
    config, blocks, name, sha256
        The network, the blocks that its backbone runs in, and its weights.
    quality, ratio
        What it runs with.
    filtered
        Whether the guide comes cleaned.
    estimate
        Of the estimate without the gate, where the scene left the gate out; else None.
    """
    inner = create_method(BASE).spec
    halo_px = _halo_px(blocks, quality, ratio, filtered=filtered)
    best = quality == "best"
    tile = _BEST_TILE if best else _PLAIN_TILE if blocks is None else _BLOCKS_TILE
    near = (1.0 if best else _QUICK) * _share(tile, component_halo_px(ratio), halo_px)
    if best:
        near += _LAST_PASS * _share(tile, last_pass_px(ratio), halo_px)
    flop = inner.flop_per_pixel + _FLOP_PER_PIXEL + near * _NONLOCAL_FLOP_PER_PIXEL
    touched = _TOUCHED_BYTES_PER_PIXEL + near * _NONLOCAL_TOUCHED_BYTES_PER_PIXEL
    if blocks is not None:
        slower = _SLOWER if config.width % MULTIPLE == 0 else _SLOWER_PLAIN
        flop += _IN_BLOCKS * slower * backbone_flop(config, ratio) * (blocks.given_px / blocks.side) ** 2
    # The guide is cleaned once for the scene before it is fused: tiles are read with less around them than planned.
    later = _halo_px(blocks, quality, ratio, filtered=True)
    read = 1.0 if best else _share(tile, later, halo_px)
    return ModelSpec(
        name=name,
        kind="network",
        halo_px=halo_px if estimate is None else estimate.halo_px,
        multiple_px=1 if blocks is None or estimate is not None else blocks.side,
        padded=False,
        # The repaired guide and the confidence of the whole scene are in memory too: rows of small tiles.
        preferred_tile_px=tile[1],
        card_tile_px=_CARD_TILE_PX,
        bytes_per_pixel=max(_BYTES_PER_PIXEL, inner.bytes_per_pixel),
        host_bytes_per_pixel=max(_HOST_BYTES_PER_PIXEL, inner.bytes_per_pixel),
        flop_per_pixel=read * flop,
        touched_bytes_per_pixel=round(read * touched),
        centre_nm=None,
        ratios=None,
        n_msi=None,
        reference=REFERENCE,
        weights_sha256=sha256,
    )
