"""Sensor degradation: point spread function, decimation, interpolation, spectral response, Wald's protocol.

One module decides where a pixel's centre is: pixel (i, j) of the coarse grid covers rows ``i*r .. i*r + r - 1``
and the like columns of the fine grid, so its centre lies at fine position ``i*r + (r - 1)/2``. Both
:func:`lowpass_decimate` and :func:`upsample` keep to that for odd and even ratios; a half-pixel slip between
them is the main cause of poor multiresolution fusion.

Both are separable and are evaluated as small banded matrices along one axis at a time: a decimating filter never
computes the fine pixels that it would throw away, an interpolation writes each fine pixel once. Edges are
replicated. On the CPU compiled kernels do the same in one pass where they are available (:mod:`hsfuse.native`).
Torch is imported on first use, so that knowing a :class:`Psf` costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hsfuse.errors import InputError, UsageError
from hsfuse.native import image

if TYPE_CHECKING:
    import torch

FloatArray = NDArray[np.float32]
Window = tuple[slice, slice]
"""Rows and columns of a grid, with start and stop."""

MIN_FWHM_PX, MAX_FWHM_PX = 0.6, 2.4
"""Widths between which :func:`estimate_psf` searches, in HSI pixels."""
UPSAMPLE_HALO_PX = 2
"""Coarse pixels on each side that the cubic interpolation of one coarse pixel's area looks at."""
MAX_OFFSET_PX = 0.5
"""Largest displacement that an interpolation takes along, coarse pixels."""
Offset = tuple[float, float]
NO_OFFSET: Offset = (0.0, 0.0)
_TRUNCATE_SIGMA = 4.0
_FWHM_TO_SIGMA = 1.0 / math.sqrt(8.0 * math.log(2.0))
_BLOCK = 16


