"""What the experts of a scene say of a tile, some rows at a time.

All that they say of a tile at once would be the largest arrays of the fusion, and would go through the memory several
times. So what needs the whole tile is worked out first, most of it on the coarse grid, and the rest when rows are asked
for: few enough that they stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from hsfuse.degrade import Window
from hsfuse.degrade.windows import row_parts
from hsfuse.fusion.experts.bank import EXPERTS, ROWS, ExpertBank, TileState
from hsfuse.fusion.experts.neighbourhood import high_pass, local_regressions
from hsfuse.fusion.experts.reduced_error import REDUCED_ERROR_EXPERTS
from hsfuse.fusion.host import may_ask
from hsfuse.fusion.map.blur import TileBlur
from hsfuse.fusion.mixing import mix

if TYPE_CHECKING:
    from torch import Tensor

_FINE_PX, _COARSE_PX = 1.0, 2.5
"""Widths of the high passes, fine pixels at a ratio of 3."""
_LEADING = 4
_LIMIT = 60.0
_LEAST_INTENSITY = 0.05


class TileExperts:
    """The experts of a scene before a tile.

    Parameters
    ----------
    bank
        The experts.
    tile
        A tile with its context.
    best
        Ask those of :data:`~hsfuse.fusion.experts.bank.BEST_ONLY` too.
    shown
        Part of the tile, HSI pixels, elsewhere than in which non-local Bayes need not say anything; None: all of it.

    Attributes
    ----------
    state
        Canonical components of the estimate, shape (n, component, row, col).
    asked
        Which of all experts are asked, ascending.
    """

    def __init__(self, bank: ExpertBank, tile: TileState, *, best: bool, shown: Window | None = None) -> None:
        self._bank, self._tile, self.asked = bank, tile, bank.asked(best=best)
        self._names = [EXPERTS[index] for index in self.asked]
        canonical, ratio = bank.canonical, bank.model.ratio
        self.state = x = mix(canonical.into, tile.estimate)
        blur = TileBlur.of((x.shape[2], x.shape[3]), ratio, bank.model.psf, bank.offset_px, str(x.device))
        self._blur, self._low = blur, blur.apply(x)
        self._local = local_regressions(x, _LEADING, ratio)
        self._cleaned = bank.cleaned(tile, x, best=best, shown=shown)
        self._seen = mix(canonical.into, tile.seen)
        self._guide, read = bank.guide, bank.guide.regressors
        self._fine = read.guide(tile.guide)
        self._coarse = blur.apply(self._fine)
        self._bright = (tile.guide / read.mean.clamp_min(1e-6)[:, None, None]).mean(dim=1, keepdim=True)
        self._low_bright = blur.apply(self._bright)
        self._said = self._guide.predictions(
            self._fine, self._coarse, self._seen, bank.up, class_wise="class-wise detail" in self._names
        )  # fmt: skip
        self._low_said = blur.apply(self._said)
        self._windowed = self._guide.windowed(self._coarse, self._seen)
        self._change = tile.raw_guide - tile.guide
        self._unexplained, self._settings = self._other_settings()

    def _other_settings(self) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """What the guide leaves unexplained; per estimate what its response's transpose spreads, and what it mixes."""
        bank, tile, into = self._bank, self._tile, self._bank.canonical.into
        misfit = bank.plain.misfit(tile.seen, tile.guide, tile.start)
        measured = misfit.with_guide(self._change)
        kept = torch.eye(len(into), device=into.device)
        others = [*((estimator, misfit, 0.0) for estimator in bank.settings), (bank.plain, measured, 1.0)]
        found = {}
        for name, (estimator, seen, share) in zip(EXPERTS[-len(others) :], others, strict=True):
            if name in self._names:
                direct = estimator.direct(into)
                found[name] = (estimator.coarse(seen, into), torch.cat([direct, share * direct, kept], dim=1))
        return misfit.msi, found

    def rows(self, part: slice, out: Tensor) -> None:
        """Ask the experts for some rows.

        Parameters
        ----------
        part
            Rows on the coarse grid.
        out
            Where to put what they say, shape (n, expert, component, row * ratio, col * ratio), experts as in
            :data:`~hsfuse.fusion.experts.bank.EXPERTS`; of those that are not asked nothing is written.
        """
        for number, said in zip(self.asked, self._ask(part), strict=True):
            torch.clamp(said, -_LIMIT, _LIMIT, out=out[:, number])

    def _ask(self, part: slice) -> Iterator[Tensor]:
        """Give what each expert says that is asked, in their order."""
        bank, ratio = self._bank, self._bank.model.ratio
        fine = slice(part.start * ratio, part.stop * ratio)
        x = self.state[:, :, fine]
        yield from (high_pass(self.state, width, ratio, fine) for width in (_FINE_PX, _COARSE_PX))
        for name, local in zip(("local regression, narrow", "local regression, wide"), self._local, strict=True):
            if name in self._names:
                yield x - local.apply(x[:, :_LEADING], part, ratio)
        yield from (each[:, :, fine] for each in self._cleaned)
        yield from self._guide_detail(part, fine, x)
        change = self._change[:, :, fine]
        if "guide's noise" in self._names:
            yield mix(bank.noise_pull, change)
        if bank.reduced_error is not None:
            wanted = [name in self._names for name in REDUCED_ERROR_EXPERTS]
            yield from bank.reduced_error.apply(self.state, ratio, fine, wanted)
        before = mix(bank.canonical.into, self._tile.start[:, :, fine]) - x
        known = torch.cat([self._unexplained[:, :, fine], change, before], dim=1)
        for coarse, mixed in self._settings.values():
            yield self._blur.transpose(coarse, fine).add_(mix(mixed, known))

    def _guide_detail(self, part: slice, fine: slice, x: Tensor) -> Iterator[Tensor]:
        """Give multiplied detail, and what the regressions say beyond what the estimate shows already."""
        canonical, up, size = self._bank.canonical, self._bank.up, x.shape[1]
        own = x - up(self._low, rows=part)
        low = up(self._low_bright, rows=part).clamp_min(_LEAST_INTENSITY)
        contrast = self._bright[:, :, fine] / low - 1.0
        yield (up(self._seen, rows=part) - canonical.level[:, None, None]) * contrast - own
        detail = self._fine[:, :, fine] - up(self._coarse, rows=part)
        # Only the linear prediction is a whole component; the others are what is beyond it.
        yield mix(self._guide.linear.weight, detail).sub_(own)
        for first in range(0, self._said.shape[1], size):
            said = slice(first, first + size)
            yield self._said[:, said, fine] - up(self._low_said[:, said], rows=part)
        yield self._windowed.apply(detail, part, up.ratio, up.offset_px)

    def whole(self) -> Tensor:
        """Return what all experts say of the whole tile, shape (n, expert, component, row, col)."""
        x, ratio = self.state, self._bank.model.ratio
        outputs = x.new_zeros((x.shape[0], len(EXPERTS), *x.shape[1:]))
        height = x.shape[2] // ratio
        for part in row_parts(height, ROWS if may_ask(x) else height):
            self.rows(part, outputs[:, :, :, part.start * ratio : part.stop * ratio])
        return outputs


def evaluate(bank: ExpertBank, tile: TileState, *, best: bool = True) -> tuple[Tensor, Tensor]:
    """Ask all experts for all of a tile.

    Parameters
    ----------
    bank
        The experts.
    tile
        A tile with its context.
    best
        Ask those of :data:`~hsfuse.fusion.experts.bank.BEST_ONLY` too; else they say nothing (zero).

    Returns
    -------
    state : torch.Tensor
        Canonical components of the estimate, shape (n, component, row, col).
    outputs : torch.Tensor
        Shape (n, expert, component, row, col), experts as in :data:`~hsfuse.fusion.experts.bank.EXPERTS`.
    """
    asked = TileExperts(bank, tile, best=best)
    return asked.state, asked.whole()
