"""From free memory to tile size and batch; what a plan will need."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from hsfuse.errors import MemoryBudgetError, UsageError
from hsfuse.fusion.base import ModelSpec
from hsfuse.inference.cards import free_bytes
from hsfuse.inference.layout import computed_pixels
from hsfuse.inference.tiling import TilePlan
from hsfuse.resources import Resources, held_bytes

_BASE_BYTES = 380 * 2**20
"""Interpreter, libraries and open files: what is assumed where the process itself is not looked at."""
CACHE_BYTES = 40 * 2**20
"""What libraries still take once they work: GDAL's blocks, code that is loaded later."""
LOADED_BYTES, LOADED_PIXEL_BYTES = 410_000_000, 11
"""What a process holds when changes are looked for: libraries, and per fine pixel what co-registration leaves."""
_NETWORK_BYTES = 128 * 2**20
"""Weights in the forms that kernels want, and what torch keeps for its convolutions."""
_RESULTS_UNDERWAY = 2
"""On a GPU besides the one that is computed: that of recorded work, which stays where it is, and one copied back."""
CARD_SLOTS = 5
"""Batches beside a card that have memory of the host's, for their tiles and what is made of them: one is cut out or
copied there, one computed, three are copied back or used."""
SLOT_ROOM = 1.125
"""Such memory is larger than its first batch wants: tiles differ by a few rows and columns."""
_FINISH_BYTES = 420 * 2**20
"""Building the product and judging it side by side, whatever the scene."""
_CGROUP = Path("/sys/fs/cgroup")
_HOST_SHARE, _VRAM_SHARE = 0.7, 0.85
_COMFORT_BYTES = 1_440_000_000
"""Without --max-memory no more than this is used as long as tiles stay sensible: more would hardly be faster.

What the process holds already counts as :data:`_BASE_BYTES` here, whatever it is: with memory to spare, equal runs
have equal tiles.
"""
_CARD_COMFORT_BYTES, _VRAM_COMFORT_BYTES = 8_000_000_000, 11_500_000_000
"""The same beside a card, whose tiles come and go through the host's memory, and of the card's own memory: a scene is
not fused faster by more than that, and a workstation has other uses for it."""
_NETWORK_COMFORT = 1.12
"""Networks may use so many times more: halos of small tiles cost them more than they cost classical methods."""
_SENSIBLE_WORK = 1.4
"""Tiles are sensible while their halos cost no more than this times the arithmetic of the largest ones that fit."""
_CARD_COLUMNS = (1, 2, 3, 4, 6, 8, 12)
"""Columns of tiles that a card may be given, where a method takes wide ones."""
_WIDER = 1.5
"""Tiles that are cut to fit may be so many times wider than a method prefers."""
_SIZES_PX = (512, 384, 256, 192, 160, 128, 112, 96, 80, 72, 64, 56, 48, 40, 32, 24, 16, 12, 8)


@dataclass(frozen=True)
class Budget:
    """Memory that a run may use, in bytes; ``vram`` is None on the CPU.

    ``comfort`` is what it uses when nothing forces it to use more, ``base`` what the process holds already.
    """

    host: int
    vram: int | None = None
    comfort: int | None = None
    base: int = _BASE_BYTES


@dataclass(frozen=True)
class Estimate:
    """What a plan needs.

    Attributes
    ----------
    plan
        Tiles.
    batch
        Tiles per call of the method.
    host_bytes
        Peak host memory.
    vram_bytes
        Peak GPU memory; 0 on the CPU.
    flop
        Arithmetic of the fusion step.
    pixels
        Fine pixels that the method is given in sum: tiles with their context.
    held_bytes
        What the process was taken to hold when it was planned: part of ``host_bytes``.
    """

    plan: TilePlan
    batch: int
    host_bytes: int
    vram_bytes: int
    flop: float
    pixels: int
    held_bytes: int = 0


def available_memory() -> int:
    """Free host memory in bytes, the control group's limit included."""
    free = int(psutil.virtual_memory().available)
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    try:
        text = limit.read_text(encoding="ascii").strip()
        if text != "max":
            # What files were read through the page cache counts as used, but is given up when memory is wanted.
            held = int(used.read_text(encoding="ascii")) - _reclaimable(used.with_name("memory.stat"))
            free = min(free, max(int(text) - max(held, 0), 0))
    except (OSError, ValueError):
        pass
    return free


def _reclaimable(stat: Path) -> int:
    """Bytes of a control group's page cache that the kernel drops first."""
    for line in stat.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            return int(value)
    return 0


def make_budget(resources: Resources) -> Budget:
    """Turn what a run may use, and what is free, into a budget."""
    held = held_bytes()
    host = resources.memory if resources.memory is not None else int(available_memory() * _HOST_SHARE) + held
    usual = _CARD_COMFORT_BYTES if resources.on_gpu else _COMFORT_BYTES
    comfort = None if resources.memory is not None else min(usual, host)
    if not resources.on_gpu:
        return Budget(host, None, comfort, held)
    # Of what is free now, whatever the card has: other processes keep what they hold.
    free = int(free_bytes(resources.device) * _VRAM_SHARE)
    return Budget(host, free if resources.vram is None else min(resources.vram, free), comfort, held)


