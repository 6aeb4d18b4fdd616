"""Tiles of one shape as recorded work: captured once as a CUDA graph, then replayed with one launch.

A network of many small operations keeps a fast card waiting for the host, which launches them one by one. What a method
does to a batch depends on the shape of its tiles alone, so the launches of a shape are recorded and given to the card
together. The plain path is the method itself: it serves a shape when it is first seen (that run also compiles kernels
and lets libraries choose their algorithms, which nothing may do during a capture), where a capture fails, for methods
that draw random numbers by a tile's place, and everywhere with ``HSFUSE_CUDA_GRAPHS=off``.

References
----------
PyTorch, CUDA semantics, section CUDA Graphs (2.13): static addresses, no waiting for the host during a capture.
"""

from __future__ import annotations

import math
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hsfuse.degrade import Window
from hsfuse.errors import short_of_gpu_memory
from hsfuse.fusion.base import FusionMethod
from hsfuse.fusion.place import Place, at_places
from hsfuse.log import get_logger

if TYPE_CHECKING:
    import torch

_log = get_logger(__name__)

SWITCH = "HSFUSE_CUDA_GRAPHS"
KEPT = 8
"""Graphs at a time; the one that was not used for longest is dropped. A regular plan has nine kinds of tiles at most
(inner ones, four edges, four corners), most of which come in one row of tiles only."""
_PLAIN_RUNS = 1
"""Of each shape before it is captured: a shape that is seen once only is not worth it."""

Key = tuple[object, ...]


class GraphBackend(Protocol):
    """Records what a device is told to do."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record work on memory that stays where it is; return what repeats it. Recording computes nothing."""
        ...

    def settle(self) -> None:
        """Wait until nothing that was recorded runs any more: what runs must not be dropped."""
        ...

    def forget(self) -> None:
        """Give memory back that recorded work shared: all of it was dropped."""
        ...


class CudaGraphs:
    """Graphs of one CUDA device.

    Parameters
    ----------
    stream
        They are captured, and replayed, on this one, which must not be the default stream.
    """

    def __init__(self, stream: Any) -> None:
        import torch

        self._stream = stream
        self._pool: Any = torch.cuda.graph_pool_handle()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture; the stream is the current one."""
        import torch

        graph, stream = torch.cuda.CUDAGraph(), self._stream
        try:
            # Graphs share their memory: they run one after the other, and results are copied out before the next.
            # Other threads go on waiting for events and using pinned memory meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                work()
        finally:
            torch.cuda.set_stream(stream)  # after a failure torch.cuda.graph leaves its own
        return graph.replay

    def settle(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def forget(self) -> None:
        """Take another pool of memory: one that nobody used any more cannot be used again."""
        import torch

        self._pool = torch.cuda.graph_pool_handle()


def cuda_graphs(stream: Any) -> GraphBackend | None:
    """What records work on a stream of a CUDA device; None where that is switched off."""
    off = os.environ.get(SWITCH, "").lower() in ("off", "0", "no", "false")
    return None if off else CudaGraphs(stream)


@dataclass(frozen=True)
class _Recorded:
    """One graph, and the memory that it reads and writes."""

    replay: Callable[[], None]
    hsi: torch.Tensor
    msi: torch.Tensor
    result: torch.Tensor

    def run(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        self.hsi.copy_(hsi)
        self.msi.copy_(msi)
        self.replay()
        return self.result.clone()


class TileGraphs:
    """Fuses batches by recorded work where that is possible.

    Parameters
    ----------
    method
        A fitted method, whose parameters lie on the device.
    backend
        What records; None: every batch is fused plainly.
    kept
        Graphs at a time.
    """

    def __init__(self, method: FusionMethod, backend: GraphBackend | None, kept: int = KEPT) -> None:
        self._method, self._backend, self._kept = method, backend, kept
        self._graphs: OrderedDict[Key, _Recorded] = OrderedDict()
        self._seen: Counter[Key] = Counter()
        self._memory: dict[str, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self._graphs)

    def fuse(
        self, hsi: torch.Tensor, msi: torch.Tensor, window: Window, places: Sequence[Place]
    ) -> torch.Tensor:  # fmt: skip
        """Fuse a batch; parameters as for :meth:`~hsfuse.fusion.base.FusionMethod.fuse_window`."""
        if self._backend is None:
            return self._plain(hsi, msi, window, places)
        key = (*hsi.shape, *msi.shape, hsi.dtype, *((part.start, part.stop) for part in window))
        found = self._graphs.get(key)
        if found is None:
            self._seen[key] += 1
            if self._seen[key] <= _PLAIN_RUNS:
                return self._plain(hsi, msi, window, places)
            found = self._captured(self._backend, key, hsi, msi, window, places)
            if found is None:
                return self._plain(hsi, msi, window, places)
        self._graphs.move_to_end(key)
        return found.run(hsi, msi)

    def drop(self) -> None:
        """Give all memory of graphs back; shapes are captured anew where they come again."""
        if self._backend is not None:
            self._backend.settle()
        self._graphs.clear()
        self._seen.clear()
        self._memory.clear()
        if self._backend is not None:
            self._backend.forget()

    def _plain(
        self, hsi: torch.Tensor, msi: torch.Tensor, window: Window, places: Sequence[Place]
    ) -> torch.Tensor:  # fmt: skip
        with at_places(places) as known:
            result = self._method.fuse_window(hsi, msi, window)
        if known.asked and self._backend is not None:
            _log.debug("%s depends on where a tile lies: nothing is recorded.", self._method.spec.name)
            self._give_up()
        return result

    def _captured(
        self, backend: GraphBackend, key: Key, hsi: torch.Tensor, msi: torch.Tensor, window: Window,
        places: Sequence[Place],
    ) -> _Recorded | None:  # fmt: skip
        """Record a shape; None, and no further attempt, where that fails."""
        ratio = msi.shape[-1] // hsi.shape[-1]
        size = [(part.stop - part.start) * ratio for part in window]
        try:
            on_hsi, on_msi = self._static("hsi", hsi.shape, hsi), self._static("msi", msi.shape, msi)
            result = self._static("result", (*hsi.shape[:2], *size), hsi)

            def work() -> None:
                with at_places(places):
                    result.copy_(self._method.fuse_window(on_hsi, on_msi, window))

            while len(self._graphs) >= self._kept:
                backend.settle()
                self._graphs.popitem(last=False)
            found = _Recorded(backend.capture(work), on_hsi, on_msi, result)
        except RuntimeError as error:
            short = short_of_gpu_memory(error)
            why = "too little GPU memory" if short else (str(error).strip() or type(error).__name__).splitlines()[0]
            _log.warning("CUDA graphs are not used for %s (%s); it runs plainly.", self._method.spec.name, why)
            self._give_up()
            return None
        self._graphs[key] = found
        return found

    def _static(self, name: str, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """Memory that stays where it is: one piece serves all graphs that it is large enough for."""
        wanted = math.prod(shape)
        known = self._memory.get(name)
        if known is None or known.numel() < wanted or known.dtype != like.dtype:
            known = self._memory[name] = like.new_empty(wanted)
        return known[:wanted].view(*shape)

    def _give_up(self) -> None:
        self.drop()
        self._backend = None
