"""What a fusion method found out about a scene while it was fitted, as plain values for reports and decisions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import Offset, Psf


@dataclass(frozen=True)
class Calibration:
    """Result.

    Attributes
    ----------
    psf
        Blur of the HSI relative to the MSI.
    offset_px
        How far (row, col) the HSI's pixels really lie towards larger index, HSI pixels.
    """

    psf: Psf
    offset_px: Offset

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the report."""
        return {"psf_fwhm_px": self.psf.fwhm_px, "offset_px": [round(v, 4) for v in self.offset_px]}


@dataclass(frozen=True)
class CorrectionValidation:
    """How much of a network's correction helps, measured on the scene at reduced resolution (Wald's protocol).

    Attributes
    ----------
    share
        Share of the correction that is used, 0 to 1, shape (band,).
    gain_db
        What the method gains at that share over its base method alone at reduced resolution, dB, mean over bands.
    windows
        Windows that were tested; 0 means that none was large and clear enough, and every share is 0.
    """

    share: NDArray[np.float32]
    gain_db: float
    windows: int

    @classmethod
    def untested(cls, bands: int) -> CorrectionValidation:
        """No correction without a test: the base estimate stays as it is."""
        return cls(np.zeros(bands, np.float32), math.nan, 0)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the report."""
        return {
            "windows": self.windows,
            "gain_db": None if math.isnan(self.gain_db) else round(self.gain_db, 3),
            "mean_share": round(float(self.share.mean()), 4),
            "share": [round(float(v), 4) for v in self.share],
        }


REFINEMENTS = {
    "none": "not used: it does not gain on this scene at reduced resolution",
    "map": "maximum a posteriori estimate in closed form",
    "filter": "multispectral image denoised by a local Wiener filter, maximum a posteriori estimate",
    "clean": "multispectral image denoised by non-local Bayes, maximum a posteriori estimate",
    "nonlocal": "maximum a posteriori estimate and non-local Bayes",
}
"""What stands behind a method, by its name in :class:`RefinementRecord`."""


@dataclass(frozen=True)
class RefinementRecord:
    """What was decided on the scene.

    Attributes
    ----------
    used
        ``none``, or which refinement.
    gain_db
        Gain at reduced resolution of what was tried, dB, by name.
    windows
        Degraded windows that decided.
    error
        Root mean square error of the method at reduced resolution by band, shape (band,); None when it was not tested.
    held_out_db
        Gain on MSI bands that were held out, at the scene's own resolution, dB, by name.
    displacement_px
        Local displacement of the HSI, standard deviation in HSI pixels, as which its error beyond noise was taken.
    displacement_gain_db
        What the bands that decided on it gain over noise alone by the displacement that suits them best, dB.
    """

    used: str
    gain_db: Mapping[str, float]
    windows: int
    error: NDArray[np.float64] | None
    held_out_db: Mapping[str, float] = field(default_factory=dict)
    displacement_px: float = 0.0
    displacement_gain_db: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the report."""
        return {
            "used": self.used,
            "gain_db": {name: round(value, 3) for name, value in self.gain_db.items()},
            "held_out_db": {name: round(value, 3) for name, value in self.held_out_db.items()},
            "displacement_px": self.displacement_px,
            "displacement_gain_db": round(self.displacement_gain_db, 3),
            "windows": self.windows,
            "expected_rmse": None if self.error is None else round(float(np.sqrt((self.error**2).mean())), 6),
        }


@dataclass(frozen=True)
class MethodDiagnostics:
    """Everything that a method tells about itself on a scene; None for what it does not do.

    Attributes
    ----------
    calibration
        Blur and residual shift of the HSI, found on the pair.
    validation
        Test of a network's correction at reduced resolution.
    refinement
        The maximum a posteriori step behind the method.
    """

    calibration: Calibration | None = None
    validation: CorrectionValidation | None = None
    refinement: RefinementRecord | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the report."""
        return {
            "calibration": self.calibration.to_json() if self.calibration else None,
            "validation": self.validation.to_json() if self.validation else None,
            "refinement": self.refinement.to_json() if self.refinement else None,
        }
