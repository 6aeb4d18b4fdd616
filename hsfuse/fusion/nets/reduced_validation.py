"""How much of a network's correction helps on this very scene, band by band: validation at reduced resolution.

The scene is degraded once more by the ratio (Wald's protocol). There the truth is known: it is the measured HSI.
Base estimate and correction are made on the degraded pair, and for every band the share of the correction that brings
the base estimate closest to the truth is found by least squares; half of it is used. Averaging makes the degraded HSI
cleaner than the measured one, so noise is added to bring it back.

Truth and degraded pair come from the same measurement and would share its noise: an estimate that keeps the noise would
look right, a network that removes it wrong. So noise z of the measured strength is drawn, the pair is made from the
measurement plus z, and the truth is the measurement minus z: of Gaussian noise the two parts are independent (T. Pang
et al., Recorrupted-to-Recorrupted, CVPR 2021).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.degrade import Psf, apply_srf, lowpass_decimate, psf_kernel
from hsfuse.errors import HsfuseError
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip
from hsfuse.fusion.diagnostics import CorrectionValidation
from hsfuse.log import get_logger

WINDOW_PX = 96
"""Side of a test window, HSI pixels."""
MAX_WINDOWS = 12
MIN_WINDOW_PX = 18
MIN_VALID = 0.9
"""Share of a window's pixels that must be valid in both images."""
CAUTION = 0.5
"""Part of the best share that is used. One level down base estimates are worse and leave more to correct. Half of the
best
share keeps three quarters of a correction's gain, and costs nothing where the true best share is half of it."""
_LEAST_PART = 0.1
"""Of a base estimate's squared error at reduced resolution, what is left at least when the truth's noise is taken
off."""
_RIM = 2
"""Degraded pixels at a window's rim that do not count: the filters replicate edges there."""

_log = get_logger(__name__)


@dataclass(frozen=True)
class _Window:
    hsi: Tensor
    msi: Tensor
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class ReducedWindow:
    """A window of the scene at reduced resolution, where the truth is known, with its base estimate.

    Attributes
    ----------
    low, msi, estimate
        The degraded pair, and what the base method made of it, shapes (band, row / ratio, col / ratio),
        (msi band, row, col), (band, row, col).
    truth
        The measured HSI with noise that is independent of the pair's, shape (band, row, col).
    keep
        Pixels that count, shape (row, col).
    noise
        Standard deviation of the truth's noise, shape (band,).
    """

    low: Tensor
    msi: Tensor
    estimate: Tensor
    truth: Tensor
    keep: Tensor
    noise: NDArray[np.float64]


def reduced_windows(
    base: FusionMethod,
    context: FusionContext,
    strips: Iterable[LowResolutionStrip],
    noise_std: NDArray[np.float64],
    guide_noise: NDArray[np.float64] | None = None,
) -> list[ReducedWindow]:
    """Degrade the scene once more and base estimate its fusion there.

    Parameters
    ----------
    base
        Unfitted method that makes the base estimate.
    context
        Facts about the pair.
    strips
        The scene at low resolution; iterated twice.
    noise_std
        Noise of every band, reflectance.
    guide_noise
        Noise of every MSI band at its own resolution, which averaging has taken away; None: unknown.

    Returns
    -------
    list of ReducedWindow
        Empty when the scene is too small, or cloudy everywhere.
    """
    windows = _choose_windows(strips, context.ratio, context.device)
    if not windows:
        _log.info(
            "No window of the scene is large and clear enough to test the network on; its correction is not used."
        )
        return []
    generator = torch.Generator().manual_seed(context.seed)
    level = torch.as_tensor(noise_std, dtype=torch.float32)[:, None, None]
    lost = lost_noise(noise_std, context.psf, context.ratio)
    extra = torch.as_tensor(lost, dtype=torch.float32)[:, None, None]
    coarse: list[Tensor] = []
    truths: list[Tensor] = []
    for number, window in enumerate(windows):
        split = (level * torch.randn(window.hsi.shape, generator=generator)).to(window.hsi.device)
        seen = replace(window, hsi=window.hsi + split)
        truths.append(window.hsi - split)
        windows[number] = replace(seen, msi=_guide(seen, context, noise_std, guide_noise, generator))
        low = lowpass_decimate(seen.hsi[None], context.ratio, context.psf)[0]
        coarse.append(low + (torch.randn(low.shape, generator=generator) * extra).to(low.device))
    try:
        base.fit(context, [_strip(low, w, context) for low, w in zip(coarse, windows, strict=True)])
    except HsfuseError as error:
        _log.info("The network cannot be tested on this scene (%s); its correction is not used.", error)
        return []
    found = []
    for low, window, truth in zip(coarse, windows, truths, strict=True):
        margin = _RIM * context.ratio
        inside = np.zeros_like(window.valid)
        inside[margin:-margin, margin:-margin] = window.valid[margin:-margin, margin:-margin]
        first = base.fuse(low[None], window.msi[None])[0].float()
        keep = torch.as_tensor(inside, device=low.device)
        found.append(ReducedWindow(low, window.msi, first, truth, keep, noise_std * np.sqrt(2.0)))
    return found


