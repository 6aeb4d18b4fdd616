"""What the leaderboard runs: settings, scenes, and one method on one pair."""

from __future__ import annotations

import ctypes
import functools
import gc
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pair_changes import changed_guide
from quality_scenes import ReferenceScene, prisma_like_bands, read_cube
from real_pairs import split_scenes

from hsfuse.degrade import Psf
from hsfuse.errors import HsfuseError
from hsfuse.fusion.nets.zoo import find_model
from hsfuse.inference import pipeline
from hsfuse.inference.guide_repair import repair_scene
from hsfuse.inference.scene import FusionScene
from hsfuse.metrics.reference import score_all
from hsfuse.resources import Resources
from hsfuse.sensors.prisma import pan_response
from hsfuse.simulate.wald import CONDITIONS, reduce_scene
from hsfuse.workflows.steps.array_scene import array_scene
from hsfuse.workflows.steps.memory import PeakMemory
from hsfuse.workflows.steps.method_specification import MethodSpecification, parse_specification
from hsfuse.workflows.steps.resources import resolved


@dataclass(frozen=True)
class Setting:
    """One kind of pair."""

    name: str
    ratio: int
    condition: str
    changed: bool = False
    pan: bool = False
    own_bands: bool = False


SETTINGS = (
    *(Setting(f"ratio {ratio}, {name}", ratio, name) for ratio in (3, 4) for name in ("noise-free", "35dB", "field")),
    Setting("ratio 3, changed", 3, "field", changed=True),
    Setting("ratio 4, changed", 4, "field", changed=True),
    Setting("ratio 3, other bands", 3, "35dB", own_bands=True),
    Setting("ratio 6, PAN", 6, "field", pan=True),
)


class Scene(NamedTuple):
    """The cube of a site, with the four 10 m bands and with one panchromatic band."""

    site: str
    usual: ReferenceScene
    pan: ReferenceScene
    own_bands: bool


@functools.cache
def scenes_to_score(data: Path, sites: tuple[str, ...], largest: int) -> tuple[Scene, ...]:
    """The largest cube of every test site, its middle where it is larger."""
    found: dict[str, Scene] = {}
    count = len(prisma_like_bands())
    for site, scene in split_scenes("test", data):
        if (sites and site not in sites) or (
            site in found and found[site].usual.cube[0].size >= min(scene.cube[0].size, largest**2)
        ):
            continue
        own_bands = len(scene.bands) != count
        file = next(iter([*data.glob(f"cubes/{scene.file}.npz"), *data.glob(f"*/{scene.file}.tif")]))
        cube, bands = read_cube(file, largest=largest)
        target = None if own_bands else prisma_like_bands()
        usual, pan = (
            ReferenceScene.make(scene.name, cube, bands, responses, target=target, file=scene.file)
            for responses in (scene.responses, [pan_response()])
        )
        found[site] = Scene(site, usual, pan, own_bands)
    return tuple(found.values())


def pair_of(scene: Scene, setting: Setting) -> tuple[FusionScene, NDArray[np.float32], float]:
    """The pair as methods get it, its truth, and processor seconds that the repair of its guide took."""
    given = scene.pan if setting.pan else scene.usual
    guide = changed_guide(given.msi, "mix", seed=len(given.name))[0] if setting.changed else given.msi
    pair = reduce_scene(given.cube, guide, setting.ratio, CONDITIONS[setting.condition], name=given.name)  # type: ignore[index]
    whole = array_scene(pair.hsi, pair.msi, given.bands, given.responses, setting.ratio, Psf(1.0))
    start = time.process_time()
    if setting.changed:
        whole = repair_scene(whole, pipeline.scene_context(whole, "cpu", 0)).scene
    return whole, pair.truth, time.process_time() - start


def fused(
    spec: MethodSpecification, whole: FusionScene, truth: NDArray[np.float32], ratio: int, before: float
) -> dict[str, Any]:
    """Scores of a method on one pair; seconds and memory of fit and fusion, ``before`` seconds for both."""
    method = spec.create()
    gc.collect()
    if sys.platform == "linux":
        # What earlier methods left free in the process would hide what this one needs.
        ctypes.CDLL(None).malloc_trim(0)
    resources = resolved(Resources(threads=1, device="cpu"))
    start = time.process_time()
    with PeakMemory() as memory:
        cube = pipeline.fuse_to_array(method, whole, resources)
        seconds = before + time.process_time() - start
    parameters = sum(p.numel() for p in method.network.parameters()) if hasattr(method, "network") else None
    return score_all(truth, cube, ratio).to_json() | {
        "seconds_per_mpx": seconds / (1e-6 * cube[0].size), "memory_mb": memory.growth_bytes / 1e6,
        "parameters": parameters,
    }  # fmt: skip


def score_scene(data: Path, sites: tuple[str, ...], largest: int, setting_name: str, site: str, labels: Sequence[str],
                records: Path) -> list[str]:  # fmt: skip
    """Run methods on one scene in one setting, and add what they give to the records; returns what to tell."""
    torch.set_num_threads(1)
    setting = next(s for s in SETTINGS if s.name == setting_name)
    scene = next(s for s in scenes_to_score(data, sites, largest) if s.site == site)
    whole, truth, before = pair_of(scene, setting)
    told = []
    for label in labels:
        spec = parse_specification(label)
        row: dict[str, Any] = {"setting": setting.name, "scene": site, "method": label, "weights": weights_of(spec)}
        try:
            row |= fused(spec, whole, truth, setting.ratio, before)
            told.append(f"{setting.name:20s} {site:18s} {label:20s} {row['PSNR']:.2f} dB")
        except HsfuseError as error:
            row["left_out"] = error.message
            told.append(f"{setting.name:20s} {site:18s} {label:20s} left out: {error.message}")
        with records.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    return told


def weights_of(spec: MethodSpecification) -> str:
    """Which weights a row comes from; empty for a classic."""
    file = find_model(spec.weights or spec.name).weights if spec.network else None
    return "" if file is None else hashlib.sha256(file.read_bytes()).hexdigest()[:16]
