"""Scenes to train on, and which parts of them train and which validate."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hsfuse.degrade import Psf
from hsfuse.errors import InputError
from hsfuse.grid import Slice2D
from hsfuse.spectral import BandTable

MIN_PATCH_PX = 12
"""Smallest side of training patches and validation strips, pixels of the reference."""
_SEGMENT_PATCHES = 8
_MAX_SEGMENTS = 4


@dataclass(frozen=True)
class TrainingScene:
    """A scene whose fine truth is known.

    Attributes
    ----------
    name
        For messages and the training record.
    reference
        What the network shall return, shape (band, row, col), reflectance, free of NaN.
    valid
        Pixels that count, shape (row, col).
    msi
        Multispectral image on the same grid, shape (msi band, row, col), free of NaN; None: simulated from the
        reference by ``srf``.
    srf
        Alternatives for the spectral response, each of shape (msi band, band); the first is the nominal one.
    psf
        PSF of the hyperspectral sensor that the reduced HSI gets.
    ranges
        Name of the disturbances that it gets: ``full``, ``moderate``, ``mixed`` or ``measured``.
    bands
        Bands of its own, for tasks that take any; None: those of all scenes.
    """

    name: str
    reference: NDArray[np.float32]
    valid: NDArray[np.bool_]
    msi: NDArray[np.float32] | None
    srf: tuple[NDArray[np.float64], ...]
    psf: Psf
    ranges: Literal["full", "moderate", "mixed", "measured"] = "full"
    bands: BandTable | None = None


@dataclass(frozen=True)
class SceneEntry:
    """A scene that is loaded when it is needed.

    Attributes
    ----------
    name, shape
        Known without loading; shape is (rows, cols) of the reference.
    load
        Returns the scene; must return equal scenes every time.
    role
        ``both``: split into strips; else the whole scene is for one purpose.
    drawn
        Made up rather than measured.
    """

    name: str
    shape: tuple[int, int]
    load: Callable[[], TrainingScene]
    role: Literal["both", "training", "validation"] = "both"
    drawn: bool = False

    @classmethod
    def of(cls, scene: TrainingScene, role: Literal["both", "training", "validation"] = "both") -> SceneEntry:
        """Wrap a scene that is in memory."""
        return cls(scene.name, (scene.valid.shape[0], scene.valid.shape[1]), lambda: scene, role)


@dataclass(frozen=True)
class Regions:
    """Where a scene is used for what; blocks of the reference's grid."""

    training: tuple[Slice2D, ...]
    validation: tuple[Slice2D, ...]


def split_regions(shape: tuple[int, int], *, share: float, gap_px: int, patch_px: int) -> Regions:
    """Split a scene along its longer side into strips for training and validation, with a gap between them.

    Large scenes are cut into several segments, each with its own validation strip, so that validation sees more
    than one corner.

    Parameters
    ----------
    shape
        (rows, cols) of the reference.
    share
        Share of the scene that validates, 0 to below 0.6.
    gap_px
        Width of the strip between the two that is not used at all.
    patch_px
        Side of training patches; smaller scenes are used with smaller patches, down to :data:`MIN_PATCH_PX`.

    Raises
    ------
    InputError
        The scene is too small for both.
    """
    rows, cols = shape
    length, across = max(rows, cols), min(rows, cols)
    if share <= 0.0:
        return Regions((Slice2D(0, rows, 0, cols),), ())
    count = int(np.clip(length // (_SEGMENT_PATCHES * max(patch_px, MIN_PATCH_PX)), 1, _MAX_SEGMENTS))
    edges = [round(i * length / count) for i in range(count + 1)]
    training: list[Slice2D] = []
    validation: list[Slice2D] = []
    needed = 2 * MIN_PATCH_PX + gap_px
    if edges[1] < needed or across < MIN_PATCH_PX:
        raise InputError(
            f"A scene of {rows} x {cols} pixels is too small to train on: training strip, gap and validation strip "
            f"need {needed} x {MIN_PATCH_PX} pixels.",
            hint="Use a larger scene, a smaller --gap, or several scenes.",
        )
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        kept = max(round((stop - start) * share), MIN_PATCH_PX)
        # The next segment's training strip needs its distance, too.
        tail = gap_px if number < count - 1 else 0
        middle = max(stop - tail - kept - gap_px, start + MIN_PATCH_PX)
        training.append(_band(start, middle, rows, cols))
        validation.append(_band(middle + gap_px, stop - tail, rows, cols))
    return Regions(tuple(training), tuple(validation))


def _band(start: int, stop: int, rows: int, cols: int) -> Slice2D:
    return Slice2D(start, stop, 0, cols) if rows >= cols else Slice2D(0, rows, start, stop)
