"""What a method would take on a GPU that is not at hand: operations and memory traffic counted, cards by their sheets.

    python benchmarks/roofline.py [--methods ssrfn ssrfn-paper] [--card CARD.json] [--count]

``ssrfn-paper`` runs once on PyTorch's ``meta`` device, which knows shapes and computes nothing; the work of methods
that weigh the experts of a scene is counted as ``card_work.py`` says (``--count`` counts it again). An operation takes
the longer of its arithmetic at ``EFFICIENCY`` of the card's peak and its traffic at the same share of the memory's, and
never less than a launch. How often it runs on a whole scene, and on how many pixels, says the plan of its tiles.

``--card`` is what ``benchmarks/stage_scaling.py --card`` wrote: the stages of the CPU in a run beside a card that takes
no time. Of fusing, the longer of card and host counts.

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

import card_work
import torch
from card_work import Calls
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from hsfuse.fusion.nets.ssm import Mamba2
from hsfuse.fusion.registry import METHODS

EFFICIENCY = 0.4
"""Share of the sheet's peak that convolutions, products and streams of these sizes usually reach."""
LAUNCH_S = 5e-6
CHUNK = 64
"""Tokens that the scan takes at a time."""
TILE_PX, BATCH = 288, 4
"""Of a network without blocks."""
FINE_PIXELS = 14.0e6
"""Fine pixels of a whole scene that such a network is given, context included."""
SCENE_PX = (1199, 1240)
"""HSI pixels of the whole scene."""
BANDS, MSI_BANDS, RATIO = 100, 4, 3
LEARN_S = 1.0
"""Of a network alone that learns on the card. What others learn there is counted with the host's part."""
GROUPS = {
    "start and decode": ("start, between stages, end", "open"),
    "co-register": ("co-register", "examine bands"),
    "blur, SWIR": ("estimate blur", "compare SWIR with VNIR"),
    "find changes": ("find changes",),
    "learn": ("learn from the scene",),
    "write and judge": ("write", "judge"),
}
"""Groups of stages of the CPU."""


@dataclass(frozen=True)
class Card:
    """A card by its data sheet: dense bf16 and float32 arithmetic in FLOP/s, memory and host link in bytes/s."""

    name: str
    flops: float
    single: float
    memory: float
    link: float
    model: str
    """What its name holds in the driver's words."""


CARDS = (
    Card("H100 SXM", 989e12, 67e12, 3.35e12, 50e9, "H100"),
    Card("RTX 4090", 165e12, 82e12, 1.01e12, 22e9, "4090"),
    Card("RTX 4060 Laptop", 45e12, 15e12, 0.256e12, 11e9, "4060"),
)
LENT = (Card("H200", 989e12, 67e12, 4.8e12, 50e9, "H200"),)
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
    """What a whole scene takes: pieces of work, and the fine pixels that they work on."""

    calls: Sequence[Calls]
    pixels: float


_kernels = torch.library.Library("counted", "DEF")
_kernels.define("causal_conv(Tensor x) -> Tensor")
_kernels.define("scan(Tensor x, Tensor steps, Tensor keys, Tensor queries) -> Tensor")
_kernels.define("gated_norm(Tensor y, Tensor z) -> Tensor")
for _place in ("CPU", "Meta"):
    for _name in ("causal_conv", "scan", "gated_norm"):
        _kernels.impl(_name, lambda x, *_: torch.empty_like(x), _place)


@register_flop_formula(torch.ops.counted.scan)
def _scan_arithmetic(x: Any, _: Any, keys: Any, *__: Any, **___: Any) -> float:
    """Of chunks of 64 tokens: scores, their product with the values, and two products with the state."""
    inner, states, tokens = x[-1], keys[-1], x[0] * x[1]
    return float(2 * tokens * (CHUNK * (states + inner) + 2 * states * inner))


