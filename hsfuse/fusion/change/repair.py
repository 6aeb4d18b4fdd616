"""The repaired guide: where the MSI shows other ground or other light than the HSI, it is brought to what the HSI says.

1. A robust relation of both images with a smooth gain and offset takes out haze and calibration; cast shadows that
   share one light are brought out of it (:mod:`hsfuse.fusion.change.shadows`); a local affine correction, chosen by
   leave-one-out errors, takes out seasons (:mod:`hsfuse.fusion.change.evidence`).
2. Matting finds which share of each fine pixel is foreign (:mod:`hsfuse.fusion.change.matting`), and a gain is found
   that turns the guide's light into the HSI's there (shadows: the detail belongs to the ground, its light does not).
3. A convolutional network decides what becomes of each fine pixel: the guide, the guide in other light, or what the HSI
   says (:mod:`hsfuse.fusion.change.decision`).

The coarse steps see the whole scene; the fine ones run in blocks of fixed size with context, so memory is bounded and
nothing depends on how a fusion cuts its tiles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hsfuse.allocator import release_freed_memory
from hsfuse.degrade import windows
from hsfuse.fusion.change.blocks import BLOCK_PX, places_around, write_blocks
from hsfuse.fusion.change.decision import DecisionData, decide
from hsfuse.fusion.change.evidence import Evidence, gather_evidence
from hsfuse.fusion.change.illumination import CommonLight, common_light
from hsfuse.fusion.change.matting import NEAR_PX, MattingData, foreign_share, grown, neighbour_contrast
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.neighbours import over_neighbours
from hsfuse.fusion.scene_model.pair import CoarsePair
from hsfuse.masks import expand
from hsfuse.parallel import side_by_side

FloatArray = NDArray[np.float64]
FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

TOO_MUCH = 0.4
"""Share of changed ground above which the guide is not trusted at all; ground brought out of cast shadows is known."""
UNRELATED = 0.25
"""Share of the guide's variance that the HSI does not explain above which both images show different places: pairs with
a third of other ground stay below 0.1, because that ground carries no weight."""
FOREIGN = 0.5
"""Change from which a pixel counts as changed ground."""
_LEAST_BLIND_SHARE = 0.005
"""Without the MSI's responses, less change than this cannot be told from rare materials, and the guide stays."""
_SHARP_FROM, _SHARP_OVER = 0.38, 0.34
_GAIN_WIDTH_PX = 1.2
_BACK_PROJECTION = 0.5
_LIGHT_WIDTH_PX = 0.7
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
        How far the guide was not left as it is, 0 to 1, shape (row, col).
    own_detail
        Of the change: how far the guide's detail was kept (a local gain) rather than replaced, shape (row, col).
    evidence
        At low resolution.
    foreign
        Probability of foreign ground or light near the candidates, 0 elsewhere, shape (row, col).
    share
        Share of the valid ground that changed.
    unlit_share
        The same without what was brought out of cast shadows.
    here, elsewhere
        Whether the images were found to show one place beyond doubt, and different ones.
    """

    msi: FloatCube
    change: FloatCube
    own_detail: FloatCube
    evidence: Evidence
    foreign: FloatCube
    share: float
    unlit_share: float
    here: bool = False
    elsewhere: bool = False

    @property
    def trusted(self) -> bool:
        """Whether enough of the ground is unchanged for the guide to be used."""
        related = self.here or self.evidence.unexplained <= UNRELATED
        return related and not self.elsewhere and self.unlit_share <= TOO_MUCH

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the report."""
        relation, shadows = self.evidence.relation, self.evidence.shadows
        return {
            "changed_share": round(self.share, 4),
            "guide_unexplained": round(self.evidence.unexplained, 4),
            "trusted": self.trusted,
            "another_place": self.elsewhere,
            "local_corrections": self.evidence.corrections,
            "displacement_px": round(self.evidence.contradiction.displacement_px, 3),
            "gain_range": [round(float(v), 3) for v in np.quantile(relation.gain, [0.02, 0.98])],
            "offset_range": [round(float(v), 4) for v in np.quantile(relation.offset, [0.02, 0.98])],
            "shadow_light": None if shadows is None else [round(float(v), 3) for v in shadows.light.gain],
            "kept_detail_share": round(float((self.own_detail * self.change).sum() / max(self.change.sum(), 1e-9)), 3),
        }


