"""Fusion in two steps: with a multispectral guide to its pixels, then with a finer panchromatic one to that one's.

Both guides come as one image on the finest grid (see :class:`hsfuse.inference.joined_guide.JoinedGuide`), the pixels of
the coarser one repeated. Every step is a method of its own, with the ratio and the bands that it would have alone, so
tiles of both together are as exact as those of either.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import Psf, masked_lowpass_decimate_array
from hsfuse.errors import HsfuseError, OverlapError, UsageError
from hsfuse.fusion.base import FusionContext, FusionMethod, LowResolutionStrip, ModelSpec
from hsfuse.fusion.diagnostics import MethodDiagnostics
from hsfuse.masks import expand

if TYPE_CHECKING:
    import torch

_FIT_PIXELS = 150_000
"""Pixels of the first step's cube that the second learns from."""
_LEAST_ROWS, _EDGE_PX = 8, 8
"""Rows that a strip must keep, and the most that is cut off its edges: further inside, what a method makes of a strip
is as good as what it makes of the scene, whatever its tiles need to be equal."""
_PSF = Psf(1.0)
"""What the first step leaves is about as sharp as its guide; methods that calibrate find out."""


@dataclass(frozen=True)
class TwoGuides:
    """How two guides lie in one image.

    Attributes
    ----------
    n_coarse
        Bands of the multispectral guide; those of the panchromatic one follow.
    first, second
        Ratios of both steps.
    """

    n_coarse: int
    first: int
    second: int

    @property
    def ratio(self) -> int:
        """Ratio of both steps together."""
        return self.first * self.second


