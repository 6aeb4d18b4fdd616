"""Weighted sums over windows of the products that the least squares of co-registration need.

Around each window every target channel is a linear combination of a basis: all reference channels and a constant.
Pixels weigh less the worse a first such model fits them (Student's t). Three sets of products are summed: those that
fit the model, those that tell how well it fits, and those that tell what shift is missing.

On a CPU with a compiler ``match.c`` takes all sums of a pixel in one pass; torch builds the products strip by strip.
"""

from __future__ import annotations

from functools import cached_property, partial
from itertools import combinations_with_replacement
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hsfuse.coregister.threads import PARTS, parallel_map
from hsfuse.coregister.windows import BLOCK_PX, Strip, Windows, block_matrix, block_sums
from hsfuse.native import match
from hsfuse.parallel import parts_of

Kind = Literal["fit", "resemblance", "shift"]

STUDENT_NU = 4.0
HALO_PX = 2
"""Pixels around one that its slope over five points looks at."""


class WindowSums:
    """Sums of one measurement.

    Parameters
    ----------
    windows
        Windows.
    reference, target
        Shapes (plane, row, col) and (channel, row, col), float32.
    mask
        Pixels that count, shape (row, col), float32.
    inner
        Pixels around which ``HALO_PX`` more are known, shape (row, col).
    """

    def __init__(self, windows: Windows, reference: Tensor, target: Tensor, mask: Tensor, inner: Tensor) -> None:
        self._windows, self._mask, self._inner = windows, mask, inner
        self._reference, self._target = reference, target
        self.channels, self.basis = int(target.shape[0]), int(reference.shape[0]) + 1
        self.pairs = list(combinations_with_replacement(range(self.basis), 2))
        """Pairs of the basis, in the order in which their products stand first among those of a fit or a shift."""

    def of(self, kind: Kind, model: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Take the sums.

        Parameters
        ----------
        kind
            ``fit``: pairs of the basis, then for each channel the basis times the target, then the squared target.
            ``resemblance``: squared error, squared target, weight. ``shift``: pairs of the basis; for each channel the
            basis times the slope along rows, and along columns, the slopes' products (3), squared error, squared
            target, the slopes times the error (2), the basis times the error; and of all channels the weight, the
            information, the same times row and column, and the information lost to reweighting.
        model
            Coefficients (channel, basis, n_r, n_c) and residual variance (channel, n_r, n_c) that tell how well each
            pixel fits; None lets all weigh alike (``fit`` only).

        Returns
        -------
        (sums, scores)
            Shape (product, n_r, n_c), float64; and for a shift the sums over blocks of the last ``basis + 2`` products
            of each channel, shape (channel * (basis + 2), block row, block col), else empty.
        """
        halves = None
        if model is not None:
            halves = self._windows.along_columns(model[0]), self._windows.along_columns(model[1])
        take = self._compiled if match.serves(self._mask.device.type) else self._plain
        return take(kind, halves)

    def _count(self, kind: Kind) -> int:
        if kind == "resemblance":
            return 2 * self.channels + 1
        each, more = (self.basis + 1, 0) if kind == "fit" else (3 * self.basis + 7, 5)
        return len(self.pairs) + self.channels * each + more

    def _compiled(self, kind: Kind, halves: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        height, lattice = self._mask.shape[0], self._windows.lattice
        target, reference, mask, inner = (
            x.contiguous().numpy() for x in (self._target, self._reference, self._mask, self._inner)
        )
        model = None if halves is None else (halves[0].contiguous().numpy(), halves[1].contiguous().numpy())
        scores = np.zeros(self._score_shape(kind), np.float32)
        # Always the same parts, so that a sum does not depend on the number of processors.
        parts = parts_of(height, PARTS, match.STRIP_PX)

        def share(rows: slice) -> Tensor:
            sums = np.zeros((self._count(kind), *self._windows.shape))
            match.window_sums(kind, lattice, rows, target, reference, mask, inner, model, sums, scores, BLOCK_PX)
            return torch.from_numpy(sums)

        total, *others = parallel_map(share, parts)
        for other in others:
            total += other
        return total, torch.from_numpy(scores)

    def _score_shape(self, kind: Kind) -> tuple[int, int, int]:
        height, width = self._mask.shape
        count = self.channels * (self.basis + 2) if kind == "shift" else 0
        return count, -(-height // BLOCK_PX), -(-width // BLOCK_PX)

    def _plain(self, kind: Kind, halves: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        sums = torch.zeros((self._count(kind), *self._windows.shape), device=self._mask.device)
        scores = torch.zeros(self._score_shape(kind), device=self._mask.device)
        # Every product has the mask as a factor.
        strips = [strip for strip in self._windows.strips() if bool(self._mask[strip.top : strip.bottom].any())]
        for strip, (part, score) in zip(strips, parallel_map(partial(self._share, kind, halves), strips), strict=True):
            sums[:, strip.first : strip.last] += part
            if score is not None:
                first = strip.top // BLOCK_PX
                scores[:, first : first + score.shape[1]] = score
        return sums.double(), scores

    @cached_property
    def _block_c(self) -> Tensor:
        return block_matrix(self._mask.shape[1], self._mask.device)

    def _share(self, kind: Kind, halves: tuple[Tensor, Tensor] | None, strip: Strip) -> tuple[Tensor, Tensor | None]:
        """Sums and scores of a strip."""
        top, bottom = strip.top, strip.bottom
        part, target = self._reference[:, top:bottom], self._target[:, top:bottom]
        basis = torch.cat([part, torch.ones_like(part[:1])])
        weight = self._mask[top:bottom]
        coefficients = scale = error = weight
        if halves is not None:
            coefficients, scale = (strip.spread(half) for half in halves)
            error = target - (coefficients * basis).sum(dim=1)
            distance = (error**2 / scale.clamp(min=1e-4)).mean(dim=0)
            weight = weight * ((STUDENT_NU + 1.0) / (STUDENT_NU + distance))
        products = torch.empty((self._count(kind), *weight.shape), device=weight.device)
        scores = None
        if kind == "resemblance":
            torch.cat([error * error * weight, target * target * weight, weight[None]], out=products)
        else:
            at = 0
            for i in range(self.basis):
                torch.mul(basis[i:], basis[i] * weight, out=products[at : at + self.basis - i])
                at += self.basis - i
            if kind == "fit":
                for t in target:
                    torch.mul(basis, weight * t, out=products[at : at + self.basis])
                    at += self.basis
                torch.mul(target * target, weight, out=products[at:])
            else:
                scores = self._shift_products(top, basis, target, error, weight, coefficients, scale, products[at:])
        return strip.sums(products), scores

    def _shift_products(
        self,
        top: int,
        basis: Tensor,
        target: Tensor,
        error: Tensor,
        weight: Tensor,
        coefficients: Tensor,
        scale: Tensor,
        out: Tensor,
    ) -> Tensor:
        """Write what a shift needs besides the pairs; return the block sums of the scores that give its variance."""
        slope_r, slope_c = self._gradients(top, top + weight.shape[0])
        g_r = (coefficients[:, :-1] * slope_r).sum(dim=1)
        g_c = (coefficients[:, :-1] * slope_c).sum(dim=1)
        n, at, scores = self.basis, 0, []
        for t, e, r, c in zip(target, error, g_r, g_c, strict=True):
            own = out[at : at + 3 * n + 7]
            wr, wc, we = weight * r, weight * c, weight * e
            torch.mul(basis, wr, out=own[:n])
            torch.mul(basis, wc, out=own[n : 2 * n])
            for place, (one, other) in enumerate(
                ((wr, r), (wr, c), (wc, c), (we, e), (weight, t * t), (wr, e), (wc, e))
            ):
                torch.mul(one, other, out=own[2 * n + place])
            torch.mul(basis, we, out=own[2 * n + 7 :])
            scores.append(block_sums(own[2 * n + 5 :], self._block_c))
            at += 3 * n + 7
        info = (weight * (g_r**2 + g_c**2) / scale).sum(dim=0)
        # How much of the information is lost because a shift also changes the weights (Newton against reweighting).
        pull = (g_r * error / scale).sum(dim=0) ** 2 + (g_c * error / scale).sum(dim=0) ** 2
        distance = (error**2 / scale).mean(dim=0)
        lost = 2.0 / len(target) * weight * pull / (STUDENT_NU + distance)
        rows = torch.arange(top, top + weight.shape[0], device=info.device, dtype=info.dtype)[:, None]
        cols = torch.arange(info.shape[1], device=info.device, dtype=info.dtype)[None, :]
        for place, extra in enumerate((weight, info, info * rows, info * cols, lost)):
            out[at + place] = extra
        return torch.cat(scores)

    def _gradients(self, top: int, bottom: int) -> tuple[Tensor, Tensor]:
        """Derivatives of the reference per pixel along rows and columns in a strip.

        Over five points where all are known, over three beside gaps: a less exact slope slows the approach there,
        but the place where nothing is missing any more stays the same.
        """
        height = self._reference.shape[1]
        low, high = max(top - HALO_PX, 0), min(bottom + HALO_PX, height)
        part = self._reference[:, low:high]
        pad = (HALO_PX, HALO_PX, low - top + HALO_PX, bottom + HALO_PX - high)
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
