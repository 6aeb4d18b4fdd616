"""``hsfuse models``: what networks there are, and what their weights say about themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hsfuse.fusion.nets.header import file_sha256
from hsfuse.fusion.nets.zoo import ModelInfo, find_model, list_models


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