def choose_plan(
    height: int,
    width: int,
    *,
    ratio: int,
    n_bands: int,
    n_msi: int,
    source_bands: int,
    spec: ModelSpec,
    budget: Budget,
    tile: int | None = None,
    overlap: int | None = None,
    sample_bytes: int = 2,
    workers: int = 1,
    wanted: NDArray[np.bool_] | None = None,
) -> Estimate:
    """Choose the largest sensible tile that fits the budget.

    Parameters
    ----------
    height, width
        Scene in HSI pixels.
    ratio, n_bands, n_msi
        Shape of the job.
    source_bands
        Bands that a read of the HSI touches.
    spec
        The method.
    budget
        Memory.
    tile, overlap
        Sides wanted by the user in **MSI** pixels; rounded up to whole HSI pixels (overlap to an even number).
    sample_bytes
        Bytes of an output sample.
    workers
        Tiles that are computed at the same time on the CPU.
    wanted
        HSI pixels that are expected to carry a result, shape (height, width): decides how much is computed, not
        which tiles are chosen. None: all.

    Raises
    ------
    MemoryBudgetError
        Even the smallest tile needs more memory.
    """
    blend = spec.overlap_px if overlap is None else -(-overlap // ratio)
    blend += blend % 2
    if tile is not None:
        side = -(-tile // ratio)
        if blend > side:
            raise UsageError(
                f"--overlap {overlap if overlap is not None else blend * ratio} is larger than --tile {tile}.",
                hint="Choose a larger --tile or a smaller --overlap.",
            )
        sizes: tuple[int, ...] = (side,)
    else:
        most = spec.preferred_tile_px if budget.vram is None else spec.card_tile_px or spec.preferred_tile_px
        sizes = tuple(size for size in _SIZES_PX if size <= most and size >= max(2 * blend, 8))
        sizes = sizes or (max(2 * blend, 8),)

    def estimated(plan: TilePlan, **options: Any) -> Estimate:
        return _estimate(
            plan, ratio, n_bands, n_msi, source_bands, spec, budget, sample_bytes, workers, **options
        )  # fmt: skip

    estimates = []
    for size in sizes:
        for wide in _widths(size, width, spec, blend, free=tile is None, on_card=budget.vram is not None):
            fitted = blend if min(size, max(height, width)) >= blend else 0
            abreast = 1 if budget.vram is not None else workers
            plan = TilePlan(
                height, width, size, fitted, spec.halo_px, spec.multiple_px, wide, abreast, padded=spec.padded
            )
            estimate = estimated(plan)
            vram_fits = budget.vram is None or estimate.vram_bytes <= budget.vram
            if estimate.host_bytes <= budget.host and vram_fits:
                estimates.append(estimate)
    if estimates:
        # Least arithmetic first. Without a limit from the user: the least that fits the comfort, else the smallest
        # sensible tiles, for tiny ones would save memory that is free and pay for it in computing halos. By the
        # largest tiles that a plan may have, so that the choice does not depend on the scene's height.
        overhead = partial(_overhead, on_card=budget.vram is not None)
        estimates.sort(key=lambda e: (overhead(e.plan), -e.plan.tile))
        # Of a card's memory no more than is of use, where tiles fit in that.
        estimates = [e for e in estimates if e.vram_bytes <= _VRAM_COMFORT_BYTES] or estimates
        sensible = [e for e in estimates if overhead(e.plan) <= _SENSIBLE_WORK * overhead(estimates[0].plan)]
        comfort = None
        if budget.comfort is not None:
            larger = _NETWORK_COMFORT if spec.kind == "network" else 1.0
            comfort = min(larger * budget.comfort + budget.base - _BASE_BYTES, budget.host)
        enough = [e for e in sensible if comfort is None or e.host_bytes <= comfort]
        chosen = enough[0] if enough else min(sensible, key=lambda e: e.host_bytes)
        return estimated(chosen.plan, largest=False, wanted=wanted)
    needed = max(estimate.host_bytes, 1)
    short = "GPU" if not vram_fits else "host"
    needed = estimate.vram_bytes if not vram_fits else needed
    elsewhere = ", or use --device cpu" if not vram_fits else ""
    raise MemoryBudgetError(
        f"The job needs at least {needed / 1e9:.1f} GB of {short} memory"
        f" and may use {(budget.vram if not vram_fits and budget.vram else budget.host) / 1e9:.1f} GB.",
        hint=f"Raise --max-memory or --max-vram, choose a smaller --tile, or cut the area with --aoi{elsewhere}.",
    )


def _widths(size: int, whole: int, spec: ModelSpec, blend: int, *, free: bool, on_card: bool) -> list[int | None]:
    """Widths of tiles that are so high, to choose from: wide and low ones cost less memory for the same halos."""
    if not free:
        return [None]
    if on_card and spec.card_tile_px is not None:
        # Even parts of the scene's width, down to one, with room for borders at multiples.
        step = spec.multiple_px
        parts = {-(-(whole + step - 1) // (count * step)) * step for count in _CARD_COLUMNS}
        return [None, *sorted(part for part in parts if part > size)]
    if blend == 0:  # as wide as possible: what is read at a time has the scene's width anyway
        return [spec.preferred_tile_px]
    if on_card:
        return [None]
    return [None, *(width for width in _SIZES_PX if size < width <= _WIDER * spec.preferred_tile_px)]


def _overhead(plan: TilePlan, *, on_card: bool) -> float:
    """Pixels that large scenes compute for each that they keep, by the tiles' sides."""
    context = plan.overlap + 2 * plan.halo
    across = 0 if on_card and plan.columns >= plan.width else context
    return (1.0 + context / plan.tile) * (1.0 + across / plan.columns)


def _estimate(
    plan: TilePlan, ratio: int, n_bands: int, n_msi: int, source_bands: int, spec: ModelSpec, budget: Budget,
    sample_bytes: int, workers: int, *, largest: bool = True, wanted: NDArray[np.bool_] | None = None,
) -> Estimate:  # fmt: skip
    cut_to_fit = budget.vram is None
    core, columns = min(plan.tile, plan.height), min(plan.columns, plan.width)
    if not largest:
        # Rows and columns are cut into even parts, which may be smaller.
        core = int(np.diff(plan.row_edges).max())
        columns = columns if cut_to_fit else int(np.diff(plan.col_edges).max())
    read_rows = min(core + plan.overlap + 2 * plan.halo, plan.height)
    shared = read_rows - core
    width, fine_width = plan.width, plan.width * ratio
    # Two strips that are fused, the one that is read ahead with its pieces, and what two strips share. Beside a card
    # the rows of two more are read in the place of one that is fused.
    strips = 3 if workers > 1 else 2
    hsi = width * n_bands * (5 * strips * read_rows + 4 * core + 4 * shared) + width * source_bands * 4 * core
    msi = read_rows * ratio * fine_width * (n_msi * 4 * (strips + 2) + 3 * strips)
    resampling = 54 * width * (n_bands + 16) * 4
    # Zones that tiles share: three lines of them, and one between each two neighbours.
    zones = 3 * fine_width + core * ratio * (plan.width // columns)
    summed = zones * plan.overlap * ratio * n_bands * 4
    # Rows of blended tiles are stored long before the first of the next is done: one buffer serves them.
    finished = core * ratio * fine_width * n_bands * sample_bytes * (1 if plan.overlap else 2)
    read_cols = min(columns + plan.overlap + 2 * plan.halo, width)
    tile_pixels = read_rows * read_cols * ratio * ratio
    working = spec.bytes_per_pixel
    if budget.vram is None and spec.host_bytes_per_pixel is not None:
        working = spec.host_bytes_per_pixel
    copies = 2 if budget.vram is None else 2 + _RESULTS_UNDERWAY
    per_tile = tile_pixels * (working + copies * 4 * n_bands + 4 * n_msi)
    batch = 1
    vram = 0
    base = budget.base + CACHE_BYTES
    host = base + hsi + msi + resampling + summed + finished
    weights = _NETWORK_BYTES if spec.kind == "network" else 0
    if budget.vram is not None:
        most = min(budget.vram, _VRAM_COMFORT_BYTES) - weights
        batch = max(1, min(int(most // max(per_tile, 1)), 16, plan.shape[1]))
        vram = weights + batch * per_tile
        blended = min(core + plan.overlap, plan.height) * min(columns + plan.overlap, width) * ratio * ratio
        one = blended * n_bands + tile_pixels * n_msi + tile_pixels // (ratio * ratio) * n_bands
        slots = min(CARD_SLOTS, plan.shape[0] * -(-plan.shape[1] // batch))
        host += int(slots * batch * one * 4 * SLOT_ROOM)
    else:
        host += weights + min(workers, len(plan)) * per_tile
    host = max(host, base + _FINISH_BYTES)
    pixels = _computed(plan, wanted if cut_to_fit else None) * ratio * ratio
    return Estimate(plan, batch, int(host), int(vram), pixels * spec.flop_per_pixel, pixels, budget.base)


def _computed(plan: TilePlan, wanted: NDArray[np.bool_] | None) -> int:
    """HSI pixels that the method is given in sum."""
    if wanted is not None:
        return computed_pixels(plan, wanted)
    # Blocks are products of row and column ranges, so the sum over all tiles is a product of two short sums.
    return plan.rows_read * plan.cols_read
