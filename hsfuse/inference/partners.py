"""Further dates of the guide in a scene: read under the scene, combined with the guide before anything looks at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import windows
from hsfuse.errors import InputError
from hsfuse.fusion.base import FusionContext
from hsfuse.fusion.guide_noise import GuideSample, guide_noise
from hsfuse.fusion.temporal.common_noise import Measurement, same_noise
from hsfuse.fusion.temporal.partner import JoinedPartner, combine_partner, displacement_windows, join_partner
from hsfuse.grid import Slice2D
from hsfuse.inference.scene import FusionScene
from hsfuse.inference.scene_survey import Survey
from hsfuse.log import get_logger
from hsfuse.masks import dilate
from hsfuse.readers.base import MultispectralProduct
from hsfuse.spilled import SpilledImages

FloatCube = NDArray[np.float32]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_log = get_logger(__name__)
_TOO_LITTLE = "shows too little of the ground that the guide shows"
_TOO_SMALL = "was not looked at: the scene is too small to measure noise"
_STRIP_PX = 64
"""HSI rows that are read at a time."""


@dataclass(frozen=True)
class PartnerRecord:
    """What became of a partner.

    Attributes
    ----------
    name
        Of the product.
    days_apart
        Days from the hyperspectral image, negative for an earlier date; None: not known.
    used
        Whether it was combined with the guide.
    refused
        Why it was not, completes a sentence that its name begins; empty where it was.
    shown_share
        Share of the guide's pixels that it shows clearly.
    offset_px
        Displacement (row, col) that was taken out, guide pixels.
    noise_left
        Variance of the guide's noise after it, over that before, mean over the guide's pixels.
    replaced_share
        Share of the guide's pixels where it took the guide's place, because the guide shows other ground.
    """

    name: str
    days_apart: float | None
    used: bool
    refused: str = ""
    shown_share: float = 0.0
    offset_px: tuple[float, float] = (0.0, 0.0)
    noise_left: float = 1.0
    replaced_share: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.name, "days_apart": None if self.days_apart is None else round(self.days_apart, 2),
            "used": self.used, "refused": self.refused, "shown_share": round(self.shown_share, 4),
            "offset_px": [round(v, 3) for v in self.offset_px], "noise_left": round(self.noise_left, 4),
            "replaced_share": round(self.replaced_share, 4),
        }  # fmt: skip


@dataclass(frozen=True)
class Partnership:
    """What all partners of a scene did.

    Attributes
    ----------
    records
        One for each partner.
    joined
        Partners as the guide would show them; None where one is of no use.
    noise
        Noise of the guide that came of it, standard deviation, shape (band,); None where no partner was used.
    """

    records: tuple[PartnerRecord, ...]
    joined: tuple[JoinedPartner | None, ...]
    noise: FloatArray | None

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain values for the report."""
        return [record.to_json() for record in self.records]


def combine_partners(scene: FusionScene, context: FusionContext, survey: Survey) -> Partnership:
    """Combine the guide of a survey with the scene's partners, in place.

    Parameters
    ----------
    scene
        With its partners.
    context
        Facts about it.
    survey
        The scene as it was read; its ``msi`` becomes the combined guide.
    """
    usable = ~survey.gaps & survey.seen
    measured = guide_noise([GuideSample.take(survey.msi, usable)])
    names = [product.info.name for product in scene.partners]
    records = [
        PartnerRecord(name, _days(scene, product), used=False)
        for name, product in zip(names, scene.partners, strict=True)
    ]
    if measured is None:
        _log.warning("The scene is too small to measure the noise of the guide: further dates are not used.")
        refused = tuple(replace(record, refused=_TOO_SMALL) for record in records)
        return Partnership(refused, (None,) * len(records), None)
    level, noise = np.ones(usable.shape, np.float32), measured**2
    places = list(displacement_windows(usable.shape))
    # Each is compared with what is in the guide already, each on its own: a mean of dates has the noise of none.
    known = [Measurement("the guide", [_clear_part(survey.msi, usable, *place) for place in places], noise)]
    found: list[JoinedPartner | None] = []
    for number, product in enumerate(scene.partners):
        partner, refused_as = None, _TOO_LITTLE
        try:
            cube = _read_under(scene, product)
        except InputError as error:
            # A damaged date that is not needed costs what it would bring, not the run.
            refused_as = f"is left out: {str(error).rstrip('.')}"
        else:
            pixels = SpilledImages(cube)
            del cube
            partner = join_partner(survey.msi, usable, noise, _rows_of(pixels))
        if partner is not None:
            windows_of = [partner.rows(rows)[:, :, cols] for rows, cols in places]
            shows = Measurement(names[number], windows_of, partner.noise)
            repeated = same_noise(shows, known)
            if repeated is not None:
                partner, refused_as = None, f"repeats the measurement of {repeated.name}, noise and all"
            else:
                known.append(shows)
        found.append(partner)
        if partner is None:
            _log.warning("%s %s; it is not used.", names[number], refused_as)
            records[number] = replace(records[number], refused=refused_as)
            continue
        before = _mean(level, usable)
        combine_partner(survey.msi, usable, level, noise, partner, context.threads)
        left = _mean(level, usable) / before
        records[number] = replace(
            records[number], used=True, shown_share=partner.shown, offset_px=partner.offset_px, noise_left=left
        )
        _log.info("%s: %.0f %% of the variance of the guide's noise is left.", names[number], 100.0 * left)
    used = any(record.used for record in records)
    return Partnership(tuple(records), tuple(found), measured * np.sqrt(_mean(level, usable)) if used else None)


def _clear_part(image: FloatCube, usable: BoolArray, rows: slice, cols: slice) -> FloatCube:
    """Copy a window, NaN where it is not usable."""
    return np.where(usable[rows, cols], image[:, rows, cols], np.float32(np.nan))


def _mean(level: FloatCube, usable: BoolArray) -> float:
    return float(level[usable].mean(dtype=np.float64))


def _rows_of(pixels: SpilledImages) -> Callable[[slice], FloatCube]:
    bands, _, width = pixels.shape
    return lambda rows: pixels.read(Slice2D(rows.start, rows.stop, 0, width), list(range(bands)))


def _read_under(scene: FusionScene, product: MultispectralProduct) -> FloatCube:
    """Pixels of a partner under the scene, shape (band, row, col), NaN where it has none or clouds."""
    place = scene.fine_grid.block_in(product.grid)
    cube = np.full((len(scene.msi.band_names), *place.shape), np.nan, np.float32)
    inside = place.clipped(*product.grid.shape)
    if min(inside.shape) < 1:
        return cube
    step, margin = _STRIP_PX * scene.ratio, scene.cloud_dilate_px
    for row in range(inside.row0, inside.row1, step):
        rows = Slice2D(row, min(row + step, inside.row1), inside.col0, inside.col1)
        found = product.read(rows)
        grown = Slice2D(rows.row0 - margin, rows.row1 + margin, rows.col0 - margin, rows.col1 + margin)
        grown = grown.clipped(*product.grid.shape)
        cloud = product.cloud(grown)
        if cloud is not None:
            top, left = rows.row0 - grown.row0, rows.col0 - grown.col0
            hidden = dilate(cloud, margin)[top : top + rows.shape[0], left : left + rows.shape[1]]
            found[:, hidden] = np.nan
        target = windows.inside(rows.slices, place.slices)
        cube[:, *target] = found
    return cube


def _days(scene: FusionScene, product: MultispectralProduct) -> float | None:
    first, second = scene.hsi.info.start, product.info.start
    return None if first is None or second is None else (second - first).total_seconds() / 86400.0
