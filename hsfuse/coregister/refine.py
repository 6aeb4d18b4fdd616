"""Sub-pixel displacements by least squares on all windows at once.

Around each node of a regular lattice, every target channel is modelled as a linear combination of **all** reference
channels, evaluated at the displaced positions, plus an offset; the displacement that is still missing enters through
the gradients (Lucas and Kanade 1981, with a local radiometric model, so that gain, offset and spectral mixture of the
two sensors do not matter). Pixels that do not fit the model (changed fields, cloud, glint) lose their weight
(Student's t). What the radiometric model could absorb of a shift does not count as evidence for it.

The target is never resampled and the reference is evaluated by an interpolation whose blur does not depend on the
position, so there is nothing for the estimate to lock to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.coregister.images import OVERSAMPLING
from hsfuse.coregister.sampling import Smoother, bspline_sample
from hsfuse.coregister.sums import HALO_PX, WindowSums
from hsfuse.coregister.threads import PARTS, parallel_map
from hsfuse.coregister.windows import BLOCK_PX, Windows, block_matrix
from hsfuse.native import match
from hsfuse.parallel import parts_of

FloatArray = NDArray[np.float64]

_RIDGE = 1e-4
_LEAST_INFORMATION = 0.4
_WARP_ROWS = 32


@dataclass(frozen=True)
class Measurement:
    """What one pass over the windows measured; all arrays have shape (n_r, n_c).

    Attributes
    ----------
    d_row, d_col
        Displacement that is still missing, in target pixels.
    variance
        Variance of one coordinate, from the scatter of the residuals between blocks of pixels: it assumes nothing
        about the noise but that blocks are independent.
    correlation
        Multiple correlation between target and modelled target.
    share
        Share of the window's weight on usable pixels.
    row, col
        Where the information of the window is centred.
    """

    d_row: FloatArray
    d_col: FloatArray
    variance: FloatArray
    correlation: FloatArray
    share: FloatArray
    row: FloatArray
    col: FloatArray


@dataclass(frozen=True)
class _Model:
    """Radiometric model of the windows: coefficients (channel, basis, n_r, n_c) and residual variance."""

    coefficients: Tensor
    variance: Tensor

    @property
    def parts(self) -> tuple[Tensor, Tensor]:
        """Both."""
        return self.coefficients, self.variance


@dataclass(frozen=True)
class Warped:
    """The reference at displaced positions.

    Attributes
    ----------
    image
        Shape (channel, row, col), zero where it is not known.
    usable
        Where it may be used, shape (row, col).
    """

    image: Tensor
    usable: Tensor

    def cut(self, rows: slice) -> Warped:
        """Some of the rows."""
        return Warped(self.image[:, rows], self.usable[rows])

    def moved(self, rows: int, cols: int) -> Warped:
        """The same on other pixels, so that it lies at a wrong place; not usable where nothing is known then."""
        usable = self.usable.roll((rows, cols), (0, 1))
        for lines, by in ((usable, rows), (usable.T, cols)):
            lines[slice(by) if by >= 0 else slice(by, None)] = False
        return Warped(self.image.roll((rows, cols), (1, 2)), usable)


class Refiner:
    """Measures displacements against a predicted field.

    Parameters
    ----------
    target
        Shape (channel, row, col), NaN where unusable.
    reference
        Shape (channel, row, col) on the finer, padded grid, NaN where unusable. **Changed in place** (it is the
        largest array of the whole co-registration).
    margin_px
        Target pixels by which the reference reaches further.
    background_px
        Scale (standard deviation) of the local mean that is removed from both.
    """

    def __init__(self, target: Tensor, reference: Tensor, margin_px: float, *, background_px: float = 12.0) -> None:
        self.device = target.device
        self.height, self.width = int(target.shape[-2]), int(target.shape[-1])
        self._margin = margin_px
        self.background_px = background_px
        self.target_valid = torch.isfinite(target).all(dim=0)
        self._target = target.masked_fill(~self.target_valid, 0.0)
        # A sample that is missing in one channel is missing in all: one of them then tells where values are known.
        missing, *others = parallel_map(lambda channel: torch.isfinite(channel).logical_not_(), reference)
        for other in others:
            missing |= other
        count = (~missing).sum().clamp(min=1)

        def centre(channel: Tensor) -> Tensor:
            channel.masked_fill_(missing, 0.0)
            mean = channel.sum() / count
            channel.sub_(mean).masked_fill_(missing, torch.nan)
            return mean

        self._reference_mean = torch.stack(list(parallel_map(centre, reference)))
        self._reference = reference

    @property
    def target(self) -> Tensor:
        """The target, shape (channel, row, col), zero where unusable; not to be changed."""
        return self._target

    def target_brightness(self) -> Tensor:
        """Mean of the target's channels, shape (row, col), zero where unusable."""
        return self._target.mean(dim=0)

    def reference_brightness(self, warped: Warped) -> Tensor:
        """Mean of the reference's corresponding channels at displaced positions, shape (row, col)."""
        channels = self._target.shape[0]
        return warped.image[:channels].mean(dim=0) + self._reference_mean[:channels].mean()

    @property
    def background_px(self) -> float:
        """Scale of the local mean that is removed; may be changed between measurements."""
        return self._background_px

    @background_px.setter
    def background_px(self, value: float) -> None:
        self._background_px = value
        self._smoother = Smoother(self.height, self.width, value, self.device)

    def warp(self, displacement: Tensor) -> Warped:
        """Reference at displaced positions.

        Parameters
        ----------
        displacement
            Shape (2, row, col): along rows and columns, in target pixels.

        Returns
        -------
        Warped
            What :meth:`measure` compares with the target.
        """
        image = torch.empty((self._reference.shape[0], self.height, self.width), device=self.device)
        mask = torch.empty((self.height, self.width), dtype=torch.bool, device=self.device)
        if match.serves(self.device.type):
            fill, parts = self._displaced, parts_of(self.height, PARTS)
        else:
            step = _WARP_ROWS if self.device.type == "cpu" else self.height
            fill, parts = self._sampled, [slice(t, min(t + step, self.height)) for t in range(0, self.height, step)]
        list(parallel_map(lambda rows: fill(displacement, rows, image, mask), parts))
        return Warped(image, mask)

    def _displaced(self, displacement: Tensor, rows: slice, image: Tensor, mask: Tensor) -> None:
        match.displaced(
            self._reference.numpy(), displacement.float().contiguous().numpy(), rows, float(self._margin),
            float(OVERSAMPLING), image.numpy(), mask.numpy(),
        )  # fmt: skip

    def _sampled(self, displacement: Tensor, rows: slice, image: Tensor, mask: Tensor) -> None:
        height, width = self._reference.shape[1:]
        half = (OVERSAMPLING - 1) / 2
        line = torch.arange(rows.start, rows.stop, dtype=torch.float64, device=self.device)[:, None]
        cols = torch.arange(self.width, dtype=torch.float64, device=self.device)[None, :]
        at_r = (line + displacement[0, rows] + self._margin) * OVERSAMPLING + half
        at_c = (cols + displacement[1, rows] + self._margin) * OVERSAMPLING + half
        sampled = bspline_sample(self._reference, at_r, at_c)
        known = ~torch.isnan(sampled[0])
        image[:, rows] = sampled.masked_fill_(~known, 0.0)
        mask[rows] = known & (at_r >= 1) & (at_r <= height - 2) & (at_c >= 1) & (at_c <= width - 2)

    def measure(
        self, windows: Windows, displacement: Tensor | Warped, allowed: Tensor, *, rounds: int = 2
    ) -> Measurement:
        """Measure what is missing to a predicted displacement.

        Parameters
        ----------
        windows
            Where to measure.
        displacement
            Predicted displacement of each target pixel, shape (2, row, col), in target pixels, or what :meth:`warp`
            made of it.
        allowed
            Pixels that may be used, shape (row, col).
        rounds
            Rounds of down-weighting pixels that do not fit.
        """
        pass_ = self._compare(windows, displacement, allowed)
        model = pass_.model(None)
        for _ in range(rounds - 1):
            model = pass_.model(model)
        return pass_.solve(model)

    def resemblance(
        self, windows: Windows, displacement: Tensor | Warped, allowed: Tensor, *, top: int = 0
    ) -> tuple[FloatArray, FloatArray]:
        """Correlation and share of usable pixels as in :meth:`measure` with one round, each of shape (n_r, n_c).

        A warped image may cover a part of the rows, from ``top`` on; it is changed in place.
        """
        return self._compare(windows, displacement, allowed, keep=False, top=top).resemblance()

    def _compare(
        self, windows: Windows, displacement: Tensor | Warped, allowed: Tensor, *, keep: bool = True, top: int = 0
    ) -> _Pass:
        kept = keep and isinstance(displacement, Warped)
        warped = displacement if isinstance(displacement, Warped) else self.warp(displacement)
        rows = slice(top, top + warped.usable.shape[0])
        mask = (_interior(warped.usable, 1) & self.target_valid[rows] & allowed).float()
        inner = _interior(warped.usable, HALO_PX)
        reference = torch.empty_like(warped.image) if kept else warped.image
        target = torch.empty_like(self._target[:, rows])
        self._flatten((warped.image, self._target[:, rows]), mask, (reference, target))
        return _Pass(windows, reference, target, mask, inner)

    def _flatten(self, images: tuple[Tensor, ...], mask: Tensor, outs: tuple[Tensor, ...]) -> None:
        """Write images without their local mean and of unit variance over the mask; ``outs`` may be ``images``."""
        whole = mask.shape[0] == self.height
        smoother = self._smoother if whole else Smoother(mask.shape[0], self.width, self._background_px, self.device)
        total, count = smoother.total(mask), mask.sum().clamp(min=1.0)

        def one(pair: tuple[Tensor, Tensor]) -> None:
            smoother.flatten(pair[0], mask, total, count, pair[1])

        pairs = [pair for image, out in zip(images, outs, strict=True) for pair in zip(image, out, strict=True)]
        list(parallel_map(one, pairs))


