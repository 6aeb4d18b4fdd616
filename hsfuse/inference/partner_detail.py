"""Ground that the guide does not show as the HSI does: a partner that does lends its detail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from hsfuse.fusion.change.evidence import Evidence
from hsfuse.fusion.change.repair import RepairedGuide
from hsfuse.fusion.change.response import Response
from hsfuse.fusion.temporal.partner import JoinedPartner
from hsfuse.fusion.temporal.replacement import better_partner, detail_of_partner, partner_misfit
from hsfuse.inference.partners import Partnership
from hsfuse.log import get_logger

FloatCube = NDArray[np.float32]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_log = get_logger(__name__)
_STRIP_PX, _CONTEXT_PX = 64, 8
"""HSI rows at a time, and rows around them that blurs and interpolations look at."""
_SOFT_PX = 0.5


def show_partners(
    guide: RepairedGuide, combined: FloatCube, response: Response, partnership: Partnership, seen: int
) -> tuple[RepairedGuide, Partnership]:
    """Give ground that a repaired guide shows by the HSI alone the detail of partners that show it as the HSI does.

    Parameters
    ----------
    guide
        The repaired guide; its images are overwritten.
    combined
        What it was made of, of the same shape, or the same image: stands in where a partner is not clear.
    response
        The HSI's response.
    partnership
        What the partners are.
    seen
        Fine pixels that the guide shows, for shares.
    """
    left = guide.evidence.contradiction.candidates.copy()
    of_guide = partner_misfit(guide.evidence.relation, guide.evidence.blurred)
    records = []
    for record, partner in zip(partnership.records, partnership.joined, strict=True):
        total = 0.0
        if partner is not None and left.any():
            better = better_partner(left, of_guide, _misfit(guide.evidence, combined, response, partner, left))
            left &= ~better
            for core, wide in _strips(len(left)):
                if better[wide].any():
                    total += _lend(guide, combined, response, partner, better, core, wide)
        share = total / max(seen, 1)
        if share > 0.0:
            _log.info("%s shows %.2f %% of the ground in the guide's place.", record.name, 100.0 * share)
        records.append(replace(record, replaced_share=share))
    return guide, replace(partnership, records=tuple(records))


def _misfit(
    evidence: Evidence, combined: FloatCube, response: Response, partner: JoinedPartner, wanted: BoolArray
) -> FloatArray:
    """Misfit of a partner to the HSI in strips that hold a wanted HSI pixel; infinite elsewhere."""
    low = np.full(evidence.blurred.shape, np.nan)
    for core, wide in _strips(len(wanted)):
        if wanted[core].any():
            joined, known = _filled(partner, combined, wide, response.ratio)
            inside = slice(core.start - wide.start, core.stop - wide.start)
            low[:, core] = np.where(known, response.down(joined), np.nan)[:, inside]
    return partner_misfit(evidence.relation, low)


def _lend(
    guide: RepairedGuide, combined: FloatCube, response: Response, partner: JoinedPartner, better: BoolArray,
    core: slice, wide: slice,
) -> float:  # fmt: skip
    """Lend the partner's detail to rows of the repaired guide, in place; return how many pixels got it."""
    ratio = response.ratio
    joined, _ = _filled(partner, combined, wide, ratio)
    plain, detailed = detail_of_partner(joined, guide.evidence.relation.seen[:, wide], response)
    soft = gaussian_filter(better[wide].astype(np.float64), _SOFT_PX, mode="nearest")
    inside = slice((core.start - wide.start) * ratio, (core.stop - wide.start) * ratio)
    place = slice(core.start * ratio, core.stop * ratio)
    belongs = np.clip(response.up(soft[None])[0, inside], 0.0, 1.0).astype(np.float32)
    change, own = guide.change[place], guide.own_detail[place]
    share = change * (1.0 - own) * belongs
    guide.msi[:, place] += share * (detailed - plain)[:, inside]
    own += (1.0 - own) * belongs
    return float(share.sum(dtype=np.float64))


def _filled(partner: JoinedPartner, combined: FloatCube, rows: slice, ratio: int) -> tuple[FloatCube, BoolArray]:
    """Joined rows with the guide in the partner's gaps, and the HSI pixels without any."""
    fine = slice(rows.start * ratio, rows.stop * ratio)
    joined = partner.rows(fine)
    clear = np.isfinite(joined).all(axis=0)
    high, wide = (size // ratio for size in clear.shape)
    known = clear.reshape(high, ratio, wide, ratio).all(axis=(1, 3))
    return np.where(clear, joined, combined[:, fine]), np.asarray(known, np.bool_)


def _strips(height: int) -> list[tuple[slice, slice]]:
    """HSI rows, and the same with context."""
    starts = range(0, height, _STRIP_PX)
    cores = [slice(top, min(top + _STRIP_PX, height)) for top in starts]
    return [(c, slice(max(c.start - _CONTEXT_PX, 0), min(c.stop + _CONTEXT_PX, height))) for c in cores]
