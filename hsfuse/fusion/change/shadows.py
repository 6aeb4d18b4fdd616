"""Cast shadows of the guide: one light by band for a scene, and which fine pixels lack it.

A shadow keeps the ground's detail, so a guide in the right light is worth far more there than what the HSI says. The
light and the labels of all pixels (:mod:`hsfuse.fusion.change.shadow_labels`) are found in turn, from the ratios that
some dark candidates show by themselves. Shadows are believed in place by place, where they explain the contradiction
down to what other ground shows: other ground that is dark does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from hsfuse.degrade import windows
from hsfuse.degrade.windows import Window
from hsfuse.fusion.change.blocks import places_around
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.change.shadow_labels import Light, ShadowLabels
from hsfuse.fusion.scene_model.contradiction import Contradiction
from hsfuse.fusion.scene_model.pair import GuideRelation
from hsfuse.masks import expand
from hsfuse.parallel import side_by_side

FloatArray = NDArray[np.float64]
FloatCube = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

_DARKER, _MOST_COLOUR = 0.1, 0.6
"""Logs of the light in every band, at least, and of its ratio in two bands, at most: what else is darker is other
ground."""
_QUANTILES, _BESIDE = (0.5, 0.7, 0.85, 0.97), 0.05
"""Of the candidates' own ratios, by which lights are guessed: pixels that are covered in part have any smaller one."""
_LEAST_CANDIDATES = 2
_CELL_PX, _CELL_CONTEXT_PX, _MOST_CELLS = 24, 8, 3
"""Parts of the scene that tell the light, HSI pixels: those with most dark candidates."""
_GONE_ON, _ROUNDS, _ANNEALING, _LAST_ANNEALING = 2, 2, 24, 48
"""Guesses that are gone on with, and how often; steps of the annealing there, and where shadows are told."""
_SOFTNESS_PX = (0.45, 0.65, 0.95)
"""Blur of an edge that is tried beside none, standard deviation in fine pixels."""
_SHARP_STEP = 0.86
"""Step of the guide across a border, as a share of the light's, below which the border is no sharp one: half way from 1
to the 0.72 of one that is blurred by 0.45 pixels. Sharp ones of drawn pairs stand at 0.8 to 1.3, 0.98 in the middle,
those of an MSI with a blur of its own at 0.57 to 0.81; the HSI alone hardly tells such a blur, only how far it goes."""
_PLAUSIBLE = 0.25
"""Share of the touched pixels that sharp shadows must explain for others to be tried."""
_LEAST_LIGHT, _MOST_LIGHT = 1.1, 6.0
_CONTRADICTED, _EXPLAINED = 20.0, 4.0
"""Misfit of a pixel without the shadow, at least, and with it, at most: other ground stands at 0.3, a tenth of it above
1. Parcels that are taken for a shadow stand at 5 and more."""
_TOUCHED = 0.02
"""Coverage from which a shadow must explain a pixel."""
_LEAST_SHADE = 0.01
_JUDGED_PX = 8
"""HSI pixels around a part of the scene that tell whether its shadows explain what they touch."""
_LEAST_PIXELS, _LEAST_SHARE = 3, 0.85
"""Pixels that the light must explain, and their share of all that a shadow touches."""


@dataclass(frozen=True)
class Shadows:
    """Result.

    Attributes
    ----------
    light
        What the shadows lack.
    share
        How far each pixel lies in shadow, 0 to 1, shape (row, col) on the fine grid.
    """

    light: Light
    share: FloatCube

    def lit(self, guide: FloatCube) -> None:
        """Bring a guide (msi band, row, col) to the light around its shadows, in place."""
        places = np.flatnonzero(self.share)
        factors = self.light.factor(self.share.ravel()[places].astype(np.float64))
        for image, factor in zip(guide, factors.T, strict=True):
            image.ravel()[places] *= factor.astype(np.float32)


