"""Surfaces as mixtures of endmembers: what makes up a crop, a wood or a yard, and how textures move the shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hsfuse.simulate.endmembers import Endmembers
from hsfuse.simulate.texture import FloatArray

LABELS = ("crop", "grass", "forest", "bare soil", "water", "built-up", "road", "sand")
"""Surface types; the label of a pixel is an index into this tuple."""
CROP, GRASS, FOREST, BARE, WATER, BUILT, ROAD, SAND = range(8)

# How many variants of each kind one scene draws from the library.
SCENE_VARIANTS = {
    "crop": 6, "grass": 3, "broadleaf": 3, "conifer": 2, "dry": 4, "soil": 5, "sand": 1, "gravel": 1, "asphalt": 3,
    "concrete": 3, "tile": 2, "roof": 4, "metal": 3, "water": 3,
}  # fmt: skip


def scene_endmembers(rng: np.random.Generator) -> Endmembers:
    """Draw the spectra that occur in one scene."""
    library = Endmembers.load()
    chosen: list[int] = []
    for group, count in SCENE_VARIANTS.items():
        members = library.of(group)
        # Water keeps its order (clear, turbid, green): shores and currents need to know which is which.
        picked = members if count >= members.size else np.sort(rng.choice(members, count, replace=False))
        chosen.extend(int(i) for i in picked)
    return library.take(chosen)


@dataclass
class MixtureTable:
    """Table of surfaces; one row per mixture."""

    members: list[tuple[int, int, int]] = field(default_factory=list)
    numbers: list[tuple[float, ...]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def add(
        self,
        label: int,
        members: Sequence[int],
        share: float,
        *,
        split: float = 0.5,
        patchy: float = 0.05,
        grainy: float = 0.05,
        bright: float = 1.0,
        rough: float = 0.04,
        rows: float = 0.0,
    ) -> int:
        """Add a surface and return its number.

        Parameters
        ----------
        label
            Index into :data:`LABELS`.
        members
            Three endmembers: the main one, and the two that share the rest.
        share, split
            Mean share of the main one; share of the rest that the second one takes.
        patchy, grainy
            How far patches (about 1 km) and grain (about 100 m) move the main share.
        bright, rough
            Mean brightness; how strongly grain changes it.
        rows
            How strongly working rows change share and brightness.
        """
        first, second, third = (int(member) for member in members)
        self.members.append((first, second, third))
        self.numbers.append((share, split, patchy, grainy, bright, rough, rows))
        self.labels.append(label)
        return len(self.labels) - 1

    def table(self) -> tuple[NDArray[np.uint8], FloatArray, NDArray[np.uint8]]:
        """Members (mixture, 3), numbers (mixture, 7) and labels (mixture,) as arrays."""
        return (
            np.array(self.members, np.uint8),
            np.array(self.numbers, np.float32),
            np.array(self.labels, np.uint8),
        )


@dataclass(frozen=True)
class Surfaces:
    """Mixture numbers by use; each array is indexed with a hash. The last three of ``woodland`` are clear-cuts."""

    farmland: NDArray[np.int64]
    woodland: NDArray[np.int64]
    heath: NDArray[np.int64]
    yard: NDArray[np.int64]
    park: NDArray[np.int64]
    paved: NDArray[np.int64]
    water: int
    sand: int


class _Draw:
    """Random choices that mixtures are made of."""

    def __init__(self, kinds: Endmembers, rng: np.random.Generator) -> None:
        self.kinds, self.rng = kinds, rng

    def one(self, *groups: str) -> int:
        return int(self.rng.choice(self.kinds.of(*groups)))

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))


def make_surfaces(kinds: Endmembers, rng: np.random.Generator) -> tuple[MixtureTable, Surfaces]:
    """Draw the mixtures of one scene."""
    mixtures, draw = MixtureTable(), _Draw(kinds, rng)
    uses = rng.choice(7, 768, p=[0.36, 0.12, 0.17, 0.12, 0.15, 0.05, 0.03])
    farmland = [_field(mixtures, draw, int(use)) for use in uses]
    woodland = [_wood(mixtures, draw) for _ in range(40)]
    woodland += [
        mixtures.add(BARE, (draw.one("dry"), draw.one("soil"), draw.one("grass")), 0.5, patchy=0.15, grainy=0.15,
                    rough=0.08)
        for _ in range(3)
    ]  # fmt: skip
    heath = [
        mixtures.add(GRASS, (draw.one("grass"), draw.one("dry"), draw.one("broadleaf", "soil")),
                    draw.between(0.4, 0.75), split=0.6, patchy=0.18, grainy=0.12, rough=0.08)
        for _ in range(16)
    ]  # fmt: skip
    yard = [
        mixtures.add(BUILT, (draw.one("grass", "broadleaf"), draw.one("concrete", "asphalt", "gravel"), 0),
                    draw.between(0.2, 0.85), split=1.0, grainy=0.12, rough=0.1, bright=draw.between(0.8, 1.1))
        for _ in range(64)
    ]  # fmt: skip
    paved = [
        mixtures.add(BUILT, (draw.one("asphalt", "concrete"), draw.one("concrete", "gravel", "grass"), 0),
                    draw.between(0.6, 0.95), split=1.0, grainy=0.06, rough=0.06, bright=draw.between(0.9, 1.1))
        for _ in range(64)
    ]  # fmt: skip
    park = [
        mixtures.add(GRASS, (draw.one("grass"), draw.one("broadleaf"), draw.one("dry")), draw.between(0.4, 0.8),
                    split=0.8, patchy=0.1, grainy=0.25, rough=0.1)
        for _ in range(12)
    ]  # fmt: skip
    clear, turbid, green = (int(i) for i in kinds.of("water"))
    water = mixtures.add(WATER, (clear, turbid, green), 0.62, split=0.5, patchy=0.22, grainy=0.02, rough=0.02)
    sand = mixtures.add(SAND, (draw.one("sand"), draw.one("gravel"), draw.one("dry")), 0.75, split=0.6, patchy=0.1,
                       grainy=0.1)  # fmt: skip
    return mixtures, Surfaces(
        np.array(farmland, np.int64),
        np.array(woodland, np.int64),
        np.array(heath, np.int64),
        np.array(yard, np.int64),
        np.array(park, np.int64),
        np.array(paved, np.int64),
        water,
        sand,
    )


def _field(mixtures: MixtureTable, draw: _Draw, use: int) -> int:
    """Add one way to use a field."""
    one, between = draw.one, draw.between
    rows, bright, soil = between(0.01, 0.06), between(0.85, 1.12), one("soil")
    if use == 0:  # closed crop
        return mixtures.add(CROP, (one("crop"), soil, one("dry")), between(0.78, 0.95), split=0.7, patchy=0.06,
                           grainy=0.04, rows=rows, bright=bright)  # fmt: skip
    if use == 1:  # young or sparse crop
        return mixtures.add(CROP, (one("crop"), soil, one("dry")), between(0.3, 0.65), split=0.85, patchy=0.12,
                           grainy=0.06, rows=rows, bright=bright)  # fmt: skip
    if use == 2:  # ploughed; moist soil is darker than the dried samples of the library
        return mixtures.add(BARE, (soil, one("soil"), one("dry")), between(0.65, 0.9), split=0.6, patchy=0.15,
                           grainy=0.05, rough=0.05, rows=rows, bright=between(0.48, 0.85))  # fmt: skip
    if use == 3:  # stubble, ripe cereal
        return mixtures.add(BARE, (one("dry"), soil, one("crop", "grass")), between(0.5, 0.8), split=0.75, patchy=0.1,
                           grainy=0.06, rows=rows, bright=bright)  # fmt: skip
    if use == 4:  # meadow
        return mixtures.add(GRASS, (one("grass"), one("dry"), soil), between(0.65, 0.92), split=0.6, patchy=0.1,
                           grainy=0.08, rough=0.05, bright=between(0.9, 1.1))  # fmt: skip
    if use == 5:  # orchard, vineyard
        return mixtures.add(CROP, (one("broadleaf"), soil, one("grass")), between(0.35, 0.6), split=0.5, patchy=0.06,
                           grainy=0.12, rough=0.1, rows=0.12)  # fmt: skip
    return mixtures.add(FOREST, (one("broadleaf"), one("grass"), one("dry")), between(0.75, 0.9), grainy=0.1,
                       rough=0.15, bright=0.9)  # fmt: skip


def _wood(mixtures: MixtureTable, draw: _Draw) -> int:
    """Add one kind of forest stand; conifers cast more shade on each other."""
    tree, other = ("conifer", "broadleaf") if draw.rng.random() < 0.45 else ("broadleaf", "conifer")
    dark = draw.between(0.62, 0.8) if tree == "conifer" else draw.between(0.78, 1.0)
    members = (draw.one(tree), draw.one(other), draw.one("dry", "grass"))
    return mixtures.add(FOREST, members, draw.between(0.65, 0.9), split=draw.between(0.5, 0.9), patchy=0.12,
                       grainy=0.1, rough=0.15, bright=dark)  # fmt: skip
