"""A run beside a card that takes no time: what is left is the host's part.

    [HSFUSE_PRETENDED_RESULT=CUBE.img] python benchmarks/pretended_card.py run PRISMA SENTINEL2 -o OUT.tif

The command line of hsfuse, with one change. Fusing goes through the pipeline of a GPU (tiles of the size and number
that 16 GB of its memory allow, cut out into host buffers, blended, encoded and written by the host's threads), but its
device computes and copies nothing.

The cube is empty, unless ``HSFUSE_PRETENDED_RESULT`` names a finished cube of the same pair and bands: the card then
returns that one's pixels, so that what is written and judged beside the fusion is no empty image either. Threads called
``card`` read them; ``benchmarks/stage_scaling.py --card``, which uses this program, does not count what they do.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

_VRAM = 16_000_000_000
_RESULT, _READERS = "HSFUSE_PRETENDED_RESULT", 4


class Replay:
    """A finished cube as what a card returns, read by threads of its own, whose name the system knows.

    Parameters
    ----------
    path
        A cube in ENVI format (``-o CUBE.img``), int16: its pixels lie there as they are.
    """

    def __init__(self, path: str) -> None:
        import numpy as np
        import rasterio

        with rasterio.open(path) as dataset:
            shape = dataset.height, dataset.count, dataset.width
        self._rows = np.memmap(path, "<i2", "r", shape=shape)
        self._threads = ThreadPoolExecutor(_READERS, initializer=_called_card)

    def fill(self, host: Any, blocks: list[tuple[int, int, int, int]]) -> list[Future[None]]:
        """Put the pixels of blocks (top, left, rows, columns) into memory of the host."""
        return [self._threads.submit(self._fill, *one) for one in zip(host.numpy(), blocks, strict=True)]

    def _fill(self, image: Any, block: tuple[int, int, int, int]) -> None:
        import numpy as np

        top, left, rows, cols = block
        part = self._rows[top : top + rows, :, left : left + cols].transpose(1, 0, 2)
        # What tiles are grown by at the scene's edge is not used.
        np.multiply(part, np.float32(1e-4), out=image[:, : part.shape[1], : part.shape[2]])


def _called_card() -> None:
    """Give the thread a name that the system knows."""
    ctypes.CDLL(None).prctl(15, b"card", 0, 0, 0)


class PretendedCard:
    """An accelerator whose copies and work take no time."""

    def __init__(self) -> None:
        path = os.environ.get(_RESULT)
        self._replay = Replay(path) if path else None

    def host_buffer(self, shape: tuple[int, ...]) -> Any:
        """Memory of the host."""
        import torch

        return torch.zeros(shape)

    def upload(self, host: Any) -> tuple[Any, None]:
        """Copy nothing."""
        return host, None

    def compute(self, work: Callable[[], Any], _after: tuple[None, ...]) -> tuple[Any, None]:
        """Make an array of the result's shape."""
        return work(), None

    def download(self, result: Any, host: Any, _after: None) -> list[Future[None]]:
        """Copy nothing, or what a finished cube has there."""
        return [] if self._replay is None else self._replay.fill(host, result.blocks)

    def wait(self, mark: list[Future[None]]) -> None:
        """Everything is there already, or read from the finished cube."""
        for one in mark:
            one.result()

    def graphs(self) -> None:
        """Nothing is recorded."""

    def out_of_memory(self, _error: BaseException) -> bool:
        """Never."""
        return False

    def release_memory(self) -> None:
        """Nothing is held."""


def _shaped(_: object, hsi: Any, msi: Any, window: Any, places: Any) -> Any:
    """Stand for the fusion of a batch: nothing, in the result's shape, and where in the scene it lies."""
    import torch

    ratio = msi.shape[2] // hsi.shape[2]
    rows, cols = ((part.stop - part.start) * ratio for part in window)
    result: Any = torch.zeros(1).expand(len(hsi), hsi.shape[1], rows, cols)
    top, left = (part.start for part in window)
    result.blocks = [((row + top) * ratio, (col + left) * ratio, rows, cols) for row, col in places]
    return result


def _in_pipeline(pipeline: Any) -> None:
    from hsfuse.inference.budget import _CARD_COMFORT_BYTES

    budget = pipeline.make_budget
    pipeline.make_budget = lambda resources: replace(budget(resources), vram=_VRAM, comfort=_CARD_COMFORT_BYTES)
    pipeline.fuse = partial(pipeline.fuse, accelerator=PretendedCard())


def _in_graphs(graphs: Any) -> None:
    graphs.TileGraphs.fuse = _shaped


_PATCHES: dict[str, Callable[[Any], None]] = {
    "hsfuse.inference.pipeline": _in_pipeline,
    "hsfuse.inference.graphs": _in_graphs,
}


class _Patching(MetaPathFinder):
    """Changes modules when they are imported, so that nothing is imported earlier than in any run."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find a module that is to be changed."""
        if name not in _PATCHES:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        load: Callable[[Any], None] = spec.loader.exec_module

        def load_and_patch(module: Any) -> None:
            load(module)
            _PATCHES[name](module)

        spec.loader.exec_module = load_and_patch  # type: ignore[method-assign]
        return spec


def main() -> None:
    """Run the command line."""
    sys.meta_path.insert(0, _Patching())
    from hsfuse.__main__ import main as command

    command()


if __name__ == "__main__":
    main()
