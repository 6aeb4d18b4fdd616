"""What a card does for a method that weighs the experts of a scene: operations counted, by the paths that it takes.

    python benchmarks/roofline.py --count

The method is fitted to a small scene of 100 bands on a card that is pretended (``tests/gpu/pretend_card.py``), on
which every operation is noted with its arithmetic and with the bytes that it reads and writes. Two pieces of work are
counted: cleaning the guide, and one tile from the cleaned guide to all bands. A whole scene takes them as often, and in
such sizes, as blocks and tiles of its plan say. ``card_work.json`` keeps the counts: they take two minutes of a
processor.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from hsfuse.degrade.windows import grown
from hsfuse.fusion.create import create_method
from hsfuse.fusion.map.patch_search import grid_size
from hsfuse.fusion.map.refinement import nonlocal_halo_px
from hsfuse.fusion.methods.ssrfn.config import GateConfig
from hsfuse.fusion.methods.ssrfn.description import base_halo_px
from hsfuse.fusion.methods.ssrfn.method import GateMethod
from hsfuse.fusion.registry import METHODS
from hsfuse.inference.budget import Budget, choose_plan
from hsfuse.inference.filtered_guide import _CARD_BLOCK_PX
from hsfuse.testing.scene import SmallScene, small_scene

COUNTS = Path(__file__).with_name("card_work.json")
SIDE_PX, SEED, NOISE = 96, 3, 0.002
"""Of the small scene: HSI pixels, and noise of both images, reflectance."""
_MEMBERS = 64
"""Patches of a group, filled up."""
_PLACES, _HALVINGS = 512, 31
"""Of a window, filled up, and steps that find the level below which the nearest lie."""
_COMPONENTS, _COSINE, _COMPRESSION, _TANGENT = 16, 30, 30, 20
"""Components of an estimate, filled up, and operations of a cosine, of an inverse hyperbolic sine, of a tangent."""
FREE = frozenset(
    f"aten::{name}"
    for name in ("_unsafe_view", "empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "detach")
)
"""Operations that move nothing though they are no views."""


def _of_search(args: Sequence[Any]) -> float:
    """Arithmetic of the search for similar patches: three operations for a value of a patch, and for a halving.

    Each takes as long as a multiplication with an addition, which counts twice.
    """
    image, _, _, step = args
    references = np.prod([grid_size(size - 2, step) for size in image.shape[1:]])
    return float(references * _PLACES * 3 * 2 * (9 * image.shape[0] + _HALVINGS))


def _of_filter(args: Sequence[Any]) -> float:
    """Arithmetic of the filter of groups: products, and a matrix swept row by row, seven operations for a value."""
    image, basic, places, *_ = args
    groups, similar = places.shape
    products, values = 3 if basic is None else 4, 1 << (9 * image.shape[0] - 1).bit_length()
    return float(groups * _MEMBERS**2 * (products * 2 * max(16, values) + similar * 7 * 2))


def _of_fourier(args: Sequence[Any]) -> float:
    """Arithmetic of a regression on Fourier features: two products, and a cosine of each feature."""
    x, frequency, _, weight, *_ = args
    features = -(-len(frequency) // 32) * 32
    return float(x.shape[1] * features * 2 * (16 + 16 * -(-len(weight) // 16) + _COSINE))


def _of_features(args: Sequence[Any]) -> float:
    """Arithmetic of what the gate sees: of every component of every expert, four times its compressed value."""
    state, outputs, _, others, *_ = args
    return float((1 + len(outputs)) * state[0].numel() * _COMPONENTS * (1 + len(others)) * _COMPRESSION * 2)


def _of_weighed(args: Sequence[Any]) -> float:
    """Arithmetic of the weighed sum: two hyperbolic tangents of every component of every expert."""
    _, outputs, *_ = args
    return float(len(outputs) * outputs[0, 0].numel() * _COMPONENTS * 2 * _TANGENT * 2)


KERNELS = {
    "hsfuse::nearest_patches": _of_search, "hsfuse::filtered_groups": _of_filter, "hsfuse::fourier": _of_fourier,
    "hsfuse::gate_features": _of_features, "hsfuse::gate_weighed": _of_weighed,
}  # fmt: skip
"""Arithmetic of operations that are kernels of this package."""


@dataclass(frozen=True)
class Calls:
    """A piece of work and how often a scene takes it.

    Attributes
    ----------
    flops
        Arithmetic of one.
    moved
        Bytes that its operations read and write, each with the number of such operations.
    times
        How many a whole scene takes.
    single
        Whether the arithmetic is in float32.
    """

    flops: float
    moved: Sequence[tuple[float, int]]
    times: float
    single: bool = False


@dataclass
class Tally:
    """Operations that were noted."""

    flops: float = 0.0
    moved: Counter[int] = field(default_factory=Counter)

    def note(self, func: Any, args: Any, kwargs: Any, out: Any, on_card: type) -> None:
        """Note an operation of the card."""
        if getattr(func, "is_view", False) or func._schema.name in FREE:
            return
        tensors = [leaf.inner for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, on_card)]
        if not tensors:
            return
        self.moved[sum(tensor.numel() * tensor.element_size() for tensor in tensors)] += 1
        own, arithmetic = KERNELS.get(func._schema.name), flop_registry.get(func._overloadpacket)
        if own is not None:
            self.flops += own(args)
        elif arithmetic is not None:
            bare = tree_map(lambda leaf: leaf.inner if isinstance(leaf, on_card) else leaf, (args, kwargs, out))
            self.flops += arithmetic(*bare[0], **bare[1], out_val=bare[2])


@contextmanager
def tallied(pretend_card: Any) -> Iterator[Tally]:
    """Note what the pretended card does."""
    tally, computed = Tally(), pretend_card.computed

    def noted(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        out = computed(func, args, kwargs)
        tally.note(func, args, kwargs, out, pretend_card.OnCard)
        return out

    pretend_card.computed = noted
    try:
        yield tally
    finally:
        pretend_card.computed = computed


def noisy_scene() -> SmallScene:
    """A small scene with noise, as a method needs it to learn how far both images can be trusted."""
    scene, rng = small_scene(SEED, (SIDE_PX, SIDE_PX), bands=100), np.random.default_rng(SEED)
    hsi, msi = (
        (image + rng.normal(0.0, NOISE, image.shape)).astype(np.float32) for image in (scene.hsi, scene.msi)
    )  # fmt: skip
    return replace(scene, hsi=hsi, msi=msi)


def count(name: str, blocks_as_kernels: Any) -> dict[str, Any]:
    """Count the work of a method on the small scene; ``blocks_as_kernels`` is entered while tiles are fused."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "gpu"))
    import pretend_card
    from gpu_support import random_weights

    scene = noisy_scene()
    with pretend_card.pretended() as device, tempfile.TemporaryDirectory() as folder, torch.no_grad():
        method: Any = create_method(name, model=random_weights(name, scene, Path(folder)), validate=False)
        method.fit(replace(scene.context, device=str(device)), scene.strips)
        hsi, msi = (torch.from_numpy(image)[None].to(device) for image in (scene.hsi, scene.msi))
        first = method.guide_filter()
        if first is None:
            raise RuntimeError("the guide of the small scene is not cleaned")
        with tallied(pretend_card) as cleaning:
            cleaned = first.apply(msi, None)
        with blocks_as_kernels, tallied(pretend_card) as fusing:
            first.method.fuse(hsi, torch.cat([cleaned, msi], dim=1))
    return {
        "pixels": SIDE_PX**2,
        **{
            what: {"flops": tally.flops, "moved": sorted(tally.moved.items())}
            for what, tally in (("clean", cleaning), ("fuse", fusing))
        },
    }