def _guide(
    window: _Window,
    context: FusionContext,
    hsi_noise: NDArray[np.float64],
    noise: NDArray[np.float64] | None,
    generator: torch.Generator,
) -> Tensor:
    """Return the MSI of a reduced window: what the truth itself shows of the MSI bands, with the MSI's noise.

    The measured MSI would not do: where the images are a little misaligned, a perfect base estimate lies where the MSI
    lies, and against a truth that lies elsewhere it would look wrong. Bands outside the HSI's range stay as measured.
    """
    msi = window.msi
    present = np.zeros(msi.shape[0])
    if context.srf is not None:
        covered = torch.as_tensor(context.srf.sum(axis=1) > 0, device=msi.device)[:, None, None]
        msi = torch.where(covered, apply_srf(window.hsi[None], context.srf)[0], msi)
        present = context.srf**2 @ (2.0 * hsi_noise**2)
    if noise is not None:
        missing = np.sqrt(np.maximum(noise**2 - present, 0.0))
        level = torch.as_tensor(missing, dtype=torch.float32)[:, None, None]
        msi = msi + (level * torch.randn(msi.shape, generator=generator)).to(msi.device)
    return msi


def estimate_error(windows: Sequence[ReducedWindow]) -> NDArray[np.float64] | None:
    """Root mean square error of the base estimate at reduced resolution, shape (band,); None without windows.

    The truth of a window is a measurement: its own noise is no error of the base estimate.
    """
    count = sum(int(r.keep.sum()) for r in windows)
    if count == 0:
        return None
    power = sum((r.truth - r.estimate)[:, r.keep].double().square().sum(dim=1) for r in windows)
    return error_without_noise((torch.as_tensor(power) / count).cpu().numpy(), windows[0].noise)


def lost_noise(noise_std: NDArray[np.float64], psf: Psf, ratio: int) -> NDArray[np.float64]:
    """Noise to add to an average of a measurement that carried its noise twice, so that it is as noisy as one."""
    kept = float((psf_kernel(psf, ratio) ** 2).sum()) ** 2  # share of the variance that survives the averaging
    return np.asarray(noise_std * np.sqrt(max(1.0 - 2.0 * kept, 0.0)))


