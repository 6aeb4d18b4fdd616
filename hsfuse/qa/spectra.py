"""Spectral curves of pure pixels: the hyperspectral measurement against the fused pixels inside it.

Over an even surface the spectrum of a 30 m pixel and the mean of the fused 10 m pixels inside it should agree;
what the fusion did to the curve is then plain to see, band by band. Numbers only: :mod:`hsfuse.qa.plots` draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hsfuse.errors import UsageError
from hsfuse.grid import Slice2D
from hsfuse.qa.pixels import PurePixel

FloatArray = NDArray[np.float64]
ReadBlock = Callable[[Slice2D], NDArray[Any]]
"""Reads a block, shape (band, row, col), reflectance with NaN where there is no data."""


class Response(Protocol):
    """What is needed of a spectral response (see :class:`hsfuse.spectral.SpectralResponse`)."""

    @property
    def name(self) -> str:
        """Band name."""
        ...

    @property
    def centre_nm(self) -> float:
        """Response-weighted centre."""
        ...

    @property
    def range_nm(self) -> tuple[float, float]:
        """Wavelengths of half response."""
        ...


@dataclass(frozen=True)
class MsiPoint:
    """A multispectral band over a pure pixel.

    Attributes
    ----------
    name
        Band name.
    centre_nm, low_nm, high_nm
        Centre and half-response limits of the band.
    reflectance
        Mean over the pixel.
    """

    name: str
    centre_nm: float
    low_nm: float
    high_nm: float
    reflectance: float


@dataclass(frozen=True)
class SpectrumComparison:
    """One pure pixel before and after fusion.

    Attributes
    ----------
    pixel
        Where and what it is.
    centre_nm
        Band centres, ascending, shape (band,).
    hsi
        Spectrum of the hyperspectral pixel.
    fused_mean, fused_low, fused_high
        Mean, smallest and largest value of the ratio x ratio fused pixels inside it, per band.
    msi
        Multispectral bands over the same pixel; empty when unknown.
    spectral_angle_deg
        Angle between ``hsi`` and ``fused_mean`` over the bands that both have; NaN when fewer than 2.
    rmse, bias
        Root mean square and mean of ``fused_mean - hsi``, in reflectance.
    worst_nm, worst_difference
        Where the two differ most, and by how much (``fused_mean - hsi``).
    label
        Short name for legends, such as ``vegetation 1``.
    product_nm, product
        Spectrum of the hyperspectral pixel in all bands of the product, also those that were not fused, by wavelength;
        empty when unknown.
    """

    pixel: PurePixel
    centre_nm: FloatArray
    hsi: FloatArray
    fused_mean: FloatArray
    fused_low: FloatArray
    fused_high: FloatArray
    msi: tuple[MsiPoint, ...]
    spectral_angle_deg: float
    rmse: float
    bias: float
    worst_nm: float
    worst_difference: float
    label: str
    product_nm: FloatArray = field(default_factory=lambda: np.zeros(0))
    product: FloatArray = field(default_factory=lambda: np.zeros(0))

    @property
    def difference(self) -> FloatArray:
        """``fused_mean - hsi`` per band."""
        return self.fused_mean - self.hsi

    def to_json(self) -> dict[str, Any]:
        """Return plain values (NaN where a number does not exist)."""
        spectra = {
            name: [float(value) for value in getattr(self, name)]
            for name in ("centre_nm", "hsi", "fused_mean", "fused_low", "fused_high", "product_nm", "product")
        }
        return {
            "label": self.label,
            **self.pixel.to_json(),
            "spectral_angle_deg": self.spectral_angle_deg,
            "rmse": self.rmse,
            "bias": self.bias,
            "worst_nm": self.worst_nm,
            "worst_difference": self.worst_difference,
            "msi": [vars(point) for point in self.msi],
            **spectra,
        }


def spectral_angle_deg(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """Angle between two spectra in degrees over the bands that both have; NaN when fewer than 2 are left."""
    both = np.isfinite(a) & np.isfinite(b)
    u, v = np.asarray(a, dtype=np.float64)[both], np.asarray(b, dtype=np.float64)[both]
    lengths = np.linalg.norm(u) * np.linalg.norm(v)
    if u.size < 2 or lengths == 0:
        return float("nan")
    # The half-angle form keeps its precision where the arc cosine has none: at nearly equal spectra.
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    return float(np.degrees(2.0 * np.arctan2(np.linalg.norm(u - v), np.linalg.norm(u + v))))


def band_runs(
    centre_nm: NDArray[np.floating[Any]],
    dropped_nm: Iterable[tuple[float, float]] = (),
    *,
    max_step_nm: float = 35.0,
) -> list[slice]:
    """Cut an ascending band list into runs that a line may connect.

    Parameters
    ----------
    centre_nm
        Band centres, ascending.
    dropped_nm
        Wavelength windows without bands (absorption); a run never reaches across one.
    max_step_nm
        Two bands further apart than this, and than 2.5 times the usual step around them, belong to different runs.

    Returns
    -------
    list of slice
        Consecutive, together covering all bands.
    """
    centre = np.asarray(centre_nm, dtype=np.float64)
    if centre.size == 0:
        return []
    steps = np.diff(centre)
    breaks = np.zeros(steps.size, dtype=bool)
    for i, step in enumerate(steps):
        around = np.median(steps[max(i - 5, 0) : i + 6])
        breaks[i] = step > max(max_step_nm, 2.5 * around)
        for low, high in dropped_nm:
            inside = min(high, centre[i + 1]) - max(low, centre[i])
            breaks[i] |= inside > 0.5 * (high - low) and step > 1.5 * around
    edges = [0, *(np.nonzero(breaks)[0] + 1).tolist(), centre.size]
    return [slice(a, b) for a, b in pairwise(edges)]


def compare_spectrum(
    pixel: PurePixel,
    centre_nm: NDArray[np.floating[Any]],
    hsi: NDArray[np.floating[Any]],
    fused: NDArray[np.floating[Any]],
    *,
    msi: NDArray[np.floating[Any]] | None = None,
    responses: Sequence[Response] | None = None,
    label: str = "",
) -> SpectrumComparison:
    """Compare one pixel's spectrum with the fused pixels inside it.

    Parameters
    ----------
    pixel
        Where and what it is.
    centre_nm
        Band centres of both, shape (band,), any order.
    hsi
        Spectrum of the hyperspectral pixel, shape (band,).
    fused
        Fused pixels inside it, shape (band, ratio, ratio).
    msi
        Multispectral pixels inside it, shape (msi band, ratio, ratio); drawn only together with ``responses``.
    responses
        Spectral response of each multispectral band.
    label
        Short name; the surface type when empty.

    Raises
    ------
    UsageError
        The shapes do not fit together.
    """
    centre = np.asarray(centre_nm, dtype=np.float64)
    spectrum, block = np.asarray(hsi, dtype=np.float64), np.asarray(fused, dtype=np.float64)
    if spectrum.shape != centre.shape or block.ndim != 3 or block.shape[0] != centre.size:
        raise UsageError(
            f"The spectra to compare differ in shape: {centre.size} wavelengths, {spectrum.shape} measured, "
            f"{block.shape} fused."
        )
    order = np.argsort(centre, kind="stable")
    centre, spectrum, values = centre[order], spectrum[order], block.reshape(centre.size, -1)[order]
    present = np.isfinite(values)
    count = present.sum(axis=1)
    filled = np.where(present, values, 0.0)
    mean = np.where(count > 0, filled.sum(axis=1) / np.maximum(count, 1), np.nan)
    low = np.where(count > 0, np.where(present, values, np.inf).min(axis=1), np.nan)
    high = np.where(count > 0, np.where(present, values, -np.inf).max(axis=1), np.nan)
    difference = mean - spectrum
    both = np.isfinite(difference)
    if both.any():
        worst = int(np.where(both, np.abs(difference), -1.0).argmax())
        rmse, bias = float(np.sqrt(np.mean(difference[both] ** 2))), float(difference[both].mean())
        worst_nm, worst_difference = float(centre[worst]), float(difference[worst])
    else:
        rmse = bias = worst_nm = worst_difference = float("nan")
    return SpectrumComparison(
        pixel=pixel,
        centre_nm=centre,
        hsi=spectrum,
        fused_mean=mean,
        fused_low=low,
        fused_high=high,
        msi=_msi_points(msi, responses),
        spectral_angle_deg=spectral_angle_deg(spectrum, mean),
        rmse=rmse,
        bias=bias,
        worst_nm=worst_nm,
        worst_difference=worst_difference,
        label=label or pixel.kind,
    )


def _msi_points(msi: NDArray[np.floating[Any]] | None, responses: Sequence[Response] | None) -> tuple[MsiPoint, ...]:
    if msi is None or responses is None:
        return ()
    if len(responses) != msi.shape[0]:
        raise UsageError(f"There are {msi.shape[0]} multispectral bands but {len(responses)} spectral responses.")
    points = []
    for band, response in zip(np.asarray(msi, dtype=np.float64), responses, strict=True):
        present = band[np.isfinite(band)]
        if present.size:
            low, high = response.range_nm
            points.append(MsiPoint(response.name, response.centre_nm, low, high, float(present.mean())))
    return tuple(points)


def compare_pixels(
    pixels: Iterable[PurePixel],
    centre_nm: NDArray[np.floating[Any]],
    *,
    ratio: int,
    read_hsi: ReadBlock,
    read_fused: ReadBlock,
    read_msi: ReadBlock | None = None,
    responses: Sequence[Response] | None = None,
    read_product: ReadBlock | None = None,
    product_nm: NDArray[np.floating[Any]] | None = None,
) -> tuple[SpectrumComparison, ...]:
    """Compare the spectra of pure pixels before and after fusion, at full resolution.

    Parameters
    ----------
    pixels
        Positions in the hyperspectral grid, whose pixels hold ``ratio`` x ``ratio`` fused pixels each.
    centre_nm
        Band centres of both cubes, shape (band,).
    ratio
        Pixel size ratio.
    read_hsi, read_fused, read_msi
        Read a block of the hyperspectral image (in its pixels), of the fused cube and of the multispectral image
        (in theirs).
    responses
        Spectral responses of the multispectral bands.
    read_product, product_nm
        Read a block of the hyperspectral image in all bands of the product, and their centres in that order.

    Returns
    -------
    tuple of SpectrumComparison
        In the order of ``pixels``, numbered within each surface type; pixels that are nodata in either cube are
        left out.
    """
    found: list[SpectrumComparison] = []
    numbers: dict[str, int] = {}
    for pixel in pixels:
        block = Slice2D(pixel.row, pixel.row + 1, pixel.col, pixel.col + 1)
        fine = block.scaled(ratio)
        numbers[pixel.kind] = numbers.get(pixel.kind, 0) + 1
        result = compare_spectrum(
            pixel,
            centre_nm,
            read_hsi(block)[:, 0, 0],
            read_fused(fine),
            msi=None if read_msi is None else read_msi(fine),
            responses=responses,
            label=f"{pixel.kind} {numbers[pixel.kind]}",
        )
        if not np.isfinite(result.rmse):
            continue
        if read_product is not None and product_nm is not None:
            order = np.argsort(product_nm, kind="stable")
            spectrum = np.asarray(read_product(block)[:, 0, 0], dtype=np.float64)[order]
            result = replace(result, product_nm=np.asarray(product_nm, dtype=np.float64)[order], product=spectrum)
        found.append(result)
    return tuple(found)