def fused_block(block: Mamba2, u: torch.Tensor) -> torch.Tensor:
    """A Mamba-2 block as this package's kernels run it: two products, and three kernels that pass over memory once."""
    z, xbc, steps = block.in_proj(u).split([block.d_inner, block.d_inner + 2 * block.d_state, block.nheads], dim=-1)
    x, keys, queries = torch.ops.counted.causal_conv(xbc).split([block.d_inner, block.d_state, block.d_state], dim=-1)
    y = torch.ops.counted.scan(x, steps, keys, queries)
    out: torch.Tensor = block.out_proj(torch.ops.counted.gated_norm(y, z))
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
    if entry.any_bands:
        return Work(*card_work.of_scene(method, SCENE_PX, RATIO, BANDS, MSI_BANDS))
    settings = entry.completed({**entry.settings, "n_bands": BANDS, "n_msi": MSI_BANDS})
    low = TILE_PX // RATIO
    with torch.device("meta"):
        network = entry.build(settings).eval()
        hsi = torch.empty(BATCH, BANDS, low, low)
        msi = torch.empty(BATCH, MSI_BANDS, TILE_PX, TILE_PX)
        base = torch.empty(BATCH, BANDS, TILE_PX, TILE_PX)
        flops = FlopCounterMode(display=False)
        counted = Counted()
        with torch.no_grad(), flops, counted, as_kernels():
            network(hsi, msi, base)
    moved = [(size, 1) for size in counted.bytes]
    return Work([Calls(float(flops.get_total_flops()), moved, FINE_PIXELS / (BATCH * TILE_PX**2))], FINE_PIXELS)


def as_kernels() -> Any:
    """Let Mamba-2 blocks count as this package's kernels run them."""
    return patch.object(Mamba2, "forward", fused_block)


def seconds(card: Card, work: Work, *, efficiency: float = EFFICIENCY, launch: float = LAUNCH_S) -> dict[str, float]:
    """Seconds of a whole scene by what binds."""
    traffic = arithmetic = 0.0
    for calls in work.calls:
        once = sum(max(size / (efficiency * card.memory), launch) * number for size, number in calls.moved)
        traffic += once * calls.times
        arithmetic += calls.flops / (efficiency * (card.single if calls.single else card.flops)) * calls.times
    # The guide goes there to be cleaned, comes back, and goes there as it was and cleaned.
    samples = FINE_PIXELS * (BANDS * (1 + 1 / RATIO**2) + 4 * MSI_BANDS) * 4
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
    parser.add_argument("--card", type=Path, help="what `benchmarks/stage_scaling.py --card --json` wrote")
    parser.add_argument("--cores", type=int, default=16, help="cores of the workstation: 1, 2, 4, 8 or 16")
    parser.add_argument("--count", action="store_true", help="count the work of methods that weigh experts again")
    args = parser.parse_args()
    if args.count:
        some = [name for name in args.methods if getattr(METHODS.get(name).network, "any_bands", False)]
        found = {name: card_work.count(name, as_kernels()) for name in some}
        card_work.COUNTS.write_text(json.dumps(found) + "\n")
    launch, learning = f"{LAUNCH_S * 1e6:.0f} us a launch", f"{LEARN_S:.0f} s of learning of a network alone"
    print(f"Assumed: {EFFICIENCY:.0%} of the sheets' peaks, {launch}, {learning},")
    print("Mamba blocks by fused kernels, other operations one by one. Estimated, not measured.\n")
    rest = cpu_stages(args.card, args.cores) if args.card else {}
    host = rest.pop("fuse", 0.0)
    if rest:
        print(f"The CPU on {args.cores} cores: {', '.join(f'{k} {v:.1f} s' for k, v in rest.items())};")
        print(f"its part of fusing, writing and judging beside the card {host:.1f} s\n")
    print("| method | card | Mpx | arithmetic | memory and launches | host link | GPU | scene | binding |")
    print("|---|---|---|---|---|---|---|---|---|")
    for method in args.methods:
        work = count(method)
        for card in CARDS:
            parts = seconds(card, work)
            gpu = on_card(parts)
            fuse = ("fuse (card)", gpu) if gpu > host else ("fuse (host)", host)
            stages = {**rest, fuse[0]: fuse[1]}
            if not any(calls.single for calls in work.calls):
                stages["learn (card)"] = LEARN_S
            whole, binding = sum(stages.values()), max(stages, key=lambda name: stages[name])
            cells = [f"{value:.1f}" for value in (work.pixels / 1e6, *parts.values(), gpu)]
            print(f"| {method} | {card.name} | {' | '.join(cells)} | {f'{whole:.1f}' if rest else ''} | {binding} |")


if __name__ == "__main__":
    main()
