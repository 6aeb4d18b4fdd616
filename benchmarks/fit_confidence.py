"""Fit the probability of change and the expected error on simulated changes of the cubes of all tuning sites.

python benchmarks/fit_confidence.py --data ../shared/data --out hsfuse/fusion/change/confidence.npz
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality_scenes import ReferenceScene
from real_pairs import RATIO, SHARP, make_pair, split_scenes
from scipy.optimize import minimize
from scipy.stats import spearmanr

from hsfuse.degrade import Psf
from hsfuse.fusion.create import create_method
from hsfuse.fusion.map.method import refined
from hsfuse.inference import pipeline
from hsfuse.inference.confidence import confidence_features
from hsfuse.inference.guide_repair import repair_surveyed
from hsfuse.inference.scene_survey import survey_scene
from hsfuse.workflows.steps.array_scene import array_scene
from hsfuse.workflows.steps.resources import resolved

Sample = dict[str, Any]
_PER_PAIR = 4000
_TINY = 1e-12
_SLOPE_RIDGE, _LEVEL_RIDGE = 1e-2, 1.0
SPLITS = ("train", "validation")
LEFT_OUT = ("emit_jpl_10x10",)
"""Too small to tell anything from."""
SEED = 20
PAIRS = (
    ("none", "35dB"), ("parcels", "35dB"), ("cloud", "35dB"), ("shadow", "35dB"), ("mix", "35dB"), ("season", "35dB"),
    ("none", "field"), ("parcels", "field"), ("mix", "field"),
)  # fmt: skip
FURTHER_PAIRS = (
    *(("parcels", "35dB", seed, False) for seed in (21, 22, 23)), ("mix", "35dB", 21, False),
    ("cloud", "35dB", 21, False), ("shadow", "35dB", 21, False), ("parcels", "field", 21, False),
    ("none", "35dB", 21, True), ("none", "field", 21, True), ("parcels", "35dB", 21, True),
)  # fmt: skip
"""Further pairs that only the probability of change is fitted on: change, setting, seed, and whether responses are left
out."""
BASE = 18
"""Features of the error; they stand once more for replaced ground."""
NOISE, SCENE_LEVEL = 1, 3
"""Of the error: those that are the same all over a scene."""
SQUARES = (4, 6, 7, 8, 9, 12, 13, 14, 15)
"""Logs of squared reflectances among them: only their ratios to the noise's may count, whatever unit a cube is in."""
_TOLD = 2000
"""Errors of each site that the bound follows from."""


def samples(
    scene: ReferenceScene, kind: str, setting: str, seed: int, blind: bool, quality: str | None,
    rng: np.random.Generator,
) -> Sample | None:  # fmt: skip
    """Features and truth of some pixels of a pair; of the change alone without a ``quality``."""
    pair, mask = make_pair(scene, setting, kind, seed)
    whole = array_scene(pair.hsi, pair.msi, scene.bands, None if blind else scene.responses, RATIO, Psf(1.0))
    context = pipeline.scene_context(whole, "cpu", 0)
    survey = survey_scene(whole, context)
    repair, guide = repair_surveyed(whole, context, survey, None)
    if not repair.trusted:
        return None
    rows, cols = mask.shape
    change, error = None, None
    for where, (of_change, of_error) in confidence_features(survey, guide, guide.msi, repair.response):
        parts = of_change, of_error.stacked()
        if change is None or error is None:
            change, error = (np.zeros((len(part), rows, cols)) for part in parts)
        change[:, *where], error[:, *where] = parts
    chosen = rng.permutation(rows * cols)[:_PER_PAIR]
    told = {
        "change": change.reshape(len(change), -1)[:, chosen], "truth": mask.ravel()[chosen] & (kind in SHARP),
    }  # fmt: skip
    if quality is None:
        return told
    made = refined(create_method("glp"), quality, ratio=RATIO)  # type: ignore[arg-type]
    cube = pipeline.fuse_to_array(made, repair.scene, resolved(None))
    square = ((pair.truth - cube) ** 2).mean(axis=0)
    return told | {
        "error": error.reshape(len(error), -1)[:, chosen],
        "square": square.ravel()[chosen],
        "corrected": guide.evidence.corrections > 0,
    }


def logistic(features: np.ndarray, truth: np.ndarray, ridge: float = 1e-4) -> np.ndarray:
    """Logistic regression with a small ridge."""

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = w @ features
        value = np.logaddexp(0.0, z) - truth * z
        slope = features @ (1.0 / (1.0 + np.exp(-np.clip(z, -30, 30))) - truth) / truth.size
        return float(value.mean() + ridge * (w[1:] ** 2).sum()), slope + 2.0 * ridge * np.r_[0.0, w[1:]]

    return np.asarray(minimize(loss, np.zeros(len(features)), jac=True, method="L-BFGS-B").x)


