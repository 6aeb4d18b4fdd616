"""Stored numbers of a tile's images, of which every block is decoded once, some before anybody asks for them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader

from hsfuse.grid import Slice2D
from hsfuse.log import get_logger
from hsfuse.readers.placement import Placement
from hsfuse.readers.sentinel2.decode_ahead import Block, DecodeAhead
from hsfuse.readers.sentinel2.images import LayerPool
from hsfuse.readers.sentinel2.scratch import ScratchLayer

_log = get_logger(__name__)


class DecodedLayers:
    """Decoded blocks of the image layers of one tile; threads may share it.

    Parameters
    ----------
    pool
        Open image layers, which the caller closes between :meth:`stop` and :meth:`close`.
    placements
        Where each layer lies on the tile's 10 m grid.
    label
        Product name for warnings.
    threads
        Threads that may decode ahead.

    Attributes
    ----------
    pool
        As given.
    """

    def __init__(self, pool: LayerPool, placements: Mapping[str, Placement], label: str, threads: int) -> None:
        self.pool, self._placements, self._label, self._threads = pool, placements, label, threads
        self._layers: dict[str, ScratchLayer] = {}
        self._lock = threading.Lock()
        self._slow: dict[str, ScratchLayer | None] | None = None
        self._ahead: DecodeAhead | None = None
        self._reported: set[tuple[str, tuple[int, int]]] = set()

    def read(self, file: DatasetReader, layer: str, block: Slice2D) -> NDArray[np.unsignedinteger]:
        """Read a layer's first band in its own pixels, shape (row, col); called in the layer's thread only."""
        if not ScratchLayer.pays(file):
            return np.asarray(file.read(1, window=block.window))
        return self._kept(file, layer).read(file, block)

    def read_ahead(self, layers: Sequence[str], block: Slice2D) -> None:
        """Begin to decode what will be read soon, on cores that have nothing else to do; returns at once.

        Parameters
        ----------
        layers
            Their names.
        block
            Rows and columns of the 10 m grid, inside it.
        """
        if self._threads < 2:
            return
        lines: dict[tuple[int, int], list[Block]] = {}
        for number, layer in enumerate(layers):
            placement = self._placements[layer]
            source = block if placement.ratio == 1 else placement.source(block, margin=1)
            kept = self._slow_layers()[layer]
            for i, j in kept.blocks(source) if kept is not None and min(source.shape) > 0 else ():
                lines.setdefault((i * placement.ratio, number), []).append((layer, i, j))
        if self._ahead is None:
            self._ahead = DecodeAhead(self._decoder, self._threads)
        # From top to bottom, as images are read.
        self._ahead.expect(entry for key in sorted(lines) for entry in lines[key])
        # Their threads have nothing else to do yet, so that nobody waits for checksums later.
        self.pool.check_ahead(layers)

    def report_flat_blocks(self, bands: Sequence[str], nodata: int) -> None:
        """Warn of decoded blocks that one number fills where no scene would: a decoder fills what it cannot read.

        Parameters
        ----------
        bands
            Layers that are looked at.
        nodata
            Number that stands for no data.
        """
        with self._lock:
            layers = {band: layer for band, layer in self._layers.items() if band in bands}
        for band, layer in layers.items():
            for block, number in list(layer.flat.items()):
                ratio = self._placements[band].ratio
                alike = [layers[other] for other in layers if self._placements[other].ratio == ratio]
                if number == nodata and not any(block in other.full for other in alike):
                    continue
                with self._lock:
                    # Several threads may have read it.
                    if (band, block) in self._reported:
                        continue
                    self._reported.add((band, block))
                what = "no data where other bands are complete" if number == nodata else f"nothing but {number}"
                _log.warning(
                    "A block of the image of %s in %s (row %d, column %d of its tiles) holds %s: it may be damaged.",
                    band, self._label, *block, what,
                )  # fmt: skip

    def stop(self) -> None:
        """Decode nothing ahead any more."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def close(self) -> None:
        """Forget decoded blocks; no thread may read any more."""
        for layer in self._layers.values():
            layer.close()
        self._layers.clear()

    def _kept(self, file: DatasetReader, layer: str) -> ScratchLayer:
        with self._lock:
            if layer not in self._layers:
                self._layers[layer] = ScratchLayer(file)
            return self._layers[layer]

    def _slow_layers(self) -> dict[str, ScratchLayer | None]:
        """Where decoded blocks of each layer are kept; None for layers that are decoded quickly.

        All layers are asked at once, the first time: later, their threads may be busy with checksums.
        """
        if self._slow is None:

            def look(file: DatasetReader, layer: str) -> ScratchLayer | None:
                return self._kept(file, layer) if ScratchLayer.pays(file) else None

            found = {
                layer: self.pool.submit(layer, partial(look, layer=layer), pixels=False) for layer in self._placements
            }
            self._slow = {layer: future.result() for layer, future in found.items()}
        return self._slow

    @contextmanager
    def _decoder(self) -> Iterator[Callable[[Block], None]]:
        with self.pool.own_handles() as handle:

            def decode(block: Block) -> None:
                layer, i, j = block
                file = handle(layer)
                self._kept(file, layer).prepare(file, i, j)

            yield decode
