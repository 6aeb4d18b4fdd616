"""Surface spectra for simulated scenes, and their exact values in sensor bands.

The spectra are quoted from the earthlib library (MIT licence, see ``data/ENDMEMBERS.md``); water is modelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator

from hsfuse.errors import UsageError
from hsfuse.spectral import FWHM_TO_SIGMA, BandTable, SpectralResponse

FINE_STEP_NM = 1.0


@dataclass(frozen=True)
class Endmembers:
    """Surface reflectance spectra.

    Attributes
    ----------
    wavelength_nm
        Shape (wavelength,), ascending.
    reflectance
        Shape (endmember, wavelength), 0 to 1.
    group
        Kind of surface of each spectrum, such as ``"crop"`` or ``"asphalt"``.
    name
        Name in the library that the spectrum comes from.
    """

    wavelength_nm: NDArray[np.float64]
    reflectance: NDArray[np.float64]
    group: tuple[str, ...]
    name: tuple[str, ...]

    @classmethod
    @cache
    def load(cls) -> Endmembers:
        """Return all spectra that hsfuse ships."""
        with (files("hsfuse.simulate") / "data" / "endmembers.npz").open("rb") as stream, np.load(stream) as packed:
            return cls(
                packed["wavelength_nm"].astype(np.float64),
                packed["reflectance"].astype(np.float64),
                tuple(str(item) for item in packed["group"]),
                tuple(str(item) for item in packed["name"]),
            )

    def __len__(self) -> int:
        return len(self.group)

    def take(self, index: Sequence[int] | NDArray[np.integer]) -> Endmembers:
        """Return some of the spectra."""
        chosen = [int(i) for i in index]
        return Endmembers(
            self.wavelength_nm,
            self.reflectance[chosen],
            tuple(self.group[i] for i in chosen),
            tuple(self.name[i] for i in chosen),
        )

    def of(self, *groups: str) -> NDArray[np.int64]:
        """Indices of the spectra of some groups.

        Raises
        ------
        UsageError
            There is none.
        """
        found = np.array([i for i, group in enumerate(self.group) if group in groups], dtype=np.int64)
        if found.size == 0:
            raise UsageError(f"There is no endmember of the kind {', '.join(groups)}.")
        return found

    def fine(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Wavelengths every nanometre and the spectra there (monotone cubic), shape (endmember, wavelength)."""
        grid = np.arange(self.wavelength_nm[0], self.wavelength_nm[-1] + 0.5 * FINE_STEP_NM, FINE_STEP_NM)
        return grid, np.asarray(PchipInterpolator(self.wavelength_nm, self.reflectance, axis=1)(grid))

    def in_bands(self, centre_nm: ArrayLike | BandTable, fwhm_nm: ArrayLike | None = None) -> NDArray[np.float64]:
        """Reflectance in Gaussian bands, shape (band, endmember).

        The spectrum, a smooth curve known every nanometre, is weighted with the band's profile cut at four
        standard deviations.

        Raises
        ------
        UsageError
            A band reaches outside the spectra.
        """
        if isinstance(centre_nm, BandTable):
            bands = centre_nm
        else:
            bands = BandTable.make(
                centre_nm, np.broadcast_to(10.0 if fwhm_nm is None else fwhm_nm, np.shape(centre_nm))
            )
        centre, width = bands.centre_nm, bands.fwhm_nm
        sigma = width * FWHM_TO_SIGMA
        grid, spectra = self.fine()
        if np.any(centre - 2.0 * sigma < grid[0]) or np.any(centre + 2.0 * sigma > grid[-1]):
            raise UsageError(
                f"Bands from {centre.min():.0f} to {centre.max():.0f} nm were asked for, but the simulated spectra "
                f"cover {grid[0]:.0f} to {grid[-1]:.0f} nm."
            )
        distance = (grid[None, :] - centre[:, None]) / sigma[:, None]
        profile = np.where(np.abs(distance) <= 4.0, np.exp(-0.5 * distance**2), 0.0)
        profile /= profile.sum(axis=1, keepdims=True)
        return np.asarray(profile @ spectra.T)

    def in_responses(self, responses: Sequence[SpectralResponse]) -> NDArray[np.float64]:
        """Reflectance seen through response functions, shape (response, endmember)."""
        grid, spectra = self.fine()
        profile = np.stack([response.at(grid) for response in responses])
        total = profile.sum(axis=1, keepdims=True)
        if np.any(total <= 0.0):
            missing = ", ".join(r.name for r, t in zip(responses, total[:, 0], strict=True) if t <= 0.0)
            raise UsageError(f"The response of {missing} lies outside the simulated spectra.")
        return np.asarray((profile / total) @ spectra.T)
