"""What a network would take on a GPU that is not at hand: operations and memory traffic counted, cards by their sheets.

    python benchmarks/roofline.py [--methods ssrfn-lite ssrfn ssrfn-paper] [--stages STAGES.json] [--cores 16]

The network runs once on PyTorch's ``meta`` device, which knows shapes and computes nothing: every operation is counted
with its arithmetic and with what it reads and writes in bfloat16. An operation takes the longer of its arithmetic at
``EFFICIENCY`` of the card's peak and its traffic at the same share of the memory's, and never less than a launch. The
stages of the CPU come from ``benchmarks/stage_scaling.py``, whose ``--json`` says what each takes on how many cores.

Nothing here is measured on a GPU. The assumptions stand at the top of the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from hsfuse.fusion.nets.ssm import Mamba2
from hsfuse.fusion.registry import METHODS

EFFICIENCY = 0.4
"""Share of the sheet's peak that convolutions, products and streams of these sizes usually reach."""
LAUNCH_S = 5e-6
TILE_PX, BATCH = 288, 4
FINE_PIXELS = 14.0e6
"""Fine pixels of a whole scene that a network is given, context included."""
BANDS, MSI_BANDS, RATIO = 100, 4, 3
ON_GPU = ("fuse", "learn from the scene")
"""Stages whose work the card does."""


@dataclass(frozen=True)
class Card:
    """A card by its data sheet: dense bf16 arithmetic in FLOP/s, memory and host link in bytes/s."""

    name: str
    flops: float
    memory: float
    link: float
    model: str
    """What its name holds in the driver's words."""


CARDS = (
    Card("H100 SXM", 989e12, 3.35e12, 50e9, "H100"),
    Card("RTX 4090", 165e12, 1.01e12, 22e9, "4090"),
    Card("RTX 4060 Laptop", 45e12, 0.256e12, 11e9, "4060"),
)
LENT = (Card("H200", 989e12, 4.8e12, 50e9, "H200"),)
"""Further cards that a machine may bring."""


@dataclass
class Counted(TorchDispatchMode):
    """Bytes that each operation reads and writes; views move nothing."""

    bytes: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False):
            moved = 0.0
            for item in torch.utils._pytree.tree_leaves((args, kwargs, out)):
                if isinstance(item, torch.Tensor):
                    moved += item.numel() * 2
            if moved:
                self.bytes.append(moved)
        return out


@dataclass(frozen=True)
class Work:
    """One batch of tiles: operations, bytes that each moves, fine pixels."""

    flops: float
    moved: Sequence[float]
    pixels: int


def fused_block(block: Mamba2, u: torch.Tensor) -> torch.Tensor:
    """A Mamba-2 block as this package's kernels run it: two products, and three kernels that pass over memory once."""
    joined = block.in_proj(u)
    convolved = joined[..., : block.d_inner + 2 * block.d_state] * 1.0
    # The scan in chunks of 64 tokens: scores, their product with the values, and two products with the state.
    scores = torch.matmul(u.new_empty(u.shape[0], u.shape[1], block.d_state), u.new_empty(block.d_state, 64))
    scanned = torch.matmul(scores, u.new_empty(64, block.d_inner)) + convolved[..., : block.d_inner]
    state = u.new_empty(block.d_inner, block.d_state)
    torch.matmul(scanned, state)
    gated = scanned * joined[..., : block.d_inner]
    out: torch.Tensor = block.out_proj(gated)
    return out


