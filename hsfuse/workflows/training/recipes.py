"""What ``--recipe`` stands for, and how it becomes settings of the loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hsfuse.config import TrainConfig
from hsfuse.errors import UsageError
from hsfuse.fusion.registry import NetworkEntry
from hsfuse.training.losses import FusionLoss
from hsfuse.training.settings import LoopSettings
from hsfuse.training.source import Sampling

DEFAULT: dict[str, Any] = {
    "loss": "relative", "optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-4, "schedule": "cosine",
    "warmup": 50, "ema": 0.995, "clip": 1.0, "patience": 0, "augment": True, "epochs": 100.0,
}  # fmt: skip
"""Of every network. Errors count as shares of the base estimate's, band by band, and so does the spectral angle: dark
bands and material identity matter to users of spectra as much as bright bands do, and clean scenes as much as noisy
ones. Averaged weights and a falling rate steady short trainings."""
_VALIDATIONS, _MIN_VALIDATE_EVERY = 20, 10
_CPU_MICRO_BATCH = 2
_MINUTES_VALIDATE_EVERY = 100

Recipe = Mapping[str, Any]


def recipe_of(entry: NetworkEntry, name: str) -> Recipe:
    """Return a training recipe of a network.

    Raises
    ------
    UsageError
        The network has no such recipe.
    """
    own = entry.recipes
    if name != "default" and name not in own:
        names = ", ".join(["default", *(key for key in own if key != "default")])
        raise UsageError(
            f"The network '{entry.architecture}' has no training recipe '{name}'.", hint=f"Choose one of: {names}."
        )
    return {**DEFAULT, **own.get("default", {}), **(own[name] if name != "default" else {})}


def loss_of(config: TrainConfig, recipe: Recipe) -> FusionLoss:
    """Return the loss that the user, or else the recipe, wants."""
    return FusionLoss(recipe["loss"] if config.loss is None else config.loss)


def loop_settings(config: TrainConfig, recipe: Recipe, epoch_steps: int, device: str) -> LoopSettings:
    """Merge the options over the recipe."""

    def chosen(name: str) -> Any:
        value = getattr(config, name)
        return recipe[name] if value is None else value

    unlimited = config.steps is None and config.epochs is None and config.minutes is None
    epochs = recipe["epochs"] if unlimited else config.epochs
    limits = [config.steps] if config.steps else []
    limits += [round(epochs * epoch_steps)] if epochs else []
    every = config.validate_every or (
        max(_MIN_VALIDATE_EVERY, round(min(limits) / _VALIDATIONS)) if limits else _MINUTES_VALIDATE_EVERY
    )
    gpu = device.startswith("cuda")
    precision = config.precision if config.precision != "auto" else "bf16" if gpu else "fp32"
    return LoopSettings(
        optimizer=recipe["optimizer"], learning_rate=chosen("lr"),
        weight_decay=recipe["weight_decay"], schedule=chosen("schedule"), warmup_steps=recipe["warmup"],
        clip=chosen("clip"), ema=chosen("ema"), steps=config.steps, epochs=epochs, minutes=config.minutes,
        validate_every=every, patience=chosen("patience"),
        micro_batch=config.micro_batch or (config.batch if gpu else _CPU_MICRO_BATCH),
        precision=precision, recompute=config.recompute, checkpoint_minutes=config.checkpoint_minutes,
        seed=config.seed, deterministic=config.deterministic,
    )  # fmt: skip


def sampling(config: TrainConfig, recipe: Recipe, ratios: tuple[int, ...], device: str) -> Sampling:
    """Return how patches are drawn."""
    augment = recipe["augment"] if config.augment == "auto" else config.augment == "on"
    return Sampling(
        ratios=ratios, patch_px=config.patch, window_px=config.window, batch=config.batch,
        validation_share=config.validation_share, gap_px=config.gap, validation_windows=config.validation_windows,
        drawn_share=config.generated_share,
        augment=augment, seed=config.seed, rounds=recipe.get("rounds"), prefetch=device.startswith("cuda"),
    )  # fmt: skip
