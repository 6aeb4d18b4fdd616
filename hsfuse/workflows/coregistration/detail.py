"""A detail of an image before and after co-registration, beside the reference: what a person believes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hsfuse.coregister.channels import pair_plain
from hsfuse.coregister.result import CoregistrationResult
from hsfuse.coregister.warp import Resampler
from hsfuse.grid import Grid, Slice2D
from hsfuse.qa.quicklook import AlignmentView, alignment_view
from hsfuse.readers.base import FloatCube, HyperspectralProduct, MultispectralProduct

_SIDE_PX = 144
"""Side of the detail in pixels of the finer image."""
_FEWEST_PX = 32
_CANDIDATES = 16
_LEAST_VALID = 0.9
_FALSE_COLOUR_NM = (835.0, 665.0, 560.0)
_NEAR_NM = 60.0


def detail_view(
    target: HyperspectralProduct | MultispectralProduct,
    reference: MultispectralProduct,
    result: CoregistrationResult,
) -> AlignmentView | None:
    """Cut out a detail with structure; None without an alignment, or when no detail is valid in both images.

    Parameters
    ----------
    target
        Image that was moved.
    reference
        Image that was right.
    result
        The co-registration.
    """
    if not result.trusted or result.verdict == "off" or result.tie_points.size == 0:
        return None
    bands = _bands_shown(target, reference)
    ratio = max(1, round(target.grid.pixel_m / reference.grid.pixel_m))
    side = min(max(_FEWEST_PX, _SIDE_PX // ratio), *target.grid.shape)
    best: tuple[float, FloatCube, FloatCube, FloatCube, Slice2D] | None = None
    for block in _candidates(result, target.grid, side):
        before, after, shown = _three(target, reference, result, bands, block, ratio)
        least = min(float(np.isfinite(cube).all(axis=0).mean()) for cube in (before, after, shown))
        # Gaps that cannot be avoided should at least be small.
        contrast = _contrast(shown) * least**8
        if least >= _LEAST_VALID and (best is None or contrast > best[0]):
            best = contrast, before, after, shown, block
    if best is None:
        return None
    _, before, after, shown, block = best

    def enlarged(cube: FloatCube) -> FloatCube:
        return np.repeat(np.repeat(cube, ratio, axis=1), ratio, axis=2)

    caption = (
        f"Rows {block.row0}-{block.row1}, columns {block.col0}-{block.col1} of the target;"
        f" pixels of {target.grid.pixel_m / ratio:g} m."
    )
    return alignment_view(shown, enlarged(before), enlarged(after), caption=caption)


def _candidates(result: CoregistrationResult, grid: Grid, side: int) -> list[Slice2D]:
    """Windows around confident tie points, half of each new."""
    points = result.tie_points
    row, col = grid.rowcol(points.x, points.y)
    chosen: list[tuple[int, int]] = []
    for index in np.argsort(-points.confidence, kind="stable"):
        top = int(np.clip(round(float(row[index])) - side // 2, 0, grid.height - side))
        left = int(np.clip(round(float(col[index])) - side // 2, 0, grid.width - side))
        if all(max(abs(top - a), abs(left - b)) >= side // 2 for a, b in chosen):
            chosen.append((top, left))
        if len(chosen) == _CANDIDATES:
            break
    return [Slice2D(top, top + side, left, left + side) for top, left in chosen]


def _three(
    target: HyperspectralProduct | MultispectralProduct,
    reference: MultispectralProduct,
    result: CoregistrationResult,
    bands: tuple[list[int], list[int]],
    block: Slice2D,
    ratio: int,
) -> tuple[FloatCube, FloatCube, FloatCube]:
    """Target before and after on its own pixels, reference on pixels ``ratio`` times finer."""
    mine, theirs = bands
    before = target.read(block, mine)
    moved = Resampler(target.grid, target.grid, result.field)
    source = moved.source_block(block)
    after = np.full(before.shape, np.nan, np.float32)
    if min(source.shape) > 0:
        after = moved.apply(target.read(source, mine), source, block)
    view = target.grid.crop(block).nested(ratio)
    there = Resampler(reference.grid, view)
    source = there.source_block(view.full)
    shown = np.full((len(theirs), *view.shape), np.nan, np.float32)
    if min(source.shape) > 0:
        seen, cloud = reference.read(source, theirs), reference.cloud(source)
        if cloud is not None:
            # A detail under cloud shows nothing, and a cloud in its corner takes all contrast from the rest.
            seen[:, cloud] = np.nan
        shown = there.apply(seen, source, view.full)
    return before, after, shown


def _contrast(image: NDArray[np.float32]) -> float:
    """Mean step between neighbours relative to the spread, over all channels; 0 for a flat or empty image."""
    steps = [np.abs(np.diff(image, axis=axis)) for axis in (1, 2)]
    known = np.isfinite(image)
    if not known.any():
        return 0.0
    mean = sum(float(np.nanmean(step)) if np.isfinite(step).any() else 0.0 for step in steps)
    return mean / max(float(np.mean(np.abs(image[known]))), 1e-9)


def _bands_shown(
    target: HyperspectralProduct | MultispectralProduct, reference: MultispectralProduct
) -> tuple[list[int], list[int]]:
    """Three bands of both images for colours, or one of each for grey, that show about the same light."""
    theirs = _near([r.centre_nm for r in reference.responses or ()])
    if not isinstance(target, HyperspectralProduct):
        mine = _near([r.centre_nm for r in target.responses or ()])
        if mine is None or theirs is None:
            pair = pair_plain(target, reference)
            first = target.band_names.index(pair.target.names[0])
            return [first], [reference.band_names.index(pair.reference.names[0])]
        return mine, theirs
    mine = _near(list(target.bands.centre_nm))
    if mine is None:
        return [int(target.bands.nearest(665.0)[0])], [theirs[1] if theirs else 0]
    if theirs is not None:
        return mine, theirs
    if len(reference.band_names) == 4:
        # Blue, green, red, near infrared: what four bands without metadata are in practice.
        return mine, [3, 2, 1]
    return [mine[1]], [0]


def _near(centre_nm: list[float]) -> list[int] | None:
    """Bands for near infrared, red and green; None when one of them is missing."""
    if not centre_nm:
        return None
    centre = np.asarray(centre_nm)
    found = [int(np.abs(centre - nm).argmin()) for nm in _FALSE_COLOUR_NM]
    near = all(abs(centre[i] - nm) <= _NEAR_NM for i, nm in zip(found, _FALSE_COLOUR_NM, strict=True))
    return found if near and len(set(found)) == 3 else None
