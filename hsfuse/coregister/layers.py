"""A second layer that moved: drift ice, clouds or shadows that both images hold, elsewhere than the ground says.

Where most of the pattern belongs to something that moved between the images, the whole fits at its displacement and
the ground does not. What a field leaves unexplained is then not noise: correlated with the reference once more, it
has a place of its own where it fits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hsfuse.coregister.correlate import joint_ncc
from hsfuse.coregister.global_search import contrast_features
from hsfuse.coregister.refine import Refiner, Warped
from hsfuse.coregister.sampling import Smoother
from hsfuse.coregister.threads import parallel_map, run_both

_SCALE_PX, _AROUND_PX = 4.0, 4.0
_SEARCH_PX = 24
_UNEXPLAINED_BELOW = 0.3
_LEAST_TEXTURE = 0.1
_LEAST_HEIGHT, _LEAST_SCORE, _LEAST_DISTANCE_PX = 0.2, 9.0, 1.9
"""What makes a maximum a layer: correlation, height over the scatter of the surface, distance from the field."""
_RING_PX, _RING_SHARE = (2.4, 3.7), 0.75
_FEWEST_PX = 400
_MAD_TO_SIGMA = 1.4826


@dataclass(frozen=True)
class SecondLayer:
    """Something that both images hold at another displacement than the field says.

    Attributes
    ----------
    row, col
        Its displacement beyond the field in pixels.
    correlation
        Correlation of the pixels that the field does not explain, at that displacement.
    score
        Height of the maximum in standard deviations of the correlation elsewhere.
    share
        Share of the usable pixels that the field does not explain.
    """

    row: int
    col: int
    correlation: float
    score: float
    share: float


def find_second_layer(refiner: Refiner, warped: Warped, allowed: Tensor) -> SecondLayer | None:
    """Correlate what a field leaves unexplained; None when it has no place of its own.

    Parameters
    ----------
    refiner
        Holds the target.
    warped
        The reference at the positions that the field says.
    allowed
        Pixels that may count, shape (row, col): not shadows that are known to lie elsewhere.
    """
    target, channels = refiner.target, int(refiner.target.shape[0])
    mask = (refiner.target_valid & warped.usable).float()
    mine, theirs = run_both(
        lambda: contrast_features(target.clone(), mask, _SCALE_PX),
        lambda: contrast_features(warped.image[:channels].clone(), mask, _SCALE_PX),
    )
    unexplained, share = _unexplained(mine, theirs, mask)
    unexplained.mul_(allowed)
    if float(unexplained.sum()) < _FEWEST_PX:
        return None
    pad = (_SEARCH_PX,) * 4
    surface = joint_ncc(
        mine.mul_(unexplained), unexplained, torch.nn.functional.pad(theirs, pad), torch.nn.functional.pad(mask, pad),
        side_by_side=True,
    )  # fmt: skip
    values = surface.double().cpu().numpy()
    middle = float(np.median(values))
    scatter = _MAD_TO_SIGMA * float(np.median(np.abs(values - middle)))
    rows, cols = np.indices(values.shape) - _SEARCH_PX
    away = np.hypot(rows, cols) >= _LEAST_DISTANCE_PX
    row, col = np.unravel_index(int(np.argmax(np.where(away, values, -np.inf))), values.shape)
    height = float(values[row, col])
    score = (height - middle) / max(scatter, 1e-9)
    if height < _LEAST_HEIGHT or score < _LEAST_SCORE or height < float(values[~away].max()):
        return None
    # A straight shore fits anywhere along itself; what is known of a layer must fit at one place.
    distance = np.hypot(rows + _SEARCH_PX - row, cols + _SEARCH_PX - col)
    if float(values[(distance > _RING_PX[0]) & (distance < _RING_PX[1])].max()) > _RING_SHARE * height:
        return None
    return SecondLayer(int(row) - _SEARCH_PX, int(col) - _SEARCH_PX, height, score, share)


def _unexplained(mine: Tensor, theirs: Tensor, mask: Tensor) -> tuple[Tensor, float]:
    """Pixels with pattern around which the images do not correlate, shape (row, col), and their share."""
    smoother = Smoother(int(mask.shape[0]), int(mask.shape[1]), _AROUND_PX, mask.device)
    total = smoother.total(mask)

    def local(pair: tuple[Tensor, Tensor]) -> Tensor:
        product = (pair[0] * pair[1]).sum(dim=0)
        return smoother.mean(product, mask, total)

    own, other, common = parallel_map(local, ((mine, mine), (theirs, theirs), (mine, theirs)))
    correlation = common / (own * other).clamp(min=1e-9).sqrt()
    seen = mask > 0
    if not bool(seen.any()):
        return torch.zeros_like(mask), 0.0
    found = seen & (correlation < _UNEXPLAINED_BELOW) & (own > _LEAST_TEXTURE * own[seen].median())
    return found.float(), float(found.sum() / seen.sum())
