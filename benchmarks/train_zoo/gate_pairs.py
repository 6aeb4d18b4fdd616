"""Pairs that the gate's training learns from and is judged by: windows, whole cubes, and these without the infrared."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from quality_scenes import FloatCube, read_cube, sentinel2_responses
from real_pairs import SITES
from whole_cubes import Kinds, MixedTask, short_waves, whole_cubes

from hsfuse.band_selection.windows import window_of
from hsfuse.degrade import Psf
from hsfuse.fusion.methods.ssrfn.network import Gate
from hsfuse.sensors.sentinel2 import BANDS_ALL, table_responses
from hsfuse.spectral import BandTable, SpectralResponse, srf_weights
from hsfuse.training.fusion_task import TaskSetup
from hsfuse.training.pairs import ReducedPair
from hsfuse.training.scenes import SceneEntry, TrainingScene
from hsfuse.training.source import Sampling

LEAST_SIDE_PX = 40
HALVED_FROM_PX = 90
WHOLE_SHARE, SHORT_WAVES_SHARE = 0.375, 0.25
"""Of the patches: from whole cubes as they are, from those without short-wave infrared; windows get the rest."""
VALIDATION_SITES = tuple(tomllib.loads(SITES.read_text(encoding="utf-8"))["validation"])


@dataclass(frozen=True)
class Learned:
    """All pairs that train.

    Attributes
    ----------
    windows, whole, short
        Windows, whole cubes, whole cubes without the short-wave infrared.
    """

    windows: Sequence[ReducedPair]
    whole: Sequence[ReducedPair]
    short: Sequence[ReducedPair]

    @property
    def kinds(self) -> Kinds:
        """With the shares of the patches."""
        windows = 1.0 - WHOLE_SHARE - SHORT_WAVES_SHARE
        return ((self.windows, windows), (self.whole, WHOLE_SHARE), (self.short, SHORT_WAVES_SHARE))

    @property
    def scenes(self) -> list[str]:
        """Their names, in order."""
        return list(dict.fromkeys(pair.name for pairs, _ in self.kinds for pair in pairs))


def scenes(data: Path, split: str) -> Iterator[tuple[str, FloatCube, BandTable]]:
    """Cubes of one side with their own bands outside of the absorption windows; large ones once more at half scale."""
    table = tomllib.loads(SITES.read_text(encoding="utf-8"))
    for names in table[split].values():
        for name in names:
            cube, bands = read_cube(data / "cubes" / f"{name}.npz")
            clear = [k for k, nm in enumerate(bands.centre_nm) if window_of(float(nm)) is None]
            cube, bands = np.ascontiguousarray(cube[clear]), bands.take(clear)
            if min(cube.shape[1:]) >= LEAST_SIDE_PX:
                yield name, cube, bands
            if min(cube.shape[1:]) >= HALVED_FROM_PX:
                rows, cols = (size // 2 * 2 for size in cube.shape[1:])
                half = cube[:, :rows, :cols].reshape(len(cube), rows // 2, 2, cols // 2, 2).mean(axis=(2, 4))
                yield f"{name}, halved", half.astype(np.float32), bands


def guides(number: int, responses: list[SpectralResponse]) -> list[tuple[str, list[SpectralResponse]]]:
    """The four bands of 10 m, and for some cubes all ten or the near infrared alone."""
    found = [("4 MSI bands", responses)]
    if number % 4 == 0:
        found.append(("10 MSI bands", list(table_responses("Sentinel-2A", BANDS_ALL))))
    if number % 4 == 2:
        found.append(("1 MSI band", responses[-1:]))
    return found


def entries(data: Path, split: str, role: Literal["training", "validation"]) -> list[SceneEntry]:
    """Scenes that windows of one side are cut from."""
    found, responses = [], sentinel2_responses(data)
    for number, (name, cube, bands) in enumerate(scenes(data, split)):
        for label, wanted in guides(number, responses) if role == "training" else [("", responses)]:
            weights = srf_weights(bands, wanted)
            if (weights.sum(axis=1) <= 0).any():
                continue
            scene = TrainingScene(
                f"{name}, {label}" if label else name, cube, np.ones(cube.shape[1:], bool), None, (weights,), Psf(1.0),
                "mixed", bands,
            )  # fmt: skip
            found.append(SceneEntry.of(scene, role))
    return found


def task_setup(data: Path, cache: Path, sampling: Sampling, split: str = "train") -> TaskSetup:
    """What windows of one side train from; those that validate are of the validation side, or its training side's."""
    other = "validation" if split == "train" else "train"
    nothing = np.zeros(0)
    both = [*entries(data, split, "training"), *entries(data, other, "validation")]
    return TaskSetup(both, sampling, nothing, nothing, cache=cache)


def at_sites(pairs: Sequence[ReducedPair], sites: Sequence[str], *, there: bool = True) -> list[ReducedPair]:
    """Pairs of some validation sites, or all others."""
    table = tomllib.loads(SITES.read_text(encoding="utf-8"))["validation"]
    cubes = tuple(cube for site in sites for cube in table[site])
    return [pair for pair in pairs if pair.name.startswith(cubes) == there]


def learned(task: MixedTask, data: Path, cache: Path, also: Sequence[str] = ()) -> Learned:
    """All pairs of the training sites, and of some of the validation sites.

    Parameters
    ----------
    task
        Its setup is that of the training sites; its weights are not used.
    data
        Folder with cubes/ and srf/.
    cache
        Where experts are kept.
    also
        Validation sites that train. They get half as many windows as the training sites, in proportion to their number.
    """
    network, sampling = task.network, task.setup.sampling

    def cubes(split: str) -> tuple[list[ReducedPair], list[ReducedPair]]:
        return list(whole_cubes(split, data, cache, network)), list(
            whole_cubes(split, data, cache, network, variant=short_waves)
        )

    found = Learned(task.windows, *cubes("train"))
    if not also:
        return found
    fewer = replace(sampling, rounds=max((sampling.rounds or 0) // 2, 1))
    more = MixedTask(network, task_setup(data, cache, fewer, "validation")).windows
    parts = zip((found.windows, found.whole, found.short), (more, *cubes("validation")), strict=True)
    return Learned(*([*pairs, *at_sites(others, also)] for pairs, others in parts))


def judging(task: MixedTask, data: Path, cache: Path, network: Gate, also: Sequence[str] = ()) -> list[ReducedPair]:
    """Pairs of the validation sites that do not train."""
    pairs = [*task.validation_pairs, *whole_cubes("validation", data, cache, network, seeds=(0,))]
    return at_sites(pairs, also, there=False)
