"""``hsfuse models``: what networks there are, and what their weights say about themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hsfuse.errors import HsfuseError
from hsfuse.fusion.base import ModelSpec
from hsfuse.fusion.nets.header import file_sha256
from hsfuse.fusion.nets.zoo import ModelInfo, find_model, list_models
from hsfuse.fusion.registry import architecture
from hsfuse.inference.budget import choose_plan, make_budget
from hsfuse.inference.speed import measure_speed, predict_stages
from hsfuse.log import get_logger
from hsfuse.processor import usable_cores
from hsfuse.resources import Resources

_log = get_logger(__name__)

_SCENE_PX = 400
"""Side of the scene that speeds are told for, HSI pixels: its tiles are as large as memory lets them be."""
_USUAL_BANDS, _USUAL_MSI, _USUAL_RATIO = 100, 4, 3
"""Of networks that take any."""


def describe_models() -> list[dict[str, Any]]:
    """One entry for each network of the zoo, trained or not, by family and name."""
    return sorted((_entry(model) for model in list_models()), key=lambda entry: (entry["family"], entry["name"]))


def describe_model(name_or_path: str | Path) -> dict[str, Any]:
    """Everything known about one network: a name of the zoo or a weights file.

    Raises
    ------
    UsageError
        There is no such network.
    InputError
        Its weights are damaged.
    """
    model = find_model(name_or_path)
    entry = _entry(model)
    header = model.header()
    # Of weights, what they were trained with: it may differ from the method's own settings.
    entry["config"] = model.settings if header is None else header.config
    entry["card"] = str(model.card) if model.card else None
    if header is not None and model.weights is not None:
        entry |= {
            "architecture": header.architecture,
            "sha256": file_sha256(model.weights),
            "centre_nm": list(header.centre_nm),
            "halo_px": header.halo_px,
            "overlap_px": header.overlap_px,
            "training": header.training,
        }
    return entry


def with_speed(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to networks with weights how fast they are on this machine's processor, predicted as plans predict it.

    The machine is measured once, in less than a second; every network is built to count its work.

    Parameters
    ----------
    entries
        What :func:`describe_models` or :func:`describe_model` returned.

    Returns
    -------
    list of dict
        The entries, with ``seconds_per_megapixel`` of the product, and the ``threads`` that it is told for.
    """
    resources = Resources("cpu", usable_cores())
    speed = measure_speed(resources.threads)
    found = []
    for entry in entries:
        if not entry["trained"]:
            found.append(entry)
            continue
        try:
            spec = _method_spec(entry["weights"])
        except HsfuseError as error:
            _log.warning("The speed of %s is not known: %s", entry["name"], error.message)
            found.append(entry)
            continue
        ratio = (spec.ratios or (_USUAL_RATIO,))[0]
        bands = _USUAL_BANDS if spec.centre_nm is None else len(spec.centre_nm)
        plan = choose_plan(
            _SCENE_PX, _SCENE_PX, ratio=ratio, n_bands=bands, n_msi=spec.n_msi or _USUAL_MSI, source_bands=bands,
            spec=spec, budget=make_budget(resources), workers=resources.threads,
        )  # fmt: skip
        pixels = (_SCENE_PX * ratio) ** 2
        seconds = predict_stages(plan, spec, pixels * bands, speed, judged=False).fuse
        found.append(entry | {"seconds_per_megapixel": round(seconds / pixels * 1e6, 1), "threads": resources.threads})
    return found


def _method_spec(weights: str) -> ModelSpec:
    """Build the network and let it describe itself."""
    from hsfuse.fusion.nets.weights import load_named

    loaded = load_named(weights)
    return architecture(loaded.header.architecture).wrap(loaded).spec


def _entry(model: ModelInfo) -> dict[str, Any]:
    header = model.header()
    entry: dict[str, Any] = {
        "name": model.name,
        "description": model.description,
        "reference": model.reference,
        "family": model.family or (header.architecture if header else ""),
        "licence": model.licence,
        "trained": header is not None,
        "weights": str(model.weights) if model.weights else None,
        "bytes": model.weights.stat().st_size if model.weights else None,
    }
    if header is None:
        return entry
    validation = header.training.get("validation")
    return entry | {
        "bands": len(header.centre_nm),
        "range_nm": [min(header.centre_nm), max(header.centre_nm)] if header.centre_nm else None,
        "msi_bands": list(header.msi_bands),
        "ratios": list(header.ratios),
        "base": header.base,
        "validation": validation if isinstance(validation, dict) else None,
        "training_scenes": _scenes(header.training),
    }


def _scenes(training: dict[str, Any]) -> list[str]:
    """Name the measured scenes that a training saw, and count those that were drawn."""
    names = [str(name) for name in training.get("scenes", [])]
    drawn = {kind: sum(name.startswith(kind) for name in names) for kind in ("generated", "remixed")}
    measured = [name for name in names if not name.startswith(tuple(drawn))]
    return [*measured, *(f"{count} {kind}" for kind, count in drawn.items() if count)]
