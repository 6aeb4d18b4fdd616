"""Which method fuses the scene, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hsfuse.config import RunConfig
from hsfuse.errors import InputError, UsageError
from hsfuse.fusion.base import FusionContext, FusionMethod, create_method, is_network
from hsfuse.inference.scene import FusionScene
from hsfuse.spectral import srf_weights

FALLBACK = "glp"


@dataclass(frozen=True)
class ChosenMethod:
    """A method, not yet fitted, and one sentence that says why it was chosen."""

    method: FusionMethod
    reason: str


def choose_method(config: RunConfig) -> ChosenMethod:
    """Pick the method that the user named; with ``auto`` the best one that is proven without training.

    Raises
    ------
    UsageError, InputError
        The method is unknown, or a network lacks weights.
    """
    name = config.method
    if name == "auto":
        if config.model is not None:
            raise UsageError("--model needs --method.", hint="Name the network, for instance --method ssrfn.")
        return ChosenMethod(
            create_method(FALLBACK), "No trained network is shipped yet; GLP is the strongest method without training."
        )
    if not is_network(name):
        if config.model is not None:
            raise UsageError(
                f"The method '{name}' takes no --model.", hint="Weights belong to networks, such as ssrfn."
            )
        if config.precision not in ("auto", "fp32"):
            raise UsageError(
                f"The method '{name}' takes no --precision.", hint="Half precision belongs to networks, such as ssrfn."
            )
        return ChosenMethod(create_method(name), "Chosen with --method.")
    options: dict[str, Any] = {} if config.model is None else {"model": config.model}
    if config.precision != "auto":
        options["precision"] = config.precision
    return ChosenMethod(create_method(name, **options), "Chosen with --method.")


def fusion_context(scene: FusionScene, device: str, seed: int) -> FusionContext:
    """Facts about the scene for the method."""
    bands = scene.hsi.bands.take(scene.bands)
    responses = scene.msi.responses
    weights = srf_weights(bands, responses) if responses is not None else None
    return FusionContext(scene.ratio, bands.centre_nm, bands.fwhm_nm, weights, scene.psf, device, seed)


def resolve_device(wanted: str) -> str:
    """Turn ``auto`` into a device and check that a GPU which was asked for exists.

    Raises
    ------
    UsageError, InputError
        The name is none of a device, or there is no such GPU.
    """
    if wanted == "cpu":
        return "cpu"
    if not (wanted in ("auto", "cuda") or (wanted.startswith("cuda:") and wanted[5:].isdigit())):
        raise UsageError(f"There is no device '{wanted}'.", hint="Choose auto, cpu, cuda or cuda:N.")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return "cuda:0" if count else "cpu"
    index = int(wanted.partition(":")[2] or 0)
    if index >= count:
        raise InputError(
            f"There is no GPU {index}: {count} CUDA device{'s' if count != 1 else ''} found.",
            hint="Use --device cpu; `hsfuse doctor` shows what PyTorch sees.",
        )
    return f"cuda:{index}"
