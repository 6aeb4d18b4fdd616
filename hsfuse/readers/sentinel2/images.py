"""Windows of Sentinel-2 image layers: one handle for each layer, never shared between threads.

GDAL datasets must not be used by two threads at once, and GDAL keeps decoded JPEG 2000 blocks by dataset. So each
layer belongs to one worker thread, which opens it once and serves every request for it: layers are decoded in
parallel, and row strips that touch the same 1024 x 1024 block decode it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from hsfuse.errors import InputError
from hsfuse.processor import usable_cores
from hsfuse.readers.decoder import DecoderError, decoder_warnings_are_errors
from hsfuse.readers.gdal import JP2_DRIVERS, TIFF_DRIVERS, closed_world, open_image

T = TypeVar("T")
_MAX_WORKERS = 4


class LayerPool:
    """Open image layers, each tied to one worker thread.

    Parameters
    ----------
    paths
        Layer name to the path that GDAL opens.
    label
        Product name for error messages.
    check
        Called once with each layer, in its thread, before its pixels are first read; raises when the file is damaged.
    threads
        Threads that may decode; None: one for each core that the process may use.
    """

    def __init__(
        self, paths: Mapping[str, str], label: str, check: Callable[[str], None] | None = None, *,
        threads: int | None = None,
    ) -> None:  # fmt: skip
        self._paths, self._label, self._check = dict(paths), label, check
        self._checked: set[str] = set()
        count = max(1, min(_MAX_WORKERS, threads or usable_cores(), len(self._paths)))
        self._workers = [ThreadPoolExecutor(1, thread_name_prefix="s2-read") for _ in range(count)]
        self._worker_of = {layer: self._workers[i % count] for i, layer in enumerate(self._paths)}
        self._handles: dict[tuple[str, int | None], DatasetReader] = {}

    def submit(
        self, layer: str, task: Callable[[DatasetReader], T], *, level: int | None = None, pixels: bool = True
    ) -> Future[T]:
        """Run ``task`` on a layer's dataset in the layer's own thread.

        ``level`` picks one of the file's lower resolutions (0 is half of full); ``pixels`` False says that the task
        only looks at the header, for which the file need not be checked. The future raises
        :class:`~hsfuse.errors.InputError` when the image cannot be opened or decoded.
        """
        return self._worker_of[layer].submit(self._run, (layer, level), task, pixels)

    def check_ahead(self, layers: Iterable[str]) -> None:
        """Check layers in their own threads before anybody asks for their pixels; who does meets what is wrong."""
        for layer in layers:
            if self._check is not None and layer not in self._checked:
                self._worker_of[layer].submit(self._checked_once, layer)

    def _checked_once(self, layer: str) -> None:
        if self._check is not None and layer not in self._checked:
            self._check(layer)
            self._checked.add(layer)

    def _run(self, key: tuple[str, int | None], task: Callable[[DatasetReader], T], pixels: bool) -> T:
        layer, level = key
        if pixels:
            self._checked_once(layer)
        with self._settings():
            try:
                if key not in self._handles:
                    options = {} if level is None else {"overview_level": level}
                    self._handles[key] = self._open(layer, **options)
                with decoder_warnings_are_errors():
                    return task(self._handles[key])
            except (RasterioError, DecoderError) as error:
                raise InputError(
                    f"The image of {layer} in {self._label} cannot be read: {error}.",
                    hint="The file is damaged or incomplete; download or unpack the product again.",
                ) from error

    def _open(self, layer: str, **options: Any) -> DatasetReader:
        path = self._paths[layer]
        # Under the name of an image may lie what leads elsewhere: the format decides which driver may look.
        if path.startswith("/vsisubfile/"):
            drivers: tuple[str, ...] = (*JP2_DRIVERS, *TIFF_DRIVERS)
        else:
            drivers = JP2_DRIVERS if path.lower().endswith(".jp2") else TIFF_DRIVERS
        return open_image(path, drivers, sharing=False, **options)

    def _settings(self) -> rasterio.Env:
        # GDAL would look for side files (.aux.xml, .ovr) by listing the folder; SAFE products have none. With several
        # threads it hides the errors of its JPEG 2000 decoder and returns zeros; layers are decoded side by side.
        return closed_world(GDAL_NUM_THREADS="1", GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR")

    @contextmanager
    def own_handles(self) -> Iterator[Callable[[str], DatasetReader]]:
        """Open further handles for the thread that runs the body: returns what gives the one of a layer."""
        found: dict[str, DatasetReader] = {}

        def handle(layer: str) -> DatasetReader:
            if layer not in found:
                found[layer] = self._open(layer)
            return found[layer]

        with self._settings():
            try:
                yield handle
            finally:
                for file in found.values():
                    file.close()

    def close(self) -> None:
        """Close every handle in its own thread and end the threads."""
        for worker in set(self._worker_of.values()):
            # Behind everything that is still queued, so that no handle is missed.
            worker.submit(self._close_of, worker)
        for worker in self._workers:
            worker.shutdown(wait=True)

    def _close_of(self, worker: ThreadPoolExecutor) -> None:
        for key in [key for key in self._handles if self._worker_of[key[0]] is worker]:
            self._handles.pop(key).close()


def finish(futures: Sequence[Future[None]]) -> None:
    """Wait for all tasks, then raise the first error of them."""
    # All must end before an error leaves: the workers write into the caller's array.
    wait(futures)
    for future in futures:
        future.result()


def stored_levels(file: DatasetReader) -> list[int]:
    """Decimation factors that a JPEG 2000 file holds; none for other formats, whose overviews lie differently."""
    return list(file.overviews(1)) if file.driver.startswith("JP2") else []


def interpolate(
    samples: NDArray[np.float32], rows: NDArray[np.float64], cols: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Interpolate linearly at fractional rows and columns; the border repeats, NaN spreads."""
    row = np.clip(np.floor(rows).astype(np.int64), 0, samples.shape[0] - 1)
    col = np.clip(np.floor(cols).astype(np.int64), 0, samples.shape[1] - 1)
    down = (rows - row).clip(0.0, 1.0).astype(np.float32)[:, None]
    across = (cols - col).clip(0.0, 1.0).astype(np.float32)
    next_row = np.minimum(row + 1, samples.shape[0] - 1)
    next_col = np.minimum(col + 1, samples.shape[1] - 1)
    mixed = samples[row] * (1 - down) + samples[next_row] * down
    return np.asarray(mixed[:, col] * (1 - across) + mixed[:, next_col] * across, dtype=np.float32)
