"""The repaired guide: where the MSI shows other ground or other light than the HSI, it is brought to what the HSI says.

1. A robust relation of both images with a smooth gain and offset takes out haze and calibration; a local affine
   correction, chosen by leave-one-out errors, takes out seasons (:mod:`hsfuse.fusion.change.evidence`).
2. Matting finds which share of each fine pixel is foreign (:mod:`hsfuse.fusion.change.matting`).
3. There the guide is multiplied by a local gain where that predicts the HSI better than its neighbours do (shadows: the
   detail belongs to the ground, its light does not), and replaced by what the HSI says elsewhere.

The coarse steps see the whole scene; the fine ones run in blocks of fixed size with context, so memory is bounded and
nothing depends on how a fusion cuts its tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from hsfuse.fusion.change.evidence import Evidence, gather_evidence
from hsfuse.fusion.change.matting import MattingData, foreign_share, neighbour_contrast
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.scene_model.contradiction import neighbour_mean
from hsfuse.fusion.scene_model.relation import CoarsePair

FloatArray = NDArray[np.float64]
FloatCube = NDArray[np.float32]

TOO_MUCH = 0.4
"""Share of changed ground above which the guide is not trusted at all."""
UNRELATED = 0.25
"""Share of the guide's variance that the HSI does not explain above which both images show different places: pairs with
a third of other ground stay below 0.1, because that ground carries no weight."""
FOREIGN = 0.5
"""Change from which a pixel counts as changed ground."""
_LEAST_BLIND_SHARE = 0.005
"""Without the MSI's responses, less change than this cannot be told from rare materials, and the guide stays."""
_SHARP_FROM, _SHARP_OVER = 0.38, 0.34
_BLOCK_PX, _CONTEXT_PX = 96, 16
_GAIN_WIDTH_PX = 1.2
_BACK_PROJECTION = 0.5
_LEFT_OVER, _DOUBT_FROM, _DOUBT_OVER = 20.0, 0.2, 0.2
"""Squared contradiction that is left after the repair, in units of its variance, from which less of a foreign share is
enough; and from which share on, over which range."""
_SOME_DETAIL = 0.1
"""Share of a block's change whose detail must belong to the ground for its edges to be looked for once more."""


@dataclass(frozen=True)
class RepairedGuide:
    """Result.

    Attributes
    ----------
    msi
        The guide that the fusion should use, shape (msi band, row, col); that which came where nothing was repaired.
    change
        Share of foreign ground, 0 to 1, shape (row, col).
    own_detail
        Of the change: how far the guide's detail was kept (a local gain) rather than replaced, shape (row, col).
    evidence
        At low resolution.
    foreign
        What the matting found: share of foreign ground before it was sharpened, shape (row, col).
    share
        Share of the valid ground that changed.
    """

    msi: FloatCube
    change: FloatCube
    own_detail: FloatCube
    evidence: Evidence
    foreign: FloatCube
    share: float

    @property
    def trusted(self) -> bool:
        """Whether enough of the ground is unchanged for the guide to be used."""
        return self.share <= TOO_MUCH and self.evidence.unexplained <= UNRELATED

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the report."""
        relation = self.evidence.relation
        return {
            "changed_share": round(self.share, 4),
            "guide_unexplained": round(self.evidence.unexplained, 4),
            "trusted": self.trusted,
            "local_corrections": self.evidence.corrections,
            "displacement_px": round(self.evidence.contradiction.displacement_px, 3),
            "gain_range": [round(float(v), 3) for v in np.quantile(relation.gain, [0.02, 0.98])],
            "offset_range": [round(float(v), 4) for v in np.quantile(relation.offset, [0.02, 0.98])],
            "kept_detail_share": round(float((self.own_detail * self.change).sum() / max(self.change.sum(), 1e-9)), 3),
        }


def repair_guide(pair: CoarsePair, msi: FloatCube, response: Response, *, correct: bool = True) -> RepairedGuide:
    """Find what differs between both images, and repair the guide.

    Parameters
    ----------
    pair
        The HSI at low resolution.
    msi
        The guide, shape (msi band, row * ratio, col * ratio), free of NaN.
    response
        The HSI's response to it.
    correct
        Take smooth differences (haze, calibration, season) out of the guide.
    """
    evidence, corrected = gather_evidence(pair, msi, response, correct=correct)
    foreign, change, own = np.zeros((3, *msi.shape[1:]), np.float32)
    candidates = evidence.contradiction.candidates
    parts: list[tuple[tuple[slice, slice], FloatCube]] = []
    if candidates.any():
        contrast = float(np.median(neighbour_contrast(corrected[:, ::7], evidence.contradiction.power)))
        for read, core in blocks(pair.valid.shape):
            if not candidates[read].any():
                continue
            fine_read, fine_core = fine_block(read, response.ratio), fine_block(core, response.ratio)
            inner = tuple(slice(c.start - r.start, c.stop - r.start) for c, r in zip(fine_core, fine_read, strict=True))
            block = _repair_block(evidence, corrected[:, *fine_read].astype(np.float64), read, response, contrast)
            parts.append((fine_core, block.guide[:, *inner].astype(np.float32)))
            foreign[fine_core] = block.foreign[inner]
            change[fine_core], own[fine_core] = block.change[inner], block.own[inner]
    valid = np.repeat(np.repeat(pair.valid, response.ratio, 0), response.ratio, 1)
    changed = float((change[valid] > FOREIGN).mean()) if valid.any() else 0.0
    if pair.predicted is None and changed < _LEAST_BLIND_SHARE:
        # Told by the matting's share, not acted upon.
        parts, changed = [], 0.0
        change[:], own[:] = 0.0, 0.0
    repaired = corrected if corrected is not msi or not parts else msi.copy()
    # Only now: every block looks at its neighbours as they were.
    for place, pixels in parts:
        repaired[:, *place] = pixels
    return RepairedGuide(repaired, change, own, evidence, foreign, changed)


@dataclass(frozen=True)
class _Block:
    guide: FloatArray
    foreign: FloatArray
    change: FloatArray
    own: FloatArray


def _repair_block(
    evidence: Evidence, guide: FloatArray, where: tuple[slice, slice], response: Response, contrast: float
) -> _Block:
    seen, relation = evidence.relation.seen[:, *where], evidence.relation
    blurred = evidence.blurred[:, *where]
    candidates, power = evidence.contradiction.candidates[where], evidence.contradiction.power
    interpolated = response.up(seen)
    expected = interpolated + response.up(seen - response.down(interpolated))
    data = MattingData(
        guide, expected, seen, blurred, relation.variance[:, *where], relation.distance[where], candidates,
        power, contrast,
    )  # fmt: skip
    share = foreign_share(data, response)
    change, gain, belongs = _judged(share, seen, blurred, power, response)
    if float((belongs * change).sum()) > _SOME_DETAIL * float(change.sum()):
        # Ground whose detail belongs there (a shadow) is known better than by what the HSI says: its edge too.
        lit = belongs * gain * guide + (1.0 - belongs) * expected
        share = foreign_share(replace(data, expected=lit), response)
        change, gain, belongs = _judged(share, seen, blurred, power, response)
    own = belongs * (change > 0)
    inside = belongs * gain * guide + (1.0 - belongs) * expected
    repaired = guide * (1.0 - change) + inside * change
    # What still contradicts the HSI is foreign where the matting suspected as much, only less surely.
    left = ((response.down(repaired) - seen) ** 2 / relation.variance[:, *where]).mean(axis=0)
    doubted = binary_dilation(candidates, np.ones((3, 3), bool)) & (left > _LEFT_OVER)
    doubt = np.repeat(np.repeat(doubted, response.ratio, 0), response.ratio, 1).astype(np.float64)
    doubt = np.maximum(gaussian_filter(doubt, 0.8), doubt)
    doubt *= np.clip((share - _DOUBT_FROM) / _DOUBT_OVER, 0.0, 1.0) * (1.0 - belongs)
    repaired = repaired * (1.0 - doubt) + expected * doubt
    change, own = np.maximum(change, doubt), own * (1.0 - doubt)
    near = gaussian_filter(binary_dilation(candidates, np.ones((3, 3), bool)).astype(np.float64), 0.7, mode="constant")
    repaired -= _BACK_PROJECTION * response.up((response.down(repaired) - seen) * near)
    return _Block(repaired, share, change, own)


def _judged(
    share: FloatArray, seen: FloatArray, blurred: FloatArray, power: FloatArray, response: Response
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Sharpen a share of foreign ground; gain of the guide there, and how far its detail belongs to the ground."""
    change = np.asarray(np.clip((share - _SHARP_FROM) / _SHARP_OVER, 0.0, 1.0))
    gain, belongs = _detail_gain(seen, blurred, response.down(change[None])[0], power, response)
    return change, gain, belongs


