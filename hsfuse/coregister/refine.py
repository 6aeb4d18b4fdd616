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

import torch
from torch import Tensor

from hsfuse.coregister.images import OVERSAMPLING
from hsfuse.coregister.measurement import FloatArray, Measurement, WindowPass
from hsfuse.coregister.sampling import Smoother, bspline_sample
from hsfuse.coregister.sums import HALO_PX
from hsfuse.coregister.threads import PARTS, parallel_map
from hsfuse.coregister.windows import Windows
from hsfuse.native import match
from hsfuse.parallel import parts_of

_WARP_ROWS = 32


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
        self.target_valid = torch.empty(target.shape[1:], dtype=torch.bool, device=self.device)
        self._target = torch.empty_like(target)

        def fill(rows: slice) -> None:
            known = self.target_valid[rows] = torch.isfinite(target[:, rows]).all(dim=0)
            self._target[:, rows] = target[:, rows].masked_fill(~known, 0.0)

        list(parallel_map(fill, parts_of(self.height, PARTS)))
        self._reference_mean = _centred(reference)
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
    ) -> WindowPass:
        kept = keep and isinstance(displacement, Warped)
        warped = displacement if isinstance(displacement, Warped) else self.warp(displacement)
        rows = slice(top, top + warped.usable.shape[0])
        mask = (_interior(warped.usable, 1) & self.target_valid[rows] & allowed).float()
        inner = _interior(warped.usable, HALO_PX)
        reference = torch.empty_like(warped.image) if kept else warped.image
        target = torch.empty_like(self._target[:, rows])
        self._flatten((warped.image, self._target[:, rows]), mask, (reference, target))
        return WindowPass(windows, reference, target, mask, inner)

    def _flatten(self, images: tuple[Tensor, ...], mask: Tensor, outs: tuple[Tensor, ...]) -> None:
        """Write images without their local mean and of unit variance over the mask; ``outs`` may be ``images``."""
        whole = mask.shape[0] == self.height
        smoother = self._smoother if whole else Smoother(mask.shape[0], self.width, self._background_px, self.device)
        total, count = smoother.total(mask), mask.sum().clamp(min=1.0)

        def one(pair: tuple[Tensor, Tensor]) -> None:
            smoother.flatten(pair[0], mask, total, count, pair[1])

        pairs = [pair for image, out in zip(images, outs, strict=True) for pair in zip(image, out, strict=True)]
        list(parallel_map(one, pairs))


def _centred(image: Tensor) -> Tensor:
    """Take the channels' means off in place and return them; what is missing in one channel is missing in all then.

    One of them then tells where values are known.
    """
    height, width = image.shape[1:]
    missing = torch.empty((height, width), dtype=torch.bool, device=image.device)
    parts = parts_of(height, PARTS)

    def fill(rows: slice) -> None:
        known = torch.isfinite(image[:, rows]).all(dim=0)
        torch.logical_not(known, out=missing[rows])
        for channel in image[:, rows]:
            channel.masked_fill_(missing[rows], 0.0)

    list(parallel_map(fill, parts))
    count = (~missing).sum().clamp(min=1)
    mean = torch.stack(list(parallel_map(Tensor.sum, image))) / count

    def centre(rows: slice) -> None:
        image[:, rows].sub_(mean[:, None, None]).masked_fill_(missing[rows], torch.nan)

    list(parallel_map(centre, parts))
    return mean


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
