"""A network in blocks that lie where they lie in the scene: its result is the same in every tiling.

A scan carries what it saw over hundreds of pixels, so what it makes of a pixel depends on where the image begins and
ends, and no context of reasonable width settles that. Half precision turns the last place of a value in between into a
visible step of the result. What such a network is given for a pixel must therefore be the same whatever the tiles are:
it runs on blocks of fixed side, counted from the scene's origin, each with a little context, and where two blocks meet
their results are blended.

Tiles have to be read from and to multiples of the side, :attr:`FixedBlocks.margin_px` beyond what is wanted of them;
then every block that is needed is there with all of its context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hsfuse.degrade import Window
from hsfuse.degrade.windows import common, finer, grown, inside

if TYPE_CHECKING:
    from torch import Tensor


class Block(NamedTuple):
    """One block, HSI pixels: its ``cell``, what it contributes to (``shown``) and what it is given (``near``)."""

    cell: Window
    shown: Window
    near: Window


class FixedBlocks(NamedTuple):
    """A partition into squares, in HSI pixels.

    Attributes
    ----------
    side
        Of a cell.
    overlap
        Width of the zone that two neighbours share, even.
    context
        What a network is given around the pixels that a block contributes to.
    """

    side: int
    overlap: int
    context: int

    @property
    def margin_px(self) -> int:
        """What has to be known around wanted pixels, so that all their blocks are complete."""
        return self.side + self.overlap // 2 + self.context

    @property
    def given_px(self) -> int:
        """Side of what a network is given of a block that no edge of the image cuts."""
        return self.side + self.overlap + 2 * self.context

    def around(self, window: Window, shape: tuple[int, int]) -> Iterator[Block]:
        """Blocks that contribute to a window of an image of ``shape``, from the top left to the bottom right."""
        rows, cols = (self._cells(part, size) for part, size in zip(window, shape, strict=True))
        for row in rows:
            for col in cols:
                shown = grown((row, col), self.overlap // 2, shape)
                yield Block((row, col), shown, grown(shown, self.context, shape))

    def needed(self, window: Window, shape: tuple[int, int]) -> Window:
        """Return the part of an image that the blocks of a window are given."""
        near = [block.near for block in self.around(window, shape)]
        rows, cols = (
            slice(min(block[axis].start for block in near), max(block[axis].stop for block in near)) for axis in (0, 1)
        )
        return rows, cols

    def apply(
        self, run: Callable[[Sequence[Window], Window], Tensor], window: Window, shape: tuple[int, int], ratio: int,
        together: int = 1,
    ) -> Tensor:  # fmt: skip
        """Return what a network makes of a window.

        Parameters
        ----------
        run
            Runs the network on parts of the image (first argument), all of one shape, and returns what it makes of a
            part of each (second argument, counted from their first pixels), part after part, shape
            (part * n, band, row * ratio, col * ratio).
        window
            What is wanted, HSI pixels.
        shape
            Rows and columns of the image, HSI pixels.
        ratio
            Fine pixels per HSI pixel.
        together
            Parts that ``run`` is given at most: on a card many small calls cost more than a large one, on a processor
            one part stays in the cache.
        """
        total: Tensor | None = None
        for group in _alike(self.around(window, shape), together):
            made = run([block.near for block in group], inside(group[0].shown, group[0].near))
            for (cell, shown, _), one in zip(group, made.chunk(len(group)), strict=True):
                shared = common(shown, window)
                part = one[..., *finer(inside(shared, shown), ratio)]
                if total is None:
                    sides = [(side.stop - side.start) * ratio for side in window]
                    total = part.new_zeros(*part.shape[:2], *sides)
                down, across = (
                    self._weights(own, some, size, ratio, part)
                    for own, some, size in zip(cell, shared, shape, strict=True)
                )
                target = total[..., *finer(inside(shared, window), ratio)]
                target.add_(part * down[:, None] * across)
        if total is None:
            raise ValueError("nothing is wanted")
        return total

    def _cells(self, part: slice, size: int) -> list[slice]:
        half = self.overlap // 2
        first, last = max(part.start - half, 0) // self.side, min(part.stop - 1 + half, size - 1) // self.side
        return [slice(n * self.side, min((n + 1) * self.side, size)) for n in range(first, last + 1)]

    def _weights(self, cell: slice, common: slice, size: int, ratio: int, like: Tensor) -> Tensor:
        """Weights along an axis: with those of the neighbours they sum to 1, as raised cosines over shared zones."""
        import torch

        at = torch.arange(common.start * ratio, common.stop * ratio, device=like.device, dtype=torch.float32) + 0.5
        weights, width = torch.ones_like(at), self.overlap * ratio
        if not width:
            return weights
        if cell.start > 0:
            weights = weights * _rise((at - cell.start * ratio) / width + 0.5)
        if cell.stop < size:
            weights = weights * (1.0 - _rise((at - cell.stop * ratio) / width + 0.5))
        return weights


def _alike(blocks: Iterator[Block], together: int) -> Iterator[list[Block]]:
    """Blocks in groups of one shape, ``together`` at most; one after the other in their order where that is 1."""
    groups: dict[Any, list[Block]] = {}
    for block in blocks:
        near, shown = block.near, inside(block.shown, block.near)
        key = [(part.stop - part.start, own.start, own.stop) for part, own in zip(near, shown, strict=True)]
        group = groups.setdefault(tuple(key), [])
        group.append(block)
        if len(group) == together:
            yield groups.pop(tuple(key))
    yield from groups.values()


def _rise(t: Tensor) -> Tensor:
    return 0.5 - 0.5 * (math.pi * t.clamp(0.0, 1.0)).cos()
