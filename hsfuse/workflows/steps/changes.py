"""What changed between both images of a run: found before the fusion; said in summary, report and verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.config import CompareConfig, RunConfig
from hsfuse.errors import OverlapError
from hsfuse.fusion.diagnostics import REFINEMENTS
from hsfuse.inference import pipeline
from hsfuse.inference.few_bands import images_differ
from hsfuse.inference.guide_repair import (
    HELD_BYTES_PER_PIXEL,
    SceneRepair,
    bytes_to_repair,
    repair_scene,
    told_without_guide,
)
from hsfuse.inference.scene import FusionScene
from hsfuse.progress import Progress
from hsfuse.qa.change import ChangeView
from hsfuse.resources import Resources
from hsfuse.threads import single_threaded
from hsfuse.workflows.steps.behind_method import may_calibrate
from hsfuse.workflows.steps.prepare import PreparedScene

_VIEW_PX = 900


def find_changes(
    prepared: PreparedScene, config: RunConfig, resources: Resources, progress: Progress
) -> tuple[SceneRepair | None, PreparedScene, dict[str, Any]]:
    """Find what changed and repair the guide; nothing with ``--quality plain``.

    Returns
    -------
    repair : SceneRepair or None
        What was found, with the scene to fuse.
    prepared : PreparedScene
        The scene as it was, with warnings about the change.
    summary : dict
        Entries of the run's summary; its warnings are those of before and these.
    """
    if config.quality == "plain":
        return None, prepared, {}
    with progress.stage("find changes") as stage:
        repair = repaired_scene(prepared.scene, config, resources, min_confidence=config.min_confidence)
        stage.advance()
    days = days_apart(prepared.scene)
    facts = repair.to_json() | {"days_apart": None if days is None else round(days, 2)}
    apart = "" if days is None else f" (taken {days:.1f} days apart)"
    warnings = [*prepared.warnings, *repair.notes]
    if not repair.trusted:
        said = images_differ(len(prepared.scene.bands)).capitalize()
        warnings.append(f"{said}{apart}: the cube follows the hyperspectral image alone and is no sharper than it.")
    return repair, replace(prepared, warnings=tuple(warnings)), {"changes": facts, "warnings": warnings}


def interpolated_instead(
    prepared: PreparedScene,
    repair: SceneRepair | None,
    changes: dict[str, Any],
    said: str,
    config: RunConfig,
    resources: Resources,
) -> tuple[SceneRepair | None, PreparedScene, dict[str, Any]]:
    """Tell that the scene is interpolated, though its guide was not found to show other ground.

    Parameters
    ----------
    prepared, repair, changes
        From :func:`find_changes`.
    said
        Why, a sentence.
    config, resources
        Of the run.
    """
    warnings = [*prepared.warnings, said]
    prepared, changes = replace(prepared, warnings=tuple(warnings)), changes | {"warnings": warnings}
    if repair is None:
        return None, prepared, changes
    context = pipeline.run_context(prepared.scene, resources, config.seed, calibrate=may_calibrate(config))
    with single_threaded():
        repair = told_without_guide(repair, prepared.scene, context)
    return repair, prepared, changes | {"changes": changes["changes"] | repair.to_json()}


def held_by_changes(scene: FusionScene, config: RunConfig) -> int:
    """Bytes of memory that :func:`find_changes` will hold until the run ends."""
    height, width = scene.fine_grid.shape
    return 0 if config.quality == "plain" else HELD_BYTES_PER_PIXEL * height * width


def taken_by_changes(scene: FusionScene, config: RunConfig, threads: int) -> int:
    """Bytes of memory that :func:`find_changes` takes at its peak with so many threads."""
    return 0 if config.quality == "plain" else bytes_to_repair(scene, threads)


def repaired_scene(
    scene: FusionScene,
    config: RunConfig | CompareConfig,
    resources: Resources,
    *,
    min_confidence: float | None = None,
) -> SceneRepair:
    """Repair the guide of a scene; below ``min_confidence`` it becomes nodata.

    Raises
    ------
    OverlapError
        Nothing is left of it.
    """
    context = pipeline.run_context(scene, resources, config.seed, calibrate=may_calibrate(config))
    with single_threaded():
        repair = repair_scene(scene, context)
    if min_confidence is None:
        return repair
    believed: NDArray[np.bool_] = 1.0 - repair.change >= min_confidence
    area = believed if repair.scene.area is None else believed & repair.scene.area
    if not (area & repair.seen).any():
        highest = math.floor(1e4 * float(np.max(1.0 - repair.change, where=repair.seen, initial=0.0))) / 1e4
        raise OverlapError(
            f"No pixel reaches --min-confidence {min_confidence:g}: the highest is {highest:.4f}.",
            hint="Choose a lower --min-confidence, or another image as the guide.",
        )
    return replace(repair, scene=replace(repair.scene, area=area))


def days_apart(scene: FusionScene) -> float | None:
    """Days between both images; None where a product does not say when it was taken."""
    first, second = scene.hsi.info.start, scene.msi.info.start
    return None if first is None or second is None else abs((first - second).total_seconds()) / 86400.0


def change_view(repair: SceneRepair, names: Sequence[str], days: float | None = None) -> ChangeView:
    """Thin out what is known about every pixel to the size of a picture; ``names`` are those of the guide's bands."""
    step = max(-(-max(repair.seen.shape) // _VIEW_PX), 1)
    part = (slice(None, None, step), slice(None, None, step))
    return ChangeView(
        repair.change[part], repair.expected_error[part], repair.hsi_only[part], repair.seen[part],
        repair.share, days, repair.pictures[:, _shown_bands(names)], repair.scene.fine_grid.bounds,
    )  # fmt: skip


def _shown_bands(names: Sequence[str]) -> list[int]:
    """Three bands that show fields: near infrared, red and green where they are there, else the last ones."""
    wanted = [names.index(name) for name in ("B08", "B04", "B03") if name in names]
    if len(wanted) == 3:
        return wanted
    return [len(names) - 1 - k for k in range(3)] if len(names) >= 3 else [0]


def change_text(changes: Mapping[str, Any]) -> str:
    """One line about the changes of a run."""
    if not changes["trusted"]:
        return "the images differ on most of the ground; the guide was not used"
    text = f"{100 * changes['changed_share']:.1f} % of the multispectral image shows other ground or light"
    if changes["local_corrections"]:
        text += "; its colours were corrected locally (season, sun)"
    if changes["gain_range"] != [1.0, 1.0] or changes["offset_range"] != [0.0, 0.0]:
        low, high = changes["gain_range"]
        text += f"; a smooth gain of {low:.2f} to {high:.2f} was taken out (haze, calibration)"
    return text


def partners_text(partners: Sequence[Mapping[str, Any]]) -> str:
    """One line about further dates of the guide."""
    texts = []
    for partner in partners:
        days = partner["days_apart"]
        name = str(partner["name"]) if days is None else f"{partner['name']} ({days:+.0f} days)"
        if not partner["used"]:
            texts.append(f"{name} {partner['refused']}")
            continue
        text = f"{name} takes {100 * (1.0 - partner['noise_left']):.0f} % of the variance of the guide's noise out"
        if partner["replaced_share"] >= 0.0005:
            text += f" and lends its detail to {100 * partner['replaced_share']:.1f} % of the ground"
        texts.append(text)
    return "; ".join(texts)


def refinement_text(refinement: Mapping[str, Any]) -> str:
    """One line about the step behind the method."""
    gain = refinement["gain_db"].get(refinement["used"])
    return REFINEMENTS[refinement["used"]] + ("" if gain is None else f"; {gain:+.2f} dB at reduced resolution")


def method_sentences(summary: Mapping[str, Any]) -> list[str]:
    """What was done around the method, for a paper."""
    sentences = []
    changes = summary.get("changes") or {}
    partners = [partner for partner in changes.get("partners") or () if partner["used"]]
    if partners:
        names = " and ".join(str(partner["name"]) for partner in partners)
        sentences.append(f"The multispectral image was combined with {names} where the ground did not change.")
    if changes and not changes["trusted"]:
        sentences.append("The images differ on most of the ground, so the multispectral image had no part in it.")
    elif changes:
        corrected = ", and its colours were corrected for season and sun" if changes["local_corrections"] else ""
        sentences.append(
            f"Before it, ground that differs between the images ({100 * changes['changed_share']:.1f} %) was found and "
            f"repaired in the multispectral image{corrected}."
        )
    refinement = summary["method"].get("refinement")
    if refinement and refinement["used"] != "none":
        sentences.append(f"The result was refined: {REFINEMENTS[refinement['used']]}.")
    return sentences
