"""Fit the probability of change and the expected error on simulated changes of the training sites' cubes.

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

from hsfuse.degrade import Psf
from hsfuse.fusion.create import create_method
from hsfuse.fusion.map.method import refined
from hsfuse.inference import pipeline
from hsfuse.inference.guide_repair import confidence_features, repair_surveyed, survey_scene
from hsfuse.workflows.steps.array_scene import array_scene
from hsfuse.workflows.steps.resources import resolved

Sample = dict[str, Any]
_PER_PAIR = 4000
_TINY = 1e-12
_SLOPE_RIDGE, _LEVEL_RIDGE = 1e-2, 3.0
PAIRS = (("none", "35dB"), ("none", "field"), ("parcels", "35dB"), ("mix", "field"))
SCENE_FEATURES = (0, 1, 7)
"""Of the error: those that tell the level of a scene (constant, noise, roughness)."""
CUBES = (
    "aviris_airport-1", "samson_95", "muufl_casi_90", "spectir_cuprite_half50", "spectir_deephorizon_half50",
    "neon_idtrees_mlbs_1", "ksc_aviris",
)  # fmt: skip


def samples(scene: ReferenceScene, kind: str, setting: str, quality: str, rng: np.random.Generator) -> Sample | None:
    """Features and truth of some pixels of a pair."""
    pair, mask = make_pair(scene, setting, kind, 7)
    whole = array_scene(pair.hsi, pair.msi, scene.bands, scene.responses, RATIO, Psf(1.0))
    context = pipeline.scene_context(whole, "cpu", 0)
    survey = survey_scene(whole, context)
    repair, guide = repair_surveyed(whole, context, survey, None)
    if not repair.trusted:
        return None
    made = refined(create_method("glp"), quality, ratio=RATIO)  # type: ignore[arg-type]
    cube = pipeline.fuse_to_array(made, repair.scene, resolved(None))
    rows, cols = mask.shape
    change, error = None, None
    for where, (of_change, of_error) in confidence_features(survey, guide, guide.msi, repair.response):
        parts = of_change, of_error.stacked()
        if change is None or error is None:
            change, error = (np.zeros((len(part), rows, cols)) for part in parts)
        change[:, *where], error[:, *where] = parts
    chosen = rng.permutation(rows * cols)[:_PER_PAIR]
    square = ((pair.truth - cube) ** 2).mean(axis=0)
    return {
        "change": change.reshape(len(change), -1)[:, chosen],
        "error": error.reshape(len(error), -1)[:, chosen],
        "truth": mask.ravel()[chosen] & (kind in SHARP),
        "square": square.ravel()[chosen],
    }


def logistic(features: np.ndarray, truth: np.ndarray, ridge: float = 1e-3) -> np.ndarray:
    """Logistic regression with a small ridge."""

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = w @ features
        value = np.logaddexp(0.0, z) - truth * z
        slope = features @ (1.0 / (1.0 + np.exp(-np.clip(z, -30, 30))) - truth) / truth.size
        return float(value.mean() + ridge * (w[1:] ** 2).sum()), slope + 2.0 * ridge * np.r_[0.0, w[1:]]

    return np.asarray(minimize(loss, np.zeros(len(features)), jac=True, method="L-BFGS-B").x)


def error_regression(parts: Sequence[Sample]) -> np.ndarray:
    """Regress the log of the squared error: slopes within the pairs, then the level from few features of whole pairs.

    A pooled regression would explain the level of a scene by whatever differs between some dozen scenes.
    """
    size = len(parts[0]["error"])
    gram, right = np.zeros((size, size)), np.zeros(size)
    for part in parts:
        x, y = part["error"], np.log(part["square"] + _TINY)
        x = x - x.mean(axis=1, keepdims=True)
        gram += x @ x.T / x.shape[1]
        right += x @ (y - y.mean()) / x.shape[1]
    found = np.linalg.solve(gram + _SLOPE_RIDGE * len(parts) * np.eye(size), right)
    level = list(SCENE_FEATURES)
    means = np.array([part["error"].mean(axis=1) for part in parts])
    logs = np.array([np.log(part["square"] + _TINY).mean() for part in parts])
    found[level] = 0.0
    chosen = means[:, level]
    ridge = _LEVEL_RIDGE * np.diag([0.0] + [1.0] * (len(level) - 1))
    found[level] = np.linalg.solve(chosen.T @ chosen + ridge, chosen.T @ (logs - means @ found))
    return found


def held_out_bound(parts: Sequence[Sample]) -> float:
    """Factor that 90 % of the errors stay below, of sites that the regression was fitted without."""
    left = []
    for site in sorted({part["site"] for part in parts}):
        found = error_regression([part for part in parts if part["site"] != site])
        left += [
            0.5 * (np.log(part["square"] + _TINY) - found @ part["error"]) for part in parts if part["site"] == site
        ]
    return float(np.exp(np.quantile(np.concatenate(left), 0.9)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cubes", nargs="*", default=list(CUBES))
    parser.add_argument("--quality", default="fast")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng, parts = np.random.default_rng(0), []
    for site, scene in split_scenes("train", args.data, args.cubes):
        for kind, setting in PAIRS:
            found = samples(scene, kind, setting, args.quality, rng)
            parts += [] if found is None else [found | {"site": site}]
            print(scene.name, kind, setting, flush=True)
    change = logistic(*(np.concatenate([part[key] for part in parts], axis=-1) for key in ("change", "truth")))
    error = error_regression(parts)
    bound = held_out_bound(parts)
    np.savez(args.out, change=change, error=error, bound=bound)
    print("change", np.round(change, 3), "error", np.round(error, 3), "bound", round(bound, 3))


if __name__ == "__main__":
    main()