class _Pass:
    """One measurement."""

    def __init__(self, windows: Windows, reference: Tensor, target: Tensor, mask: Tensor, inner: Tensor) -> None:
        self._windows, self._mask = windows, mask
        self._sums = WindowSums(windows, reference, target, mask, inner)
        self._channels, self._basis, self._pairs = self._sums.channels, self._sums.basis, self._sums.pairs

    def model(self, previous: _Model | None) -> _Model:
        """Fit the radiometric model with the weights that the previous one implies."""
        sums, _ = self._sums.of("fit", previous.parts if previous is not None else None)
        gram, rest = self._gram(sums[: len(self._pairs)]), sums[len(self._pairs) :]
        right = rest[: self._channels * self._basis].reshape(self._channels, self._basis, *self._windows.shape)
        square = rest[self._channels * self._basis :]
        solved = torch.linalg.solve(gram, right.permute(2, 3, 1, 0)).permute(3, 2, 0, 1)
        total = sums[len(self._pairs) - 1].clamp(min=1e-3)
        variance = ((square - (solved * right).sum(dim=1)) / total).clamp(min=1e-4)
        return _Model(solved, variance)

    def resemblance(self) -> tuple[FloatArray, FloatArray]:
        """Multiple correlation and share of usable pixels of every window after one round."""
        sums, _ = self._sums.of("resemblance", self.model(None).parts)
        ee, tt = sums[: self._channels], sums[self._channels : -1]
        correlation = _correlation(ee.movedim(0, -1), tt.movedim(0, -1), sums[-1])
        return correlation.cpu().numpy(), self._share().double().cpu().numpy()

    def _gram(self, sums: Tensor) -> Tensor:
        """Symmetric matrices (n_r, n_c, basis, basis) with a small ridge, in double precision."""
        gram = torch.zeros((*self._windows.shape, self._basis, self._basis), dtype=torch.float64, device=sums.device)
        for (i, j), value in zip(self._pairs, sums, strict=True):
            gram[..., i, j] = gram[..., j, i] = value.double()
        level = gram.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
        eye = torch.eye(self._basis, dtype=torch.float64, device=sums.device)
        return gram + (_RIDGE * level + 1e-6) * eye

    def solve(self, model: _Model) -> Measurement:
        """Missing displacement of every window, its variance, and what else is known about the window."""
        c, n = self._channels, self._basis
        per_channel = 3 * n + 7
        sums, scores = self._sums.of("shift", model.parts)
        pairs = len(self._pairs)
        parts = sums[pairs : pairs + c * per_channel].reshape(c, per_channel, *self._windows.shape).permute(2, 3, 0, 1)
        extra = sums[pairs + c * per_channel :]
        # (n_r, n_c, channel, ...): gradients with basis, error with basis, gradients with themselves and the error
        gx = torch.stack([parts[..., :n], parts[..., n : 2 * n]], dim=-2)
        gg, ee, tt = parts[..., 2 * n : 2 * n + 3], parts[..., 2 * n + 3], parts[..., 2 * n + 4]
        ge, ex = parts[..., 2 * n + 5 : 2 * n + 7], parts[..., 2 * n + 7 :]
        gram = self._gram(sums[:pairs])[:, :, None]
        absorbed = torch.linalg.solve(gram, gx.transpose(-1, -2)).transpose(-1, -2)
        scale = _scale(ee, extra[0])
        own = torch.stack([torch.stack([gg[..., 0], gg[..., 1]], -1), torch.stack([gg[..., 1], gg[..., 2]], -1)], -2)
        hessian = ((own - absorbed @ gx.transpose(-1, -2)) / scale[..., None, None]).sum(dim=2)
        right = ((ge - (absorbed @ ex[..., None])[..., 0]) / scale[..., None]).sum(dim=2)
        level = 1e-3 * hessian.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None] + 1e-9
        inverse = torch.linalg.inv(hessian + level * torch.eye(2, dtype=torch.float64, device=sums.device))
        info = extra[1].clamp(min=1e-9)
        step = (inverse @ right[..., None])[..., 0]
        # Reweighting makes the estimate noisier than its Hessian says.
        inverse = inverse / (1.0 - extra[4] / info).clamp(_LEAST_INFORMATION, 1.0)[..., None, None]
        meat = self._scatter(scores, absorbed, scale)
        variance = (inverse @ meat @ inverse).diagonal(dim1=-2, dim2=-1).mean(dim=-1)
        return Measurement(
            *(
                x.double().cpu().numpy()
                for x in (
                    step[..., 0], step[..., 1], variance, _correlation(ee, tt, extra[0]), self._share(),
                    extra[2] / info, extra[3] / info,
                )
            )
        )  # fmt: skip

    def _share(self) -> Tensor:
        whole = self._windows.weight_r.sum(dim=1)[:, None] * self._windows.weight_c.sum(dim=1)[None, :]
        used = self._windows.weight_r @ self._mask @ self._windows.weight_c.T
        return used / whole.clamp(min=1e-6)

    def _scatter(self, blocks: Tensor, absorbed: Tensor, scale: Tensor) -> Tensor:
        """Covariance of the windows' scores from their blocks, shape (n_r, n_c, 2, 2)."""
        windows, size = self._windows, blocks.shape[0]
        profiles, counts = [], []
        for profile in (windows.weight_r, windows.weight_c):
            matrix = block_matrix(profile.shape[1], profile.device)
            mean = (profile @ matrix.T) / matrix.sum(dim=1)
            profiles.append((mean**2).double())
            counts.append(mean.double().sum(dim=1) ** 2 / (mean.double() ** 2).sum(dim=1).clamp(min=1e-12))
        blocks = blocks.double()
        second = torch.stack(
            list(parallel_map(lambda block: profiles[0] @ (block * blocks) @ profiles[1].T, blocks.unbind()))
        )
        second = second.permute(2, 3, 0, 1)
        identity = torch.eye(2, dtype=torch.float64, device=blocks.device).expand(*absorbed.shape[:3], 2, 2)
        lift = torch.cat([identity, -absorbed], dim=-1) / scale[..., None, None]
        lift = lift.permute(0, 1, 3, 2, 4).reshape(*windows.shape, 2, size)
        count = counts[0][:, None] * counts[1][None, :]
        # Two parameters were estimated from so many blocks.
        return (lift @ second @ lift.transpose(-1, -2)) * (count / (count - 2.0).clamp(min=1.0))[..., None, None]