@dataclass(frozen=True)
class Psf:
    """Gaussian point spread function of the HSI, its width in HSI pixels (full width at half maximum).

    It is the blur *relative to the MSI*: what turns an MSI pixel's footprint into an HSI pixel's.
    """

    fwhm_px: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fwhm_px) and 0.0 < self.fwhm_px <= 10.0):
            raise UsageError(
                f"The PSF width {self.fwhm_px:g} px is not plausible.",
                hint="Give the full width at half maximum in HSI pixels, above 0 and at most 10 (usually about 1).",
            )

    def reach_px(self, ratio: int) -> int:
        """HSI pixels on each side of a pixel that its blur looks at."""
        return max(1, -(-(psf_kernel(self, ratio).size - ratio) // (2 * ratio)))


def psf_kernel(psf: Psf, ratio: int, *, offset_px: float = 0.0) -> NDArray[np.float64]:
    """Weights of a coarse pixel's blur along one axis of the fine grid.

    Parameters
    ----------
    psf
        Width of the blur.
    ratio
        Fine pixels per coarse pixel.
    offset_px
        Shift of the kernel's centre, in coarse pixels, towards larger index.

    Returns
    -------
    numpy.ndarray
        Shape (tap,), sum 1. The number of taps has the ratio's parity, so the middle of the kernel is the centre
        of the coarse pixel: on a fine pixel for odd ratios, between two for even ones.
    """
    _check_ratio(ratio)
    sigma = psf.fwhm_px * ratio * _FWHM_TO_SIGMA
    reach = max(ratio / 2.0, _TRUNCATE_SIGMA * sigma + abs(offset_px) * ratio)
    side = math.ceil(reach - ratio / 2.0)
    taps = ratio + 2 * side
    position = np.arange(taps) - (taps - 1) / 2.0 - offset_px * ratio
    # Relative to the largest exponent, so that a PSF far narrower than a pixel does not underflow to 0 / 0.
    exponent = -0.5 * (position / sigma) ** 2
    weights = np.exp(exponent - exponent.max())
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def lowpass_decimate(x: torch.Tensor, ratio: int, psf: Psf) -> torch.Tensor:
    """Blur with the PSF and keep one sample per coarse pixel, at its centre.

    Parameters
    ----------
    x
        Shape (n, band, row, col), free of NaN; rows and columns must be multiples of ``ratio``.
    ratio
        Fine pixels per coarse pixel.
    psf
        Blur, in coarse pixels.

    Returns
    -------
    torch.Tensor
        Shape (n, band, row / ratio, col / ratio).

    Raises
    ------
    InputError
        The size is not a multiple of ``ratio``.
    """
    kernel = tuple(psf_kernel(psf, ratio))
    return _decimate(x, ratio, kernel, kernel)


def upsample(x: torch.Tensor, ratio: int, offset_px: Offset = NO_OFFSET) -> torch.Tensor:
    """Interpolate to a grid ``ratio`` times finer: centred cubic convolution (Keys, a = -0.5).

    Parameters
    ----------
    x
        Shape (n, band, row, col), free of NaN.
    ratio
        Fine pixels per coarse pixel.
    offset_px
        How far (row, col) the coarse pixels really lie towards larger index, coarse pixels; at most
        :data:`MAX_OFFSET_PX`. The fine grid stays where it is.

    Returns
    -------
    torch.Tensor
        Shape (n, band, row * ratio, col * ratio).

    References
    ----------
    R. Keys, Cubic convolution interpolation for digital image processing, IEEE TASSP 29, 1981.
    """
    down, across = (_cubic_matrix(ratio, float(offset)) for offset in offset_px)
    fast = _planes(x)
    if fast is not None:
        fine = image.upsample(fast, ratio, np.asarray((down, across), dtype=np.float32))
        if fine is not None:
            return _tensor(fine, x)
    # Columns first: they run on the coarse rows only, a ratio-th of the work.
    wide = _along_columns(x, across, 1, UPSAMPLE_HALO_PX, UPSAMPLE_HALO_PX)
    return _along_rows(wide, down, 1, UPSAMPLE_HALO_PX, UPSAMPLE_HALO_PX)


def inject(
    base: torch.Tensor,
    coefficients: Sequence[torch.Tensor],
    news: torch.Tensor | None,
    ratio: int,
    window: Window | None = None,
    out: torch.Tensor | None = None,
    offset_px: Offset = NO_OFFSET,
) -> torch.Tensor:
    """Interpolate, and add the products of interpolated coefficients with fine images.

    ``upsample(base) + sum over m of upsample(coefficients[m]) * news[:, m]``, as one pass over the fine pixels
    where the compiled kernels serve.

    Parameters
    ----------
    base
        Shape (n, band, row, col), free of NaN.
    coefficients
        Each of the shape of ``base``.
    news
        Shape (n, coefficient, window row * ratio, window col * ratio); None without coefficients.
    ratio
        Fine pixels per coarse pixel.
    window
        Rows and columns of the coarse grid that are wanted; all when None.
    out
        Where to put the result: float32 on the CPU, rows of unit stride, of the result's shape.
    offset_px
        As for :func:`upsample`.

    Returns
    -------
    torch.Tensor
        Shape (n, band, window row * ratio, window col * ratio).
    """
    import torch

    rows, cols = window or (slice(0, base.shape[2]), slice(0, base.shape[3]))
    shape = (*base.shape[:2], (rows.stop - rows.start) * ratio, (cols.stop - cols.start) * ratio)
    if _planes(base) is not None and image.image_library() is not None:
        result = torch.empty(shape, dtype=base.dtype) if out is None else out
        weights = np.asarray([_cubic_matrix(ratio, float(offset)) for offset in offset_px], dtype=np.float32)
        for i in range(base.shape[0]):
            terms = torch.stack([c[i] for c in coefficients]).numpy() if coefficients else None
            image.inject(
                base[i].contiguous().numpy(), terms, None if news is None else news[i].contiguous().numpy(),
                (rows, cols), ratio, weights, result[i].numpy(),
            )  # fmt: skip
        return result
    fine = (
        slice(None), slice(None), slice(rows.start * ratio, rows.stop * ratio),
        slice(cols.start * ratio, cols.stop * ratio),
    )  # fmt: skip
    result = upsample(base, ratio, offset_px)[fine]
    # Band by band: all coefficients at once on the fine grid would be the largest array of the fusion.
    for k, coarse in enumerate(coefficients):
        if news is not None:
            result = result.addcmul_(upsample(coarse, ratio, offset_px)[fine], news[:, k : k + 1])
    return result if out is None else out.copy_(result)


def smooth(x: torch.Tensor, taps: int) -> torch.Tensor:
    """Smooth (n, band, row, col) with a binomial kernel of ``taps`` (odd) taps along both axes.

    Its standard deviation is ``sqrt(taps - 1) / 2`` pixels.
    """
    kernel = _binomial(taps)
    return _decimate(x, 1, kernel, kernel)


def apply_srf(hsi: torch.Tensor, weights: ArrayLike) -> torch.Tensor:
    """Integrate HSI bands into MSI bands.

    Parameters
    ----------
    hsi
        Shape (n, band, row, col).
    weights
        Shape (msi band, band); see :func:`hsfuse.spectral.srf_weights`.

    Returns
    -------
    torch.Tensor
        Shape (n, msi band, row, col).
    """
    import torch

    matrix = torch.as_tensor(np.asarray(weights), dtype=hsi.dtype, device=hsi.device)
    return torch.matmul(matrix, hsi.flatten(2)).reshape(hsi.shape[0], -1, *hsi.shape[2:])


def wald_pair(
    hsi: torch.Tensor, msi: torch.Tensor, ratio: int, hsi_psf: Psf, msi_psf: Psf | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Degrade both images by their ratio (Wald's protocol); the original HSI is then the reference.

    With both widths equal, the reduced pair stands in exactly the relation of the original pair: the reduced HSI is
    the reduced MSI's scene blurred by the same PSF in its own pixels (variances of Gaussians add).

    Parameters
    ----------
    hsi
        Shape (n, band, row, col); rows and columns must be multiples of ``ratio``.
    msi
        Shape (n, msi band, row * ratio, col * ratio).
    ratio
        HSI pixel size over MSI pixel size.
    hsi_psf, msi_psf
        Blur of each image in its own reduced pixels; the MSI's default is the HSI's.

    Returns
    -------
    tuple of torch.Tensor
        HSI of shape (n, band, row / ratio, col / ratio) and MSI of shape (n, msi band, row, col).

    References
    ----------
    L. Wald, T. Ranchin, M. Mangolini, Fusion of satellite images of different spatial resolutions, PE&RS 63, 1997.
    """
    return lowpass_decimate(hsi, ratio, hsi_psf), lowpass_decimate(msi, ratio, msi_psf or hsi_psf)


def lowpass_decimate_array(x: NDArray[np.floating], ratio: int, psf: Psf) -> FloatArray:
    """:func:`lowpass_decimate` for an array (band, row, col); a NaN spreads to every coarse pixel that looks at it."""
    import torch

    kernel = psf_kernel(psf, ratio)
    data, missing = _split_nan(x)
    coarse = lowpass_decimate(data, ratio, psf)[0]
    if missing is not None:
        ones = tuple((kernel > 0).astype(np.float64))
        coarse[_decimate(missing, ratio, ones, ones)[0] > 0.5] = torch.nan
    return coarse.numpy()


def upsample_array(x: NDArray[np.floating], ratio: int) -> FloatArray:
    """:func:`upsample` for an array (band, row, col); a NaN spreads to every fine pixel that looks at it."""
    import torch

    data, missing = _split_nan(x)
    fine = upsample(data, ratio)[0]
    if missing is not None:
        touch = tuple(tuple(float(weight != 0) for weight in row) for row in _cubic_matrix(ratio, 0.0))
        halo = UPSAMPLE_HALO_PX
        spread = _along_rows(_along_columns(missing, touch, 1, halo, halo), touch, 1, halo, halo)
        fine[spread[0] > 0.5] = torch.nan
    return fine.numpy()


def smooth_array(x: NDArray[np.floating], taps: int) -> FloatArray:
    """:func:`smooth` for an array (band, row, col) free of NaN."""
    return smooth(_split_nan(x)[0], taps)[0].numpy()


def masked_lowpass_decimate_array(
    x: NDArray[np.floating],
    valid: NDArray[np.bool_],
    ratio: int,
    psf: Psf,
    *,
    min_weight: float = 0.95,
    offset_px: Offset = NO_OFFSET,
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Blur and decimate, using valid pixels only.

    Parameters
    ----------
    x
        Shape (band, row, col). Pixels with NaN in any band count as invalid.
    valid
        Usable pixels, shape (row, col).
    ratio, psf
        As for :func:`lowpass_decimate`.
    min_weight
        A coarse pixel is valid when valid pixels carry at least this share of its PSF's weight.
    offset_px
        How far (row, col) the coarse pixels really lie towards larger index, coarse pixels.

    Returns
    -------
    coarse : numpy.ndarray
        Shape (band, row / ratio, col / ratio): mean of the valid pixels under the PSF, NaN where not valid.
    valid_coarse : numpy.ndarray
        Shape (row / ratio, col / ratio).
    """
    import torch

    down, across = displaced_kernels(psf, ratio, offset_px)
    usable = np.asarray(valid, bool) & np.isfinite(x).all(axis=0)
    filled = torch.from_numpy(np.where(usable, x, 0.0).astype(np.float32))[None]
    low = decimate_separable(filled, ratio, down, across)[0]
    if usable.all():
        return low.numpy(), np.ones(tuple(low.shape[1:]), bool)
    weight = torch.from_numpy(usable.astype(np.float32))[None, None]
    share = decimate_separable(weight, ratio, down, across)[0, 0]
    mean = low / share.clamp_min(1e-6)
    enough = share >= min_weight
    mean[:, ~enough] = torch.nan
    return mean.numpy(), enough.numpy()


def estimate_psf(
    hsi_lr: NDArray[np.floating], msi_hr: NDArray[np.floating], valid: NDArray[np.bool_], ratio: int
) -> Psf:
    """Estimate the HSI's blur relative to the MSI from an aligned pair.

    For each width, the blurred and decimated MSI explains the HSI bands by least squares; the width that explains
    most of their variance wins. A residual shift of up to half a pixel is fitted along, because it would
    otherwise pass for blur.

    Parameters
    ----------
    hsi_lr
        Shape (band, row, col).
    msi_hr
        Shape (msi band, row * ratio, col * ratio).
    valid
        Coarse pixels with real measurements in both images, shape (row, col).
    ratio
        HSI pixel size over MSI pixel size.

    Returns
    -------
    Psf
        Width between :data:`MIN_FWHM_PX` and :data:`MAX_FWHM_PX`; 1 pixel when the pair cannot tell
        (fewer than 200 valid pixels, or no texture in common).
    """
    from hsfuse.psf_search import search_sharpness

    found = search_sharpness([(hsi_lr, msi_hr, valid)], ratio)
    return Psf() if found is None else Psf(found.fwhm_px)


def decimate_separable(x: torch.Tensor, ratio: int, rows: Sequence[float], cols: Sequence[float]) -> torch.Tensor:
    """Filter with one kernel per axis and keep the samples at the coarse pixels' centres.

    What :func:`lowpass_decimate` does for one Gaussian; with :func:`psf_kernel` and an offset the HSI can be moved
    by fractions of a pixel too.

    Parameters
    ----------
    x
        Shape (n, band, row, col), free of NaN.
    ratio
        Fine pixels per coarse pixel.
    rows, cols
        Kernels whose number of taps has the ratio's parity.
    """
    return _decimate(x, ratio, tuple(rows), tuple(cols))


def displaced_kernels(psf: Psf, ratio: int, offset_px: Offset) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the weights of a blur down the rows and along the columns, of equal number, with displaced centres."""
    kernels = [psf_kernel(psf, ratio, offset_px=float(offset)) for offset in offset_px]
    taps = max(kernel.size for kernel in kernels)
    down, across = (tuple(map(float, np.pad(kernel, (taps - kernel.size) // 2))) for kernel in kernels)
    return down, across


def _check_ratio(ratio: int) -> None:
    if ratio < 1 or int(ratio) != ratio:
        raise UsageError(f"The ratio must be a whole number of at least 1, not {ratio}.")


def _decimate(x: torch.Tensor, ratio: int, rows: tuple[float, ...], cols: tuple[float, ...]) -> torch.Tensor:
    """Filter with one kernel per axis (same length, the ratio's parity) at the coarse pixels' centres."""
    if x.shape[-2] % ratio or x.shape[-1] % ratio:
        raise InputError(
            f"An image of {x.shape[-2]} x {x.shape[-1]} pixels cannot be decimated by {ratio}.",
            hint="Crop it to a multiple of the ratio.",
        )
    fast = _planes(x) if len(rows) == len(cols) else None
    if fast is not None:
        coarse = image.decimate(fast, ratio, np.asarray(rows, np.float32), np.asarray(cols, np.float32))
        if coarse is not None:
            return _tensor(coarse, x)
    side_rows, side_cols = (len(rows) - ratio) // 2, (len(cols) - ratio) // 2
    low = _along_rows(x, (rows,), ratio, side_rows, side_rows)
    return _along_columns(low, (cols,), ratio, side_cols, side_cols)


def _planes(x: torch.Tensor) -> FloatArray | None:
    """Return (n, band, row, col) as an array (plane, row, col) where the compiled kernels take it."""
    import torch

    if x.device.type != "cpu" or x.dtype != torch.float32 or (x.requires_grad and torch.is_grad_enabled()):
        return None
    if image.image_library() is None or x.numel() == 0:
        return None
    planes: FloatArray = x.detach().contiguous().flatten(0, 1).numpy()
    return planes


def _tensor(planes: FloatArray, like: torch.Tensor) -> torch.Tensor:
    """Return (plane, row, col) as a tensor with the leading axes of ``like``."""
    import torch

    return torch.from_numpy(planes).reshape(*like.shape[:2], *planes.shape[1:])


@lru_cache(maxsize=64)
def _cubic_matrix(ratio: int, offset_px: float) -> tuple[tuple[float, ...], ...]:
    """Weights of the 5 nearest coarse pixels (-2 .. 2) for each of the ``ratio`` phases."""
    _check_ratio(ratio)
    if not abs(offset_px) <= MAX_OFFSET_PX:
        raise UsageError(f"An image cannot be interpolated {offset_px:g} pixels off its grid.")
    phase = (np.arange(ratio) - (ratio - 1) / 2.0) / ratio - offset_px
    distance = np.abs(phase[:, None] - np.arange(-UPSAMPLE_HALO_PX, UPSAMPLE_HALO_PX + 1)[None, :])
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1.0
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4.0 * distance + 2.0
    weights = np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))
    return tuple(tuple(row) for row in weights / weights.sum(axis=1, keepdims=True))


@lru_cache(maxsize=16)
def _binomial(taps: int) -> tuple[float, ...]:
    if taps < 1 or taps % 2 == 0:
        raise UsageError(f"A smoother needs an odd number of taps, not {taps}.")
    return tuple(math.comb(taps - 1, k) / 2.0 ** (taps - 1) for k in range(taps))


@lru_cache(maxsize=128)
def _block_matrix(unit: tuple[tuple[float, ...], ...], step: int, count: int) -> NDArray[np.float64]:
    """Repeat a unit (outputs x taps) ``count`` times along the diagonal, ``step`` inputs apart."""
    weights = np.asarray(unit)
    outputs, taps = weights.shape
    block = np.zeros((outputs * count, step * (count - 1) + taps))
    for i in range(count):
        block[i * outputs : (i + 1) * outputs, i * step : i * step + taps] = weights
    return block


def _plan(length: int) -> tuple[int, int]:
    """Split ``length`` units into equal blocks of about :data:`_BLOCK`: (blocks, units per block)."""
    for size in range(_BLOCK + 4, _BLOCK // 2 - 1, -1):
        if length % size == 0:
            return length // size, size
    blocks = max(1, round(length / _BLOCK))
    return blocks, -(-length // blocks)


def _along_rows(
    x: torch.Tensor, unit: tuple[tuple[float, ...], ...], step: int, before: int, after: int
) -> torch.Tensor:
    """Apply a repeated unit down the rows of (n, band, row, col)."""
    import torch

    units = x.shape[-2] // step
    blocks, size = _plan(units)
    padded = _replicate(x, (0, 0, before, after + (blocks * size - units) * step))
    matrix = _block_matrix(unit, step, size)
    windows = padded.flatten(0, 1).unfold(1, matrix.shape[1], step * size).transpose(-1, -2)
    with torch.autocast(x.device.type, enabled=False):
        out = _as_tensor(matrix, x) @ windows
    rows = units * len(unit)
    return out.reshape(*x.shape[:2], -1, x.shape[-1])[:, :, :rows]


def _along_columns(
    x: torch.Tensor, unit: tuple[tuple[float, ...], ...], step: int, before: int, after: int
) -> torch.Tensor:
    """Apply a repeated unit along the columns of (n, band, row, col)."""
    import torch

    units = x.shape[-1] // step
    blocks, size = _plan(units)
    padded = _replicate(x, (before, after + (blocks * size - units) * step, 0, 0))
    matrix = _block_matrix(unit, step, size)
    # Copied: of overlapping windows PyTorch makes one product per row instead of a single one, up to ten times as slow.
    windows = padded.unfold(-1, matrix.shape[1], step * size).contiguous()
    with torch.autocast(x.device.type, enabled=False):
        out = windows @ _as_tensor(matrix.T, x)
    cols = units * len(unit)
    return out.flatten(-2)[..., :cols]


def _as_tensor(matrix: NDArray[np.float64], like: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.as_tensor(np.ascontiguousarray(matrix), dtype=like.dtype, device=like.device)


def _replicate(x: torch.Tensor, padding: tuple[int, int, int, int]) -> torch.Tensor:
    """Pad (left, right, top, bottom) with the edge's values."""
    import torch

    return torch.nn.functional.pad(x, padding, mode="replicate") if any(padding) else x


def _split_nan(x: NDArray[np.floating]) -> tuple[torch.Tensor, torch.Tensor | None]:
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
