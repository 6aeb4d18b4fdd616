"""DataArrays in the place of arrays: what their coordinates say need not be said again, and stays with the cube."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hsfuse.errors import UsageError
from hsfuse.spectral import SpectralResponse

if TYPE_CHECKING:
    import xarray as xr

FloatCube = NDArray[np.float32]
_SPECTRAL = ("wavelength", "band", "bands")
_TOLERANCE = 0.02
"""Share of an HSI pixel by which the corners of both images may differ."""
_SAME_PLACE = 0.5
"""Share of a pixel by which dates of the MSI may lie apart; what is less is found in the images."""


def is_data_array(value: object) -> TypeGuard[xr.DataArray]:
    """Whether something is a DataArray; nothing is imported for it."""
    xarray = sys.modules.get("xarray")
    return xarray is not None and isinstance(value, xarray.DataArray)


@dataclass(frozen=True)
class Labels:
    """What DataArrays say about themselves, and what the fused cube is to say.

    Attributes
    ----------
    hsi, msi
        Values, shape (band, row, col).
    ratio, wavelengths_nm, fwhm_nm, srf
        As of :func:`hsfuse.fuse`; None where no coordinate tells.
    """

    hsi: ArrayLike
    msi: ArrayLike
    ratio: int | None
    wavelengths_nm: ArrayLike | None
    fwhm_nm: ArrayLike | None
    srf: Sequence[SpectralResponse] | None
    _low: xr.DataArray | None
    _high: xr.DataArray | None

    @classmethod
    def of(cls, hsi: ArrayLike, msi: ArrayLike) -> Labels:
        """Read what the coordinates of both images tell; plain arrays tell nothing.

        Raises
        ------
        UsageError
            Dimensions or coordinates cannot be meant.
        """
        low = _ordered(hsi, "HSI") if is_data_array(hsi) else None
        high = _ordered(msi, "MSI") if is_data_array(msi) else None
        ratio = None if low is None or high is None else _ratio(low, high)
        return cls(
            hsi if low is None else low.values, msi if high is None else high.values, ratio,
            _along(low, "wavelength"), _along(low, "fwhm"), _responses(high), low, high,
        )  # fmt: skip

    @property
    def labelled(self) -> bool:
        """Whether the cube is to be a DataArray."""
        return self._low is not None or self._high is not None

    def cube(self, values: FloatCube, wavelengths_nm: ArrayLike, fwhm_nm: ArrayLike | None) -> xr.DataArray:
        """The fused cube of the dimensions (wavelength, y, x), on the MSI's map coordinates where they are known."""
        import xarray as xr

        coordinates: dict[str, Any] = {"wavelength": ("wavelength", np.asarray(wavelengths_nm), {"units": "nm"})}
        if fwhm_nm is not None:
            coordinates["fwhm"] = ("wavelength", np.asarray(fwhm_nm), {"units": "nm"})
        coordinates |= self._place()
        attributes = {} if self._low is None else dict(self._low.attrs)
        return xr.DataArray(
            values, coordinates, ("wavelength", "y", "x"), "reflectance", {"long_name": "reflectance", **attributes}
        )

    def dataset(self, cube: xr.DataArray, error_bound: float, record: Any, **planes: FloatCube) -> xr.Dataset:
        """The fused cube with what is known about it, plane by plane."""
        dataset = cube.to_dataset()
        for name, values in planes.items():
            dataset[name] = (("y", "x"), values)
        return dataset.assign_attrs(error_bound_90=error_bound, record=json.dumps(record, default=str))

    def partner(self, image: ArrayLike, name: str) -> ArrayLike:
        """Values of a further date of the MSI, which must lie where the MSI lies and have its bands.

        Raises
        ------
        UsageError
            Its dimensions or coordinates are others.
        """
        if not is_data_array(image):
            return image
        other = _ordered(image, name)
        for axis in ("y", "x"):
            if self._high is None or any(axis not in each.coords for each in (self._high, other)):
                continue
            ours, theirs = (np.asarray(each.coords[axis].values, np.float64) for each in (self._high, other))
            pixel = abs(_step(self._high, axis)) if ours.size > 1 else 1.0
            if ours.shape == theirs.shape and np.abs(ours - theirs).max() > _SAME_PLACE * pixel:
                raise UsageError(
                    f"The {name} lies elsewhere than the MSI: their coordinates {axis} differ.",
                    hint="Cut or resample it to the MSI's pixels, for instance with .interp_like(msi).",
                )
        ours_nm, theirs_nm = _along(self._high, "wavelength"), _along(other, "wavelength")
        if ours_nm is not None and theirs_nm is not None and ours_nm.shape == theirs_nm.shape:
            nearest = np.abs(theirs_nm[:, None] - ours_nm).argmin(axis=1)
            if np.unique(ours_nm).size == ours_nm.size and (nearest != np.arange(ours_nm.size)).any():
                raise UsageError(
                    f"The {name} has its bands in another order than the MSI, or other ones, by their wavelengths.",
                    hint="Give the bands of both in one order, for instance with .sel(band=msi.band).",
                )
        return other.values

    def _place(self) -> dict[str, Any]:
        if self._high is None:
            return {}
        names = [name for name in ("y", "x", "spatial_ref") if name in self._high.coords]
        return {name: self._high.coords[name].variable for name in names}


