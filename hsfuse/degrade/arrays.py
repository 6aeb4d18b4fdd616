"""NumPy arrays with gaps, on their way to functions on tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def split_nan(x: NDArray[np.floating]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the data with 0 for NaN and, if there are any, an indicator of them; both (1, band, row, col)."""
    import torch

    data = np.ascontiguousarray(x, dtype=np.float32)
    missing = np.isnan(data)
    if not missing.any():
        # A read-only array (a memory map) must not become a tensor that could be written to.
        return torch.from_numpy(data if data.flags.writeable else data.copy())[None], None
    return (
        torch.from_numpy(np.where(missing, np.float32(0), data))[None],
        torch.from_numpy(missing.astype(np.float32))[None],
    )