def error_regression(parts: Sequence[Sample]) -> np.ndarray:
    """Regress the log of the squared error: slopes within the pairs, then the level from that of whole pairs.

    A pooled regression would explain the level of a scene by whatever differs between some dozen scenes. Everything is
    relative to the noise, so a cube in other units has the same result in these units.
    """
    size = len(parts[0]["error"])
    gram, right = np.zeros((size, size)), np.zeros(size)
    # Sites count alike, whatever the number of their cubes, and pairs whatever their errors spread over.
    sites = [part["site"] for part in parts]
    weight = np.array([1.0 / sites.count(site) for site in sites])
    relative = [_relative(part) for part in parts]
    precision = weight / np.array([y.var() for _, y in relative])
    for (x, y), share in zip(relative, precision, strict=True):
        x, y = x - x.mean(axis=1, keepdims=True), y - y.mean()
        gram += share * (x @ x.T) / x.shape[1]
        right += share * (x @ y) / x.shape[1]
    found = np.linalg.solve(gram + _SLOPE_RIDGE * precision.sum() * np.eye(size), right)
    level = np.array([[1.0, _level(part)] for part in parts])
    left = np.array([(y - found @ x).mean() for x, y in relative])
    ridge = np.diag([0.0, _LEVEL_RIDGE])
    found[0], found[SCENE_LEVEL] = np.linalg.solve((level.T * weight) @ level + ridge, (level.T * weight) @ left)
    squares = list(SQUARES)
    found[NOISE] = 1.0 - found[[*squares, SCENE_LEVEL]].sum()
    found[BASE + NOISE] = -found[[BASE + index for index in (*squares, SCENE_LEVEL)]].sum()
    return found


def _relative(part: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Features and log of the squared error relative to the noise; what is the same all over a scene is left out."""
    x, noise = part["error"].astype(np.float64), float(part["error"][NOISE].mean())
    x[list(SQUARES)] -= noise
    x[[BASE + index for index in (*SQUARES, SCENE_LEVEL)]] -= noise * x[BASE]
    x[[0, NOISE, SCENE_LEVEL, BASE + NOISE]] = 0.0
    return x, np.log(part["square"] + _TINY) - noise


def _level(part: Sample) -> float:
    return float(part["error"][SCENE_LEVEL].mean() - part["error"][NOISE].mean())


def held_out_bounds(parts: Sequence[Sample]) -> np.ndarray:
    """Factors that 90 % of the errors stay below, of sites that the regression was fitted without.

    Two: without and with a local correction of the guide.
    """
    left: list[dict[str, np.ndarray]] = [{}, {}]
    ranks: dict[str, dict[str, list[float]]] = {}
    errors: list[tuple[Sample, np.ndarray]] = []
    for site in sorted({part["site"] for part in parts}):
        found = error_regression([part for part in parts if part["site"] != site])
        own: list[list[np.ndarray]] = [[], []]
        for part in (part for part in parts if part["site"] == site):
            expected, error = 0.5 * found @ part["error"], 0.5 * np.log(part["square"] + _TINY)
            own[part["corrected"]].append(error - expected)
            errors.append((part, error - expected))
            ranks.setdefault(part["kind"], {}).setdefault(site, []).append(spearmanr(expected, error).statistic)
        for group, some in zip(left, own, strict=True):
            if some:
                group[site] = np.quantile(np.concatenate(some), np.linspace(0.0, 1.0, _TOLD))
        print(site, "left out: shifted by", round(float(np.median(np.concatenate(own[0] + own[1]))), 2), flush=True)
    for kind, sites in ranks.items():
        print(kind, "Spearman on sites left out:", round(float(np.mean([np.mean(some) for some in sites.values()])), 3))
    covered: dict[str, dict[str, list[float]]] = {}
    for part, error in errors:
        below = error < _bound(left[part["corrected"]], part["site"])
        covered.setdefault(part["kind"], {}).setdefault(part["site"], []).append(float(below.mean()))
    for kind, sites in covered.items():
        share = float(np.mean([np.mean(some) for some in sites.values()]))
        print(kind, "below the bound of the other sites:", round(share, 3))
    return np.exp([_bound(group) for group in left])


def _bound(errors: dict[str, np.ndarray], left_out: str | None = None) -> float:
    """Log of the bound from the errors of all sites but one; sites count alike."""
    return float(np.quantile(np.concatenate([some for site, some in errors.items() if site != left_out]), 0.9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cubes", nargs="*", default=[], help="only cubes whose name contains one of these")
    parser.add_argument("--quality", default="standard")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts: list[Sample] = []
    of_change: list[Sample] = []
    scenes = (each for split in SPLITS for each in split_scenes(split, args.data, args.cubes))
    for number, (site, scene) in enumerate(scenes):
        if scene.name in LEFT_OUT:
            continue
        pairs = [(kind, setting, SEED, False, args.quality) for kind, setting in PAIRS]
        pairs += [(*further, None) for further in FURTHER_PAIRS]
        for index, (kind, setting, seed, blind, quality) in enumerate(pairs):
            found = samples(scene, kind, setting, seed, blind, quality, np.random.default_rng([SEED, number, index]))
            if found is not None:
                of_change.append(found)
                parts += [] if quality is None else [found | {"site": site, "kind": f"{kind} {setting}"}]
            print(scene.name, kind, setting, seed, flush=True)
    change = logistic(*(np.concatenate([part[key] for part in of_change], axis=-1) for key in ("change", "truth")))
    error = error_regression(parts)
    bounds = held_out_bounds(parts)
    np.savez(args.out, change=change, error=error, bounds=bounds)
    print("change", np.round(change, 3), "error", np.round(error, 3), "bounds", np.round(bounds, 3))


if __name__ == "__main__":
    main()
