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
from itertools import combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hsfuse.coregister.images import OVERSAMPLING
from hsfuse.coregister.sampling import Smoother, bspline_sample
from hsfuse.coregister.threads import side_by_side
from hsfuse.coregister.windows import BLOCK_PX, Strip, Windows, block_matrix, block_sums

FloatArray = NDArray[np.float64]

_RIDGE = 1e-4
_STUDENT_NU = 4.0
_LEAST_INFORMATION = 0.4
_HALO_PX = 2
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
        missing, *others = side_by_side(lambda channel: torch.isfinite(channel).logical_not_(), reference)
        for other in others:
            missing |= other
        count = (~missing).sum().clamp(min=1)

        def centre(channel: Tensor) -> None:
            channel.masked_fill_(missing, 0.0)
            channel.sub_(channel.sum() / count).masked_fill_(missing, torch.nan)

        list(side_by_side(centre, reference))
        self._reference = reference
        self._block_c = block_matrix(self.width, self.device)

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
        shape = self._reference.shape[1:]
        image = torch.empty((self._reference.shape[0], self.height, self.width), device=self.device)
        mask = torch.empty((self.height, self.width), dtype=torch.bool, device=self.device)
        cols = torch.arange(self.width, dtype=torch.float64, device=self.device)[None, :]
        step = _WARP_ROWS if self.device.type == "cpu" else self.height
        half = (OVERSAMPLING - 1) / 2

        def fill(top: int) -> None:
            part = slice(top, min(top + step, self.height))
            rows = torch.arange(part.start, part.stop, dtype=torch.float64, device=self.device)[:, None]
            at_r = (rows + displacement[0, part] + self._margin) * OVERSAMPLING + half
            at_c = (cols + displacement[1, part] + self._margin) * OVERSAMPLING + half
            sampled = bspline_sample(self._reference, at_r, at_c)
            known = ~torch.isnan(sampled[0])
            image[:, part] = sampled.masked_fill_(~known, 0.0)
            mask[part] = known & (at_r >= 1) & (at_r <= shape[0] - 2) & (at_c >= 1) & (at_c <= shape[1] - 2)

        for _ in side_by_side(fill, range(0, self.height, step)):
            pass
        return Warped(image, mask)

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
        return pass_.solve(model, self._block_c)

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
        inner = _interior(warped.usable, _HALO_PX)
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
            channel, out = pair
            torch.sub(channel, smoother.mean(channel, mask, total), out=out)
            out.div_(((out * mask).mul_(out).sum() / count).sqrt().clamp(min=1e-9))

        pairs = [pair for image, out in zip(images, outs, strict=True) for pair in zip(image, out, strict=True)]
        list(side_by_side(one, pairs))