def _detail_gain(
    seen: FloatArray, blurred: FloatArray, covered: FloatArray, power: FloatArray, response: Response
) -> tuple[FloatArray, FloatArray]:
    """Local gain of the guide inside the change, and how far its detail belongs to the ground: both on the fine grid.

    The gain is that of the covered neighbourhood. It is trusted as far as it predicts the HSI, leave-one-out, better
    than the four neighbours do.
    """
    weight = np.clip((covered - 0.6) / 0.35, 0.0, 1.0) + 1e-6
    impulse = np.zeros((51, 51))
    impulse[25, 25] = 1.0
    own = float(gaussian_filter(impulse, _GAIN_WIDTH_PX)[25, 25])

    def window(x: FloatArray) -> FloatArray:
        return np.asarray(gaussian_filter(x, (0,) * (x.ndim - 2) + (_GAIN_WIDTH_PX,) * 2, mode="constant"))

    upper, lower = window(weight * seen * blurred), window(weight * blurred**2)
    others = np.maximum(lower - own * weight * blurred**2, 1e-12)
    left_out = seen - (upper - own * weight * seen * blurred) / others * blurred
    norm = window(weight)
    scale = power[:, None, None]
    by_gain, by_neighbours = (
        window(weight * (error**2 / scale).mean(axis=0)) / norm for error in (left_out, seen - neighbour_mean(seen))
    )
    better = np.clip(1.0 - 0.5 * by_gain / (by_neighbours + 1e-9), 0.0, 1.0)
    belongs = np.clip(response.up((better * (norm - own * weight > 0.12))[None])[0], 0.0, 1.0)
    return response.up(upper / np.maximum(lower, 1e-12)), belongs


def blocks(shape: tuple[int, int]) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Blocks of the coarse grid with context, and without: fixed, whatever a fusion's tiles are."""
    for top in range(0, shape[0], _BLOCK_PX):
        for left in range(0, shape[1], _BLOCK_PX):
            core = tuple(
                slice(start, min(start + _BLOCK_PX, size)) for start, size in zip((top, left), shape, strict=True)
            )
            read = tuple(
                slice(max(part.start - _CONTEXT_PX, 0), min(part.stop + _CONTEXT_PX, size))
                for part, size in zip(core, shape, strict=True)
            )
            yield (read[0], read[1]), (core[0], core[1])


def fine_block(block: tuple[slice, slice], ratio: int) -> tuple[slice, slice]:
    """Return the fine pixels of a block of coarse ones."""
    rows, cols = block
    return slice(rows.start * ratio, rows.stop * ratio), slice(cols.start * ratio, cols.stop * ratio)