def find_shadows(
    guide: FloatCube, blurred: FloatArray, relation: GuideRelation, contradiction: Contradiction, response: Response,
    threads: int = 1,
) -> Shadows | None:  # fmt: skip
    """Look for shadows among the candidates; None where there are none.

    Parameters
    ----------
    guide, blurred
        The guide and the same at low resolution, shape (msi band, row, col).
    relation, contradiction
        Of both images.
    response
        The HSI's response.
    threads
        How many work side by side.
    """
    ratios, dark = _own_ratios(relation.seen, blurred, contradiction.candidates)
    if np.count_nonzero(dark) < _LEAST_CANDIDATES:
        return None

    def labels_of(place: Window) -> ShadowLabels:
        return ShadowLabels(
            guide[:, *windows.finer(place, response.ratio)].astype(np.float64), relation.seen[:, *place],
            blurred[:, *place], relation.variance[:, *place], contradiction.candidates[place], contradiction.power,
            response,
        )  # fmt: skip

    samples = list(side_by_side(labels_of, _cells(dark), threads))
    light = _common_light(samples, list(_guesses(ratios[:, dark])), threads)
    if light is None:
        return None
    share = np.zeros(guide.shape[1:], np.float32)

    def one(place: tuple[Window, Window]) -> tuple[Window, FloatArray]:
        read, core = place
        part, whole = windows.finer(core, response.ratio), windows.finer(read, response.ratio)
        # The blur does not know what lies beyond the edge of what is read.
        judged = np.zeros(contradiction.candidates[read].shape, bool)
        judged[windows.inside(windows.grown(core, _JUDGED_PX, blurred.shape[1:]), read)] = True
        found = _believed(labels_of(read), light, judged, response.ratio)
        return part, found[windows.inside(part, whole)]

    for where, found in side_by_side(one, places_around(contradiction.candidates), threads):
        share[where] = found
    return Shadows(light, share) if share.any() else None


def _own_ratios(seen: FloatArray, blurred: FloatArray, candidates: BoolArray) -> tuple[FloatArray, BoolArray]:
    """Log of the ratio that each pixel shows, shape (msi band, row, col), and which may be light that is missing."""
    ratios = np.log(np.maximum(seen, 1e-6) / np.maximum(blurred, 1e-6))
    colour = ratios.max(axis=0) - ratios.min(axis=0)
    return ratios, np.asarray(candidates & (ratios > _DARKER).all(axis=0) & (colour < _MOST_COLOUR))


def _guesses(ratios: FloatArray) -> Iterator[FloatArray]:
    """Lights that some candidates have in common, from their own ratios, shape (msi band, pixel)."""
    ordered = ratios[:, np.argsort(ratios.mean(axis=0))]
    count = ordered.shape[1]
    beside = max(int(_BESIDE * count), 1)
    for quantile in _QUANTILES:
        middle = round(quantile * (count - 1))
        yield np.exp(np.median(ordered[:, max(middle - beside, 0) : middle + beside + 1], axis=1))


def _cells(dark: BoolArray) -> Iterator[Window]:
    """Parts of the scene with the most dark candidates, with context; what lies in one counts no more for others."""
    shape, left = (dark.shape[0], dark.shape[1]), dark.copy()
    cells = [
        (slice(top, min(top + _CELL_PX, shape[0])), slice(first, min(first + _CELL_PX, shape[1])))
        for top in range(0, shape[0], _CELL_PX) for first in range(0, shape[1], _CELL_PX)
    ]  # fmt: skip
    for _ in range(_MOST_CELLS):
        cell = max(cells, key=lambda each: int(np.count_nonzero(left[each])))
        if not left[cell].any():
            return
        place = windows.grown(cell, _CELL_CONTEXT_PX, shape)
        left[place] = False
        yield place


@dataclass(frozen=True)
class _Trial:
    """A light, the labels that it was found with, how many pixels it explains, also beyond those where it fails."""

    light: Light
    labels: list[FloatArray]
    explained: int
    gained: int
    cost: float


