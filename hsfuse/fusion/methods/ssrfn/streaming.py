"""A gate on a processor: experts are asked, looked at and weighed some rows at a time, by compiled kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name
from torch import Tensor

from hsfuse.degrade import Window
from hsfuse.degrade.windows import finer, inside, row_parts, rows_around, rows_inside
from hsfuse.fusion.experts.bank import EXPERTS, ROWS
from hsfuse.fusion.experts.weighing import seen_features, weighed_outputs
from hsfuse.fusion.host import may_ask
from hsfuse.fusion.methods.ssrfn.config import MOST_COMPONENTS, PRESENT, GateConfig
from hsfuse.fusion.nets.fixed_blocks import FixedBlocks
from hsfuse.native.build import multiplies_half

_ROWS = 16
"""HSI pixels of a tile that a backbone of bounded reach is run for at a time."""
_MIDDLE_STRENGTH = 1.5


class TilePart(NamedTuple):
    """What a gate is given of a tile that begins at a whole number of blocks of the scene, and what is wanted of it.

    Windows of the tile in HSI pixels; ``size`` is the tile's. What a network looks at of what is given is ``shown``;
    None: all of it.
    """

    size: tuple[int, int]
    given: Window
    wanted: Window
    shown: Window | None = None


class RowGate(Protocol):
    """What is asked of a gate here; see :class:`~hsfuse.fusion.methods.ssrfn.network.Gate`."""

    @property
    def config(self) -> GateConfig:
        """Its shape."""

    @property
    def compared(self) -> Sequence[int]:
        """Experts that the others are compared with."""

    @property
    def blocks(self) -> FixedBlocks | None:
        """Those that its backbone runs in; None for a plain one."""

    @property
    def reach_px(self) -> int:
        """Fine pixels that a plain backbone looks at around one."""

    def found_of_bordered(self, features: Tensor) -> Tensor:
        """Outputs of a plain backbone for features with a border of one pixel."""

    def with_change(self, found: Tensor, evidence: Tensor | None) -> Tensor:
        """Outputs of the backbone and what the change adds to them."""

    def found_by_blocks(self, blocks: FixedBlocks, features: Tensor, ratio: int, part: TilePart) -> Tensor:
        """Outputs of a backbone in blocks."""


class AskedExperts(Protocol):
    """Experts before a tile; see :class:`hsfuse.fusion.experts.tile.TileExperts`."""

    @property
    def state(self) -> Tensor:
        """Canonical components of the estimate, shape (n, component, row, col)."""

    @property
    def asked(self) -> Sequence[int]:
        """Which of :data:`~hsfuse.fusion.experts.bank.EXPERTS` say something, ascending."""

    def rows(self, part: slice, out: Tensor) -> None:
        """Ask them for some rows of the coarse grid; of the others nothing is written."""


class GivenOutputs(NamedTuple):
    """What experts say, where it is known of the whole tile.

    Attributes
    ----------
    state
        Shape (1, component, row, col).
    outputs
        Shape (1, expert, component, row, col).
    ratio
        Fine pixels per HSI pixel.
    asked
        All experts.
    """

    state: Tensor
    outputs: Tensor
    ratio: int
    asked: Sequence[int] = range(len(EXPERTS))

    def rows(self, part: slice, out: Tensor) -> None:
        """Return some rows of the coarse grid."""
        out.copy_(self.outputs[:, :, :, part.start * self.ratio : part.stop * self.ratio])


class _Held:
    """Rows of a tile that are still needed: what experts say of them, and what the gate sees of that.

    Features of a pixel lie side by side, and there is a border of one pixel around what is held.
    """

    def __init__(self, gate: RowGate, asked: AskedExperts, log_strength: Tensor, ratio: int, most_rows: int) -> None:
        self._gate, self._asked, self._ratio = gate, asked, ratio
        self._present = log_strength[0] > PRESENT
        state, made = asked.state, (1 + len(gate.compared)) * (1 + len(EXPERTS))
        rows, cols = most_rows * ratio, state.shape[3]
        self._outputs = state.new_empty((1, len(EXPERTS), state.shape[1], rows, cols))
        # Experts that are not asked say nothing, and nothing is what the gate sees of them.
        kind = torch.bfloat16 if gate.blocks is None and multiplies_half() else torch.float32
        self._features = torch.zeros((rows + 2, cols + 2, made + 2), dtype=kind)
        self._features[..., made] = log_strength.amax()
        self._features[..., made + 1] = self._present.sum() / MOST_COMPONENTS
        self._part = slice(0, 0)

    def move(self, part: slice) -> bool:
        """Go on to other rows of the coarse grid, below; False where there is no kernel."""
        ratio, kept, shift = self._ratio, max(self._part.stop - part.start, 0), part.start - self._part.start
        first, rest = shift * ratio, kept * ratio
        if kept and shift:
            self._outputs[..., :rest, :] = self._outputs[..., first : first + rest, :].clone()
            self._features[1 : rest + 1] = self._features[first + 1 : first + rest + 1].clone()
        self._part = part
        for new in row_parts(part.stop - part.start - kept, ROWS):
            rows = slice(part.start + kept + new.start, part.start + kept + new.stop)
            outputs, fine = self.outputs(rows), slice(rows.start * ratio, rows.stop * ratio)
            self._asked.rows(rows, outputs)
            top = (rows.start - part.start) * ratio + 1
            room = self._features[top : top + outputs.shape[3], 1:-1]
            state = self._asked.state[:, :, fine]
            if not seen_features(state, outputs, self._present, self._gate.compared, self._asked.asked, room):
                return False
        return True

    @property
    def features(self) -> Tensor:
        """What the gate sees of what is held, shape (1, feature, row, col), in channels-last memory."""
        return self._rows[1:-1, 1:-1].permute(2, 0, 1)[None]

    @property
    def bordered(self) -> Tensor:
        """The same with a border of one pixel that repeats its outermost ones."""
        image = self._rows
        image[0], image[-1] = image[1], image[-2]
        image[:, 0], image[:, -1] = image[:, 1], image[:, -2]
        return image.permute(2, 0, 1)[None]

    @property
    def _rows(self) -> Tensor:
        return self._features[: (self._part.stop - self._part.start) * self._ratio + 2]

    def outputs(self, part: slice) -> Tensor:
        """What experts say of rows of the coarse grid that are held."""
        first = self._part.start
        return self._outputs[..., (part.start - first) * self._ratio : (part.stop - first) * self._ratio, :]


def weighed_by_rows(
    gate: RowGate, asked: AskedExperts, log_strength: Tensor, ratio: int, part: TilePart,
    evidence: Tensor | None = None,
) -> Tensor | None:  # fmt: skip
    """Ask experts of a tile and weigh what they say.

    Parameters
    ----------
    gate
        The network.
    asked
        Experts before the part of the tile that is given.
    log_strength, ratio, part, evidence
        As of :meth:`~hsfuse.fusion.methods.ssrfn.network.Gate.forward`.

    Returns
    -------
    torch.Tensor
        The correction of the wanted part, shape (1, component, row, col); None where the kernels do not serve.
    """
    state = asked.state
    # A card must not be asked for numbers in the middle of its work.
    if not may_ask(state) or len(state) > 1:
        return None
    steps, (above, _) = list(_steps(gate, part, ratio)), part.given
    held = _Held(gate, asked, log_strength, ratio, max(near.stop - near.start for near, _ in steps))
    slope, most, corrections = slopes(log_strength)[0], float(gate.config.most), []
    for near, own in steps:
        if not held.move(rows_inside(near, above)):
            return None
        given, wanted = (near, part.given[1]), (own, part.wanted[1])
        rows, cols = finer(inside(wanted, given), ratio)
        if gate.blocks is None:
            found = gate.found_of_bordered(held.bordered)[:, :, rows].contiguous()
        else:
            found = gate.found_by_blocks(gate.blocks, held.features, ratio, TilePart(part.size, given, wanted))
            # Weights of a few columns more are fewer numbers than what experts say of the wanted ones.
            found = F.pad(found, (cols.start, state.shape[3] - cols.stop))
        if evidence is not None:
            below = rows_inside(own, above)
            found = gate.with_change(found, evidence[:, :, below.start * ratio : below.stop * ratio])
        correction = weighed_outputs(found, held.outputs(rows_inside(own, above)), slope, most, asked.asked)
        if correction is None:
            return None
        corrections.append(correction[..., cols])
    return torch.cat(corrections, dim=2)


def _steps(gate: RowGate, part: TilePart, ratio: int) -> Iterator[tuple[slice, slice]]:
    """Rows of the tile that a backbone is given, and those that it is run for, from the top."""
    blocks, (rows, cols) = gate.blocks, part.wanted
    if blocks is None:
        reach, given = -(-gate.reach_px // ratio), part.given[0]
        for own in row_parts(rows.stop - rows.start, _ROWS):
            wanted = slice(rows.start + own.start, rows.start + own.stop)
            near = rows_around(wanted, reach, given.stop)
            yield slice(max(near.start, given.start), near.stop), wanted
        return
    top = rows.start
    while top < rows.stop:
        wanted = slice(top, min((top // blocks.side + 1) * blocks.side, rows.stop))
        yield blocks.needed((wanted, cols), part.size)[0], wanted
        top = wanted.stop


def slopes(log_strength: Tensor) -> Tensor:
    """What weights depend on from component to component: their logarithmic strengths around a middle one."""
    return (log_strength - _MIDDLE_STRENGTH) / _MIDDLE_STRENGTH


def all_of(image: Tensor, ratio: int) -> TilePart:
    """Return the part that is the whole of a tile."""
    size = (image.shape[-2] // ratio, image.shape[-1] // ratio)
    everything = (slice(0, size[0]), slice(0, size[1]))
    return TilePart(size, everything, everything)


def wanted_of(image: Tensor, ratio: int, part: TilePart) -> Tensor:
    """Return the wanted part of what is given of a tile."""
    if part.wanted == part.given:
        return image
    return image[..., *finer(inside(part.wanted, part.given), ratio)].contiguous()
