"""Which bands of a scene stand for those that a network was trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hsfuse.errors import InputError
from hsfuse.fusion.registry import fallback_method
from hsfuse.spectral import BandTable


def match_bands(spec_centre_nm: ArrayLike, scene_bands: BandTable | ArrayLike) -> NDArray[np.int64]:
    """Find the scene band for every band of a network, by wavelength.

    Parameters
    ----------
    spec_centre_nm
        Centre wavelengths of the network, nm, shape (band,).
    scene_bands
        Bands of the scene (any order, any number), or their centre wavelengths. Bands that the producer marks as
        bad are not used.

    Returns
    -------
    numpy.ndarray
        Index into the scene's bands, shape (band,).

    Raises
    ------
    InputError
        The scene has no band within half the network's local band spacing of some wavelength, or one scene band
        would have to stand for two.
    """
    wanted = np.atleast_1d(np.asarray(spec_centre_nm, dtype=np.float64))
    if isinstance(scene_bands, BandTable):
        centre, usable = scene_bands.centre_nm, np.asarray(scene_bands.good, bool)
    else:
        centre = np.atleast_1d(np.asarray(scene_bands, dtype=np.float64))
        usable = np.ones(centre.shape, bool)
    if not usable.any():
        raise InputError("The scene has no usable band.", hint="Check the wavelengths and bad-band flags.")
    distance = np.abs(wanted[:, None] - centre[None, :])
    distance[:, ~usable] = np.inf
    index = distance.argmin(axis=1)
    missing = distance[np.arange(wanted.size), index] > half_spacing(wanted)
    if missing.any():
        shown = ", ".join(f"{nm:.0f}" for nm in wanted[missing][:6]) + (", ..." if missing.sum() > 6 else "")
        raise InputError(
            f"The scene has no band for {int(missing.sum())} of the network's {wanted.size} wavelengths ({shown} nm).",
            hint=f"Use --method {fallback_method()} for this sensor, or train a network on its bands.",
        )
    if np.unique(index).size != index.size:
        raise InputError(
            "The scene's bands are too coarse for this network: one band would have to stand for two.",
            hint=f"Use --method {fallback_method()} for this sensor, or train a network on its bands.",
        )
    return index.astype(np.int64)


def half_spacing(centre_nm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half the distance to the nearer neighbour of every band, nm; at least 2 nm, 5 nm for a single band."""
    if centre_nm.size < 2:
        return np.full(centre_nm.size, 5.0)
    order = np.argsort(centre_nm)
    gaps = np.diff(centre_nm[order])
    nearer = np.minimum(np.append(gaps, np.inf), np.insert(gaps, 0, np.inf))
    result = np.empty_like(centre_nm)
    result[order] = np.maximum(nearer / 2.0, 2.0)
    return result
