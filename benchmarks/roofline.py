"""What a network would take on a GPU that is not at hand: operations and memory traffic counted, cards by their sheets.

    python benchmarks/roofline.py [--methods ssrfn-lite ssrfn ssrfn-paper] [--stages GLP.json --card CARD.json]

The network runs once on PyTorch's ``meta`` device, which knows shapes and computes nothing, by the paths that a card
takes: every operation is counted with its arithmetic and with what it reads and writes in bfloat16. An operation takes
the longer of its arithmetic at ``EFFICIENCY`` of the card's peak and its traffic at the same share of the memory's, and
never less than a launch. How often it runs on a whole scene, and on how many pixels, says the plan of its tiles.

The stages of the CPU come from ``benchmarks/stage_scaling.py``: ``--stages`` of a run without a card, ``--card`` of one
beside a card that takes no time, whose rows *fuse* and *learn from the scene* are the host's part. Of fusing, the
longer of card and host counts.

Nothing here is measured on a GPU. The assumptions stand at the top of the table.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from hsfuse.fusion.create import create_method
from hsfuse.fusion.nets.ssm import Mamba2
from hsfuse.fusion.registry import METHODS
from hsfuse.inference.budget import Budget, choose_plan

EFFICIENCY = 0.4
"""Share of the sheet's peak that convolutions, products and streams of these sizes usually reach."""
LAUNCH_S = 5e-6
TILE_PX, BATCH = 288, 4
"""Of a network without blocks."""
FINE_PIXELS = 14.0e6
"""Fine pixels of a whole scene that such a network is given, context included."""
SCENE_PX = (1199, 1240)
"""HSI pixels of the whole scene."""
BANDS, MSI_BANDS, RATIO = 100, 4, 3
BASE_PASSES = 30
"""How often the base estimate is read or written in float32 while it is made, on the pixels that are read for it."""
LEARN_S = 1.0
"""Of learning on the card: a hundred steps of the guide's denoiser and a dozen windows at reduced resolution."""
GROUPS = {
    "start and decode": ("start, between stages, end", "open"),
    "co-register": ("co-register", "examine bands"),
    "blur, SWIR": ("estimate blur", "compare SWIR with VNIR"),
    "learn (host)": ("learn from the scene",),
    "write and judge": ("write", "judge"),
}
"""Groups of stages of the CPU."""


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
    """One call of a network: operations, bytes that each moves, fine pixels; and what a whole scene takes.

    Attributes
    ----------
    flops, moved, pixels
        Of one call.
    calls
        For a whole scene.
    base_pixels
        Fine pixels that the base estimate is made for.
    """

    flops: float
    moved: Sequence[float]
    pixels: int
    calls: float
    base_pixels: float = 0.0


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


def count(method: str) -> Work:
    """Count what a method takes.

    Raises
    ------
    ValueError
        The method is no network.
    """
    entry = METHODS.get(method).network
    if entry is None:
        raise ValueError(f"{method} is no network.")
    settings = entry.completed({**entry.settings, "n_bands": BANDS, "n_msi": MSI_BANDS})
    together, side, calls, base_pixels = BATCH, TILE_PX, FINE_PIXELS / (BATCH * TILE_PX**2), 0.0
    with torch.device("meta"):
        network = entry.build(settings).eval()
    if getattr(getattr(network, "config", None), "base", "none") == "estimate":
        together, side, calls, base_pixels = in_blocks(method)
    low = side // RATIO
    with torch.device("meta"):
        hsi = torch.empty(together, BANDS, low, low)
        msi = torch.empty(together, MSI_BANDS, side, side)
        base = torch.empty(together, BANDS, side, side)
        flops = FlopCounterMode(display=False)
        counted = Counted()
        with torch.no_grad(), flops, counted, patch.object(Mamba2, "forward", fused_block):
            network(hsi, msi, base)
    return Work(float(flops.get_total_flops()), counted.bytes, together * side**2, calls, base_pixels)