class TwoStepMethod(FusionMethod):
    """Two methods, one after the other.

    Parameters
    ----------
    first, second
        Methods, not yet fitted.
    guides
        How the guides lie in the image that is given.
    """

    def __init__(self, first: FusionMethod, second: FusionMethod, guides: TwoGuides) -> None:
        self._first, self._second, self._guides = first, second, guides

    def around(self, method: FusionMethod) -> TwoStepMethod:
        """Return the same steps with another method for the first one, not yet fitted."""
        return TwoStepMethod(method, self._second, self._guides)

    @property
    def diagnostics(self) -> MethodDiagnostics:
        """Those of the first step."""
        return self._first.diagnostics

    @property
    def spec(self) -> ModelSpec:
        """The first method's description, with what the second one needs around and beside it."""
        a, b, guides = self._first.spec, self._second.spec, self._guides
        area = guides.second**2
        context = -(-b.halo_px // guides.first)
        # What begins at a multiple begins at one of the second method's, too, on the grid between.
        multiple = math.lcm(a.multiple_px, b.multiple_px // math.gcd(b.multiple_px, guides.first))
        return replace(
            a,
            halo_px=a.halo_px + -(-context // multiple) * multiple,
            overlap_px=a.overlap_px,
            multiple_px=multiple,
            padded=any(spec.padded and spec.multiple_px > 1 for spec in (a, b)),
            bytes_per_pixel=a.bytes_per_pixel // area + b.bytes_per_pixel + 400,
            host_bytes_per_pixel=None,
            flop_per_pixel=a.flop_per_pixel / area + b.flop_per_pixel,
            ratios=(guides.ratio,),
            n_msi=None,
            reference=f"{a.reference}; then {b.name}, {b.reference}" if b.name != a.name else a.reference,
        )

    def fit(self, context: FusionContext, strips: Iterable[LowResolutionStrip]) -> None:
        """Fit the first method on the multispectral guide, the second on what it makes and the panchromatic one.

        Raises
        ------
        UsageError
            The ratio is another one than that of both steps, or the guide is not at hand at its own resolution.
        OverlapError
            Too few pixels are valid in both images.
        """
        guides = self._guides
        if context.ratio != guides.ratio:
            raise UsageError(f"Both steps make a ratio of {guides.ratio}, the scene has {context.ratio}.")
        strips = list(strips)
        n, srf = guides.n_coarse, context.srf
        self._first.fit(
            replace(context, ratio=guides.first, srf=None if srf is None else srf[:n]),
            [self._of_coarse(strip) for strip in strips],
        )
        second = list(self._of_fine(strips))
        if not second:
            raise OverlapError("Too few pixels are valid in both guides to sharpen one with the other.")
        self._second.fit(
            replace(context, ratio=guides.second, srf=None if srf is None else srf[n:], psf=_PSF, calibrate=True),
            second,
        )

    def _of_coarse(self, strip: LowResolutionStrip) -> LowResolutionStrip:
        """The strip as the first step has it."""
        n, step = self._guides.n_coarse, self._guides.second
        fine = None if strip.fine is None else np.ascontiguousarray(strip.fine[:n, ::step, ::step])
        return replace(strip, msi=strip.msi[:n], fine=fine)

    def _of_fine(self, strips: Sequence[LowResolutionStrip]) -> Iterator[LowResolutionStrip]:
        """Strips of the first step's cube with the panchromatic guide, spread over the scene."""
        guides = self._guides
        usable = [strip for strip in strips if strip.fine is not None and strip.valid.any()]
        if not usable:
            return
        area = max(strip.valid.size for strip in usable) * guides.first**2
        count = int(np.clip(_FIT_PIXELS // area, 1, len(usable)))
        for index in np.unique(np.linspace(0, len(usable) - 1, count).round().astype(int)):
            strip = usable[int(index)]
            found = self._sharpened(strip, self._columns(strip))
            if found is not None:
                yield found

    def _columns(self, strip: LowResolutionStrip) -> slice:
        """Columns of a strip that is too wide to be kept as a whole: those around its valid pixels' middle."""
        rows, width = strip.valid.shape
        kept = min(width, max(_FIT_PIXELS // (rows * self._guides.first**2), 4 * _LEAST_ROWS))
        middle = int(np.flatnonzero(strip.valid.any(axis=0)).mean())
        start = int(np.clip(middle - kept // 2, 0, width - kept))
        return slice(start, start + kept)

    def _sharpened(self, strip: LowResolutionStrip, cols: slice) -> LowResolutionStrip | None:
        """What the first step makes of a strip, with the panchromatic guide below it; None where little is left."""
        import torch

        guides, halo = self._guides, min(self._first.spec.halo_px, _EDGE_PX)
        rows, r, fine = strip.hsi.shape[1], guides.ratio, strip.below(guides.ratio)
        if fine is None or rows <= 2 * halo + _LEAST_ROWS or cols.stop - cols.start <= 2 * halo + _LEAST_ROWS:
            return None
        seen = fine[:, :, cols.start * r : cols.stop * r]
        clear = np.asarray(np.isfinite(seen).all(axis=0), np.bool_)
        filled = np.where(clear, seen, _typical(seen))
        with torch.inference_mode():
            coarse = torch.from_numpy(
                np.ascontiguousarray(filled[: guides.n_coarse, :: guides.second, :: guides.second])
            )
            hsi = torch.from_numpy(np.ascontiguousarray(strip.hsi[:, :, cols]))
            made = self._first.fuse(hsi[None], coarse[None])[0].float().numpy()
        pan = np.where(clear, seen[guides.n_coarse :], np.nan).astype(np.float32)
        low, valid = masked_lowpass_decimate_array(np.nan_to_num(pan), clear, guides.second, _PSF)
        valid &= expand(strip.valid[:, cols], guides.first)
        # The first step's own context is missing at the strip's edges.
        edge = halo * guides.first
        inner = np.zeros_like(valid)
        inner[edge : -edge or None, edge : -edge or None] = True
        return LowResolutionStrip(made, np.nan_to_num(low).astype(np.float32), valid & inner, pan, 0)

    def fuse(self, hsi: torch.Tensor, msi: torch.Tensor) -> torch.Tensor:
        """Fuse (tile, band, row, col) with (tile, guide band, row * ratio, col * ratio)."""
        guides = self._guides
        if msi.shape[-1] != hsi.shape[-1] * guides.ratio:
            raise HsfuseError(f"Both steps make a ratio of {guides.ratio}.")
        coarse = msi[:, : guides.n_coarse, :: guides.second, :: guides.second].contiguous()
        made = self._first.fuse(hsi, coarse).float()
        return self._second.fuse(made, msi[:, guides.n_coarse :].contiguous())


def _typical(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of every band's known samples, shape (band, 1, 1)."""
    known = np.isfinite(image)
    total = np.where(known, image, 0.0).sum(axis=(1, 2), keepdims=True)
    return np.asarray(total / np.maximum(known.sum(axis=(1, 2), keepdims=True), 1), np.float32)
