"""What is counted while a scene is fused."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class FusionStatistics:
    """What the engine counted.

    Attributes
    ----------
    tiles, skipped
        Tiles of the plan, and those left out because no pixel in them is valid.
    valid_pixels, cloud_pixels, total_pixels
        Fine pixels.
    computed_pixels
        Valid fine pixels that this run fused itself: fewer than ``valid_pixels`` after ``--resume``.
    read_pixels
        Fine pixels that the method was given for those: tiles with their context.
    clipped
        Samples outside the physical range among those.
    batch
        Tiles per call at the end (halved after running out of GPU memory).
    """

    tiles: int = 0
    skipped: int = 0
    valid_pixels: int = 0
    cloud_pixels: int = 0
    total_pixels: int = 0
    computed_pixels: int = 0
    read_pixels: int = 0
    clipped: int = 0
    batch: int = 1
