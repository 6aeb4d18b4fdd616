"""Both images at half their resolution, where large ones are matched first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from hsfuse.coregister.measurement import Measurement
from hsfuse.coregister.refine import Refiner
from hsfuse.coregister.threads import parallel_map
from hsfuse.coregister.windows import Windows


@dataclass(frozen=True)
class HalvedImages:
    """Target and reference at half the resolution, shape (channel, row, col) each."""

    target: Tensor
    reference: Tensor

    @classmethod
    def of(cls, target: Tensor, reference: Tensor) -> Self | None:
        """Halve two images; None where pixels are left over.

        Averages of 2 x 2 pixels of the target and of 2 x 2 samples of the reference stay equally sharp, because the
        reference is also evaluated by a spline twice as wide.
        """
        if any(side % 2 for image in (target, reference) for side in image.shape[-2:]):
            return None
        return cls(_halved(target), _halved(reference))

    def measure(
        self, windows: Windows, window_step_px: tuple[int, int], field: Tensor, allowed: Tensor, *,
        margin_px: float, background_px: float,
    ) -> Measurement | None:  # fmt: skip
        """Measure with the same windows; what is near enough needs no more at first.

        Parameters
        ----------
        windows, window_step_px
            Windows on the whole images, their side and the distance between them.
        field
            Displacement that is assumed, shape (2, row, col), pixels of the whole images as all that follows.
        allowed
            Pixels that may be used, shape (row, col).
        margin_px
            How much farther the reference reaches on each side.
        background_px
            Scale of the background that is removed.

        Returns
        -------
        Measurement or None
            In pixels of the whole images; None where halves of the windows lie in another pattern.
        """
        (window_px, step_px), (height, width) = window_step_px, self.target.shape[-2:]
        kept = torch.nn.functional.avg_pool2d(allowed[None].float(), 2)[0] == 1.0
        refiner = Refiner(self.target, self.reference, margin_px / 2, background_px=background_px / 2)
        smaller = Windows.hann(height, width, window_px // 2, step_px // 2, self.target.device)
        if smaller.shape != windows.shape:
            return None
        coarse = torch.nn.functional.avg_pool2d(field[None], 2)[0] / 2
        found = refiner.measure(smaller, coarse, kept, rounds=1)
        return replace(
            found, d_row=2 * found.d_row, d_col=2 * found.d_col, variance=4 * found.variance,
            row=2 * found.row + 0.5, col=2 * found.col + 0.5,
        )  # fmt: skip


def _halved(image: Tensor) -> Tensor:
    """Means of 2 x 2 samples, NaN where one of them is."""
    out = image.new_empty(len(image), image.shape[1] // 2, image.shape[2] // 2)

    def half(channels: tuple[Tensor, Tensor]) -> None:
        channels[1].copy_(torch.nn.functional.avg_pool2d(channels[0][None], 2)[0])

    list(parallel_map(half, zip(image, out, strict=True)))
    return out
