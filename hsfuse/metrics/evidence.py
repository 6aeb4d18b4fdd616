"""What a metric judges by: a fused window and what is known beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import Psf, lowpass_decimate_array
from hsfuse.errors import UsageError

Kind = Literal["reference", "hsi", "msi", "srf"]
Cube = NDArray[np.floating]
Mask = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
_Found = TypeVar("_Found")


@dataclass(eq=False)
class Evidence:
    """A fused window, or a whole cube, and what is known beside it.

    Attributes
    ----------
    fused
        Reflectance, shape (band, row * ratio, col * ratio), NaN where nodata.
    valid
        Usable fine pixels, shape (row * ratio, col * ratio).
    ratio
        HSI pixel size over MSI pixel size.
    psf
        PSF of the HSI.
    reference
        The truth, shape of ``fused``; None when unknown.
    hsi
        Shape (band, row, col); None when unknown.
    msi
        Shape (msi band, row * ratio, col * ratio); None when unknown.
    srf
        Weights that turn HSI bands into MSI bands, shape (msi band, band); None when unknown. A row of zeros belongs
        to a band that the HSI does not cover.

    Raises
    ------
    UsageError
        The arrays do not nest.
    """

    fused: Cube
    valid: Mask
    ratio: int
    psf: Psf = field(default_factory=Psf)
    reference: Cube | None = None
    hsi: Cube | None = None
    msi: Cube | None = None
    srf: FloatArray | None = None
    _memory: dict[str, object] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        shape, r = self.fused.shape[1:], self.ratio
        if self.reference is not None and self.reference.shape != self.fused.shape:
            raise UsageError(f"The cubes differ in shape: {self.reference.shape} and {self.fused.shape}.")
        if self.hsi is not None and shape != (self.hsi.shape[1] * r, self.hsi.shape[2] * r):
            raise UsageError("The fused cube and the HSI of a window do not nest.")
        if self.msi is not None and self.msi.shape[1:] != shape:
            raise UsageError("The fused cube and the MSI of a window do not nest.")

    @property
    def known(self) -> frozenset[Kind]:
        """What is known beside the fused cube."""
        there: dict[Kind, object] = {"reference": self.reference, "hsi": self.hsi, "msi": self.msi, "srf": self.srf}
        return frozenset(name for name, value in there.items() if value is not None)

    def need_reference(self) -> Cube:
        """Return the reference; a metric that asks for it has it among its needs."""
        return _there(self.reference, "reference")

    def need_hsi(self) -> Cube:
        """Return the HSI."""
        return _there(self.hsi, "HSI")

    def need_msi(self) -> Cube:
        """Return the MSI."""
        return _there(self.msi, "MSI")

    def need_srf(self) -> FloatArray:
        """Return the spectral responses."""
        return _there(self.srf, "spectral responses")

    @cached_property
    def fine(self) -> Mask:
        """Fine pixels that are usable and known in the cube and, where there is one, in the MSI."""
        mask: Mask = self.valid & np.all(np.isfinite(self.fused), axis=0)
        return mask if self.msi is None else mask & np.all(np.isfinite(self.msi), axis=0)

    @cached_property
    def clear(self) -> Mask:
        """HSI pixels that are known, with usable fine pixels under their whole PSF, shape (row, col)."""
        hsi, r = self.need_hsi(), self.ratio
        blocks = self.fine.reshape(hsi.shape[1], r, hsi.shape[2], r)
        coarse = np.all(blocks, axis=(1, 3)) & np.all(np.isfinite(hsi), axis=0)
        return _eroded(coarse, self.psf.reach_px(r))

    @cached_property
    def degraded(self) -> FloatArray:
        """The fused cube at the HSI's resolution, nodata taken for 0, shape (band, row, col)."""
        return lowpass_decimate_array(np.nan_to_num(self.fused), self.ratio, self.psf).astype(np.float64)

    @cached_property
    def degraded_msi(self) -> FloatArray:
        """The MSI at the HSI's resolution, nodata taken for 0, shape (msi band, row, col)."""
        return lowpass_decimate_array(np.nan_to_num(self.need_msi()), self.ratio, self.psf).astype(np.float64)

    def once(self, name: str, compute: Callable[[], _Found]) -> _Found:
        """Return what ``compute`` gives, computed once for all metrics that share it under a name."""
        if name not in self._memory:
            self._memory[name] = compute()
        return self._memory[name]  # type: ignore[return-value]


def _there(value: _Found | None, name: str) -> _Found:
    if value is None:
        raise UsageError(f"A metric asks for the {name}, which is not among its needs.")
    return value


def _eroded(mask: Mask, pixels: int) -> Mask:
    from scipy.ndimage import binary_erosion

    # The window's own edge counts as invalid too: beyond it, the PSF would see replicated pixels.
    shrunk: Mask = binary_erosion(mask, np.ones((2 * pixels + 1, 2 * pixels + 1), bool), border_value=0)
    return shrunk
