"""Entries of networks that turn HSI and MSI into a cube in one call."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.nets.settings import NetworkSettings
from hsfuse.fusion.registry import MethodEntry, NetworkEntry

if TYPE_CHECKING:
    from torch import nn

    from hsfuse.fusion.nets.weights import LoadedNetwork
    from hsfuse.training.fusion_task import TaskSetup
    from hsfuse.training.task import TrainingTask


@dataclass(frozen=True)
class Tiling:
    """Tiles of a network, HSI pixels.

    Attributes
    ----------
    halo_px
        How far it looks.
    window_px
        Side of the windows that it works in.
    bytes_per_pixel
        Working memory per fine pixel.
    """

    halo_px: int
    window_px: int = 1
    bytes_per_pixel: int = 4000


def plain_entry(
    package: str,
    name: str,
    settings: NetworkSettings,
    *,
    architecture: str,
    summary: str,
    reference: str,
    tiling: Callable[[NetworkSettings], Tiling],
    licence: str = "",
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
) -> MethodEntry:
    """Declare a network whose folder holds ``network.py`` with ``build(settings)`` and, if it has one, ``task.py``.

    Parameters
    ----------
    package
        The folder, ``__name__`` of its ``__init__``; its ``network`` module offers ``build``, and its ``task`` module,
        where there is one, ``make_task(network, setup)``.
    name, settings, architecture, summary, reference, recipes
        See :class:`hsfuse.fusion.registry.NetworkEntry`.
    tiling
        Tiles that settings need.
    licence
        See :class:`hsfuse.fusion.registry.MethodEntry`.
    """
    kind = type(settings)

    def build(values: Mapping[str, Any]) -> nn.Module:
        network: nn.Module = importlib.import_module(f"{package}.network").build(kind.from_dict(values))
        return network

    def wrap(loaded: LoadedNetwork, **options: Any) -> FusionMethod:
        from hsfuse.fusion.nets.plain_network import PlainNetworkMethod

        tiles = tiling(kind.from_dict(loaded.header.config))
        side = tiles.window_px
        return PlainNetworkMethod(
            loaded, statistics=True, halo_px=-(-tiles.halo_px // side) * side, multiple_px=side,
            bytes_per_pixel=tiles.bytes_per_pixel, reference=reference, **options,
        )  # fmt: skip

    def task(network: nn.Module, setup: TaskSetup) -> TrainingTask:
        made: TrainingTask = importlib.import_module(f"{package}.task").make_task(network, setup)
        return made

    return MethodEntry(
        name=name,
        family="network",
        summary=summary,
        reference=reference,
        licence=licence,
        network=NetworkEntry(
            architecture=architecture,
            settings=settings.to_dict(),
            build=build,
            wrap=wrap,
            task=task,
            complete=lambda values: kind.from_dict(values).to_dict(),
            recipes=recipes or {},
            precisions=("fp32", "bf16", "fp16"),
        ),
    )
