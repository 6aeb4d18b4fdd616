"""What probability of change and expected error follow from at low resolution, filtered once for a whole scene."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hsfuse.fusion.change.confidence import BEFORE_IMAGES, ErrorModel, SceneTraits
from hsfuse.fusion.change.evidence import Evidence
from hsfuse.fusion.change.quick_estimate import OF_NOISE
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.gaussian import gaussian
from hsfuse.parallel import threads_for, together

_SOFT_PX = 0.7
_INCONSISTENT_PX = 1.0
_OF_ERROR = 6
"""Images at low resolution that the error follows from."""
_DARK = 1e-3
"""Share of a band's mean below which a pixel counts as no darker."""
_LEAST_RATIO = 1e-9


@dataclass(frozen=True)
class CoarseFeatures:
    """What both regressions follow from at low resolution, filtered once for the whole scene.

    Attributes
    ----------
    images
        Shape (image, row, col): what the HSI shows of the guide's bands, then those of :func:`_of_change` and six for
        the error (roughness, misfit, what is unexplained of the roughness in two widths, how far spectra are unlike
        what their colours say, and how far the quick estimate is from what the HSI shows).
    floors
        Added to the last six before their logarithm is taken, shape (6,).
    bands
        Bands of the guide.
    """

    images: NDArray[np.float32]
    floors: NDArray[np.float32]
    bands: int

    @classmethod
    def of(cls, evidence: Evidence, traits: SceneTraits, shown: NDArray[np.float64]) -> CoarseFeatures:
        """Filter the images of a scene; ``shown`` is the repaired guide as the HSI would see it."""
        contradiction, estimate = evidence.contradiction, traits.estimate
        noise, unexplained = estimate.noise_variance, estimate.unexplained
        misfit = gaussian(contradiction.misfit, _SOFT_PX)
        of_change, rough, *left = together(
            lambda: _of_change(evidence, misfit),
            lambda: gaussian(traits.coarse.roughness, _SOFT_PX),
            lambda: gaussian(unexplained, _SOFT_PX),
            lambda: gaussian(unexplained, 2.0),
            threads=threads_for(2),
        )
        inconsistent = gaussian(estimate.inconsistency(evidence.relation.seen, shown), _INCONSISTENT_PX)
        images = [*evidence.relation.seen, *of_change, rough, misfit, *left, estimate.unlike, inconsistent]
        floors = [noise, 1e-5, *(OF_NOISE * noise for _ in range(_OF_ERROR - 2))]
        stacked = np.stack([np.asarray(each, np.float32) for each in images])
        return cls(stacked, np.array(floors, np.float32), len(evidence.relation.seen))

    def combined(self, model: ErrorModel) -> tuple[CoarseFeatures, ErrorModel]:
        """Return one image for the change in place of all, weighed as a model does, and a model that adds it."""
        weights = model.change[BEFORE_IMAGES:-1].astype(np.float32)
        image = np.tensordot(weights, self.images[self.bands : -_OF_ERROR], axes=1)
        images = np.concatenate([self.images[: self.bands], image[None], self.images[-_OF_ERROR:]])
        change = np.array([*model.change[:BEFORE_IMAGES], 1.0, model.change[-1]])
        return replace(self, images=images), replace(model, change=change)

    def block(self, where: tuple[slice, slice], response: Response) -> tuple[NDArray[np.float32], ...]:
        """Return a block on the fine grid: the guide's bands, images for the change, and logarithms for the error."""
        fine = response.up_single(self.images[:, *where])
        logs = np.log(np.maximum(fine[-_OF_ERROR:], 0.0) + self.floors[:, None, None])
        return fine[: self.bands], fine[self.bands : -_OF_ERROR], logs


def _of_change(evidence: Evidence, misfit: NDArray[np.floating]) -> list[NDArray[np.floating]]:
    """Images that tell which ground is the least unlikely to have changed where no candidates are, each (row, col).

    The logs of the distance from the relation, sharp and smoothed, and of the rivalry; the logs of the rivalry, of the
    misfit, of that before any local correction and of that in units of a pixel's own brightness, each relative to what
    is usual in the scene. The distance takes texture and the brightest ground for the measure of all errors, so it does
    not see one dark water in the place of another; a correction takes foreign ground of some size for a season.
    """
    relation, rivalry = evidence.relation, np.maximum(evidence.contradiction.rivalry, 0.0)
    # All that is measured: without responses, a small scene's relation fits most of what it rests on all but exactly.
    valid = relation.weight > 0.0
    relative = np.zeros(rivalry.shape)
    # Band by band: images of a whole scene are large.
    for seen, blurred in zip(relation.seen, evidence.blurred, strict=True):
        dark = max(_DARK * abs(float(seen[valid].mean())), 1e-12)
        relative += ((blurred - seen) / np.maximum(seen, dark)) ** 2 / len(relation.seen)

    def unusual(square: NDArray[np.floating], floor: float) -> NDArray[np.floating]:
        log = np.log(np.maximum(square, 0.0) + floor)
        return np.asarray(log - np.median(log[valid]))

    return [
        np.log1p(relation.distance), np.log1p(gaussian(relation.distance, _SOFT_PX)), np.log(rivalry + 1e-2),
        unusual(rivalry, 1e-5), unusual(misfit, 1e-7), unusual(gaussian(evidence.first_misfit, _SOFT_PX), 1e-7),
        unusual(gaussian(relative, _SOFT_PX), _LEAST_RATIO),
    ]  # fmt: skip