class _Pass:
    """The sums of one measurement."""

    def __init__(self, windows: Windows, reference: Tensor, target: Tensor, mask: Tensor, inner: Tensor) -> None:
        self._windows, self._mask, self._inner = windows, mask, inner
        self._reference, self._target = reference, target
        self._channels, self._basis = target.shape[0], reference.shape[0] + 1
        self._pairs = list(combinations_with_replacement(range(self._basis), 2))
        self._product_count = len(self._pairs) + self._channels * (3 * self._basis + 7) + 5

    def _basis_of(self, top: int, bottom: int) -> Tensor:
        part = self._reference[:, top:bottom]
        return torch.cat([part, torch.ones_like(part[:1])])

    def _weight(self, top: int, bottom: int, error: Tensor | None, scale: Tensor | None) -> Tensor:
        mask = self._mask[top:bottom]
        if error is None or scale is None:
            return mask
        distance = (error**2 / scale.clamp(min=1e-4)).mean(dim=0)
        return mask * ((_STUDENT_NU + 1.0) / (_STUDENT_NU + distance))

    def _strips(self) -> list[Strip]:
        """Strips in which a pixel counts."""
        return [strip for strip in self._windows.strips() if bool(self._mask[strip.top : strip.bottom].any())]

    def _zeros(self, count: int) -> Tensor:
        return torch.zeros((count, *self._windows.shape), device=self._mask.device)

    def model(self, previous: _Model | None) -> _Model:
        """Fit the radiometric model with the weights that the previous one implies."""
        sums = self._zeros(len(self._pairs) + self._channels * (self._basis + 1))
        dense = None if previous is None else self._halves(previous)

        def share(strip: Strip) -> Tensor:
            basis, target = self._basis_of(strip.top, strip.bottom), self._target[:, strip.top : strip.bottom]
            error = scale = None
            if dense is not None:
                error = target - (strip.spread(dense[0]) * basis).sum(dim=1)
                scale = strip.spread(dense[1])
            weight = self._weight(strip.top, strip.bottom, error, scale)
            products = torch.empty((len(sums), *weight.shape), device=weight.device)
            self._gram_products(basis, weight, products)
            at = len(self._pairs)
            for t in target:
                torch.mul(basis, weight * t, out=products[at : at + self._basis])
                at += self._basis
            torch.mul(target * target, weight, out=products[at:])
            return strip.sums(products)

        strips = self._strips()
        for strip, part in zip(strips, side_by_side(share, strips), strict=True):
            sums[:, strip.first : strip.last] += part
        gram = self._gram(sums[: len(self._pairs)])
        rest = sums[len(self._pairs) :].double()
        right = rest[: self._channels * self._basis].reshape(self._channels, self._basis, *self._windows.shape)
        square = rest[self._channels * self._basis :]
        solved = torch.linalg.solve(gram, right.permute(2, 3, 1, 0)).permute(3, 2, 0, 1)
        total = sums[len(self._pairs) - 1].double().clamp(min=1e-3)
        variance = ((square - (solved * right).sum(dim=1)) / total).clamp(min=1e-4)
        return _Model(solved, variance)

    def resemblance(self) -> tuple[FloatArray, FloatArray]:
        """Multiple correlation and share of usable pixels of every window after one round."""
        dense = self._halves(self.model(None))
        count = self._channels
        sums = self._zeros(2 * count + 1)

        def share(strip: Strip) -> Tensor:
            basis, target = self._basis_of(strip.top, strip.bottom), self._target[:, strip.top : strip.bottom]
            error = target - (strip.spread(dense[0]) * basis).sum(dim=1)
            weight = self._weight(strip.top, strip.bottom, error, strip.spread(dense[1]))
            return strip.sums(torch.cat([error * error * weight, target * target * weight, weight[None]]))

        strips = self._strips()
        for strip, part in zip(strips, side_by_side(share, strips), strict=True):
            sums[:, strip.first : strip.last] += part
        sums = sums.double()
        ee, tt = sums[:count], sums[count : 2 * count]
        correlation = _correlation(ee.movedim(0, -1), tt.movedim(0, -1), sums[-1])
        return correlation.cpu().numpy(), self._share().double().cpu().numpy()

    def _halves(self, model: _Model) -> tuple[Tensor, Tensor]:
        return self._windows.along_columns(model.coefficients), self._windows.along_columns(model.variance)

    def _gram(self, sums: Tensor) -> Tensor:
        """Symmetric matrices (n_r, n_c, basis, basis) with a small ridge, in double precision."""
        gram = torch.zeros((*self._windows.shape, self._basis, self._basis), dtype=torch.float64, device=sums.device)
        for (i, j), value in zip(self._pairs, sums, strict=True):
            gram[..., i, j] = gram[..., j, i] = value.double()
        level = gram.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
        eye = torch.eye(self._basis, dtype=torch.float64, device=sums.device)
        return gram + (_RIDGE * level + 1e-6) * eye

    def solve(self, model: _Model, block_c: Tensor) -> Measurement:
        """Missing displacement of every window, its variance, and what else is known about the window."""
        c, n = self._channels, self._basis
        per_channel = 3 * n + 7
        sums = self._zeros(self._product_count)
        scores = []
        dense = self._halves(model)

        def share(strip: Strip) -> tuple[Tensor, Tensor]:
            products, scores = self._products(
                strip.top, strip.bottom, strip.spread(dense[0]), strip.spread(dense[1]), block_c
            )
            return strip.sums(products), scores

        strips = list(self._windows.strips())
        for strip, (part, score) in zip(strips, side_by_side(share, strips), strict=True):
            sums[:, strip.first : strip.last] += part
            scores.append(score)
        sums = sums.double()
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
        meat = self._scatter(torch.cat(scores, dim=1), absorbed, scale)
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

    def _products(
        self, top: int, bottom: int, coefficients: Tensor, scale: Tensor, block_c: Tensor
    ) -> tuple[Tensor, Tensor]:
        """All products that enter the window sums, and the block sums of the scores that give the variance."""
        basis, target = self._basis_of(top, bottom), self._target[:, top:bottom]
        error = target - (coefficients * basis).sum(dim=1)
        weight = self._weight(top, bottom, error, scale)
        slope_r, slope_c = self._gradients(top, bottom)
        g_r = (coefficients[:, :-1] * slope_r).sum(dim=1)
        g_c = (coefficients[:, :-1] * slope_c).sum(dim=1)
        n, rows_cols = self._basis, weight.shape
        products = torch.empty((self._product_count, *rows_cols), device=weight.device)
        scores = []
        self._gram_products(basis, weight, products)
        at = len(self._pairs)
        for t, e, r, c in zip(target, error, g_r, g_c, strict=True):
            own = products[at : at + 3 * n + 7]
            wr, wc, we = weight * r, weight * c, weight * e
            torch.mul(basis, wr, out=own[:n])
            torch.mul(basis, wc, out=own[n : 2 * n])
            for place, (one, other) in enumerate(
                ((wr, r), (wr, c), (wc, c), (we, e), (weight, t * t), (wr, e), (wc, e))
            ):
                torch.mul(one, other, out=own[2 * n + place])
            torch.mul(basis, we, out=own[2 * n + 7 :])
            scores.append(block_sums(own[2 * n + 5 :], block_c))
            at += 3 * n + 7
        info = (weight * (g_r**2 + g_c**2) / scale).sum(dim=0)
        # How much of the information is lost because a shift also changes the weights (Newton against reweighting).
        pull = (g_r * error / scale).sum(dim=0) ** 2 + (g_c * error / scale).sum(dim=0) ** 2
        distance = (error**2 / scale).mean(dim=0)
        lost = 2.0 / len(target) * weight * pull / (_STUDENT_NU + distance)
        rows = torch.arange(top, bottom, device=info.device, dtype=info.dtype)[:, None]
        cols = torch.arange(info.shape[1], device=info.device, dtype=info.dtype)[None, :]
        for place, extra in enumerate((weight, info, info * rows, info * cols, lost)):
            products[at + place] = extra
        return products, torch.cat(scores)

    def _gram_products(self, basis: Tensor, weight: Tensor, out: Tensor) -> None:
        """Weighted products of all pairs of the basis, in the order of the pairs."""
        at = 0
        for i in range(self._basis):
            torch.mul(basis[i:], basis[i] * weight, out=out[at : at + self._basis - i])
            at += self._basis - i

    def _gradients(self, top: int, bottom: int) -> tuple[Tensor, Tensor]:
        """Derivatives of the reference per pixel along rows and columns in a strip.

        Over five points where all are known, over three beside gaps: a less exact slope slows the approach there,
        but the place where nothing is missing any more stays the same.
        """
        height = self._reference.shape[1]
        low, high = max(top - _HALO_PX, 0), min(bottom + _HALO_PX, height)
        part = self._reference[:, low:high]
        pad = (_HALO_PX, _HALO_PX, low - top + _HALO_PX, bottom + _HALO_PX - high)
        image = torch.nn.functional.pad(part[None], pad, mode="replicate")[0]
        inner_r, inner_c = slice(2, -2), slice(2, -2)
        near_r = image[:, 3:-1, inner_c] - image[:, 1:-3, inner_c]
        near_c = image[:, inner_r, 3:-1] - image[:, inner_r, 1:-3]
        g_r = (8 * near_r - (image[:, 4:, inner_c] - image[:, :-4, inner_c])) / 12
        g_c = (8 * near_c - (image[:, inner_r, 4:] - image[:, inner_r, :-4])) / 12
        inner = self._inner[top:bottom]
        if not bool(inner.all()):
            g_r, g_c = torch.where(inner, g_r, 0.5 * near_r), torch.where(inner, g_c, 0.5 * near_c)
        return g_r, g_c

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
        second = torch.stack([profiles[0] @ (blocks[i] * blocks) @ profiles[1].T for i in range(size)])
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
