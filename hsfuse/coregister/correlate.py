"""Masked normalised cross-correlation by FFT: of whole images for the first guess, of batches of windows after it.

Masked pixels take no part at all: sums, means and variances are those of the pixels that both images have in common
at each displacement (after Padfield 2012, "Masked object registration in the Fourier domain").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.coregister.threads import parallel_map

MIN_COMMON_SHARE = 0.3
"""Displacements at which fewer than this share of the largest possible common area overlaps are not considered."""


def joint_ncc(
    template: Tensor,
    template_mask: Tensor,
    image: Tensor,
    image_mask: Tensor,
    *,
    min_share: float = MIN_COMMON_SHARE,
    side_by_side: bool = False,
) -> Tensor:
    """Correlation of a template with every position inside a larger image, all channels together.

    The channels must be locally centred (zero mean over any larger area) and zero where masked. Energies are those
    of the pixels that both have in common at each position, so masks and borders do not bias the result.

    Parameters
    ----------
    template, template_mask
        Shapes (..., channel, h, w) and (..., h, w); the mask is 1 where a pixel counts.
    image, image_mask
        Shapes (..., channel, H, W) and (..., H, W) with H >= h and W >= w.
    min_share
        Positions with less common area than this share of the largest one get correlation 0.
    side_by_side
        Transform several images at a time.

    Returns
    -------
    torch.Tensor
        Shape (..., H - h + 1, W - w + 1), values in -1 to 1.
    """
    high, wide = image.shape[-2] - template.shape[-2] + 1, image.shape[-1] - template.shape[-1] + 1
    size = [fast_length(n) for n in image.shape[-2:]]
    run: Callable[[Callable[[Any], Tensor], Iterable[Any]], Iterable[Tensor]] = parallel_map if side_by_side else map
    if template.shape[-3] == 0:
        raise ValueError("nothing to correlate")

    def spectrum(x: Tensor) -> Tensor:
        found: Tensor = torch.fft.rfft2(x, s=size)
        return found

    def inside(found: Tensor) -> Tensor:
        part: Tensor = torch.fft.irfft2(found, s=size)[..., :high, :wide].clone()
        return part

    def of_channel(pair: tuple[Tensor, Tensor]) -> Tensor:
        return spectrum(pair[0]).conj() * spectrum(pair[1])

    # Channel by channel: spectra of a whole scene are the largest arrays of the co-registration.
    cross, *others = run(of_channel, zip(template.unbind(-3), image.unbind(-3), strict=True))
    for product in others:
        cross += product
    squares = ((x**2).sum(dim=-3) for x in (template, image))
    mask_t, mask_r, square_t, square_r = run(spectrum, (template_mask, image_mask, *squares))
    mask_t = mask_t.conj()
    common, energy_t, energy_r, agreed = run(
        inside, (mask_t * mask_r, square_t.conj() * mask_r, mask_t * square_r, cross)
    )
    usable = common >= min_share * common.amax(dim=(-2, -1), keepdim=True).clamp(min=1.0)
    power = energy_t.clamp_(min=0.0) * energy_r.clamp_(min=0.0)
    # Where one side is flat there is nothing to correlate; rounding must not make a peak of it.
    usable &= power > (1e-3 * common.clamp(min=1.0)) ** 2
    return torch.where(usable, agreed / power.clamp(min=1e-12).sqrt(), torch.zeros_like(power)).clamp_(-1.0, 1.0)


def fast_length(size: int) -> int:
    """Smallest product of powers of 2, 3 and 5 that is not below ``size``: of that length transforms are fast."""
    best = 1 << max(size - 1, 0).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            # As many twos as it takes.
            best = min(best, three << max(-(-size // three) - 1, 0).bit_length())
            three *= 3
        five *= 5
    return best


@dataclass(frozen=True)
class GlobalPeak:
    """The best displacement of the whole image.

    Attributes
    ----------
    row, col
        Position of the template in the image, in pixels, refined by a parabola.
    correlation
        Height of the peak.
    ratio
        Height over that of the highest value outside the peak.
    score
        Height above the mean of the rest, in standard deviations of the rest.
    """

    row: float
    col: float
    correlation: float
    ratio: float
    score: float


def peak_of(surface: NDArray[np.floating], *, exclude_px: int) -> GlobalPeak:
    """Find the peak of a correlation surface and how far it stands out from everything at least ``exclude_px`` away."""
    row, col = (int(v) for v in np.unravel_index(int(np.argmax(surface)), surface.shape))
    top = float(surface[row, col])
    rows, cols = np.ogrid[: surface.shape[0], : surface.shape[1]]
    rest = surface[(np.abs(rows - row) > exclude_px) | (np.abs(cols - col) > exclude_px)]
    rest = rest[rest != 0.0]
    if rest.size < 16:
        return GlobalPeak(row, col, top, 1.0, 0.0)
    second, spread = float(rest.max()), float(rest.std())
    ratio = top / second if second > 1e-6 else 1e3
    score = (top - float(rest.mean())) / max(spread, 1e-6)
    return GlobalPeak(
        row + _vertex(surface[:, col], row), col + _vertex(surface[row], col), top, min(ratio, 1e3), score
    )


def _vertex(line: NDArray[np.floating], at: int) -> float:
    """Offset of the parabola through three samples around a maximum."""
    if at == 0 or at == line.size - 1:
        return 0.0
    left, mid, right = (float(v) for v in line[at - 1 : at + 2])
    bend = left - 2 * mid + right
    return float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5)) if bend < 0 else 0.0


def window_peaks(surfaces: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Peaks of many correlation surfaces.

    Parameters
    ----------
    surfaces
        Shape (window, rows, cols).

    Returns
    -------
    (position, height, sharpness)
        Sub-pixel position, shape (window, 2) as (row, col); height; and height over the best value farther than
        three pixels away, each of shape (window,).
    """
    count, rows, cols = surfaces.shape
    best = surfaces.reshape(count, -1).argmax(dim=1)
    row, col = best // cols, best % cols
    index = torch.arange(count, device=surfaces.device)
    top = surfaces[index, row, col]
    far = ((torch.arange(rows, device=surfaces.device)[None, :, None] - row[:, None, None]).abs() > 3) | (
        (torch.arange(cols, device=surfaces.device)[None, None, :] - col[:, None, None]).abs() > 3
    )
    second = torch.where(far, surfaces, torch.full_like(surfaces, -1.0)).amax(dim=(1, 2))

    def vertex(before: Tensor, after: Tensor) -> Tensor:
        bend = before - 2 * top + after
        return torch.where(bend < -1e-6, 0.5 * (before - after) / bend.clamp(max=-1e-6), 0.0).clamp(-0.5, 0.5)

    r, c = row.clamp(1, rows - 2), col.clamp(1, cols - 2)
    inner_r, inner_c = (r == row), (c == col)
    up, down = surfaces[index, r - 1, col], surfaces[index, r + 1, col]
    left, right = surfaces[index, row, c - 1], surfaces[index, row, c + 1]
    at_row = row + vertex(up, down) * inner_r
    at_col = col + vertex(left, right) * inner_c
    position = torch.stack([at_row, at_col], dim=1).double().cpu().numpy()
    return position, top.double().cpu().numpy(), (top / second.clamp(min=0.02)).double().cpu().numpy()
