"""Bands as a table, and spectral response functions (SRF).

All wavelengths are in nanometres. A :class:`BandTable` keeps every band that a product carries, in ascending
order of centre wavelength inside each detector; nothing downstream addresses bands by a fixed index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hsfuse.errors import InputError

FWHM_TO_SIGMA = 1.0 / (2.0 * np.sqrt(2.0 * np.log(2.0)))
"""Gaussian standard deviation per unit of full width at half maximum."""


@dataclass(frozen=True)
class BandTable:
    """Bands of one product.

    Attributes
    ----------
    centre_nm, fwhm_nm
        Centre wavelength and full width at half maximum, shape (band,).
    detector
        ``"VNIR"``, ``"SWIR"`` or ``""`` for each band.
    slot
        Where the band lies in its detector's stored cube (index along the band axis of the file).
    good
        False where the producer itself marks the band as bad (ENVI bbl = 0).
    """

    centre_nm: NDArray[np.float64]
    fwhm_nm: NDArray[np.float64]
    detector: tuple[str, ...]
    slot: NDArray[np.int64]
    good: NDArray[np.bool_]

    @classmethod
    def make(
        cls,
        centre_nm: ArrayLike,
        fwhm_nm: ArrayLike | None = None,
        *,
        detector: Sequence[str] | str = "",
        slot: ArrayLike | None = None,
        good: ArrayLike | None = None,
    ) -> BandTable:
        """Build a table, filling what is missing (FWHM from the spacing, slots in order, all good).

        Raises
        ------
        InputError
            The wavelengths are absurd (outside 200 nm to 20 µm after conversion, not finite) or the lengths differ.
        """
        centre = np.asarray(centre_nm, dtype=np.float64).ravel()
        count = centre.size
        if count == 0 or not np.all(np.isfinite(centre)) or centre.min() < 200.0 or centre.max() > 20_000.0:
            shown = "none" if count == 0 else f"{np.nanmin(centre):g} to {np.nanmax(centre):g}"
            raise InputError(
                f"The centre wavelengths are not plausible ({shown}; expected nanometres between 200 and 20000).",
                hint="Check the wavelength list and its unit in the input's metadata.",
            )
        if fwhm_nm is None:
            fwhm = np.gradient(centre) if count > 1 else np.full(1, 10.0)
            fwhm = np.maximum(np.abs(fwhm), 1.0)
        else:
            fwhm = np.asarray(fwhm_nm, dtype=np.float64).ravel()
        names = (detector,) * count if isinstance(detector, str) else tuple(detector)
        slots = np.arange(count) if slot is None else np.asarray(slot, dtype=np.int64).ravel()
        flags = np.ones(count, bool) if good is None else np.asarray(good, dtype=bool).ravel()
        if not len(names) == fwhm.size == slots.size == flags.size == count:
            raise InputError("The band lists (wavelength, FWHM, flags) differ in length.")
        return cls(centre, fwhm, names, slots.astype(np.int64), flags)

    def __len__(self) -> int:
        return int(self.centre_nm.size)

    def take(self, index: ArrayLike) -> BandTable:
        """Return the table of some bands (indices or a boolean mask)."""
        chosen = np.arange(len(self))[np.asarray(index)]
        return replace(
            self,
            centre_nm=self.centre_nm[chosen],
            fwhm_nm=self.fwhm_nm[chosen],
            detector=tuple(self.detector[i] for i in chosen),
            slot=self.slot[chosen],
            good=self.good[chosen],
        )

    def nearest(self, wavelength_nm: ArrayLike) -> NDArray[np.int64]:
        """Index of the band nearest to each wavelength."""
        wanted = np.atleast_1d(np.asarray(wavelength_nm, dtype=np.float64))
        index: NDArray[np.int64] = np.abs(wanted[:, None] - self.centre_nm[None, :]).argmin(axis=1)
        return index

    def in_swir(self, cut_nm: float = 950.0) -> NDArray[np.bool_]:
        """Bands of the SWIR detector, shape (band,); where no detector is named, those above ``cut_nm``."""
        detector = np.array(self.detector)
        return np.where(detector == "", self.centre_nm > cut_nm, detector == "SWIR")

    def names(self) -> list[str]:
        """Return a description of each band, such as ``B042 705.3 nm``."""
        return [f"B{i + 1:03d} {nm:.1f} nm" for i, nm in enumerate(self.centre_nm)]


@dataclass(frozen=True)
class SpectralResponse:
    """Relative spectral response of one band, sampled on its own wavelengths (nm, ascending).

    ``source`` says where it comes from; an ``assumed`` one is nominal and worth measuring on the scene.
    """

    name: str
    wavelength_nm: NDArray[np.float64]
    response: NDArray[np.float64]
    source: str = ""
    assumed: bool = False

    @property
    def centre_nm(self) -> float:
        """Response-weighted mean wavelength."""
        total = self.response.sum()
        return float((self.wavelength_nm * self.response).sum() / total) if total > 0 else float("nan")

    @property
    def range_nm(self) -> tuple[float, float]:
        """Wavelengths between which the response exceeds half its maximum."""
        above = self.wavelength_nm[self.response >= 0.5 * self.response.max()]
        return float(above.min()), float(above.max())

    @classmethod
    def gaussian(cls, name: str, centre_nm: float, fwhm_nm: float) -> SpectralResponse:
        """Return a Gaussian response at 1 nm steps."""
        sigma = fwhm_nm * FWHM_TO_SIGMA
        grid = np.arange(np.floor(centre_nm - 4 * sigma), np.ceil(centre_nm + 4 * sigma) + 1.0)
        return cls(name, grid, np.exp(-0.5 * ((grid - centre_nm) / sigma) ** 2), "Gaussian")

    @classmethod
    def flat_top(cls, name: str, centre_nm: float, fwhm_nm: float, order: int = 8) -> SpectralResponse:
        """Return a super-Gaussian response: flat in the middle, steep at the edges, as filter bands are."""
        grid = np.arange(np.floor(centre_nm - fwhm_nm), np.ceil(centre_nm + fwhm_nm) + 1.0)
        response = np.exp(-np.log(2.0) * np.abs(2.0 * (grid - centre_nm) / fwhm_nm) ** order)
        return cls(name, grid, response, "flat-top model")

    def at(self, wavelength_nm: NDArray[np.floating]) -> NDArray[np.float64]:
        """Interpolate the response; 0 outside its samples."""
        inside: NDArray[np.float64] = np.interp(wavelength_nm, self.wavelength_nm, self.response, left=0.0, right=0.0)
        return inside


def srf_weights(bands: BandTable, responses: Sequence[SpectralResponse]) -> NDArray[np.float64]:
    """Weights that turn hyperspectral bands into multispectral ones.

    Each response is projected on the Gaussian band profiles: the weight of a band is the response integrated
    over the band's profile times its share of the spectrum (half the distance to both neighbours), and each row
    sums to 1.

    Parameters
    ----------
    bands
        Hyperspectral bands (any order).
    responses
        One response per multispectral band.

    Returns
    -------
    numpy.ndarray
        Shape (msi band, hsi band). A row is all zero when no band lies under its response.
    """
    order = np.argsort(bands.centre_nm, kind="stable")
    centre, fwhm = bands.centre_nm[order], bands.fwhm_nm[order]
    share = np.gradient(centre) if centre.size > 1 else np.ones(1)
    # A gap in the band list must not let its two edge bands stand for the whole gap.
    share = np.clip(share, 0.0, 2.0 * fwhm)
    fine = np.arange(centre.min() - 3 * fwhm.max(), centre.max() + 3 * fwhm.max(), 1.0)
    # Profiles narrower than the sampling would fall between two samples and vanish.
    width = np.maximum(fwhm, 2.0)[:, None] * FWHM_TO_SIGMA
    profile = np.exp(-0.5 * ((fine[None, :] - centre[:, None]) / width) ** 2)
    profile /= profile.sum(axis=1, keepdims=True)
    weights = np.zeros((len(responses), centre.size))
    for row, response in enumerate(responses):
        raw = (profile @ response.at(fine)) * share
        raw[raw < 1e-4 * raw.max(initial=0.0)] = 0.0
        if raw.sum() > 0:
            weights[row, order] = raw / raw.sum()
    return weights


def srf_coverage(bands: BandTable, response: SpectralResponse) -> float:
    """Share of a response (0 to 1) that lies within one FWHM of some band."""
    near = np.abs(response.wavelength_nm[:, None] - bands.centre_nm[None, :]) <= bands.fwhm_nm[None, :]
    total = response.response.sum()
    return float(response.response[near.any(axis=1)].sum() / total) if total > 0 else 0.0