def error_without_noise(mean_square: NDArray[np.float64], noise_std: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root mean square error of a base estimate from its mean square difference to a truth with noise, both (band,)."""
    return np.asarray(np.sqrt(np.maximum(mean_square - noise_std**2, _LEAST_PART * mean_square)))


def validate_correction(
    correction: Callable[[Tensor, Tensor, Tensor], Tensor], windows: Sequence[ReducedWindow], bands: int
) -> CorrectionValidation:
    """Test a network on the scene at reduced resolution.

    Parameters
    ----------
    correction
        Returns what the network adds to a base estimate, from (hsi, msi, estimate).
    windows
        Where it is tested; without any, nothing of the correction is used.
    bands
        Number of bands.
    """
    if not windows:
        return CorrectionValidation.untested(bands)
    fit = _Fit(bands)
    for r in windows:
        change = correction(r.low[None], r.msi[None], r.estimate[None])[0]
        fit.add(*(part[:, r.keep] for part in (r.truth - r.estimate, change)))
    return fit.solve(len(windows), windows[0].noise)


def tell_share(name: str, validation: CorrectionValidation) -> None:
    """Log how much of a network's correction is used; why there was nothing to test has been said."""
    if validation.windows:
        _log.info(
            "%s: %.0f %% of the correction helps on the scene itself (%.2f dB at reduced resolution).",
            name, 100.0 * float(validation.share.mean()), validation.gain_db,
        )  # fmt: skip


class _Fit:
    """Sums for the least-squares share of every band."""

    def __init__(self, bands: int) -> None:
        self._error, self._cross, self._power = (np.zeros(bands) for _ in range(3))
        self._count = 0

    def add(self, error: Tensor, change: Tensor) -> None:
        """Take in errors of the base estimate and proposed changes, both (band, sample)."""
        error, change = error.double(), change.double()
        self._count += error.shape[1]
        self._error += error.square().sum(dim=1).cpu().numpy()
        self._cross += (error * change).sum(dim=1).cpu().numpy()
        self._power += change.square().sum(dim=1).cpu().numpy()

    def solve(self, windows: int, noise_std: NDArray[np.float64]) -> CorrectionValidation:
        share = CAUTION * np.clip(self._cross / np.maximum(self._power, 1e-20), 0.0, 1.0)
        left = self._error - 2.0 * share * self._cross + share**2 * self._power
        # The truth's noise stays whatever the network does: it would hide gains. It is known roughly only.
        noise = np.minimum(self._count * noise_std**2, 0.5 * self._error)
        ratio = np.maximum(self._error - noise, 1e-20) / np.maximum(left - noise, _LEAST_PART * left + 1e-20)
        return CorrectionValidation(share.astype(np.float32), float(10.0 * np.log10(ratio).mean()), windows)


def _strip(low: Tensor, window: _Window, context: FusionContext) -> LowResolutionStrip:
    """Return a window one level down."""
    guide = lowpass_decimate(window.msi[None], context.ratio, context.psf)[0]
    rows, cols = low.shape[1:]
    ratio = context.ratio
    valid = np.asarray(window.valid.reshape(rows, ratio, cols, ratio).all(axis=(1, 3)))
    return LowResolutionStrip(low.cpu().numpy(), guide.cpu().numpy(), valid)


def _choose_windows(strips: Iterable[LowResolutionStrip], ratio: int, device: str) -> list[_Window]:
    """Cut out up to MAX_WINDOWS valid windows, spread evenly over the candidates in scan order."""
    candidates: list[tuple[int, int, int, int, int]] = []  # strip, row, col, height, width
    # Two degraded pixels are left of the smallest window when the rim is taken off, whatever the ratio.
    least = max(MIN_WINDOW_PX // ratio, 2 * _RIM + 2) * ratio
    # Small or cloudy scenes may have no valid window of the full side.
    for side in sorted({max(side, least) for side in (WINDOW_PX, WINDOW_PX // 2, MIN_WINDOW_PX)}, reverse=True):
        for number, strip in enumerate(strips):
            height, width = (min(side, size) // ratio * ratio for size in strip.valid.shape)
            if min(height, width) < least:
                continue
            candidates += [
                (number, row, col, height, width)
                for row in range(0, strip.valid.shape[0] - height + 1, height)
                for col in range(0, strip.valid.shape[1] - width + 1, width)
                if strip.valid[row : row + height, col : col + width].mean() >= MIN_VALID
            ]
        if candidates:
            break
    if len(candidates) > MAX_WINDOWS:
        picked = np.linspace(0, len(candidates) - 1, MAX_WINDOWS).round().astype(int)
        candidates = [candidates[i] for i in picked]
    wanted = {c[0] for c in candidates}
    windows: list[_Window] = []
    for number, strip in enumerate(strips):
        if number not in wanted:
            continue
        for _, row, col, height, width in (c for c in candidates if c[0] == number):
            area = (slice(row, row + height), slice(col, col + width))
            windows.append(
                _Window(
                    torch.as_tensor(np.ascontiguousarray(strip.hsi[:, *area]), device=device),
                    torch.as_tensor(np.ascontiguousarray(strip.msi[:, *area]), device=device),
                    strip.valid[area],
                )
            )
    return windows