def in_blocks(method: str) -> tuple[int, int, float, float]:
    """Blocks of a call, their side, calls of a whole scene, fine pixels of its base estimate: by the plan of tiles."""
    fusion = create_method(method)
    blocks = fusion._blocks  # type: ignore[attr-defined]
    plan = choose_plan(
        *SCENE_PX, ratio=RATIO, n_bands=BANDS, n_msi=MSI_BANDS, source_bands=BANDS, spec=fusion.spec,
        budget=Budget(1 << 40, 40_000_000_000, None, 0), tile=None, overlap=None, sample_bytes=2, workers=1,
    ).plan  # fmt: skip
    calls, cells, base = 0, 0, 0.0
    for tile in plan:
        window, shape = tile.inner.slices, tile.read.shape
        alike = Counter(tuple(part.stop - part.start for part in one.near) for one in blocks.around(window, shape))
        calls, cells = calls + len(alike), cells + alike.total()
        rows, cols = blocks.needed(window, shape)
        base += (rows.stop - rows.start) * (cols.stop - cols.start) * RATIO**2
    side = RATIO * (blocks.side + blocks.overlap + 2 * blocks.context)
    return round(cells / calls), side, calls, base


def seconds(card: Card, work: Work, *, efficiency: float = EFFICIENCY, launch: float = LAUNCH_S) -> dict[str, float]:
    """Seconds of a whole scene by what binds."""
    passes = BASE_PASSES * work.base_pixels * BANDS * 4 / (efficiency * card.memory)
    traffic = sum(max(b / (efficiency * card.memory), launch) for b in work.moved) * work.calls + passes
    arithmetic = work.flops / (efficiency * card.flops) * work.calls
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
    """Seconds of groups of stages of the CPU, and of fusing, from what ``stage_scaling.py`` wrote.

    A row that holds stages of several groups belongs to the first of them.
    """
    found: dict[str, dict[str, float]] = json.loads(path.read_text())
    groups = dict.fromkeys((*GROUPS, "fuse"), 0.0)
    for name, row in found.items():
        own = name.split(" + ")
        group = next((group for group, stages in GROUPS.items() if set(own) & set(stages)), "fuse")
        groups[group] += row[str(cores)]
    return groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["ssrfn-lite", "ssrfn", "ssrfn-paper"])
    parser.add_argument("--stages", type=Path, help="what `benchmarks/stage_scaling.py --json` wrote for a whole scene")
    parser.add_argument("--card", type=Path, help="what it wrote with `--card`")
    parser.add_argument("--cores", type=int, default=16, help="cores of the workstation: 1, 2, 4, 8 or 16")
    args = parser.parse_args()
    launch, learning = f"{LAUNCH_S * 1e6:.0f} us a launch", f"{LEARN_S:.0f} s of learning on the card"
    print(f"Assumed: {EFFICIENCY:.0%} of the sheets' peaks, {launch}, {learning},")
    print("bf16, Mamba blocks by fused kernels, other operations one by one. Estimated, not measured.\n")
    rest = cpu_stages(args.stages, args.cores) if args.stages else {}
    host = 0.0
    if rest:
        del rest["fuse"]
        if args.card:
            beside = cpu_stages(args.card, args.cores)
            host, rest["learn (host)"] = beside["fuse"], beside["learn (host)"]
        print(f"The CPU on {args.cores} cores: {', '.join(f'{k} {v:.1f} s' for k, v in rest.items())};")
        print(f"its part of fusing, beside the card, {host:.1f} s\n")
    print("| method | card | network, Mpx | arithmetic | memory and launches | host link | GPU | scene | binding |")
    print("|---|---|---|---|---|---|---|---|---|")
    for method in args.methods:
        work = count(method)
        for card in CARDS:
            parts = seconds(card, work)
            gpu = on_card(parts)
            fuse = ("fuse (card)", gpu) if gpu > host else ("fuse (host)", host)
            stages = {**rest, "learn (card)": LEARN_S, fuse[0]: fuse[1]}
            whole, binding = sum(stages.values()), max(stages, key=lambda name: stages[name])
            cells = [f"{value:.1f}" for value in (work.pixels * work.calls / 1e6, *parts.values(), gpu)]
            print(f"| {method} | {card.name} | {' | '.join(cells)} | {f'{whole:.1f}' if rest else ''} | {binding} |")


if __name__ == "__main__":
    main()
