"""Where the target lies as a whole, and how it is distorted over tens of pixels: correlation of contrast features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.coregister.correlate import GlobalPeak, joint_ncc, peak_of, window_peaks
from hsfuse.coregister.images import OVERSAMPLING
from hsfuse.coregister.models import FloatArray, Points
from hsfuse.coregister.sampling import Smoother
from hsfuse.coregister.threads import PARTS, parallel_map, run_both
from hsfuse.parallel import parts_of

_FEATURE_SCALE_PX = 8.0
_COARSE_WINDOW_PX, _COARSE_SEARCH_PX, _COARSE_BATCH = 96, 12, 40
_COARSE_SIGMA_PX, _COARSE_MIN_HEIGHT, _COARSE_MIN_SHARPNESS = 0.4, 0.12, 1.15
_PEAK_WIDTH_PX = 8


class Features(NamedTuple):
    """Features of an image, shape (feature, row, col), and where they are known, shape (row, col)."""

    values: Tensor
    mask: Tensor


def contrast_features(image: Tensor, mask: Tensor, scale_px: float = _FEATURE_SCALE_PX) -> Tensor:
    """Clipped local contrast and its gradient's length for each channel, locally centred, zero under the mask."""
    smoother = Smoother(int(image.shape[-2]), int(image.shape[-1]), scale_px, image.device)
    count = mask.sum().clamp(min=1.0)
    features = torch.zeros((2 * len(image), *mask.shape), device=image.device)
    contrast, steep = features[: len(image)], features[len(image) :]
    total = smoother.total(mask)

    def one(layers: tuple[Tensor, Tensor, Tensor]) -> None:
        layer, plain, slope = layers
        torch.sub(layer, smoother.mean(layer, mask, total), out=plain)
        plain *= mask
        scale = 1.25 * plain.abs().sum() / count
        plain.div_(scale.clamp(min=1e-9)).clamp_(-3.0, 3.0)
        torch.hypot(
            plain[1:-1, 2:] - plain[1:-1, :-2], plain[2:, 1:-1] - plain[:-2, 1:-1], out=slope[1:-1, 1:-1]
        )  # fmt: skip
        torch.sub(slope, smoother.mean(slope, mask, total), out=slope).mul_(mask)

    list(parallel_map(one, zip(image, contrast, steep, strict=True)))
    return features


class GlobalSearch:
    """Correlation of features of the whole target with the reference.

    Parameters
    ----------
    target, reference
        Shapes (channel, row, col), the reference on the finer, padded grid with the same channels first.
    margin_px
        How many target pixels the reference reaches beyond the target.
    factor
        Target pixels per feature along each axis: large images have pattern enough at half their resolution.
    """

    def __init__(self, target: Tensor, reference: Tensor, margin_px: int, factor: int) -> None:
        self._margin, self._factor = margin_px, factor
        scale = _FEATURE_SCALE_PX / factor
        self._target, self._reference = run_both(
            lambda: image_features(target, factor, scale),
            lambda: image_features(reference[: target.shape[0]], OVERSAMPLING * factor, scale),
        )

    def peak(self) -> tuple[GlobalPeak, tuple[float, float]]:
        """The best position of the whole image, and the displacement (row, col) there in target pixels."""
        surface = joint_ncc(*self._target, *self._reference, side_by_side=True)
        peak = peak_of(surface.double().cpu().numpy(), exclude_px=_PEAK_WIDTH_PX // self._factor)
        factor, margin = self._factor, self._margin
        return peak, (factor * peak.row - margin, factor * peak.col - margin)

    def coarse_points(self, shift: tuple[float, float]) -> tuple[Points, float]:
        """Displacements of large windows, searched around the global shift, and their side in target pixels."""
        factor = self._factor
        size = np.array(self._target.mask.shape)
        side = min(_COARSE_WINDOW_PX // factor, int(size.min()))
        search, over = _COARSE_SEARCH_PX // factor, side // 4
        # Windows reach over the border, so that little of the field lies beyond the outermost ones.
        rows, cols = (
            np.linspace(-over, n - side + over, max(1, round((n - side) / (side / 2)) + 2)) for n in size.tolist()
        )
        corner = np.stack(np.meshgrid(rows, cols, indexing="ij"), -1).reshape(-1, 2).round().astype(int)
        offset = np.round((np.array(shift) + self._margin) / factor).astype(int) - search
        pad = side + 2 * search
        features, mask = (torch.nn.functional.pad(x, (over,) * 4) for x in self._target)
        reference = torch.nn.functional.pad(self._reference.values, (pad,) * 4)
        reference_mask = torch.nn.functional.pad(self._reference.mask, (pad,) * 4)
        there = np.clip(corner + offset + pad, 0, np.array(reference_mask.shape) - pad)

        def peaks(first: int) -> tuple[FloatArray, FloatArray, FloatArray]:
            part = slice(first, first + _COARSE_BATCH)
            surface = joint_ncc(
                _cut(features, corner[part] + over, side), _cut(mask, corner[part] + over, side),
                _cut(reference, there[part], pad), _cut(reference_mask, there[part], pad), min_share=0.5,
            )  # fmt: skip
            return window_peaks(surface)

        found = list(parallel_map(peaks, range(0, len(corner), _COARSE_BATCH)))
        at, height, sharpness = (np.concatenate(values) for values in zip(*found, strict=True))
        good = (height > _COARSE_MIN_HEIGHT) & (sharpness > _COARSE_MIN_SHARPNESS)
        good &= (np.abs(at - search) < search - 0.5).all(axis=1)
        value = factor * (there - pad - corner + at) - self._margin
        centre = np.clip(corner + (side - 1) / 2.0, over, size - over) * factor + (factor - 1) / 2.0
        sigma = np.full(len(value), _COARSE_SIGMA_PX * factor**0.5)
        side *= factor
        return Points(centre, value, sigma, 4.0, side / 2.0).take(good), float(side)


def image_features(image: Tensor, factor: int, scale_px: float) -> Features:
    """Features and mask of an image averaged over ``factor`` x ``factor`` samples, half of which must be valid."""
    rows, cols = (size // factor for size in image.shape[-2:])
    mask = torch.empty((rows, cols), device=image.device)
    mean = torch.empty((len(image), rows, cols), device=image.device)

    def average(part: slice) -> None:
        fine = image[:, part.start * factor : part.stop * factor]
        valid = torch.isfinite(fine).all(dim=0)
        share = torch.nn.functional.avg_pool2d(valid[None].float(), factor)[0]
        mask[part] = (share >= 0.5).float()
        for layer, out in zip(fine, mean[:, part], strict=True):
            out.copy_(torch.nn.functional.avg_pool2d(torch.where(valid, layer, 0.0)[None], factor)[0])
            out.div_(share.clamp(min=0.5)).mul_(mask[part])

    list(parallel_map(average, parts_of(rows, PARTS)))
    return Features(contrast_features(mean, mask, scale_px), mask)


def _cut(image: Tensor, corners: NDArray[np.integer], side: int) -> Tensor:
    return torch.stack([image[..., r : r + side, c : c + side] for r, c in corners.tolist()])