def repair_guide(
    pair: CoarsePair, msi: FloatCube, response: Response, *, correct: bool = True, threads: int = 1,
    overwrite: bool = False,
) -> RepairedGuide:  # fmt: skip
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
    threads
        How many work side by side.
    overwrite
        Whether the result may take the place of ``msi``.
    """
    evidence, corrected = gather_evidence(
        pair, msi, response, correct=correct, threads=threads, overwrite=overwrite
    )  # fmt: skip
    # Of the relations that went before; the blocks need some of their own.
    release_freed_memory()
    foreign, change, own = np.zeros((3, *msi.shape[1:]), np.float32)
    shadow = None if evidence.shadows is None else evidence.shadows.share
    if shadow is not None:
        foreign[:], change[:], own[:] = shadow, shadow, shadow > 0
    candidates = evidence.contradiction.candidates
    # Without responses it may have to stay as it is after all.
    apart = pair.predicted is None or (corrected is msi and not overwrite)
    repaired = corrected.copy() if apart and candidates.any() else corrected
    if candidates.any():
        contrast = float(np.median(neighbour_contrast(corrected[:, ::7], evidence.contradiction.power)))
        light = common_light(evidence.relation.seen, evidence.blurred, evidence.contradiction)

        def one(place: tuple[tuple[slice, slice], tuple[slice, slice]]) -> tuple[tuple[slice, slice], _Block]:
            read, core = place
            fine_read, fine_core = windows.finer(read, response.ratio), windows.finer(core, response.ratio)
            guide = corrected[:, *fine_read].astype(np.float64)
            found = _repair_block(evidence, guide, read, response, contrast, light)
            return fine_core, found.cut(windows.inside(fine_core, fine_read))

        def guides() -> Iterator[tuple[tuple[slice, slice], FloatCube]]:
            for where, block in side_by_side(one, places_around(candidates), threads):
                guide = block.guide
                if shadow is not None:
                    block = block.beside(shadow[where])
                foreign[where], change[where], own[where] = block.foreign, block.change, block.own
                yield where, guide

        write_blocks(repaired, guides(), BLOCK_PX * response.ratio)
    valid = expand(pair.valid, response.ratio)
    foreign_ground = (change > FOREIGN) & valid
    changed = _share(foreign_ground, valid)
    if pair.predicted is None and changed < _LEAST_BLIND_SHARE:
        # Told by the matting's share, not acted upon; shadows are sure.
        repaired, changed = corrected, 0.0
        change[:] = 0.0 if shadow is None else shadow
        own[:] = change > 0
    unlit = changed if shadow is None or not changed else _share(foreign_ground & (shadow <= FOREIGN), valid)
    return RepairedGuide(repaired, change, own, evidence, foreign, changed, unlit)


def _share(ground: BoolArray, valid: BoolArray) -> float:
    return float(np.count_nonzero(ground)) / max(int(np.count_nonzero(valid)), 1)


@dataclass(frozen=True)
class _Block:
    """As in :class:`RepairedGuide`."""

    guide: FloatCube
    foreign: FloatCube
    change: FloatCube
    own: FloatCube

    def beside(self, shadow: FloatCube) -> _Block:
        """Tell with it the pixels that were brought out of a shadow before."""
        own = np.where(shadow > self.change, np.float32(1.0), self.own)
        return _Block(self.guide, np.maximum(self.foreign, shadow), np.maximum(self.change, shadow), own)

    def cut(self, inside: tuple[slice, slice]) -> _Block:
        """Return a copy of a part of the block."""
        return _Block(
            self.guide[:, *inside].copy(), self.foreign[inside].copy(), self.change[inside].copy(),
            self.own[inside].copy(),
        )  # fmt: skip


def _repair_block(
    evidence: Evidence,
    guide: FloatArray,
    where: tuple[slice, slice],
    response: Response,
    contrast: float,
    light: CommonLight | None,
) -> _Block:
    data = decision_data(evidence, guide, where, response, contrast, light)
    candidates = evidence.contradiction.candidates[where]
    decision = decide(data, grown(candidates, NEAR_PX), response)
    repaired = decision.blend(guide, data.lit, data.expected)
    near = gaussian_filter(grown(candidates, 1).astype(np.float64), 0.7, mode="constant")
    repaired -= _BACK_PROJECTION * response.up((response.down(repaired) - data.seen) * near)
    return _Block(
        *(part.astype(np.float32) for part in (repaired, decision.probability, decision.change, decision.own_detail))
    )


def decision_data(
    evidence: Evidence,
    guide: FloatArray,
    where: tuple[slice, slice],
    response: Response,
    contrast: float,
    light: CommonLight | None,
) -> DecisionData:
    """Collect what the decision about a block follows from: the matting, and the gain inside of what it found.

    Parameters
    ----------
    evidence
        Of the whole scene.
    guide
        Corrected guide of the block, shape (msi band, row, col).
    where
        Coarse pixels of the block.
    response
        The HSI's response.
    contrast
        See :class:`~hsfuse.fusion.change.matting.MattingData`.
    light
        Of the whole scene.
    """
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
    shaded = np.zeros(share.shape)
    if light is not None:
        near = gaussian_filter(grown(light.agreeing[where], 1).astype(np.float64), _LIGHT_WIDTH_PX, mode="nearest")
        shaded = np.clip(response.up(near[None])[0], 0.0, 1.0)

    def lightened(gain: FloatArray) -> FloatArray:
        common = gain if light is None else light.gain[:, None, None]
        return np.asarray(guide * (shaded * common + (1.0 - shaded) * gain))

    belongs = np.maximum(belongs, shaded)
    if shaded.any() or float((belongs * change).sum()) > _SOME_DETAIL * float(change.sum()):
        # Ground whose detail belongs there (a shadow) is known better than by what the HSI says: its edge too.
        known = belongs * lightened(gain) + (1.0 - belongs) * expected
        share = foreign_share(replace(data, expected=known), response)
        change, gain, belongs = _judged(share, seen, blurred, power, response)
        belongs = np.maximum(belongs, shaded)
    lit = lightened(gain)
    inside = belongs * lit + (1.0 - belongs) * expected
    repaired = guide * (1.0 - change) + inside * change
    return DecisionData(
        guide, lit, expected, share, belongs, seen, seen - response.down(repaired),
        data.variance, data.distance, evidence.contradiction.rivalry[where], power, contrast,
    )  # fmt: skip


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
    least = min(1e-12, 1e-10 * float((blurred**2).max()))
    others = np.maximum(lower - own * weight * blurred**2, least)
    left_out = seen - (upper - own * weight * seen * blurred) / others * blurred
    norm = window(weight)
    scale = power[:, None, None]
    by_gain, by_neighbours = (
        window(weight * (error**2 / scale).mean(axis=0)) / norm for error in (left_out, over_neighbours(seen))
    )
    better = np.clip(1.0 - 0.5 * by_gain / (by_neighbours + 1e-9), 0.0, 1.0)
    belongs = np.clip(response.up((better * (norm - own * weight > 0.12))[None])[0], 0.0, 1.0)
    return response.up(upper / np.maximum(lower, least)), belongs