def count(method: str, tile_px: int = TILE_PX) -> Work:
    """Count what one batch of tiles takes.

    Raises
    ------
    ValueError
        The method is no network.
    """
    entry = METHODS.get(method).network
    if entry is None:
        raise ValueError(f"{method} is no network.")
    with torch.device("meta"):
        network = entry.build(entry.completed({**entry.settings, "n_bands": BANDS, "n_msi": MSI_BANDS})).eval()
        low = tile_px // RATIO
        hsi = torch.empty(BATCH, BANDS, low, low)
        msi = torch.empty(BATCH, MSI_BANDS, tile_px, tile_px)
        base = torch.empty(BATCH, BANDS, tile_px, tile_px)
        flops = FlopCounterMode(display=False)
        counted = Counted()
        with torch.no_grad(), flops, counted, patch.object(Mamba2, "forward", fused_block):
            network(hsi, msi, base)
    return Work(float(flops.get_total_flops()), counted.bytes, BATCH * tile_px**2)


def seconds(card: Card, work: Work, *, efficiency: float = EFFICIENCY, launch: float = LAUNCH_S) -> dict[str, float]:
    """Seconds of a whole scene by what binds."""
    batches = FINE_PIXELS / work.pixels
    traffic = sum(max(b / (efficiency * card.memory), launch) for b in work.moved) * batches
    arithmetic = work.flops / (efficiency * card.flops) * batches
    samples = FINE_PIXELS * (BANDS * (1 + 1 / RATIO**2) + MSI_BANDS) * 4
    return {"arithmetic": arithmetic, "memory and launches": traffic, "host link": samples / card.link}


def on_card(parts: Mapping[str, float]) -> float:
    """Seconds of the card: copies run beside the work; arithmetic and traffic of operations follow one another."""
    return max(parts["arithmetic"] + parts["memory and launches"], parts["host link"])


def roofline_share(name: str, method: str, fused_seconds: float, fine_pixels: float) -> float | None:
    """Share of a card's peaks (arithmetic and memory, no launches) that a fusion reached; None for unknown cards."""
    card = next((c for c in (*CARDS, *LENT) if c.model in name), None)
    if card is None or METHODS.get(method).network is None:
        return None
    bound = on_card(seconds(card, count(method), efficiency=1.0, launch=0.0)) * fine_pixels / FINE_PIXELS
    return bound / fused_seconds


def cpu_stages(path: Path, cores: int) -> dict[str, float]:
    """Seconds of the stages of the CPU, from what ``stage_scaling.py`` wrote."""
    found: dict[str, dict[str, float]] = json.loads(path.read_text())
    return {name: row[str(cores)] for name, row in found.items() if not set(name.split(" + ")) & set(ON_GPU)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["ssrfn-lite", "ssrfn", "ssrfn-paper"])
    parser.add_argument("--stages", type=Path, help="what `benchmarks/stage_scaling.py --json` wrote for a whole scene")
    parser.add_argument("--cores", type=int, default=16, help="cores of the workstation: 1, 2, 4, 8 or 16")
    args = parser.parse_args()
    launch, pixels = f"{LAUNCH_S * 1e6:.0f} us a launch", f"{FINE_PIXELS / 1e6:.0f} Mpx"
    print(f"Assumed: {EFFICIENCY:.0%} of the sheets' peaks, {launch}, {pixels},")
    print(f"bf16, {BATCH} tiles of {TILE_PX} pixels a call, Mamba blocks by fused kernels. Estimated, not measured.\n")
    rest = cpu_stages(args.stages, args.cores) if args.stages else {}
    if rest:
        print(f"Stages of the CPU on {args.cores} cores: {', '.join(f'{k} {v:.1f} s' for k, v in rest.items())}\n")
    print("| method | card | arithmetic | memory and launches | host link | GPU | scene | binding |")
    print("|---|---|---|---|---|---|---|---|")
    for method in args.methods:
        work = count(method)
        for card in CARDS:
            parts = seconds(card, work)
            stages = {**rest, "GPU": on_card(parts)}
            whole, binding = sum(stages.values()), max(stages, key=lambda name: stages[name])
            cells = [f"{value:.1f}" for value in (*parts.values(), stages["GPU"])]
            print(f"| {method} | {card.name} | {' | '.join(cells)} | {f'{whole:.1f}' if rest else ''} | {binding} |")


if __name__ == "__main__":
    main()
