"""Methods that can be compared on two devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.nets.header import NetworkHeader
from hsfuse.fusion.nets.weights import save_weights
from hsfuse.fusion.registry import METHODS
from hsfuse.testing.scene import MSI_BANDS, SmallScene

Maker = Callable[..., FusionMethod]
"""Makes a method by name, on a device, that has seen the scene."""


def random_weights(name: str, scene: SmallScene, folder: Path) -> Path:
    """Write weights of a network that nobody has trained, and that corrects its base estimate all the same."""
    path = folder / f"{name}.safetensors"
    entry = METHODS.get(name).network
    if path.is_file() or entry is None:
        return path
    shape = {} if entry.any_bands else {"n_bands": len(scene.bands), "n_msi": len(MSI_BANDS)}
    settings = entry.completed({**entry.settings, **shape})
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = entry.build(settings)
        for parameter in network.parameters():
            # Last layers start at zero: such a network would equal its base estimate on any device.
            if not bool(parameter.any()):
                parameter.normal_(std=0.01)
    free = entry.any_bands
    header = NetworkHeader(
        name=name, architecture=entry.architecture, config=settings,
        centre_nm=() if free else tuple(map(float, scene.bands.centre_nm)),
        fwhm_nm=() if free else tuple(map(float, scene.bands.fwhm_nm)), ratios=() if free else (scene.ratio,),
        msi_bands=() if free else MSI_BANDS, n_msi=0 if free else len(MSI_BANDS), base="glp", training={},
    )  # fmt: skip
    save_weights(path, network, header)
    return path


def fused(method: FusionMethod, scene: SmallScene, device: str) -> torch.Tensor:
    """Fuse the whole scene; the result is on the CPU."""
    with torch.no_grad():
        hsi, msi = (torch.from_numpy(image)[None].to(device) for image in (scene.hsi, scene.msi))
        return method.fuse(hsi, msi).float().cpu()
