"""Names that the writers' tests share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hsfuse.writers import WrittenProduct

Cube = NDArray[np.float32]
WriteCube = Callable[..., WrittenProduct]

CENTRES_NM = np.array([441.6, 489.7, 560.2, 664.9, 705.3, 842.1, 1610.4, 2201.9])
FWHM_NM = np.array([11.3, 10.2, 9.8, 9.1, 9.4, 10.9, 11.6, 8.2])
PROVENANCE = {
    "version": "0.1.0",
    "method": "glp",
    "config": {"bands": "8", "seed": 0},
    "inputs": [{"name": "PRS_L2D_x.he5", "bytes": 12, "fingerprint": "ab"}],
}
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63600000000200"
    "0148afa4710000000049454e44ae426082"
)
"""A picture of one pixel."""