def _ordered(image: xr.DataArray, name: str) -> xr.DataArray:
    """An image of the dimensions (band, y, x), whatever its bands are called."""
    spectral = [str(axis) for axis in image.dims if axis in _SPECTRAL]
    if len(image.dims) != 3 or len(spectral) != 1 or not {"y", "x"} <= set(image.dims):
        raise UsageError(
            f"The {name} has the dimensions {image.dims}; it needs y, x and one of {', '.join(_SPECTRAL)}.",
            hint="Rename them, for instance with .rename({...}), or hand in image.values.",
        )
    return image.transpose(spectral[0], "y", "x")


def _along(image: xr.DataArray | None, name: str) -> NDArray[np.float64] | None:
    if image is None or name not in image.coords or image.coords[name].dims != image.dims[:1]:
        return None
    return np.asarray(image.coords[name].values, dtype=np.float64)


def _responses(image: xr.DataArray | None) -> tuple[SpectralResponse, ...] | None:
    """Responses by centre and width of the bands; None where an image does not tell both."""
    centre, width = _along(image, "wavelength"), _along(image, "fwhm")
    if image is None or centre is None or width is None:
        return None
    names = [str(value) for value in image.coords["band"].values] if "band" in image.coords else None
    known = names or [f"{nm:.0f} nm" for nm in centre]
    return tuple(
        SpectralResponse.flat_top(name, float(nm), float(fwhm))
        for name, nm, fwhm in zip(known, centre, width, strict=True)
    )


def _ratio(low: xr.DataArray, high: xr.DataArray) -> int | None:
    """Ratio of the pixel sizes by the map coordinates; None without.

    Raises
    ------
    UsageError
        The pixels of both images do not nest.
    """
    if not all(name in image.coords and image.sizes[name] > 1 for image in (low, high) for name in ("x", "y")):
        return None
    steps = {name: _step(low, name) / _step(high, name) for name in ("x", "y")}
    ratio = round(steps["x"])
    nested = ratio >= 2 and all(abs(step / ratio - 1.0) < _TOLERANCE for step in steps.values())
    for name in ("x", "y"):
        coarse, fine = (np.asarray(image.coords[name].values, dtype=np.float64) for image in (low, high))
        whole = nested and fine.size == coarse.size * ratio
        off = np.abs(fine.reshape(coarse.size, ratio).mean(axis=1) - coarse).max() if whole else np.inf
        if off > _TOLERANCE * abs(_step(low, name)):
            raise UsageError(
                "The pixels of the two images do not nest: each HSI pixel must cover whole MSI pixels.",
                hint="Use hsfuse.fuse_scene, which aligns products; or cut and resample one of them.",
            )
    return ratio


def _step(image: xr.DataArray, name: str) -> float:
    values = np.asarray(image.coords[name].values, dtype=np.float64)
    return float(values[-1] - values[0]) / (values.size - 1)
