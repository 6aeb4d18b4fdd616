"""What ``hsfuse doctor`` says about graphics cards, before a run finds out: driver, wheel, cards, kernels."""

from __future__ import annotations

import importlib.util
import re
from importlib import metadata
from typing import Any

from hsfuse.inference.cards import Card, find_cards, node_present, obstacle, unusable

_LITTLE_BYTES = 2 * 10**9
"""Free memory of a card below which many methods have to make do with small tiles."""


def diagnose_gpus(problems: list[str], notes: list[str]) -> list[dict[str, Any]]:
    """Return what is known about each card.

    Parameters
    ----------
    problems
        What keeps a card from being used at all is added here.
    notes
        What makes cards slower than they could be.
    """
    cards = find_cards()
    if not cards:
        why = obstacle() if node_present() else None
        if why is not None:
            # A build for the CPU may be meant; one for CUDA is there to be used.
            heard = notes if "built without CUDA" in why.message else problems
            heard.append(f"there is a GPU, but it cannot be used: {why.message} {why.hint}")
        return []
    usable = [card for card in cards if _look_at(card, problems, notes)]
    if usable:
        notes += filter(None, (_triton_twice(), _triton_misfit(), *_broken_kernels()))
    return [
        {"name": card.name, "memory_bytes": card.memory, "free_bytes": card.free,
         "capability": ".".join(map(str, card.capability)), "usable": card in usable}
        for card in cards
    ]  # fmt: skip


def _look_at(card: Card, problems: list[str], notes: list[str]) -> bool:
    """Whether a card can be used; what is wrong with it goes into the lists."""
    error = unusable(card)
    if error is not None:
        problems.append(f"{error.message} {error.hint}")
        return False
    if card.capability < (8, 0):
        notes.append(
            f"GPU {card.index} ({card.name}) has no bfloat16: networks run in fp16 where that is exact enough, else in "
            "fp32"
        )
    if (card.free or 0) < min(_LITTLE_BYTES, card.memory // 2):
        notes.append(
            f"GPU {card.index} ({card.name}) has {(card.free or 0) / 1e9:.1f} of {card.memory / 1e9:.0f} GB free: "
            "other processes hold the rest (nvidia-smi names them)"
        )
    return True


def _triton_twice() -> str:
    """Two distributions that bring the package ``triton``: files of both lie in one folder."""
    found = sorted(set(metadata.packages_distributions().get("triton", [])))
    if len(found) < 2:
        return ""
    versions = " and ".join(f"{name} {metadata.version(name)}" for name in found)
    return f"two versions of Triton are installed ({versions}): uninstall both, then install PyTorch anew"


def _triton_misfit() -> str:
    """A Triton that is not the one PyTorch was built with."""
    wanted = next(filter(None, map(_pinned_triton, metadata.requires("torch") or ())), None)
    try:
        found = metadata.version("triton")
    except metadata.PackageNotFoundError:
        return ""
    if wanted is None or found == wanted:
        return ""
    return f"Triton {found} is installed, and PyTorch was built with {wanted}: pip install triton=={wanted}"


def _pinned_triton(requirement: str) -> str | None:
    found = re.match(r"triton\s*==\s*([\w.+]+)", requirement)
    return found.group(1) if found else None


def _broken_kernels() -> list[str]:
    """Kernels that are installed and cannot be imported."""
    from hsfuse.fusion.nets import mamba_cuda
    from hsfuse.fusion.nets.gpu import block

    notes = []
    if importlib.util.find_spec("mamba_ssm") is not None and mamba_cuda.load_kernels() is None:
        notes.append(
            "mamba_ssm is installed but cannot be imported: hsfuse's own kernels serve; build it anew with pip install "
            "--no-build-isolation --force-reinstall mamba-ssm, or uninstall it"
        )
    if not block.available():
        notes.append(
            "Triton is missing or cannot be imported: networks run in plain PyTorch, several times slower; it comes "
            "with PyTorch's CUDA wheels"
        )
    return notes