def _common_light(samples: list[ShadowLabels], guesses: list[FloatArray], threads: int) -> Light | None:
    """Return the light that explains most pixels of the samples; None where none explains them well."""

    def begun(guess: FloatArray) -> _Trial | None:
        return _improved(samples, Light(guess), [None] * len(samples))

    def gone_on(trial: _Trial) -> _Trial | None:
        found: _Trial | None = trial
        for _ in range(_ROUNDS):
            found = None if found is None else _improved(samples, found.light, found.labels)
        return found

    def best(trials: Iterable[_Trial | None], number: int) -> list[_Trial]:
        return sorted((t for t in trials if t is not None), key=lambda trial: -trial.gained)[:number]

    found = best(side_by_side(gone_on, best(side_by_side(begun, guesses, threads), _GONE_ON), threads), 1)
    if not found:
        return None

    def softer(px: float) -> _Trial | None:
        return _improved(samples, replace(found[0].light, softness_px=px), found[0].labels)

    last = found[0]
    if last.explained >= _PLAUSIBLE * (2 * last.explained - last.gained) and _is_soft(samples, last):
        soft = [trial for trial in side_by_side(softer, _SOFTNESS_PX, threads) if trial and trial.gained >= 0]
        last = min(soft, key=lambda trial: trial.cost, default=last)
    return last.light if last.explained >= _LEAST_PIXELS and last.gained >= 0 else None


def _is_soft(samples: list[ShadowLabels], trial: _Trial) -> bool:
    """Whether the guide steps by less than the light across the borders of labels, beyond twice the error of that."""
    steps = np.concatenate([s.steps(found, trial.light) for s, found in zip(samples, trial.labels, strict=True)])
    if not steps.size:
        return False
    low, middle, high = np.quantile(steps, [0.25, 0.5, 0.75])
    # Standard error of a median, by the quartiles of a normal distribution.
    error = 1.25 * (high - low) / 1.35 / np.sqrt(steps.size)
    return bool(middle + 2.0 * error < _SHARP_STEP)


def _improved(samples: list[ShadowLabels], light: Light, start: Sequence[FloatArray | None]) -> _Trial | None:
    """Find labels with a light, and a light with these; None where nothing seems to be in shadow."""
    labels = [each.find(light, before, rounds=_ANNEALING) for each, before in zip(samples, start, strict=True)]
    above, below = np.sum([s.products(found, light) for s, found in zip(samples, labels, strict=True)], axis=0)
    if not (below > 0).all():
        return None
    light = replace(light, gain=np.clip(light.gain + above / below, _LEAST_LIGHT, _MOST_LIGHT))
    counts = [_counts(each, found, light) for each, found in zip(samples, labels, strict=True)]
    explained, failing = (sum(int(np.count_nonzero(count[k])) for count in counts) for k in (0, 1))
    cost = sum(each.cost(found, light) for each, found in zip(samples, labels, strict=True))
    return _Trial(light, labels, explained, explained - failing, cost)


def _counts(labels: ShadowLabels, found: FloatArray, light: Light) -> tuple[BoolArray, BoolArray]:
    """Which of the pixels that are looked at a shadow explains, and which it should but does not."""
    before, after = labels.misfit(np.zeros_like(found), light), labels.misfit(found, light)
    touched = labels.coverage(found, light) > _TOUCHED
    return touched & (before > _CONTRADICTED) & (after < _EXPLAINED), touched & (after >= _EXPLAINED)


def _believed(labels: ShadowLabels, light: Light, judged: BoolArray, ratio: int) -> FloatArray:
    """How far pixels lie in those shadows that explain what they touch of (row, col), the same on the fine grid."""
    found = labels.find(light, rounds=_LAST_ANNEALING)
    coarse = np.zeros((3, judged.size), bool)
    coarse[:2, labels.looked] = _counts(labels, found, light)
    coarse[2, labels.looked] = labels.coverage(found, light) > _TOUCHED
    explained, failing, touched = coarse.reshape(3, *judged.shape)
    numbers, count = label(touched, np.ones((3, 3), int))
    good, bad = (np.bincount(numbers[image & judged], minlength=count + 1) for image in (explained, failing))
    kept = (good > 0) & (good >= _LEAST_SHARE * (good + bad)) & (np.arange(count + 1) > 0)
    share = labels.share(found, light) * expand(kept[numbers], ratio)
    return np.where(share > _LEAST_SHADE, share, 0.0)