def counted(name: str) -> dict[str, Any]:
    """What was counted of a method.

    Raises
    ------
    KeyError
        Nothing was.
    """
    found: dict[str, Any] = json.loads(COUNTS.read_text())[name]
    return found


def of_scene(name: str, scene_px: tuple[int, int], ratio: int, bands: int, msi_bands: int) -> tuple[list[Calls], float]:
    """Return a method's work on a whole scene, HSI pixels, and the fine pixels that its experts are asked on."""
    found, entry = counted(name), METHODS.get(name).network
    if entry is None:
        raise KeyError(name)
    method = GateMethod.untrained(GateConfig.from_dict(dict(entry.settings)))
    spec = method.spec
    plan = choose_plan(
        *scene_px, ratio=ratio, n_bands=bands, n_msi=msi_bands, source_bands=bands, spec=spec,
        budget=Budget(1 << 40, 40_000_000_000, None, 0), tile=None, overlap=None, sample_bytes=2, workers=1,
    ).plan  # fmt: skip
    # The guide comes cleaned, so that tiles need no context for that.
    less = nonlocal_halo_px(ratio)
    plan = replace(plan, halo=plan.halo - less)
    tiles = []
    for tile in plan:
        part = method._part(tile.inner.slices, tile.read.shape)
        tiles.append(_area(grown(part.given, base_halo_px(ratio, filtered=True), part.size)))
    blocks = [
        (min(_CARD_BLOCK_PX[0], scene_px[0] - top) + 2 * less) * (min(_CARD_BLOCK_PX[1], scene_px[1] - left) + 2 * less)
        for top in range(0, scene_px[0], _CARD_BLOCK_PX[0])
        for left in range(0, scene_px[1], _CARD_BLOCK_PX[1])
    ]
    calls = []
    for what, areas in (("clean", blocks), ("fuse", tiles)):
        largest = max(areas)
        scale = largest / found["pixels"]
        moved = [(size * scale, number) for size, number in found[what]["moved"]]
        calls.append(Calls(found[what]["flops"] * scale, moved, sum(areas) / largest, single=True))
    return calls, float(sum(tiles)) * ratio**2


def _area(window: tuple[slice, slice]) -> int:
    return (window[0].stop - window[0].start) * (window[1].stop - window[1].start)