def _scale(unexplained: Tensor, weight: Tensor) -> Tensor:
    """Residual variance of each channel (last axis)."""
    return (unexplained / weight.clamp(min=1e-3)[..., None]).clamp(min=1e-4)


def _correlation(unexplained: Tensor, whole: Tensor, weight: Tensor) -> Tensor:
    """Multiple correlation over the channels (last axis), each relative to its residual variance."""
    scale = _scale(unexplained, weight)
    total = (whole / scale).sum(dim=-1).clamp(min=1e-9)
    return (1.0 - (unexplained / scale).sum(dim=-1) / total).clamp(0.0, 1.0).sqrt()


def _interior(usable: Tensor, reach: int) -> Tensor:
    """Where a pixel and its neighbours within ``reach`` are all usable (and inside the image)."""
    for dim, size in enumerate(usable.shape):
        inner = usable.clone()
        inner.narrow(dim, 0, min(reach, size)).fill_(False)
        inner.narrow(dim, max(size - reach, 0), min(reach, size)).fill_(False)
        for k in range(1, min(reach, size - 1) + 1):
            inner.narrow(dim, k, size - k).logical_and_(usable.narrow(dim, 0, size - k))
            inner.narrow(dim, 0, size - k).logical_and_(usable.narrow(dim, k, size - k))
        usable = inner
    return usable


__all__ = ["BLOCK_PX", "Measurement", "Refiner", "Windows"]
