"""A scene read once in strips, for what changed in it to be found: a few images on the HSI's grid, and the guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from hsfuse.degrade import windows
from hsfuse.degrade.psf_estimation import highpass
from hsfuse.degrade.whole_offset import PlaceMisfit, place_misfit
from hsfuse.errors import InputError
from hsfuse.fusion.base import FusionContext
from hsfuse.fusion.change.confidence import CoarseTraits
from hsfuse.fusion.classical.statistics import MIN_PIXELS, Subspace, gather, signal_subspace
from hsfuse.fusion.diagnostics import Calibration
from hsfuse.fusion.scene_model.alignment import robust_alignment
from hsfuse.fusion.scene_model.model import MAX_RANK
from hsfuse.fusion.scene_model.pair import CoarsePair
from hsfuse.grid import Slice2D
from hsfuse.inference.scene import FusionScene
from hsfuse.inference.scene_strips import RawStrip
from hsfuse.parallel import one_ahead

FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_NO_VARIANCE = 1e-12
"""Share of the mean square that rounding leaves of equal spectra."""
_EMPTY = "Leave out what is empty, or use --quality plain, which does not compare both images."
_SMALL_PIXELS, _PLACE_BANDS, _ABOVE_NOISE = 16_000, 24, 3.0
"""HSI pixels of a small scene; bands that are looked at, and the variance of fine structure over the noise's from which
a band tells whether both images show one place."""
_NOTHING, _HARDLY_ANY, _SOME_UNEXPLAINED, _MUCH = -0.2, -0.35, 0.05, -1.0
"""Log of the share of the HSI's fine structure that the guide leaves, from which on both show different places where
none explains more, and from which on whatever others do; the share of the guide's variance that the relation must leave
then; and the log below which both show one place for sure. Pairs of tuning cubes stand at -0.3 to -4.6, other places at
0 to -0.3; in the relation they leave 0.00 to 0.05, other places 0.08 to 0.9. Parcels on much of a few pixels, and
single bands, stand at -0.02 to -0.2, but leave 0.03 at most; strong haze leaves 0.26 and stands at -2.4."""
_STRIP_PX = 64
"""HSI rows that are read at a time."""
_ALIGN_PX = 160
"""Side of the window that blur and shift are searched in, HSI pixels."""


@dataclass(frozen=True)
class Survey:
    """The whole scene as it was read once.

    Attributes
    ----------
    pair, traits
        At low resolution.
    msi
        The guide without gaps, shape (msi band, row, col) on the fine grid.
    gaps
        Where it has gaps, shape (row, col).
    valid
        HSI pixels that are measured in both images with all that their blur looks at, shape (row, col).
    space
        Signal subspace of the HSI.
    seen
        Fine pixels that may carry a result, shape (row, col).
    """

    pair: CoarsePair
    traits: CoarseTraits
    msi: FloatCube
    gaps: BoolArray
    valid: BoolArray
    space: Subspace
    seen: BoolArray


def survey_scene(scene: FusionScene, context: FusionContext) -> Survey:
    """Read a scene once, strip by strip.

    Raises
    ------
    OverlapError
        No pixel is valid in both images.
    InputError
        The HSI, or a band of the guide, shows nothing.
    """
    statistics = gather(scene.low_resolution_strips())
    space = signal_subspace(statistics, max_rank=MAX_RANK)
    forward, mean = space.forward.astype(np.float32), space.mean.astype(np.float32)[:, None, None]
    height, width, ratio = *scene.grid.shape, scene.ratio
    components = np.zeros((space.rank, height, width), np.float32)
    srf = None if context.srf is None else context.srf.astype(np.float32)
    bands = len(scene.msi.band_names)
    predicted = None if srf is None else np.zeros((bands, height, width), np.float32)
    rough, bright = np.zeros((2, height, width), np.float32)
    msi = np.empty((bands, height * ratio, width * ratio), np.float32)
    gaps, seen = np.ones(msi.shape[1:], bool), np.zeros(msi.shape[1:], bool)
    valid = np.zeros((height, width), bool)
    strips = [Slice2D(top, min(top + _STRIP_PX, height), 0, width) for top in range(0, height, _STRIP_PX)]

    def look(raw: RawStrip) -> tuple[float, int]:
        """Keep what is needed of a strip; sum of its squares off the mean, and how many these are."""
        rows = raw.rows
        fine = rows.scaled(ratio).slices
        gaps[fine] = np.isnan(raw.msi).any(axis=0)
        strip = scene.complete(raw)
        part = strip.valid.reshape(rows.shape[0], ratio, width, ratio).all(axis=(1, 3))
        centred = strip.hsi - mean
        components[:, rows.slices[0]] = np.tensordot(forward, centred, axes=1)
        if predicted is not None and srf is not None:
            predicted[:, rows.slices[0]] = np.tensordot(srf, strip.hsi, axes=1)
        traits = CoarseTraits.of(strip.hsi)
        rough[rows.slices], bright[rows.slices] = traits.roughness, traits.brightness
        msi[:, *fine], seen[fine] = strip.msi, strip.valid
        valid[rows.slices] = part
        # In double precision from the sum over the bands on.
        energy = np.einsum("brc,brc->rc", centred, centred)[part].astype(np.float64)
        return float(energy.sum()), energy.size * len(forward[0])

    square, count = 0.0, 0
    # One thread reads, and one looks at what was read before.
    for own, number in one_ahead(look, one_ahead(scene.read_raw, strips)):
        square, count = square + own, count + number
    _refuse_flat(scene.msi.band_names, msi, seen)
    if count and square <= _NO_VARIANCE * count * float((space.mean**2).mean()):
        raise InputError("The hyperspectral image shows nothing: one spectrum on all of the ground.", hint=_EMPTY)
    level = square / max(count, 1) * (space.forward @ space.forward.T)
    # The blur of a pixel beside a gap looks at what was filled in there; where gaps are everywhere that has to do.
    measured = valid
    whole = np.asarray(binary_erosion(valid, np.ones((3, 3), bool), border_value=1), dtype=np.bool_)
    valid = whole if whole.sum() >= MIN_PIXELS else measured
    return Survey(
        CoarsePair(components, predicted, level, valid, measured & ~valid),
        CoarseTraits(rough, bright),
        msi,
        gaps,
        valid,
        space,
        seen,
    )


def _refuse_flat(names: Sequence[str], msi: FloatCube, seen: BoolArray) -> None:
    """Raise where bands hold one number throughout: everything else would be taken for changed ground."""
    flat = [
        f"{name} ({band[seen][0]:g})"
        for name, band in zip(names, msi, strict=True)
        if np.min(band, where=seen, initial=np.inf) == np.max(band, where=seen, initial=-np.inf)
    ]
    if flat:
        which = "band" if len(flat) == 1 else "bands"
        raise InputError(
            f"The multispectral image shows nothing in the {which} {', '.join(flat)}: one number on all of the ground.",
            hint=_EMPTY,
        )


def misfit_of_place(survey: Survey, ratio: int) -> PlaceMisfit | None:
    """How well a small scene's images go together in their fine structure; None where that cannot be told.

    A relation of many components explains few pixels even of another place.
    """
    valid = survey.pair.valid
    if int(valid.sum()) > _SMALL_PIXELS:
        return None
    space = survey.space
    chosen = np.unique(np.linspace(0, len(space.back) - 1, _PLACE_BANDS).round().astype(int))
    bands = np.tensordot(space.back[chosen], survey.pair.components, axes=1) + space.mean[chosen, None, None]
    told = highpass(bands)[:, valid].var(axis=1) > _ABOVE_NOISE * space.noise[chosen] ** 2
    if not told.any():
        return None
    found = place_misfit((bands[told], survey.msi, valid), ratio)
    return found if np.isfinite(found.here) else None


def show_another_place(misfit: PlaceMisfit, unexplained: float) -> bool:
    """Whether both images have nothing in common; ``unexplained`` is the guide's share that the relation leaves."""
    # Changed ground, or one band of the guide, leaves the fine structure unexplained, but not the robust relation.
    return unexplained > _SOME_UNEXPLAINED and misfit.here > min(_NOTHING, max(misfit.elsewhere, _HARDLY_ANY))


def show_this_place(misfit: PlaceMisfit) -> bool:
    """Whether the fine structure of both images is the same beyond doubt, however little else is."""
    return misfit.here < _MUCH


def align_survey(survey: Survey, context: FusionContext) -> Calibration | None:
    """Search blur and shift in the window with the most valid pixels."""
    valid = survey.pair.valid
    height, width = valid.shape
    corners = [(row, col) for row in _starts(height) for col in _starts(width)]

    def window(corner: tuple[int, int]) -> tuple[slice, slice]:
        return slice(corner[0], corner[0] + _ALIGN_PX), slice(corner[1], corner[1] + _ALIGN_PX)

    where = window(max(corners, key=lambda corner: int(valid[window(corner)].sum())))
    predicted = survey.pair.predicted
    part = CoarsePair(
        survey.pair.components[:, *where], None if predicted is None else predicted[:, *where], survey.pair.level,
        valid[where],
    )  # fmt: skip
    return robust_alignment(part, survey.msi[:, *windows.finer(where, context.ratio)], context.ratio, context.psf)


def _starts(size: int) -> list[int]:
    return sorted({max(size - _ALIGN_PX, 0), *range(0, max(size - _ALIGN_PX, 1), _ALIGN_PX)})
