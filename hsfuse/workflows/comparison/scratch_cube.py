"""A cube on disk while it is judged: rows come in order, windows are read back, nothing is left behind."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import OutputError
from hsfuse.grid import Slice2D
from hsfuse.qa.sources import FunctionSource

FloatCube = NDArray[np.float32]


class ScratchCube(FunctionSource):
    """An :class:`~hsfuse.qa.sources.ImageSource` that is written row by row; a context manager.

    Parameters
    ----------
    folder
        Where the file without a name lies.
    shape
        (rows, cols).
    centre_nm
        Centre wavelength of each band.
    """

    def __init__(self, folder: Path, shape: tuple[int, int], centre_nm: NDArray[np.floating[Any]]) -> None:
        super().__init__(shape, centre_nm, self._read_block)
        self._bands = len(centre_nm)
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise _full(folder, error) from error
        self._folder = folder

    def write_rows(self, row0: int, rows: NDArray[Any]) -> None:
        """Store rows of shape (band, row, col), float32.

        Raises
        ------
        OutputError
            The disk is full.
        """
        try:
            self._file.seek(row0 * self._row_bytes)
            np.ascontiguousarray(rows.transpose(1, 0, 2), dtype=np.float32).tofile(self._file)
            self._file.flush()
        except OSError as error:
            raise _full(self._folder, error) from error

    @property
    def _row_bytes(self) -> int:
        return self._bands * self.shape[1] * 4

    def _read_block(self, block: Slice2D, bands: Sequence[int]) -> FloatCube:
        rows, cols = block.shape
        self._file.seek(block.row0 * self._row_bytes)
        width = self.shape[1]
        out = np.empty((len(bands), rows, cols), np.float32)
        chosen = list(bands)
        for row in range(rows):
            line = np.fromfile(self._file, np.float32, self._bands * width).reshape(self._bands, width)
            out[:, row] = line[chosen, block.col0 : block.col1]
        return out

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def _full(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"A cube cannot be kept in {folder} while it is judged ({error.strerror or error}).",
        hint="Free some space, or compare a smaller --window.",
    )
