"""A device with memory of its own, as the tile pipeline sees it: copies and work are queued, marks say when they end.

The pipeline (:mod:`hsfuse.inference.device_pipeline`) is one piece of code for every device; what differs is here.
Tests put an instrumented device in the GPU's place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from hsfuse.errors import short_of_gpu_memory
from hsfuse.inference.graphs import GraphBackend, cuda_graphs

if TYPE_CHECKING:
    import torch

Mark = Any
"""Something that :meth:`Accelerator.wait` can wait for."""


class Accelerator(Protocol):
    """Queues of copies and of work, each in order, side by side with one another."""

    def host_buffer(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Memory of the host, float32, that copies can run from and to by themselves."""
        ...

    def upload(self, host: torch.Tensor) -> tuple[torch.Tensor, Mark]:
        """Queue a copy to the device."""
        ...

    def compute(self, work: Callable[[], torch.Tensor], after: tuple[Mark, ...]) -> tuple[torch.Tensor, Mark]:
        """Queue work that begins once the marks are reached."""
        ...

    def download(self, result: torch.Tensor, host: torch.Tensor, after: Mark) -> Mark:
        """Queue a copy back that begins once the mark is reached."""
        ...

    def wait(self, mark: Mark) -> None:
        """Wait, without holding the interpreter's lock, until a mark is reached."""
        ...

    def graphs(self) -> GraphBackend | None:
        """What records work, so that it is launched as a whole; None: nothing does."""
        ...

    def out_of_memory(self, error: BaseException) -> bool:
        """Tell whether an error says that the device's memory is too small."""
        ...

    def release_memory(self) -> None:
        """Free what is kept for later use."""
        ...


class CudaAccelerator:
    """A CUDA device: three streams, pinned memory of the host.

    Parameters
    ----------
    device
        ``cuda`` or ``cuda:N``.
    """

    def __init__(self, device: str) -> None:
        import torch

        self._device = torch.device(device)
        make: Any = torch.cuda.Stream
        self._up, self._work, self._down = (make(self._device) for _ in range(3))

    def host_buffer(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Pinned memory: copies from other memory would make the host wait."""
        import torch

        return torch.empty(shape, dtype=torch.float32, pin_memory=True)

    def upload(self, host: torch.Tensor) -> tuple[torch.Tensor, Mark]:
        """Queue a copy on the stream of copies to the device."""
        import torch

        with torch.cuda.stream(self._up):
            on_device = host.to(self._device, non_blocking=True)
            # The allocator must not give the memory away while another stream still reads it.
            on_device.record_stream(self._work)
            return on_device, self._up.record_event()

    def compute(self, work: Callable[[], torch.Tensor], after: tuple[Mark, ...]) -> tuple[torch.Tensor, Mark]:
        """Queue work on the stream of work."""
        import torch

        with torch.cuda.stream(self._work), torch.inference_mode():
            for mark in after:
                self._work.wait_event(mark)
            result = work().float()
            result.record_stream(self._down)
            return result, self._work.record_event()

    def download(self, result: torch.Tensor, host: torch.Tensor, after: Mark) -> Mark:
        """Queue a copy on the stream of copies back."""
        import torch

        with torch.cuda.stream(self._down):
            self._down.wait_event(after)
            host.copy_(result, non_blocking=True)
            return self._down.record_event()

    def wait(self, mark: Mark) -> None:
        """Wait for an event."""
        mark.synchronize()

    def graphs(self) -> GraphBackend | None:
        """CUDA graphs, unless they are switched off."""
        return cuda_graphs(self._work)

    def out_of_memory(self, error: BaseException) -> bool:
        """Tell whether CUDA, or one of its libraries, ran out of memory."""
        import torch

        return isinstance(error, torch.cuda.OutOfMemoryError) or short_of_gpu_memory(error)

    def release_memory(self) -> None:
        """Wait for the card and give back what PyTorch keeps."""
        import torch

        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()


def accelerator_for(device: str) -> Accelerator | None:
    """The device behind a name; None for the CPU, whose threads fuse tiles side by side."""
    return CudaAccelerator(device) if device.startswith("cuda") else None


@contextmanager
def bounded_vram(device: str, limit: int | None) -> Iterator[None]:
    """Let this process take no more than so many bytes of a card; nothing changes on the CPU or without a limit."""
    if limit is None or not device.startswith("cuda"):
        yield
        return
    import torch

    total = torch.cuda.get_device_properties(torch.device(device)).total_memory
    torch.cuda.set_per_process_memory_fraction(min(limit / total, 1.0), torch.device(device))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, torch.device(device))
